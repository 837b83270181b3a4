//! The outcome of one rollout, and the summary of many.

/// The final decision on a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalDecision {
    /// Rolled back by evidence.
    RolledBack,
    /// Rolled back because the allotment was spent.
    RolledBackByBudget,
    /// Promoted.
    Promoted,
    /// Neither promoted nor rolled back in time.
    Undecided,
}

/// The outcome of one rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RolloutOutcome {
    /// The final decision.
    pub decision: FinalDecision,
    /// Seconds until the decision.
    pub seconds: f64,
    /// The canary's expected errors beyond stable's within the hour, including those after a
    /// promotion.
    pub excess_errors: f64,
    /// Whether the counted errors exceeded the allotment at the end.
    pub overspent: bool,
}

/// Summary of many rollouts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutcomeSummary {
    /// Number of rollouts.
    pub runs: u32,
    /// The percentage rolled back by evidence.
    pub rolled_back: f64,
    /// The percentage rolled back by the budget.
    pub rolled_back_by_budget: f64,
    /// The percentage promoted.
    pub promoted: f64,
    /// Median seconds until the more frequent of promotion and rollback.
    pub median_seconds: f64,
    /// The 95th percentile of the same.
    pub p95_seconds: f64,
    /// The maximum of the same.
    pub slowest_seconds: f64,
    /// Mean excess errors within the hour.
    pub excess_errors: f64,
    /// The percentage that spent more than the allotment.
    pub overspent: f64,
}

impl OutcomeSummary {
    pub(crate) fn from_outcomes(outcomes: &[RolloutOutcome]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a number of runs")]
        let (count, percent) = (outcomes.len().max(1) as f64, |part: usize| {
            part as f64 * 100.0 / outcomes.len().max(1) as f64
        });
        let share = |decision| {
            percent(
                outcomes
                    .iter()
                    .filter(|outcome| outcome.decision == decision)
                    .count(),
            )
        };
        let (rolled_back, by_budget) = (
            share(FinalDecision::RolledBack),
            share(FinalDecision::RolledBackByBudget),
        );
        let promoted = share(FinalDecision::Promoted);
        let mut seconds: Vec<f64> = outcomes
            .iter()
            .filter(|outcome| match outcome.decision {
                FinalDecision::Promoted => promoted > rolled_back + by_budget,
                FinalDecision::RolledBack | FinalDecision::RolledBackByBudget => {
                    promoted <= rolled_back + by_budget
                }
                FinalDecision::Undecided => false,
            })
            .map(|outcome| outcome.seconds)
            .collect();
        seconds.sort_by(f64::total_cmp);
        let quantile = |part: usize, in_all: usize| {
            seconds
                .get(seconds.len() * part / in_all)
                .copied()
                .unwrap_or(f64::NAN)
        };
        Self {
            runs: u32::try_from(outcomes.len()).unwrap_or(u32::MAX),
            rolled_back,
            rolled_back_by_budget: by_budget,
            promoted,
            median_seconds: quantile(1, 2),
            p95_seconds: quantile(19, 20),
            slowest_seconds: seconds.last().copied().unwrap_or(f64::NAN),
            excess_errors: outcomes
                .iter()
                .map(|outcome| outcome.excess_errors)
                .sum::<f64>()
                / count,
            overspent: percent(outcomes.iter().filter(|outcome| outcome.overspent).count()),
        }
    }
}
