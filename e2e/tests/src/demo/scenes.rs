//! One release after the other: declare it, watch it, and hold what came of it against what was
//! promised.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serin_analysis::explain::thousands;
use serin_core::units::Weight;
use serin_crds::status::EvidenceStatus;
use serin_crds::{Rollout, RolloutStatus};

use super::screen::Screen;
use super::stage::Stage;
use super::view::Release;
use crate::manifests::{self, Spec};
use crate::shop::{Shop, is_aborted, is_stable};

/// No release of the demo takes longer.
const LONGEST: Duration = Duration::from_secs(180);

/// One release.
pub(super) struct Scene {
    pub(super) version: &'static str,
    pub(super) release: manifests::Release,
    pub(super) promise: Promise,
    /// What is about to be seen, in a sentence.
    pub(super) says: &'static str,
}

/// How a release must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// It becomes the first stable release.
    FirstStable,
    /// It is rolled back by what is measured, within its error budget.
    RolledBack,
    /// It goes through its steps and becomes stable.
    Promoted,
}

/// How a release ended.
pub(super) struct Outcome {
    pub(super) version: &'static str,
    /// In a word or two.
    pub(super) ended: String,
    /// In Serin's own words.
    pub(super) why: String,
    /// From its declaration to its end.
    pub(super) took: Duration,
    /// When it was under way, on the load's clock; empty for the time before the load.
    pub(super) span: Range<Duration>,
    /// What the metrics said of it last.
    pub(super) evidence: Vec<EvidenceStatus>,
    /// What was promised and not kept.
    pub(super) broken: Vec<String>,
}

/// Plays one release.
pub(super) async fn play(
    stage: &Stage,
    screen: &Screen,
    spec: &Spec,
    scene: &Scene,
) -> Result<Outcome> {
    let shop = stage.shop()?;
    let clock = || {
        stage
            .load
            .as_ref()
            .map_or(Duration::ZERO, serin_load::LoadHandle::elapsed)
    };
    screen.say("");
    screen.scene(scene.says);
    let before = shop
        .api::<Rollout>()
        .get_opt(&shop.name)
        .await?
        .and_then(|rollout| rollout.status)
        .unwrap_or_default();
    let (began, from) = (Instant::now(), clock());
    let declared = shop.declare(spec, &scene.release).await?;
    let release = Release::new(
        scene.version,
        declared.metadata.generation,
        spec,
        stage.load.as_ref(),
    );
    let what = format!("{} has come to its end", scene.version);
    let done = async {
        match scene.promise {
            Promise::FirstStable => shop.until(&what, LONGEST, is_over).await,
            Promise::RolledBack | Promise::Promoted => {
                let rollout = shop.until(&what, LONGEST, is_over).await?;
                canary_is_out(shop).await?;
                Ok(rollout)
            }
        }
    };
    let (ended, evidence) =
        Box::pin(screen.follow(stage.shop()?, stage.load.as_ref(), &release, done)).await?;
    let took = began.elapsed();
    let after = ended?.status.context("a status")?;
    let evidence = if after.evidence.is_empty() {
        evidence
    } else {
        after.evidence.clone()
    };
    let outcome = Outcome {
        version: scene.version,
        ended: ended_as(&before, &after).to_owned(),
        why: why(&after, &evidence),
        took,
        span: from..clock(),
        broken: broken(scene, &before, &after, &evidence),
        evidence,
    };
    screen.say(&format!(
        "  {} is {} after {:.0} s: {}",
        scene.version,
        outcome.ended,
        took.as_secs_f64(),
        outcome.why
    ));
    Ok(outcome)
}

fn is_over(rollout: &Rollout) -> bool {
    is_stable(rollout) || is_aborted(rollout)
}

async fn canary_is_out(shop: &Shop) -> Result<()> {
    shop.eventually(
        "the canary is out of the route",
        Duration::from_secs(10),
        async || Ok(shop.route_share().await? == Weight::ZERO),
    )
    .await
}

/// Waits until the pods of all revisions but the stable one are gone, under load: their end must
/// cost no request either.
pub(super) async fn old_pods_end(stage: &Stage, screen: &Screen) -> Result<()> {
    let shop = stage.shop()?;
    let stable = shop.status().await?.stable_revision;
    let gone = shop.eventually(
        "the old pods are gone",
        Duration::from_secs(60),
        async || {
            let pods = shop.pods().await?;
            let of_stable = |pod: &k8s_openapi::api::core::v1::Pod| {
                let labels = pod.metadata.labels.as_ref();
                labels.and_then(|labels| labels.get(serin_crds::names::REVISION_LABEL))
                    == stable.as_ref()
            };
            Ok(pods.iter().all(of_stable))
        },
    );
    screen
        .wait("The pods of the old releases end, still under load", gone)
        .await
}

fn ended_as(before: &RolloutStatus, after: &RolloutStatus) -> &'static str {
    match (after.stage.as_deref(), &before.stable_revision) {
        (Some("Aborted"), _) => "rolled back",
        (_, None) => "stable",
        _ => "promoted",
    }
}

