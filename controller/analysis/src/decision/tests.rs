//! The rows of the decision table and their explanations.

use std::collections::BTreeMap;

use super::*;
use crate::counters::{Arm, CounterKind, Sample, SampleBatch};
use crate::golden::assert_nine_digits;
use crate::objective::{ObjectiveConfig, RoundContext};
use crate::service_guard::{BurnAlert, WINDOW_PAIRS};

mod latency_guard;

const SECOND_MS: i64 = 1000;

/// A gateway that serves both arms at a constant rate per scrape, starting at time 0.
struct SimulatedGateway {
    scrapes: u32,
    per_scrape: Counts,
    error_series: bool,
}

impl SimulatedGateway {
    fn equal_arms(scrapes: u32) -> Self {
        Self {
            scrapes,
            per_scrape: Counts::new(750.0, 0.25, 750.0, 0.25),
            error_series: true,
        }
    }

    fn with_counts(scrapes: u32, per_scrape: Counts) -> Self {
        Self {
            scrapes,
            per_scrape,
            error_series: true,
        }
    }

    fn observe(&self) -> (Objective, ObjectiveState) {
        let mut config = ObjectiveConfig::default();
        config.evidence = config.evidence.with_history(5e-4);
        let (mut objective, mut state) = Objective::begin(config, 0).unwrap();
        let mut samples = Vec::new();
        for scrape in 0..=self.scrapes {
            let n = f64::from(scrape);
            let counts = &self.per_scrape;
            let mut add = |arm, kind, per_scrape: f64| {
                let at_ms = i64::from(scrape) * 15 * SECOND_MS;
                samples.push(Sample {
                    source: "gateway",
                    series: "s",
                    arm,
                    kind,
                    at_ms,
                    value: (per_scrape * n).floor(),
                });
            };
            add(Arm::Canary, CounterKind::Total, counts.canary_requests);
            add(Arm::Stable, CounterKind::Total, counts.stable_requests);
            if self.error_series {
                add(Arm::Canary, CounterKind::Errors, counts.canary_errors);
                add(Arm::Stable, CounterKind::Errors, counts.stable_errors);
            }
        }
        let now_ms = i64::from(self.scrapes) * 15 * SECOND_MS;
        let source_created_ms = BTreeMap::new();
        let batch = SampleBatch {
            samples: &samples,
            source_created_ms: &source_created_ms,
            settled_ms: now_ms,
            now_ms,
        };
        objective.observe(
            &mut state,
            &batch,
            &RoundContext {
                warm_up_ends_ms: 60 * SECOND_MS,
                weight_changed_at_ms: 0,
                canary_pods: Vec::new(),
            },
        );
        (objective, state)
    }

    fn evaluate(&self, allotment: Option<f64>, change: impl Fn(&mut RolloutContext)) -> Evaluation {
        let (objective, state) = self.observe();
        let elapsed_seconds = f64::from(self.scrapes) * 15.0;
        let mut context = RolloutContext {
            now_ms: i64::from(self.scrapes) * 15 * SECOND_MS + 5 * SECOND_MS,
            weight: 0.5,
            weight_changed_at_ms: 0,
            elapsed_seconds,
            requests_per_second: 100.0,
            guard: None,
            freeze_lifted: false,
        };
        change(&mut context);
        let input = ObjectiveInput {
            objective: &objective,
            state: &state,
            allotment,
            availability: Availability::Ok,
            guard: None,
        };
        evaluate(&AnalysisConfig::default(), &[input], &context)
    }
}

fn burn_alert() -> BurnAlert {
    BurnAlert {
        pair: WINDOW_PAIRS[0],
        long_rate: 20.0,
        short_rate: 30.0,
    }
}

#[test]
fn golden_g10_mean() {
    let mean = ln_mean(&[(2.0, 0.5), (5.5, 0.3), (-1.0, 0.2)]);
    assert_nine_digits(mean, 4.346_084_43);
}

#[test]
fn strong_evidence_rolls_back_in_every_other_state() {
    let bad = SimulatedGateway::with_counts(20, Counts::new(150.0, 3.0, 1350.0, 1.0));
    let evaluation = bad.evaluate(Some(0.0), |context| {
        context.weight = 0.1;
        context.guard = Some(burn_alert());
        context.now_ms += 3_600 * SECOND_MS;
    });
    assert_eq!(
        evaluation.verdict,
        Verdict::RollBack(RollBackCause::Evidence)
    );
    assert!(
        evaluation.reasons[0].starts_with("Rolled back at 10 %: the canary failed 60 of 3,000 requests; stable failed 20 of 27,000 (about 2.2 expected)."),
        "{:?}",
        evaluation.reasons
    );
}

