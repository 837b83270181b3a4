use std::collections::BTreeMap;

use super::*;
use crate::counters::{Arm, CounterKind, Sample};
use proptest::prelude::*;

use crate::counts::{PodCounts, PodId};

const CONTEXT: RoundContext = RoundContext {
    warm_up_ends_ms: 60_000,
    weight_changed_at_ms: 90_000,
    canary_pods: Vec::new(),
};

/// The samples of three pods, of which one is the canary's. `steps` are requests and errors by
/// scrape.
fn samples(steps: &[(u16, u8)]) -> Vec<(usize, CounterKind, i64, f64)> {
    let mut samples = Vec::new();
    for pod in 0..3_usize {
        let (mut total, mut errors) = (0.0, 0.0);
        for (index, (requests, failing)) in steps.iter().enumerate().skip(pod) {
            let at_ms = i64::try_from(index * 15_000 + pod * 4321).unwrap() - 30_000;
            total += f64::from(*requests);
            errors += f64::from((*failing).min(3)).min(f64::from(*requests));
            samples.push((pod, CounterKind::Total, at_ms, total));
            samples.push((pod, CounterKind::Errors, at_ms, errors));
        }
    }
    samples
}

const PODS: [&str; 3] = ["canary-0", "stable-0", "stable-1"];

fn observe(
    objective: &mut Objective,
    state: &mut ObjectiveState,
    samples: &[(usize, CounterKind, i64, f64)],
    now_ms: i64,
) {
    let settled_ms = objective.settled_ms(now_ms);
    let source_created_ms = BTreeMap::from([(PODS[0].to_owned(), 500)]);
    let samples: Vec<_> = samples
        .iter()
        .filter(|(_, _, at_ms, _)| *at_ms <= now_ms)
        .map(|(pod, kind, at_ms, value)| Sample {
            source: PODS[*pod],
            series: "s",
            arm: if *pod == 0 { Arm::Canary } else { Arm::Stable },
            kind: *kind,
            at_ms: *at_ms,
            value: *value,
        })
        .collect();
    objective.observe(
        state,
        &SampleBatch {
            samples: &samples,
            source_created_ms: &source_created_ms,
            settled_ms,
            now_ms,
        },
        &CONTEXT,
    );
}

proptest! {
    #[test]
    fn a_restart_at_any_time_changes_no_bit(
        steps in prop::collection::vec((any::<u16>(), any::<u8>()), 4..80), restarts in prop::collection::vec(0_i64..1_300_000, 0..6),
    ) {
        let samples = samples(&steps);
        let config = ObjectiveConfig::default();
        let (mut reference, mut expected) = Objective::begin(config.clone(), 0).unwrap();
        observe(&mut reference, &mut expected, &samples, 1_400_000);

        let (mut objective, mut state) = Objective::begin(config.clone(), 0).unwrap();
        let mut restarts = restarts;
        restarts.sort_unstable();
        for now_ms in restarts {
            observe(&mut objective, &mut state, &samples, now_ms);
            let json = serde_json::to_string(&state).unwrap();
            prop_assert!(json.len() < 6000, "{} bytes", json.len());
            state = serde_json::from_str(&json).unwrap();
            objective = Objective::resume(config.clone(), &state).unwrap();
        }
        observe(&mut objective, &mut state, &samples, 1_400_000);
        prop_assert_eq!(serde_json::to_string(&state).unwrap(), serde_json::to_string(&expected).unwrap());
        prop_assert!(state.evidence.ticks >= u64::try_from(steps.len()).unwrap().saturating_sub(5));
    }
}

#[test]
fn rounds_that_began_before_the_last_one_closed_are_ignored() {
    let (mut objective, mut state) = Objective::begin(ObjectiveConfig::default(), 20_000).unwrap();
    let tick = |at_ms: i64| Tick {
        started_ms: at_ms - 15_000,
        at_ms,
        counts: Counts::new(10.0, 0.0, 90.0, 0.0),
        ..Tick::default()
    };
    let rounds = || Rounds {
        ticks: vec![tick(30_000), tick(45_000), tick(60_000)],
        ..Rounds::default()
    };
    let report = objective.observe_rounds(&mut state, rounds(), &CONTEXT);
    // The first one began at 15 s: its counts up to 20 s may already be in the evidence.
    assert_eq!(report.ticks, [tick(45_000), tick(60_000)]);
    assert_eq!(
        (state.round_at_ms, state.evidence.totals.canary_requests),
        (60_000, 20.0)
    );
    let before = state.clone();
    objective.observe_rounds(&mut state, rounds(), &CONTEXT);
    assert_eq!(state, before, "repeated rounds are ignored");
}

