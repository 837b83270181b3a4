use proptest::prelude::*;

use super::scale::{SIGNIFICANT, chi_squared_quantile};
use super::*;
use crate::counts::{Counts, PodId, Tick};

fn pods<const N: usize>(errors: [f64; N]) -> Vec<PodCounts> {
    let pod = |errors| PodCounts {
        requests: 500.0,
        errors,
        ..PodCounts::default()
    };
    errors.map(pod).to_vec()
}

fn learned(ticks: &[Vec<PodCounts>]) -> MultiScaleDispersion {
    let mut dispersion = MultiScaleDispersion::default();
    dispersion.learn_history(ticks.iter().map(Vec::as_slice));
    dispersion
}

/// The next number from 0 to 1 of a linear congruential generator (Knuth).
fn uniform(state: &mut u64) -> f64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    f64::from(u32::try_from(*state >> 32).unwrap()) / f64::from(u32::MAX)
}

/// Poisson errors of four pods, in `ticks` ticks.
fn independent(random: &mut u64, ticks: u32, mean: f64) -> Vec<Vec<PodCounts>> {
    let mut draw = || {
        let (mut left, mut count) = (uniform(random), 0.0);
        let mut probability = (-mean).exp();
        while left > probability && count < 1e3 {
            left -= probability;
            count += 1.0;
            probability *= mean / count;
        }
        count
    };
    (0..ticks)
        .map(|_| pods([draw(), draw(), draw(), draw()]))
        .collect()
}

#[test]
fn independent_errors_cost_no_power() {
    let mut random = 7;
    for mean in [0.02, 0.5, 20.0] {
        let mut sum = 0.0;
        for _ in 0..300 {
            sum += learned(&independent(&mut random, 240, mean)).k();
        }
        let mean_k = sum / 300.0;
        assert!(mean_k < 1.08, "mean k {mean_k} at {mean} errors a tick");
    }
}

#[test]
fn clusters_within_a_scrape_are_seen_at_the_first_scale() {
    let ticks: Vec<_> = (0..64)
        .map(|index| match index % 4 {
            0 => pods([8.0, 0.0, 0.0, 0.0]),
            1 => pods([0.0, 8.0, 0.0, 0.0]),
            2 => pods([0.0, 0.0, 8.0, 0.0]),
            _ => pods([0.0, 0.0, 0.0, 8.0]),
        })
        .collect();
    let dispersion = learned(&ticks);
    assert_eq!(dispersion.phi(), Some(8.0));
    assert!((dispersion.k() - 8.0).abs() < 0.1, "{}", dispersion.k());
    assert!(dispersion.serial_k() < 1.01);
    assert!(!dispersion.pods_differ());
}

#[test]
fn clusters_that_outlast_a_scrape_are_seen_at_a_longer_one() {
    // One error in each scrape, on the same pod for 16 scrapes.
    let ticks: Vec<_> = (0..512)
        .map(|index| {
            let mut errors = [0.0; 4];
            errors[(index / 16 * 7 + index / 64) % 4] = 1.0;
            pods(errors)
        })
        .collect();
    let dispersion = learned(&ticks);
    assert_eq!(dispersion.phi(), Some(1.0), "a scrape shows nothing");
    assert!(dispersion.k() > 12.0, "{}", dispersion.k());
    assert!(dispersion.serial_k() > 12.0);
}

#[test]
fn pods_that_differ_are_seen_in_the_whole_history() {
    let ticks = vec![pods([1.0, 0.0, 0.0, 0.0]); 200];
    let dispersion = learned(&ticks);
    assert!(dispersion.pods_differ());
    assert!(dispersion.k() > 190.0);
}

#[test]
fn the_history_of_longer_steps_counts_at_its_scale() {
    let mut dispersion = MultiScaleDispersion::default();
    let hours = vec![pods([12.0, 0.0, 0.0, 0.0]); 24];
    dispersion.learn_coarse_history(5, hours.iter().map(Vec::as_slice));
    assert_eq!(dispersion.phi(), None, "nothing is known of scrapes");
    assert!(dispersion.k() > 200.0);
}

#[test]
fn a_pod_is_known_by_its_name_and_not_by_its_position() {
    let named = |name: &str, errors| PodCounts {
        pod: PodId::from_name(name),
        requests: 500.0,
        errors,
    };
    // The pod that fails is listed first or last.
    let ticks: Vec<_> = (0..64)
        .map(|index| {
            let mut pods = vec![named("a", 1.0), named("b", 0.0), named("c", 0.0)];
            if index % 2 == 0 {
                pods.reverse();
            }
            pods
        })
        .collect();
    assert!(learned(&ticks).k() > 50.0);
}

