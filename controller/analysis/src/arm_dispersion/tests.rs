use proptest::prelude::*;

use super::*;
use crate::counts::Counts;

fn tick(index: i64, counts: Counts) -> Tick {
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts,
        ..Tick::default()
    }
}

/// The next number from 0 to 1 of a linear congruential generator (Knuth).
fn uniform(state: &mut u64) -> f64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    f64::from(u32::try_from(*state >> 32).unwrap()) / f64::from(u32::MAX)
}

/// A number of `count` units that come to the canary with `share` each, times `size`.
fn drawn(random: &mut u64, count: u32, share: f64, size: f64) -> f64 {
    let chosen = (0..count).filter(|_| uniform(random) < share).count();
    f64::from(u32::try_from(chosen).unwrap()) * size
}

/// Ticks of 1,000 requests at a share of 20 %, with `clusters(tick)` clusters of `size` errors each.
fn learned(
    random: &mut u64,
    ticks: i64,
    share_of_errors: f64,
    size: f64,
    clusters: impl Fn(i64) -> u32,
) -> ArmDispersion {
    let mut arms = ArmDispersion::default();
    for index in 0..ticks {
        let count = clusters(index);
        let canary = drawn(random, count, share_of_errors, size);
        let stable = f64::from(count) * size - canary;
        let counts = Counts::new(200.0, canary, 800.0, stable);
        arms.add(&tick(index, counts));
    }
    arms
}

/// The error rate doubles and falls by bursts that both arms share.
fn drifting(index: i64) -> u32 {
    u32::try_from((index / 8) % 5 * 20 + index % 3 * 15).unwrap()
}

#[test]
fn an_error_rate_that_drifts_for_both_arms_is_no_cluster() {
    let mut random = 3;
    let runs: Vec<_> = (0..200)
        .map(|_| learned(&mut random, 80, 0.2, 1.0, drifting))
        .collect();
    let clustered = runs.iter().filter(|arms| arms.k() > 1.6).count();
    assert!(clustered <= 30, "{clustered} of 200");
    let lasting = runs.iter().filter(|arms| arms.clusters_last()).count();
    assert!(lasting <= 16, "{lasting} of 200");
    assert!(runs.iter().all(|arms| arms.refutes_clusters(10.0)));
}

#[test]
fn a_canary_that_is_worse_all_the_time_is_no_cluster() {
    let mut random = 5;
    let runs: Vec<_> = (0..200)
        .map(|_| learned(&mut random, 40, 0.7, 1.0, drifting))
        .collect();
    let clustered = runs.iter().filter(|arms| arms.k() > 1.6).count();
    assert!(clustered <= 30, "{clustered} of 200");
}

#[test]
fn clusters_that_reach_an_arm_as_a_whole_are_seen() {
    let mut random = 7;
    let runs: Vec<_> = (0..100)
        .map(|_| learned(&mut random, 60, 0.2, 10.0, |_| 3))
        .collect();
    assert!(runs.iter().all(|arms| arms.k() > 2.0));
    let refuted = runs
        .iter()
        .filter(|arms| arms.refutes_clusters(10.0))
        .count();
    assert!(refuted <= 15, "{refuted} of 100");
}

#[test]
fn clusters_that_outlast_a_tick_are_seen_at_a_longer_scale() {
    // One error in each tick, in the same arm for eight ticks.
    let mut arms = ArmDispersion::default();
    for index in 0..240_i64 {
        let canary = f64::from(u8::from(index / 8 % 5 == 0));
        arms.add(&tick(
            index,
            Counts::new(200.0, canary, 800.0, 1.0 - canary),
        ));
    }
    assert!(arms.k() > 4.0 && arms.clusters_last(), "{}", arms.k());
}

#[test]
fn a_new_weight_is_no_cluster() {
    let mut random = 11;
    let mut arms = ArmDispersion::default();
    for (index, share) in (0..90_i64).zip([0.05, 0.2, 0.5].into_iter().flat_map(|w| [w; 30])) {
        if index % 30 == 0 {
            arms.change_weight();
        }
        let odds = 10.0 * share / (1.0 - share);
        let canary = drawn(&mut random, 40, odds / (1.0 + odds), 1.0);
        let counts = Counts::new(
            1000.0 * share,
            canary,
            1000.0 * (1.0 - share),
            40.0 - canary,
        );
        arms.add(&tick(index, counts));
    }
    assert!(arms.k() < 1.6 && !arms.clusters_last(), "{}", arms.k());
}

#[test]
fn a_router_that_assigns_clients_is_seen_in_the_requests() {
    let mut random = 13;
    let mut per_request = ArmDispersion::default();
    let mut per_client = ArmDispersion::default();
    for index in 0..40 {
        let canary = drawn(&mut random, 1000, 0.2, 1.0);
        per_request.add(&tick(index, Counts::new(canary, 0.0, 1000.0 - canary, 0.0)));
        let canary = drawn(&mut random, 50, 0.2, 20.0);
        per_client.add(&tick(index, Counts::new(canary, 0.0, 1000.0 - canary, 0.0)));
    }
    assert!(!per_request.routes_in_clusters());
    assert!(per_client.routes_in_clusters());
}

proptest! {
    #[test]
    fn a_restart_changes_no_bit(
        ticks in prop::collection::vec((0_u8..9, 0_u8..9, any::<bool>()), 1..80), at in 0_usize..80,
    ) {
        let mut steady = ArmDispersion::default();
        let mut restarted = ArmDispersion::default();
        for (index, (canary, stable, changes)) in (0_i64..).zip(&ticks) {
            if usize::try_from(index).unwrap() == at {
                let json = serde_json::to_string(&restarted).unwrap();
                restarted = serde_json::from_str(&json).unwrap();
            }
            let counts = Counts::new(20.0, f64::from(*canary), 80.0, f64::from(*stable));
            for arms in [&mut steady, &mut restarted] {
                if *changes {
                    arms.change_weight();
                }
                arms.add(&tick(index, counts));
            }
        }
        prop_assert_eq!(steady.k().to_bits(), restarted.k().to_bits());
        prop_assert_eq!(steady, restarted);
    }
}
