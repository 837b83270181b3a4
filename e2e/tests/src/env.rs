//! The test environment: the cluster, its addresses, and the programs of this checkout.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Config};
use serin_cluster::{Cluster, Image, Instance, Progress, build_static};
use tokio::io::AsyncWriteExt as _;

use crate::data_plane::{self, DataPlane};
use crate::objects::apply_crds;

/// The image of the sample service. It is loaded into the local cluster; another cluster must be
/// able to pull it.
pub const SAMPLE_IMAGE: &str = "serin.local/sample:v1";
/// The image of the controller, loaded into the local cluster.
pub const CONTROLLER_IMAGE: &str = "serin.local/controller:dev";

/// The name of the chart's admission policy and of its binding.
const ADMISSION_POLICY: &str = "serin-commands";

/// The cluster that the tests use.
pub struct Env {
    /// A client with administrator permissions.
    pub client: Client,
    /// The path of the kubeconfig.
    pub kubeconfig: PathBuf,
    /// The base URL of Prometheus, for this host and for pods.
    pub prometheus_url: String,
    /// The base URL of the gateway.
    pub gateway_url: String,
    /// The data plane that routes the requests.
    pub data_plane: Arc<dyn DataPlane>,
    /// The local cluster. `None` for another cluster, in which faults cannot be injected.
    pub cluster: Option<Cluster>,
    /// The root of this checkout.
    pub checkout: PathBuf,
}

impl Env {
    /// Prepares the cluster of KUBECONFIG, or starts the local cluster if it does not run.
    ///
    /// # Errors
    /// If the cluster cannot be reached or started, or if a program does not compile.
    pub async fn prepare(checkout: &Path, progress: Progress) -> Result<Self> {
        let env = match Self::named_cluster(checkout) {
            Some(path) => Self::for_kubeconfig(checkout, path).await?,
            None => Self::local(checkout, progress).await?,
        };
        env.apply_crds().await?;
        Ok(env)
    }

