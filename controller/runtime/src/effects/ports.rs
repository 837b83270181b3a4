//! The ports of a Service created by Serin, for the revision that it selects.
//!
//! The name and number of a port never change once it exists, because routes, clients and
//! EndpointSlices refer to them. Only the target changes, always in the same write as the selector.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serin_core::plan::RouteKind;
use serin_traffic::router_of;

use crate::cluster_cache::CachedRoute;
use crate::cluster_cache::DeclaredPort;
use crate::cluster_cache::container_ports::DEFAULT_PROTOCOL;

/// The inputs of [`service_ports`].
#[derive(Clone, Copy)]
pub(super) struct PortInputs<'a> {
    /// The existing ports. Their names and numbers are kept.
    pub existing: &'a [ServicePort],
    /// The ports declared by the selected revision. Empty if unknown.
    pub declared: &'a [DeclaredPort],
    /// The ports declared by the revision for which `existing` was written.
    pub previous: &'a [DeclaredPort],
    /// The ports declared by the Rollout's spec.
    pub upcoming: &'a [DeclaredPort],
    /// The port numbers that the routes use to reach the two Services.
    pub routed: &'a BTreeSet<i32>,
}

/// The ports that the Service must have. The function is idempotent.
pub(super) fn service_ports(inputs: &PortInputs<'_>) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    let mut reached = BTreeSet::new();
    let existing: Vec<ServicePort> = inputs
        .existing
        .iter()
        .map(|port| resolve_alias(inputs, port))
        .collect();
    let mut unresolved = Vec::new();
    for port in &existing {
        match find_target(inputs.declared, port) {
            Some(index) => {
                reached.insert(index);
                ports.push(with_target(port, &inputs.declared[index]));
            }
            // Without declared ports, the target cannot be checked.
            None if inputs.declared.is_empty() => ports.push(port.clone()),
            None => {
                unresolved.push((ports.len(), port));
                ports.push(port.clone());
            }
        }
    }
    let mut dropped = BTreeSet::new();
    for (place, port) in unresolved {
        match replacement(inputs, port, &reached) {
            Replacement::Container(index) => {
                reached.insert(index);
                ports[place] = with_target(port, &inputs.declared[index]);
            }
            Replacement::Keep => {}
            Replacement::Drop => drop(dropped.insert(place)),
        }
    }
    let mut place = 0..;
    ports.retain(|_| place.next().is_none_or(|place| !dropped.contains(&place)));
    for (index, container) in inputs.declared.iter().enumerate() {
        if !reached.contains(&index) && is_free(&ports, container.number, &container.protocol) {
            let name = free_name(&ports, container);
            ports.push(new_port(name, container.number, container));
        }
    }
    add_routed(inputs, &mut ports);
    assign_missing_names(&mut ports);
    ports
}

/// Resolves a port that was added because a route uses its number. It targets the first container
/// port until a container declares that number, because the route may be applied shortly before the
/// template.
fn resolve_alias(inputs: &PortInputs<'_>, port: &ServicePort) -> ServicePort {
    let is_alias = port.name.as_deref() == Some(alias_name(port.port).as_str())
        && protocol_of(port) == DEFAULT_PROTOCOL;
    let mut containers = inputs.declared.iter().chain(inputs.upcoming);
    let own = containers
        .find(|container| container.number == port.port && container.protocol == DEFAULT_PROTOCOL);
    let Some(own) = own.filter(|_| is_alias) else {
        return port.clone();
    };
    let pointed = with_target(port, own);
    let is_reached = inputs.existing.iter().any(|other| {
        let is_other = other.port != port.port || protocol_of(other) != DEFAULT_PROTOCOL;
        is_other
            && find_target(inputs.declared, other)
                .is_some_and(|index| inputs.declared[index] == *own)
    });
    if is_reached { port.clone() } else { pointed }
}

/// The name of a port that exists because a route uses its number.
fn alias_name(number: i32) -> String {
    format!("port-{number}")
}

enum Replacement {
    Container(usize),
    Keep,
    Drop,
}

/// What to do with a port whose target the selected revision does not declare.
fn replacement(
    inputs: &PortInputs<'_>,
    port: &ServicePort,
    reached: &BTreeSet<usize>,
) -> Replacement {
    let protocol = protocol_of(port);
    let unreached = || {
        let all = inputs.declared.iter().enumerate();
        all.filter(|(index, container)| !reached.contains(index) && container.protocol == protocol)
    };
    let number_before = match target_of(port) {
        IntOrString::Int(number) => number,
        IntOrString::String(_) => {
            find_target(inputs.previous, port).map_or(port.port, |i| inputs.previous[i].number)
        }
    };
    // The port was renamed: the number is the same.
    if let Some((index, _)) = unreached().find(|(_, container)| container.number == number_before) {
        return Replacement::Container(index);
    }
    // The port was moved: neither port has a name.
    let is_numeric = matches!(target_of(port), IntOrString::Int(_));
    let nameless = |(_, container): &(usize, &DeclaredPort)| container.name.is_none();
    if let Some((index, _)) = unreached().find(nameless).filter(|_| is_numeric) {
        return Replacement::Container(index);
    }
    if !inputs.routed.contains(&port.port) {
        return Replacement::Drop;
    }
    // The revision of the spec declares it.
    if find_target(inputs.upcoming, port).is_some() {
        return Replacement::Keep;
    }
    // A route needs the port. It targets the first port, as in a new Service.
    let first = unreached().map(|(index, _)| index).next();
    let any = || {
        inputs
            .declared
            .iter()
            .position(|container| container.protocol == protocol)
    };
    first
        .or_else(any)
        .map_or(Replacement::Keep, Replacement::Container)
}

