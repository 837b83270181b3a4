//! Gates: steps that wait for a person's approval, or for a condition on an object.
//!
//! A gate that has expired opens neither by itself nor by a promotion. An approval that comes late is
//! about a situation that the approver has not seen.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::hold::{Hold, HoldCode};
use crate::holds;
use crate::plan::{Plan, Step};
use crate::state::{Stage, State};
use crate::steps;
use crate::text::Message;
use crate::units::saturating_add;

/// A gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// What opens it.
    pub waits_for: GateCondition,
    /// Time from the start of the step after which it expires. `None` if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_after: Option<Duration>,
    /// What happens then.
    pub on_expiry: GateExpiry,
}

/// What opens a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GateCondition {
    /// A `promote` command.
    Approval,
    /// An object that meets a condition.
    Object(ObjectGate),
}

/// An object and the condition that opens the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectGate {
    /// Group and version, for example `batch/v1`.
    pub api_version: String,
    /// Plural name of the kind in lowercase.
    pub resource: String,
    /// Name of the object.
    pub name: String,
    /// Where the object is.
    pub scope: ObjectScope,
    /// CEL expression over `object`.
    pub condition: String,
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ObjectScope {
    /// In the namespace of the Rollout.
    OwnNamespace,
    /// In this namespace.
    Namespace(String),
    /// In no namespace.
    Cluster,
}

/// What happens when a gate expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GateExpiry {
    /// The release is aborted.
    Abort,
    /// The release waits until somebody decides.
    Hold,
}

/// What was read for the gate of the current step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateReport {
    /// The gate that was read.
    pub gate: ObjectGate,
    /// What was found.
    pub reading: GateReading,
}

/// What was found for a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateReading {
    /// The object meets the condition.
    Open,
    /// It does not, for this reason.
    Closed(Message),
    /// It could not be read or evaluated, for this reason.
    Unreadable(Message),
}

/// The object that the current step waits for. `None` if it waits for none.
pub fn awaited_object<'a>(plan: &'a Plan, state: &State) -> Option<&'a ObjectGate> {
    let step = steps::current(plan, state).filter(|_| state.stage == Stage::Progressing)?;
    match step {
        Step::Gate(Gate {
            waits_for: GateCondition::Object(object),
            ..
        }) => Some(object),
        _ => None,
    }
}

impl Gate {
    /// Whether it has expired, if its step began at `started_at`.
    pub(crate) fn has_expired(&self, cx: &Context<'_>, started_at: Timestamp) -> bool {
        let end = self.end(started_at);
        end.is_some_and(|end| cx.reached(end))
    }

    fn end(&self, started_at: Timestamp) -> Option<Timestamp> {
        let after = self.expire_after?;
        Some(saturating_add(started_at, after))
    }

    /// What the gate waits for; `None` if it is open.
    pub(crate) fn hold(&self, cx: &Context<'_>, started_at: Timestamp) -> Option<Hold> {
        if self.has_expired(cx, started_at) {
            return Some(Hold::new(HoldCode::GateExpired, self.expiry_message()));
        }
        let expiry = self.end(started_at);
        let expiry = expiry.map_or_else(String::new, |end| format!(", which expires at {end}"));
        let GateCondition::Object(object) = &self.waits_for else {
            let message = format!("waiting for an approval{expiry}");
            return Some(Hold::new(HoldCode::ApprovalPending, message));
        };
        let report = cx.observed.gate.as_ref();
        match report.filter(|report| report.gate == *object) {
            Some(GateReport {
                reading: GateReading::Open,
                ..
            }) => None,
            Some(GateReport {
                reading: GateReading::Closed(why),
                ..
            }) => Some(Hold::new(HoldCode::GateClosed, format!("{why}{expiry}"))),
            Some(GateReport {
                reading: GateReading::Unreadable(why),
                ..
            }) => Some(Hold::new(HoldCode::GateUnreadable, why.clone())),
            None => {
                let message = format!("{object} is being read{expiry}");
                Some(Hold::new(HoldCode::GateClosed, message))
            }
        }
    }

    fn expiry_message(&self) -> String {
        let seconds = self.expire_after.unwrap_or_default().as_secs();
        match &self.waits_for {
            GateCondition::Approval => format!("the approval was not given within {seconds} s"),
            GateCondition::Object(object) => {
                format!("{object} did not meet its condition within {seconds} s")
            }
        }
    }
}

impl std::fmt::Display for ObjectGate {
    /// The object as messages name it: `jobs.batch smoke-test`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.resource)?;
        if let Some((group, _)) = self.api_version.split_once('/') {
            write!(f, ".{group}")?;
        }
        match &self.scope {
            ObjectScope::Namespace(namespace) => write!(f, " {namespace}/{}", self.name),
            ObjectScope::OwnNamespace | ObjectScope::Cluster => write!(f, " {}", self.name),
        }
    }
}

/// Why the release is aborted because its gate has expired. `None` if it is not. While a person or
/// the spec holds the release, it waits for them.
pub(crate) fn abort_message(cx: &Context<'_>, state: &State) -> Option<String> {
    let position = state.step.filter(|_| state.stage == Stage::Progressing)?;
    let Some(Step::Gate(gate)) = steps::current(cx.plan, state) else {
        return None;
    };
    let is_due = gate.on_expiry == GateExpiry::Abort
        && !holds::is_held_by_person(cx, state)
        && gate.has_expired(cx, position.started_at);
    is_due.then(|| gate.expiry_message())
}
