//! The report on a Rollout: a pure function of the objects and the time.
//!
//! `-o json` and `-o yaml` print it as it is; [`crate::view`] renders it as text.

use jiff::Timestamp;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serin_core::observation::Observation;
use serin_core::state::{Phase, Stage, Weights};
use serin_crds::RolloutStatus;
use serin_crds::status::{BudgetStatus, CheckStatus, EvidenceStatus, PersistedStatus};

use crate::resources::RolloutResources;
use crate::rollout_summary::RolloutSummary;
use crate::status_value::StatusValue;
use crate::traffic_share::TrafficShare;

mod conditions;
mod holds;
mod outcomes;
mod pods;
mod revisions;
mod routes;
mod steps;
mod wait_reason;

pub use conditions::UnhealthyCondition;
pub use holds::HoldReport;
pub use outcomes::{AbortReport, ReleaseReport};
pub use pods::PodReport;
pub use revisions::{ReplicaSetReport, RevisionReport, Role};
pub use routes::{RouteReport, RouteSplit};
pub use steps::{StepReport, StepState};
use wait_reason::PauseReport;
pub use wait_reason::WaitReason;

/// The report on a Rollout.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The phase. `None` if the controller has not reconciled the Rollout yet.
    pub phase: Option<StatusValue<Phase>>,
    /// The stage of the release.
    pub stage: Option<StatusValue<Stage>>,
    /// Status message of the controller.
    pub message: Option<String>,
    /// Whether the controller has observed the latest spec.
    pub up_to_date: bool,
    /// The stable revision.
    pub stable_revision: Option<String>,
    /// The revision of the current spec.
    pub current_revision: Option<String>,
    /// The current step, counted from 1, and the number of steps, for example `3/6`.
    pub step: Option<String>,
    /// The canary weights, as reported.
    pub weights: Option<Weights>,
    /// The canary's share of the traffic. `None` if there is only one revision.
    pub canary: Option<TrafficShare>,
    /// Whether all of the traffic moves at once. Not a part of the output.
    #[serde(skip)]
    pub is_blue_green: bool,
    /// What the release is waiting for.
    pub waiting: Option<WaitReason>,
    /// Everything that stops the release, the most important first.
    pub holds: Vec<HoldReport>,
    /// The abort of the current revision.
    pub abort: Option<AbortReport>,
    /// What Serin would have done with the releases of another controller. `None` if the Rollout
    /// manages its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
    /// The revisions: canary first, then stable, then older ones that still have pods.
    pub revisions: Vec<RevisionReport>,
    /// Number of older revisions without pods.
    pub kept_revisions: usize,
    /// The steps of the active plan.
    pub steps: Vec<StepReport>,
    /// The evidence of each objective.
    pub evidence: Vec<EvidenceStatus>,
    /// The service's error budget for each objective.
    pub budgets: Vec<BudgetStatus>,
    /// The result of each check.
    pub checks: Vec<CheckStatus>,
    /// The current routes.
    pub routes: Vec<RouteReport>,
    /// The last releases, newest first.
    pub releases: Vec<ReleaseReport>,
    /// Conditions in an unhealthy state.
    pub unhealthy_conditions: Vec<UnhealthyCondition>,
    /// What could not be read, and why.
    #[serde(rename = "unreadable")]
    pub read_errors: Vec<String>,
}

impl Report {
    /// What the strategy calls the revision that is released.
    pub fn released_side(&self) -> &'static str {
        if self.is_blue_green {
            "new revision"
        } else {
            "canary"
        }
    }

    /// Whether the message of the controller adds nothing to what the release is waiting for.
    pub fn is_message_redundant(&self) -> bool {
        let Some(waiting) = &self.waiting else {
            return false;
        };
        let is_paused = self
            .phase
            .as_ref()
            .is_some_and(|phase| phase.equals(Phase::Paused));
        let repeats_hold = waiting.code.is_some()
            && self
                .message
                .as_ref()
                .is_some_and(|message| message.ends_with(&waiting.what));
        repeats_hold || (is_paused && waiting.pause && waiting.code.is_none())
    }
}

