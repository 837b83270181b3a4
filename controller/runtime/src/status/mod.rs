//! Builds the status of a Rollout from its state and the observed objects. Pure.

mod conditions;
pub mod patch;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use serde_json::Value;
use serin_core::blue_green::switched_share;
use serin_core::observed::Observed;
use serin_core::plan::Plan;
use serin_core::state::{Stage, State};
use serin_core::text::{Message, Name};
use serin_core::units::Revision;
use serin_crds::names::REVISION_LABEL;
use serin_crds::status::{
    AnalysisStatus, BudgetStatus, CheckStatus, EvidenceStatus, OriginalRoute, PinnedRevision,
    RolloutStatus, SELECTOR_BYTES, SummaryStatus,
};

use crate::observe::PodCounts;

pub use conditions::{
    conditions, incompatible_conditions, invalid_spec_conditions, keep_quarantine,
    quarantine_conditions,
};

/// Observations (pods, router status) are written with the next change of state, or after they were
/// stable for this time.
pub const STABLE_FOR: Duration = Duration::from_secs(5);
/// The same while many Rollouts wait for the API server. In an update of all Rollouts, their pods take
/// longer to become ready, and would cost one more write for each.
pub const STABLE_FOR_WHILE_BUSY: Duration = Duration::from_secs(30);
/// Evidence changes with every scrape. It is written with the next change of state, or at this
/// interval.
pub const EVIDENCE_INTERVAL: Duration = Duration::from_secs(15);

/// The inputs of the status.
#[derive(Clone, Debug)]
pub struct StatusInputs<'a> {
    /// The new state.
    pub state: &'a State,
    /// The plan used for the decision.
    pub plan: &'a Plan,
    /// The observed objects used for the decision.
    pub observed: &'a Observed,
    /// The numbers of pods.
    pub counts: PodCounts,
    /// The label selector of the pods whose load an autoscaler measures.
    pub selector: Option<String>,
    /// The evidence of each objective.
    pub evidence: Vec<EvidenceStatus>,
    /// The error budget of each objective.
    pub budgets: Vec<BudgetStatus>,
    /// The result of each check.
    pub checks: Vec<CheckStatus>,
    /// A one-line summary of the evidence.
    pub evidence_summary: Option<String>,
    /// The checkpoint of the analysis.
    pub analysis: Option<AnalysisStatus>,
    /// The routes as they were before the first change.
    pub original_routes: Vec<OriginalRoute>,
    /// The digests of the images of revisions.
    pub image_digests: Vec<PinnedRevision>,
    /// A message about effects that fail repeatedly.
    pub failing_effects: Option<String>,
    /// The current time.
    pub now: Timestamp,
}

/// How soon a new status must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing has changed.
    Never,
    /// Only evidence or messages have changed.
    Eventually,
    /// Observations have changed.
    WhenStable,
    /// The state or the original routes have changed.
    Now,
}

/// Builds the new status, with shorter messages if it would be too large. Transition times of
/// conditions are taken from `before`.
pub fn status(inputs: StatusInputs<'_>, before: &RolloutStatus) -> RolloutStatus {
    let mut status = RolloutStatus {
        summary: Some(summary(&inputs)),
        conditions: conditions(&inputs, &before.conditions),
        state: inputs.state.clone(),
        evidence: inputs.evidence,
        budgets: inputs.budgets,
        checks: inputs.checks,
        analysis: inputs.analysis,
        original_routes: inputs.original_routes,
        image_digests: inputs.image_digests,
        replicas: to_i32(inputs.counts.replicas),
        updated_replicas: to_i32(inputs.counts.updated),
        ready_replicas: to_i32(inputs.counts.ready),
        available_replicas: to_i32(inputs.counts.available),
        selector: inputs.selector,
    };
    status.limit_size();
    status
}

