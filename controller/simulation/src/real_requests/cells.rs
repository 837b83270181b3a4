//! The cells of the tables.

use serin_analysis::ConfigError;

use super::fixed_weight_rule::{CountingMode, FixedWeightRule, RuleResult};
use super::split::{SplitLog, SplitRelease, SplitUnit};
use crate::competing_rules::{CompetingRule, RuleRunner};
use crate::outcome::FinalDecision;
use crate::parallel::{self, derive_seed};
use crate::proportion::Proportion;
use crate::request_log::RequestLog;
use crate::scenario::seconds;

/// Canary weights of the A/A table.
pub const WEIGHTS: [f64; 4] = [0.05, 0.1, 0.2, 0.5];
/// Scrape intervals of the A/A table, in seconds.
pub const SCRAPE_SECONDS: [u32; 3] = [5, 15, 60];
/// The scrape interval and the weight of the tables that do not vary them.
pub(super) const DEFAULT_SCRAPE_SECONDS: u32 = 15;
pub(super) const DEFAULT_WEIGHT: f64 = 0.2;
/// Factors of the canary's errors in the A/B table.
pub(super) const ERROR_FACTORS: [f64; 3] = [2.0, 5.0, 10.0];
/// The rule without any allowance for clusters.
const INDEPENDENT: &str = "Serin for independent errors";
/// The objective is such that the log has used this part of its budget.
const BUDGET_USED: f64 = 0.5;

/// A log and its name in the tables.
#[derive(Debug, Clone)]
pub struct NamedLog {
    /// The name, such as that of its file.
    pub name: String,
    /// The requests.
    pub log: RequestLog,
}

impl NamedLog {
    /// The fraction of requests that may fail under the objective of the test.
    pub fn budget_fraction(&self) -> f64 {
        self.log.bad_rate() / BUDGET_USED
    }
}

/// Size and seed of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealRequestsOptions {
    /// Number of draws per cell.
    pub splits: u32,
    /// Base seed.
    pub seed: u64,
}

/// The results of one mode in one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct ModeResult {
    /// Releases that are rolled back by evidence, also after a promotion.
    pub rolled_back: Proportion,
    /// Releases that are rolled back before they are promoted.
    pub before_promotion: Proportion,
    /// Releases with a claimed bound at the first scrape.
    pub claimed: Proportion,
    /// Rolled back releases among those.
    pub rolled_back_of_claimed: Proportion,
    /// Releases with a claimed bound at the first scrape and with the verdict.
    pub upheld: Proportion,
    /// Rolled back releases among those.
    pub rolled_back_of_upheld: Proportion,
    /// Median seconds to the rollback over all releases. `None` if less than half are rolled back.
    pub median_seconds: Option<f64>,
}

impl ModeResult {
    fn from_results(results: &[RuleResult], unit: SplitUnit) -> Self {
        let is_rolled_back = |result: &RuleResult| result.rolled_back_after_ms.is_some();
        let is_by_request = unit == SplitUnit::Request;
        let is_claimed = |result: &RuleResult| result.claim_before.holds_for(is_by_request);
        let is_upheld = |result: &RuleResult| result.claim.holds_for(is_by_request);
        let claimed: Vec<_> = results.iter().copied().filter(is_claimed).collect();
        let upheld: Vec<_> = results.iter().copied().filter(is_upheld).collect();
        let mut after_ms: Vec<i64> = results
            .iter()
            .map(|result| result.rolled_back_after_ms.unwrap_or(i64::MAX))
            .collect();
        after_ms.sort_unstable();
        let median_ms = after_ms.get(after_ms.len() / 2).copied();
        Self {
            rolled_back: Proportion::count(results, is_rolled_back),
            before_promotion: Proportion::count(results, |result| {
                is_rolled_back(result) && !result.promoted_before
            }),
            claimed: Proportion::count(results, is_claimed),
            rolled_back_of_claimed: Proportion::count(&claimed, is_rolled_back),
            upheld: Proportion::count(results, is_upheld),
            rolled_back_of_upheld: Proportion::count(&upheld, is_rolled_back),
            median_seconds: median_ms.filter(|ms| *ms < i64::MAX).map(seconds),
        }
    }

    /// Whether the bound is claimed for most releases of the cell, before they begin.
    pub fn is_claimed(&self) -> bool {
        self.claimed.is_most()
    }
}

