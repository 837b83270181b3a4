//! The ports of a Service that Serin made, for the revision that it selects.
//!
//! A port's name and number never change once they exist: routes, clients and EndpointSlices refer
//! to them. Only the target changes, and always in the same write as the selector.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::world::ContainerPortFact;
use crate::world::RouteFact;
use crate::world::ports::DEFAULT_PROTOCOL;

/// What the ports of a Service depend on.
#[derive(Clone, Copy)]
pub(super) struct PortInputs<'a> {
    /// The ports that exist already: their names and numbers stay.
    pub existing: &'a [ServicePort],
    /// What the selected revision's containers declare; empty if that is unknown or nothing.
    pub declared: &'a [ContainerPortFact],
    /// What the containers of the revision declare that `existing` was written for.
    pub previous: &'a [ContainerPortFact],
    /// What the containers in the Rollout's spec declare.
    pub upcoming: &'a [ContainerPortFact],
    /// The port numbers by which the routes reach the two Services.
    pub routed: &'a BTreeSet<i32>,
}

/// The ports that the Service must have. Applying the function to its own result changes nothing.
pub(super) fn service_ports(inputs: &PortInputs<'_>) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    let mut reached = BTreeSet::new();
    let existing: Vec<ServicePort> = inputs
        .existing
        .iter()
        .map(|port| without_alias(inputs, port))
        .collect();
    let mut unresolved = Vec::new();
    for port in &existing {
        match position_of(inputs.declared, port) {
            Some(index) => {
                reached.insert(index);
                ports.push(pointed_to(port, &inputs.declared[index]));
            }
            // Nothing is declared, so nothing can be said about the target.
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
                ports[place] = pointed_to(port, &inputs.declared[index]);
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
    name_all(&mut ports);
    ports
}

/// A port that was added because a route named its number leads to the first container port only
/// until a container declares that number itself: the route may be applied a moment before the
/// template.
fn without_alias(inputs: &PortInputs<'_>, port: &ServicePort) -> ServicePort {
    let is_alias = port.name.as_deref() == Some(alias(port.port).as_str())
        && protocol_of(port) == DEFAULT_PROTOCOL;
    let mut containers = inputs.declared.iter().chain(inputs.upcoming);
    let own = containers
        .find(|container| container.number == port.port && container.protocol == DEFAULT_PROTOCOL);
    let Some(own) = own.filter(|_| is_alias) else {
        return port.clone();
    };
    let pointed = pointed_to(port, own);
    let is_reached = inputs.existing.iter().any(|other| {
        let is_other = other.port != port.port || protocol_of(other) != DEFAULT_PROTOCOL;
        is_other
            && position_of(inputs.declared, other)
                .is_some_and(|index| inputs.declared[index] == *own)
    });
    if is_reached { port.clone() } else { pointed }
}

/// The name of a port that exists because a route names its number.
fn alias(number: i32) -> String {
    format!("port-{number}")
}

enum Replacement {
    Container(usize),
    Keep,
    Drop,
}

/// What becomes of a port whose target the selected revision does not declare.
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
            position_of(inputs.previous, port).map_or(port.port, |i| inputs.previous[i].number)
        }
    };
    // Renamed: the number is the same.
    if let Some((index, _)) = unreached().find(|(_, container)| container.number == number_before) {
        return Replacement::Container(index);
    }
    // Moved: neither has a name to go by.
    let is_numeric = matches!(target_of(port), IntOrString::Int(_));
    let nameless = |(_, container): &(usize, &ContainerPortFact)| container.name.is_none();
    if let Some((index, _)) = unreached().find(nameless).filter(|_| is_numeric) {
        return Replacement::Container(index);
    }
    if !inputs.routed.contains(&port.port) {
        return Replacement::Drop;
    }
    // The revision that the spec asks for brings it.
    if position_of(inputs.upcoming, port).is_some() {
        return Replacement::Keep;
    }
    // A route needs it: it leads to the first port, as in a new Service.
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

/// Adds what the routes name and the Service does not have.
fn add_routed(inputs: &PortInputs<'_>, ports: &mut Vec<ServicePort>) {
    for number in inputs.routed {
        if !is_free(ports, *number, DEFAULT_PROTOCOL) {
            continue;
        }
        let of_number = |container: &&ContainerPortFact| {
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
            // In a new Service nobody relies on the first port's number yet.
            Some(first) if inputs.existing.is_empty() && is_unrouted(&ports[first]) => {
                ports[first].port = *number
            }
            Some(first) => {
                let target = ports[first].target_port.clone();
                let name = unique(ports, alias(*number));
                ports.push(ServicePort {
                    target_port: target,
                    ..bare_port(name, *number)
                });
            }
            None => {
                let name = unique(ports, alias(*number));
                ports.push(bare_port(name, *number));
            }
        }
    }
}

