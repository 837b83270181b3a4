//! Runs one release of the demo: applies it, follows it, and compares the result with the expected
//! one.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serin_analysis::explain::thousands;
use serin_core::state::{AbortCause, ReleaseResult, Stage};
use serin_core::units::{Revision, Weight};
use serin_crds::names::REVISION_LABEL;
use serin_crds::status::EvidenceStatus;
use serin_crds::{Rollout, RolloutStatus};

use super::environment::DemoEnvironment;
use super::screen::Screen;
use super::view::ReleaseProgress;
use crate::manifests::{self, RolloutOptions};
use crate::shop::{Shop, is_aborted, is_stable};

/// Timeout of one release.
const TIMEOUT: Duration = Duration::from_secs(180);

/// One release of the demo.
pub(super) struct Scene {
    pub(super) version: &'static str,
    pub(super) release: manifests::SampleRelease,
    pub(super) expected_end: ExpectedEnd,
    /// A sentence about what to expect.
    pub(super) announcement: &'static str,
}

/// The expected end of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedEnd {
    /// It becomes the first stable release.
    FirstStable,
    /// It is rolled back by the analysis, within its error budget.
    RolledBack,
    /// It completes its steps and becomes stable.
    Promoted,
}

/// How a release ended.
pub(super) struct ReleaseOutcome {
    pub(super) version: &'static str,
    /// The outcome in one or two words.
    pub(super) ended: String,
    /// The reason in the status.
    pub(super) reason: String,
    /// Time from applying the release to its end.
    pub(super) took: Duration,
    /// Time span of the release since the start of the load. Empty before the load started.
    pub(super) span: Range<Duration>,
    /// The last evidence of the release.
    pub(super) evidence: Vec<EvidenceStatus>,
    /// The expectations that were not met.
    pub(super) unmet: Vec<String>,
}

/// Runs one release.
pub(super) async fn run_scene(
    environment: &DemoEnvironment,
    screen: &Screen,
    spec: &RolloutOptions,
    scene: &Scene,
) -> Result<ReleaseOutcome> {
    let shop = environment.shop()?;
    let clock = || {
        environment
            .load
            .as_ref()
            .map_or(Duration::ZERO, serin_load::LoadHandle::elapsed)
    };
    screen.print("");
    screen.scene(scene.announcement);
    let before = shop
        .api::<Rollout>()
        .get_opt(&shop.name)
        .await?
        .and_then(|rollout| rollout.status)
        .unwrap_or_default();
    let (began, from) = (Instant::now(), clock());
    let declared = shop.apply_release(spec, &scene.release).await?;
    let release = ReleaseProgress::new(
        scene.version,
        declared.metadata.generation,
        spec,
        environment.load.as_ref(),
    );
    let what = format!("{} has ended", scene.version);
    let done = async {
        match scene.expected_end {
            ExpectedEnd::FirstStable => shop.wait_until(&what, TIMEOUT, is_over).await,
            ExpectedEnd::RolledBack | ExpectedEnd::Promoted => {
                let rollout = shop.wait_until(&what, TIMEOUT, is_over).await?;
                wait_until_canary_has_no_weight(shop).await?;
                Ok(rollout)
            }
        }
    };
    let (ended, evidence) = Box::pin(screen.follow(
        environment.shop()?,
        environment.load.as_ref(),
        &release,
        done,
    ))
    .await?;
    let took = began.elapsed();
    let after = ended?.status.context("a status")?;
    let evidence = if after.evidence.is_empty() {
        evidence
    } else {
        after.evidence.clone()
    };
    let outcome = ReleaseOutcome {
        version: scene.version,
        ended: ended_as(&before, &after).to_owned(),
        reason: reason(&after, &evidence),
        took,
        span: from..clock(),
        unmet: unmet(scene, &before, &after, &evidence),
        evidence,
    };
    screen.print(&format!(
        "  {} is {} after {:.0} s: {}",
        scene.version,
        outcome.ended,
        took.as_secs_f64(),
        outcome.reason
    ));
    Ok(outcome)
}

