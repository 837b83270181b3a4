//! The material content of a snapshot.

use serin_core::observed::{ReportKind, SatisfiedRequirements};
use serin_core::state::AbortCause;
use serin_core::text::Message;
use serin_crds::status::{BudgetLevel, BudgetStatus};

use crate::request::AnalysisSnapshot;

/// The material content of a snapshot. Subscribers are notified when it changes, not with every
/// count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDigest {
    /// Kind of report.
    pub kind: ReportKind,
    /// CamelCase cause of a hold or a breach. Empty if there is none.
    pub cause: &'static str,
    /// Whether the report demands another weight.
    demands_weight: bool,
    satisfied: SatisfiedRequirements,
    /// By objective: the state of the budget, and whether the traffic is insufficient for an
    /// analysis.
    budgets: Vec<(String, BudgetLevel, bool)>,
    has_samples_at_weight: bool,
    /// Notes about how each objective is read.
    readings: Vec<Option<Message>>,
}

impl SnapshotDigest {
    /// Extracts the material content of a snapshot.
    pub fn from_snapshot(snapshot: &AnalysisSnapshot) -> Self {
        let report = &snapshot.report;
        let hold = report.holds.first();
        let breach = report.breach_cause();
        let lowers = report.holds.iter().any(|hold| hold.lower_to.is_some());
        let budget = |status: &BudgetStatus| {
            (
                status.objective.clone(),
                status.state,
                status.infeasible.is_some(),
            )
        };
        let budgets = snapshot.budgets.iter().map(budget).collect();
        Self {
            kind: report.kind(),
            cause: breach
                .map(AbortCause::as_str)
                .or_else(|| hold.map(|hold| hold.code.as_str()))
                .unwrap_or_default(),
            demands_weight: lowers || report.next_weight.is_some(),
            satisfied: report.satisfied.clone(),
            budgets,
            has_samples_at_weight: snapshot.has_samples_at_weight,
            readings: snapshot
                .evidence
                .iter()
                .map(|evidence| evidence.note.clone())
                .collect(),
        }
    }
}
