//! What is to be told about a Rollout: made from the objects that were read, for text and for
//! programs alike.
//!
//! [`report`] is a pure function of the picture and the time. Its JSON form is what `-o json`
//! prints.

use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use serin_core::plan::Plan;
use serin_crds::status::{
    AbortStatus, BudgetStatus, CheckStatus, EvidenceStatus, ReleaseStatus, RolloutStatus,
    WeightsStatus,
};

use crate::facts::Facts;
use crate::picture::Picture;

mod conditions;
mod pods;
mod revisions;
mod routes;
mod steps;
mod waiting;

pub use conditions::Trouble;
pub use pods::PodReport;
pub use revisions::{ReplicaSetReport, RevisionReport, Role};
pub use routes::{RouteReport, Split};
pub use steps::{StepReport, StepState};
pub use waiting::Waiting;

/// Everything that is told about a Rollout.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Progressing, Paused, Degraded or Healthy; none: the controller has not seen it yet.
    pub phase: Option<String>,
    /// FirstDeploy, Progressing, Promoting, Aborted or Stable.
    pub stage: Option<String>,
    /// What it does or waits for, in the controller's words.
    pub message: Option<String>,
    /// Whether the controller has taken in the newest spec.
    pub up_to_date: bool,
    /// The revision that production stands on.
    pub stable_revision: Option<String>,
    /// The revision that the spec asks for.
    pub current_revision: Option<String>,
    /// The step at hand, counted from 1, and how many there are, for example `3/6`.
    pub step: Option<String>,
    /// The canary's share.
    pub weights: Option<WeightsStatus>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// Why the current revision was given up.
    pub abort: Option<AbortStatus>,
    /// The revisions: the canary first, then stable, then older ones that still have pods.
    pub revisions: Vec<RevisionReport>,
    /// How many older revisions without pods are kept.
    pub kept_revisions: usize,
    /// The steps of the plan in force.
    pub steps: Vec<StepReport>,
    /// What the metrics say, for each objective.
    pub evidence: Vec<EvidenceStatus>,
    /// How the service's error budget stands, for each objective.
    pub budgets: Vec<BudgetStatus>,
    /// What each check has found.
    pub checks: Vec<CheckStatus>,
    /// The routes, as they are now.
    pub routes: Vec<RouteReport>,
    /// How the last releases ended, newest first.
    pub releases: Vec<ReleaseStatus>,
    /// Conditions that are not as they should be.
    pub troubles: Vec<Trouble>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

impl Report {
    /// Whether all that the message says is said of the pause that it waits in.
    pub fn waits_in_a_pause(&self) -> bool {
        self.phase.as_deref() == Some("Paused")
            && self.waiting.as_ref().is_some_and(|waiting| waiting.pause)
    }
}

/// Makes the report.
pub fn report(picture: &Picture, now: Timestamp) -> Report {
    let facts = Facts::of(&picture.rollout);
    let mut unread = Vec::new();
    let raw = &picture.rollout.data["status"];
    let status: RolloutStatus = if raw.is_null() {
        RolloutStatus::default()
    } else {
        serde_json::from_value(raw.clone()).unwrap_or_else(|error| {
            unread.push(format!(
                "parts of the status (is this plugin older or newer than the controller?): {error}"
            ));
            RolloutStatus::default()
        })
    };
    let plan = status.plan.as_ref().and_then(|plan| {
        match serde_json::from_value::<Plan>(plan.spec.clone()) {
            Ok(plan) => Some(plan),
            Err(error) => {
                unread.push(format!("the plan in force: {error}"));
                None
            }
        }
    });
    let seen = revisions::Seen {
        replica_sets: note(&picture.replica_sets, "ReplicaSets", &mut unread),
        pods: note(&picture.pods, "pods", &mut unread),
    };
    let (revisions, kept_revisions) = revisions::revisions(&facts, &status, &seen, now);
    let steps = plan
        .as_ref()
        .map(|plan| steps::steps(plan, &status))
        .unwrap_or_default();
    Report {
        waiting: waiting::waiting(&facts, &status, &steps, now),
        namespace: picture.rollout.namespace().unwrap_or_default(),
        name: picture.rollout.name_any(),
        up_to_date: facts.is_up_to_date(),
        step: facts.step(),
        phase: facts.phase,
        stage: facts.stage,
        message: facts.message,
        stable_revision: facts.stable,
        current_revision: facts.current,
        weights: status.weights,
        abort: status.abort,
        revisions,
        kept_revisions,
        steps,
        evidence: status.evidence,
        budgets: status.budgets,
        checks: status.checks,
        routes: picture
            .routes
            .iter()
            .map(|route| routes::route(route, plan.as_ref()))
            .collect(),
        releases: status.history.into_iter().rev().collect(),
        troubles: conditions::troubles(&status.conditions),
        unread,
    }
}

/// What was read; where it could not be, that is noted.
fn note<'a, T>(seen: &'a Result<Vec<T>, String>, what: &str, unread: &mut Vec<String>) -> &'a [T] {
    match seen {
        Ok(items) => items,
        Err(why) => {
            unread.push(format!("{what}: {why}"));
            &[]
        }
    }
}
