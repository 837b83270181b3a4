//! The pods of a Deployment become those of a Rollout, and back, at full load.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use rand::Rng as _;
use serde_json::{Value, json};
use serin_core::state::WorkloadPhase;
use serin_crds::Rollout;
use serin_load::LoadHandle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::controller::{Controller, ControllerOptions, ControllerScope};
use crate::env::{Env, count_from_env};
use crate::manifests::{RolloutOptions, SampleRelease, rollout, template};
use crate::note;
use crate::shop::{Shop, is_stable, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 300;
const REPLICAS: u32 = 3;
/// Number of rounds, unless `SERIN_TAKEOVER_ROUNDS` sets another one.
const ROUNDS: u32 = 2;
/// Time in which pods that are still replaced would be seen.
const QUIET: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

fn rounds() -> u32 {
    count_from_env("SERIN_TAKEOVER_ROUNDS", ROUNDS)
}

fn deployment(shop: &Shop) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": shop.name},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": shop.name}},
            "template": template(&shop.name, &SampleRelease::good("v1")),
        },
    })
}

/// The Rollout that replaces the Deployment in one commit.
fn adopting(shop: &Shop) -> Value {
    let options = RolloutOptions {
        replicas: REPLICAS,
        analysis: None,
        ..RolloutOptions::default()
    };
    let mut object = rollout(&shop.name, &options, &SampleRelease::good("v1"));
    object["spec"]["adopt"] = json!({"deployment": shop.name});
    object
}

/// The Rollout that refers to the Deployment.
fn referring(shop: &Shop) -> Value {
    let mut object = adopting(shop);
    if let Some(spec) = object["spec"].as_object_mut() {
        for field in ["adopt", "selector", "template", "replicas"] {
            spec.remove(field);
        }
    }
    object["spec"]["workloadRef"] =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": shop.name});
    object
}

fn phase(rollout: &Rollout) -> Option<WorkloadPhase> {
    let status = rollout.status.as_ref()?;
    status
        .state
        .workload
        .as_ref()
        .map(|workload| workload.phase)
}

/// The pods that serve, watched during a case.
struct Fleet {
    pods: BTreeSet<String>,
    stop: watch::Sender<bool>,
    lowest: JoinHandle<Result<usize>>,
}

impl Fleet {
    /// Starts to observe the available pods every 50 ms.
    async fn observe(shop: &Shop) -> Result<Self> {
        let api = shop.api::<Pod>();
        let pods = uids(&api).await?;
        ensure!(pods.len() == REPLICAS as usize, "{} pods", pods.len());
        let (end, ended) = watch::channel(false);
        let lowest = tokio::spawn(async move {
            let mut lowest = usize::MAX;
            while !*ended.borrow() {
                let list = api.list(&ListParams::default()).await?;
                lowest = lowest.min(list.iter().filter(|pod| is_available(pod)).count());
                sleep(Duration::from_millis(50)).await;
            }
            Ok(lowest)
        });
        Ok(Self {
            pods,
            stop: end,
            lowest,
        })
    }

    /// Checks that the pods are those of the beginning, that none was missing, and that none was
    /// restarted.
    async fn ensure_unchanged(self, shop: &Shop) -> Result<()> {
        self.stop.send_replace(true);
        let lowest = self.lowest.await??;
        ensure!(
            lowest >= REPLICAS as usize,
            "only {lowest} pods were available"
        );
        let api = shop.api::<Pod>();
        ensure!(uids(&api).await? == self.pods, "pods were replaced");
        let list = api.list(&ListParams::default()).await?;
        let statuses = list.iter().filter_map(|pod| pod.status.as_ref());
        let containers = statuses.flat_map(|status| status.container_statuses.iter().flatten());
        let restarts: i32 = containers.map(|container| container.restart_count).sum();
        ensure!(restarts == 0, "{restarts} restarts");
        Ok(())
    }
}

async fn uids(api: &Api<Pod>) -> Result<BTreeSet<String>> {
    let list = api.list_metadata(&ListParams::default()).await?;
    let uids = list.items.into_iter().filter_map(|pod| pod.metadata.uid);
    Ok(uids.collect())
}

fn is_available(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let is_ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}

/// The Deployment serves with all of its pods.
async fn deploy(shop: &Shop) -> Result<()> {
    shop.apply(deployment(shop)).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": shop.name},
        "spec": {
            "selector": {"app": shop.name},
            "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
        },
    });
    shop.apply(service).await?;
    let deployments = shop.api::<Deployment>();
    shop.eventually("the Deployment is complete", PATIENCE, async || {
        let status = deployments.get(&shop.name).await?.status;
        let available = status.and_then(|status| status.available_replicas);
        Ok(available == Some(i32::try_from(REPLICAS)?))
    })
    .await?;
    shop.wait_until_answering().await
}

async fn wait_for_phase(shop: &Shop, wanted: WorkloadPhase) -> Result<()> {
    let what = format!("the workload is {wanted:?}");
    shop.wait_until(&what, PATIENCE, |rollout| phase(rollout) == Some(wanted))
        .await?;
    Ok(())
}

