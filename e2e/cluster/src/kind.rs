//! A cluster in kind, for machines with Docker: the Gateway API, Traefik and Prometheus from the
//! charts of their projects.
//!
//! The node publishes the gateway and Prometheus on the loopback interface of this host, so that
//! nothing has to be forwarded.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::config::{path_text, pod_relabeling};
use crate::host::{command, find_program, run};
use crate::image::Image;
use crate::objects::{GATEWAY, GATEWAY_NAMESPACE};
use crate::progress::Progress;

/// The name of the cluster in kind.
pub const KIND_CLUSTER: &str = "serin-demo";

/// The Gateway API release that [`TRAEFIK`] supports.
const GATEWAY_API: &str =
    "https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.0/standard-install.yaml";
/// Contains Traefik 3.6.
const TRAEFIK: Chart = Chart {
    name: "traefik",
    repository: "https://traefik.github.io/charts",
    version: "37.4.0",
    namespace: GATEWAY_NAMESPACE,
};
/// Contains Prometheus 3.4.
const PROMETHEUS: Chart = Chart {
    name: "prometheus",
    repository: "https://prometheus-community.github.io/helm-charts",
    version: "27.19.0",
    namespace: "monitoring",
};

/// Ports of the node and of the loopback interface of this host.
const GATEWAY_PORT: u16 = 30080;
const PROMETHEUS_PORT: u16 = 30090;

/// The programs that are needed, and where to get them.
const PROGRAMS: [(&str, &str); 4] = [
    ("docker", "https://docs.docker.com/engine/install"),
    ("kind", "https://kind.sigs.k8s.io/docs/user/quick-start"),
    ("kubectl", "https://kubernetes.io/docs/tasks/tools"),
    ("helm", "https://helm.sh/docs/intro/install"),
];

/// A chart at a pinned version.
struct Chart {
    name: &'static str,
    repository: &'static str,
    version: &'static str,
    namespace: &'static str,
}

/// A running cluster in kind.
#[derive(Clone, Debug)]
pub struct KindCluster {
    folder: PathBuf,
}

impl KindCluster {
    /// Creates the cluster if it does not exist, and installs what is missing in it.
    ///
    /// # Errors
    /// If a program is missing, if Docker does not run, or if an installation fails.
    pub async fn up(checkout: &Path, progress: Progress) -> Result<Self> {
        require_programs(|name| find_program(name).is_some())?;
        let docker = ["info", "--format", "{{.ServerVersion}}"];
        run(command("docker").args(docker))
            .await
            .context("Docker does not run, or this user may not use it")?;
        let cluster = Self {
            folder: checkout.join(".local/kind"),
        };
        std::fs::create_dir_all(&cluster.folder)?;
        cluster.create(progress).await?;
        cluster.install(progress).await?;
        Ok(cluster)
    }

    /// Imports an image into the node.
    ///
    /// # Errors
    /// If the binary cannot be read, or if kind rejects the image.
    pub async fn load_image(&self, image: &Image) -> Result<()> {
        let archive = self.folder.join("image.tar");
        image.write(&archive)?;
        let loaded = self.run("kind", &load_image(&archive)).await;
        std::fs::remove_file(&archive)?;
        loaded.map(drop)
    }

    /// The environment variables with which the demo and the tests use the cluster.
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("KUBECONFIG", path_text(&self.kubeconfig())),
            (
                "PROMETHEUS_URL",
                format!("http://127.0.0.1:{PROMETHEUS_PORT}"),
            ),
            ("GATEWAY_URL", format!("http://127.0.0.1:{GATEWAY_PORT}")),
            ("GATEWAY", format!("{GATEWAY_NAMESPACE}/{GATEWAY}")),
        ]
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    async fn create(&self, progress: Progress) -> Result<()> {
        let existing = self
            .run("kind", &["get", "clusters"].map(String::from))
            .await?;
        let exists = existing.lines().any(|name| name.trim() == KIND_CLUSTER);
        let what = if exists { "Using" } else { "Creating" };
        let step = progress.step(format!("{what} the kind cluster {KIND_CLUSTER}"));
        let arguments = if exists {
            export_kubeconfig(&self.kubeconfig())
        } else {
            let nodes = self.write("nodes", &nodes())?;
            create_cluster(&nodes, &self.kubeconfig())
        };
        self.run("kind", &arguments).await?;
        step.done();
        Ok(())
    }

    async fn install(&self, progress: Progress) -> Result<()> {
        let step = progress.step("Installing the Gateway API");
        self.run("kubectl", &apply(GATEWAY_API)).await?;
        self.run("kubectl", &wait_for_kinds()).await?;
        step.done();
        for (chart, values) in [(TRAEFIK, traefik()), (PROMETHEUS, prometheus())] {
            let step = progress.step(format!(
                "Installing {} (chart {})",
                chart.name, chart.version
            ));
            let values = self.write(chart.name, &values)?;
            self.run("helm", &chart.install(&values)).await?;
            step.done();
        }
        let step = progress.step("Waiting for the gateway");
        self.run("kubectl", &wait_for_gateway()).await?;
        step.done();
        Ok(())
    }

    /// Writes a configuration file as JSON, which is also YAML.
    fn write(&self, name: &str, content: &Value) -> Result<PathBuf> {
        let path = self.folder.join(format!("{name}.json"));
        std::fs::write(&path, format!("{content:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    async fn run(&self, program: &str, arguments: &[String]) -> Result<String> {
        let mut command = command(program);
        command.args(arguments).env("KUBECONFIG", self.kubeconfig());
        run(&mut command).await
    }
}

/// Checks that all programs exist.
///
/// # Errors
/// The missing programs, and where to get them.
fn require_programs(exists: impl Fn(&str) -> bool) -> Result<()> {
    let missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|(name, _)| !exists(name))
        .map(|(name, source)| format!("{name} ({source})"))
        .collect();
    ensure!(
        missing.is_empty(),
        "a cluster in kind needs programs that are missing: {}",
        missing.join(", ")
    );
    Ok(())
}

