//! What became of a rollout, and of many.

/// What became of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Rolled back, by the rule's evidence.
    RolledBack,
    /// Rolled back because the allotment was spent.
    RolledBackByBudget,
    /// Promoted.
    Promoted,
    /// Neither within the hour.
    Undecided,
}

/// One rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    /// What became of it.
    pub decision: Decision,
    /// After how long.
    pub seconds: f64,
    /// The canary's expected errors beyond stable's within the hour, those after a promotion too.
    pub excess_errors: f64,
    /// Whether it had spent more than its allotment, as counted, when it ended.
    pub overspent: bool,
}

/// Many rollouts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many.
    pub runs: u32,
    /// The percentage rolled back by evidence.
    pub rolled_back: f64,
    /// The percentage rolled back by the budget.
    pub rolled_back_by_budget: f64,
    /// The percentage promoted.
    pub promoted: f64,
    /// The median seconds until the commonest of the two outcomes.
    pub median_seconds: f64,
    /// The 95th percentile of the same.
    pub p95_seconds: f64,
    /// The slowest of the same.
    pub slowest_seconds: f64,
    /// The mean errors served within the hour.
    pub excess_errors: f64,
    /// The percentage that spent more than the allotment.
    pub overspent: f64,
}

impl Summary {
    pub(crate) fn of(outcomes: &[Outcome]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a number of runs")]
        let (count, percent) = (outcomes.len().max(1) as f64, |of: usize| {
            of as f64 * 100.0 / outcomes.len().max(1) as f64
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
            share(Decision::RolledBack),
            share(Decision::RolledBackByBudget),
        );
        let promoted = share(Decision::Promoted);
        let mut seconds: Vec<f64> = outcomes
            .iter()
            .filter(|outcome| match outcome.decision {
                Decision::Promoted => promoted > rolled_back + by_budget,
                Decision::RolledBack | Decision::RolledBackByBudget => {
                    promoted <= rolled_back + by_budget
                }
                Decision::Undecided => false,
            })
            .map(|outcome| outcome.seconds)
            .collect();
        seconds.sort_by(f64::total_cmp);
        let at = |of: usize, in_all: usize| {
            seconds
                .get(seconds.len() * of / in_all)
                .copied()
                .unwrap_or(f64::NAN)
        };
        Self {
            runs: u32::try_from(outcomes.len()).unwrap_or(u32::MAX),
            rolled_back,
            rolled_back_by_budget: by_budget,
            promoted,
            median_seconds: at(1, 2),
            p95_seconds: at(19, 20),
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