/// Adds the ports that routes use and the Service lacks.
fn add_routed(inputs: &PortInputs<'_>, ports: &mut Vec<ServicePort>) {
    for number in inputs.routed {
        if !is_free(ports, *number, DEFAULT_PROTOCOL) {
            continue;
        }
        let of_number = |container: &&DeclaredPort| {
            container.number == *number && container.protocol == DEFAULT_PROTOCOL
        };
        if let Some(container) = inputs.upcoming.iter().find(of_number) {
            let name = free_name(ports, container);
            ports.push(new_port(name, *number, container));
            continue;
        }
        let is_unrouted = |port: &ServicePort| !inputs.routed.contains(&port.port);
        let first = ports
            .iter()
            .position(|port| protocol_of(port) == DEFAULT_PROTOCOL);
        match first.filter(|_| !inputs.declared.is_empty()) {
            // In a new Service, nothing depends on the number of the first port yet.
            Some(first) if inputs.existing.is_empty() && is_unrouted(&ports[first]) => {
                ports[first].port = *number;
            }
            Some(first) => {
                let target = ports[first].target_port.clone();
                let name = unique_name(ports, alias_name(*number));
                ports.push(ServicePort {
                    target_port: target,
                    ..bare_port(name, *number)
                });
            }
            None => {
                let name = unique_name(ports, alias_name(*number));
                ports.push(bare_port(name, *number));
            }
        }
    }
}

/// The API requires names if there is more than one port.
fn assign_missing_names(ports: &mut [ServicePort]) {
    if ports.len() < 2 {
        return;
    }
    for index in 0..ports.len() {
        if ports[index].name.as_deref().unwrap_or_default().is_empty() {
            let name = unique_name(ports, format!("port-{}", ports[index].port));
            ports[index].name = Some(name);
        }
    }
}

fn bare_port(name: String, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name),
        port: number,
        protocol: Some(DEFAULT_PROTOCOL.to_owned()),
        target_port: Some(IntOrString::Int(number)),
        ..ServicePort::default()
    }
}

fn new_port(name: String, number: i32, container: &DeclaredPort) -> ServicePort {
    let port = ServicePort {
        name: Some(name),
        port: number,
        ..ServicePort::default()
    };
    with_target(&port, container)
}

/// The port with this container port as its target. The target is a name if possible, so that it is
/// valid for pods of any revision.
fn with_target(port: &ServicePort, container: &DeclaredPort) -> ServicePort {
    let by_name = container
        .name
        .clone()
        .filter(|_| container.by_name)
        .map(IntOrString::String);
    ServicePort {
        target_port: Some(by_name.unwrap_or(IntOrString::Int(container.number))),
        protocol: Some(container.protocol.clone()),
        ..port.clone()
    }
}

fn protocol_of(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or(DEFAULT_PROTOCOL)
}

/// The target of a port. Defaults to its own number.
pub(super) fn target_of(port: &ServicePort) -> IntOrString {
    port.target_port
        .clone()
        .unwrap_or(IntOrString::Int(port.port))
}

/// The index of the container port that is the target of a Service port.
pub(super) fn find_target(declared: &[DeclaredPort], port: &ServicePort) -> Option<usize> {
    let protocol = protocol_of(port);
    let target = target_of(port);
    declared.iter().position(|container| {
        let same = match &target {
            IntOrString::Int(number) => container.number == *number,
            IntOrString::String(name) => container.name.as_ref() == Some(name),
        };
        same && container.protocol == protocol
    })
}

fn is_free(ports: &[ServicePort], number: i32, protocol: &str) -> bool {
    !ports
        .iter()
        .any(|port| port.port == number && protocol_of(port) == protocol)
}

fn free_name(ports: &[ServicePort], container: &DeclaredPort) -> String {
    let is_taken = |name: &String| ports.iter().any(|port| port.name.as_ref() == Some(name));
    let own = container.name.clone().filter(|name| !is_taken(name));
    own.unwrap_or_else(|| {
        let suffix = match container.protocol.as_str() {
            DEFAULT_PROTOCOL => String::new(),
            other => format!("-{}", other.to_ascii_lowercase()),
        };
        unique_name(ports, format!("port-{}{suffix}", container.number))
    })
}

