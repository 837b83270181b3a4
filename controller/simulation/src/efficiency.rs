//! How many requests the evidence needs, over what theory says that any rule needs.
//!
//! At a constant weight, without a warm-up, on ticks of a second so that the scrape interval is not
//! what is measured, and behind a router that keeps the weight exactly: in a hundred requests a
//! random split varies by so much that its noise would be measured, and the bound is that of a
//! constant one.

use serin_analysis::bet::poisson;
use serin_analysis::config::Temper;
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::feasibility::expected_requests;
use serin_analysis::{ConfigError, Counts, EvidenceConfig};

use crate::parallel;
use crate::world::{Effect, Scenario, Weather, World};

const ALPHA: f64 = 0.01;
const BETA: f64 = 0.05;
const B: f64 = 0.001;
const CONTEXT: TickContext = TickContext {
    warm_up_ends_ms: 0,
    weight_changed_at_ms: 0,
};
/// A run that has not ended after this many ticks ends here.
const MOST_TICKS: u32 = 40_000;

/// The mean requests until a regression is found, by this rule and by a test that knows it, and the
/// bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// How many times as often the canary fails.
    pub times: f64,
    /// The canary's share.
    pub weight: f64,
    /// The shipped rule.
    pub requests: f64,
    /// The shipped rule with its tolerances at nothing.
    pub requests_without_tolerance: f64,
    /// A sequential likelihood-ratio test that knows how many times.
    pub knowing: f64,
    /// `ln(1/alpha) / I`.
    pub bound: f64,
}

/// The mean requests until a good release is promoted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promotion {
    /// The error rate of both arms, of the budget fraction.
    pub rate_of_budget: f64,
    /// The margin, of the budget fraction.
    pub margin_of_budget: f64,
    /// The shipped rule.
    pub requests: f64,
    /// `ln(1/beta) / I`.
    pub bound: f64,
}

fn scenario(stable_rate: f64, effect: Effect) -> Scenario {
    Scenario {
        requests_per_second: 100.0,
        tick_seconds: 1,
        stable_rate,
        effect,
        weather: Weather::Plain,
    }
}

fn bets(change: impl Fn(&mut EvidenceConfig)) -> Result<Bets, ConfigError> {
    let mut config = EvidenceConfig::for_budget_fraction(B);
    config.temper = Temper::Fixed(1.0);
    config.warm_up_seconds = 0.0;
    change(&mut config);
    Bets::new(config)
}

/// Requests until the evidence has reached `until`.
fn requests(
    scenario: &Scenario,
    weight: f64,
    seed: u64,
    mut reached: impl FnMut(&serin_analysis::Tick) -> bool,
) -> f64 {
    let mut world = World::with_exact_split(*scenario, seed);
    let mut requests = 0.0;
    for _ in 0..MOST_TICKS {
        let tick = world.serve(weight).tick;
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
    let scenario = scenario(0.5 * B, Effect::Times(times));
    let threshold = -ALPHA.ln();
    let shipped = bets(|_| {})?;
    let strict = bets(|config| {
        config.rho0 = 1.0;
        config.delta0 = 0.0;
    })?;
    let by_rule = |bets: &Bets| {
        mean(&parallel::map(runs, seed, |seed| {
            let mut evidence = Evidence::new(bets, 0);
            requests(&scenario, weight, seed, |tick| {
                evidence.add(bets, tick, &CONTEXT);
                evidence.ln_e(bets) >= threshold
            })
        }))
    };
    let knowing = mean(&parallel::map(runs, seed, |seed| {
        let mut ln_ratio = 0.0;
        requests(&scenario, weight, seed, |tick| {
            ln_ratio += poisson(&tick.counts, times, 1.0).at_zero;
            ln_ratio >= threshold
        })
    }));
    // Expected growth of the bet that knows, per request of both arms.
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
        knowing,
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
    let scenario = scenario(rate, Effect::Times(1.0));
    let bets = bets(|config| {
        config.delta1 = delta1;
        config.plug_in = Some(rate);
    })?;
    let requests = mean(&parallel::map(runs, seed, |seed| {
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
