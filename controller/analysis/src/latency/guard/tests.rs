use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::Restarts;
use crate::counters::{Arm, CounterKind, Sample};

const EDGES: [f64; 5] = [0.05, 0.1, 0.3, 1.0, 3.0];
const NO_WARM_UP: RoundContext = RoundContext {
    warm_up_ends_ms: 0,
    weight_changed_at_ms: 0,
    canary_pods: Vec::new(),
};

fn config(alpha: f64) -> EvidenceConfig {
    EvidenceConfig {
        clip: Some(-alpha.ln()),
        restarts: Restarts::EveryMinute {
            max_duration_seconds: 3_600.0,
        },
        warm_up_seconds: 0.0,
        ..EvidenceConfig::for_budget_fraction(0.01)
    }
}

fn guard(alpha: f64, edges: &[f64]) -> (LatencyGuard, LatencyGuardState) {
    let mut state = LatencyGuardState::default();
    let mut guard = LatencyGuard::resume(config(alpha), CounterConfig::default(), 0, &state);
    guard.set_edges(&mut state, edges, 0, 1.0);
    (guard, state)
}

/// Adds one tick with these counts of each edge.
fn add(guard: &LatencyGuard, state: &mut LatencyGuardState, index: i64, slower: &[Counts]) {
    let tick = |counts: &Counts| Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts: *counts,
        ..Tick::default()
    };
    let ticks: Vec<Tick> = slower.iter().map(tick).collect();
    let by_time = BTreeMap::from([(index, ticks.iter().enumerate().collect())]);
    state.add_ticks(&guard.evidence, guard.began_ms, &by_time, &NO_WARM_UP);
}

/// Pseudo-random number generator `SplitMix64`.
struct SplitMix64(u64);

impl SplitMix64 {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let bits = ((z ^ (z >> 31)) >> 11) as f64;
        bits / 9_007_199_254_740_992.0
    }

    /// Number of requests that took longer than each edge. Durations are log-normal with this
    /// `median`.
    fn slower(&mut self, requests: u32, median: f64, spread: f64) -> [f64; 5] {
        let mut slower = [0.0; 5];
        for _ in 0..requests {
            let normal = (-2.0 * self.unit().max(1e-300).ln()).sqrt()
                * (std::f64::consts::TAU * self.unit()).cos();
            let duration = median * (spread * normal).exp();
            for (count, edge) in slower.iter_mut().zip(EDGES) {
                *count += f64::from(u8::from(duration > edge));
            }
        }
        slower
    }
}

/// Simulates a release at 20 % of 50 requests/s for `ticks` scrapes. Returns the tick at which the
/// guard acts, if it does. `median` is the ratio of the canary's median to stable's.
fn first_alarm(seed: u64, median: f64, ticks: i64, alpha: f64) -> Option<i64> {
    let mut random = SplitMix64(seed);
    let (guard, mut state) = guard(alpha, &EDGES);
    for index in 0..ticks {
        let (canary, stable) = (
            random.slower(150, 0.12 * median, 0.8),
            random.slower(600, 0.12, 0.8),
        );
        let counts: Vec<Counts> = canary
            .iter()
            .zip(stable)
            .map(|(canary, stable)| Counts::new(150.0, *canary, 600.0, stable))
            .collect();
        add(&guard, &mut state, index, &counts);
        if state.ln_e() >= -alpha.ln() {
            return Some(index);
        }
    }
    None
}

#[test]
fn equal_arms_raise_alarms_no_more_often_than_guaranteed() {
    // At an alpha of 5 %, this number of releases is enough to detect an excess.
    let releases = 600_u64;
    let alarms = (0..releases)
        .filter(|seed| first_alarm(*seed, 1.0, 60, 0.05).is_some())
        .count();
    // Of 600, five percent are 30.
    assert!(alarms <= 30, "{alarms} of {releases}");
}

#[test]
fn a_shifted_distribution_is_detected() {
    // The difference is negligible at 3 s and large at 0.1 s and 0.3 s.
    for (median, half_within) in [(1.5, 6), (1.3, 20)] {
        let mut found: Vec<i64> = (0..40)
            .filter_map(|seed| first_alarm(seed, median, 60, 0.01))
            .collect();
        assert_eq!(
            found.len(),
            40,
            "all are detected within 15 minutes: {median}"
        );
        found.sort_unstable();
        assert!(
            found[20] < half_within,
            "half of them are detected within {half_within} scrapes: {median}: {found:?}"
        );
    }
}

