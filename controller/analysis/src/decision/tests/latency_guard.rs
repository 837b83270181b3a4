//! The rows of the decision table with a latency guard.

use super::*;

/// Evaluates a release with this state of its latency guard.
fn with_guard(
    gateway: &SimulatedGateway,
    guard: &LatencyGuardState,
    rolls_back: bool,
    change: impl Fn(&mut RolloutContext),
) -> Evaluation {
    let (objective, state) = gateway.observe();
    let now_ms = i64::from(gateway.scrapes) * 15 * SECOND_MS + 5 * SECOND_MS;
    let mut context = RolloutContext {
        now_ms,
        weight: 0.5,
        weight_changed_at_ms: 0,
        elapsed_seconds: 300.0,
        requests_per_second: 100.0,
        guard: None,
        freeze_lifted: false,
    };
    change(&mut context);
    let guard = Some(LatencyGuardInput {
        state: guard,
        rolls_back,
    });
    let input = ObjectiveInput {
        objective: &objective,
        state: &state,
        allotment: None,
        availability: Availability::Ok,
        guard,
    };
    evaluate(&AnalysisConfig::default(), &[input], &context)
}

fn slower_canary(ticks: i64) -> LatencyGuardState {
    let equal = Counts::new(100.0, 30.0, 900.0, 270.0);
    LatencyGuardState::after_ticks(
        ticks,
        &[(0.1, equal), (0.3, Counts::new(100.0, 60.0, 900.0, 270.0))],
    )
}

#[test]
fn a_slower_release_is_held_and_explained_in_counts() {
    let good = SimulatedGateway::with_counts(40, Counts::new(750.0, 0.0, 750.0, 1.0));
    let evaluation = with_guard(&good, &slower_canary(40), false, |_| {});
    assert_eq!(evaluation.verdict, Verdict::Hold(HoldReason::Slower));
    assert!(
        evaluation.ln_e < 0.0,
        "its evidence holds but does not contribute to rollbacks"
    );
    let reasons = evaluation.reasons.join(" ");
    let counts = "Slower than stable: 2,400 of 4,000 canary requests took longer than 300 ms; for stable, 10,800 of 36,000 did (about 1,200 expected).";
    assert!(reasons.starts_with(counts), "{reasons}");
    assert!(
        reasons.contains("A release that is not slower shows evidence this strong (E = 10^"),
        "{reasons}"
    );
    assert!(
        reasons.contains(" at most 1 time in 100, if ") && reasons.contains(" Holding at 50 %."),
        "{reasons}"
    );
    let equal =
        LatencyGuardState::after_ticks(40, &[(0.1, Counts::new(100.0, 30.0, 900.0, 270.0))]);
    assert!(!matches!(
        with_guard(&good, &equal, false, |_| {}).verdict,
        Verdict::Hold(_)
    ));
    // With all of the traffic on the canary there is no comparison.
    let full = with_guard(&good, &slower_canary(40), false, |context| {
        context.weight = 1.0;
    });
    assert!(!matches!(full.verdict, Verdict::Hold(HoldReason::Slower)));
}

#[test]
fn a_guard_that_rolls_back_shares_the_bound_with_its_objective() {
    let good = SimulatedGateway::with_counts(40, Counts::new(750.0, 0.0, 750.0, 1.0));
    let guard = slower_canary(40);
    let evaluation = with_guard(&good, &guard, true, |_| {});
    assert_eq!(
        evaluation.verdict,
        Verdict::RollBack(RollBackCause::Evidence)
    );
    let own = evaluation.objectives[0].ln_e;
    assert_eq!(
        evaluation.ln_e,
        ln_mean(&[(own, 1.0), (guard.ln_e(), 0.25)])
    );
    assert!(
        evaluation.reasons[0].starts_with("Rolled back at 50 %: 2,400 of 4,000 canary requests"),
        "{:?}",
        evaluation.reasons
    );
    // Five times the evidence that it would need alone.
    assert!(ln_mean(&[(f64::NEG_INFINITY, 1.0), (500_f64.ln(), 0.25)]) >= 100_f64.ln() - 1e-12);
}

#[test]
fn a_guard_without_data_holds_without_stepping_down() {
    let good = SimulatedGateway::with_counts(40, Counts::new(750.0, 0.0, 750.0, 1.0));
    let evaluation = with_guard(&good, &LatencyGuardState::default(), false, |_| {});
    assert_eq!(
        evaluation.verdict,
        Verdict::Hold(HoldReason::NothingToCompare)
    );
    assert!(
        evaluation.reasons[0].contains("no histogram bucket that canary and stable share"),
        "{:?}",
        evaluation.reasons
    );
}