/// Fields of the status whose unknown values are shown as they are.
const LENIENT_FIELDS: [&str; 6] = ["phase", "stage", "pause", "abort", "holds", "history"];

/// Creates the report.
pub fn report(resources: &RolloutResources, now: Timestamp) -> Report {
    let summary = RolloutSummary::from_object(&resources.rollout);
    let raw = &resources.rollout.data["status"];
    let PersistedStatus {
        status, unreadable, ..
    } = RolloutStatus::read(raw.clone());
    let mut read_errors: Vec<String> = unreadable
        .iter()
        .filter(|unreadable| !LENIENT_FIELDS.contains(&&*unreadable.field))
        .map(|unreadable| {
            format!("the status (plugin and controller versions may differ): {unreadable}")
        })
        .collect();
    let state = &status.state;
    let plan = state.plan.as_ref().map(|plan| &plan.spec);
    let objects = revisions::RevisionResources {
        replica_sets: items_or_note(&resources.replica_sets, "ReplicaSets", &mut read_errors),
        pods: items_or_note(&resources.pods, "pods", &mut read_errors),
    };
    let canary = canary_share(resources, &summary);
    let (revisions, kept_revisions) =
        revisions::revisions(&summary, canary, &state.draining, &objects, now);
    let holds: Vec<HoldReport> = readable_items(&raw["holds"]);
    let position = wait_reason::Position {
        pause: PauseReport::deserialize(&raw["pause"]).ok(),
        stage_since: state.stage_since,
    };
    let steps = plan.map_or_else(Vec::new, |plan| steps::steps(plan, state));
    let mut releases: Vec<ReleaseReport> = readable_items(&raw["history"]);
    releases.reverse();
    Report {
        waiting: wait_reason::wait_reason(&summary, &position, &holds, &steps, now),
        namespace: resources.rollout.namespace().unwrap_or_default(),
        name: resources.rollout.name_any(),
        up_to_date: summary.is_up_to_date(),
        step: summary.step_label(),
        phase: summary.phase,
        stage: summary.stage,
        message: summary.message,
        stable_revision: summary.stable_revision,
        current_revision: summary.current_revision,
        weights: raw["weights"].is_object().then_some(state.weights),
        canary,
        is_blue_green: summary.is_blue_green,
        holds,
        abort: AbortReport::deserialize(&raw["abort"]).ok(),
        observation: state.observation.clone(),
        revisions,
        kept_revisions,
        steps,
        evidence: status.evidence,
        budgets: status.budgets,
        checks: status.checks,
        routes: resources
            .routes
            .iter()
            .map(|route| routes::route(route, plan))
            .collect(),
        releases,
        unhealthy_conditions: conditions::unhealthy_conditions(&status.conditions),
        read_errors,
    }
}

/// The items of a list that this version can read. They are read leniently: a value that it does not
/// know is shown as it is.
fn readable_items<T: DeserializeOwned>(list: &Value) -> Vec<T> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| T::deserialize(item).ok())
        .collect()
}

/// The canary's share of the traffic. `None` if there is only one revision.
fn canary_share(resources: &RolloutResources, summary: &RolloutSummary) -> Option<TrafficShare> {
    let current = summary.current_revision.as_deref()?;
    let stable = summary.stable_revision.as_deref()?;
    if current == stable {
        return None;
    }
    let sets = resources.replica_sets.as_deref().ok();
    let available = sets.map(|sets| revisions::available_pods(sets, current));
    summary
        .desired_weight
        .map(|desired| TrafficShare::for_canary(desired, summary.verified_weight, available))
}

/// The items, or an empty slice and a note in `read_errors`.
fn items_or_note<'a, T>(
    result: &'a Result<Vec<T>, String>,
    what: &str,
    read_errors: &mut Vec<String>,
) -> &'a [T] {
    match result {
        Ok(items) => items,
        Err(why) => {
            read_errors.push(format!("{what}: {why}"));
            &[]
        }
    }
}