#[test]
fn the_edge_with_the_strongest_evidence_is_reported_with_its_counts() {
    let equal = Counts::new(100.0, 30.0, 900.0, 270.0);
    let state = LatencyGuardState::after_ticks(
        20,
        &[(0.1, equal), (0.3, Counts::new(100.0, 45.0, 900.0, 270.0))],
    );
    assert!(state.ln_e() > 100_f64.ln());
    let counts = Counts::new(2000.0, 900.0, 18000.0, 5400.0);
    assert_eq!(
        state.evidence(false).worst.unwrap(),
        EdgeEvidence {
            seconds: 0.3,
            counts
        }
    );
    assert!(LatencyGuardState::after_ticks(20, &[(0.1, equal), (0.3, equal)]).ln_e() < 0.0);
    assert_eq!(
        LatencyGuardState::default().evidence(true).worst,
        None,
        "no evidence without edges"
    );
}

#[test]
fn many_edges_are_thinned_evenly_and_the_state_stays_small() {
    let edges: Vec<f64> = (1..=100).map(|edge| f64::from(edge) / 100.0).collect();
    let (guard, mut state) = guard(0.01, &edges);
    assert_eq!(state.edges.len(), 25);
    assert_eq!(
        (state.edges[0].seconds, state.edges[24].seconds),
        (0.04, 1.0)
    );
    for index in 0..200 {
        add(
            &guard,
            &mut state,
            index,
            &[Counts::new(151.0, 31.0, 907.0, 271.0); 25],
        );
    }
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.len() < 450 * state.edges.len(), "{} bytes", json.len());
    assert_eq!(
        serde_json::from_str::<LatencyGuardState>(&json).unwrap(),
        state
    );
    assert!(state.is_compatible());
    state.edges[3].break_bets();
    assert!(!state.is_compatible());
}

#[test]
fn a_tolerance_is_known_before_the_requests_that_it_is_for() {
    let (guard, mut state) = guard(0.01, &[0.1, 0.3]);
    let before = [
        Counts::new(100.0, 40.0, 900.0, 360.0),
        Counts::new(100.0, 4.0, 900.0, 36.0),
    ];
    add(&guard, &mut state, 0, &before);
    let counts = [
        Counts::new(100.0, 50.0, 900.0, 360.0),
        Counts::new(100.0, 6.0, 900.0, 36.0),
    ];
    let (mut alone, mut other) = (state.clone(), state.clone());
    add(&guard, &mut alone, 1, &counts);
    // The requests of the same tick beyond the other edge make no difference.
    add(
        &guard,
        &mut other,
        1,
        &[Counts::new(100.0, 9.0, 900.0, 880.0), counts[1]],
    );
    assert_eq!(alone.edges[1].ln_e(), other.edges[1].ln_e());
    assert_ne!(alone.edges[0].ln_e(), other.edges[0].ln_e());
    // An edge that lags behind is counted, but nothing is bet at it.
    let late = state.edges[1].ln_e();
    let tick = |counts: Counts| Tick {
        started_ms: 15_000,
        at_ms: 30_000,
        counts,
        ..Tick::default()
    };
    let (first, second) = (tick(counts[0]), tick(counts[1]));
    for (index, tick) in [(0, &first), (1, &second)] {
        let by_time = BTreeMap::from([(30_000, vec![(index, tick)])]);
        state.add_ticks(&guard.evidence, 0, &by_time, &NO_WARM_UP);
    }
    assert_eq!(state.edges[1].ln_e(), late);
    assert_eq!(state.edges[1].totals.canary_requests, 200.0);
}

#[test]
fn ticks_with_young_pods_and_weight_changes_are_not_bet_on() {
    let (guard, state) = guard(0.01, &[0.1, 0.3]);
    let pod = crate::PodId::from_name("new");
    let young = RoundContext {
        canary_pods: vec![crate::objective::PodWarmUp {
            pod,
            started_ms: 0,
            ends_ms: 300_000,
        }],
        ..NO_WARM_UP
    };
    let changed = RoundContext {
        weight_changed_at_ms: 20_000,
        ..NO_WARM_UP
    };
    let ln_e = |context: &RoundContext| {
        let mut state = state.clone();
        for index in 0..2 {
            let tick = |counts| Tick {
                started_ms: index * 15_000,
                at_ms: (index + 1) * 15_000,
                counts,
                ..Tick::default()
            };
            let ticks = [
                tick(Counts::new(100.0, 90.0, 900.0, 360.0)),
                tick(Counts::new(100.0, 60.0, 900.0, 36.0)),
            ];
            let by_time = BTreeMap::from([(index, ticks.iter().enumerate().collect())]);
            state.add_ticks(&guard.evidence, 0, &by_time, context);
        }
        state.ln_e()
    };
    assert!(ln_e(&NO_WARM_UP) > 0.5, "{}", ln_e(&NO_WARM_UP));
    assert!(ln_e(&young).abs() < 1e-9 && ln_e(&changed).abs() < 1e-9);
}