/// A good release: the canary equals stable.
#[derive(Debug, Clone, PartialEq)]
pub struct AaCell {
    /// Name of the log.
    pub log: String,
    /// What the router assigns.
    pub unit: SplitUnit,
    /// The canary's weight.
    pub weight: f64,
    /// The scrape interval in seconds.
    pub scrape_seconds: u32,
    /// The result at a gateway.
    pub gateway: ModeResult,
    /// The result if each pod counts.
    pub pods: ModeResult,
    /// The other rules and the releases that they roll back. Empty unless the weight and the
    /// scrape interval are the usual ones.
    pub other_rules: Vec<(String, Proportion)>,
}

impl AaCell {
    /// The result of one mode.
    pub fn result(&self, mode: CountingMode) -> &ModeResult {
        match mode {
            CountingMode::Gateway => &self.gateway,
            CountingMode::Pods => &self.pods,
        }
    }
}

/// A bad release: the canary fails more often than stable.
#[derive(Debug, Clone, PartialEq)]
pub struct AbCell {
    /// Name of the log.
    pub log: String,
    /// What the router assigns.
    pub unit: SplitUnit,
    /// Factor of the canary's errors.
    pub factor: f64,
    /// The result at a gateway.
    pub gateway: ModeResult,
    /// The result if each pod counts.
    pub pods: ModeResult,
}

/// All tables.
#[derive(Debug, Clone, PartialEq)]
pub struct RealReport {
    /// The options of this report.
    pub options: RealRequestsOptions,
    /// Description of each log: name, requests, percentage of bad requests, requests per second.
    pub logs: Vec<(String, usize, f64, f64)>,
    /// Good releases.
    pub aa: Vec<AaCell>,
    /// Bad releases, at the usual weight and scrape interval.
    pub ab: Vec<AbCell>,
}

/// Tests all cells on all cores. The same options give the same report.
///
/// # Errors
/// A log without bad requests, or with more than half of them bad, has no valid objective.
pub fn run(logs: &[NamedLog], options: RealRequestsOptions) -> Result<RealReport, ConfigError> {
    let mut seeds = (0..).map(|cell| derive_seed(options.seed, cell));
    let (mut aa, mut ab) = (Vec::new(), Vec::new());
    for log in logs {
        for unit in SplitUnit::ALL {
            aa.extend(good_releases(log, unit, options.splits, &mut seeds)?);
            ab.extend(bad_releases(log, unit, options.splits, &mut seeds)?);
        }
    }
    let logs = logs.iter().map(|NamedLog { name, log }| {
        let bad_percent = 100.0 * log.bad_rate();
        let rate = log.requests_per_second();
        (name.clone(), log.requests().len(), bad_percent, rate)
    });
    Ok(RealReport {
        options,
        logs: logs.collect(),
        aa,
        ab,
    })
}

fn good_releases(
    log: &NamedLog,
    unit: SplitUnit,
    splits: u32,
    seeds: &mut impl Iterator<Item = u64>,
) -> Result<Vec<AaCell>, ConfigError> {
    let mut cells = Vec::new();
    for scrape_seconds in SCRAPE_SECONDS {
        let split = SplitLog::new(&log.log, unit, scrape_seconds);
        for weight in WEIGHTS {
            let cell = Cell {
                log,
                unit,
                split: &split,
                weight,
                factor: 1.0,
                compares_rules: scrape_seconds == DEFAULT_SCRAPE_SECONDS
                    && weight.to_bits() == DEFAULT_WEIGHT.to_bits(),
            };
            let result = cell.test(splits, seeds.next().unwrap_or_default())?;
            cells.push(AaCell {
                log: log.name.clone(),
                unit,
                weight,
                scrape_seconds,
                gateway: result.gateway,
                pods: result.pods,
                other_rules: result.other_rules,
            });
        }
    }
    Ok(cells)
}

fn bad_releases(
    log: &NamedLog,
    unit: SplitUnit,
    splits: u32,
    seeds: &mut impl Iterator<Item = u64>,
) -> Result<Vec<AbCell>, ConfigError> {
    let split = SplitLog::new(&log.log, unit, DEFAULT_SCRAPE_SECONDS);
    let mut cells = Vec::new();
    for factor in ERROR_FACTORS {
        let cell = Cell {
            log,
            unit,
            split: &split,
            weight: DEFAULT_WEIGHT,
            factor,
            compares_rules: false,
        };
        let result = cell.test(splits, seeds.next().unwrap_or_default())?;
        cells.push(AbCell {
            log: log.name.clone(),
            unit,
            factor,
            gateway: result.gateway,
            pods: result.pods,
        });
    }
    Ok(cells)
}

/// One cell before its test.
struct Cell<'a> {
    log: &'a NamedLog,
    unit: SplitUnit,
    split: &'a SplitLog,
    weight: f64,
    factor: f64,
    compares_rules: bool,
}

