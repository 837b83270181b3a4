//! Builds the status of a Rollout from its state and the observed objects. Pure.

mod conditions;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde_json::Value;
use serin_core::observed::Observed;
use serin_core::plan::Plan;
use serin_core::state::{Stage, State};
use serin_core::text::{Message, Name};
use serin_crds::status::{
    AnalysisStatus, BudgetStatus, CheckStatus, EvidenceStatus, OriginalRoute, RolloutStatus,
    SELECTOR_BYTES, SummaryStatus,
};

use crate::observe::PodCounts;

pub use conditions::{
    conditions, incompatible_conditions, invalid_spec_conditions, quarantine_conditions,
};

/// Observations (pods, router status) are written with the next change of state, or after they were
/// stable for this time.
pub const STABLE_FOR: Duration = Duration::from_secs(5);
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
    /// The label selector of the pods.
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
pub fn status(inputs: &StatusInputs<'_>, before: &RolloutStatus) -> RolloutStatus {
    let mut status = RolloutStatus {
        state: inputs.state.clone(),
        summary: Some(summary(inputs)),
        evidence: inputs.evidence.clone(),
        budgets: inputs.budgets.clone(),
        checks: inputs.checks.clone(),
        analysis: inputs.analysis.clone(),
        original_routes: inputs.original_routes.clone(),
        conditions: conditions(inputs, &before.conditions),
        replicas: to_i32(inputs.counts.replicas),
        updated_replicas: to_i32(inputs.counts.updated),
        ready_replicas: to_i32(inputs.counts.ready),
        available_replicas: to_i32(inputs.counts.available),
        selector: inputs.selector.clone(),
    };
    status.limit_size();
    status
}

/// How soon the status `after` must replace the status `before`.
pub fn urgency(before: &RolloutStatus, after: &RolloutStatus) -> Urgency {
    let (before, after) = (normalize_numbers(before), normalize_numbers(after));
    if before == after {
        return Urgency::Never;
    }
    let (before, after) = (
        without_volatile_fields(&before),
        without_volatile_fields(&after),
    );
    if before == after {
        return Urgency::Eventually;
    }
    if decided_fields(before) == decided_fields(after) {
        Urgency::WhenStable
    } else {
        Urgency::Now
    }
}

/// Converts every number in the checkpoint to a float. The API server returns `20.0` as `20`.
fn normalize_numbers(status: &RolloutStatus) -> RolloutStatus {
    let mut status = status.clone();
    if let Some(analysis) = &mut status.analysis {
        numbers_to_floats(&mut analysis.checkpoint);
    }
    status
}

fn numbers_to_floats(value: &mut Value) {
    match value {
        Value::Number(number) => *value = number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.iter_mut().for_each(numbers_to_floats),
        Value::Object(fields) => fields.values_mut().for_each(numbers_to_floats),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Removes the fields that change with every scrape.
///
/// Statuses that are equal without these fields count as unchanged for [`Urgency::WhenStable`].
pub fn without_volatile_fields(status: &RolloutStatus) -> RolloutStatus {
    let mut status = status.clone();
    status.state.message = Message::default();
    status.evidence = Vec::new();
    status.checks = Vec::new();
    // The numbers change in every reconcile. Only the budget state is kept.
    for budget in &mut status.budgets {
        let BudgetStatus {
            objective, state, ..
        } = std::mem::take(budget);
        *budget = BudgetStatus {
            objective,
            state,
            ..BudgetStatus::default()
        };
    }
    status.summary = status.summary.map(|summary| SummaryStatus {
        evidence: None,
        ..summary
    });
    // The start of an analysis is part of the state. Its progress is not.
    status.analysis = status.analysis.map(|analysis| AnalysisStatus {
        checkpoint: Value::Null,
        ..analysis
    });
    // This time follows from the weights. Until it is written, it is different in every reconcile.
    status.state.weights.since = None;
    for hold in &mut status.state.holds {
        hold.message = Message::default();
        hold.since = None;
    }
    for condition in &mut status.conditions {
        condition.message = String::new();
        condition.observed_generation = None;
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    status
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

fn to_i32(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod tests;