/// The samples of one histogram edge of a gateway that serves both arms. `requests` holds for each
/// scrape the canary's requests and those within the edge.
fn samples(requests: &[(u16, u16)]) -> Vec<(Arm, CounterKind, i64, f64)> {
    let mut totals = [0.0; 4];
    let mut samples = Vec::new();
    for (index, (canary, within)) in requests.iter().enumerate() {
        let at_ms = i64::try_from(index).unwrap() * 15_000;
        let canary = f64::from(*canary);
        let more = [
            canary,
            f64::from(*within).min(canary),
            canary * 3.0,
            (canary * 2.0).floor(),
        ];
        for (total, more) in totals.iter_mut().zip(more) {
            *total += more;
        }
        let kinds = [
            (Arm::Canary, CounterKind::Total),
            (Arm::Canary, CounterKind::Good),
            (Arm::Stable, CounterKind::Total),
            (Arm::Stable, CounterKind::Good),
        ];
        samples.extend(
            kinds
                .into_iter()
                .zip(totals)
                .map(|((arm, kind), value)| (arm, kind, at_ms, value)),
        );
    }
    samples
}

proptest! {
    #[test]
    fn a_restart_at_any_time_changes_no_bit(
        requests in prop::collection::vec((any::<u16>(), any::<u16>()), 4..60), restarts in prop::collection::vec(0_i64..900_000, 0..5),
    ) {
        let samples = samples(&requests);
        let source_created_ms = BTreeMap::new();
        let observe = |guard: &mut LatencyGuard, state: &mut LatencyGuardState, now_ms: i64| {
            let sample = |(arm, kind, at_ms, value): &(Arm, CounterKind, i64, f64)| {
                let series = if *arm == Arm::Canary { "canary" } else { "stable" };
                Sample { source: "gateway", series, arm: *arm, kind: *kind, at_ms: *at_ms, value: *value }
            };
            let seen: Vec<_> = samples.iter().filter(|(_, _, at_ms, _)| *at_ms <= now_ms).map(sample).collect();
            guard.observe(state, &[SampleBatch { samples: &seen, source_created_ms: &source_created_ms, settled_ms: now_ms, now_ms }], &NO_WARM_UP);
        };
        let (mut reference, mut expected) = guard(0.01, &[0.3]);
        observe(&mut reference, &mut expected, 1_000_000);
        let (mut split, mut state) = guard(0.01, &[0.3]);
        let mut restarts = restarts;
        restarts.sort_unstable();
        for now_ms in restarts {
            observe(&mut split, &mut state, now_ms);
            state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
            split = LatencyGuard::resume(config(0.01), CounterConfig::default(), 0, &state);
        }
        observe(&mut split, &mut state, 1_000_000);
        prop_assert_eq!(state, expected);
    }

    /// The condition of Ville's inequality, for any assumed rate: the expectation of an edge's
    /// process does not increase with the next tick.
    #[test]
    fn no_tick_on_the_null_raises_the_expectation(
        past in (0_u16..50, 0_u16..50), n_c in 1_u32..6, n_s in 1_u32..9, p_s in 0.0_f64..=1.0, below in 0.0_f64..=1.0,
    ) {
        let (guard, mut state) = guard(0.01, &[0.3]);
        let past_stable = f64::from(past.0 + past.1);
        add(&guard, &mut state, 0, &[Counts::new(0.0, 0.0, past_stable, f64::from(past.0))]);
        let (rho0, delta0) = (guard.evidence.rho0, guard.evidence.delta0);
        let p_c = below * (rho0 * p_s + delta0).min(1.0);
        let binomial = |n: u32, k: u32, p: f64| {
            let ways: f64 = (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product();
            ways * p.powf(f64::from(k)) * (1.0 - p).powf(f64::from(n - k))
        };
        let before = state.ln_e().exp();
        let mut expected = 0.0;
        for (e_c, e_s) in (0..=n_c).flat_map(|e_c| (0..=n_s).map(move |e_s| (e_c, e_s))) {
            let mut after = state.clone();
            add(&guard, &mut after, 1, &[Counts::new(n_c.into(), e_c.into(), n_s.into(), e_s.into())]);
            expected += binomial(n_c, e_c, p_c) * binomial(n_s, e_s, p_s) * after.ln_e().exp();
        }
        prop_assert!(expected <= before * (1.0 + 1e-9), "from {before} to {expected}");
    }
}

mod uneven_pods;