/// The result of one cell.
struct CellResult {
    gateway: ModeResult,
    pods: ModeResult,
    other_rules: Vec<(String, Proportion)>,
}

impl Cell<'_> {
    fn test(&self, splits: u32, seed: u64) -> Result<CellResult, ConfigError> {
        let budget_fraction = self.log.budget_fraction();
        let rule = FixedWeightRule::new(
            budget_fraction,
            self.log.log.bad_rate(),
            self.log.log.requests_per_second(),
            self.weight,
        )?;
        let independent = FixedWeightRule::for_independent_errors(
            budget_fraction,
            self.log.log.bad_rate(),
            self.log.log.requests_per_second(),
            self.weight,
        )?;
        let rules = if self.compares_rules {
            CompetingRule::shipped(budget_fraction).to_vec()
        } else {
            Vec::new()
        };
        let results = parallel::map_seeds(splits, seed, |seed| {
            let release = self.split.release(self.weight, self.factor, seed);
            let mut rolled_back_by = Vec::new();
            if self.compares_rules {
                let result = independent.evaluate(&release, CountingMode::Gateway);
                rolled_back_by.push(result.rolled_back_after_ms.is_some());
                let others = rules.iter().map(|rule| is_rolled_back_by(*rule, &release));
                rolled_back_by.extend(others);
            }
            (
                CountingMode::ALL.map(|mode| rule.evaluate(&release, mode)),
                rolled_back_by,
            )
        });
        let of_mode = |mode: usize| {
            let results: Vec<_> = results.iter().map(|(modes, _)| modes[mode]).collect();
            ModeResult::from_results(&results, self.unit)
        };
        let names = std::iter::once(INDEPENDENT.to_owned())
            .chain(rules.iter().map(|rule| rule.name()))
            .filter(|_| self.compares_rules);
        let other_rules = names.enumerate().map(|(index, name)| {
            let count = Proportion::count(&results, |(_, by)| by.get(index) == Some(&true));
            (name, count)
        });
        Ok(CellResult {
            gateway: of_mode(0),
            pods: of_mode(1),
            other_rules: other_rules.collect(),
        })
    }
}

/// Applies another rule until its decision.
fn is_rolled_back_by(rule: CompetingRule, release: &SplitRelease) -> bool {
    let mut runner = RuleRunner::new(rule, release.began_ms);
    let mut decisions = release
        .ticks
        .iter()
        .filter_map(|tick| runner.add(tick.at_ms, &tick.counts));
    decisions.next() == Some(FinalDecision::RolledBack)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_log::LoggedRequest;

    /// 20 requests a second of 50 clients. Two clients cause all bad requests.
    fn log() -> NamedLog {
        let requests = (0..24_000_u32).map(|index| LoggedRequest {
            at_ms: i64::from(index) * 50,
            client: index % 50,
            is_bad: index % 50 < 2 && index % 3 == 0,
        });
        NamedLog {
            name: "two clients".to_owned(),
            log: RequestLog::new(requests.collect()).unwrap(),
        }
    }

    fn report(seed: u64) -> RealReport {
        run(&[log()], RealRequestsOptions { splits: 60, seed }).unwrap()
    }

    #[test]
    fn the_bound_holds_per_request_and_breaks_where_clients_stick() {
        let report = report(1);
        let worst = |unit| {
            let cells = report.aa.iter().filter(|cell| cell.unit == unit);
            cells
                .map(|cell| cell.gateway.rolled_back.percent())
                .fold(0.0, f64::max)
        };
        assert!(
            worst(SplitUnit::Request) <= 2.0,
            "{}",
            worst(SplitUnit::Request)
        );
        assert!(
            worst(SplitUnit::Client) > 10.0,
            "{}",
            worst(SplitUnit::Client)
        );
        let found = report.ab.iter().find(|cell| {
            cell.unit == SplitUnit::Request && cell.factor.to_bits() == 10_f64.to_bits()
        });
        let found = &found.unwrap().gateway;
        assert_eq!(found.rolled_back.percent(), 100.0);
        assert!(found.median_seconds.unwrap() < 300.0);
    }

    #[test]
    fn the_same_seed_gives_the_same_report() {
        assert_eq!(report(5), report(5));
    }

    #[test]
    fn a_log_without_bad_requests_is_refused() {
        let requests = (0..100).map(|index| LoggedRequest {
            at_ms: index * 1000,
            client: 1,
            is_bad: false,
        });
        let log = NamedLog {
            name: "good".to_owned(),
            log: RequestLog::new(requests.collect()).unwrap(),
        };
        let options = RealRequestsOptions { splits: 1, seed: 1 };
        assert_eq!(run(&[log], options).unwrap_err().field, "budgetFraction");
    }
}
