//! The simulated rollouts and their results.

use serin_analysis::{AnalysisConfig, ConfigError, EvidenceConfig};

use crate::competing_rules::CompetingRule;
use crate::efficiency::{self, Detection, Promotion};
use crate::outcome::OutcomeSummary;
use crate::parallel;
use crate::scenario::{CanaryEffect, Conditions, Scenario};
use crate::shipped_rule::ShippedRule;

/// Size and seed of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulationOptions {
    /// Number of rollouts for each cell.
    pub runs: u32,
    /// Base seed.
    pub seed: u64,
}

impl Default for SimulationOptions {
    fn default() -> Self {
        Self {
            runs: 100_000,
            seed: 20_260_101,
        }
    }
}

impl SimulationOptions {
    /// Derives the seed of a cell, so that cells are independent.
    fn for_cell(self, cell: u32) -> Self {
        Self {
            seed: parallel::derive_seed(self.seed, cell),
            ..self
        }
    }
}

/// One cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableCell {
    /// Name of the row.
    pub row: String,
    /// Name of the column.
    pub column: String,
    /// Summary of the rollouts.
    pub summary: OutcomeSummary,
}

/// All tables.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchmarkReport {
    /// The options of this report.
    pub options: SimulationOptions,
    /// Good releases: rows are conditions, columns are requests per second.
    pub good: Vec<TableCell>,
    /// Releases with various error rates at 100 requests/s: columns are rules.
    pub rules: Vec<TableCell>,
    /// Releases that are as bad as the tolerances allow.
    pub edge: Vec<TableCell>,
    /// Releases at exactly the margin.
    pub margin: Vec<TableCell>,
    /// Bad releases under a small allotment.
    pub budget: Vec<TableCell>,
    /// Requests until a regression is detected.
    pub detection: Vec<Detection>,
    /// Requests until promotion.
    pub promotion: Vec<Promotion>,
}

const BUDGET_FRACTION: f64 = 0.001;
const STABLE_RATE: f64 = 0.0005;
const TICK_SECONDS: u32 = 15;

fn scenario(requests_per_second: f64, effect: CanaryEffect, conditions: Conditions) -> Scenario {
    Scenario {
        requests_per_second,
        tick_seconds: TICK_SECONDS,
        stable_rate: STABLE_RATE,
        effect,
        conditions,
    }
}

/// Simulates all tables. 100,000 runs take a few minutes on two cores.
///
/// # Errors
/// An invalid configuration. Does not occur with the built-in configurations.
pub fn run(options: SimulationOptions) -> Result<BenchmarkReport, ConfigError> {
    Ok(BenchmarkReport {
        options,
        good: simulate_good(options)?,
        rules: rules(options)?,
        edge: edge(options)?,
        margin: margin(options)?,
        budget: budget(options)?,
        detection: detection(options)?,
        promotion: promotion(options)?,
    })
}

/// Simulates rollouts of one release under one configuration: the probabilities of promotion and
/// rollback, the time and the errors.
///
/// # Errors
/// The first field of the configuration that is out of its range.
pub fn simulate(
    options: SimulationOptions,
    scenario: &Scenario,
    evidence: EvidenceConfig,
    analysis: AnalysisConfig,
    allotment: Option<f64>,
) -> Result<OutcomeSummary, ConfigError> {
    let usual =
        || ShippedRule::default_allotment(evidence.budget_fraction, scenario.requests_per_second);
    let allotment = allotment.unwrap_or_else(usual);
    let rule = ShippedRule::new(evidence, analysis, allotment)?;
    Ok(OutcomeSummary::from_outcomes(&parallel::map_seeds(
        options.runs,
        options.seed,
        |seed| rule.rollout(scenario, seed),
    )))
}

/// Simulates the defaults at 99.9 % with this margin (`delta1 / b`) and stable's error rate known
/// from history.
fn simulate_paced(
    options: SimulationOptions,
    scenario: &Scenario,
    margin: f64,
    allotment: Option<f64>,
) -> Result<OutcomeSummary, ConfigError> {
    let mut evidence =
        EvidenceConfig::for_budget_fraction(BUDGET_FRACTION).with_history(scenario.stable_rate);
    evidence.delta1 = margin * BUDGET_FRACTION;
    simulate(
        options,
        scenario,
        evidence,
        AnalysisConfig::default(),
        allotment,
    )
}

fn simulate_good(options: SimulationOptions) -> Result<Vec<TableCell>, ConfigError> {
    let mut cells = Vec::new();
    for (index, conditions) in (0..).zip(Conditions::ALL) {
        for (column, rate) in (0..).zip([10.0, 100.0, 1000.0]) {
            let options = options.for_cell(3 * index + column);
            let summary = simulate_paced(
                options,
                &scenario(rate, CanaryEffect::Times(1.0), conditions),
                0.5,
                None,
            )?;
            cells.push(TableCell {
                row: conditions.name().to_owned(),
                column: format!("{rate} requests/s"),
                summary,
            });
        }
    }
    Ok(cells)
}

