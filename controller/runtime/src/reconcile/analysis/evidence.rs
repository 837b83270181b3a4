//! The evidence for the status, and the warning that a condition of its bound does not hold.

use serin_core::effect::{Level, Reason};
use serin_core::state::State;
use serin_core::text::Message;
use serin_crds::status::EvidenceStatus;

use super::AnalysisOutcome;

impl AnalysisOutcome {
    /// The evidence for the status. The evidence of a finished release is kept until the next
    /// release starts.
    pub(in crate::reconcile) fn evidence(&self, state: &State) -> Vec<EvidenceStatus> {
        let current = self
            .latest
            .as_ref()
            .filter(|_| self.applies_to(state))
            .map(|latest| latest.evidence.clone());
        let current = current.filter(|evidence| !evidence.is_empty());
        let before = self.evidence_of_status(state);
        let Some(mut current) = current else {
            return before.to_vec();
        };
        for evidence in &mut current {
            evidence.assumption_broken |= is_broken_in(before, &evidence.objective);
        }
        current
    }

    /// The evidence in the status, if it belongs to this attempt.
    fn evidence_of_status(&self, state: &State) -> &[EvidenceStatus] {
        if self.is_same_attempt_as_status(state) {
            &self.before.evidence
        } else {
            &[]
        }
    }

    /// A warning that the condition of the bound on false rollbacks does not hold, once for each
    /// objective of a release: the status contains what was reported before.
    pub(in crate::reconcile) fn broken_assumptions(&self, state: &State) -> Option<Reason> {
        let before = self.evidence_of_status(state);
        let messages: Vec<String> = self
            .evidence(state)
            .iter()
            .filter(|evidence| evidence.assumption_broken)
            .filter(|evidence| !is_broken_in(before, &evidence.objective))
            .map(|evidence| {
                let assumption = evidence.assumption.as_ref().map_or("", Message::as_str);
                format!("Objective {}: {assumption}", evidence.objective)
            })
            .collect();
        (!messages.is_empty()).then(|| Reason {
            code: "AssumptionBroken",
            message: messages.join(" ").into(),
            level: Level::Warning,
        })
    }
}

/// Whether the condition of the bound of an objective was seen not to hold.
fn is_broken_in(evidence: &[EvidenceStatus], objective: &str) -> bool {
    let known = evidence
        .iter()
        .find(|evidence| evidence.objective == objective);
    known.is_some_and(|evidence| evidence.assumption_broken)
}