fn unique_name(ports: &[ServicePort], name: String) -> String {
    let is_taken = |name: &String| ports.iter().any(|port| port.name.as_ref() == Some(name));
    let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
    // There are more numbers than ports.
    std::iter::once(name.clone())
        .chain(numbered)
        .find(|name| !is_taken(name))
        .unwrap_or(name)
}

/// The numbers of the ports that routes use to reach these Services in the namespace of the routes.
pub(super) fn routed_ports<'a>(
    routes: impl Iterator<Item = (RouteKind, &'a CachedRoute)>,
    services: &[&str],
) -> BTreeSet<i32> {
    let mut numbers = BTreeSet::new();
    for (kind, route) in routes {
        let rules = router_of(kind).rules(&route.object).unwrap_or_default();
        let backends = rules.iter().flat_map(|rule| &rule.backends);
        let ours = backends.filter(|backend| {
            backend.namespace == route.identity.key.namespace
                && services.contains(&backend.service.as_str())
        });
        numbers.extend(ours.filter_map(|backend| i32::try_from(backend.port?).ok()));
    }
    numbers
}

/// Why pods of a revision cannot be reached through the ports of a user's Service. `None` if no
/// problem is known.
///
/// `before` contains the ports declared by the revision that the Service currently selects.
pub(super) fn unreachable_port(
    ports: &[ServicePort],
    declared: &[DeclaredPort],
    before: &[DeclaredPort],
    routed: &BTreeSet<i32>,
) -> Option<String> {
    let counts = |port: &&ServicePort| routed.is_empty() || routed.contains(&port.port);
    let declared_ports = || describe_declared(declared);
    ports.iter().filter(counts).filter(|port| find_target(declared, port).is_none()).find_map(|port| {
        match target_of(port) {
            IntOrString::String(name) => Some(format!(
                "port {} targets the container port named `{name}`, which the template does not \
                 declare ({}): name the port `{name}` in spec.template, or change the Service's \
                 targetPort",
                port.port,
                declared_ports()
            )),
            // A container may listen on undeclared ports. A port that was declared before has
            // moved.
            IntOrString::Int(number) if !declared.is_empty() && find_target(before, port).is_some() => Some(format!(
                "port {} targets container port {number} by number, but the template has moved it \
                 ({}): give the container port a name and set the Service's targetPort to that \
                 name, so that both versions can be reached",
                port.port,
                declared_ports()
            )),
            IntOrString::Int(_) => None,
        }
    })
}

fn describe_declared(declared: &[DeclaredPort]) -> String {
    if declared.is_empty() {
        return "it declares no ports".to_owned();
    }
    let each = declared.iter().map(|port| match &port.name {
        Some(name) => format!("{name} {}", port.number),
        None => port.number.to_string(),
    });
    format!("it declares {}", each.collect::<Vec<_>>().join(", "))
}

/// The ports for a copy of a Service. A node port belongs to only one Service.
pub(super) fn without_node_ports(ports: &[ServicePort]) -> Vec<ServicePort> {
    ports
        .iter()
        .map(|port| ServicePort {
            node_port: None,
            ..port.clone()
        })
        .collect()
}

/// The ports, each with the node port that it has in `now`.
pub(super) fn with_node_ports_of(ports: &[ServicePort], now: &[ServicePort]) -> Vec<ServicePort> {
    let node_port = |port: &ServicePort| {
        let same = now
            .iter()
            .find(|other| other.port == port.port && protocol_of(other) == protocol_of(port));
        same.and_then(|other| other.node_port)
    };
    ports
        .iter()
        .map(|port| ServicePort {
            node_port: port.node_port.or(node_port(port)),
            ..port.clone()
        })
        .collect()
}

/// The ports of `own`, plus the ports of `other` that it lacks.
pub(super) fn merge_ports(own: &[ServicePort], other: &[ServicePort]) -> Vec<ServicePort> {
    let mut ports = own.to_vec();
    for port in without_node_ports(other) {
        if is_free(&ports, port.port, protocol_of(&port)) {
            let name = port.name.clone().map(|name| unique_name(&ports, name));
            ports.push(ServicePort { name, ..port });
        }
    }
    ports
}

/// Whether the API server would store both lists as equal.
pub(super) fn same_ports(one: &[ServicePort], other: &[ServicePort]) -> bool {
    let key = |port: &ServicePort| {
        let ServicePort {
            name,
            port: number,
            node_port,
            app_protocol,
            ..
        } = port.clone();
        let name = name.filter(|name| !name.is_empty());
        let target = match target_of(port) {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name,
        };
        (
            (number, protocol_of(port).to_owned()),
            (
                name,
                node_port.filter(|port| *port != 0),
                app_protocol,
                target,
            ),
        )
    };
    let map = |ports: &[ServicePort]| ports.iter().map(key).collect::<BTreeMap<_, _>>();
    one.len() == other.len() && map(one) == map(other)
}

#[cfg(test)]
mod tests;
