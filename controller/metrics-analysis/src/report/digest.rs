//! The material content of a snapshot.

use serin_core::observed::{ReportKind, SatisfiedRequirements};
use serin_core::state::AbortCause;
use serin_core::text::Message;
use serin_crds::status::{BudgetLevel, BudgetStatus, PlaceboStatus};

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
    budgets: Vec<BudgetDigest>,
    has_samples_at_weight: bool,
    /// Notes about how each objective is read.
    readings: Vec<Option<Message>>,
}

/// The material content of an objective's budget.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BudgetDigest {
    objective: String,
    state: BudgetLevel,
    is_infeasible: bool,
    /// The status has to contain them before a restart, and they change once a day.
    placebo: Option<PlaceboStatus>,
}

impl BudgetDigest {
    fn from_status(status: &BudgetStatus) -> Self {
        Self {
            objective: status.objective.clone(),
            state: status.state,
            is_infeasible: status.infeasible.is_some(),
            placebo: status.placebo.clone(),
        }
    }
}

impl SnapshotDigest {
    /// Extracts the material content of a snapshot.
    pub fn from_snapshot(snapshot: &AnalysisSnapshot) -> Self {
        let report = &snapshot.report;
        let hold = report.holds.first();
        let breach = report.breach_cause();
        let lowers = report.holds.iter().any(|hold| hold.lower_to.is_some());
        let budgets = snapshot.budgets.iter().map(BudgetDigest::from_status);
        Self {
            kind: report.kind(),
            cause: breach
                .map(AbortCause::as_str)
                .or_else(|| hold.map(|hold| hold.code.as_str()))
                .unwrap_or_default(),
            demands_weight: lowers || report.next_weight.is_some(),
            satisfied: report.satisfied.clone(),
            budgets: budgets.collect(),
            has_samples_at_weight: snapshot.has_samples_at_weight,
            readings: snapshot
                .evidence
                .iter()
                .map(|evidence| evidence.note.clone())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn placebo_releases_are_news_also_if_the_objective_is_infeasible_already() {
        let digest = |placebo: Option<PlaceboStatus>| {
            let budget = BudgetStatus {
                infeasible: Some("At 2 requests/s this objective needs 9 days.".into()),
                placebo,
                ..BudgetStatus::default()
            };
            SnapshotDigest::from_snapshot(&AnalysisSnapshot {
                budgets: vec![budget],
                ..AnalysisSnapshot::undecided("", Timestamp::UNIX_EPOCH)
            })
        };
        let refuted = PlaceboStatus {
            refutes_bound: true,
            ..PlaceboStatus::default()
        };
        assert_ne!(digest(None), digest(Some(refuted.clone())));
        assert_eq!(digest(Some(refuted.clone())), digest(Some(refuted)));
    }
}