/// A Deployment under load that is taken over and given back.
struct Adoption<'a> {
    env: &'a Env,
    options: ControllerOptions,
    shop: Shop,
    controller: Controller,
    load: LoadHandle,
    fleet: Fleet,
}

impl<'a> Adoption<'a> {
    /// Starts a controller, deploys, and sends requests from now on.
    async fn begin(env: &'a Env, name: &str, port: u16) -> Result<Self> {
        let shop = Shop::create(env, &format!("serin-e2e-{name}")).await?;
        let options = ControllerOptions {
            name: name.to_owned(),
            port,
            election: None,
        };
        let mut controller = Self::start_controller(env, &shop, &options)?;
        controller.wait_until_ready().await?;
        deploy(&shop).await?;
        let load = shop.start_load(LOAD_PER_SECOND)?;
        let fleet = Fleet::observe(&shop).await?;
        Ok(Self {
            env,
            options,
            shop,
            controller,
            load,
            fleet,
        })
    }

    /// Starts a controller that manages the namespace of the case only.
    fn start_controller(env: &Env, shop: &Shop, options: &ControllerOptions) -> Result<Controller> {
        let scope = ControllerScope {
            manages_only: Some(shop.namespace.clone()),
            ..ControllerScope::default()
        };
        Controller::start_with_scope(env, options, &scope)
    }

    /// Waits for a phase. In every second round the controller is killed and started again
    /// meanwhile.
    async fn wait_for_phase(&mut self, round: u32, wanted: WorkloadPhase) -> Result<()> {
        if round % 2 == 1 {
            self.kill_until(wanted).await?;
        }
        wait_for_phase(&self.shop, wanted).await
    }

    async fn kill_until(&mut self, wanted: WorkloadPhase) -> Result<()> {
        for _ in 0..20 {
            let wait = Duration::from_millis(rand::rng().random_range(20..600));
            sleep(wait).await;
            if phase(&self.shop.rollout().await?) == Some(wanted) {
                break;
            }
            self.controller.kill().await?;
            self.controller = Self::start_controller(self.env, &self.shop, &self.options)?;
            self.controller.wait_until_ready().await?;
        }
        Ok(())
    }

    async fn wait_until_taken_over(&mut self, round: u32) -> Result<()> {
        self.wait_for_phase(round, WorkloadPhase::TakenOver).await?;
        self.shop
            .wait_until("the pods are stable", PATIENCE, is_stable)
            .await?;
        Ok(())
    }

    /// # Errors
    /// If a request was lost, a pod was restarted, or fewer pods than `replicas` were available.
    async fn finish(self) -> Result<()> {
        sleep(QUIET).await;
        self.fleet.ensure_unchanged(&self.shop).await?;
        stop_and_ensure_no_loss(self.load).await?;
        self.shop.delete().await?;
        self.controller.stop().await
    }
}

/// # Errors
/// If a request is lost, a pod is restarted, or fewer pods than `replicas` are available.
pub async fn a_deployment_becomes_a_rollout_and_back_without_a_lost_request(
    env: &Env,
) -> Result<()> {
    let mut adoption = Adoption::begin(env, "adoption", 18_192).await?;
    for round in 0..rounds() {
        adoption.shop.apply(referring(&adoption.shop)).await?;
        adoption.wait_until_taken_over(round).await?;
        sleep(QUIET).await;
        let (done, message) = adoption.shop.run_command("giveBack", json!({})).await?;
        ensure!(done, "{message}");
        adoption
            .wait_for_phase(round, WorkloadPhase::GivenBack)
            .await?;
        delete_rollout(&adoption.shop).await?;
        let deployments = adoption.shop.api::<Deployment>();
        let deployment = deployments.get(&adoption.shop.name).await?;
        let spec = deployment.spec.context("a spec")?;
        ensure!(spec.paused != Some(true), "the Deployment is resumed");
        note!("round {round}: taken over and given back");
    }
    adoption.finish().await
}

async fn delete_rollout(shop: &Shop) -> Result<()> {
    let rollouts = shop.api::<Rollout>();
    rollouts
        .delete(&shop.name, &DeleteParams::default())
        .await?;
    shop.eventually("the Rollout is gone", PATIENCE, async || {
        Ok(rollouts.get_opt(&shop.name).await?.is_none())
    })
    .await
}

/// # Errors
/// If a request is lost, a pod is restarted, or fewer pods than `replicas` are available.
pub async fn one_commit_that_replaces_a_deployment_by_a_rollout_loses_no_request(
    env: &Env,
) -> Result<()> {
    let mut adoption = Adoption::begin(env, "one-commit", 18_193).await?;
    for round in 0..rounds() {
        let mut object = adopting(&adoption.shop);
        object["spec"]["onDelete"] = json!("GiveBack");
        adoption.shop.apply(object).await?;
        adoption.wait_until_taken_over(round).await?;
        // The prune after the sync.
        let deployments = adoption.shop.api::<Deployment>();
        deployments
            .delete(&adoption.shop.name, &DeleteParams::default())
            .await?;
        sleep(QUIET).await;
        // The Deployment is created again when the Rollout is deleted.
        delete_rollout(&adoption.shop).await?;
        note!("round {round}: replaced and restored");
    }
    adoption.finish().await
}
