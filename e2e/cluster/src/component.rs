//! The components of the cluster: command lines, addresses and health endpoints.

use std::fmt;

use crate::config::{path_text, ports};
use crate::instance::Network;
use crate::paths::Paths;
use crate::pki::NODE_NAME;
use crate::tools::Programs;

/// A component of the cluster, in start order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// The data store of the API server.
    Etcd,
    /// The container runtime.
    Containerd,
    /// The metrics store that analysis queries.
    Prometheus,
    /// The Kubernetes API.
    ApiServer,
    /// Deployments, ReplicaSets, endpoints, garbage collection and other controllers.
    ControllerManager,
    /// Assigns pods to the node.
    Scheduler,
    /// Runs pods.
    Kubelet,
    /// Implements Service addresses with nftables.
    Proxy,
    /// The gateway.
    Traefik,
}

impl Component {
    /// All components in start order.
    pub const ALL: [Self; 9] = [
        Self::Etcd,
        Self::Containerd,
        Self::Prometheus,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubelet,
        Self::Proxy,
        Self::Traefik,
    ];

    /// The name of the program, which is also the name of its control group and log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Containerd => "containerd",
            Self::Prometheus => "prometheus",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
            Self::Traefik => "traefik",
        }
    }

    /// Its address, if it is reachable from outside the node.
    pub fn address(self, network: Network) -> Option<String> {
        let port = match self {
            Self::ApiServer => return Some(crate::config::api_server(network)),
            Self::Prometheus => ports::PROMETHEUS,
            Self::Traefik => ports::GATEWAY,
            _ => return None,
        };
        Some(http(network, port))
    }

    /// The base URL and path of the health endpoint. `None` for containerd, which is checked with
    /// its own client.
    pub(crate) fn health(self, network: Network) -> Option<(String, &'static str)> {
        let https = |port: u16| format!("https://{}:{port}", network.node());
        Some(match self {
            Self::Etcd => (http(network, ports::ETCD_METRICS), "/health"),
            Self::Containerd => return None,
            Self::Prometheus => (http(network, ports::PROMETHEUS), "/-/ready"),
            Self::ApiServer => (https(ports::API_SERVER), "/readyz"),
            Self::ControllerManager => (https(ports::CONTROLLER_MANAGER), "/healthz"),
            Self::Scheduler => (https(ports::SCHEDULER), "/healthz"),
            Self::Kubelet => (http(network, ports::KUBELET_HEALTH), "/healthz"),
            Self::Proxy => (http(network, ports::PROXY_HEALTH), "/healthz"),
            Self::Traefik => (http(network, ports::TRAEFIK), "/ping"),
        })
    }

    /// The program and its arguments.
    pub(crate) fn command(
        self,
        programs: &Programs,
        paths: &Paths,
        network: Network,
    ) -> Vec<String> {
        let program = match self {
            Self::Containerd => self.name().to_owned(),
            _ => path_text(&programs.program(self.name())),
        };
        let arguments = match self {
            Self::Etcd => etcd(paths, network),
            Self::Containerd => vec![flag("--config", paths.config("containerd.toml").display())],
            Self::Prometheus => prometheus(paths, network),
            Self::ApiServer => api_server(paths, network),
            Self::ControllerManager => controller_manager(paths, network),
            Self::Scheduler => scheduler(paths),
            Self::Kubelet => vec![
                flag("--config", paths.config("kubelet.json").display()),
                flag("--kubeconfig", paths.config("kubelet.kubeconfig").display()),
                flag("--hostname-override", NODE_NAME),
                flag("--node-ip", network.node()),
            ],
            Self::Proxy => vec![flag("--config", paths.config("kube-proxy.json").display())],
            Self::Traefik => traefik(paths, network),
        };
        std::iter::once(program).chain(arguments).collect()
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn http(network: Network, port: u16) -> String {
    match port {
        80 => format!("http://{}", network.node()),
        _ => format!("http://{}:{port}", network.node()),
    }
}

fn flag(name: &str, value: impl fmt::Display) -> String {
    format!("{name}={value}")
}

fn etcd(paths: &Paths, network: Network) -> Vec<String> {
    vec![
        flag("--data-dir", paths.data("etcd").display()),
        flag("--listen-client-urls", "http://127.0.0.1:2379"),
        flag("--advertise-client-urls", "http://127.0.0.1:2379"),
        flag("--listen-peer-urls", "http://127.0.0.1:2380"),
        flag("--listen-metrics-urls", http(network, ports::ETCD_METRICS)),
        // The cluster does not survive a restart of the machine, so durability is not needed.
        "--unsafe-no-fsync".into(),
        flag("--log-level", "warn"),
    ]
}

fn prometheus(paths: &Paths, network: Network) -> Vec<String> {
    vec![
        flag("--config.file", paths.config("prometheus.json").display()),
        flag("--storage.tsdb.path", paths.data("prometheus").display()),
        flag("--storage.tsdb.retention.time", "1d"),
        flag(
            "--web.listen-address",
            format_args!("{}:{}", network.node(), ports::PROMETHEUS),
        ),
        "--web.enable-lifecycle".into(),
    ]
}

fn api_server(paths: &Paths, network: Network) -> Vec<String> {
    let file = |name: &str| path_text(&paths.config(name));
    vec![
        flag("--etcd-servers", "http://127.0.0.1:2379"),
        flag("--bind-address", "0.0.0.0"),
        flag("--advertise-address", network.node()),
        flag("--secure-port", ports::API_SERVER),
        flag("--tls-cert-file", file("serving.pem")),
        flag("--tls-private-key-file", file("serving.key")),
        flag("--client-ca-file", file("ca.pem")),
        flag("--token-auth-file", file("tokens.csv")),
        flag("--authorization-mode", "Node,RBAC"),
        flag("--enable-admission-plugins", "NodeRestriction"),
        flag("--allow-privileged", true),
        flag("--service-cluster-ip-range", network.services()),
        flag("--service-account-issuer", "https://kubernetes.default.svc"),
        flag("--service-account-key-file", file("service-accounts.pub")),
        flag(
            "--service-account-signing-key-file",
            file("service-accounts.key"),
        ),
        flag("--kubelet-client-certificate", file("kubelet-client.pem")),
        flag("--kubelet-client-key", file("kubelet-client.key")),
        flag("--kubelet-certificate-authority", file("ca.pem")),
        flag("--kubelet-preferred-address-types", "InternalIP"),
        flag("--audit-policy-file", file("audit.json")),
        flag("--audit-log-path", paths.log("audit").display()),
    ]
}

fn controller_manager(paths: &Paths, network: Network) -> Vec<String> {
    let file = |name: &str| path_text(&paths.config(name));
    vec![
        flag("--kubeconfig", file("kube-controller-manager.kubeconfig")),
        flag("--bind-address", network.node()),
        flag("--secure-port", ports::CONTROLLER_MANAGER),
        flag("--tls-cert-file", file("serving.pem")),
        flag("--tls-private-key-file", file("serving.key")),
        flag("--leader-elect", false),
        // With leader election the controller manager would lose its lease during an outage of the
        // API server, restart, and consider all nodes healthy. Without it, it keeps running and
        // would remove the pods of the node from their Services because of missed heartbeats.
        flag("--node-monitor-grace-period", "300s"),
        flag("--use-service-account-credentials", true),
        flag(
            "--service-account-private-key-file",
            file("service-accounts.key"),
        ),
        flag("--root-ca-file", file("ca.pem")),
        flag("--kube-api-qps", 200),
        flag("--kube-api-burst", 400),
    ]
}

fn scheduler(paths: &Paths) -> Vec<String> {
    let file = |name: &str| path_text(&paths.config(name));
    vec![
        flag("--kubeconfig", file("kube-scheduler.kubeconfig")),
        flag("--secure-port", ports::SCHEDULER),
        flag("--tls-cert-file", file("serving.pem")),
        flag("--tls-private-key-file", file("serving.key")),
        flag("--leader-elect", false),
        flag("--kube-api-qps", 200),
        flag("--kube-api-burst", 400),
    ]
}

fn traefik(paths: &Paths, network: Network) -> Vec<String> {
    let node = network.node();
    vec![
        flag(
            "--entryPoints.web.address",
            format_args!("{node}:{}", ports::GATEWAY),
        ),
        flag(
            "--entryPoints.internal.address",
            format_args!("{node}:{}", ports::TRAEFIK),
        ),
        "--ping=true".into(),
        flag("--ping.entryPoint", "internal"),
        "--metrics.prometheus=true".into(),
        flag("--metrics.prometheus.entryPoint", "internal"),
        "--metrics.prometheus.addServicesLabels=true".into(),
        flag("--providers.providersThrottleDuration", "100ms"),
        "--providers.kubernetesGateway=true".into(),
        flag(
            "--providers.kubernetesGateway.endpoint",
            crate::config::api_server(network),
        ),
        flag(
            "--providers.kubernetesGateway.token",
            paths.config("traefik.token").display(),
        ),
        flag(
            "--providers.kubernetesGateway.certAuthFilePath",
            paths.config("ca.pem").display(),
        ),
        flag("--providers.kubernetesGateway.throttleDuration", "100ms"),
        flag("--providers.kubernetesGateway.statusAddress.ip", node),
        flag("--global.checkNewVersion", false),
        flag("--global.sendAnonymousUsage", false),
        flag("--log.level", "INFO"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_except_containerd_has_a_health_endpoint() {
        let network = Network::new(0);
        for component in Component::ALL {
            let expected = component != Component::Containerd;
            assert_eq!(component.health(network).is_some(), expected, "{component}");
        }
    }

    #[test]
    fn components_reachable_from_the_host_have_an_address() {
        let address = |component: Component| component.address(Network::new(1));
        assert_eq!(address(Component::Traefik).unwrap(), "http://198.18.4.2");
        assert_eq!(
            address(Component::Prometheus).unwrap(),
            "http://198.18.4.2:9090"
        );
        assert_eq!(
            address(Component::ApiServer).unwrap(),
            "https://198.18.4.2:6443"
        );
        assert_eq!(address(Component::Etcd), None);
    }
}
