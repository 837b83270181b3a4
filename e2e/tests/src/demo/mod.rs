//! `cargo xtask demo`: a real cluster ships three releases under real load, and a newcomer watches.
//!
//! v1 becomes stable; v2 fails 3 % of its requests and is rolled back with nobody's help before it
//! has spent its error budget; v3 is good and is promoted. All the time the load generator asks
//! through the gateway and counts every answer.

mod scenes;
mod screen;
mod stage;
mod summary;
mod view;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use crate::interrupt::Interrupts;
use crate::manifests::{Release, Spec};
use crate::shop::eventually;
use scenes::{Outcome, Promise, Scene};
use screen::Screen;
use stage::Stage;

/// The namespace of everything that the demo applies.
pub const NAMESPACE: &str = "serin-demo";
/// Requests a second through the gateway.
const LOAD_PER_SECOND: u32 = 300;
/// Requests that v1 answers before v2 is shipped, so that there is a stable error rate to compare
/// with.
const BEFORE_V2: u64 = 4_500;

/// How the demo is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The root of this checkout.
    pub checkout: PathBuf,
    /// Leave everything up when it is over.
    pub keep: bool,
    /// Tell in lines even where there is a terminal.
    pub plain: bool,
}

/// Runs the demo. What it has started it takes down again, also when it fails or is interrupted.
///
/// # Errors
/// When a release does not end as promised, a request is lost to routing, or something cannot be
/// started.
pub async fn demo(options: &Options) -> Result<()> {
    crate::install_tls_provider();
    let mut interrupts = Interrupts::listen()?;
    let mut stage = Stage::empty(&options.checkout);
    let result = tokio::select! {
        result = play(&mut stage, options) => result,
        () = interrupts.next() => {
            stage.was_interrupted();
            Err(anyhow::anyhow!("interrupted"))
        }
    };
    let taken_down = tokio::select! {
        taken_down = stage.finish(options.keep) => taken_down,
        () = interrupts.next() => bail!("interrupted while taking down: `cargo xtask cluster down` removes what is left"),
    };
    result.and(taken_down)
}

async fn play(stage: &mut Stage, options: &Options) -> Result<()> {
    let screen = Screen::new(options.plain);
    stage.set_up(&screen).await?;
    let outcomes = ship(stage, &screen).await;
    screen.clear();
    let Some(load) = stage.load.take() else {
        return outcomes.map(drop);
    };
    let report = load.stop().await;
    let outcomes = outcomes?;
    screen.say("");
    screen.say(&summary::table(&outcomes, &report, screen.columns()).to_string());
    screen.say(&summary::closing(&report));
    let broken = summary::broken_promises(&outcomes, &report);
    if broken.is_empty() {
        screen.say("All three releases ended as promised, and no request was lost to routing.");
        return Ok(());
    }
    bail!("not as promised:\n  {}", broken.join("\n  "))
}

/// The three releases.
async fn ship(stage: &mut Stage, screen: &Screen) -> Result<Vec<Outcome>> {
    let spec = spec();
    let v1 = Scene {
        version: "v1",
        release: Release::good("v1"),
        promise: Promise::FirstStable,
        says: "v1, the first release: there is nothing to compare it with, so it becomes stable once its pods are ready.",
    };
    let v2 = Scene {
        version: "v2",
        release: Release::failing("v2", "3"),
        promise: Promise::RolledBack,
        says: "v2 fails 3 % of its requests (v1: 0.05 %; the objective allows 0.1 %): Serin has to notice by itself and take it back.",
    };
    let v3 = Scene {
        version: "v3",
        release: Release::good("v3"),
        promise: Promise::Promoted,
        says: "v3 is as good as v1: it goes through its steps and becomes the new stable release.",
    };
    let mut outcomes = vec![scenes::play(stage, screen, &spec, &v1).await?];
    let shop = stage.shop()?;
    shop.answers().await?;
    stage.load = Some(stage.shop()?.load(LOAD_PER_SECOND)?);
    screen.say(&format!(
        "Load: {LOAD_PER_SECOND} requests a second through the gateway, until the end."
    ));
    let load = stage.load()?;
    let served = eventually("v1 has served", Duration::from_secs(60), async || {
        Ok(load.snapshot().counts.total() >= BEFORE_V2)
    });
    screen
        .wait(
            "v1 serves for a while, so that there is something to compare with",
            served,
        )
        .await?;
    outcomes.push(scenes::play(stage, screen, &spec, &v2).await?);
    outcomes.push(scenes::play(stage, screen, &spec, &v3).await?);
    scenes::old_pods_end(stage, screen).await?;
    Ok(outcomes)
}

/// What a user would write, with pauses as short as a spectator's patience.
fn spec() -> Spec {
    let pause = json!({"pause": {"duration": "12s"}});
    let steps =
        json!([{"setWeight": 5}, pause, {"setWeight": 20}, pause, {"setWeight": 50}, pause]);
    Spec {
        replicas: 3,
        steps: Some(steps),
        ..Spec::default()
    }
}

/// The programs of this checkout that the demo needs.
const PROGRAMS: [&str; 2] = ["serin-controller", "serin-kubectl"];

/// Builds [`PROGRAMS`], with cargo's own progress on standard error.
///
/// # Errors
/// When they do not compile.
pub async fn build_programs(checkout: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = tokio::process::Command::new(cargo);
    build
        .arg("build")
        .current_dir(checkout)
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null());
    for package in PROGRAMS {
        build.args(["--package", package]);
    }
    let status = build.status().await?;
    if status.success() {
        Ok(())
    } else {
        bail!("cargo build: {status}")
    }
}
