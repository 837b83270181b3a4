//! Placebo releases on the requests of a log: the rule on pods that all serve the same version.

use serin_analysis::ConfigError;
use serin_analysis::evidence::Bets;
use serin_analysis::placebo::{HOUR_MS, PlaceboRule, placebo};

use super::fixed_weight_rule::shipped_evidence;
use super::split::{SplitLog, SplitUnit};
use crate::parallel;
use crate::proportion::Proportion;
use crate::request_log::RequestLog;

/// Parameters of placebo releases on a log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogPlaceboOptions {
    /// The fraction of requests that may fail: 1 minus the objective.
    pub budget_fraction: f64,
    /// Maximum probability of a false rollback that the rule promises.
    pub alpha: f64,
    /// The scrape interval in seconds.
    pub scrape_seconds: u32,
    /// Number of times that requests are assigned to pods.
    pub draws: u32,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// The placebo releases of one way to assign requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPlacebo {
    /// What the router assigns.
    pub unit: SplitUnit,
    /// The placebo releases that are rolled back.
    pub releases: Proportion,
    /// The draws with at least one of them.
    pub draws: Proportion,
}

/// Assigns the requests of a log to pods, and applies the rule to each pod in turn. In a log of less
/// than two hours, the first half is the history and the second half the release.
///
/// # Errors
/// The budget fraction is out of its range.
pub fn log_placebo(
    log: &RequestLog,
    unit: SplitUnit,
    options: &LogPlaceboOptions,
) -> Result<LogPlacebo, ConfigError> {
    let evidence = shipped_evidence(options.budget_fraction, log.bad_rate());
    let bets = Bets::new(evidence)?;
    let split = SplitLog::new(log, unit, options.scrape_seconds);
    let counts = parallel::map_seeds(options.draws, options.seed, |seed| {
        let release = split.release(0.0, 1.0, seed);
        let ticks = [release.history, release.ticks].concat();
        let rule = PlaceboRule {
            bets: &bets,
            alpha: options.alpha,
            canary_share: 0.0,
        };
        let result = placebo(&ticks, HOUR_MS, &rule);
        (result.rolled_back(), result.releases())
    });
    let sum = |part: fn(&(u32, u32)) -> u32| counts.iter().map(part).sum();
    Ok(LogPlacebo {
        unit,
        releases: Proportion {
            count: sum(|(rolled_back, _)| *rolled_back),
            of: sum(|(_, releases)| *releases),
        },
        draws: Proportion::count(&counts, |(rolled_back, _)| *rolled_back > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_log::LoggedRequest;

    /// 20 requests a second for an hour of 50 clients. Two clients cause all bad requests, in turns
    /// of some minutes.
    fn log() -> RequestLog {
        let requests = (0..72_000_u32).map(|index| LoggedRequest {
            at_ms: i64::from(index) * 50,
            client: index % 50,
            is_bad: index % 50 == (index / 9_000) % 2 && index % 3 == 0 && index / 4_000 % 3 == 1,
        });
        RequestLog::new(requests.collect()).unwrap()
    }

    fn result(unit: SplitUnit, seed: u64) -> LogPlacebo {
        let log = log();
        let options = LogPlaceboOptions {
            budget_fraction: 2.0 * log.bad_rate(),
            alpha: 0.01,
            scrape_seconds: 15,
            draws: 20,
            seed,
        };
        log_placebo(&log, unit, &options).unwrap()
    }

    #[test]
    fn every_pod_of_every_draw_is_one_placebo_release() {
        let result = result(SplitUnit::Request, 1);
        assert_eq!((result.releases.of, result.draws.of), (80, 20));
        assert_eq!(result.releases.count, 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_result() {
        assert_eq!(result(SplitUnit::Client, 3), result(SplitUnit::Client, 3));
    }

    #[test]
    fn a_log_without_bad_requests_is_refused() {
        let requests = (0..100).map(|index| LoggedRequest {
            at_ms: index * 1000,
            client: 1,
            is_bad: false,
        });
        let options = LogPlaceboOptions {
            budget_fraction: 0.0,
            alpha: 0.01,
            scrape_seconds: 15,
            draws: 1,
            seed: 1,
        };
        let log = RequestLog::new(requests.collect()).unwrap();
        let error = log_placebo(&log, SplitUnit::Request, &options).unwrap_err();
        assert_eq!(error.field, "budgetFraction");
    }
}
