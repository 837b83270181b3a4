//! The number of requests that the evidence needs, relative to the theoretical minimum of any rule.
//!
//! Measured at a constant weight, without a warm-up, on ticks of one second so that the scrape
//! interval has no influence, and with a router that keeps the weight exactly. The bound applies to
//! a constant split; the noise of a random split would distort the result.

use serin_analysis::bet::poisson;
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::feasibility::expected_requests;
use serin_analysis::{ConfigError, Counts, EvidenceConfig};

use crate::parallel;
use crate::scenario::{CanaryEffect, Conditions, Scenario, ServiceSimulator};

const ALPHA: f64 = 0.01;
const BETA: f64 = 0.05;
const B: f64 = 0.001;
const CONTEXT: TickContext = TickContext {
    warm_up_ends_ms: 0,
    weight_changed_at_ms: 0,
    young_share: None,
};
/// Maximum number of ticks of a run.
const MAX_TICKS: u32 = 40_000;

/// Mean requests until a regression is detected, by this rule and by a test that knows the effect,
/// and the bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Ratio of the canary's error rate to stable's.
    pub times: f64,
    /// The canary's weight, from 0 to 1.
    pub weight: f64,
    /// Mean requests with Serin's rule.
    pub requests: f64,
    /// The same with tolerances of 0.
    pub requests_without_tolerance: f64,
    /// Mean requests of a sequential likelihood-ratio test that knows the effect.
    pub oracle: f64,
    /// `ln(1/alpha) / I`.
    pub bound: f64,
}

/// Mean requests until a good release is promoted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promotion {
    /// The error rate of both variants, relative to the budget fraction.
    pub rate_of_budget: f64,
    /// The margin, relative to the budget fraction.
    pub margin_of_budget: f64,
    /// Mean requests with Serin's rule.
    pub requests: f64,
    /// `ln(1/beta) / I`.
    pub bound: f64,
}

fn scenario(stable_rate: f64, effect: CanaryEffect) -> Scenario {
    Scenario {
        requests_per_second: 100.0,
        tick_seconds: 1,
        stable_rate,
        effect,
        conditions: Conditions::Plain,
    }
}

fn bets(change: impl Fn(&mut EvidenceConfig)) -> Result<Bets, ConfigError> {
    let mut config = EvidenceConfig::for_budget_fraction(B);
    config.warm_up_seconds = 0.0;
    change(&mut config);
    Bets::new(config)
}

/// Simulates until `reached` returns true. Returns the number of requests to both variants.
fn requests(
    scenario: &Scenario,
    weight: f64,
    seed: u64,
    mut reached: impl FnMut(&serin_analysis::Tick) -> bool,
) -> f64 {
    let mut simulator = ServiceSimulator::with_exact_split(*scenario, seed);
    let mut requests = 0.0;
    for _ in 0..MAX_TICKS {
        let tick = simulator.serve(weight).tick;
        requests += tick.counts.requests();
        if reached(&tick) {
            break;
        }
    }
    requests
}

fn mean(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a number of runs")]
    let count = values.len().max(1) as f64;
    values.iter().sum::<f64>() / count
}

pub(crate) fn detection(
    times: f64,
    weight: f64,
    runs: u32,
    seed: u64,
) -> Result<Detection, ConfigError> {
    let scenario = scenario(0.5 * B, CanaryEffect::Times(times));
    let threshold = -ALPHA.ln();
    let shipped = bets(|_| {})?;
    let strict = bets(|config| {
        config.rho0 = 1.0;
        config.delta0 = 0.0;
    })?;
    let by_rule = |bets: &Bets| {
        mean(&parallel::map_seeds(runs, seed, |seed| {
            let mut evidence = Evidence::new(bets, 0);
            requests(&scenario, weight, seed, |tick| {
                evidence.add(bets, tick, &CONTEXT);
                evidence.ln_e(bets) >= threshold
            })
        }))
    };
    let oracle = mean(&parallel::map_seeds(runs, seed, |seed| {
        let mut ln_ratio = 0.0;
        requests(&scenario, weight, seed, |tick| {
            ln_ratio += poisson(&tick.counts, times, 1.0).at_zero;
            ln_ratio >= threshold
        })
    }));
    // Expected growth of the oracle's bet per request to either variant.
    let p_s = scenario.stable_rate;
    let per_request = Counts::new(
        weight,
        weight * p_s * times,
        1.0 - weight,
        (1.0 - weight) * p_s,
    );
    let bound = threshold / poisson(&per_request, times, 1.0).at_zero;
    let (requests, requests_without_tolerance) = (by_rule(&shipped), by_rule(&strict));
    Ok(Detection {
        times,
        weight,
        requests,
        requests_without_tolerance,
        oracle,
        bound,
    })
}

pub(crate) fn promotion(
    rate_of_budget: f64,
    margin_of_budget: f64,
    runs: u32,
    seed: u64,
) -> Result<Promotion, ConfigError> {
    let (rate, delta1) = (rate_of_budget * B, margin_of_budget * B);
    let scenario = scenario(rate, CanaryEffect::Times(1.0));
    let bets = bets(|config| {
        config.delta1 = delta1;
        config.plug_in = Some(rate);
    })?;
    let requests = mean(&parallel::map_seeds(runs, seed, |seed| {
        let mut evidence = Evidence::new(&bets, 0);
        requests(&scenario, 0.5, seed, |tick| {
            evidence.add(&bets, tick, &CONTEXT);
            evidence.ln_m_good(&bets, delta1) >= -BETA.ln()
        })
    }));
    Ok(Promotion {
        rate_of_budget,
        margin_of_budget,
        requests,
        bound: expected_requests(rate, 0.5, delta1, BETA),
    })
}
