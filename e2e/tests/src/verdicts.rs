//! Verdicts on a real cluster for releases that are as good as stable, and for releases that fail
//! ten times as often.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};
use futures::future::try_join_all;
use jiff::Timestamp;
use serde_json::json;
use serin_core::state::{AbortCause, Stage};
use serin_crds::RolloutStatus;
use serin_load::LoadHandle;

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_aborted, is_stable};

/// Number of releases and their load. Several services are released in parallel.
#[derive(Clone, Copy, Debug)]
pub struct VerdictOptions {
    /// Releases that are as good as stable.
    pub same: u32,
    /// Releases that fail ten times as often.
    pub worse: u32,
    /// Number of parallel services.
    pub services: u32,
    /// Requests per second to each service.
    pub rate_per_second: u32,
}

/// How one release ended.
#[derive(Clone, Debug)]
pub struct ReleaseVerdict {
    /// Its namespace.
    pub namespace: String,
    /// Its version.
    pub version: String,
    /// Whether it was rolled back.
    pub rolled_back: bool,
    /// The cause of the rollback in CamelCase, if it was rolled back.
    pub cause: Option<AbortCause>,
    /// When it was applied.
    pub declared_at: Timestamp,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// Time from its first response to the decision.
    pub observed_for: Duration,
    /// Requests that it answered until the decision.
    pub requests: u64,
    /// Failed requests among them.
    pub errors: u64,
    /// Its allotment of the error budget, in errors.
    pub allotment: f64,
    /// The spent part of the allotment, in errors.
    pub spent: f64,
}

/// Runs all releases and prints how each ended.
///
/// # Errors
/// If a good release is rolled back, a bad one is promoted, one exceeds its allotment, or a request
/// is lost in routing.
pub async fn run(env: &Env, options: VerdictOptions) -> Result<()> {
    let services = options.services.max(1);
    let share = |count: u32, index: u32| count / services + u32::from(index < count % services);
    let shops = (0..services).map(|index| {
        let own = VerdictOptions {
            same: share(options.same, index),
            worse: share(options.worse, index),
            ..options
        };
        run_service(env, index, own)
    });
    let verdicts: Vec<(Vec<ReleaseVerdict>, Vec<ReleaseVerdict>)> = try_join_all(shops).await?;
    let (same, worse): (Vec<_>, Vec<_>) = verdicts.into_iter().unzip();
    let (same, worse) = (same.concat(), worse.concat());
    print_table("as good as stable", &same);
    print_table("ten times the errors", &worse);
    let rolled_back = |verdicts: &[ReleaseVerdict]| {
        verdicts
            .iter()
            .filter(|verdict| verdict.rolled_back)
            .count()
    };
    println!(
        "as good as stable: {} of {} rolled back",
        rolled_back(&same),
        same.len()
    );
    println!(
        "ten times the errors: {} of {} rolled back",
        rolled_back(&worse),
        worse.len()
    );
    ensure!(rolled_back(&same) == 0, "a good release was rolled back");
    ensure!(
        rolled_back(&worse) == worse.len(),
        "a bad release was promoted"
    );
    let over = same
        .iter()
        .chain(&worse)
        .find(|verdict| verdict.spent > verdict.allotment);
    ensure!(over.is_none(), "a release exceeded its allotment: {over:?}");
    Ok(())
}