fn is_over(rollout: &Rollout) -> bool {
    is_stable(rollout) || is_aborted(rollout)
}

async fn wait_until_canary_has_no_weight(shop: &Shop) -> Result<()> {
    shop.eventually(
        "the canary has no weight in the route",
        Duration::from_secs(10),
        async || Ok(shop.route_share().await? == Weight::ZERO),
    )
    .await
}

/// Waits, under load, until only pods of the stable revision are left: their termination must not
/// lose requests.
pub(super) async fn wait_for_old_pods(
    environment: &DemoEnvironment,
    screen: &Screen,
) -> Result<()> {
    let shop = environment.shop()?;
    let stable = shop.status().await?.state.stable_revision;
    let gone = shop.eventually(
        "the old pods are gone",
        Duration::from_secs(60),
        async || {
            let pods = shop.pods().await?;
            let of_stable = |pod: &k8s_openapi::api::core::v1::Pod| {
                let labels = pod.metadata.labels.as_ref();
                let revision = labels.and_then(|labels| labels.get(REVISION_LABEL));
                revision.map(String::as_str) == stable.as_ref().map(Revision::as_str)
            };
            Ok(pods.iter().all(of_stable))
        },
    );
    screen
        .wait(
            "Waiting for the old pods to terminate, still under load",
            gone,
        )
        .await
}

fn ended_as(before: &RolloutStatus, after: &RolloutStatus) -> &'static str {
    match (after.state.stage, &before.state.stable_revision) {
        (Stage::Aborted, _) => "rolled back",
        (_, None) => "stable",
        _ => "promoted",
    }
}

/// The reason of the end: the message of a rollback, or the message and the counts of a promotion.
fn reason(after: &RolloutStatus, evidence: &[EvidenceStatus]) -> String {
    if after.state.stage == Stage::Aborted {
        return after
            .state
            .abort
            .as_ref()
            .map(|abort| abort.message.to_string())
            .unwrap_or_default();
    }
    let last = after.state.history.last().map(|release| &release.message);
    let reason = last.unwrap_or(&after.state.message);
    match evidence.first() {
        Some(evidence) => format!("{reason}: {}", counts(evidence)),
        None => reason.to_string(),
    }
}

fn counts(evidence: &EvidenceStatus) -> String {
    format!(
        "the canary failed {} of {} requests; stable failed {} of {}",
        thousands(evidence.canary.errors),
        thousands(evidence.canary.requests),
        thousands(evidence.stable.errors),
        thousands(evidence.stable.requests)
    )
}

