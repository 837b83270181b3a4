//! Which rollouts are simulated, and what became of them.

use serin_analysis::{ConfigError, EvidenceConfig, JudgeConfig};

use crate::efficiency::{self, Detection, Promotion};
use crate::outcome::Summary;
use crate::paced::Rule;
use crate::parallel;
use crate::rivals::Rival;
use crate::world::{Effect, Scenario, Weather};

/// How much to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Rollouts for each cell.
    pub runs: u32,
    /// The seed of all of them.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            runs: 100_000,
            seed: 20_260_101,
        }
    }
}

impl Options {
    /// The same with a seed of its own for each cell, so that what one cell happened to draw is not
    /// repeated in the next.
    fn of_cell(self, cell: u32) -> Self {
        Self {
            seed: parallel::mix(self.seed, cell),
            ..self
        }
    }
}

/// One cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The row.
    pub row: String,
    /// The column.
    pub column: String,
    /// What was seen.
    pub summary: Summary,
}

/// All tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What was asked for.
    pub options: Options,
    /// Good releases: rows are worlds, columns are requests per second.
    pub good: Vec<Cell>,
    /// Releases of all kinds at 100 requests/s: columns are rules.
    pub rules: Vec<Cell>,
    /// Releases that are as bad as the tolerances allow.
    pub edge: Vec<Cell>,
    /// Releases at exactly the margin.
    pub margin: Vec<Cell>,
    /// Bad releases under a small allotment.
    pub budget: Vec<Cell>,
    /// Requests to find a regression.
    pub detection: Vec<Detection>,
    /// Requests to promote.
    pub promotion: Vec<Promotion>,
}

const BUDGET_FRACTION: f64 = 0.001;
const STABLE_RATE: f64 = 0.0005;
const TICK_SECONDS: u32 = 15;

fn scenario(requests_per_second: f64, effect: Effect, weather: Weather) -> Scenario {
    Scenario {
        requests_per_second,
        tick_seconds: TICK_SECONDS,
        stable_rate: STABLE_RATE,
        effect,
        weather,
    }
}

/// Simulates everything; 100,000 runs take some minutes on two cores.
///
/// # Errors
/// None with the configurations that are simulated here; they are checked all the same.
pub fn run(options: Options) -> Result<Report, ConfigError> {
    Ok(Report {
        options,
        good: good(options)?,
        rules: rules(options)?,
        edge: edge(options)?,
        margin: margin(options)?,
        budget: budget(options)?,
        detection: detection(options)?,
        promotion: promotion(options)?,
    })
}

/// Simulates rollouts of one release under one configuration: the odds of promotion and rollback,
/// the time and the errors.
///
/// # Errors
/// The first field of the configuration that is out of its range.
pub fn simulate(
    options: Options,
    scenario: &Scenario,
    evidence: EvidenceConfig,
    judge: JudgeConfig,
    allotment: Option<f64>,
) -> Result<Summary, ConfigError> {
    let usual = || Rule::usual_allotment(evidence.budget_fraction, scenario.requests_per_second);
    let allotment = allotment.unwrap_or_else(usual);
    let rule = Rule::new(evidence, judge, allotment)?;
    Ok(Summary::of(&parallel::map(
        options.runs,
        options.seed,
        |seed| rule.rollout(scenario, seed),
    )))
}

/// The defaults at 99.9 % with this margin (`delta1 / b`), knowing stable's error rate from
/// history.
fn paced(
    options: Options,
    scenario: &Scenario,
    margin: f64,
    allotment: Option<f64>,
) -> Result<Summary, ConfigError> {
    let mut evidence =
        EvidenceConfig::for_budget_fraction(BUDGET_FRACTION).with_history(scenario.stable_rate);
    evidence.delta1 = margin * BUDGET_FRACTION;
    simulate(
        options,
        scenario,
        evidence,
        JudgeConfig::default(),
        allotment,
    )
}

fn good(options: Options) -> Result<Vec<Cell>, ConfigError> {
    let mut cells = Vec::new();
    for (index, weather) in (0..).zip(Weather::ALL) {
        for (column, rate) in (0..).zip([10.0, 100.0, 1000.0]) {
            let options = options.of_cell(3 * index + column);
            let summary = paced(
                options,
                &scenario(rate, Effect::Times(1.0), weather),
                0.5,
                None,
            )?;
            cells.push(Cell {
                row: weather.name().to_owned(),
                column: format!("{rate} requests/s"),
                summary,
            });
        }
    }
    Ok(cells)
}