async fn run_service(
    env: &Env,
    index: u32,
    options: VerdictOptions,
) -> Result<(Vec<ReleaseVerdict>, Vec<ReleaseVerdict>)> {
    let shop = Shop::create(env, &format!("serin-verdicts-{index}")).await?;
    let spec = |last: &str| RolloutOptions {
        steps: Some(json!([
            {"setWeight": 20}, {"pause": {"duration": "20s"}}, {"setWeight": 50}, {"pause": {"duration": last}},
        ])),
        scale_down_delay_seconds: 2,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec("40s"), &SampleRelease::good("v0"))
        .await?;
    let load = shop.start_load(options.rate_per_second)?;
    // The comparison needs some history of stable.
    let history = Duration::from_secs(30);
    shop.eventually("stable has served for 30 s", history * 2, async || {
        Ok(load.elapsed() > history)
    })
    .await?;
    let (mut same, mut worse) = (Vec::new(), Vec::new());
    for number in 1..=options.same {
        same.push(
            run_release(
                &shop,
                &load,
                &spec("40s"),
                &SampleRelease::good(&format!("same-{number}")),
            )
            .await?,
        );
    }
    for number in 1..=options.worse {
        let bad = SampleRelease::failing(&format!("worse-{number}"), "0.5");
        worse.push(run_release(&shop, &load, &spec("900s"), &bad).await?);
    }
    let report = load.stop().await;
    ensure!(
        report.has_no_losses(),
        "{}\n{:#?}",
        report.summary(),
        report.details
    );
    shop.delete().await?;
    Ok((same, worse))
}

async fn run_release(
    shop: &Shop,
    load: &LoadHandle,
    spec: &RolloutOptions,
    release: &SampleRelease,
) -> Result<ReleaseVerdict> {
    let declared_at = Timestamp::now();
    shop.apply_release(spec, release).await?;
    let ended = shop
        .wait_until("decided", Duration::from_secs(1_000), |rollout| {
            is_stable(rollout) || is_aborted(rollout)
        })
        .await?;
    let decided_at = Timestamp::now();
    let status = ended.status.context("a status")?;
    let report = load.report_so_far();
    let answers = report.all();
    let answers = answers.of_version(&release.version);
    let first = answers
        .requests()
        .next()
        .context("an answer of the canary")?;
    let counts = answers.counts();
    let (allotment, spent) = budget(&status);
    let verdict = ReleaseVerdict {
        namespace: shop.namespace.clone(),
        version: release.version.clone(),
        rolled_back: status.state.stage == Stage::Aborted,
        cause: status.state.abort.map(|abort| abort.cause),
        declared_at,
        decided_at,
        observed_for: Duration::try_from(
            decided_at.duration_since(report.wall_clock(first.ended_at())),
        )
        .unwrap_or_default(),
        requests: counts.ok + counts.service_errors,
        errors: counts.service_errors,
        allotment,
        spent,
    };
    println!(
        "{} {}: {} after {:.0} s",
        verdict.namespace,
        verdict.version,
        if verdict.rolled_back {
            "rolled back"
        } else {
            "promoted"
        },
        verdict.observed_for.as_secs_f64()
    );
    Ok(verdict)
}

/// The allotment and the spent part of it, in errors, of the only objective.
fn budget(status: &RolloutStatus) -> (f64, f64) {
    let evidence = status.evidence.first();
    let allotment = evidence
        .and_then(|evidence| evidence.budget_allotment)
        .unwrap_or(f64::INFINITY);
    (
        allotment,
        evidence
            .and_then(|evidence| evidence.budget_spent)
            .unwrap_or_default(),
    )
}

fn print_table(what: &str, verdicts: &[ReleaseVerdict]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "SERVICE", "RELEASE", "DECLARED", "DECIDED", "OUTCOME", "OBSERVED", "REQUESTS", "ERRORS",
        "SPENT", "ALLOTTED",
    ]);
    for verdict in verdicts {
        let outcome = verdict
            .cause
            .map_or_else(|| "promoted".to_owned(), |cause| cause.to_string());
        table.add_row([
            verdict.namespace.clone(),
            verdict.version.clone(),
            format!("{:.0}", verdict.declared_at),
            format!("{:.0}", verdict.decided_at),
            outcome,
            format!("{:.0} s", verdict.observed_for.as_secs_f64()),
            verdict.requests.to_string(),
            verdict.errors.to_string(),
            format!("{:.1}", verdict.spent),
            format!("{:.0}", verdict.allotment),
        ]);
    }
    println!("\n{what}\n{table}");
}
