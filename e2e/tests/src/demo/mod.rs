//! `cargo xtask demo`: three releases on a real cluster under load.
//!
//! v1 becomes stable. v2 fails 3 % of its requests and is rolled back automatically before it
//! exhausts its error budget. v3 is good and is promoted. The load generator sends requests through
//! the gateway all the time and records every response.

mod environment;
mod scenes;
mod screen;
mod summary;
mod view;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use crate::interrupt::Interrupts;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::shop::eventually;
use environment::DemoEnvironment;
use scenes::{ExpectedEnd, ReleaseOutcome, Scene};
use screen::Screen;

/// The namespace of everything that the demo applies.
pub const NAMESPACE: &str = "serin-demo";
/// Requests per second through the gateway.
const LOAD_PER_SECOND: u32 = 300;
/// Number of requests that v1 answers before v2 is released, so that there is a stable error rate
/// to compare with.
const BEFORE_V2: u64 = 4_500;

/// Options of the demo.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The root of this checkout.
    pub checkout: PathBuf,
    /// Keep everything running after the demo.
    pub keep: bool,
    /// Print plain lines even on a terminal.
    pub plain: bool,
}

/// Runs the demo. Stops everything that it has started, also if it fails or is interrupted.
///
/// # Errors
/// If a release does not end as expected, a request is lost in routing, or something cannot be
/// started.
pub async fn demo(options: &DemoOptions) -> Result<()> {
    crate::install_tls_provider();
    let mut interrupts = Interrupts::listen()?;
    let mut environment = DemoEnvironment::empty(&options.checkout);
    let result = tokio::select! {
        result = run_scene(&mut environment, options) => result,
        () = interrupts.next() => {
            environment.mark_interrupted();
            Err(anyhow::anyhow!("interrupted"))
        }
    };
    let taken_down = tokio::select! {
        taken_down = environment.finish(options.keep) => taken_down,
        () = interrupts.next() => bail!("interrupted during cleanup: run `cargo xtask cluster down` to remove the rest"),
    };
    result.and(taken_down)
}

async fn run_scene(environment: &mut DemoEnvironment, options: &DemoOptions) -> Result<()> {
    let screen = Screen::new(options.plain);
    environment.set_up(&screen).await?;
    let outcomes = ship_releases(environment, &screen).await;
    screen.clear();
    let Some(load) = environment.load.take() else {
        return outcomes.map(drop);
    };
    let report = load.stop().await;
    let outcomes = outcomes?;
    screen.print("");
    screen.print(&summary::table(&outcomes, &report, screen.columns()).to_string());
    screen.print(&summary::totals(&report));
    let unmet = summary::unmet_expectations(&outcomes, &report);
    if unmet.is_empty() {
        screen.print("All three releases ended as expected, and no request was lost in routing.");
        return Ok(());
    }
    bail!("not as expected:\n  {}", unmet.join("\n  "))
}

/// Runs the three releases.
async fn ship_releases(
    environment: &mut DemoEnvironment,
    screen: &Screen,
) -> Result<Vec<ReleaseOutcome>> {
    let spec = spec();
    let v1 = Scene {
        version: "v1",
        release: SampleRelease::good("v1"),
        expected_end: ExpectedEnd::FirstStable,
        announcement: "v1 is the first release. There is nothing to compare it with, so it becomes stable when its pods are ready.",
    };
    let v2 = Scene {
        version: "v2",
        release: SampleRelease::failing("v2", "3"),
        expected_end: ExpectedEnd::RolledBack,
        announcement: "v2 fails 3 % of its requests (v1: 0.05 %; the objective allows 0.1 %): Serin must detect this and roll back.",
    };
    let v3 = Scene {
        version: "v3",
        release: SampleRelease::good("v3"),
        expected_end: ExpectedEnd::Promoted,
        announcement: "v3 is as good as v1. It completes its steps and becomes the new stable release.",
    };
    let mut outcomes = vec![scenes::run_scene(environment, screen, &spec, &v1).await?];
    let shop = environment.shop()?;
    shop.wait_until_answering().await?;
    environment.load = Some(environment.shop()?.start_load(LOAD_PER_SECOND)?);
    screen.print(&format!(
        "Load: {LOAD_PER_SECOND} requests per second through the gateway, until the end."
    ));
    let load = environment.load()?;
    let served = eventually("v1 has served", Duration::from_secs(60), async || {
        Ok(load.snapshot().counts.total() >= BEFORE_V2)
    });
    screen
        .wait(
            "v1 serves for a while as the baseline of the comparison",
            served,
        )
        .await?;
    outcomes.push(scenes::run_scene(environment, screen, &spec, &v2).await?);
    outcomes.push(scenes::run_scene(environment, screen, &spec, &v3).await?);
    scenes::wait_for_old_pods(environment, screen).await?;
    Ok(outcomes)
}

/// The Rollout of the demo, with short pauses.
fn spec() -> RolloutOptions {
    let pause = json!({"pause": {"duration": "12s"}});
    let steps =
        json!([{"setWeight": 5}, pause, {"setWeight": 20}, pause, {"setWeight": 50}, pause]);
    RolloutOptions {
        replicas: 3,
        steps: Some(steps),
        ..RolloutOptions::default()
    }
}

/// The programs of this checkout that the demo needs.
const PROGRAMS: [&str; 2] = ["serin-controller", "serin-kubectl"];

/// Builds [`PROGRAMS`]. The progress of cargo goes to standard error.
///
/// # Errors
/// If they do not compile.
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