#[test]
fn a_spent_allotment_rolls_back_only_suspect_releases() {
    let suspect = SimulatedGateway::with_counts(18, Counts::new(750.0, 1.0, 750.0, 0.25));
    let evaluation = suspect.evaluate(None, |_| {});
    assert!(
        evaluation.ln_e > 10_f64.ln() && evaluation.ln_e < 100_f64.ln(),
        "E = {}",
        evaluation.ln_e.exp()
    );
    assert_eq!(
        suspect.evaluate(Some(5.0), |_| {}).verdict,
        Verdict::RollBack(RollBackCause::Budget)
    );
    assert!(matches!(
        suspect.evaluate(Some(500.0), |_| {}).verdict,
        Verdict::Proceed(_)
    ));
    let good = SimulatedGateway::equal_arms(16);
    let stepped_down = good.evaluate(Some(0.01), |_| {}).verdict;
    assert!(
        matches!(
            stepped_down,
            Verdict::StepDown {
                reason: HoldReason::BudgetLeft,
                ..
            }
        ),
        "{stepped_down:?}"
    );
}

#[test]
fn a_burning_service_rolls_back_suspect_releases_and_freezes_others() {
    let guarded = |context: &mut RolloutContext| context.guard = Some(burn_alert());
    let suspect = SimulatedGateway::with_counts(18, Counts::new(750.0, 1.0, 750.0, 0.25));
    assert_eq!(
        suspect.evaluate(None, guarded).verdict,
        Verdict::RollBack(RollBackCause::ServiceGuard)
    );
    let equal = SimulatedGateway::equal_arms(16).evaluate(None, guarded);
    assert_eq!(equal.verdict, Verdict::Freeze(FreezeReason::ServiceGuard));
    assert_eq!(
        equal.reasons[0],
        "The service is burning its error budget (20x over 60 min), but canary and stable fail at similar rates. The canary is not the cause. Holding."
    );
    let lifted = SimulatedGateway::equal_arms(16).evaluate(None, |context| {
        guarded(context);
        context.freeze_lifted = true;
    });
    assert!(matches!(lifted.verdict, Verdict::Proceed(_)));
}

#[test]
fn a_freeze_never_blocks_a_proven_fix() {
    let fix = SimulatedGateway::with_counts(40, Counts::new(75.0, 0.0, 1425.0, 30.0));
    let evaluation = fix.evaluate(Some(-3.0), |context| {
        context.weight = 0.05;
        context.guard = Some(burn_alert());
    });
    assert_eq!(
        evaluation.verdict,
        Verdict::ProceedDespiteFreeze(NextAction::Step { next: 0.2 })
    );
    assert_eq!(
        SimulatedGateway::equal_arms(40)
            .evaluate(Some(0.0), |_| {})
            .verdict,
        Verdict::Freeze(FreezeReason::BudgetSpent)
    );
}

#[test]
fn missing_data_holds_then_steps_down_and_never_promotes() {
    let good = SimulatedGateway::equal_arms(80);
    assert_eq!(
        good.evaluate(None, |_| {}).verdict,
        Verdict::Proceed(NextAction::Promote)
    );
    let stale = |seconds: i64| good.evaluate(None, |context| context.now_ms += seconds * SECOND_MS);
    assert_eq!(stale(120).verdict, Verdict::Hold(HoldReason::Stale));
    assert_eq!(
        stale(120).reasons[0],
        "The last sample of availability is 2 min old. This is not success. Holding at 50 %."
    );
    assert_eq!(
        stale(300).verdict,
        Verdict::StepDown {
            next: 0.125,
            reason: HoldReason::Stale
        }
    );
    let stepped = good.evaluate(None, |context| {
        context.weight_changed_at_ms = context.now_ms + 300 * SECOND_MS;
        context.now_ms += 400 * SECOND_MS;
    });
    assert_eq!(
        stepped.verdict,
        Verdict::Hold(HoldReason::Stale),
        "a step down restarts the wait"
    );
}

