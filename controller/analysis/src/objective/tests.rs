use std::collections::BTreeMap;

use super::*;
use crate::counters::{Arm, CounterKind, Sample};
use proptest::prelude::*;

const CONTEXT: RoundContext = RoundContext {
    warm_up_ends_ms: 60_000,
    weight_changed_at_ms: 90_000,
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
            prop_assert!(json.len() < 3000, "{} bytes", json.len());
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
        stable_pods: Vec::new(),
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
    let (_, mut state) = Objective::begin(ObjectiveConfig::default(), 0).unwrap();
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
    let counts =
        Objective::estimate_dispersion(CounterConfig::default(), &mut state, &history, -300_000);
    assert_eq!(counts, Counts::new(0.0, 0.0, 1800.0, 16.0));
    assert_eq!(state.evidence.phi(), Some(4.0));
    assert_eq!(
        (state.evidence.ticks, state.round_at_ms),
        (0, 0),
        "history is not evidence"
    );
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
