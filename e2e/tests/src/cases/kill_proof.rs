//! The controller process dies, and the Rollout that may be the cause does not stop the others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::ListParams;
use rand::Rng as _;
use serde_json::{Value, json};
use serin_crds::Rollout;

use super::scaling::rollout_without_router;
use crate::controller::{Controller, ControllerOptions, ControllerScope};
use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_aborted, is_paused, is_stable};

/// The file of the journal in the state directory.
const JOURNAL: &str = "attempts";
/// Number of Rollouts that are tried for the first time after each restart.
const FLEET: usize = 40;
/// Number of times that the controller is killed.
const KILLS: usize = 6;

fn options(name: &str, port: u16) -> ControllerOptions {
    ControllerOptions {
        name: name.to_owned(),
        port,
        election: None,
    }
}

/// An empty state directory.
fn state_dir(env: &Env, name: &str) -> Result<PathBuf> {
    let directory = env.checkout.join(".local/e2e/state").join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Starts a controller that manages the namespace of the case only.
async fn start(
    env: &Env,
    shop: &Shop,
    options: &ControllerOptions,
    state_dir: &Path,
) -> Result<Controller> {
    let scope = ControllerScope {
        manages_only: Some(shop.namespace.clone()),
        state_dir: Some(state_dir.to_owned()),
        ..ControllerScope::default()
    };
    let mut controller = Controller::start_with_scope(env, options, &scope)?;
    controller.wait_until_ready().await?;
    Ok(controller)
}

/// A Rollout without pods.
fn idle_options() -> RolloutOptions {
    RolloutOptions {
        replicas: 0,
        steps: Some(json!([])),
        analysis: None,
        ..RolloutOptions::default()
    }
}

async fn apply_idle(shop: &Shop, version: &str) -> Result<Rollout> {
    let release = SampleRelease::good(version);
    let object = rollout_without_router(shop, &idle_options(), &release);
    Ok(shop.apply(object).await?.try_parse()?)
}

/// The record that a process leaves which dies during the first attempt of a Rollout. `deaths` is
/// the number of earlier deaths.
fn record(rollout: &Rollout, deaths: u32) -> Value {
    json!({
        "namespace": rollout.namespace(), "name": rollout.name_any(), "uid": rollout.uid(),
        "generation": rollout.metadata.generation, "deaths": deaths,
    })
}

fn is_quarantined(rollout: &Rollout) -> bool {
    let conditions = rollout.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| {
        condition.type_ == "Stalled"
            && condition.status == "True"
            && condition.reason == "Quarantined"
    })
}

async fn has_quarantine_event(shop: &Shop) -> Result<bool> {
    let events = shop.api::<Event>().list(&ListParams::default()).await?;
    Ok(events.items.iter().any(|event| {
        let regarding = event.regarding.as_ref();
        event.reason.as_deref() == Some("Quarantined")
            && regarding.and_then(|object| object.name.as_deref()) == Some(&shop.name)
    }))
}

/// # Errors
/// If an expectation is not met.
pub async fn a_rollout_that_may_have_killed_the_controller_is_quarantined_while_others_continue(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-kill-proof").await?;
    let (poison, innocent) = (shop.sibling("poison"), shop.sibling("innocent"));
    let state_dir = state_dir(env, "quarantine")?;
    let poison_record = record(&apply_idle(&poison, "v1").await?, 2);
    let innocent_record = record(&apply_idle(&innocent, "v1").await?, 0);
    let records = format!("garbage\n{poison_record}\n{innocent_record}\n{{\"uid\":");
    std::fs::write(state_dir.join(JOURNAL), records)?;

    let controller = start(env, &shop, &options("kill-proof", 18_190), &state_dir).await?;
    let quarantined = Duration::from_secs(20);
    poison
        .wait_until("the poison is quarantined", quarantined, is_quarantined)
        .await?;
    for suspect in [&poison, &innocent] {
        let what = format!("an Event names the suspect {}", suspect.name);
        shop.eventually(&what, quarantined, async || {
            has_quarantine_event(suspect).await
        })
        .await?;
    }
    // Nothing was wrong with the innocent Rollout. It is retried soon.
    innocent
        .wait_until(
            "the innocent is released",
            Duration::from_secs(60),
            is_stable,
        )
        .await?;
    others_continue(&shop).await?;
    let metrics = format!("http://{}/metrics", controller.address);
    shop.eventually(
        "the metric counts the poison",
        Duration::from_secs(30),
        async || {
            let page = reqwest::get(&metrics).await?.text().await?;
            Ok(page.lines().any(|line| line == "serin_quarantined 1"))
        },
    )
    .await?;
    let rollout = shop.api::<Rollout>().get(&poison.name).await?;
    ensure!(
        is_quarantined(&rollout),
        "a Rollout that killed the controller three times is quarantined for minutes"
    );
    // An edit ends the quarantine.
    apply_idle(&poison, "v2").await?;
    poison
        .wait_until(
            "the fixed spec is used",
            Duration::from_secs(60),
            |rollout| is_stable(rollout) && !is_quarantined(rollout),
        )
        .await?;
    shop.delete().await?;
    controller.stop().await
}

/// A release of another Rollout starts, pauses and is aborted.
async fn others_continue(shop: &Shop) -> Result<()> {
    let spec = RolloutOptions {
        steps: Some(json!([{"setWeight": 50}, {"pause": {}}])),
        analysis: None,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    shop.wait_until("v2 pauses", Duration::from_secs(90), is_paused)
        .await?;
    let (is_done, message) = shop.run_command("abort", json!({})).await?;
    ensure!(is_done, "{message}");
    shop.wait_until("v2 is aborted", Duration::from_secs(30), is_aborted)
        .await?;
    Ok(())
}

/// # Errors
/// If an expectation is not met.
pub async fn a_controller_killed_during_first_attempts_reconciles_every_rollout(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-kill-first", "shop").await?;
    let state_dir = state_dir(env, "first-attempts")?;
    let fleet: Vec<Shop> = (0..FLEET)
        .map(|number| shop.sibling(&format!("idle-{number}")))
        .collect();
    for member in &fleet {
        apply_idle(member, "v1").await?;
    }
    let options = options("kill-first", 18_191);
    let mut interrupted = 0;
    for _ in 0..KILLS {
        let mut controller = start(env, &shop, &options, &state_dir).await?;
        // The first attempts of all Rollouts begin when the caches are in sync.
        let wait = Duration::from_millis(rand::rng().random_range(0..400));
        tokio::time::sleep(wait).await;
        controller.kill().await?;
        interrupted += open_attempts(&state_dir)?;
    }
    note!("{KILLS} kills during {interrupted} first attempts");
    let controller = start(env, &shop, &options, &state_dir).await?;
    for member in &fleet {
        member
            .wait_until("it is reconciled", Duration::from_secs(180), |rollout| {
                is_stable(rollout) && !is_quarantined(rollout)
            })
            .await?;
    }
    shop.eventually(
        "no first attempt is left in the journal",
        Duration::from_secs(60),
        async || Ok(open_attempts(&state_dir)? == 0),
    )
    .await?;
    shop.delete().await?;
    controller.stop().await
}

/// The number of attempts in the journal that have not ended.
fn open_attempts(state_dir: &Path) -> Result<usize> {
    let path = state_dir.join(JOURNAL);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let records = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok());
    Ok(records
        .filter(|record| record["quarantinedUntil"].is_null())
        .count())
}