#[test]
fn each_kind_of_missing_data_has_its_own_reason() {
    let none = SimulatedGateway {
        scrapes: 20,
        per_scrape: Counts::new(0.0, 0.0, 750.0, 0.25),
        error_series: true,
    };
    let evaluation = none.evaluate(None, |context| context.weight = 0.05);
    assert_eq!(
        evaluation.verdict,
        Verdict::StepDown {
            next: 0.0125,
            reason: HoldReason::NoTraffic
        }
    );
    let soon = none.evaluate(None, |context| {
        context.weight = 0.05;
        context.weight_changed_at_ms = 180 * SECOND_MS;
    });
    assert_eq!(
        soon.reasons[0],
        "No requests reached the canary for 2 min. This is not success. Holding at 5 %."
    );

    let unverified = SimulatedGateway {
        error_series: false,
        ..SimulatedGateway::equal_arms(80)
    };
    assert_eq!(
        unverified.evaluate(None, |_| {}).verdict,
        Verdict::Hold(HoldReason::UnverifiedSelector)
    );

    let (objective, mut state) = SimulatedGateway::equal_arms(80).observe();
    let context = RolloutContext {
        now_ms: 1_205 * SECOND_MS,
        weight: 0.5,
        weight_changed_at_ms: 0,
        elapsed_seconds: 1_200.0,
        requests_per_second: 100.0,
        guard: None,
        freeze_lifted: false,
    };
    let verdict = |state: &ObjectiveState, availability| {
        evaluate(
            &AnalysisConfig::default(),
            &[ObjectiveInput {
                objective: &objective,
                state,
                allotment: None,
                availability,
                guard: None,
            }],
            &context,
        )
        .verdict
    };
    let since_ms = context.now_ms;
    assert_eq!(
        verdict(&state, Availability::Partial { since_ms }),
        Verdict::Hold(HoldReason::PartialData)
    );
    assert_eq!(
        verdict(&state, Availability::Unreachable { since_ms }),
        Verdict::Hold(HoldReason::Unreachable)
    );
    state.not_a_number_at_ms = Some(since_ms);
    assert_eq!(
        verdict(&state, Availability::Ok),
        Verdict::Hold(HoldReason::NotANumber)
    );
    state.not_a_number_at_ms = None;
    state.canary_at_ms = None;
    assert!(matches!(
        verdict(&state, Availability::Ok),
        Verdict::StepDown {
            reason: HoldReason::NoData,
            ..
        }
    ));
}

#[test]
fn steps_are_sized_by_evidence_and_require_a_soak() {
    let good = SimulatedGateway::with_counts(30, Counts::new(75.0, 0.0, 1425.0, 0.7));
    let at_5 = |context: &mut RolloutContext| context.weight = 0.05;
    assert_eq!(
        good.evaluate(Some(5184.0), at_5).verdict,
        Verdict::Proceed(NextAction::Step { next: 0.2 })
    );
    let soaking = |context: &mut RolloutContext| {
        at_5(context);
        context.weight_changed_at_ms = context.now_ms - 30 * SECOND_MS;
    };
    assert_eq!(
        good.evaluate(Some(5184.0), soaking).verdict,
        Verdict::Proceed(NextAction::Continue)
    );
    let knowing_nothing = SimulatedGateway::with_counts(4, Counts::new(75.0, 0.0, 1425.0, 0.7))
        .evaluate(Some(5184.0), at_5);
    assert_eq!(
        knowing_nothing.verdict,
        Verdict::Proceed(NextAction::Continue),
        "soaked, but entirely during the warm-up"
    );
    let first = |context: &mut RolloutContext| context.weight = 0.0;
    assert_eq!(good.evaluate(Some(60.0), first).next_weight, 0.005);
}

#[test]
fn the_weight_shrinks_with_the_remaining_budget() {
    // Somewhat more than stable's error rate: not suspect, but it spends budget.
    let slow = SimulatedGateway::with_counts(40, Counts::new(750.0, 1.375, 750.0, 1.0));
    assert!(matches!(
        slow.evaluate(Some(500.0), |_| {}).verdict,
        Verdict::Proceed(_)
    ));
    let evaluation = slow.evaluate(Some(20.0), |_| {});
    let Verdict::StepDown {
        next,
        reason: HoldReason::BudgetLeft,
    } = evaluation.verdict
    else {
        panic!("{:?}", evaluation.verdict);
    };
    assert!(next > 0.0 && next < 0.4, "{next}");
    assert!(
        evaluation.reasons[0].starts_with("This rollout has used 15 of its 20 allotted errors (75 %). The worst case at this weight exceeds the remaining allotment. Lowering the weight from 50 % to "),
        "{:?}", evaluation.reasons
    );
    let spent = slow.evaluate(Some(15.0), |_| {});
    assert_eq!(
        spent.verdict,
        Verdict::StepDown {
            next: 0.0,
            reason: HoldReason::BudgetLeft
        }
    );
    let off = slow.evaluate(Some(15.0), |context| context.weight = 0.0);
    assert_eq!(off.verdict, Verdict::Inconclusive);
}

