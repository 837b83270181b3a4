//! A control plane of its own on the loopback interface: etcd, API server, controllers, scheduler,
//! and kwok, which simulates a node and its pods.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngCore;
use rustix::fs::{Mode, chmod};
use serde_json::{Value, json};
use serin_fake_cluster::certificates::{
    CertificateAuthority, CertificateRequest, CertificateUsage, KeyPairPem,
};

use crate::api::{Api, wait_until};
use crate::audit::AuditLog;
use crate::process::{Process, ProcessCommand};
use crate::tools::Tools;

/// The namespace of all rollouts and Leases.
pub(crate) const NAMESPACE: &str = "scale";
/// The accounts of the two measured controllers.
pub(crate) const CONTROLLERS: [&str; 2] = ["controller-a", "controller-b"];

const ADMIN: &str = "admin";
const KWOK: &str = "kwok";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Maximum time for a component to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum time for a component to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running control plane. Its processes are killed on drop.
pub(crate) struct ControlPlane {
    folder: PathBuf,
    /// In start order.
    processes: Vec<Process>,
}

/// Ports of the components on the loopback interface.
struct Ports {
    etcd: u16,
    etcd_peer: u16,
    api_server: u16,
    controller_manager: u16,
    scheduler: u16,
}

impl ControlPlane {
    /// Starts it in `folder`, which is emptied first, and installs the definitions.
    ///
    /// # Errors
    /// If a component ends or is not ready in time.
    pub(crate) async fn start(
        tools: &Tools,
        folder: &Path,
        definitions: &[Value],
    ) -> Result<(Self, Api)> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)?;
        let mut plane = Self {
            folder: folder.to_owned(),
            processes: Vec::new(),
        };
        let ports = Ports::unused()?;
        plane.write_files(&ports)?;
        plane.launch(tools, "etcd", plane.etcd(&ports))?;
        plane.launch(tools, "kube-apiserver", plane.api_server(&ports))?;
        let api = Api::connect(&plane.kubeconfig(ADMIN)).await?;
        wait_until("the API server", READY_TIMEOUT, async || {
            plane.check()?;
            Ok(api.is_ready().await)
        })
        .await?;
        for name in [CONTROLLER_MANAGER, SCHEDULER, KWOK] {
            let arguments = match name {
                CONTROLLER_MANAGER => plane.controller_manager(&ports),
                SCHEDULER => plane.scheduler(&ports),
                _ => plane.kwok(),
            };
            plane.launch(tools, name, arguments)?;
        }
        install_definitions(&api, definitions).await?;
        create_node_and_namespace(&api).await?;
        plane.check()?;
        Ok((plane, api))
    }

    /// Stops all components.
    ///
    /// # Errors
    /// If a component cannot be stopped.
    pub(crate) async fn stop(self) -> Result<()> {
        for process in self.processes.into_iter().rev() {
            process.stop(STOP_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Fails if a component has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    pub(crate) fn processes(&self) -> &[Process] {
        &self.processes
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kubeconfig of an account.
    pub(crate) fn kubeconfig(&self, account: &str) -> PathBuf {
        self.file(&format!("{account}.kubeconfig"))
    }

    pub(crate) fn audit_log(&self) -> AuditLog {
        AuditLog::new(self.file("audit.log"))
    }

    /// The log file of a process.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.file(&format!("{name}.log"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).to_string_lossy().into_owned()
    }

    fn launch(&mut self, tools: &Tools, name: &'static str, arguments: Vec<String>) -> Result<()> {
        let process = Process::start(ProcessCommand {
            name,
            program: tools.program(name)?,
            arguments,
            env: Vec::new(),
            log: self.log(name),
            folder: &self.folder,
        })?;
        self.processes.push(process);
        Ok(())
    }

    /// Certificates, keys, tokens, kubeconfigs and the audit policy.
    fn write_files(&self, ports: &Ports) -> Result<()> {
        let authority = CertificateAuthority::with_name("serin-scale-authority")?;
        self.write("ca.pem", authority.pem())?;
        let serving = authority.issue(CertificateRequest {
            common_name: "serin-scale".to_owned(),
            organization: None,
            dns_names: vec!["localhost".to_owned()],
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            usage: Some(CertificateUsage::Server),
        })?;
        self.write("serving.pem", &serving.certificate)?;
        self.write("serving.key", &serving.key)?;
        let service_accounts = KeyPairPem::generate()?;
        self.write("service-accounts.key", service_accounts.private)?;
        self.write("service-accounts.pub", service_accounts.public)?;
        self.write("audit.json", audit_policy().to_string())?;
        let mut tokens = String::new();
        let accounts = [ADMIN, KWOK, CONTROLLER_MANAGER, SCHEDULER];
        for account in accounts.into_iter().chain(CONTROLLERS) {
            let token = format!("{:032x}", random_number());
            let _ = writeln!(tokens, "{token},{account},{account},\"system:masters\"");
            let kubeconfig = self.kubeconfig_content(ports, account, &token);
            self.write(&format!("{account}.kubeconfig"), kubeconfig.to_string())?;
        }
        self.write("tokens.csv", tokens)
    }

    fn kubeconfig_content(&self, ports: &Ports, account: &str, token: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "scale", "cluster": {
                "server": format!("https://127.0.0.1:{}", ports.api_server),
                "certificate-authority": self.path("ca.pem"),
            }}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": "scale", "context": {
                "cluster": "scale", "user": account, "namespace": NAMESPACE,
            }}],
            "current-context": "scale",
        })
    }

    /// Writes a file that only its owner can read.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let file = self.file(name);
        std::fs::write(&file, content)?;
        chmod(&file, Mode::RUSR | Mode::WUSR)?;
        Ok(())
    }

    fn etcd(&self, ports: &Ports) -> Vec<String> {
        let client = format!("http://127.0.0.1:{}", ports.etcd);
        let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
        vec![
            format!("--data-dir={}", self.path("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".into(),
            "--quota-backend-bytes=8589934592".into(),
            "--log-level=warn".into(),
        ]
    }

    fn api_server(&self, ports: &Ports) -> Vec<String> {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name));
        vec![
            format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            // Endpoints on the loopback interface are invalid, and nothing here needs them.
            "--endpoint-reconciler-type=none".into(),
            format!("--secure-port={}", ports.api_server),
            file("tls-cert-file", "serving.pem"),
            file("tls-private-key-file", "serving.key"),
            file("token-auth-file", "tokens.csv"),
            "--authorization-mode=RBAC".into(),
            // The node has no taint to remove, because nobody watches its heartbeats.
            "--disable-admission-plugins=TaintNodesByCondition".into(),
            "--service-cluster-ip-range=10.200.0.0/16".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            file("service-account-key-file", "service-accounts.pub"),
            file("service-account-signing-key-file", "service-accounts.key"),
            file("audit-policy-file", "audit.json"),
            file("audit-log-path", "audit.log"),
            // In megabytes. A rotated log could not be read from an offset.
            "--audit-log-maxsize=100000".into(),
        ]
    }

    fn controller_manager(&self, ports: &Ports) -> Vec<String> {
        vec![
            format!(
                "--kubeconfig={}",
                self.path("kube-controller-manager.kubeconfig")
            ),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", ports.controller_manager),
            format!("--root-ca-file={}", self.path("ca.pem")),
            format!(
                "--service-account-private-key-file={}",
                self.path("service-accounts.key")
            ),
            "--leader-elect=false".into(),
            // A node that misses heartbeats under load would make all pods unready.
            "--controllers=*,-node-lifecycle-controller".into(),
            "--kube-api-qps=1000".into(),
            "--kube-api-burst=2000".into(),
        ]
    }

    fn scheduler(&self, ports: &Ports) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.path("kube-scheduler.kubeconfig")),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", ports.scheduler),
            "--leader-elect=false".into(),
            "--kube-api-qps=1000".into(),
            "--kube-api-burst=2000".into(),
        ]
    }

    fn kwok(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.path("kwok.kubeconfig")),
            "--manage-all-nodes=true".into(),
            "--cidr=10.128.0.0/10".into(),
            "--node-ip=10.127.0.1".into(),
        ]
    }
}

