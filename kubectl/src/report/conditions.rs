//! Conditions in an unhealthy state.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

/// Conditions that are unhealthy when False. Progressing, Completed, Healthy and Ready are not
/// listed: they are False during any release.
const SHOULD_BE_TRUE: [&str; 5] = [
    "Available",
    "RouteReady",
    "MetricsReady",
    "Feasible",
    "RoutedPerRequest",
];
/// Conditions that are unhealthy when True.
const SHOULD_BE_FALSE: [&str; 3] = ["InvalidSpec", "Stalled", "Frozen"];

/// A condition in an unhealthy state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnhealthyCondition {
    /// The condition's type.
    pub condition: String,
    /// True or False.
    pub status: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// Time of the last transition.
    pub since: Timestamp,
}

/// Conditions in an unhealthy state.
pub fn unhealthy_conditions(conditions: &[Condition]) -> Vec<UnhealthyCondition> {
    conditions
        .iter()
        .filter(|condition| {
            let kind = condition.type_.as_str();
            (SHOULD_BE_TRUE.contains(&kind) && condition.status == "False")
                || (SHOULD_BE_FALSE.contains(&kind) && condition.status == "True")
        })
        .map(|condition| UnhealthyCondition {
            condition: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: condition.last_transition_time.0,
        })
        .collect()
}
