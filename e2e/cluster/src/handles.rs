//! What a test, the demo or a person does with a running cluster: reach it, disturb it, look at it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rustix::process::Signal;

use crate::api::Api;
use crate::cgroup::is_suspended;
use crate::cluster::{Cluster, HEALTHY};
use crate::component::Component;
use crate::config::{self, ports};
use crate::host::{Unmet, run, until};
use crate::image::Image;
use crate::instance::{Instance, Network};
use crate::objects;

/// How a component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which it is.
    pub component: Component,
    /// Its process, when it runs.
    pub process_id: Option<i32>,
    /// What it is at.
    pub state: State,
    /// Where it listens, if it is to be reached from outside the node.
    pub address: Option<String>,
    /// What it has said.
    pub log: PathBuf,
}

/// What a component is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs and says that it is well.
    Healthy,
    /// It runs and does not say so.
    Unhealthy,
    /// It was stopped by a signal and may go on.
    Suspended,
    /// It does not run.
    Ended,
}

impl Cluster {
    /// Makes an image known to the node, so that pods can name it. Their `imagePullPolicy` must
    /// be `IfNotPresent` or `Never`: there is no registry.
    ///
    /// # Errors
    /// When the binary cannot be read or containerd refuses the image.
    pub async fn load_image(&self, image: &Image) -> Result<()> {
        let archive = tempfile_name(&self.paths.images(), &image.reference);
        image.write(&archive)?;
        let mut import = self.node.inside("ctr");
        import
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(&archive);
        let imported = run(&mut import).await;
        std::fs::remove_file(&archive)?;
        imported?;
        until(
            &format!("the image {}", image.reference),
            HEALTHY,
            async || match self.has_image(&image.reference).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Unmet::yet(
                    "containerd has not told the kubelet's side of it",
                )),
                Err(error) => Err(Unmet::Never(error)),
            },
        )
        .await
    }

    /// The checkout it belongs to, and its id.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Its addresses.
    pub fn network(&self) -> Network {
        self.network
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.paths.kubeconfig()
    }

    /// The log of a component.
    pub fn log(&self, component: Component) -> PathBuf {
        self.paths.log(component.name())
    }

    /// Every write to the API server, one JSON object a line: `verb`, `user.username`,
    /// `objectRef`, `responseStatus.code`, `requestReceivedTimestamp` and more (the API
    /// server's audit log at level Metadata).
    pub fn audit_log(&self) -> PathBuf {
        self.paths.log("audit")
    }

    /// Where Prometheus answers, for the host and for pods alike.
    pub fn prometheus_url(&self) -> String {
        Component::Prometheus
            .address(self.network)
            .unwrap_or_default()
    }

    /// The file of one of the cluster's programs, for a second process of it on this host.
    pub fn program(&self, component: Component) -> PathBuf {
        self.programs.program(component.name())
    }

    /// The address of Traefik's metrics: host and port, reachable from the host and from pods.
    pub fn traefik_metrics_address(&self) -> String {
        format!("{}:{}", self.network.node(), ports::TRAEFIK)
    }

    /// Applies the kinds of the Gateway API and the Gateway again, after a test has deleted them.
    ///
    /// # Errors
    /// If the API server refuses, or if a kind is not served in time.
    pub async fn apply_gateway_api(&self) -> Result<()> {
        let api = Api::connect(&self.kubeconfig()).await?;
        objects::apply(&api, self.network, &self.programs.folder("gateway-api")).await
    }

    /// Waits until the Gateway is programmed.
    ///
    /// # Errors
    /// If it is not within a minute.
    pub async fn settle(&self) -> Result<()> {
        objects::settle(&Api::connect(&self.kubeconfig()).await?).await
    }

    /// Where the gateway answers, for the host and for pods alike.
    pub fn gateway_url(&self) -> String {
        Component::Traefik.address(self.network).unwrap_or_default()
    }

    /// What a shell needs to work with the cluster.
    pub fn env(&self) -> Vec<(String, String)> {
        let checkout = self.instance.checkout();
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| checkout.join("target"), |folder| checkout.join(folder));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.paths.bin(), target.join("debug")];
        let more = std::env::split_paths(&path).filter(|folder| !folders.contains(folder));
        let path =
            std::env::join_paths(folders.iter().cloned().chain(more)).unwrap_or(path.clone());
        let mut env = vec![
            ("KUBECONFIG".into(), config::text(&self.kubeconfig())),
            ("PROMETHEUS_URL".into(), self.prometheus_url()),
            ("PROMETHEUS_CLUSTER_URL".into(), self.prometheus_url()),
            ("GATEWAY_URL".into(), self.gateway_url()),
            ("PATH".into(), path.to_string_lossy().into_owned()),
        ];
        let proxies = [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "http_proxy",
            "https_proxy",
            "ALL_PROXY",
        ];
        if proxies.iter().any(|name| std::env::var_os(name).is_some()) {
            env.push(("NO_PROXY".into(), self.without_proxy()));
        }
        env
    }

    fn without_proxy(&self) -> String {
        let ours = self.network.all().to_string();
        match std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")) {
            Ok(theirs) if theirs.split(',').any(|part| part == ours) => theirs,
            Ok(theirs) if !theirs.is_empty() => format!("{theirs},{ours}"),
            _ => ours,
        }
    }

    /// Stops a component where it is (SIGSTOP), as a hung one: connections are accepted by the
    /// kernel and never answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn suspend(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::STOP)
    }

    /// Lets a suspended component go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume_component(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::CONT)
    }

    /// Ends a component at once (SIGKILL), and waits until it is gone. Pods go on without
    /// their kubelet; containerd's end takes them along.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&self, component: Component) -> Result<()> {
        self.cgroups.kill_component(component.name()).await
    }

    /// Starts a component that does not run, and waits until it is well.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub async fn start(&self, component: Component) -> Result<()> {
        self.launch(component).await?;
        self.healthy(component).await
    }

    fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        if self.cgroups.signal(component.name(), signal) == 0 {
            bail!("{component} does not run");
        }
        Ok(())
    }

    /// How each component is, now.
    ///
    /// # Errors
    /// When the cluster's files cannot be read.
    pub async fn status(&self) -> Result<Vec<Status>> {
        let mut all = Vec::new();
        for component in Component::ALL {
            let process = self.cgroups.processes(component.name()).first().copied();
            let state = match process {
                None => State::Ended,
                Some(process) if is_suspended(process) => State::Suspended,
                Some(_) => match self.ask(component, self.health(component)?.as_ref()).await {
                    Ok(()) => State::Healthy,
                    Err(_) => State::Unhealthy,
                },
            };
            all.push(Status {
                component,
                process_id: process.map(|process| process.as_raw_nonzero().get()),
                state,
                address: component.address(self.network),
                log: self.log(component),
            });
        }
        Ok(all)
    }
}

/// A name for an archive that no other load at the same time has.
fn tempfile_name(folder: &Path, reference: &str) -> PathBuf {
    let plain = reference.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    folder.join(format!(
        "{plain}-{}-{:08x}.tar",
        std::process::id(),
        rand::random::<u32>()
    ))
}
