//! What is told of a Rollout: the whole status from the position and what was observed. Pure.

mod conditions;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde_json::Value;
use serin_core::observed::Observed;
use serin_core::plan::Plan;
use serin_core::state::{Stage, State};
use serin_crds::status::{
    AnalysisStatus, BudgetStatus, CheckStatus, EvidenceStatus, OriginalRoute, RolloutStatus,
    SummaryStatus, WeightsStatus,
};

use crate::observe::Counts;

pub use conditions::{Inputs as ConditionInputs, conditions, of_unreadable, quarantined};

/// What was only seen (pods, what the router says) is written with the next change of position, or
/// when it has been the same for so long.
pub const STABLE_FOR: Duration = Duration::from_secs(5);
/// Evidence changes with every scrape; it is written with the next change of position, or after so
/// long.
pub const EVIDENCE_EVERY: Duration = Duration::from_secs(15);

/// Everything that a status is made of.
#[derive(Clone, Debug)]
pub struct Told<'a> {
    /// The new position.
    pub state: &'a State,
    /// The plan that it was decided on.
    pub plan: &'a Plan,
    /// What it was decided on.
    pub seen: &'a Observed,
    /// The pods.
    pub counts: Counts,
    /// The pods' selector.
    pub selector: Option<String>,
    /// What the metrics say, for each objective.
    pub evidence: Vec<EvidenceStatus>,
    /// How the service's error budget stands, for each objective.
    pub budgets: Vec<BudgetStatus>,
    /// The same, for each check.
    pub checks: Vec<CheckStatus>,
    /// The same in a few words.
    pub evidence_summary: Option<String>,
    /// The analysis' own position.
    pub analysis: Option<AnalysisStatus>,
    /// The routes as they were before the first change.
    pub original_routes: Vec<OriginalRoute>,
    /// What could not be carried out, again and again.
    pub trouble: Option<String>,
    /// The time now.
    pub now: Timestamp,
}

/// How soon a new status must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing has changed.
    Never,
    /// Evidence or the wording has changed.
    Eventually,
    /// What was seen has changed.
    WhenStable,
    /// The position or what must be restored has changed.
    Now,
}

/// The status to be told, with what `before` says where nothing has changed (transition times).
///
/// # Errors
/// Where the position does not fit the API's numbers.
pub fn status(
    told: &Told<'_>,
    before: &RolloutStatus,
) -> Result<RolloutStatus, serin_crds::status::IncompatibleStatus> {
    let mut status = before.clone();
    status.with_state(told.state)?;
    status.summary = Some(summary(told));
    status.evidence.clone_from(&told.evidence);
    status.budgets.clone_from(&told.budgets);
    status.checks.clone_from(&told.checks);
    status.analysis.clone_from(&told.analysis);
    status.original_routes.clone_from(&told.original_routes);
    status.replicas = signed(told.counts.replicas);
    status.updated_replicas = signed(told.counts.updated);
    status.ready_replicas = signed(told.counts.ready);
    status.available_replicas = signed(told.counts.available);
    status.selector.clone_from(&told.selector);
    let inputs = ConditionInputs {
        told,
        generation: told.seen.generation,
    };
    status.conditions = conditions(&inputs, &before.conditions);
    Ok(status)
}

/// How soon `after` must be written where `before` stands.
pub fn urgency(before: &RolloutStatus, after: &RolloutStatus) -> Urgency {
    let (before, after) = (with_floats(before), with_floats(after));
    if before == after {
        return Urgency::Never;
    }
    let (before, after) = (lasting(&before), lasting(&after));
    if before == after {
        return Urgency::Eventually;
    }
    if position(before) == position(after) {
        Urgency::WhenStable
    } else {
        Urgency::Now
    }
}

/// The status with every number in its free-form parts as a float: the API server gives `20.0` back
/// as `20`.
fn with_floats(status: &RolloutStatus) -> RolloutStatus {
    let mut status = status.clone();
    if let Some(plan) = &mut status.plan {
        make_floats(&mut plan.spec);
    }
    if let Some(analysis) = &mut status.analysis {
        make_floats(&mut analysis.checkpoint);
    }
    status
}

fn make_floats(value: &mut Value) {
    match value {
        Value::Number(number) => *value = number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.iter_mut().for_each(make_floats),
        Value::Object(fields) => fields.values_mut().for_each(make_floats),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The status without what changes with every scrape.
///
/// Two statuses that are the same by this say the same for [`Urgency::WhenStable`].
pub fn lasting(status: &RolloutStatus) -> RolloutStatus {
    let mut status = status.clone();
    status.message = None;
    status.evidence = Vec::new();
    status.checks = Vec::new();
    // Only the states last; each count is another at every look.
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
    // That a judgement has begun is a part of the position; how far it has come is not.
    status.analysis = status.analysis.map(|analysis| AnalysisStatus {
        checkpoint: Value::Null,
        ..analysis
    });
    // Since when something is so follows from what is so; until it is written, every look would say
    // another time.
    status.weights = status.weights.map(|weights| WeightsStatus {
        since: None,
        ..weights
    });
    for condition in &mut status.conditions {
        condition.message = String::new();
        condition.observed_generation = None;
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    status
}

/// What of a lasting status was decided, without what was only seen: pods come and go, and a router
/// takes a moment.
fn position(mut status: RolloutStatus) -> RolloutStatus {
    (
        status.replicas,
        status.updated_replicas,
        status.ready_replicas,
        status.available_replicas,
    ) = (0, 0, 0, 0);
    status.selector = None;
    status.summary = None;
    status.budgets = Vec::new();
    status
        .conditions
        .retain(|condition| !conditions::IS_SEEN.contains(&condition.type_.as_str()));
    status
}

fn summary(told: &Told<'_>) -> SummaryStatus {
    let total = told.plan.steps().len();
    let step = match told.state.stage {
        Stage::Progressing | Stage::Promoting if total > 0 => {
            let done = told.state.step.map_or(total, |step| step.index);
            Some(format!("{}/{total}", (done + 1).min(total)))
        }
        _ => None,
    };
    let weight = match told.state.stage {
        Stage::FirstDeploy => None,
        _ if told.plan.routing().is_some() => Some(routed_weight(told)),
        _ => Some(told.state.weights.desired.to_string()),
    };
    SummaryStatus {
        step,
        weight,
        evidence: told.evidence_summary.clone(),
    }
}

/// What the routes say; where they cannot be read, what they were asked for.
fn routed_weight(told: &Told<'_>) -> String {
    let said = told
        .seen
        .routes
        .iter()
        .filter_map(|route| route.canary_weight.as_ref().ok());
    said.max()
        .copied()
        .unwrap_or(told.state.weights.desired)
        .to_string()
}

/// A selector as the string that the scale subresource wants; none where it cannot be written so.
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
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
