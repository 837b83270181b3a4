//! Holds: what stops a release, and what ends it.

use jiff::Timestamp;
use serde::Serialize;
use serin_core::hold::{HoldCode, HoldEnd, HoldSource};
use serin_crds::status::{HoldEndStatus, HoldStatus};

use crate::status_value::StatusValue;

/// Something that stops a release.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HoldReport {
    /// What the hold is, as one word.
    pub code: StatusValue<HoldCode>,
    /// Where the hold comes from.
    pub source: StatusValue<HoldSource>,
    /// What the hold is, in a sentence.
    pub message: String,
    /// What the hold stops: Start, Advance, Promote or Raise.
    pub blocks: String,
    /// What ends the hold, as reported.
    pub ends: HoldEndStatus,
    /// What ends the hold. `None` if this version does not know it.
    #[serde(skip)]
    pub end: Option<HoldEnd>,
    /// Canary weight in percent to go down to because the hold has lasted too long.
    pub lower_to: Option<f64>,
    /// Time at which the hold was first seen.
    pub since: Option<Timestamp>,
}

impl HoldReport {
    /// Reads a hold of the status.
    pub fn from_status(hold: &HoldStatus) -> Self {
        let end = serde_json::to_value(&hold.ends).and_then(serde_json::from_value);
        Self {
            code: hold.code.as_str().into(),
            source: hold.source.as_str().into(),
            message: hold.message.clone(),
            blocks: hold.blocks.clone(),
            ends: hold.ends.clone(),
            end: end.ok(),
            lower_to: hold.lower_to,
            since: hold.since,
        }
    }

    /// What the hold means.
    pub fn meaning(&self) -> String {
        self.code.known().map_or_else(
            || {
                format!(
                    "This version of the kubectl plugin does not know the hold code {}. A newer \
                     kubectl plugin may know more.",
                    self.code
                )
            },
            |code| code.meaning().to_owned(),
        )
    }

    /// What to do about the hold. `None` if the code is unknown or the message contains the fix.
    pub fn fix(&self) -> Option<&'static str> {
        let fix = self.code.known()?.fix();
        (!self.message.contains(fix.trim_end_matches('.'))).then_some(fix)
    }

    /// Whether the release is paused: by the spec, by a person or by a pause step.
    pub fn is_pause(&self) -> bool {
        matches!(
            self.code.known(),
            Some(
                HoldCode::SpecPaused
                    | HoldCode::PausedByCommand
                    | HoldCode::Inconclusive
                    | HoldCode::StepPause
            )
        )
    }

    /// Whether the hold is a planned part of a release, for example insufficient evidence.
    pub fn is_planned_wait(&self) -> bool {
        self.source.equals(HoldSource::Step)
    }
}