/// The releases of the table of rules.
fn releases() -> [(&'static str, Effect); 7] {
    [
        ("A/A", Effect::Times(1.0)),
        ("2x", Effect::Times(2.0)),
        ("5x", Effect::Times(5.0)),
        ("10x", Effect::Times(10.0)),
        ("20x", Effect::Times(20.0)),
        ("100x", Effect::Times(100.0)),
        ("50 % fail", Effect::Fraction(0.5)),
    ]
}

fn rules(options: Options) -> Result<Vec<Cell>, ConfigError> {
    let mut cells = Vec::new();
    for (row, effect) in releases() {
        let scenario = scenario(100.0, effect, Weather::Plain);
        for (column, margin) in [("this rule, .5b", 0.5), ("this rule, 1b", 1.0)] {
            let summary = paced(options, &scenario, margin, None)?;
            cells.push(Cell {
                row: row.to_owned(),
                column: column.to_owned(),
                summary,
            });
        }
        for rival in Rival::shipped(BUDGET_FRACTION) {
            let outcomes = parallel::map(options.runs, options.seed, |seed| {
                rival.rollout(&scenario, seed)
            });
            cells.push(Cell {
                row: row.to_owned(),
                column: rival.name(),
                summary: Summary::of(&outcomes),
            });
        }
    }
    Ok(cells)
}

/// The edge of what counts as good is where the bound on false rollbacks is put to the test: a
/// release that changes nothing is well inside.
fn edge(options: Options) -> Result<Vec<Cell>, ConfigError> {
    let EvidenceConfig { rho0, delta0, .. } = EvidenceConfig::for_budget_fraction(BUDGET_FRACTION);
    let excess = (rho0 - 1.0) * STABLE_RATE + delta0;
    let mut cells = Vec::new();
    for (cell, rate) in (100..).zip([10.0, 100.0, 1000.0]) {
        let summary = paced(
            options.of_cell(cell),
            &scenario(rate, Effect::Plus(excess), Weather::Plain),
            0.5,
            None,
        )?;
        let row = "1.1 times stable's errors and 0.05 b".to_owned();
        cells.push(Cell {
            row,
            column: format!("{rate} requests/s"),
            summary,
        });
    }
    Ok(cells)
}

fn margin(options: Options) -> Result<Vec<Cell>, ConfigError> {
    let mut cells = Vec::new();
    for rate in [10.0, 100.0, 1000.0] {
        for margin in [0.5, 1.0] {
            let scenario = scenario(rate, Effect::Plus(margin * 0.001), Weather::Plain);
            let summary = paced(options, &scenario, margin, None)?;
            cells.push(Cell {
                row: format!("{rate} requests/s"),
                column: format!("margin {margin}b"),
                summary,
            });
        }
    }
    Ok(cells)
}

fn budget(options: Options) -> Result<Vec<Cell>, ConfigError> {
    let mut cells = Vec::new();
    for (row, effect) in releases().into_iter().skip(1) {
        for allotment in [50.0, 100.0, 500.0] {
            let summary = paced(
                options,
                &scenario(100.0, effect, Weather::Plain),
                0.5,
                Some(allotment),
            )?;
            cells.push(Cell {
                row: row.to_owned(),
                column: format!("A = {allotment}"),
                summary,
            });
        }
    }
    Ok(cells)
}

/// Means need fewer runs than rates of a few in a thousand.
const RUNS_OF_MEANS: u32 = 10_000;

fn detection(options: Options) -> Result<Vec<Detection>, ConfigError> {
    let runs = options.runs.min(RUNS_OF_MEANS);
    let cells = [2.0, 3.0, 5.0, 10.0, 30.0, 100.0]
        .into_iter()
        .flat_map(|times| [0.5, 0.1].map(|weight| (times, weight)));
    cells
        .map(|(times, weight)| efficiency::detection(times, weight, runs, options.seed))
        .collect()
}

fn promotion(options: Options) -> Result<Vec<Promotion>, ConfigError> {
    let runs = options.runs.min(RUNS_OF_MEANS);
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

    /// The promises of the design with as many runs as a test may take; the chance that a rate of 1
    /// in 1000 shows 12 or more in 4000 is below 1 in 1000, and the seeds are fixed.
    const OPTIONS: Options = Options {
        runs: 4000,
        seed: 7,
    };

    fn rolled_back(summary: &Summary) -> f64 {
        summary.rolled_back + summary.rolled_back_by_budget
    }

    #[test]
    fn a_good_release_is_promoted_in_any_weather() {
        for weather in [
            Weather::Plain,
            Weather::SharedBursts,
            Weather::DailyDrift,
            Weather::WarmUpSpike,
        ] {
            let good = paced(
                OPTIONS,
                &scenario(100.0, Effect::Times(1.0), weather),
                0.5,
                None,
            )
            .unwrap();
            assert!(rolled_back(&good) <= 0.3, "{weather:?}: {good:?}");
            assert!(
                good.promoted >= 97.0 && good.median_seconds <= 750.0,
                "{weather:?}: {good:?}"
            );
        }
    }

    #[test]
    fn errors_in_clusters_do_not_roll_a_good_release_back() {
        let options = Options {
            runs: 500,
            ..OPTIONS
        };
        for rate in [10.0, 100.0, 1000.0] {
            let good = paced(
                options,
                &scenario(rate, Effect::Times(1.0), Weather::StickyRetries),
                0.5,
                None,
            )
            .unwrap();
            assert!(rolled_back(&good) <= 1.0, "{rate}: {good:?}");
        }
    }

    #[test]
    fn a_bad_release_is_rolled_back_soon_and_cheaply() {
        let ten_times = paced(
            OPTIONS,
            &scenario(100.0, Effect::Times(10.0), Weather::Plain),
            0.5,
            None,
        )
        .unwrap();
        assert!(rolled_back(&ten_times) >= 99.9, "{ten_times:?}");
        assert!(
            ten_times.median_seconds <= 180.0 && ten_times.excess_errors <= 15.0,
            "{ten_times:?}"
        );
        let half = paced(
            OPTIONS,
            &scenario(100.0, Effect::Fraction(0.5), Weather::Plain),
            0.5,
            None,
        )
        .unwrap();
        assert_eq!(half.p95_seconds, 30.0, "two scrapes");
    }

    #[test]
    fn a_release_at_the_margin_is_seldom_promoted() {
        for margin in [0.5, 1.0] {
            let at_margin = paced(
                OPTIONS,
                &scenario(100.0, Effect::Plus(margin * 0.001), Weather::Plain),
                margin,
                None,
            )
            .unwrap();
            assert!(at_margin.promoted <= 5.0, "{at_margin:?}");
        }
    }

    #[test]
    fn the_allotment_is_kept() {
        let options = Options {
            runs: 1000,
            ..OPTIONS
        };
        for effect in [Effect::Times(2.0), Effect::Times(5.0), Effect::Times(100.0)] {
            let spending = paced(
                options,
                &scenario(100.0, effect, Weather::Plain),
                0.5,
                Some(50.0),
            )
            .unwrap();
            assert!(spending.overspent <= 5.0, "{effect:?}: {spending:?}");
        }
    }

    #[test]
    fn evidence_costs_little_more_than_theory_says_it_must() {
        for times in [2.0, 5.0, 10.0] {
            let found = efficiency::detection(times, 0.5, 300, 7).unwrap();
            assert!(
                found.requests_without_tolerance / found.bound <= 1.5,
                "{found:?}"
            );
            assert!(
                found.requests_without_tolerance / found.knowing <= 1.3,
                "{found:?}"
            );
        }
        let promoted = efficiency::promotion(0.5, 0.5, 500, 7).unwrap();
        assert!(promoted.requests / promoted.bound <= 1.25, "{promoted:?}");
    }

    #[test]
    fn a_report_has_every_table_and_the_same_numbers_each_time() {
        let options = Options { runs: 4, seed: 1 };
        let report = run(options).unwrap();
        let told = crate::markdown(&report);
        assert_eq!(told.matches("\n### ").count(), 8, "{told}");
        assert_eq!(told, crate::markdown(&run(options).unwrap()));
        assert!(!told.contains("NaN"));
        let drawn = crate::chart(&report);
        assert_eq!(
            drawn.matches("<polyline").count(),
            6,
            "a line for each rule"
        );
        assert!(drawn.contains("Mann-Whitney") && !drawn.contains("NaN"));
    }
}
