//! The decision table, row by row, and what is told.

use std::collections::BTreeMap;

use super::*;
use crate::counters::{Arm, Feed, Kind, Sample};
use crate::golden::nine_digits;
use crate::guard::{Burning, WINDOW_PAIRS};
use crate::objective::{ObjectiveConfig, RoundContext};

const SECOND_MS: i64 = 1000;

/// A gateway that serves both arms at these rates per scrape, for so many scrapes from the
/// rollout's beginning at 0.
struct Served {
    scrapes: u32,
    per_scrape: Counts,
    error_series: bool,
}

impl Served {
    fn alike(scrapes: u32) -> Self {
        Self {
            scrapes,
            per_scrape: Counts::new(750.0, 0.25, 750.0, 0.25),
            error_series: true,
        }
    }

    fn with(scrapes: u32, per_scrape: Counts) -> Self {
        Self {
            scrapes,
            per_scrape,
            error_series: true,
        }
    }

    fn observed(&self) -> (Objective, ObjectiveState) {
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
            add(Arm::Canary, Kind::Total, counts.canary_requests);
            add(Arm::Stable, Kind::Total, counts.stable_requests);
            if self.error_series {
                add(Arm::Canary, Kind::Errors, counts.canary_errors);
                add(Arm::Stable, Kind::Errors, counts.stable_errors);
            }
        }
        let now_ms = i64::from(self.scrapes) * 15 * SECOND_MS;
        let births = BTreeMap::new();
        let feed = Feed {
            samples: &samples,
            births: &births,
            settled_ms: now_ms,
            now_ms,
        };
        objective.observe(
            &mut state,
            &feed,
            &RoundContext {
                warm_up_ends_ms: 60 * SECOND_MS,
                weight_changed_at_ms: 0,
            },
        );
        (objective, state)
    }

    fn judged(&self, allotment: Option<f64>, change: impl Fn(&mut Context)) -> Judgement {
        let (objective, state) = self.observed();
        let elapsed_seconds = f64::from(self.scrapes) * 15.0;
        let mut context = Context {
            now_ms: i64::from(self.scrapes) * 15 * SECOND_MS + 5 * SECOND_MS,
            weight: 0.5,
            weight_changed_at_ms: 0,
            elapsed_seconds,
            requests_per_second: 100.0,
            guard: None,
            freeze_lifted: false,
        };
        change(&mut context);
        let view = View {
            objective: &objective,
            state: &state,
            allotment,
            availability: Availability::Ok,
            guard: None,
        };
        judge(&JudgeConfig::default(), &[view], &context)
    }
}

fn burning() -> Burning {
    Burning {
        pair: WINDOW_PAIRS[0],
        long_rate: 20.0,
        short_rate: 30.0,
    }
}

#[test]
fn golden_g10_mean() {
    let mean = ln_mean(&[(2.0, 0.5), (5.5, 0.3), (-1.0, 0.2)]);
    nine_digits(mean, 4.346_084_43);
}

#[test]
fn strong_evidence_rolls_back_whatever_else_is_true() {
    let bad = Served::with(20, Counts::new(150.0, 3.0, 1350.0, 1.0));
    let judgement = bad.judged(Some(0.0), |context| {
        context.weight = 0.1;
        context.guard = Some(burning());
        context.now_ms += 3_600 * SECOND_MS;
    });
    assert_eq!(
        judgement.verdict,
        Verdict::RollBack(RollBackCause::Evidence)
    );
    assert!(
        judgement.because[0].starts_with("Rolled back at 10 %: the canary failed 60 of 3,000 requests; stable failed 20 of 27,000 (about 2.2 expected)."),
        "{:?}",
        judgement.because
    );
}