fn create_cluster(nodes: &Path, kubeconfig: &Path) -> Vec<String> {
    let (nodes, kubeconfig) = (path_text(nodes), path_text(kubeconfig));
    strings(&[
        "create",
        "cluster",
        "--name",
        KIND_CLUSTER,
        "--config",
        &nodes,
        "--kubeconfig",
        &kubeconfig,
        "--wait",
        "3m",
    ])
}

fn export_kubeconfig(kubeconfig: &Path) -> Vec<String> {
    let kubeconfig = path_text(kubeconfig);
    strings(&[
        "export",
        "kubeconfig",
        "--name",
        KIND_CLUSTER,
        "--kubeconfig",
        &kubeconfig,
    ])
}

fn load_image(archive: &Path) -> Vec<String> {
    let archive = path_text(archive);
    strings(&["load", "image-archive", &archive, "--name", KIND_CLUSTER])
}

fn apply(url: &str) -> Vec<String> {
    strings(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "--filename",
        url,
    ])
}

fn wait_for_kinds() -> Vec<String> {
    let kind = |plural: &str| format!("crd/{plural}.gateway.networking.k8s.io");
    let mut arguments = strings(&["wait", "--for=condition=Established", "--timeout=60s"]);
    arguments.extend(["gatewayclasses", "gateways", "httproutes"].map(kind));
    arguments
}

fn wait_for_gateway() -> Vec<String> {
    let gateway = format!("gateway/{GATEWAY}");
    let condition = "--for=condition=Programmed";
    strings(&[
        "wait",
        condition,
        "--timeout=3m",
        "--namespace",
        GATEWAY_NAMESPACE,
        &gateway,
    ])
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

impl Chart {
    /// Installs the chart, or upgrades it to these values, and waits until its pods are ready. The
    /// definitions of the Gateway API in the chart of Traefik are skipped: they are installed
    /// already.
    fn install(&self, values: &Path) -> Vec<String> {
        let values = path_text(values);
        strings(&[
            "upgrade",
            "--install",
            self.name,
            self.name,
            "--repo",
            self.repository,
            "--version",
            self.version,
            "--namespace",
            self.namespace,
            "--create-namespace",
            "--skip-crds",
            "--values",
            &values,
            "--wait",
            "--timeout",
            "5m",
        ])
    }
}

/// The configuration of kind.
fn nodes() -> Value {
    let published =
        |port: u16| json!({"containerPort": port, "hostPort": port, "listenAddress": "127.0.0.1"});
    json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{
            "role": "control-plane",
            "extraPortMappings": [published(GATEWAY_PORT), published(PROMETHEUS_PORT)],
        }],
    })
}

/// The values of [`TRAEFIK`]: only the Gateway API, and updates as fast as in the local cluster.
fn traefik() -> Value {
    json!({
        "providers": {
            "kubernetesCRD": {"enabled": false},
            "kubernetesIngress": {"enabled": false},
            "kubernetesGateway": {
                "enabled": true,
                // The Service has no load balancer whose address could be reported.
                "statusAddress": {"ip": "127.0.0.1", "service": {"enabled": false}},
            },
        },
        "additionalArguments": [
            "--providers.providersThrottleDuration=100ms",
            "--providers.kubernetesGateway.throttleDuration=100ms",
        ],
        "ingressClass": {"enabled": false},
        "gateway": {
            "name": GATEWAY,
            "listeners": {"web": {
                "port": 8000,
                "protocol": "HTTP",
                "namespacePolicy": {"from": "All"},
            }},
        },
        "service": {"type": "NodePort"},
        "ports": {
            "web": {"nodePort": GATEWAY_PORT},
            "websecure": {"expose": {"default": false}},
        },
    })
}