impl Ports {
    /// Ports that no process uses now.
    fn unused() -> Result<Self> {
        Ok(Self {
            etcd: unused_port()?,
            etcd_peer: unused_port()?,
            api_server: unused_port()?,
            controller_manager: unused_port()?,
            scheduler: unused_port()?,
        })
    }
}

/// A port of the loopback interface that no process uses now.
pub(crate) fn unused_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

fn random_number() -> u128 {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// Audits the measured controllers only, so that the log costs the API server little.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": CONTROLLERS}, {"level": "None"}],
    })
}

async fn install_definitions(api: &Api, definitions: &[Value]) -> Result<()> {
    for definition in definitions {
        api.create(DEFINITIONS, definition).await?;
    }
    for definition in definitions {
        let name = definition["metadata"]["name"].as_str();
        let name = name.context("a definition has no name")?;
        wait_until(&format!("the kind {name}"), READY_TIMEOUT, async || {
            let definition = api.get(&format!("{DEFINITIONS}/{name}")).await?;
            Ok(is_established(&definition))
        })
        .await?;
    }
    Ok(())
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    })
}

async fn create_node_and_namespace(api: &Api) -> Result<()> {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "kwok"}});
    api.create("/api/v1/nodes", &node).await?;
    for name in [NAMESPACE, "argo-rollouts"] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.create("/api/v1/namespaces", &namespace).await?;
    }
    wait_until("the node", READY_TIMEOUT, async || {
        let node = api.get("/api/v1/nodes/kwok").await?;
        Ok(node["status"]["phase"] == "Running")
    })
    .await?;
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    wait_until("the default service account", READY_TIMEOUT, async || {
        Ok(api.get(&account).await.is_ok())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_controllers_are_audited() {
        let policy = audit_policy();
        assert_eq!(policy["rules"][0]["users"], json!(CONTROLLERS));
        assert_eq!(policy["rules"][1]["level"], "None");
    }

    #[test]
    fn a_definition_is_established_by_its_condition() {
        let with = |status: &str| {
            is_established(&json!({"status": {"conditions": [
                {"type": "NamesAccepted", "status": "True"},
                {"type": "Established", "status": status},
            ]}}))
        };
        assert!(with("True") && !with("False"));
        assert!(!is_established(&json!({})));
    }
}