#[test]
fn a_spent_allotment_rolls_back_only_what_is_suspect() {
    let suspect = Served::with(28, Counts::new(750.0, 1.0, 750.0, 0.25));
    let judgement = suspect.judged(None, |_| {});
    assert!(
        judgement.ln_e > 10_f64.ln() && judgement.ln_e < 100_f64.ln(),
        "E = {}",
        judgement.ln_e.exp()
    );
    assert_eq!(
        suspect.judged(Some(5.0), |_| {}).verdict,
        Verdict::RollBack(RollBackCause::Budget)
    );
    assert!(matches!(
        suspect.judged(Some(500.0), |_| {}).verdict,
        Verdict::Forward(_)
    ));
    let good = Served::alike(16);
    let stepped_down = good.judged(Some(0.01), |_| {}).verdict;
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
fn a_burning_service_rolls_back_what_is_suspect_and_freezes_the_rest() {
    let guarded = |context: &mut Context| context.guard = Some(burning());
    let suspect = Served::with(28, Counts::new(750.0, 1.0, 750.0, 0.25));
    assert_eq!(
        suspect.judged(None, guarded).verdict,
        Verdict::RollBack(RollBackCause::ServiceGuard)
    );
    let alike = Served::alike(16).judged(None, guarded);
    assert_eq!(alike.verdict, Verdict::Freeze(FreezeReason::ServiceGuard));
    assert_eq!(
        alike.because[0],
        "The service is burning its error budget (20x over 60 min), but canary and stable fail alike: not the canary's fault, holding."
    );
    let lifted = Served::alike(16).judged(None, |context| {
        guarded(context);
        context.freeze_lifted = true;
    });
    assert!(matches!(lifted.verdict, Verdict::Forward(_)));
}

#[test]
fn a_freeze_never_holds_back_the_cure() {
    let cure = Served::with(40, Counts::new(75.0, 0.0, 1425.0, 30.0));
    let judgement = cure.judged(Some(-3.0), |context| {
        context.weight = 0.05;
        context.guard = Some(burning());
    });
    assert_eq!(
        judgement.verdict,
        Verdict::GoOnCure(Forward::Step { next: 0.2 })
    );
    assert_eq!(
        Served::alike(40).judged(Some(0.0), |_| {}).verdict,
        Verdict::Freeze(FreezeReason::BudgetSpent)
    );
}

#[test]
fn without_data_it_holds_then_goes_down_and_never_succeeds() {
    let good = Served::alike(80);
    assert_eq!(
        good.judged(None, |_| {}).verdict,
        Verdict::Forward(Forward::Promote)
    );
    let stale = |seconds: i64| good.judged(None, |context| context.now_ms += seconds * SECOND_MS);
    assert_eq!(stale(120).verdict, Verdict::Hold(HoldReason::Stale));
    assert_eq!(
        stale(120).because[0],
        "The last sample of availability is 2 min old. This is not success. Holding at 50 %."
    );
    assert_eq!(
        stale(300).verdict,
        Verdict::StepDown {
            next: 0.125,
            reason: HoldReason::Stale
        }
    );
    let stepped = good.judged(None, |context| {
        context.weight_changed_at_ms = context.now_ms + 300 * SECOND_MS;
        context.now_ms += 400 * SECOND_MS;
    });
    assert_eq!(
        stepped.verdict,
        Verdict::Hold(HoldReason::Stale),
        "a step down begins the wait again"
    );
}

#[test]
fn every_absence_has_its_name() {
    let none = Served {
        scrapes: 20,
        per_scrape: Counts::new(0.0, 0.0, 750.0, 0.25),
        error_series: true,
    };
    let judgement = none.judged(None, |context| context.weight = 0.05);
    assert_eq!(
        judgement.verdict,
        Verdict::StepDown {
            next: 0.0125,
            reason: HoldReason::NoTraffic
        }
    );
    let soon = none.judged(None, |context| {
        context.weight = 0.05;
        context.weight_changed_at_ms = 180 * SECOND_MS;
    });
    assert_eq!(
        soon.because[0],
        "No requests reached the canary for 2 min. This is not success. Holding at 5 %."
    );

    let unverified = Served {
        error_series: false,
        ..Served::alike(80)
    };
    assert_eq!(
        unverified.judged(None, |_| {}).verdict,
        Verdict::Hold(HoldReason::UnverifiedSelector)
    );

    let (objective, mut state) = Served::alike(80).observed();
    let context = Context {
        now_ms: 1_205 * SECOND_MS,
        weight: 0.5,
        weight_changed_at_ms: 0,
        elapsed_seconds: 1_200.0,
        requests_per_second: 100.0,
        guard: None,
        freeze_lifted: false,
    };
    let verdict = |state: &ObjectiveState, availability| {
        judge(
            &JudgeConfig::default(),
            &[View {
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
fn steps_are_sized_by_evidence_and_need_a_soak() {
    let good = Served::with(30, Counts::new(75.0, 0.0, 1425.0, 0.7));
    let at_5 = |context: &mut Context| context.weight = 0.05;
    assert_eq!(
        good.judged(Some(5184.0), at_5).verdict,
        Verdict::Forward(Forward::Step { next: 0.2 })
    );
    let soaking = |context: &mut Context| {
        at_5(context);
        context.weight_changed_at_ms = context.now_ms - 30 * SECOND_MS;
    };
    assert_eq!(
        good.judged(Some(5184.0), soaking).verdict,
        Verdict::Forward(Forward::Continue)
    );
    let knowing_nothing =
        Served::with(4, Counts::new(75.0, 0.0, 1425.0, 0.7)).judged(Some(5184.0), at_5);
    assert_eq!(
        knowing_nothing.verdict,
        Verdict::Forward(Forward::Continue),
        "soaked, but all of it was warm-up"
    );
    let first = |context: &mut Context| context.weight = 0.0;
    assert_eq!(good.judged(Some(60.0), first).next_weight, 0.005);
}

#[test]
fn a_weight_shrinks_with_the_budget_that_is_left() {
    // Twice as bad as stable: not yet suspect, but spending.
    let slow = Served::with(40, Counts::new(750.0, 0.75, 750.0, 0.375));
    assert!(matches!(
        slow.judged(Some(500.0), |_| {}).verdict,
        Verdict::Forward(_)
    ));
    let judgement = slow.judged(Some(20.0), |_| {});
    let Verdict::StepDown {
        next,
        reason: HoldReason::BudgetLeft,
    } = judgement.verdict
    else {
        panic!("{:?}", judgement.verdict);
    };
    assert!(next > 0.0 && next < 0.4, "{next}");
    assert!(
        judgement.because[0].starts_with("This rollout has used 15 of its 20 allotted errors (75 %). The worst case at this weight no longer fits what is left. Progressing down from 50 % to "),
        "{:?}", judgement.because
    );
    let spent = slow.judged(Some(15.0), |_| {});
    assert_eq!(
        spent.verdict,
        Verdict::StepDown {
            next: 0.0,
            reason: HoldReason::BudgetLeft
        }
    );
    let off = slow.judged(Some(15.0), |context| context.weight = 0.0);
    assert_eq!(off.verdict, Verdict::Inconclusive);
}

#[test]
fn what_lasts_too_long_is_asked_of_a_person() {
    let undecided = Served::alike(20);
    let late = |context: &mut Context| context.elapsed_seconds = 3600.0;
    let judgement = undecided.judged(None, late);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert_eq!(
        judgement.because[0],
        "Inconclusive after 60 min: a person must decide."
    );
    assert!(
        judgement.because[1].starts_with("Undecided: worst case still +"),
        "{:?}",
        judgement.because
    );
}

#[test]
fn a_split_that_differs_from_the_weight_is_told_and_decides_nothing() {
    let judgement = Served::alike(80).judged(None, |context| context.weight = 0.8);
    assert_eq!(judgement.objectives[0].traffic_mismatch, Some(0.5));
    assert!(
        judgement.because.contains(
            &"The canary gets 50 % of the requests, not the 80 % that were set.".to_owned()
        )
    );
    assert_eq!(judgement.verdict, Verdict::Forward(Forward::Promote));
    assert_eq!(
        Served::alike(80).judged(None, |_| {}).objectives[0].traffic_mismatch,
        None
    );
}

#[test]
fn without_an_objective_nothing_is_proven() {
    let context = Context {
        now_ms: 0,
        weight: 0.5,
        weight_changed_at_ms: 0,
        elapsed_seconds: 4000.0,
        requests_per_second: 1.0,
        guard: None,
        freeze_lifted: false,
    };
    let judgement = judge(&JudgeConfig::default(), &[], &context);
    assert!(!judgement.proven);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
}

#[test]
fn promotion_needs_every_objective_and_rollback_their_mean() {
    let (good, good_state) = Served::alike(80).observed();
    let (bad, bad_state) = Served::with(80, Counts::new(750.0, 12.0, 750.0, 0.25)).observed();
    let (young, young_state) = Served::alike(10).observed();
    let context = Context {
        now_ms: 1_205 * SECOND_MS,
        weight: 0.5,
        weight_changed_at_ms: 0,
        elapsed_seconds: 1_200.0,
        requests_per_second: 100.0,
        guard: None,
        freeze_lifted: false,
    };
    let view = |objective, state| View {
        objective,
        state,
        allotment: None,
        availability: Availability::Ok,
        guard: None,
    };
    let config = JudgeConfig::default();
    assert_eq!(
        judge(&config, &[view(&good, &good_state); 2], &context).verdict,
        Verdict::Forward(Forward::Promote)
    );
    let mixed = judge(
        &config,
        &[view(&good, &good_state), view(&bad, &bad_state)],
        &context,
    );
    assert_eq!(mixed.verdict, Verdict::RollBack(RollBackCause::Evidence));
    assert!(
        mixed.because[0].contains("failed 960 of 60,000"),
        "{:?}",
        mixed.because
    );
    let mut young_state = young_state;
    (young_state.canary_at_ms, young_state.stable_at_ms) =
        (Some(1_200 * SECOND_MS), Some(1_200 * SECOND_MS));
    young_state.canary_requests_at_ms = young_state.canary_at_ms;
    let waiting = judge(
        &config,
        &[view(&good, &good_state), view(&young, &young_state)],
        &context,
    );
    assert!(!waiting.proven);
    assert_eq!(waiting.verdict, Verdict::Forward(Forward::Continue));
}

/// What is said of a good release whose guard stands so.
fn guarded(
    served: &Served,
    guard: &GuardState,
    rolls_back: bool,
    change: impl Fn(&mut Context),
) -> Judgement {
    let (objective, state) = served.observed();
    let now_ms = i64::from(served.scrapes) * 15 * SECOND_MS + 5 * SECOND_MS;
    let mut context = Context {
        now_ms,
        weight: 0.5,
        weight_changed_at_ms: 0,
        elapsed_seconds: 300.0,
        requests_per_second: 100.0,
        guard: None,
        freeze_lifted: false,
    };
    change(&mut context);
    let guard = Some(GuardView {
        state: guard,
        rolls_back,
    });
    let view = View {
        objective: &objective,
        state: &state,
        allotment: None,
        availability: Availability::Ok,
        guard,
    };
    judge(&JudgeConfig::default(), &[view], &context)
}

fn slower(ticks: i64) -> GuardState {
    let alike = Counts::new(100.0, 30.0, 900.0, 270.0);
    GuardState::after(
        ticks,
        &[(0.1, alike), (0.3, Counts::new(100.0, 60.0, 900.0, 270.0))],
    )
}

#[test]
fn a_release_that_is_slower_somewhere_is_held_and_told_in_counts() {
    let good = Served::with(40, Counts::new(750.0, 0.0, 750.0, 1.0));
    let judgement = guarded(&good, &slower(40), false, |_| {});
    assert_eq!(judgement.verdict, Verdict::Hold(HoldReason::Slower));
    assert!(
        judgement.ln_e < 0.0,
        "its evidence holds, and takes no part in rolling back"
    );
    let told = judgement.because.join(" ");
    let counts = "Slower than stable: 2,400 of 4,000 requests of the canary took longer than 300 ms; of stable's 10,800 of 36,000 (about 1,200 expected).";
    assert!(told.starts_with(counts), "{told}");
    assert!(
        told.contains("A release that is nowhere slower shows evidence like this (E = 10^"),
        "{told}"
    );
    assert!(
        told.contains("at most 1 time in 100. Holding at 50 %."),
        "{told}"
    );
    let alike = GuardState::after(40, &[(0.1, Counts::new(100.0, 30.0, 900.0, 270.0))]);
    assert!(!matches!(
        guarded(&good, &alike, false, |_| {}).verdict,
        Verdict::Hold(_)
    ));
    // With all of the traffic on the canary there is nobody to be slower than.
    let full = guarded(&good, &slower(40), false, |context| context.weight = 1.0);
    assert!(!matches!(full.verdict, Verdict::Hold(HoldReason::Slower)));
}

#[test]
fn a_guard_that_rolls_back_shares_the_bound_with_its_objective() {
    let good = Served::with(40, Counts::new(750.0, 0.0, 750.0, 1.0));
    let guard = slower(40);
    let judgement = guarded(&good, &guard, true, |_| {});
    assert_eq!(
        judgement.verdict,
        Verdict::RollBack(RollBackCause::Evidence)
    );
    let own = judgement.objectives[0].ln_e;
    assert_eq!(judgement.ln_e, ln_mean(&[(own, 1.0), (guard.ln_e(), 0.25)]));
    assert!(
        judgement.because[0].starts_with("Rolled back at 50 %: 2,400 of 4,000 requests"),
        "{:?}",
        judgement.because
    );
    // Five times the evidence that it would need alone.
    assert!(ln_mean(&[(f64::NEG_INFINITY, 1.0), (500_f64.ln(), 0.25)]) >= 100_f64.ln() - 1e-12);
}

#[test]
fn a_guard_with_nothing_to_compare_holds_and_goes_down_no_step() {
    let good = Served::with(40, Counts::new(750.0, 0.0, 750.0, 1.0));
    let judgement = guarded(&good, &GuardState::default(), false, |_| {});
    assert_eq!(
        judgement.verdict,
        Verdict::Hold(HoldReason::NothingToCompare)
    );
    assert!(
        judgement.because[0].contains("no bucket that canary and stable both have"),
        "{:?}",
        judgement.because
    );
}
