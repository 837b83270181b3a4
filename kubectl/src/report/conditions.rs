//! The conditions that are not as they should be.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

/// Conditions that are trouble when they are False. (Progressing, Completed, Healthy, Ready are
/// not: they are False in the middle of any release.)
const SHOULD_BE_TRUE: [&str; 4] = ["Available", "RouteReady", "MetricsReady", "Feasible"];
/// Conditions that are trouble when they are True.
const SHOULD_BE_FALSE: [&str; 3] = ["InvalidSpec", "Stalled", "Frozen"];

/// A condition that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// The condition's type.
    pub condition: String,
    /// True or False.
    pub status: String,
    /// Its reason.
    pub reason: String,
    /// What an operator reads.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}

/// The conditions that are not as they should be.
pub fn troubles(conditions: &[Condition]) -> Vec<Trouble> {
    conditions
        .iter()
        .filter(|condition| {
            let kind = condition.type_.as_str();
            (SHOULD_BE_TRUE.contains(&kind) && condition.status == "False")
                || (SHOULD_BE_FALSE.contains(&kind) && condition.status == "True")
        })
        .map(|condition| Trouble {
            condition: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: condition.last_transition_time.0,
        })
        .collect()
}
