//! Upgrade and rollback of the controller during releases.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use serin_core::units::Weight;
use serin_crds::Rollout;
use serin_load::LoadHandle;

use crate::controller::{Controller, ControllerOptions, ControllerScope};
use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::shop::{
    Shop, is_aborted, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight,
};
use crate::{note, previous_version};

/// The load on each of the four services.
const LOAD_PER_SECOND: u32 = 50;
/// Time in which nothing may change after a controller takes over.
const QUIET_TIME: Duration = Duration::from_secs(15);

/// The fields of a status that no change of the controller may change.
const POSITION: [&str; 9] = [
    "/stage",
    "/step/index",
    "/stableRevision",
    "/currentRevision",
    "/weights/desired",
    "/pause/reason",
    "/pause/until",
    "/bake/since",
    "/abort/at",
];

/// The values of [`POSITION`], and the share of the canary in the route.
type ReleasePosition = (Vec<Option<Value>>, Weight);

/// A service whose release stays in one situation until a person continues it.
struct HeldRelease {
    shop: Shop,
    spec: RolloutOptions,
    position: Option<ReleasePosition>,
    load: LoadHandle,
}

impl HeldRelease {
    /// Makes `v1` stable and starts the load.
    async fn deploy(env: &Env, name: &str, steps: Value, bake_time: Option<&str>) -> Result<Self> {
        let shop = Shop::create(env, &format!("serin-e2e-upgrade-{name}")).await?;
        let mut analysis = manifests::analysis();
        if let Some(bake_time) = bake_time {
            analysis["bakeTime"] = json!(bake_time);
        }
        let spec = RolloutOptions {
            steps: Some(steps),
            analysis: Some(analysis),
            ..RolloutOptions::default()
        };
        shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
        let load = shop.start_load(LOAD_PER_SECOND)?;
        Ok(Self {
            shop,
            spec,
            position: None,
            load,
        })
    }

    /// Starts the release of `v2` and waits until it is in its situation.
    async fn release(&mut self, what: &str, is_reached: impl Fn(&Rollout) -> bool) -> Result<()> {
        let v2 = SampleRelease::good("v2");
        self.shop.apply_release(&self.spec, &v2).await?;
        let time = Duration::from_secs(180);
        self.shop
            .wait_until_unless_aborted(what, time, is_reached)
            .await?;
        Ok(())
    }

    /// The status as JSON, which is the same for all versions.
    async fn status(&self) -> Result<Value> {
        Ok(serde_json::to_value(self.shop.status().await?)?)
    }

    async fn position(&self) -> Result<ReleasePosition> {
        let status = self.status().await?;
        let fields = POSITION.iter().map(|field| status.pointer(field).cloned());
        Ok((fields.collect(), self.shop.route_share().await?))
    }

    async fn ensure_unmoved(&self) -> Result<()> {
        let found = self.position().await?;
        ensure!(
            Some(&found) == self.position.as_ref(),
            "{} moved from {:?} to {found:?}: {}",
            self.shop.namespace,
            self.position,
            self.status().await?["message"]
        );
        Ok(())
    }

    /// Runs a command that must be carried out.
    async fn command(&self, verb: &str) -> Result<()> {
        let (done, message) = self.shop.run_command(verb, json!({})).await?;
        ensure!(done, "{}: {verb}: {message}", self.shop.namespace);
        Ok(())
    }

    async fn wait_until_stable(&self) -> Result<()> {
        let time = Duration::from_secs(120);
        self.shop
            .wait_until_unless_aborted("v2 is stable", time, is_stable)
            .await?;
        Ok(())
    }

    async fn ensure_aborted(&self) -> Result<()> {
        self.shop
            .wait_until("v2 is aborted", Duration::from_secs(30), is_aborted)
            .await?;
        let has_no_traffic = async || Ok(self.shop.route_share().await? == Weight::ZERO);
        self.shop
            .eventually("no traffic", Duration::from_secs(10), has_no_traffic)
            .await
    }
}

/// The four releases.
struct Releases {
    at_50: HeldRelease,
    paused: HeldRelease,
    baking: HeldRelease,
    aborted: HeldRelease,
}