/// How soon the status `after` must replace the status `before`.
///
/// Most reconciles change nothing, so the statuses are compared before anything is copied.
pub fn urgency(before: &RolloutStatus, after: &RolloutStatus) -> Urgency {
    if is_unchanged(before, after) {
        return Urgency::Never;
    }
    let (before, after) = (
        without_volatile_fields(before),
        without_volatile_fields(after),
    );
    if before == after {
        return Urgency::Eventually;
    }
    // An autoscaler must measure a side before its first request. That it measures one without
    // requests for some seconds more does no harm.
    let measures_more = selects_more(before.selector.as_deref(), after.selector.as_deref());
    if !measures_more && decided_fields(before) == decided_fields(after) {
        Urgency::WhenStable
    } else {
        Urgency::Now
    }
}

/// Whether two statuses are equal, apart from the notation of the numbers in the checkpoint.
fn is_unchanged(before: &RolloutStatus, after: &RolloutStatus) -> bool {
    // Every field is named, so that none can be forgotten.
    let RolloutStatus {
        state,
        summary,
        evidence,
        budgets,
        checks,
        analysis,
        original_routes,
        image_digests,
        conditions,
        replicas,
        updated_replicas,
        ready_replicas,
        available_replicas,
        selector,
    } = before;
    *replicas == after.replicas
        && *updated_replicas == after.updated_replicas
        && *ready_replicas == after.ready_replicas
        && *available_replicas == after.available_replicas
        && *selector == after.selector
        && *state == after.state
        && *summary == after.summary
        && *conditions == after.conditions
        && *evidence == after.evidence
        && *budgets == after.budgets
        && *checks == after.checks
        && *original_routes == after.original_routes
        && *image_digests == after.image_digests
        && is_same_analysis(analysis.as_ref(), after.analysis.as_ref())
}

fn is_same_analysis(before: Option<&AnalysisStatus>, after: Option<&AnalysisStatus>) -> bool {
    let (Some(before), Some(after)) = (before, after) else {
        return before.is_none() && after.is_none();
    };
    let AnalysisStatus {
        revision,
        started_at,
        checkpoint,
    } = before;
    *revision == after.revision
        && *started_at == after.started_at
        && is_same_json(checkpoint, &after.checkpoint)
}

/// Whether two JSON values are equal if every number is read as a float. The API server returns
/// `20.0` as `20`.
fn is_same_json(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same_json(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_same = |(name, one): (&String, &Value)| {
                other
                    .get(name)
                    .is_some_and(|other| is_same_json(one, other))
            };
            one.len() == other.len() && one.iter().all(is_same)
        }
        _ => one == other,
    }
}

/// Removes the fields that change with every scrape.
///
/// Statuses that are equal without these fields count as unchanged for [`Urgency::WhenStable`].
pub fn without_volatile_fields(status: &RolloutStatus) -> RolloutStatus {
    // What is removed is not copied first: evidence, checks and the checkpoint are large.
    let mut state = status.state.clone();
    state.message = Message::default();
    // This time follows from the weights. Until it is written, it is different in every reconcile.
    state.weights.since = None;
    for hold in &mut state.holds {
        hold.message = Message::default();
        hold.since = None;
    }
    // The numbers change in every reconcile. The budget state is kept.
    let budgets = status.budgets.iter().map(|budget| BudgetStatus {
        objective: budget.objective.clone(),
        state: budget.state,
        // It changes once a day.
        placebo: budget.placebo.clone(),
        ..BudgetStatus::default()
    });
    let summary = status.summary.as_ref().map(|summary| SummaryStatus {
        evidence: None,
        ..summary.clone()
    });
    // The start of an analysis is part of the state. Its progress is not.
    let analysis = status.analysis.as_ref().map(|analysis| AnalysisStatus {
        revision: analysis.revision.clone(),
        started_at: analysis.started_at,
        checkpoint: Value::Null,
    });
    let conditions = status.conditions.iter().map(|condition| Condition {
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        reason: condition.reason.clone(),
        status: condition.status.clone(),
        type_: condition.type_.clone(),
    });
    RolloutStatus {
        state,
        summary,
        evidence: Vec::new(),
        budgets: budgets.collect(),
        checks: Vec::new(),
        analysis,
        original_routes: status.original_routes.clone(),
        image_digests: status.image_digests.clone(),
        conditions: conditions.collect(),
        replicas: status.replicas,
        updated_replicas: status.updated_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        selector: status.selector.clone(),
    }
}