#[test]
fn a_rollout_that_takes_too_long_is_inconclusive() {
    let undecided = SimulatedGateway::equal_arms(20);
    let late = |context: &mut RolloutContext| context.elapsed_seconds = 3600.0;
    let evaluation = undecided.evaluate(None, late);
    assert_eq!(evaluation.verdict, Verdict::Inconclusive);
    assert_eq!(
        evaluation.reasons[0],
        "Inconclusive after 60 min: promote or abort manually."
    );
    assert!(
        evaluation.reasons[1].starts_with("Undecided: worst case still +"),
        "{:?}",
        evaluation.reasons
    );
}

#[test]
fn a_traffic_mismatch_is_reported_without_affecting_the_verdict() {
    let evaluation =
        SimulatedGateway::equal_arms(80).evaluate(None, |context| context.weight = 0.8);
    assert_eq!(evaluation.objectives[0].traffic_mismatch, Some(0.5));
    assert!(
        evaluation.reasons.contains(
            &"The canary receives 50 % of the requests, but its weight is 80 %.".to_owned()
        )
    );
    assert_eq!(evaluation.verdict, Verdict::Proceed(NextAction::Promote));
    assert_eq!(
        SimulatedGateway::equal_arms(80)
            .evaluate(None, |_| {})
            .objectives[0]
            .traffic_mismatch,
        None
    );
}

#[test]
fn a_rollout_without_objectives_is_not_promotable() {
    let context = RolloutContext {
        now_ms: 0,
        weight: 0.5,
        weight_changed_at_ms: 0,
        elapsed_seconds: 4000.0,
        requests_per_second: 1.0,
        guard: None,
        freeze_lifted: false,
    };
    let evaluation = evaluate(&AnalysisConfig::default(), &[], &context);
    assert!(!evaluation.is_promotable);
    assert_eq!(evaluation.verdict, Verdict::Inconclusive);
}

#[test]
fn promotion_requires_every_objective_and_rollback_their_mean() {
    let (good, good_state) = SimulatedGateway::equal_arms(80).observe();
    let (bad, bad_state) =
        SimulatedGateway::with_counts(80, Counts::new(750.0, 12.0, 750.0, 0.25)).observe();
    let (young, young_state) = SimulatedGateway::equal_arms(10).observe();
    let context = RolloutContext {
        now_ms: 1_205 * SECOND_MS,
        weight: 0.5,
        weight_changed_at_ms: 0,
        elapsed_seconds: 1_200.0,
        requests_per_second: 100.0,
        guard: None,
        freeze_lifted: false,
    };
    let input = |objective, state| ObjectiveInput {
        objective,
        state,
        allotment: None,
        availability: Availability::Ok,
        guard: None,
    };
    let config = AnalysisConfig::default();
    assert_eq!(
        evaluate(&config, &[input(&good, &good_state); 2], &context).verdict,
        Verdict::Proceed(NextAction::Promote)
    );
    let mixed = evaluate(
        &config,
        &[input(&good, &good_state), input(&bad, &bad_state)],
        &context,
    );
    assert_eq!(mixed.verdict, Verdict::RollBack(RollBackCause::Evidence));
    assert!(
        mixed.reasons[0].contains("failed 960 of 60,000"),
        "{:?}",
        mixed.reasons
    );
    let mut young_state = young_state;
    (young_state.canary_at_ms, young_state.stable_at_ms) =
        (Some(1_200 * SECOND_MS), Some(1_200 * SECOND_MS));
    young_state.canary_requests_at_ms = young_state.canary_at_ms;
    let waiting = evaluate(
        &config,
        &[input(&good, &good_state), input(&young, &young_state)],
        &context,
    );
    assert!(!waiting.is_promotable);
    assert_eq!(waiting.verdict, Verdict::Proceed(NextAction::Continue));
}
