//! How releases are judged on the real cluster: those that are as good as stable, and those that
//! fail ten times as often.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};
use futures::future::try_join_all;
use jiff::Timestamp;
use serde_json::json;
use serin_crds::RolloutStatus;
use serin_load::LoadHandle;

use crate::env::Env;
use crate::manifests::{Release, Spec};
use crate::shop::{Shop, is_aborted, is_stable};

/// How much to do. Several services are released side by side.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Releases that are as good as stable.
    pub same: u32,
    /// Releases that fail ten times as often.
    pub worse: u32,
    /// Services side by side.
    pub services: u32,
    /// Requests a second to each of them.
    pub rate_per_second: u32,
}

/// How one release ended.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Its namespace.
    pub namespace: String,
    /// Its version.
    pub version: String,
    /// Whether it was rolled back.
    pub rolled_back: bool,
    /// Why, in one CamelCase word, where it was.
    pub cause: Option<String>,
    /// When it was declared.
    pub declared_at: Timestamp,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// From its first answer to the decision.
    pub judged_for: Duration,
    /// Requests that it has answered by then.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// What it may spend of the error budget, in errors.
    pub allotment: f64,
    /// What it has spent, in errors.
    pub spent: f64,
}

/// Releases them all and tells how each ended.
///
/// # Errors
/// When a good release is rolled back or a bad one is not, when one spends more than its allotment,
/// or a request is lost to routing.
pub async fn run(env: &Env, options: Options) -> Result<()> {
    let services = options.services.max(1);
    let share = |count: u32, index: u32| count / services + u32::from(index < count % services);
    let shops = (0..services).map(|index| {
        let own = Options {
            same: share(options.same, index),
            worse: share(options.worse, index),
            ..options
        };
        service(env, index, own)
    });
    let judged: Vec<(Vec<Verdict>, Vec<Verdict>)> = try_join_all(shops).await?;
    let (same, worse): (Vec<_>, Vec<_>) = judged.into_iter().unzip();
    let (same, worse) = (same.concat(), worse.concat());
    print("as good as stable", &same);
    print("ten times the errors", &worse);
    let rolled_back = |verdicts: &[Verdict]| {
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
    ensure!(over.is_none(), "it spent more than its allotment: {over:?}");
    Ok(())
}

async fn service(env: &Env, index: u32, options: Options) -> Result<(Vec<Verdict>, Vec<Verdict>)> {
    let shop = Shop::open(env, &format!("serin-verdicts-{index}")).await?;
    let spec = |last: &str| Spec {
        steps: Some(json!([
            {"setWeight": 20}, {"pause": {"duration": "20s"}}, {"setWeight": 50}, {"pause": {"duration": last}},
        ])),
        scale_down_delay_seconds: 2,
        ..Spec::default()
    };
    shop.first(&spec("40s"), &Release::good("v0")).await?;
    let load = shop.load(options.rate_per_second)?;
    // What is compared with must have been seen for a while.
    let history = Duration::from_secs(30);
    shop.eventually("it has served for a while", history * 2, async || {
        Ok(load.elapsed() > history)
    })
    .await?;
    let (mut same, mut worse) = (Vec::new(), Vec::new());
    for number in 1..=options.same {
        same.push(
            release(
                &shop,
                &load,
                &spec("40s"),
                &Release::good(&format!("same-{number}")),
            )
            .await?,
        );
    }
    for number in 1..=options.worse {
        let bad = Release::failing(&format!("worse-{number}"), "0.5");
        worse.push(release(&shop, &load, &spec("900s"), &bad).await?);
    }
    let report = load.stop().await;
    ensure!(
        report.lost_nothing(),
        "{}\n{:#?}",
        report.summary(),
        report.details
    );
    shop.close().await?;
    Ok((same, worse))
}

async fn release(
    shop: &Shop,
    load: &LoadHandle,
    spec: &Spec,
    release: &Release,
) -> Result<Verdict> {
    let declared_at = Timestamp::now();
    shop.declare(spec, release).await?;
    let ended = shop
        .until("decided", Duration::from_secs(1_000), |rollout| {
            is_stable(rollout) || is_aborted(rollout)
        })
        .await?;
    let decided_at = Timestamp::now();
    let status = ended.status.context("a status")?;
    let report = load.report_so_far();
    let answers = report.all();
    let answers = answers.of_version(&release.version);
    let first = answers
        .answers()
        .next()
        .context("an answer of the canary")?;
    let counts = answers.counts();
    let (allotment, spent) = budget(&status);
    let verdict = Verdict {
        namespace: shop.namespace.clone(),
        version: release.version.clone(),
        rolled_back: status.stage.as_deref() == Some("Aborted"),
        cause: status.abort.map(|abort| abort.cause),
        declared_at,
        decided_at,
        judged_for: Duration::try_from(decided_at.duration_since(report.wall_clock(first.ended())))
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
        verdict.judged_for.as_secs_f64()
    );
    Ok(verdict)
}

/// Allotted and spent, in errors, of the one objective.
fn budget(status: &RolloutStatus) -> (f64, f64) {
    let of = status.evidence.first();
    let allotment = of
        .and_then(|evidence| evidence.budget_allotment)
        .unwrap_or(f64::INFINITY);
    (
        allotment,
        of.and_then(|evidence| evidence.budget_spent)
            .unwrap_or_default(),
    )
}

fn print(what: &str, verdicts: &[Verdict]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "SERVICE", "RELEASE", "DECLARED", "DECIDED", "OUTCOME", "JUDGED", "REQUESTS", "ERRORS",
        "SPENT", "ALLOTTED",
    ]);
    for verdict in verdicts {
        let outcome = verdict
            .cause
            .clone()
            .unwrap_or_else(|| "promoted".to_owned());
        table.add_row([
            verdict.namespace.clone(),
            verdict.version.clone(),
            format!("{:.0}", verdict.declared_at),
            format!("{:.0}", verdict.decided_at),
            outcome,
            format!("{:.0} s", verdict.judged_for.as_secs_f64()),
            verdict.requests.to_string(),
            verdict.errors.to_string(),
            format!("{:.1}", verdict.spent),
            format!("{:.0}", verdict.allotment),
        ]);
    }
    println!("\n{what}\n{table}");
}