/// Removes the observations (pods, router status) from a status, so that only decisions remain.
fn decided_fields(mut status: RolloutStatus) -> RolloutStatus {
    (
        status.replicas,
        status.updated_replicas,
        status.ready_replicas,
        status.available_replicas,
    ) = (0, 0, 0, 0);
    status.selector = None;
    status.summary = None;
    status.budgets = Vec::new();
    status.state.holds = Vec::new();
    status
        .conditions
        .retain(|condition| !conditions::OBSERVED_CONDITIONS.contains(&condition.type_.as_str()));
    status
}

fn summary(inputs: &StatusInputs<'_>) -> SummaryStatus {
    let total = inputs.plan.steps().len();
    let step = match inputs.state.stage {
        Stage::Progressing | Stage::Promoting if total > 0 => {
            let done = inputs.state.step.map_or(total, |step| step.index);
            Some(Name::from(format!("{}/{total}", (done + 1).min(total))))
        }
        _ => None,
    };
    let weight = match inputs.state.stage {
        Stage::FirstDeploy => None,
        _ if inputs.plan.routing().is_some() => Some(routed_weight(inputs)),
        _ if inputs.plan.switches_service() => {
            Some(switched_share(inputs.observed).to_string().into())
        }
        _ => Some(inputs.state.weights.desired.to_string().into()),
    };
    SummaryStatus {
        step,
        weight,
        evidence: inputs.evidence_summary.clone().map(Name::from),
    }
}

/// The weight that the routes have, or the desired weight if the routes cannot be read.
fn routed_weight(inputs: &StatusInputs<'_>) -> Name {
    let weights = inputs
        .observed
        .routes
        .iter()
        .filter_map(|route| route.canary_weight.as_ref().ok());
    weights
        .max()
        .copied()
        .unwrap_or(inputs.state.weights.desired)
        .to_string()
        .into()
}

/// Formats a selector for the scale subresource. `None` if an operator is unknown or the text is
/// longer than [`SELECTOR_BYTES`]: a part of it would select other pods.
pub fn selector_string(selector: &LabelSelector) -> Option<String> {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"));
    let expressions = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|expression| {
            let values = expression.values.as_deref().unwrap_or_default().join(",");
            Some(match expression.operator.as_str() {
                "In" => format!("{} in ({values})", expression.key),
                "NotIn" => format!("{} notin ({values})", expression.key),
                "Exists" => expression.key.clone(),
                "DoesNotExist" => format!("!{}", expression.key),
                _ => return None,
            })
        });
    equal
        .map(Some)
        .chain(expressions)
        .collect::<Option<Vec<_>>>()
        .map(|parts| parts.join(","))
        .filter(|selector| selector.len() <= SELECTOR_BYTES)
}

/// Whether a selector of [`scale_selector`] selects pods that the one before did not.
fn selects_more(before: Option<&str>, after: Option<&str>) -> bool {
    let narrowed = before.zip(after).and_then(|(before, after)| {
        let added = after.strip_prefix(before)?;
        (added.is_empty() || added.starts_with(&format!(",{REVISION_LABEL} in ("))).then_some(())
    });
    before != after && narrowed.is_none()
}

/// Formats the selector of the scale subresource. It selects the pods of `revisions`, or all pods if
/// that is `None`. `None` if the selector of the spec cannot be formatted.
pub fn scale_selector(
    selector: &LabelSelector,
    revisions: Option<&BTreeSet<Revision>>,
) -> Option<String> {
    let all = selector_string(selector)?;
    let Some(revisions) = revisions else {
        return Some(all);
    };
    let names: Vec<&str> = revisions.iter().map(Revision::as_str).collect();
    let narrowed = format!("{all},{REVISION_LABEL} in ({})", names.join(","));
    // Measuring idle pods too is better than measuring none.
    Some(if narrowed.len() <= SELECTOR_BYTES {
        narrowed
    } else {
        all
    })
}

fn to_i32(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod tests;