/// The values of [`PROMETHEUS`]: only the server, which scrapes Traefik and annotated pods every
/// second, as in the local cluster.
fn prometheus() -> Value {
    let traefik = json!({
        "job_name": "traefik",
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [GATEWAY_NAMESPACE]}}],
        "relabel_configs": [
            {"action": "keep", "regex": "traefik",
                "source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]},
            {"action": "keep", "source_labels": ["__meta_kubernetes_pod_container_port_name"],
                "regex": "metrics"},
        ],
    });
    let mut relabeling = pod_relabeling();
    relabeling.insert(
        0,
        json!({"action": "drop", "source_labels": ["__meta_kubernetes_namespace"],
            "regex": GATEWAY_NAMESPACE}),
    );
    let pods = json!({
        "job_name": "pods",
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": relabeling,
    });
    json!({
        "server": {
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "evaluation_interval": "5s",
            },
            "persistentVolume": {"enabled": false},
            "service": {"type": "NodePort", "nodePort": PROMETHEUS_PORT},
        },
        "serverFiles": {"prometheus.yml": {"scrape_configs": [traefik, pods]}},
        "alertmanager": {"enabled": false},
        "kube-state-metrics": {"enabled": false},
        "prometheus-node-exporter": {"enabled": false},
        "prometheus-pushgateway": {"enabled": false},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_with_their_source() {
        assert!(require_programs(|_| true).is_ok());
        let error = require_programs(|name| name == "docker" || name == "kubectl").unwrap_err();
        assert_eq!(
            error.to_string(),
            "a cluster in kind needs programs that are missing: kind \
             (https://kind.sigs.k8s.io/docs/user/quick-start), helm \
             (https://helm.sh/docs/intro/install)"
        );
    }

    #[test]
    fn every_command_of_kind_names_the_cluster() {
        let (file, kubeconfig) = (Path::new("/f"), Path::new("/k"));
        assert_eq!(
            create_cluster(file, kubeconfig).join(" "),
            "create cluster --name serin-demo --config /f --kubeconfig /k --wait 3m"
        );
        assert_eq!(
            export_kubeconfig(kubeconfig).join(" "),
            "export kubeconfig --name serin-demo --kubeconfig /k"
        );
        assert_eq!(
            load_image(file).join(" "),
            "load image-archive /f --name serin-demo"
        );
    }

    #[test]
    fn charts_are_installed_at_pinned_versions_without_their_definitions() {
        let install = |chart: &Chart| chart.install(Path::new("/v")).join(" ");
        assert_eq!(
            install(&TRAEFIK),
            "upgrade --install traefik traefik --repo https://traefik.github.io/charts --version \
             37.4.0 --namespace gateway-system --create-namespace --skip-crds --values /v --wait \
             --timeout 5m"
        );
        assert!(install(&PROMETHEUS).contains("--version 27.19.0 --namespace monitoring"));
    }

    #[test]
    fn the_node_publishes_the_ports_of_the_addresses() {
        let cluster = KindCluster {
            folder: PathBuf::from("/checkout/.local/kind"),
        };
        let env = cluster.env().map(|(name, value)| format!("{name}={value}"));
        assert_eq!(
            env,
            [
                "KUBECONFIG=/checkout/.local/kind/kubeconfig",
                "PROMETHEUS_URL=http://127.0.0.1:30090",
                "GATEWAY_URL=http://127.0.0.1:30080",
                "GATEWAY=gateway-system/local",
            ]
        );
        let mappings = &nodes()["nodes"][0]["extraPortMappings"];
        let (traefik, prometheus) = (traefik(), prometheus());
        assert_eq!(mappings[0]["hostPort"], traefik["ports"]["web"]["nodePort"]);
        assert_eq!(
            mappings[1]["hostPort"],
            prometheus["server"]["service"]["nodePort"]
        );
        for mapping in mappings.as_array().unwrap() {
            assert_eq!(mapping["containerPort"], mapping["hostPort"]);
            assert_eq!(mapping["listenAddress"], "127.0.0.1");
        }
    }

    #[test]
    fn traefik_is_scraped_by_one_job_only() {
        let values = prometheus();
        let jobs = &values["serverFiles"]["prometheus.yml"]["scrape_configs"];
        assert_eq!(jobs[0]["job_name"], "traefik");
        let namespaces = &jobs[0]["kubernetes_sd_configs"][0]["namespaces"]["names"];
        assert_eq!(*namespaces, json!([GATEWAY_NAMESPACE]));
        assert_eq!(
            jobs[1]["relabel_configs"][0],
            json!({"action": "drop", "source_labels": ["__meta_kubernetes_namespace"],
                "regex": GATEWAY_NAMESPACE})
        );
    }
}