/// Several ports must all have names.
fn name_all(ports: &mut [ServicePort]) {
    if ports.len() < 2 {
        return;
    }
    for index in 0..ports.len() {
        if ports[index].name.as_deref().unwrap_or_default().is_empty() {
            let name = unique(ports, format!("port-{}", ports[index].port));
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

fn new_port(name: String, number: i32, container: &ContainerPortFact) -> ServicePort {
    let port = ServicePort {
        name: Some(name),
        port: number,
        ..ServicePort::default()
    };
    pointed_to(&port, container)
}

/// The same port with this container port as its target: by name if possible, so that it is right
/// for pods of any revision.
fn pointed_to(port: &ServicePort, container: &ContainerPortFact) -> ServicePort {
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

/// A port without a target has its own number as its target.
pub(super) fn target_of(port: &ServicePort) -> IntOrString {
    port.target_port
        .clone()
        .unwrap_or(IntOrString::Int(port.port))
}

/// Which container port is the target of a Service's port.
pub(super) fn position_of(declared: &[ContainerPortFact], port: &ServicePort) -> Option<usize> {
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

fn free_name(ports: &[ServicePort], container: &ContainerPortFact) -> String {
    let is_taken = |name: &String| ports.iter().any(|port| port.name.as_ref() == Some(name));
    let own = container.name.clone().filter(|name| !is_taken(name));
    own.unwrap_or_else(|| {
        let suffix = match container.protocol.as_str() {
            DEFAULT_PROTOCOL => String::new(),
            other => format!("-{}", other.to_ascii_lowercase()),
        };
        unique(ports, format!("port-{}{suffix}", container.number))
    })
}

fn unique(ports: &[ServicePort], name: String) -> String {
    let is_taken = |name: &String| ports.iter().any(|port| port.name.as_ref() == Some(name));
    let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
    // There are more numbers than ports.
    std::iter::once(name.clone())
        .chain(numbered)
        .find(|name| !is_taken(name))
        .unwrap_or(name)
}

/// The numbers by which routes reach these Services of their own namespace.
pub(super) fn routed_ports<'a>(
    routes: impl Iterator<Item = &'a RouteFact>,
    services: &[&str],
) -> BTreeSet<i32> {
    let mut numbers = BTreeSet::new();
    for route in routes {
        let namespace = route.identity.key.namespace.as_str();
        let rules = route
            .object
            .pointer("/spec/rules")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let backends = rules
            .iter()
            .filter_map(|rule| rule.get("backendRefs")?.as_array())
            .flatten();
        let text = |backend: &'a Value, field: &str| {
            backend
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let ours = backends.filter(|backend| {
            let kind = text(backend, "kind");
            let of = text(backend, "namespace");
            services.contains(&text(backend, "name"))
                && text(backend, "group").is_empty()
                && (kind.is_empty() || kind == "Service")
                && (of.is_empty() || of == namespace)
        });
        numbers
            .extend(ours.filter_map(|backend| i32::try_from(backend.get("port")?.as_i64()?).ok()));
    }
    numbers
}

/// Why pods of a revision cannot serve what a Service of the user sends them; `None` if they can,
/// as far as can be known.
///
/// `before` is what the containers declare that the Service sends requests to today.
pub(super) fn unreachable_port(
    ports: &[ServicePort],
    declared: &[ContainerPortFact],
    before: &[ContainerPortFact],
    routed: &BTreeSet<i32>,
) -> Option<String> {
    let counts = |port: &&ServicePort| routed.is_empty() || routed.contains(&port.port);
    let known = || list(declared);
    ports.iter().filter(counts).filter(|port| position_of(declared, port).is_none()).find_map(|port| {
        match target_of(port) {
            IntOrString::String(name) => Some(format!(
                "port {} leads to the container port named `{name}`, and the template has none of that name ({}): name \
                 the port `{name}` in spec.template, or change the Service's targetPort",
                port.port,
                known()
            )),
            // A container may listen on a port that it does not declare; one that was declared
            // before has moved.
            IntOrString::Int(number) if !declared.is_empty() && position_of(before, port).is_some() => Some(format!(
                "port {} leads to container port {number} by its number, and the template has moved it ({}): give the \
                 container port a name and write that name as the Service's targetPort, so that both versions can be \
                 reached",
                port.port,
                known()
            )),
            IntOrString::Int(_) => None,
        }
    })
}

fn list(declared: &[ContainerPortFact]) -> String {
    if declared.is_empty() {
        return "it declares no ports".to_owned();
    }
    let each = declared.iter().map(|port| match &port.name {
        Some(name) => format!("{name} {}", port.number),
        None => port.number.to_string(),
    });
    format!("it declares {}", each.collect::<Vec<_>>().join(", "))
}

/// The ports of a Service as another one can have them: a node port belongs to one Service alone.
pub(super) fn without_node_ports(ports: &[ServicePort]) -> Vec<ServicePort> {
    ports
        .iter()
        .map(|port| ServicePort {
            node_port: None,
            ..port.clone()
        })
        .collect()
}

/// The same ports, each with the node port that it has in `now`.
pub(super) fn with_node_ports_of(ports: &[ServicePort], now: &[ServicePort]) -> Vec<ServicePort> {
    let node_port = |port: &ServicePort| {
        let same = now
            .iter()
            .find(|known| known.port == port.port && protocol_of(known) == protocol_of(port));
        same.and_then(|known| known.node_port)
    };
    ports
        .iter()
        .map(|port| ServicePort {
            node_port: port.node_port.or(node_port(port)),
            ..port.clone()
        })
        .collect()
}

/// The ports of `own`, with the node ports that it was given, and those of `other` that it lacks.
pub(super) fn joined(own: &[ServicePort], other: &[ServicePort]) -> Vec<ServicePort> {
    let mut ports = own.to_vec();
    for port in without_node_ports(other) {
        if is_free(&ports, port.port, protocol_of(&port)) {
            let name = port.name.clone().map(|name| unique(&ports, name));
            ports.push(ServicePort { name, ..port });
        }
    }
    ports
}

/// Two lists of ports that the API server stores alike.
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
