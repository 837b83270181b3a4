//! The bake after a blue/green switch, when the error rate of the service drifts with the time of
//! day: there is no other side to compare with, so the drift does not cancel out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::print_stdout,
    reason = "the measured shares are quoted in the documentation"
)]

use std::f64::consts::TAU;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Poisson};
use serin_analysis::EvidenceConfig;
use serin_analysis::bake::BakeEvidence;
use serin_analysis::counts::{Counts, Tick};
use serin_analysis::evidence::{Bets, Evidence};
use serin_analysis::service_guard::WindowCounts;

const DAY_SECONDS: f64 = 86_400.0;
const SCRAPE_SECONDS: f64 = 15.0;
const REQUESTS_PER_SECOND: f64 = 100.0;
/// Mean error rate of the service. Its error budget is 0.1 %.
const MEAN_RATE: f64 = 4e-4;
/// Largest difference from the mean over a day, as a share of the mean.
const DRIFT: f64 = 0.8;
const BAKE_SCRAPES: u32 = 120;
/// The stated probability of a rollback of a good release.
const ALPHA: f64 = 0.01;

/// Error rate of a good revision at a time of the day.
fn rate_at(seconds: f64) -> f64 {
    MEAN_RATE * (1.0 + DRIFT * (TAU * seconds / DAY_SECONDS).sin())
}

fn errors(random: &mut StdRng, mean: f64) -> f64 {
    if mean > 0.0 {
        Poisson::new(mean).unwrap().sample(random)
    } else {
        0.0
    }
}

/// The requests of the service in the window of this length that ends at `end_seconds`.
fn window(random: &mut StdRng, end_seconds: f64, length_seconds: f64) -> WindowCounts {
    let parts = 100;
    let part_seconds = length_seconds / f64::from(parts);
    let rates =
        (0..parts).map(|part| rate_at(end_seconds - (f64::from(part) + 0.5) * part_seconds));
    let requests = REQUESTS_PER_SECOND * length_seconds;
    let mean = rates.sum::<f64>() / f64::from(parts) * requests;
    WindowCounts {
        requests,
        bad: errors(random, mean),
    }
}

/// Lengths of the windows before the switch, as the controller reads them.
const WINDOW_HOURS: [f64; 3] = [30.0 * 24.0, 6.0, 1.0];

/// Whether a revision that fails `factor` times as often as a good one is switched back within the
/// bake. The switch happens at a random time of the day.
fn is_switched_back(seed: u64, factor: f64, window_hours: &[f64]) -> bool {
    let mut random = StdRng::seed_from_u64(seed);
    let switch_seconds = random.random_range(0.0..DAY_SECONDS);
    let windows: Vec<WindowCounts> = window_hours
        .iter()
        .map(|hours| window(&mut random, switch_seconds, hours * 3_600.0))
        .collect();
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let evidence = Evidence::new(&bets, 0);
    let bake_seconds = f64::from(BAKE_SCRAPES) * SCRAPE_SECONDS;
    let mut bake =
        BakeEvidence::start_after_switch(&bets, &evidence, &windows, 0, bake_seconds).unwrap();
    (0..BAKE_SCRAPES).any(|scrape| {
        let elapsed = f64::from(scrape) * SCRAPE_SECONDS;
        let requests = REQUESTS_PER_SECOND * SCRAPE_SECONDS;
        let rate = rate_at(switch_seconds + elapsed) * factor;
        let failed = errors(&mut random, rate * requests).min(requests);
        let scrape = i64::from(scrape);
        let tick = Tick {
            started_ms: scrape * 15_000,
            at_ms: (scrape + 1) * 15_000,
            counts: Counts::new(requests, failed, 0.0, 0.0),
            ..Tick::default()
        };
        bake.add(bets.config(), &tick);
        bake.ln_e(&bets) >= -ALPHA.ln()
    })
}

fn share_switched_back(runs: u32, factor: f64, window_hours: &[f64]) -> f64 {
    let back = (0..runs)
        .filter(|seed| is_switched_back(u64::from(*seed), factor, window_hours))
        .count();
    f64::from(u32::try_from(back).unwrap()) / f64::from(runs)
}

#[test]
fn a_good_release_is_switched_back_no_more_often_than_stated() {
    let share = share_switched_back(2_000, 1.0, &WINDOW_HOURS);
    println!("good releases that are switched back: {share}");
    assert!(share <= ALPHA, "{share}");
}

#[test]
fn the_mean_of_a_month_alone_would_switch_good_releases_back_at_the_peak() {
    let share = share_switched_back(400, 1.0, &WINDOW_HOURS[..1]);
    println!("with the month alone: {share}");
    assert!(share > 10.0 * ALPHA, "{share}");
}

#[test]
fn a_bad_release_is_switched_back_at_any_time_of_the_day() {
    // In the quietest hour ten times the errors are about twice the mean rate.
    let share = share_switched_back(200, 10.0, &WINDOW_HOURS);
    println!("bad releases that are switched back: {share}");
    assert!(share >= 0.99, "{share}");
}