/// The release's end in Serin's words: for a rollback its reason; a promotion is told with the
/// counts it rests on.
fn why(after: &RolloutStatus, evidence: &[EvidenceStatus]) -> String {
    if after.stage.as_deref() == Some("Aborted") {
        return after
            .abort
            .as_ref()
            .map(|abort| abort.message.clone())
            .unwrap_or_default();
    }
    let last = after.history.last().map(|release| release.message.clone());
    let why = last.or_else(|| after.message.clone()).unwrap_or_default();
    match evidence.first() {
        Some(of) => format!("{why}: {}", counts(of)),
        None => why,
    }
}

fn counts(of: &EvidenceStatus) -> String {
    format!(
        "the canary failed {} of {} requests; stable failed {} of {}",
        thousands(of.canary.errors),
        thousands(of.canary.requests),
        thousands(of.stable.errors),
        thousands(of.stable.requests)
    )
}

/// What was promised of a release and did not come about.
fn broken(
    scene: &Scene,
    before: &RolloutStatus,
    after: &RolloutStatus,
    evidence: &[EvidenceStatus],
) -> Vec<String> {
    let mut checks = Vec::new();
    let aborted = after
        .abort
        .as_ref()
        .filter(|_| after.stage.as_deref() == Some("Aborted"));
    match scene.promise {
        Promise::FirstStable => {
            checks.push((
                after.stable_revision.is_some() && aborted.is_none(),
                "it becomes stable".to_owned(),
            ));
        }
        Promise::RolledBack => {
            let by_measure = aborted.is_some_and(|abort| {
                matches!(
                    abort.cause.as_str(),
                    "Evidence" | "ErrorBudget" | "ServiceBurning"
                ) && abort.by.is_none()
            });
            let cause = aborted.map_or("it was not rolled back", |abort| abort.cause.as_str());
            checks.push((
                by_measure,
                format!("it is rolled back by what is measured, with nobody's help ({cause})"),
            ));
            checks.push((
                after.stable_revision == before.stable_revision,
                "the release before it stays stable".into(),
            ));
            checks.push((!evidence.is_empty(), "the evidence is told".into()));
            for of in evidence {
                let spent = of.budget_spent.unwrap_or(f64::INFINITY);
                let allotment = of.budget_allotment.unwrap_or_default();
                let text = format!(
                    "{}: within its error budget ({spent:.1} of {allotment:.1} errors)",
                    of.objective
                );
                checks.push((spent < allotment, text));
            }
        }
        Promise::Promoted => {
            let promoted = after
                .history
                .last()
                .is_some_and(|last| last.result == "Promoted");
            checks.push((promoted && aborted.is_none(), "it is promoted".to_owned()));
            checks.push((
                after.stable_revision != before.stable_revision,
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

    fn scene(promise: Promise) -> Scene {
        Scene {
            version: "v2",
            release: manifests::Release::good("v2"),
            promise,
            says: "",
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
    fn a_rollback_must_be_by_measurement_and_within_the_budget() {
        let before = status(json!({"stage": "Stable", "stableRevision": "one"}));
        let scene = scene(Promise::RolledBack);
        let told = |after: &RolloutStatus| broken(&scene, &before, after, &after.evidence);
        assert!(told(&rolled_back("Evidence", 7.0)).is_empty());
        assert!(told(&rolled_back("ErrorBudget", 7.0)).is_empty());
        assert_eq!(told(&rolled_back("Command", 7.0)).len(), 1);
        assert_eq!(
            told(&rolled_back("Evidence", 26.0)).len(),
            1,
            "the budget is spent"
        );
        let promoted = status(json!({"stage": "Stable", "stableRevision": "two"}));
        assert_eq!(told(&promoted).len(), 3, "{:?}", told(&promoted));
    }

    #[test]
    fn a_promotion_must_change_the_stable_revision() {
        let before = status(json!({"stage": "Aborted", "stableRevision": "one"}));
        let history = json!([
            {"revision": "three", "result": "Promoted", "at": "2026-01-01T00:00:00Z", "message": "went through its steps"},
        ]);
        let after =
            status(json!({"stage": "Stable", "stableRevision": "three", "history": history}));
        assert!(broken(&scene(Promise::Promoted), &before, &after, &[]).is_empty());
        assert_eq!(
            broken(
                &scene(Promise::Promoted),
                &before,
                &rolled_back("Evidence", 1.0),
                &[]
            )
            .len(),
            2
        );
        assert_eq!(
            broken(&scene(Promise::Promoted), &after, &after, &[]).len(),
            1
        );
    }

    #[test]
    fn a_rollback_tells_its_reason_and_a_promotion_its_counts() {
        assert_eq!(why(&rolled_back("Evidence", 1.0), &[]), "the canary failed");
        let release = json!({"revision": "r", "result": "Promoted", "at": "2026-01-01T00:00:00Z", "message": "steps done"});
        let promoted = status(json!({"stage": "Stable", "history": [release]}));
        assert_eq!(why(&promoted, &[]), "steps done");
        let counts = json!({
            "objective": "availability", "canary": {"requests": 3000.0, "errors": 2.0},
            "stable": {"requests": 9000.0, "errors": 5.0},
        });
        let evidence: EvidenceStatus = serde_json::from_value(counts).unwrap();
        let told = why(&promoted, &[evidence]);
        assert_eq!(
            told,
            "steps done: the canary failed 2 of 3,000 requests; stable failed 5 of 9,000"
        );
    }
}
