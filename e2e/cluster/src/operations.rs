//! Operations on a running cluster: addresses, images, faults and status.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rustix::process::Signal;

use crate::api::Api;
use crate::cgroup::is_suspended;
use crate::cluster::{Cluster, HEALTHY_TIMEOUT};
use crate::component::Component;
use crate::config::{self, ports};
use crate::host::{UnmetCondition, run, wait_until};
use crate::image::{Image, full_name};
use crate::instance::{Instance, Network};
use crate::{objects, pki};

/// Address and credentials of the API server.
#[derive(Clone, Debug)]
pub struct ApiCredentials {
    /// Its URL.
    pub server: String,
    /// The administrator's token.
    pub token: String,
    /// The file of the certificate authority.
    pub certificate_authority: PathBuf,
}

/// Status of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentStatus {
    /// The component.
    pub component: Component,
    /// Its process id, if it runs.
    pub process_id: Option<i32>,
    /// Its state.
    pub state: ComponentState,
    /// Its address, if it is reachable from outside the node.
    pub address: Option<String>,
    /// Its log file.
    pub log: PathBuf,
}

/// State of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentState {
    /// It runs and its health check succeeds.
    Healthy,
    /// It runs and its health check fails.
    Unhealthy,
    /// It is stopped by a signal and can be resumed.
    Suspended,
    /// It does not run.
    Ended,
}

impl Cluster {
    /// Imports an image into the node. Pods that use it need the `imagePullPolicy` `IfNotPresent`
    /// or `Never`, because there is no registry.
    ///
    /// # Errors
    /// If the binary cannot be read, or if containerd rejects the image.
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
        wait_until(
            &format!("the image {}", image.reference),
            HEALTHY_TIMEOUT,
            async || match self.has_image(&image.reference).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(UnmetCondition::not_yet(
                    "the CRI plugin of containerd does not list it yet",
                )),
                Err(error) => Err(UnmetCondition::Never(error)),
            },
        )
        .await
    }

    /// Like [`Self::load_image`], and names the image also by its digest in its repository, as after a
    /// pull: pods then report this digest. Returns it.
    ///
    /// # Errors
    /// If the binary cannot be read, or if containerd rejects the image.
    pub async fn load_image_with_digest(&self, image: &Image) -> Result<String> {
        let archive = tempfile_name(&self.paths.images(), "digest");
        let digest = image.write(&archive)?;
        std::fs::remove_file(&archive)?;
        self.load_image(image).await?;
        let name = full_name(&image.reference);
        let repository = name
            .rsplit_once(':')
            .map_or(name.as_str(), |(repository, _)| repository);
        let by_digest = format!("{repository}@{digest}");
        let mut tag = self.node.inside("ctr");
        tag.args(["--namespace", "k8s.io", "images", "tag", "--force"])
            .args([&name, &by_digest]);
        run(&mut tag).await?;
        Ok(digest)
    }

    /// The instance: the checkout and its id.
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

    /// What another program of this host connects to the API server with, as the administrator.
    ///
    /// # Errors
    /// If the files of the cluster cannot be read.
    pub fn credentials(&self) -> Result<ApiCredentials> {
        let token = self.paths.config(&format!("{}.token", pki::ADMIN));
        Ok(ApiCredentials {
            server: config::api_server(self.network),
            token: std::fs::read_to_string(token)?,
            certificate_authority: self.paths.config("ca.pem"),
        })
    }

    /// The log of a component.
    pub fn log(&self, component: Component) -> PathBuf {
        self.paths.log(component.name())
    }

    /// The audit log of the API server: every write as one JSON object per line, with `verb`,
    /// `user.username`, `objectRef`, `responseStatus.code`, `requestReceivedTimestamp` and more
    /// (level Metadata).
    pub fn audit_log(&self) -> PathBuf {
        self.paths.log("audit")
    }

    /// The base URL of Prometheus, for the host and for pods.
    pub fn prometheus_url(&self) -> String {
        Component::Prometheus
            .address(self.network)
            .unwrap_or_default()
    }

    /// The path of a program of the cluster, to run another process of it on this host.
    pub fn program(&self, component: Component) -> PathBuf {
        self.programs.program(component.name())
    }

    /// Host and port of Traefik's metrics, for the host and for pods.
    pub fn traefik_metrics_address(&self) -> String {
        format!("{}:{}", self.network.node(), ports::TRAEFIK)
    }

    /// Applies the Gateway API and the Gateway again after a test has deleted them.
    ///
    /// # Errors
    /// If the API server rejects an object, or if a kind is not served in time.
    pub async fn apply_gateway_api(&self) -> Result<()> {
        let api = Api::connect(&self.kubeconfig()).await?;
        objects::apply(&api, self.network, &self.programs.folder("gateway-api")).await
    }

    /// Waits until the Gateway is programmed.
    ///
    /// # Errors
    /// If this takes more than a minute.
    pub async fn wait_for_gateway(&self) -> Result<()> {
        objects::wait_until_ready(&Api::connect(&self.kubeconfig()).await?).await
    }

    /// The base URL of the gateway, for the host and for pods.
    pub fn gateway_url(&self) -> String {
        Component::Traefik.address(self.network).unwrap_or_default()
    }

    /// Environment variables for a shell that uses the cluster.
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
            ("KUBECONFIG".into(), config::path_text(&self.kubeconfig())),
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

    /// Suspends a component (SIGSTOP), which simulates a hang: the kernel accepts connections, but
    /// nothing responds.
    ///
    /// # Errors
    /// If it does not run.
    pub fn suspend(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::STOP)
    }

    /// Resumes a suspended component.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume_component(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::CONT)
    }

    /// Kills a component (SIGKILL) and waits until it has ended. Pods keep running without the
    /// kubelet, but not without containerd.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn kill(&self, component: Component) -> Result<()> {
        self.cgroups.kill_component(component.name()).await
    }

    /// Starts a component that does not run and waits until it is healthy.
    ///
    /// # Errors
    /// Same as [`Cluster::up`].
    pub async fn start(&self, component: Component) -> Result<()> {
        self.launch(component).await?;
        self.wait_until_healthy(component).await
    }

    fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        if self.cgroups.signal(component.name(), signal) == 0 {
            bail!("{component} does not run");
        }
        Ok(())
    }

    /// The current status of each component.
    ///
    /// # Errors
    /// If the files of the cluster cannot be read.
    pub async fn status(&self) -> Result<Vec<ComponentStatus>> {
        let mut all = Vec::new();
        for component in Component::ALL {
            let process = self.cgroups.processes(component.name()).first().copied();
            let state = match process {
                None => ComponentState::Ended,
                Some(process) if is_suspended(process) => ComponentState::Suspended,
                Some(_) => match self
                    .check_health(component, self.health(component)?.as_ref())
                    .await
                {
                    Ok(()) => ComponentState::Healthy,
                    Err(_) => ComponentState::Unhealthy,
                },
            };
            all.push(ComponentStatus {
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

/// A unique file name for an archive.
fn tempfile_name(folder: &Path, reference: &str) -> PathBuf {
    let plain = reference.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    folder.join(format!(
        "{plain}-{}-{:08x}.tar",
        std::process::id(),
        rand::random::<u32>()
    ))
}