/// The releases in the table of rules.
fn releases() -> [(&'static str, CanaryEffect); 7] {
    [
        ("A/A", CanaryEffect::Times(1.0)),
        ("2x", CanaryEffect::Times(2.0)),
        ("5x", CanaryEffect::Times(5.0)),
        ("10x", CanaryEffect::Times(10.0)),
        ("20x", CanaryEffect::Times(20.0)),
        ("100x", CanaryEffect::Times(100.0)),
        ("50 % fail", CanaryEffect::Fraction(0.5)),
    ]
}

fn rules(options: SimulationOptions) -> Result<Vec<TableCell>, ConfigError> {
    let mut cells = Vec::new();
    for (row, effect) in releases() {
        let scenario = scenario(100.0, effect, Conditions::Plain);
        for (column, margin) in [("this rule, .5b", 0.5), ("this rule, 1b", 1.0)] {
            let summary = simulate_paced(options, &scenario, margin, None)?;
            cells.push(TableCell {
                row: row.to_owned(),
                column: column.to_owned(),
                summary,
            });
        }
        for rule in CompetingRule::shipped(BUDGET_FRACTION) {
            let outcomes = parallel::map_seeds(options.runs, options.seed, |seed| {
                rule.rollout(&scenario, seed)
            });
            cells.push(TableCell {
                row: row.to_owned(),
                column: rule.name(),
                summary: OutcomeSummary::from_outcomes(&outcomes),
            });
        }
    }
    Ok(cells)
}

/// Releases at the limit of the tolerances test the bound on false rollbacks. A release without any
/// change is well inside.
fn edge(options: SimulationOptions) -> Result<Vec<TableCell>, ConfigError> {
    let EvidenceConfig { rho0, delta0, .. } = EvidenceConfig::for_budget_fraction(BUDGET_FRACTION);
    let excess = (rho0 - 1.0) * STABLE_RATE + delta0;
    let mut cells = Vec::new();
    for (cell, rate) in (100..).zip([10.0, 100.0, 1000.0]) {
        let summary = simulate_paced(
            options.for_cell(cell),
            &scenario(rate, CanaryEffect::Plus(excess), Conditions::Plain),
            0.5,
            None,
        )?;
        let row = "1.1 times stable's errors and 0.05 b".to_owned();
        cells.push(TableCell {
            row,
            column: format!("{rate} requests/s"),
            summary,
        });
    }
    Ok(cells)
}

fn margin(options: SimulationOptions) -> Result<Vec<TableCell>, ConfigError> {
    let mut cells = Vec::new();
    for rate in [10.0, 100.0, 1000.0] {
        for margin in [0.5, 1.0] {
            let scenario = scenario(rate, CanaryEffect::Plus(margin * 0.001), Conditions::Plain);
            let summary = simulate_paced(options, &scenario, margin, None)?;
            cells.push(TableCell {
                row: format!("{rate} requests/s"),
                column: format!("margin {margin}b"),
                summary,
            });
        }
    }
    Ok(cells)
}

fn budget(options: SimulationOptions) -> Result<Vec<TableCell>, ConfigError> {
    let mut cells = Vec::new();
    for (row, effect) in releases().into_iter().skip(1) {
        for allotment in [50.0, 100.0, 500.0] {
            let summary = simulate_paced(
                options,
                &scenario(100.0, effect, Conditions::Plain),
                0.5,
                Some(allotment),
            )?;
            cells.push(TableCell {
                row: row.to_owned(),
                column: format!("A = {allotment}"),
                summary,
            });
        }
    }
    Ok(cells)
}

/// Means need fewer runs than small probabilities.
const MAX_RUNS_FOR_MEANS: u32 = 10_000;

fn detection(options: SimulationOptions) -> Result<Vec<Detection>, ConfigError> {
    let runs = options.runs.min(MAX_RUNS_FOR_MEANS);
    let cells = [2.0, 3.0, 5.0, 10.0, 30.0, 100.0]
        .into_iter()
        .flat_map(|times| [0.5, 0.1].map(|weight| (times, weight)));
    cells
        .map(|(times, weight)| efficiency::detection(times, weight, runs, options.seed))
        .collect()
}

fn promotion(options: SimulationOptions) -> Result<Vec<Promotion>, ConfigError> {
    let runs = options.runs.min(MAX_RUNS_FOR_MEANS);
    let cells = [0.0, 0.1, 0.25, 0.5, 1.0]
        .into_iter()
        .flat_map(|rate| [0.5, 1.0].map(|margin| (rate, margin)));
    cells
        .map(|(rate, margin)| efficiency::promotion(rate, margin, runs, options.seed))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the goals of the design with a number of runs that is acceptable for a test. The
    /// probability that a rate of 1 in 1000 shows 12 or more in 4000 is below 1 in 1000, and the
    /// seeds are fixed.
    const OPTIONS: SimulationOptions = SimulationOptions {
        runs: 4000,
        seed: 7,
    };

    fn rolled_back(summary: &OutcomeSummary) -> f64 {
        summary.rolled_back + summary.rolled_back_by_budget
    }

    #[test]
    fn a_good_release_is_promoted_under_all_conditions() {
        for (conditions, promoted) in [
            (Conditions::Plain, 97.0),
            // A gateway does not tell whether a burst came from one client that retries, so bursts
            // count as clusters until the release refutes it.
            (Conditions::SharedBursts, 60.0),
            (Conditions::DailyDrift, 97.0),
            (Conditions::WarmUpSpike, 97.0),
        ] {
            let good = simulate_paced(
                OPTIONS,
                &scenario(100.0, CanaryEffect::Times(1.0), conditions),
                0.5,
                None,
            )
            .unwrap();
            assert!(rolled_back(&good) <= 0.3, "{conditions:?}: {good:?}");
            assert!(
                good.promoted >= promoted && good.median_seconds <= 750.0,
                "{conditions:?}: {good:?}"
            );
        }
    }

    #[test]
    fn clustered_errors_do_not_roll_back_a_good_release() {
        let options = SimulationOptions {
            runs: 500,
            ..OPTIONS
        };
        for rate in [10.0, 100.0, 1000.0] {
            let good = simulate_paced(
                options,
                &scenario(rate, CanaryEffect::Times(1.0), Conditions::StickyRetries),
                0.5,
                None,
            )
            .unwrap();
            assert!(rolled_back(&good) <= 1.0, "{rate}: {good:?}");
        }
    }

    #[test]
    fn a_bad_release_is_rolled_back_quickly_with_few_errors() {
        let ten_times = simulate_paced(
            OPTIONS,
            &scenario(100.0, CanaryEffect::Times(10.0), Conditions::Plain),
            0.5,
            None,
        )
        .unwrap();
        assert!(rolled_back(&ten_times) >= 99.9, "{ten_times:?}");
        assert!(
            ten_times.median_seconds <= 180.0 && ten_times.excess_errors <= 15.0,
            "{ten_times:?}"
        );
        let half = simulate_paced(
            OPTIONS,
            &scenario(100.0, CanaryEffect::Fraction(0.5), Conditions::Plain),
            0.5,
            None,
        )
        .unwrap();
        assert_eq!(half.p95_seconds, 30.0, "two scrapes");
    }

    #[test]
    fn a_release_at_the_margin_is_rarely_promoted() {
        for margin in [0.5, 1.0] {
            let at_margin = simulate_paced(
                OPTIONS,
                &scenario(100.0, CanaryEffect::Plus(margin * 0.001), Conditions::Plain),
                margin,
                None,
            )
            .unwrap();
            assert!(at_margin.promoted <= 5.0, "{at_margin:?}");
        }
    }

    #[test]
    fn the_allotment_is_rarely_exceeded() {
        let options = SimulationOptions {
            runs: 1000,
            ..OPTIONS
        };
        for effect in [
            CanaryEffect::Times(2.0),
            CanaryEffect::Times(5.0),
            CanaryEffect::Times(100.0),
        ] {
            let spending = simulate_paced(
                options,
                &scenario(100.0, effect, Conditions::Plain),
                0.5,
                Some(50.0),
            )
            .unwrap();
            assert!(spending.overspent <= 5.0, "{effect:?}: {spending:?}");
        }
    }

    #[test]
    fn evidence_needs_few_more_requests_than_the_bound() {
        for times in [2.0, 5.0, 10.0] {
            let found = efficiency::detection(times, 0.5, 300, 7).unwrap();
            assert!(
                found.requests_without_tolerance / found.bound <= 1.5,
                "{found:?}"
            );
            assert!(
                found.requests_without_tolerance / found.oracle <= 1.3,
                "{found:?}"
            );
        }
        let promoted = efficiency::promotion(0.5, 0.5, 500, 7).unwrap();
        assert!(promoted.requests / promoted.bound <= 1.25, "{promoted:?}");
    }

    #[test]
    fn a_report_is_complete_and_reproducible() {
        let options = SimulationOptions { runs: 4, seed: 1 };
        let report = run(options).unwrap();
        let tables = crate::markdown(&report);
        assert_eq!(tables.matches("\n### ").count(), 8, "{tables}");
        assert_eq!(tables, crate::markdown(&run(options).unwrap()));
        assert!(!tables.contains("NaN"));
        let svg = crate::chart(&report);
        assert_eq!(svg.matches("<polyline").count(), 6, "a line for each rule");
        assert!(svg.contains("Mann-Whitney") && !svg.contains("NaN"));
    }
}