#[test]
fn dispersion_is_estimated_from_before_the_rollout() {
    let (objective, mut state) = Objective::begin(ObjectiveConfig::default(), 0).unwrap();
    let mut samples = Vec::new();
    for scrape in 0..10_u32 {
        let at_ms = i64::from(scrape) * 15_000 - 200_000;
        // One of the two pods has four errors in every other scrape.
        for (source, errors) in [("a", f64::from(scrape / 2) * 4.0), ("b", 0.0)] {
            let sample = Sample {
                source,
                series: "s",
                arm: Arm::Stable,
                kind: CounterKind::Total,
                at_ms,
                value: 0.0,
            };
            samples.push(Sample {
                value: f64::from(scrape) * 100.0,
                ..sample
            });
            samples.push(Sample {
                kind: CounterKind::Errors,
                value: errors,
                ..sample
            });
        }
    }
    let source_created_ms = BTreeMap::new();
    let history = SampleBatch {
        samples: &samples,
        source_created_ms: &source_created_ms,
        settled_ms: 0,
        now_ms: 0,
    };
    let counts = Objective::estimate_dispersion(objective.config(), &mut state, &history, -300_000);
    assert_eq!(counts, Counts::new(0.0, 0.0, 1800.0, 16.0));
    assert_eq!(state.evidence.phi(), Some(4.0));
    assert_eq!(
        (state.evidence.ticks, state.round_at_ms),
        (0, 0),
        "history is not evidence"
    );
}

fn pod(name: &str, requests: f64) -> PodCounts {
    PodCounts {
        pod: PodId::from_name(name),
        requests,
        errors: 0.0,
    }
}

/// A scrape at two minutes in which two pods of the canary served these requests.
fn tick_of_pods(old: f64, young: f64) -> Tick {
    Tick {
        started_ms: 120_000,
        at_ms: 135_000,
        counts: Counts::new(old + young, 0.0, 400.0, 0.0),
        canary_pods: vec![pod("old", old), pod("young", young)],
        ..Tick::default()
    }
}

fn warm_ups() -> RoundContext {
    let warm_up = |name, started_ms| PodWarmUp {
        pod: PodId::from_name(name),
        started_ms,
        ends_ms: started_ms + 60_000,
    };
    RoundContext {
        canary_pods: vec![warm_up("old", 0), warm_up("young", 110_000)],
        ..RoundContext::default()
    }
}

#[test]
fn the_warm_up_tolerance_is_the_share_of_requests_to_young_pods() {
    let context = warm_ups();
    let young = |tick: &Tick| context.of_tick(tick).young_share;
    assert_eq!(young(&tick_of_pods(90.0, 30.0)), Some(0.25));
    assert_eq!(young(&tick_of_pods(120.0, 0.0)), Some(0.0));
    let later = Tick {
        started_ms: 170_000,
        at_ms: 185_000,
        ..tick_of_pods(90.0, 30.0)
    };
    assert_eq!(young(&later), Some(0.0), "the warm-up is over");
    let missed = Tick {
        counts_since_ms: Some(169_000),
        ..later
    };
    assert_eq!(young(&missed), Some(0.25), "the scrape before was missed");
}

#[test]
fn without_counts_by_pod_the_share_of_young_pods_counts() {
    let context = warm_ups();
    let young = |started_ms| {
        let tick = Tick {
            started_ms,
            at_ms: started_ms + 15_000,
            counts: Counts::new(100.0, 0.0, 400.0, 0.0),
            ..Tick::default()
        };
        context.of_tick(&tick).young_share
    };
    assert_eq!(
        young(45_000),
        Some(1.0),
        "the second pod does not exist yet"
    );
    assert_eq!(young(75_000), Some(0.0));
    assert_eq!(young(120_000), Some(0.5));
    assert_eq!(
        RoundContext::default()
            .of_tick(&tick_of_pods(1.0, 1.0))
            .young_share,
        None
    );
}

/// Pods that come with later steps fail 3 % in their first minute, as the first ones do.
#[test]
fn pods_that_join_at_a_later_step_get_the_warm_up_tolerance() {
    let (mut objective, mut state) = Objective::begin(ObjectiveConfig::default(), 0).unwrap();
    let context = warm_ups();
    for scrape in 0..12_i64 {
        let started_ms = scrape * 15_000;
        let (first, second) = (
            started_ms < 60_000,
            (110_000..170_000).contains(&started_ms),
        );
        let errors = if first || second { 15.0 } else { 0.0 };
        let tick = Tick {
            started_ms,
            at_ms: started_ms + 15_000,
            counts: Counts::new(1_000.0, errors, 4_000.0, 2.0),
            canary_pods: vec![pod("old", 500.0), pod("young", 500.0)],
            ..Tick::default()
        };
        let rounds = Rounds {
            ticks: vec![tick],
            ..Rounds::default()
        };
        objective.observe_rounds(&mut state, rounds, &context);
    }
    let ln_e = state.evidence.ln_e(objective.bets());
    assert!(ln_e < 1.0, "{ln_e}");
    assert!(
        state.evidence.excess_errors(&objective.config().evidence) > 100.0,
        "what they spend is charged"
    );
}

#[test]
fn a_gateway_teaches_nothing_about_pods() {
    let config = ObjectiveConfig {
        sources_are_pods: false,
        ..ObjectiveConfig::default()
    };
    let (mut objective, mut state) = Objective::begin(config, 0).unwrap();
    let tick = Tick {
        at_ms: 15_000,
        counts: Counts::new(100.0, 0.0, 400.0, 9.0),
        stable_pods: vec![pod("gateway-1", 200.0), pod("gateway-2", 200.0)],
        ..Tick::default()
    };
    let rounds = Rounds {
        ticks: vec![tick],
        ..Rounds::default()
    };
    objective.observe_rounds(&mut state, rounds, &CONTEXT);
    assert!(!state.evidence.distinguishes_pods());
}

