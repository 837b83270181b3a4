use super::*;
use crate::scenario::{CanaryEffect, Conditions};

fn release(effect: CanaryEffect, pace: SimulatedPace) -> ReleaseScenario {
    ReleaseScenario {
        scenario: Scenario {
            requests_per_second: 100.0,
            tick_seconds: 15,
            stable_rate: 5e-4,
            effect,
            conditions: Conditions::Plain,
        },
        evidence: EvidenceConfig::default().with_history(5e-4),
        analysis: AnalysisConfig {
            step_down_after_seconds: f64::INFINITY,
            max_duration_seconds: f64::INFINITY,
            ..AnalysisConfig::default()
        },
        pace,
        allotment: 2592.0,
        max_duration_seconds: 3600.0,
        compared_stable: Vec::new(),
    }
}

const OPTIONS: SimulationOptions = SimulationOptions { runs: 300, seed: 3 };

fn share(outcomes: &[ReleaseOutcome], decision: FinalDecision) -> f64 {
    let count = outcomes
        .iter()
        .filter(|outcome| outcome.decision == decision)
        .count();
    f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(outcomes.len()).unwrap())
}

fn steps() -> SimulatedPace {
    let half_an_hour = [
        SimulatedStep::SetWeight(0.05),
        SimulatedStep::Pause(600.0),
        SimulatedStep::SetWeight(0.2),
        SimulatedStep::Pause(600.0),
    ];
    SimulatedPace::Steps(
        [
            &half_an_hour[..],
            &[SimulatedStep::SetWeight(0.5), SimulatedStep::Pause(600.0)],
        ]
        .concat(),
    )
}

#[test]
fn evidence_pacing_promotes_a_good_release_and_rolls_back_a_bad_one() {
    let good = simulate_releases(
        OPTIONS,
        &release(CanaryEffect::Times(1.0), SimulatedPace::Evidence),
    )
    .unwrap();
    assert!(
        share(&good, FinalDecision::Promoted) >= 0.98,
        "{}",
        share(&good, FinalDecision::Promoted)
    );
    let bad = simulate_releases(
        OPTIONS,
        &release(CanaryEffect::Times(10.0), SimulatedPace::Evidence),
    )
    .unwrap();
    assert!(share(&bad, FinalDecision::RolledBack) >= 0.99);
    assert!(bad.iter().all(|outcome| outcome.excess_errors < 100.0));
}

#[test]
fn steps_take_exactly_their_configured_time() {
    let good = simulate_releases(OPTIONS, &release(CanaryEffect::Times(1.0), steps())).unwrap();
    let promoted: Vec<f64> = good
        .iter()
        .filter(|outcome| outcome.decision == FinalDecision::Promoted)
        .map(|outcome| outcome.seconds)
        .collect();
    assert!(promoted.len() >= 290, "{}", promoted.len());
    // Steps complete at a scrape.
    assert!(
        promoted
            .iter()
            .all(|seconds| (1800.0..=1860.0).contains(seconds)),
        "{promoted:?}"
    );
}

#[test]
fn an_analysis_step_waits_for_evidence_and_stays_undecided_without_it() {
    let pace = |last| {
        SimulatedPace::Steps(vec![
            SimulatedStep::SetWeight(0.2),
            SimulatedStep::Analysis(last),
        ])
    };
    let for_a_time = simulate_releases(
        OPTIONS,
        &release(CanaryEffect::Times(1.0), pace(Some(300.0))),
    )
    .unwrap();
    assert!(for_a_time.iter().any(|outcome| outcome.seconds <= 345.0));
    let until_proven =
        simulate_releases(OPTIONS, &release(CanaryEffect::Times(1.0), pace(None))).unwrap();
    assert!(share(&until_proven, FinalDecision::Promoted) > 0.9);
    let later = until_proven
        .iter()
        .filter(|outcome| outcome.seconds > 345.0)
        .count();
    assert!(
        later > 200,
        "proof mostly takes longer than five minutes: {later}"
    );
    let at_the_margin =
        simulate_releases(OPTIONS, &release(CanaryEffect::Plus(0.0005), pace(None))).unwrap();
    assert!(share(&at_the_margin, FinalDecision::Promoted) <= 0.05);
    assert!(share(&at_the_margin, FinalDecision::Undecided) > 0.2);
}

#[test]
fn nothing_is_promoted_without_budget_or_while_the_service_burns_it() {
    let frozen = ReleaseScenario {
        allotment: 0.0,
        ..release(CanaryEffect::Times(1.0), steps())
    };
    assert!(
        share(
            &simulate_releases(OPTIONS, &frozen).unwrap(),
            FinalDecision::Promoted
        ) < 1e-9
    );
    let mut burning = release(CanaryEffect::Times(1.0), steps());
    burning.scenario.stable_rate = 0.02;
    assert!(
        share(
            &simulate_releases(OPTIONS, &burning).unwrap(),
            FinalDecision::Promoted
        ) < 1e-9
    );
}

#[test]
fn a_canary_without_requests_is_not_promoted_and_one_without_steps_is_promoted_immediately() {
    let mut idle = release(CanaryEffect::Times(1.0), steps());
    idle.scenario.requests_per_second = 0.001;
    let idle = simulate_releases(SimulationOptions { runs: 20, seed: 1 }, &idle).unwrap();
    assert!(share(&idle, FinalDecision::Undecided) >= 0.99, "{idle:?}");
    let at_once = simulate_releases(
        SimulationOptions { runs: 20, seed: 1 },
        &release(CanaryEffect::Times(1.0), SimulatedPace::Steps(vec![])),
    )
    .unwrap();
    assert!(share(&at_once, FinalDecision::Promoted) >= 0.99);
}

#[test]
fn the_same_seed_gives_the_same_list() {
    let simulate = || {
        simulate_releases(
            SimulationOptions { runs: 50, seed: 9 },
            &release(CanaryEffect::Times(2.0), steps()),
        )
        .unwrap()
    };
    assert_eq!(simulate(), simulate());
}

#[test]
fn a_comparison_with_few_baseline_pods_takes_longer_and_keeps_the_bound() {
    let with = |effect, compared_stable: Vec<(f64, f64)>| {
        let release = ReleaseScenario {
            compared_stable,
            ..release(CanaryEffect::Times(effect), SimulatedPace::Evidence)
        };
        simulate_releases(OPTIONS, &release).unwrap()
    };
    let baseline = || vec![(0.0, 0.05), (0.2, 0.1)];
    let promoted_after = |outcomes: &[ReleaseOutcome]| {
        assert!(share(outcomes, FinalDecision::RolledBack) <= 0.01);
        assert!(share(outcomes, FinalDecision::Promoted) >= 0.8);
        let seconds: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
        seconds
    };
    let (all, few) = (
        promoted_after(&with(1.0, Vec::new())),
        promoted_after(&with(1.0, baseline())),
    );
    assert!(few > 1.2 * all, "{few} s instead of {all} s");
    let bad = with(10.0, baseline());
    assert!(share(&bad, FinalDecision::Promoted) <= 0.02);
}

#[test]
fn the_part_of_stable_follows_the_weight() {
    let release = ReleaseScenario {
        compared_stable: vec![(0.05, 0.1), (0.2, 0.25)],
        ..release(CanaryEffect::Times(1.0), SimulatedPace::Evidence)
    };
    let at = [0.01, 0.05, 0.1, 0.2, 0.5].map(|weight| release.compared_stable_at(weight));
    assert_eq!(at, [0.1, 0.1, 0.1, 0.25, 0.25].map(Some));
}
