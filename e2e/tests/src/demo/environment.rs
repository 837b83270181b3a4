//! The environment of the demo: the cluster, the controller, the sample service and its load, and
//! their cleanup.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serin_cluster::{Cluster, Instance, Progress};
use serin_load::LoadHandle;

use super::NAMESPACE;
use super::screen::Screen;
use crate::controller::{Controller, ControllerOptions, ControllerScope};
use crate::env::Env;
use crate::shop::Shop;

/// The name of the controller's Lease.
const LEASE: &str = "serin";

/// Everything that the demo has started.
pub(super) struct DemoEnvironment {
    checkout: PathBuf,
    /// The local cluster, if this demo started it.
    cluster: Option<Instance>,
    env: Option<Env>,
    controller: Option<Controller>,
    shop: Option<Shop>,
    /// The load. `None` until a release responds.
    pub(super) load: Option<LoadHandle>,
    interrupted: bool,
}

impl DemoEnvironment {
    pub(super) fn empty(checkout: &Path) -> Self {
        let checkout = checkout.to_owned();
        Self {
            checkout,
            cluster: None,
            env: None,
            controller: None,
            shop: None,
            load: None,
            interrupted: false,
        }
    }

    /// Marks the demo as interrupted: everything is stopped at the end, even with `--keep`.
    pub(super) fn mark_interrupted(&mut self) {
        self.interrupted = true;
    }

    pub(super) fn shop(&self) -> Result<&Shop> {
        self.shop
            .as_ref()
            .context("the sample service is not deployed yet")
    }

    pub(super) fn load(&self) -> Result<&LoadHandle> {
        self.load.as_ref().context("there is no load yet")
    }

    /// Builds and starts everything that the first release needs.
    pub(super) async fn set_up(&mut self, screen: &Screen) -> Result<()> {
        screen.print("Building the controller and the kubectl plugin");
        super::build_programs(&self.checkout).await?;
        let local = Env::named_cluster(&self.checkout).is_none();
        if local {
            let instance = Instance::containing(&self.checkout)?;
            if Cluster::attach(&instance).is_err() {
                self.cluster = Some(instance.clone());
            }
            screen.print(
                "Starting the local cluster (a real one: API server, pods, gateway, Prometheus)",
            );
            Cluster::up(instance, Progress::detect()).await?;
        } else {
            screen.print(&format!(
                "KUBECONFIG names a cluster: the demo uses it, applies Serin's CustomResourceDefinitions, and otherwise\n\
                 works in the namespace {NAMESPACE} only. Nothing else is started or stopped there."
            ));
        }
        let preparing = Box::pin(Env::prepare(&self.checkout, Progress::silent()));
        let what = if local {
            "Building the sample service's image, applying the API"
        } else {
            "Applying the API"
        };
        self.env = Some(screen.wait(what, preparing).await?);
        self.start_controller(local, screen).await?;
        let env = self.env.as_ref().context("there is no cluster")?;
        self.shop = Some(
            screen
                .wait(
                    "Creating the namespace and the route of the shop",
                    Shop::create(env, NAMESPACE),
                )
                .await?,
        );
        Ok(())
    }

    /// Starts a controller, unless one already runs on this cluster.
    async fn start_controller(&mut self, local: bool, screen: &Screen) -> Result<()> {
        self.stop_previous_controller().await?;
        let env = self.env.as_ref().context("there is no cluster")?;
        if let Some(holder) = leader(&env.client).await? {
            screen.print(&format!(
                "The controller {holder} already runs on this cluster: the demo uses it."
            ));
            return Ok(());
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // On a cluster of the user the controller watches only the namespace of the demo and
        // creates no Lease.
        let (election, namespace) = if local {
            (Some("default".to_owned()), None)
        } else {
            (None, Some(NAMESPACE.to_owned()))
        };
        let options = ControllerOptions {
            name: "demo".into(),
            port,
            election,
        };
        let scope = ControllerScope {
            namespace,
            detached: true,
            ..ControllerScope::default()
        };
        let controller = self
            .controller
            .insert(Controller::start_with_scope(env, &options, &scope)?);
        screen
            .wait(
                "Starting the controller as a process on this machine",
                controller.wait_until_ready(),
            )
            .await
    }

    /// Stops the controller of an earlier demo with `--keep`, which may be an older build.
    async fn stop_previous_controller(&self) -> Result<()> {
        let file = self.process_file();
        let Ok(text) = std::fs::read_to_string(&file) else {
            return Ok(());
        };
        let process = text.trim().to_owned();
        // The process id may have been reused by another program.
        let is_ours = || {
            let program = std::fs::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
            program
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("serin-controller"))
        };
        if is_ours() {
            tokio::process::Command::new("kill")
                .args(["-TERM", &process])
                .status()
                .await?;
            crate::shop::eventually(
                "the controller of the previous demo ends",
                Duration::from_secs(20),
                async || Ok(!is_ours()),
            )
            .await?;
        }
        std::fs::remove_file(&file)?;
        Ok(())
    }

