//! Holds: what stops a release, and what ends it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serin_core::hold::{HoldCode, HoldEnd, HoldSource};

use crate::status_value::StatusValue;

/// Time for which waiting for pods or the router is usual.
const USUAL_WAIT: SignedDuration = SignedDuration::from_mins(2);

/// Something that stops a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    pub ends: Value,
    /// Canary weight in percent to go down to because the hold has lasted too long.
    pub lower_to: Option<f64>,
    /// Time at which the hold was first seen.
    pub since: Option<Timestamp>,
}

impl HoldReport {
    /// What ends the hold. `None` if this version does not know it.
    pub fn end(&self) -> Option<HoldEnd> {
        HoldEnd::deserialize(&self.ends).ok()
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
                    | HoldCode::ApprovalPending
                    | HoldCode::GateExpired
            )
        )
    }

    /// Whether the hold is a planned part of a release, for example insufficient evidence.
    pub fn is_planned_wait(&self) -> bool {
        self.source.equals(HoldSource::Step)
    }

    /// Whether the hold is a part of every step: pods start, or the router applies a change. If it
    /// lasts longer than [`USUAL_WAIT`], it is not.
    pub fn is_usual_wait(&self, now: Timestamp) -> bool {
        let is_short = |since| now.duration_since(since) < USUAL_WAIT;
        let codes = [HoldCode::PodsNotAvailable, HoldCode::RouteNotReady];
        codes.iter().any(|code| self.code.equals(*code)) && self.since.is_some_and(is_short)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_short_wait_for_pods_or_the_router_is_usual() {
        let since = Timestamp::UNIX_EPOCH;
        let is_usual = |code: &str, seconds: i64| {
            let hold: HoldReport = serde_json::from_value(json!({
                "code": code, "source": "Cluster", "message": "waiting", "blocks": "Advance",
                "ends": {"by": "Itself"}, "since": since,
            }))
            .unwrap();
            hold.is_usual_wait(since + SignedDuration::from_secs(seconds))
        };
        assert!(is_usual("PodsNotAvailable", 10) && is_usual("RouteNotReady", 119));
        assert!(!is_usual("PodsNotAvailable", 120));
        assert!(!is_usual("ImagePullFailed", 10) && !is_usual("OfTheFuture", 10));
    }
}