#[test]
fn the_state_is_bounded_for_any_number_of_pods_and_ticks() {
    let mut dispersion = MultiScaleDispersion::default();
    for index in 0..10_000_u32 {
        let pod = |pod: u32| PodCounts {
            pod: PodId::from_name(&format!("pod-{}", pod + index / 100)),
            requests: 5_432.0,
            errors: f64::from((pod + index) % 3),
        };
        dispersion.add(&(0..100).map(pod).collect::<Vec<_>>());
    }
    let json = serde_json::to_string(&dispersion).unwrap();
    assert!(json.len() < 8_000, "{} bytes", json.len());
}

#[test]
fn the_sums_of_an_earlier_version_are_read_as_a_lower_limit() {
    let stored = r#"{"numerator": 26.0, "denominator": 11.0}"#;
    let dispersion: MultiScaleDispersion = serde_json::from_str(stored).unwrap();
    assert!((dispersion.k() - 26.0 / 11.0).abs() < 1e-12);
    assert!(dispersion.has_data());
    let empty: MultiScaleDispersion =
        serde_json::from_str(r#"{"numerator": 0.0, "denominator": 0.0}"#).unwrap();
    assert_eq!((empty.k(), empty.has_data()), (1.0, false));
    let json = serde_json::to_string(&dispersion).unwrap();
    assert_eq!(
        serde_json::from_str::<MultiScaleDispersion>(&json).unwrap(),
        dispersion
    );
}

#[test]
fn quantiles_match_the_tables() {
    for (degrees, z, quantile) in [
        (1.0, SIGNIFICANT, 7.879),
        (3.0, SIGNIFICANT, 12.838),
        (100.0, SIGNIFICANT, 140.169),
        (1.0, 0.0, 0.4549),
        (3.0, 0.0, 2.366),
        (100.0, 0.0, 99.334),
    ] {
        let found = chi_squared_quantile(degrees, z);
        assert!((found / quantile - 1.0).abs() < 0.04, "{degrees}: {found}");
    }
}

fn serial_tick(index: i64, errors: f64) -> Tick {
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts: Counts::new(0.0, 0.0, 1_500.0, errors),
        ..Tick::default()
    }
}

#[test]
fn a_gateway_shows_clusters_in_time() {
    let learn = |errors: fn(i64) -> f64| {
        let mut serial = SerialDispersion::default();
        let ticks: Vec<_> = (0..480)
            .map(|index| serial_tick(index, errors(index)))
            .collect();
        serial.learn_history(&ticks);
        serial
    };
    let steady = learn(|index| f64::from(u8::from(index % 3 == 0)));
    assert_eq!((steady.k(), steady.clusters_last()), (1.0, false));
    let within = learn(|index| if index % 9 == 0 { 12.0 } else { 0.0 });
    assert!(within.k() > 5.0);
    let lasting = learn(|index| f64::from(u8::from(index / 8 % 4 == 0)));
    assert!(
        lasting.clusters_last() && lasting.k() > 2.0,
        "{}",
        lasting.k()
    );
}

#[test]
fn the_daily_drift_of_a_service_is_no_cluster() {
    let mut serial = SerialDispersion::default();
    for index in 0..5_760_i64 {
        let angle = f64::from(u16::try_from(index).unwrap()) / 5_760.0 * std::f64::consts::TAU;
        serial.add(&serial_tick(
            index,
            (20.0 * (1.0 + 0.8 * angle.sin())).round(),
        ));
    }
    assert_eq!(serial.k(), 1.0);
}

proptest! {
    #[test]
    fn a_restart_changes_no_bit(
        ticks in prop::collection::vec((0_u8..9, 0_u8..9, 0_u8..9), 1..80), at in 0_usize..80,
    ) {
        let tick = |(a, b, c): &(u8, u8, u8)| pods([*a, *b, *c].map(f64::from));
        let mut steady = MultiScaleDispersion::default();
        let mut restarted = MultiScaleDispersion::default();
        for (index, errors) in ticks.iter().enumerate() {
            if index == at {
                let json = serde_json::to_string(&restarted).unwrap();
                restarted = serde_json::from_str(&json).unwrap();
            }
            steady.add(&tick(errors));
            restarted.add(&tick(errors));
        }
        prop_assert_eq!(steady.k().to_bits(), restarted.k().to_bits());
        prop_assert_eq!(steady, restarted);
    }
}