    fn process_file(&self) -> PathBuf {
        self.checkout.join(".local/e2e/demo.pid")
    }

    /// Keeps everything running and prints how to use it, or stops everything that this demo has
    /// started.
    pub(super) async fn finish(&mut self, keep: bool) -> Result<()> {
        drop(self.load.take());
        if keep && !self.interrupted && self.shop.is_some() {
            return self.keep_running();
        }
        // The controller is stopped last, because it removes the finalizers of Rollouts.
        let closed = match self.shop.take() {
            Some(shop) => shop.delete().await,
            None => Ok(()),
        };
        let stopped = match self.controller.take() {
            Some(controller) => controller.stop().await,
            None => Ok(()),
        };
        self.env = None;
        let down = match self.cluster.take() {
            Some(instance) => Cluster::down(&instance, Progress::detect()).await,
            None => Ok(()),
        };
        closed.and(stopped).and(down)
    }

    fn keep_running(&mut self) -> Result<()> {
        let env = self.env.as_ref().context("there is no cluster")?;
        let shop = self.shop()?;
        let is_local = env.cluster.is_some();
        println!("\nEverything keeps running. To use it:");
        if is_local {
            println!("  eval \"$(cargo xtask cluster env)\"");
        } else {
            println!("  export PATH={}:$PATH", env.program("").display());
        }
        println!(
            "  cargo run --package serin-load -- --url {} --host {} --duration 10m &",
            env.gateway_url, shop.host
        );
        println!("  kubectl serin status shop -n {NAMESPACE} --watch");
        println!("  kubectl patch rollout shop -n {NAMESPACE} --type json -p \\");
        println!(
            "    '[{{\"op\": \"replace\", \"path\": \"/spec/template/spec/containers/0/env/0/value\", \"value\": \"v4\"}}]'"
        );
        println!("  kubectl abort shop -n {NAMESPACE} --reason \"changed my mind\"");
        println!("  kubectl promote shop -n {NAMESPACE}");
        let Some(controller) = self.controller.take() else {
            return Ok(());
        };
        let (address, log) = (controller.address.clone(), controller.log.clone());
        let process = controller.detach().context("the controller has ended")?;
        std::fs::write(self.process_file(), format!("{process}\n"))?;
        println!(
            "The controller keeps running in the background; metrics at http://{address}/metrics, log in {}.",
            log.display()
        );
        println!("To remove everything:");
        println!(
            "  kubectl delete rollout shop -n {NAMESPACE} && kubectl delete namespace {NAMESPACE}"
        );
        println!("  kill \"$(cat {})\"", self.process_file().display());
        if is_local {
            println!("  cargo xtask cluster down");
        }
        Ok(())
    }
}

/// The leader on this cluster, according to an unexpired Lease.
async fn leader(client: &Client) -> Result<Option<String>> {
    let leases = Api::<Lease>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let leases = match leases {
        Ok(leases) => leases.items,
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            bail!(
                "no permission to list Leases, which is needed to detect a running controller: {}",
                status.message
            )
        }
        Err(error) => return Err(error.into()),
    };
    Ok(leases
        .iter()
        .filter(|lease| lease.name_any() == LEASE)
        .find_map(|lease| holder(lease, Timestamp::now())))
}

/// The holder of a Lease. `None` if the Lease has expired.
fn holder(lease: &Lease, now: Timestamp) -> Option<String> {
    let spec = lease.spec.as_ref()?;
    let holder = spec
        .holder_identity
        .clone()
        .filter(|holder| !holder.is_empty())?;
    let seconds = spec.lease_duration_seconds.unwrap_or(15);
    let expires = spec
        .renew_time
        .as_ref()?
        .0
        .checked_add(jiff::SignedDuration::from_secs(seconds.into()))
        .ok()?;
    (now < expires).then_some(holder)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_unexpired_lease_names_a_running_controller() {
        let lease = |holder: &str| -> Lease {
            serde_json::from_value(json!({
                "metadata": {"name": "serin"},
                "spec": {
                    "holderIdentity": holder,
                    "leaseDurationSeconds": 4,
                    "renewTime": "2026-01-01T00:00:00.000000Z",
                },
            }))
            .unwrap()
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(
            holder(&lease("one"), at("2026-01-01T00:00:03Z")).as_deref(),
            Some("one")
        );
        assert_eq!(
            holder(&lease("one"), at("2026-01-01T00:00:04Z")),
            None,
            "expired"
        );
        assert_eq!(
            holder(&lease(""), at("2026-01-01T00:00:03Z")),
            None,
            "released"
        );
        assert_eq!(
            holder(&Lease::default(), at("2026-01-01T00:00:03Z")),
            None,
            "never held"
        );
    }
}