/// The expectations of a release that were not met.
fn unmet(
    scene: &Scene,
    before: &RolloutStatus,
    after: &RolloutStatus,
    evidence: &[EvidenceStatus],
) -> Vec<String> {
    let mut checks = Vec::new();
    let aborted = after
        .state
        .abort
        .as_ref()
        .filter(|_| after.state.stage == Stage::Aborted);
    match scene.expected_end {
        ExpectedEnd::FirstStable => {
            checks.push((
                after.state.stable_revision.is_some() && aborted.is_none(),
                "it becomes stable".to_owned(),
            ));
        }
        ExpectedEnd::RolledBack => {
            let by_analysis = aborted.is_some_and(|abort| {
                matches!(
                    abort.cause,
                    AbortCause::Evidence | AbortCause::ErrorBudget | AbortCause::ServiceBurning
                ) && abort.by.is_none()
            });
            let cause = aborted.map_or("it was not rolled back", |abort| abort.cause.as_str());
            checks.push((
                by_analysis,
                format!("it is rolled back automatically by the analysis ({cause})"),
            ));
            checks.push((
                after.state.stable_revision == before.state.stable_revision,
                "the previous release stays stable".into(),
            ));
            checks.push((!evidence.is_empty(), "the status has evidence".into()));
            for evidence in evidence {
                let spent = evidence.budget_spent.unwrap_or(f64::INFINITY);
                let allotment = evidence.budget_allotment.unwrap_or_default();
                let text = format!(
                    "{}: within its error budget ({spent:.1} of {allotment:.1} errors)",
                    evidence.objective
                );
                checks.push((spent < allotment, text));
            }
        }
        ExpectedEnd::Promoted => {
            let promoted = after
                .state
                .history
                .last()
                .is_some_and(|last| last.result == ReleaseResult::Promoted);
            checks.push((promoted && aborted.is_none(), "it is promoted".to_owned()));
            checks.push((
                after.state.stable_revision != before.state.stable_revision,
                "it becomes the stable release".to_owned(),
            ));
        }
    }
    let version = scene.version;
    checks
        .into_iter()
        .filter(|(kept, _)| !kept)
        .map(|(_, what)| format!("{version}: {what}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> RolloutStatus {
        serde_json::from_value(value).unwrap()
    }

    fn scene(expected_end: ExpectedEnd) -> Scene {
        Scene {
            version: "v2",
            release: manifests::SampleRelease::good("v2"),
            expected_end,
            announcement: "",
        }
    }

    fn rolled_back(cause: &str, spent: f64) -> RolloutStatus {
        status(json!({
            "stage": "Aborted", "stableRevision": "one", "currentRevision": "two",
            "abort": {"revision": "two", "at": "2026-01-01T00:00:00Z", "cause": cause, "message": "the canary failed"},
            "evidence": [{"objective": "availability", "budgetAllotment": 26.0, "budgetSpent": spent}],
        }))
    }

    #[test]
    fn a_rollback_must_come_from_analysis_and_stay_within_the_budget() {
        let before = status(json!({"stage": "Stable", "stableRevision": "one"}));
        let scene = scene(ExpectedEnd::RolledBack);
        let unmet_for = |after: &RolloutStatus| unmet(&scene, &before, after, &after.evidence);
        assert!(unmet_for(&rolled_back("Evidence", 7.0)).is_empty());
        assert!(unmet_for(&rolled_back("ErrorBudget", 7.0)).is_empty());
        assert_eq!(unmet_for(&rolled_back("Command", 7.0)).len(), 1);
        assert_eq!(
            unmet_for(&rolled_back("Evidence", 26.0)).len(),
            1,
            "the budget is exhausted"
        );
        let promoted = status(json!({"stage": "Stable", "stableRevision": "two"}));
        assert_eq!(unmet_for(&promoted).len(), 3, "{:?}", unmet_for(&promoted));
    }

    #[test]
    fn a_promotion_must_change_the_stable_revision() {
        let before = status(json!({"stage": "Aborted", "stableRevision": "one"}));
        let history = json!([
            {"revision": "three", "result": "Promoted", "at": "2026-01-01T00:00:00Z", "message": "completed its steps"},
        ]);
        let after =
            status(json!({"stage": "Stable", "stableRevision": "three", "history": history}));
        assert!(unmet(&scene(ExpectedEnd::Promoted), &before, &after, &[]).is_empty());
        assert_eq!(
            unmet(
                &scene(ExpectedEnd::Promoted),
                &before,
                &rolled_back("Evidence", 1.0),
                &[]
            )
            .len(),
            2
        );
        assert_eq!(
            unmet(&scene(ExpectedEnd::Promoted), &after, &after, &[]).len(),
            1
        );
    }

    #[test]
    fn a_rollback_shows_its_reason_and_a_promotion_its_counts() {
        assert_eq!(
            reason(&rolled_back("Evidence", 1.0), &[]),
            "the canary failed"
        );
        let release = json!({"revision": "r", "result": "Promoted", "at": "2026-01-01T00:00:00Z", "message": "steps done"});
        let promoted = status(json!({"stage": "Stable", "history": [release]}));
        assert_eq!(reason(&promoted, &[]), "steps done");
        let counts = json!({
            "objective": "availability", "canary": {"requests": 3000.0, "errors": 2.0},
            "stable": {"requests": 9000.0, "errors": 5.0},
        });
        let evidence: EvidenceStatus = serde_json::from_value(counts).unwrap();
        let text = reason(&promoted, &[evidence]);
        assert_eq!(
            text,
            "steps done: the canary failed 2 of 3,000 requests; stable failed 5 of 9,000"
        );
    }
}
