//! Holds: everything that can stop a release, with its meaning and its fix.

mod code;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::command::Verb;
use crate::text::Message;
use crate::units::Weight;

pub use code::{HoldCode, UnknownHoldCode};

/// Something that stops a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Where the hold comes from: Spec, Person, Step, Metrics, Budget, Guardrail or Cluster.
    pub source: HoldSource,
    /// What the hold is, as one CamelCase word. The reference lists all codes with their fixes.
    pub code: HoldCode,
    /// What the hold is, in a sentence.
    pub message: Message,
    /// What the hold stops: Start, Advance, Promote or Raise.
    pub blocks: Blocks,
    /// What ends the hold.
    pub ends: HoldEnd,
    /// Canary weight in percent to go down to because the hold has lasted too long. Unset if there
    /// is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_to: Option<Weight>,
    /// Time at which the hold was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// Where a hold comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HoldSource {
    /// The Rollout's spec.
    Spec,
    /// A person, by a command or because a decision is theirs.
    Person,
    /// The current step.
    Step,
    /// Missing or undecided metrics.
    Metrics,
    /// The error budget of the service.
    Budget,
    /// A policy of the platform, for example a change freeze.
    Guardrail,
    /// Pods, Services or routes that are not ready yet.
    Cluster,
}

/// What a hold stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Blocks {
    /// A new release does not start.
    Start,
    /// The current step does not complete.
    Advance,
    /// Steps complete, but the release is not promoted.
    Promote,
    /// The canary's share is not raised.
    Raise,
}

/// What ends a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all_fields = "camelCase")]
pub enum HoldEnd {
    /// The hold ends when its cause is gone.
    Itself,
    /// The hold ends at a time.
    Time {
        /// The time.
        at: Timestamp,
    },
    /// The hold ends by a command.
    Command {
        /// The command's verb.
        command: Verb,
    },
    /// The hold ends when its cause is gone, or by an `override` command with a reason.
    Override,
    /// The hold ends by a change of the spec.
    SpecChange,
}

impl Hold {
    /// A hold as its code describes it.
    pub fn new(code: HoldCode, message: impl Into<Message>) -> Self {
        Self {
            source: code.source(),
            code,
            message: message.into(),
            blocks: code.blocks(),
            ends: code.ends(),
            lower_to: None,
            since: None,
        }
    }

    /// This hold, ending at a time.
    #[must_use]
    pub fn until(mut self, at: Timestamp) -> Self {
        self.ends = HoldEnd::Time { at };
        self
    }

    /// This hold, with the canary's share to go down to.
    #[must_use]
    pub fn lowering_to(mut self, weight: Option<Weight>) -> Self {
        self.lower_to = weight;
        self
    }

    /// Whether the hold stops the whole service rather than this release, so that only an
    /// `override` lifts it early.
    pub fn is_freeze(&self) -> bool {
        self.ends == HoldEnd::Override
    }

    /// Whether the progress deadline bounds how long the hold may last.
    pub fn is_bounded_by_progress_deadline(&self) -> bool {
        self.source == HoldSource::Cluster
            && self.code != HoldCode::ScaledToZero
            && !self.code.is_workload_problem()
    }

    /// Whether the maximum duration of the analysis bounds how long the hold may last.
    pub fn is_bounded_by_max_duration(&self) -> bool {
        matches!(self.source, HoldSource::Metrics | HoldSource::Budget)
            || (self.code == HoldCode::EvidenceInsufficient)
    }
}

/// Reads holds of any version: those that this version does not know are left out.
pub(crate) fn known_holds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Hold>, D::Error> {
    let holds = Vec::<serde_json::Value>::deserialize(deserializer)?;
    let known = holds.into_iter().map(serde_json::from_value::<Hold>);
    Ok(known.filter_map(Result::ok).collect())
}
