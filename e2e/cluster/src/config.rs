//! The configuration files of the components. All except the one of containerd are JSON, which is
//! also YAML.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::instance::Network;
use crate::paths::Paths;
use crate::pki::{ACCOUNTS, ADMIN, NODE_NAME, write_secret_file};
use crate::tools::PAUSE_IMAGE;

/// Ports on the address of the node. Each cluster has its own address.
pub(crate) mod ports {
    /// The gateway's listener: plain HTTP.
    pub(crate) const GATEWAY: u16 = 80;
    /// Traefik's `/ping` and `/metrics`.
    pub(crate) const TRAEFIK: u16 = 8082;
    pub(crate) const PROMETHEUS: u16 = 9090;
    pub(crate) const API_SERVER: u16 = 6443;
    pub(crate) const ETCD_METRICS: u16 = 2381;
    pub(crate) const CONTROLLER_MANAGER: u16 = 10257;
    pub(crate) const SCHEDULER: u16 = 10259;
    pub(crate) const KUBELET_HEALTH: u16 = 10248;
    pub(crate) const PROXY_HEALTH: u16 = 10256;
}

/// The settings that depend on the machine.
pub(crate) struct MachineSettings<'a> {
    pub(crate) network: Network,
    /// The root control group of the kubelet, as a path below each hierarchy.
    pub(crate) cgroup: &'a str,
    /// The folder with the CNI plugins.
    pub(crate) plugins: PathBuf,
    /// `overlayfs`, or `native` if the disk is itself an overlay.
    pub(crate) snapshotter: &'a str,
}

/// The name and content of every file without secrets.
pub(crate) fn render(paths: &Paths, machine: &MachineSettings<'_>) -> Vec<(&'static str, String)> {
    let json = |value: Value| format!("{value:#}\n");
    vec![
        ("containerd.toml", containerd(paths, machine)),
        ("resolv.conf", String::new()),
        ("cni/10-serin.conflist", json(cni(machine))),
        ("kubelet.json", json(kubelet(paths, machine))),
        ("kube-proxy.json", json(kube_proxy(paths, machine))),
        ("audit.json", json(audit())),
        ("prometheus.json", json(prometheus(paths, machine))),
    ]
}

/// Writes every component's configuration.
///
/// # Errors
/// If a file cannot be written or a token is missing.
pub(crate) fn write(paths: &Paths, machine: &MachineSettings<'_>) -> Result<()> {
    for account in &ACCOUNTS {
        let file = paths.config(&format!("{}.kubeconfig", account.name));
        write_secret_file(
            &file,
            format!("{:#}\n", kubeconfig(paths, machine, account.name)?),
        )?;
    }
    write_secret_file(
        &paths.kubeconfig(),
        std::fs::read(paths.config(&format!("{ADMIN}.kubeconfig")))?,
    )?;
    for (name, content) in render(paths, machine) {
        std::fs::write(paths.config(name), content)?;
    }
    Ok(())
}

/// The URL of the API server.
pub(crate) fn api_server(network: Network) -> String {
    format!("https://{}:{}", network.node(), ports::API_SERVER)
}

fn kubeconfig(paths: &Paths, machine: &MachineSettings<'_>, account: &str) -> Result<Value> {
    let token = std::fs::read_to_string(paths.config(&format!("{account}.token")))?;
    let context = machine.cgroup.trim_start_matches('/');
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {
            "server": api_server(machine.network),
            "certificate-authority": paths.config("ca.pem"),
        }}],
        "users": [{"name": account, "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": account}}],
        "current-context": context,
    }))
}

fn containerd(paths: &Paths, machine: &MachineSettings<'_>) -> String {
    let plugins = machine.plugins.display();
    let networks = paths.config("cni");
    let networks = networks.display();
    let snapshotter = machine.snapshotter;
    // Without `restrict_oom_score_adj` sandboxes do not start if root lacks CAP_SYS_RESOURCE.
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "{PAUSE_IMAGE}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
"#
    )
}

/// Point-to-point links: every packet between pods passes the network stack of the node, so that
/// the rules of kube-proxy apply in both directions. With a bridge, responses would bypass them.
fn cni(machine: &MachineSettings<'_>) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "serin",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni",
                "ranges": [[{"subnet": machine.network.pods().to_string()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

fn kubelet(paths: &Paths, machine: &MachineSettings<'_>) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": machine.network.node().to_string(),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": paths.config("ca.pem")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": paths.config("serving.pem"),
        "tlsPrivateKeyFile": paths.config("serving.key"),
        "healthzBindAddress": machine.network.node().to_string(),
        "healthzPort": ports::KUBELET_HEALTH,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "resolvConf": paths.config("resolv.conf"),
        "clusterDNS": [machine.network.name_server().to_string()],
        "clusterDomain": "cluster.local",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": machine.cgroup,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        // Do not evict pods because the disk or memory of a developer machine is nearly full.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "maxPods": 200,
        "serializeImagePulls": false,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,
    })
}

fn kube_proxy(paths: &Paths, machine: &MachineSettings<'_>) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": paths.config("kube-proxy.kubeconfig")},
        "mode": "nftables",
        "hostnameOverride": NODE_NAME,
        "bindAddress": machine.network.node().to_string(),
        "clusterCIDR": machine.network.pods().to_string(),
        "healthzBindAddress": format!("{}:{}", machine.network.node(), ports::PROXY_HEALTH),
        "metricsBindAddress": "127.0.0.1:10249",
        // Zero keeps the settings of the machine.
        "conntrack": {
            "maxPerCore": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    })
}

/// Audits every write to the API server and no reads, so that a test can count the writes of a
/// rollout.
fn audit() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "Metadata"},
        ],
    })
}

fn prometheus(paths: &Paths, machine: &MachineSettings<'_>) -> Value {
    let node = machine.network.node();
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "5s"},
        "scrape_configs": [
            {
                "job_name": "traefik",
                "static_configs": [{"targets": [format!("{node}:{}", ports::TRAEFIK)]}],
            },
            {
                "job_name": "pods",
                "kubernetes_sd_configs": [{
                    "role": "pod",
                    "api_server": api_server(machine.network),
                    "authorization": {"credentials_file": paths.config("prometheus.token")},
                    "tls_config": {"ca_file": paths.config("ca.pem")},
                }],
                "relabel_configs": pod_relabeling(),
            },
        ],
    })
}

/// The relabeling of annotated pods: one target per pod, with its labels, namespace and name.
pub(crate) fn pod_relabeling() -> Vec<Value> {
    let annotation = |name: &str| format!("__meta_kubernetes_pod_annotation_prometheus_io_{name}");
    vec![
        json!({"action": "keep", "source_labels": [annotation("scrape")], "regex": "true"}),
        json!({"action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"],
            "regex": "Succeeded|Failed"}),
        json!({"action": "keep", "source_labels": ["__meta_kubernetes_pod_ip"], "regex": ".+"}),
        // One target per pod, independent of the ports of its containers.
        json!({"source_labels": ["__meta_kubernetes_pod_ip", annotation("port")],
            "separator": ":", "target_label": "__address__"}),
        json!({"source_labels": [annotation("path")], "regex": "(.+)",
            "target_label": "__metrics_path__"}),
        json!({"action": "labelmap", "regex": "__meta_kubernetes_pod_label_(.+)"}),
        json!({"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}),
        json!({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"}),
    ]
}

/// A path as text.
pub(crate) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