    /// KUBECONFIG, unless it names the local cluster of this checkout (as after `eval "$(cargo
    /// xtask cluster env)"`).
    pub fn named_cluster(checkout: &Path) -> Option<PathBuf> {
        let path = std::env::var_os("KUBECONFIG")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)?;
        (path != checkout.join(".local/cluster/kubeconfig")).then_some(path)
    }

    /// Like [`Self::prepare`], with the data plane of this name, which must be stopped.
    ///
    /// # Errors
    /// As [`Self::prepare`], or if the data plane does not start in the local cluster.
    pub async fn prepare_with_data_plane(
        checkout: &Path,
        name: &str,
        progress: Progress,
    ) -> Result<Self> {
        let mut env = Self::prepare(checkout, progress).await?;
        let cluster = env.cluster.as_ref();
        let cluster = cluster.context("data planes are started in the local cluster only")?;
        let data_plane = data_plane::start(name, cluster, &env.client, checkout).await?;
        data_plane.gateway_url().clone_into(&mut env.gateway_url);
        if let Some(url) = data_plane.prometheus_url() {
            url.clone_into(&mut env.prometheus_url);
        }
        env.data_plane = data_plane;
        Ok(env)
    }

    async fn local(checkout: &Path, progress: Progress) -> Result<Self> {
        let cluster = Cluster::up(Instance::containing(checkout)?, progress).await?;
        let binary = build_static(checkout, "serin-sample", "serin-sample").await?;
        cluster
            .load_image(&Image::local(SAMPLE_IMAGE, binary))
            .await?;
        Ok(Self {
            client: client(&cluster.kubeconfig()).await?,
            kubeconfig: cluster.kubeconfig(),
            prometheus_url: cluster.prometheus_url(),
            gateway_url: cluster.gateway_url(),
            data_plane: data_plane::default_data_plane(
                Some(cluster.clone()),
                cluster.gateway_url(),
            ),
            checkout: checkout.to_owned(),
            cluster: Some(cluster),
        })
    }

    async fn for_kubeconfig(checkout: &Path, kubeconfig: PathBuf) -> Result<Self> {
        let url = |name: &str, what: &str| {
            std::env::var(name)
                .with_context(|| format!("KUBECONFIG is set: also set {name}, {what}"))
        };
        let gateway_url = url("GATEWAY_URL", "the base URL of the gateway for this host")?;
        Ok(Self {
            client: client(&kubeconfig).await?,
            data_plane: data_plane::default_data_plane(None, gateway_url.clone()),
            prometheus_url: url(
                "PROMETHEUS_URL",
                "the base URL of Prometheus for this host and for pods",
            )?,
            gateway_url,
            cluster: None,
            checkout: checkout.to_owned(),
            kubeconfig,
        })
    }

    /// Loads the controller's image into the local cluster.
    ///
    /// # Errors
    /// If the controller does not compile, or if this is not the local cluster.
    pub async fn load_controller_image(&self) -> Result<()> {
        let cluster = self
            .cluster
            .as_ref()
            .context("images can be loaded into the local cluster only")?;
        let binary = build_static(&self.checkout, "serin-controller", "serin-controller").await?;
        cluster
            .load_image(&Image::local(CONTROLLER_IMAGE, binary))
            .await
    }

    /// Applies the committed CustomResourceDefinitions and waits until they are served.
    async fn apply_crds(&self) -> Result<()> {
        apply_crds(&self.client, &self.checkout.join("crds/yaml")).await
    }

    /// Applies the admission policy for commands, rendered from the chart.
    ///
    /// # Errors
    /// If the chart cannot be rendered or the API server rejects it.
    pub async fn apply_admission_policy(&self) -> Result<()> {
        let chart = self
            .checkout
            .join("charts/serin")
            .to_string_lossy()
            .into_owned();
        let policy = "templates/admission-policy.yaml";
        let rendered = self
            .run_helm(&["template", "serin", &chart, "--show-only", policy])
            .await?;
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&rendered)?;
        for object in documents.iter().filter(|object| object["kind"].is_string()) {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let api = self.admission(object["kind"].as_str().unwrap_or_default());
            api.patch(
                name,
                &PatchParams::apply("serin-e2e").force(),
                &Patch::Apply(object),
            )
            .await?;
        }
        Ok(())
    }

    /// Removes the admission policy, including one left by a killed run.
    ///
    /// # Errors
    /// If the API server rejects the request.
    pub async fn remove_admission_policy(&self) -> Result<()> {
        for kind in [
            "ValidatingAdmissionPolicyBinding",
            "ValidatingAdmissionPolicy",
        ] {
            let api = self.admission(kind);
            if api.get_opt(ADMISSION_POLICY).await?.is_some() {
                api.delete(ADMISSION_POLICY, &DeleteParams::default())
                    .await?;
            }
        }
        Ok(())
    }

    fn admission(&self, kind: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        Api::all_with(self.client.clone(), &ApiResource::from_gvk(&kind))
    }

    /// Runs helm on this cluster and returns its standard output.
    ///
    /// # Errors
    /// If it does not run or fails, with its error message.
    pub async fn run_helm(&self, arguments: &[&str]) -> Result<String> {
        let helm = self.find_tool("helm");
        let output = tokio::process::Command::new(&helm)
            .env("KUBECONFIG", &self.kubeconfig)
            .args(arguments)
            .output()
            .await
            .with_context(|| format!("{} does not run", helm.display()))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success(),
            "helm {}: {errors}",
            arguments.join(" ")
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs kubectl on this cluster with an object on standard input, and returns its standard
    /// output.
    ///
    /// # Errors
    /// If it does not run or fails, with its error message.
    pub async fn run_kubectl(
        &self,
        arguments: &[&str],
        input: &serde_json::Value,
    ) -> Result<String> {
        let program = self.find_tool("kubectl");
        let mut child = tokio::process::Command::new(&program)
            .env("KUBECONFIG", &self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not run", program.display()))?;
        let mut stdin = child
            .stdin
            .take()
            .context("kubectl has no standard input")?;
        stdin.write_all(input.to_string().as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success(),
            "kubectl {}: {errors}",
            arguments.join(" ")
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A tool of the local cluster or on PATH.
    fn find_tool(&self, name: &str) -> PathBuf {
        let path = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.env().into_iter().find(|(key, _)| key == "PATH"));
        let folders = path
            .map(|(_, path)| std::env::split_paths(&path).collect::<Vec<_>>())
            .unwrap_or_default();
        let found = folders
            .into_iter()
            .map(|folder| folder.join(name))
            .find(|program| program.is_file());
        found.unwrap_or_else(|| PathBuf::from(name))
    }

    /// A program of this checkout, built in the debug profile.
    pub fn program(&self, name: &str) -> PathBuf {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.checkout.join("target"), PathBuf::from);
        target.join("debug").join(name)
    }

    /// A client that acts as another user of the local cluster, by impersonation.
    ///
    /// # Errors
    /// If the kubeconfig cannot be read.
    pub async fn client_as(&self, user: &str) -> Result<Client> {
        let mut config = config(&self.kubeconfig).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        Ok(Client::try_from(config)?)
    }
}

async fn config(kubeconfig: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(config)
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

/// The number in an environment variable, or `default` if it is unset or not a number.
pub fn count_from_env(variable: &str, default: u32) -> u32 {
    let value = std::env::var(variable).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// The load of a case: `shared` if other cases run at the same time, and 300 requests per second if the
/// case runs alone, on the data plane that [`data_plane::VARIABLE`] names.
pub fn requests_per_second(shared: u32) -> u32 {
    match std::env::var_os(data_plane::VARIABLE) {
        Some(_) => 300,
        None => shared,
    }
}
