//! The ports that a pod template declares.

use serde::Deserialize;
use serde_json::Value;

use super::objects::DeclaredPort;

/// The protocol of a port without an explicit protocol.
pub const DEFAULT_PROTOCOL: &str = "TCP";
/// Maximum number of ports that are read from one template.
const MAX_PORTS: usize = 100;

/// The relevant part of a container. A template may contain fields that this build does not know.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPorts {
    restart_policy: Option<String>,
    #[serde(default)]
    ports: Vec<PortFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortFields {
    name: Option<String>,
    container_port: i32,
    protocol: Option<String>,
}

/// The ports of a pod spec as the user wrote it, or as the API server stores it. An invalid
/// container declares no ports; the API server refuses it.
pub fn from_json(spec: &Value) -> Vec<DeclaredPort> {
    let containers = |field: &str| {
        let list = spec
            .get(field)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        list.iter()
            .filter_map(|container| ContainerPorts::deserialize(container).ok())
    };
    declared_ports(containers("containers"), containers("initContainers"))
}

/// The ports of containers, then those of sidecars (init containers that keep running). Older
/// clusters do not resolve the port names of sidecars, so these are reached by number.
fn declared_ports(
    containers: impl Iterator<Item = ContainerPorts>,
    init_containers: impl Iterator<Item = ContainerPorts>,
) -> Vec<DeclaredPort> {
    let is_sidecar =
        |container: &ContainerPorts| container.restart_policy.as_deref() == Some("Always");
    let main = containers
        .flat_map(|container| container.ports)
        .map(|port| (port, false));
    let sidecars = init_containers
        .filter(is_sidecar)
        .flat_map(|container| container.ports)
        .map(|port| (port, true));
    let mut all: Vec<DeclaredPort> = Vec::new();
    for (port, of_sidecar) in main.chain(sidecars).take(MAX_PORTS) {
        let protocol = port.protocol.unwrap_or_else(|| DEFAULT_PROTOCOL.to_owned());
        if all
            .iter()
            .any(|other| other.number == port.container_port && other.protocol == protocol)
        {
            continue;
        }
        let name_is_free = !all
            .iter()
            .any(|other| other.name == port.name && other.protocol == protocol);
        let by_name = port.name.is_some() && !of_sidecar && name_is_free;
        all.push(DeclaredPort {
            name: port.name,
            number: port.container_port,
            protocol,
            by_name,
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: &Value) -> Vec<(Option<String>, i32, String, bool)> {
        from_json(spec)
            .into_iter()
            .map(|port| (port.name, port.number, port.protocol, port.by_name))
            .collect()
    }

    #[test]
    fn the_first_port_with_a_name_is_reached_by_name_and_a_sidecar_by_number() {
        let spec = json!({
            "containers": [
                {"name": "app", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}]},
                {"name": "exporter", "ports": [{"name": "http", "containerPort": 9100}, {"containerPort": 8080}]},
            ],
            "initContainers": [
                {"name": "setup", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "admin", "containerPort": 15000}]},
            ],
        });
        assert_eq!(
            read(&spec),
            [
                (Some("http".into()), 8080, "TCP".into(), true),
                (None, 53, "UDP".into(), false),
                (None, 53, "TCP".into(), false),
                (Some("http".into()), 9100, "TCP".into(), false),
                (Some("admin".into()), 15000, "TCP".into(), false),
            ]
        );
    }

    #[test]
    fn an_invalid_template_declares_no_ports() {
        assert!(from_json(&Value::Null).is_empty());
        assert!(from_json(&json!({"containers": [{"ports": "http"}, 7]})).is_empty());
    }
}