#[test]
fn a_state_with_other_bets_is_rejected() {
    let (_, state) = Objective::begin(ObjectiveConfig::default(), 0).unwrap();
    let mut config = ObjectiveConfig::default();
    config.evidence = config.evidence.with_history(1e-3);
    assert_eq!(
        Objective::resume(config, &state).unwrap_err(),
        ResumeError::OtherBets
    );
}

#[test]
fn an_invalid_counter_configuration_is_rejected() {
    let mut config = ObjectiveConfig::default();
    config.counters.scrape_interval_ms = 0;
    assert_eq!(
        Objective::begin(config, 0).unwrap_err().field,
        "counters.scrapeIntervalMs"
    );
    let mut config = ObjectiveConfig::default();
    config.counters.forget_ms = 20_000;
    assert_eq!(
        Objective::begin(config, 0).unwrap_err().field,
        "counters.forgetMs"
    );
}

fn named_pod(name: &str, requests: f64, errors: f64) -> PodCounts {
    PodCounts {
        pod: PodId::from_name(name),
        requests,
        errors,
    }
}

/// A tick in which young pods of both sides fail 4 % of their requests, and old stable pods do not.
fn tick_of_young_pods(index: i64) -> Tick {
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts: Counts::new(100.0, 4.0, 500.0, 4.0),
        stable_pods: vec![
            named_pod("old-1", 200.0, 0.0),
            named_pod("old-2", 200.0, 0.0),
            named_pod("young", 100.0, 4.0),
        ],
        canary_pods: vec![named_pod("canary", 100.0, 4.0)],
        ..Tick::default()
    }
}

fn observed_with(baseline: Option<&[&str]>, ticks: i64) -> (Objective, ObjectiveState) {
    let (mut objective, mut state) = Objective::begin(ObjectiveConfig::default(), 0).unwrap();
    let pods = baseline.map(|names| names.iter().map(|name| PodId::from_name(name)).collect());
    objective.set_baseline(pods);
    let rounds = Rounds {
        ticks: (0..ticks).map(tick_of_young_pods).collect(),
        canary_at_ms: Some(ticks * 15_000),
        stable_at_ms: Some(ticks * 15_000),
        ..Rounds::default()
    };
    objective.observe_rounds(&mut state, rounds, &RoundContext::default());
    (objective, state)
}

#[test]
fn what_young_pods_of_both_sides_have_in_common_is_no_evidence() {
    let (objective, state) = observed_with(None, 40);
    assert!(state.evidence.k(&objective.config().evidence) > 5.0);
    let (objective, state) = observed_with(Some(&["young"]), 40);
    assert!(
        state.ln_e(objective.bets()) < 1.0,
        "{}",
        state.ln_e(objective.bets())
    );
    let baseline = state.evidence.baseline().unwrap();
    assert_eq!(
        (baseline.pods, baseline.requests, baseline.errors),
        (1, 4_000.0, 160.0)
    );
    assert_eq!(
        state.evidence.k(&objective.config().evidence),
        1.0,
        "the start of the baseline pods is no cluster"
    );
    assert_eq!(state.evidence.compared_stable_pods(), 1);
}

#[test]
fn errors_are_charged_to_the_budget_by_the_rate_of_all_stable_pods() {
    for baseline in [None, Some(&["young"][..])] {
        let (objective, state) = observed_with(baseline, 40);
        let spent = state.evidence.excess_errors(&objective.config().evidence);
        assert!(
            (spent - (160.0 - 4_000.0 * 4.0 / 500.0)).abs() < 1e-6,
            "{spent}"
        );
        assert_eq!(state.evidence.totals.stable_requests, 20_000.0);
    }
}

#[test]
fn a_worse_canary_is_found_against_the_baseline() {
    let (mut objective, mut state) = Objective::begin(ObjectiveConfig::default(), 0).unwrap();
    objective.set_baseline(Some([PodId::from_name("young")].into()));
    let worse = |index: i64| {
        let mut tick = tick_of_young_pods(index);
        tick.counts.canary_errors = 40.0;
        tick
    };
    let rounds = Rounds {
        ticks: (0..20).map(worse).collect(),
        ..Rounds::default()
    };
    objective.observe_rounds(&mut state, rounds, &RoundContext::default());
    assert!(state.ln_e(objective.bets()) > 100_f64.ln());
}

#[test]
fn without_baseline_pods_there_is_no_evidence_and_stable_has_no_samples() {
    let (objective, state) = observed_with(Some(&[]), 40);
    assert!(state.ln_e(objective.bets()).abs() < 1e-9);
    assert_eq!(state.stable_at_ms, None, "so the release is held");
    assert_eq!(state.canary_at_ms, Some(600_000));
    let (_, state) = observed_with(Some(&["young"]), 40);
    assert_eq!(state.stable_at_ms, Some(600_000));
}
