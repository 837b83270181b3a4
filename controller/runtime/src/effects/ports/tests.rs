use serde_json::json;

use super::*;
use crate::cluster_cache::{Identity, Key, container_ports::from_json};

/// Parses `http:8080`, `:9090` or `dns:53/UDP`, in the order of a template.
fn declare(ports: &[&str]) -> Vec<DeclaredPort> {
    let fields = ports.iter().map(|text| {
        let (name, rest) = text.split_once(':').unwrap();
        let (number, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
        let mut port =
            json!({"containerPort": number.parse::<i32>().unwrap(), "protocol": protocol});
        if !name.is_empty() {
            port["name"] = name.into();
        }
        port
    });
    from_json(&json!({"containers": [{"name": "app", "ports": fields.collect::<Vec<_>>()}]}))
}

/// Formats the ports as `name number->target`.
fn show(ports: &[ServicePort]) -> Vec<String> {
    let each = ports.iter().map(|port| {
        let target = match target_of(port) {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name,
        };
        let protocol = Some(protocol_of(port))
            .filter(|protocol| *protocol != "TCP")
            .map(|text| format!("/{text}"));
        format!(
            "{} {}{}->{target}",
            port.name.as_deref().unwrap_or_default(),
            port.port,
            protocol.unwrap_or_default()
        )
    });
    each.collect()
}

struct Case {
    existing: Vec<ServicePort>,
    previous: Vec<DeclaredPort>,
    /// The ports declared by the Rollout's spec, if it has another template.
    upcoming: Option<Vec<DeclaredPort>>,
    routed: BTreeSet<i32>,
}

impl Case {
    /// A Service created for this template, with a route to these ports.
    fn made_for(ports: &[&str], routed: &[i32]) -> Self {
        let new = Self {
            existing: Vec::new(),
            previous: Vec::new(),
            upcoming: None,
            routed: routed.iter().copied().collect(),
        };
        let existing = new.ports_for(ports);
        Self {
            existing,
            previous: declare(ports),
            ..new
        }
    }

    fn ports_for(&self, ports: &[&str]) -> Vec<ServicePort> {
        let declared = declare(ports);
        let inputs = PortInputs {
            existing: &self.existing,
            declared: &declared,
            previous: &self.previous,
            upcoming: self.upcoming.as_deref().unwrap_or(&declared),
            routed: &self.routed,
        };
        let first = service_ports(&inputs);
        let again = service_ports(&PortInputs {
            existing: &first,
            previous: &declared,
            ..inputs
        });
        assert_eq!(first, again, "the result is stable");
        let names: BTreeSet<_> = first.iter().map(|port| port.name.clone()).collect();
        assert_eq!(names.len(), first.len(), "names are unique: {first:?}");
        first
    }

    fn moves_to(&self, ports: &[&str]) -> Vec<String> {
        show(&self.ports_for(ports))
    }
}

/// flagger #279, PR #327: a numeric target ties all versions to one port.
#[test]
fn a_named_container_port_is_reached_by_its_name() {
    let made = Case::made_for(&["http:8080", ":9090"], &[80]);
    assert_eq!(
        show(&made.existing),
        ["http 80->http", "port-9090 9090->9090"]
    );
    assert_eq!(
        made.moves_to(&["http:8081", ":9090"]),
        ["http 80->http", "port-9090 9090->9090"]
    );
    // A Service created by an earlier version of Serin.
    let mut old = made.existing.clone();
    old[0].target_port = Some(IntOrString::Int(8080));
    let upgraded = Case {
        existing: old,
        ..made
    };
    assert_eq!(
        upgraded.moves_to(&["http:8080", ":9090"])[0],
        "http 80->http"
    );
    assert_eq!(
        upgraded.moves_to(&["http:9000", ":9090"])[0],
        "http 80->http",
        "the route needs it"
    );
}

#[test]
fn a_moved_port_without_a_name_is_followed() {
    let made = Case::made_for(&[":8080"], &[8080]);
    assert_eq!(show(&made.existing), ["port-8080 8080->8080"]);
    assert_eq!(made.moves_to(&[":9090"]), ["port-8080 8080->9090"]);
    let two = Case::made_for(&["http:8080", ":9100"], &[8080]);
    assert_eq!(
        two.moves_to(&["http:8081", ":9200"]),
        ["http 8080->http", "port-9100 9100->9200"]
    );
}

/// flagger #1345: ports were lost.
#[test]
fn added_renamed_and_removed_ports_are_applied_and_routed_ports_are_kept() {
    let made = Case::made_for(&["http:8080"], &[80]);
    assert_eq!(
        made.moves_to(&["http:8080", "admin:9000"]),
        ["http 80->http", "admin 9000->admin"]
    );
    assert_eq!(
        made.moves_to(&["web:8080"]),
        ["http 80->web"],
        "renamed: the number is the same"
    );
    assert_eq!(
        made.moves_to(&["web:3000"]),
        ["http 80->web"],
        "renamed and moved: the route needs it"
    );
    let two = Case::made_for(&["http:8080", "metrics:9090"], &[8080]);
    assert_eq!(
        two.moves_to(&["http:8080", "admin:9000"]),
        ["http 8080->http", "admin 9000->admin"]
    );
    assert_eq!(
        two.moves_to(&["http:8080", "admin:9090"]),
        ["http 8080->http", "metrics 9090->admin"]
    );
    // The order in the template does not matter.
    assert_eq!(
        two.moves_to(&["metrics:9090", "http:8080"]),
        ["http 8080->http", "metrics 9090->metrics"]
    );
}

#[test]
fn a_routed_port_exists_before_the_revision_that_declares_it() {
    let mut made = Case::made_for(&["http:8080"], &[8080]);
    made.upcoming = Some(declare(&["http:8080", "admin:9000"]));
    made.routed.insert(9000);
    // The stable revision does not have the port yet.
    let waiting = made.ports_for(&["http:8080"]);
    assert_eq!(show(&waiting), ["http 8080->http", "admin 9000->admin"]);
    made.existing = waiting;
    assert_eq!(
        made.moves_to(&["http:8080", "admin:9000"]),
        ["http 8080->http", "admin 9000->admin"]
    );
    // The route is applied before the template.
    let mut early = Case::made_for(&["http:8080"], &[8080]);
    early.routed.insert(9000);
    early.existing = early.ports_for(&["http:8080"]);
    assert_eq!(
        show(&early.existing),
        ["http 8080->http", "port-9000 9000->http"]
    );
    early.upcoming = Some(declare(&["http:8080", "admin:9000"]));
    assert_eq!(
        early.moves_to(&["http:8080"]),
        ["http 8080->http", "port-9000 9000->admin"]
    );
    assert_eq!(
        early.moves_to(&["http:8080", "admin:9000"]),
        ["http 8080->http", "port-9000 9000->admin"]
    );
    // A route with a number that no container declares.
    let mut moved = Case::made_for(&["http:8080"], &[8080]);
    moved.routed = [80].into();
    assert_eq!(
        moved.moves_to(&["http:8080"]),
        ["http 8080->http", "port-80 80->http"]
    );
}

#[test]
fn one_number_with_two_protocols_gives_two_ports() {
    let made = Case::made_for(&[":53/UDP", ":53", "dns:5353/UDP", "dns:5353"], &[]);
    assert_eq!(
        show(&made.existing),
        [
            "port-53-udp 53/UDP->53",
            "port-53 53->53",
            "dns 5353/UDP->dns",
            "port-5353 5353->dns"
        ]
    );
    let udp_first = Case::made_for(&["dns:53/UDP", "http:8080"], &[80]);
    assert_eq!(
        show(&udp_first.existing),
        ["dns 53/UDP->dns", "http 80->http"],
        "a route speaks TCP"
    );
}

#[test]
fn node_ports_and_user_fields_are_kept() {
    let mut made = Case::made_for(&["http:8080"], &[80]);
    made.existing[0].node_port = Some(30080);
    made.existing[0].app_protocol = Some("kubernetes.io/h2c".into());
    let moved = made.ports_for(&["web:8080", "admin:9000"]);
    assert_eq!(moved[0].node_port, Some(30080));
    assert_eq!(moved[0].app_protocol.as_deref(), Some("kubernetes.io/h2c"));
}

#[test]
fn without_declared_ports_the_route_determines_the_ports() {
    let made = Case::made_for(&[], &[80, 81]);
    assert_eq!(show(&made.existing), ["port-80 80->80", "port-81 81->81"]);
    assert_eq!(
        made.moves_to(&["http:8080"]),
        ["port-80 80->http", "port-81 81->http"]
    );
    let declared = Case::made_for(&["http:8080"], &[80]);
    assert_eq!(declared.moves_to(&[]), ["http 80->http"]);
    assert!(Case::made_for(&[], &[]).existing.is_empty());
}

#[test]
fn a_port_gets_a_name_when_a_second_port_is_added() {
    let mut made = Case::made_for(&[], &[80]);
    made.existing[0].name = None;
    assert_eq!(
        made.moves_to(&["http:80", "admin:81"]),
        ["port-80 80->http", "admin 81->admin"]
    );
}

#[test]
fn an_unreachable_port_is_reported_with_the_fix() {
    let service = |target: IntOrString| {
        vec![ServicePort {
            port: 80,
            target_port: Some(target),
            ..ServicePort::default()
        }]
    };
    let by_name = service(IntOrString::String("http".into()));
    let by_number = service(IntOrString::Int(8080));
    let (v1, v2) = (declare(&["http:8080"]), declare(&["web:9090"]));
    let routed = BTreeSet::from([80]);
    assert_eq!(unreachable_port(&by_name, &v1, &[], &routed), None);
    assert_eq!(
        unreachable_port(&by_name, &declare(&["http:9090"]), &v1, &routed),
        None
    );
    let problem = unreachable_port(&by_name, &v2, &v1, &routed).unwrap();
    assert!(
        problem.contains("`http`") && problem.contains("it declares web 9090"),
        "{problem}"
    );
    let problem = unreachable_port(&by_number, &v2, &v1, &routed).unwrap();
    assert!(
        problem.contains("container port 8080 by number"),
        "{problem}"
    );
    // A container may listen on ports that it does not declare.
    assert_eq!(unreachable_port(&by_number, &v2, &[], &routed), None);
    assert_eq!(unreachable_port(&by_number, &[], &v1, &routed), None);
    // A port without a route does not block.
    assert_eq!(
        unreachable_port(&by_name, &v2, &v1, &BTreeSet::from([443])),
        None
    );
}

#[test]
fn routed_ports_are_read_from_backends_in_the_same_namespace() {
    let object = json!({"metadata": {"namespace": "shop"}, "spec": {"rules": [
        {"backendRefs": [{"name": "other", "port": 1}, {"name": "shop", "port": 80}, {"name": "shop-canary", "port": 81}]},
        {"backendRefs": [{"name": "shop", "port": 9090, "namespace": "shop"}, {"name": "shop", "port": 2, "namespace": "elsewhere"}]},
        {"backendRefs": [{"name": "shop", "port": 3, "kind": "Bucket", "group": "example.com"}]},
        {},
    ]}});
    let identity = Identity {
        key: Key::new("shop", "shop"),
        ..Identity::default()
    };
    let route = CachedRoute {
        identity,
        generation: 1,
        object,
        backends: Vec::new(),
        other_writer: None,
    };
    let routes = || [(RouteKind::HttpRoute, &route)].into_iter();
    assert_eq!(
        routed_ports(routes(), &["shop", "shop-canary"]),
        [80, 81, 9090].into()
    );
    assert!(routed_ports(routes(), &["none"]).is_empty());
}

#[test]
fn ports_are_compared_as_the_api_server_stores_them() {
    let written = ServicePort {
        port: 80,
        ..ServicePort::default()
    };
    let stored = ServicePort {
        port: 80,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::Int(80)),
        ..ServicePort::default()
    };
    assert!(same_ports(std::slice::from_ref(&written), &[stored]));
    assert!(!same_ports(
        std::slice::from_ref(&written),
        &[ServicePort {
            app_protocol: Some("https".into()),
            ..written.clone()
        }]
    ));
    assert!(!same_ports(std::slice::from_ref(&written), &[]));
}