impl Releases {
    /// Brings each release into its situation.
    async fn start(env: &Env) -> Result<Self> {
        let manual = || json!([{"setWeight": 50}, {"pause": {}}, {"setWeight": 80}]);
        let timed = json!([{"setWeight": 20}, {"pause": {"duration": "1h"}}]);
        let short = json!([{"setWeight": 50}, {"pause": {"duration": "3s"}}]);
        let mut releases = Self {
            at_50: HeldRelease::deploy(env, "half", manual(), None).await?,
            paused: HeldRelease::deploy(env, "pause", timed, None).await?,
            baking: HeldRelease::deploy(env, "bake", short, Some("1h")).await?,
            aborted: HeldRelease::deploy(env, "abort", manual(), None).await?,
        };
        let has_share = |share: f64| {
            move |rollout: &Rollout| verified_weight(rollout) == Some(share) && is_paused(rollout)
        };
        releases
            .at_50
            .release("v2 at 50 %", has_share(50.0))
            .await?;
        releases
            .paused
            .release("v2 at 20 %", has_share(20.0))
            .await?;
        releases
            .aborted
            .release("v2 at 50 %", has_share(50.0))
            .await?;
        releases.aborted.command("abort").await?;
        releases.aborted.ensure_aborted().await?;
        let is_baking = |rollout: &Rollout| {
            let status = rollout.status.as_ref();
            serde_json::to_value(status).is_ok_and(|status| status["bake"].is_object())
        };
        releases.baking.release("v2 bakes", is_baking).await?;
        for release in releases.all_mut() {
            release.position = Some(release.position().await?);
        }
        Ok(releases)
    }

    fn all(&self) -> [&HeldRelease; 4] {
        [&self.at_50, &self.paused, &self.baking, &self.aborted]
    }

    fn all_mut(&mut self) -> [&mut HeldRelease; 4] {
        [
            &mut self.at_50,
            &mut self.paused,
            &mut self.baking,
            &mut self.aborted,
        ]
    }

    /// Checks for a while that nothing moves, after the controller has handled a command for each.
    async fn ensure_unmoved_under(&self, controller: &str) -> Result<()> {
        for release in self.all() {
            let (done, message) = release.shop.run_command("resume", json!({})).await?;
            ensure!(!done, "nothing is paused by a command");
            note!("{controller} answers {}: {message}", release.shop.namespace);
        }
        let began = Instant::now();
        while began.elapsed() < QUIET_TIME {
            for release in self.all() {
                let unmoved = release.ensure_unmoved().await;
                unmoved.with_context(|| format!("under {controller}"))?;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }
}

/// Starts a controller and waits until it is ready.
async fn start(env: &Env, name: &str, program: Option<&Path>) -> Result<Controller> {
    let options = ControllerOptions {
        name: name.to_owned(),
        port: 18_187,
        election: None,
    };
    let scope = ControllerScope {
        program: program.map(Path::to_owned),
        ..ControllerScope::default()
    };
    let mut controller = Controller::start_with_scope(env, &options, &scope)?;
    controller.wait_until_ready().await?;
    Ok(controller)
}

/// Releases continue after an upgrade of the controller, after a rollback to the previous version,
/// and after a second upgrade. No request is lost, and nothing moves without a person.
///
/// # Errors
/// If an expectation is not met.
pub async fn upgrade_and_rollback(env: &Env) -> Result<()> {
    let previous = previous_version::build(&env.checkout).await?;
    note!("the previous version is {}", previous.display());
    let controller = start(env, "upgrade-before", Some(&previous)).await?;
    let releases = Box::pin(Releases::start(env)).await?;
    releases
        .ensure_unmoved_under("the previous version")
        .await?;
    controller.stop().await?;

    let mut controller = start(env, "upgrade", None).await?;
    releases.ensure_unmoved_under("this version").await?;
    // A rollback of the controller often follows a crash.
    controller.kill().await?;

    let controller = start(env, "upgrade-rollback", Some(&previous)).await?;
    if is_incompatible(&releases.at_50.status().await?) {
        note!("the previous version reports the status as incompatible");
    }
    releases
        .ensure_unmoved_under("the previous version again")
        .await?;
    releases.paused.command("abort").await?;
    releases.paused.ensure_aborted().await?;
    controller.stop().await?;

    let controller = start(env, "upgrade-again", None).await?;
    releases.at_50.ensure_unmoved().await?;
    releases.paused.ensure_aborted().await?;
    releases.at_50.command("promote").await?;
    releases.at_50.wait_until_stable().await?;
    releases.baking.command("promote").await?;
    releases.baking.wait_until_stable().await?;
    releases.aborted.command("retry").await?;
    let is_waiting =
        |rollout: &Rollout| verified_weight(rollout) == Some(50.0) && is_paused(rollout);
    let time = Duration::from_secs(90);
    let shop = &releases.aborted.shop;
    shop.wait_until_unless_aborted("v2 at 50 % again", time, is_waiting)
        .await?;
    releases.aborted.command("promote").await?;
    releases.aborted.wait_until_stable().await?;

    let Releases {
        at_50,
        paused,
        baking,
        aborted,
    } = releases;
    for release in [at_50, paused, baking, aborted] {
        let report = stop_and_ensure_no_loss(release.load).await?;
        note!("{}: {}", release.shop.namespace, report.summary());
        release.shop.delete().await?;
    }
    controller.stop().await
}

/// Whether a controller reports that another version wrote the status.
fn is_incompatible(status: &Value) -> bool {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["reason"] == "IncompatibleStatus")
}
