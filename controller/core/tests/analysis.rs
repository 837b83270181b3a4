//! Tests of the planner with analysis results: freezes, step-downs, checks and the bake after
//! promotion.

#![allow(
    clippy::unnecessary_wraps,
    reason = "the reports are assigned to a field that may be empty"
)]

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::AnalysisReport;
use serin_core::plan::{Analysis, BakePlan, EvidencePace, Pace, Plan, Requirements, Step};
use serin_core::state::{PauseReason, Stage};
use serin_core::units::Weight;
use world::{
    World, analysed, edit, frozen, hold, plan, requirements, rev, roll_back, satisfied, secs,
    sound, undecided, wait, weight,
};

fn budget_spent() -> Option<AnalysisReport> {
    frozen("no error budget is left")
}

/// A release at 25 % that is frozen there.
fn frozen_at_25() -> World {
    let mut world = World::stable(analysed(plan(
        4,
        vec![weight(25), Step::Pause(None), weight(50), wait(5)],
    )));
    world.report = budget_spent();
    world.release("v2");
    world.run_until("at 25 %", |world| {
        world.state.weights.verified == Some(Weight::percent(25))
    });
    world.run_for(secs(30));
    world
}

#[test]
fn only_an_override_with_a_reason_lifts_a_freeze() {
    let mut world = frozen_at_25();
    for (uid, verb) in [
        ("1", Verb::Promote),
        ("2", Verb::SkipStep),
        ("3", Verb::PromoteFull),
    ] {
        assert!(
            world
                .refused(uid, verb)
                .contains("frozen, which `override` can lift: no error budget"),
            "{verb:?}"
        );
    }
    assert_eq!(world.state.weights.desired, Weight::percent(25));
    let mut without_reason = serin_core::command::Command {
        uid: "4".into(),
        name: "command-4".into(),
        verb: Verb::Override,
        required_revision: None,
        required_step: None,
        reason: Some(" ".into()),
        requested_by: Some("ada".into()),
    };
    world.commands.push(without_reason.clone());
    world.settle();
    assert_eq!(
        world.outcomes.last().unwrap().1.result,
        CommandResult::Refused
    );
    (without_reason.uid, without_reason.reason) =
        ("5".into(), Some("the fix of an incident".into()));
    world.commands.push(without_reason);
    world.settle();
    let lifted = world.state.freeze_override.clone().unwrap();
    assert_eq!(
        (lifted.by.as_deref(), lifted.reason.as_str()),
        (Some("ada"), "the fix of an incident")
    );
    assert_eq!(world.events_of("FreezeLifted").len(), 1);
    assert!(
        world
            .state
            .message
            .contains("the freeze was lifted by ada: the fix of an incident"),
        "{}",
        world.state.message
    );
    world.report = undecided(&world);
    world.settle();
    assert_eq!(
        world.command("6", Verb::Promote).result,
        CommandResult::Done
    );
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
}

#[test]
fn an_override_does_not_affect_evidence_and_ends_with_its_revision() {
    let mut world = frozen_at_25();
    assert_eq!(
        world.command("1", Verb::Override).result,
        CommandResult::Done
    );
    world.release("v3");
    world.settle();
    assert_eq!(
        world.state.freeze_override, None,
        "the override ends with the revision"
    );
    world.run_until("v3 at 25 %", |world| {
        world.state.weights.verified == Some(Weight::percent(25))
    });
    assert!(world.refused("2", Verb::SkipStep).contains("frozen"));
    assert_eq!(
        world.command("3", Verb::Override).result,
        CommandResult::Done
    );
    world.report = roll_back("breach");
    world.settle();
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Aborted, Weight::ZERO)
    );
    world.report = budget_spent();
    assert_eq!(world.command("4", Verb::Retry).result, CommandResult::Done);
    assert_eq!(
        world.state.freeze_override, None,
        "a second attempt is a new release"
    );
}

#[test]
fn override_is_refused_without_a_freeze() {
    let mut world = World::stable(analysed(plan(4, vec![weight(25), Step::Pause(None)])));
    assert!(
        world
            .refused("1", Verb::Override)
            .contains("no release is under way")
    );
    world.report = undecided(&world);
    world.release("v2");
    world.run_for(secs(30));
    assert!(world.refused("2", Verb::Override).contains("not frozen"));
}

fn step_down(percent: u32) -> Option<AnalysisReport> {
    let hold = Hold::new(HoldCode::NoTraffic, "no requests reached the canary");
    let hold = hold.lowering_to(Some(Weight::percent(percent)));
    Some(AnalysisReport::held(hold))
}

#[test]
fn the_weight_is_lowered_without_data_and_restored_to_its_step_with_data() {
    let mut world = World::stable(analysed(plan(
        10,
        vec![weight(40), wait(5), weight(60), wait(5)],
    )));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("at 40 %", |world| {
        world.state.weights.verified == Some(Weight::percent(40))
    });
    world.report = step_down(10);
    world.run_for(secs(30));
    assert_eq!(
        (world.share(), world.desired("v2")),
        (Weight::percent(10), 1)
    );
    assert_eq!(world.state.weights.cap, Some(Weight::percent(10)));
    assert_eq!(
        world.events_of("SteppedDown"),
        ["no requests reached the canary"]
    );
    world.report = hold(HoldCode::NoTraffic);
    // Longer than the progress deadline. Neither the wait for data nor the return to the step's
    // weight exceeds it.
    world.run_for(secs(700));
    assert_eq!(
        (world.share(), world.state.stage),
        (Weight::percent(10), Stage::Progressing)
    );
    world.report = step_down(2);
    world.run_for(secs(30));
    assert_eq!(world.share(), Weight::percent(2));
    world.restart();
    world.report = undecided(&world);
    world.run_until("at 60 %", |world| {
        world.state.weights.verified == Some(Weight::percent(60))
    });
    let shares: Vec<_> = world.shares.iter().map(|(_, share, _)| *share).collect();
    assert_eq!(shares, [40, 10, 2, 40, 60].map(Weight::percent));
    assert_eq!(world.state.weights.cap, None);
    world.assert_no_lost_requests();
}

#[test]
fn a_canary_without_traffic_is_not_promoted() {
    let mut world = World::stable(analysed(plan(4, vec![weight(50), wait(5)])));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    world.report = step_down(0);
    world.run_for(secs(3_000));
    assert_eq!(
        (world.share(), world.state.stage),
        (Weight::ZERO, Stage::Progressing),
        "{}",
        world.state.message
    );
    world.run_for(secs(1_000));
    assert_eq!(
        world.state.pause.as_ref().map(|pause| pause.reason),
        Some(PauseReason::Inconclusive)
    );
    world.report = undecided(&world);
    world.run_for(secs(60));
    assert_eq!(
        world.share(),
        Weight::ZERO,
        "no traffic is added during an inconclusive pause"
    );
    world.assert_no_lost_requests();
}

#[test]
fn after_a_step_down_only_evidence_raises_the_weight_again() {
    let pace = EvidencePace {
        first_weight: Weight::percent(20),
        max_weight: Weight::percent(50),
    };
    let mut world = World::stable(edit(analysed(plan(10, vec![])), |canary| {
        canary.pace = Pace::Evidence(pace);
    }));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("at 20 %", |world| {
        world.state.weights.verified == Some(Weight::percent(20))
    });
    world.report = step_down(5);
    world.run_for(secs(30));
    assert_eq!(world.share(), Weight::percent(5));
    world.report = undecided(&world);
    world.run_for(secs(60));
    assert_eq!(
        world.share(),
        Weight::percent(5),
        "fresh data alone raises nothing"
    );
    let next_weight = Some(Weight::percent(20));
    world.report = undecided_permitting(&world, next_weight);
    world.run_for(secs(30));
    assert_eq!(world.share(), Weight::percent(20));
    world.assert_no_lost_requests();
}

/// The weight is too high for the remaining error budget.
fn budget_left_for(percent: u32) -> Option<AnalysisReport> {
    let hold = Hold::new(HoldCode::BudgetLeft, "this rollout has used 95 of 100");
    let hold = hold.lowering_to(Some(Weight::percent(percent)));
    Some(AnalysisReport::held(hold))
}

#[test]
fn a_low_budget_lowers_the_weight_and_a_spent_budget_sets_it_to_zero() {
    let pace = EvidencePace {
        first_weight: Weight::percent(40),
        max_weight: Weight::percent(50),
    };
    let by_steps = analysed(plan(10, vec![weight(40), Step::Pause(None)]));
    let by_evidence = edit(analysed(plan(10, vec![])), |canary| {
        canary.pace = Pace::Evidence(pace);
    });
    for (plan, expected) in [
        (by_steps, "(pause), limited to 0 %"),
        (by_evidence, "95 of 100"),
    ] {
        let mut world = World::stable(plan);
        world.report = undecided(&world);
        world.release("v2");
        world.run_until("at 40 %", |world| {
            world.state.weights.verified == Some(Weight::percent(40))
        });
        world.report = budget_left_for(15);
        world.run_for(secs(30));
        assert_eq!(
            (world.share(), world.events_of("SteppedDown").len()),
            (Weight::percent(15), 1)
        );
        // A weight that is already within the limit is not lowered again, and the weight does not
        // rise while the budget holds the release.
        world.report = budget_left_for(30);
        world.run_for(secs(30));
        assert_eq!(
            (world.share(), world.events_of("SteppedDown").len()),
            (Weight::percent(15), 1)
        );
        world.report = budget_left_for(0);
        world.run_for(secs(30));
        world.restart();
        world.run_for(secs(600));
        assert_eq!(
            (world.share(), world.state.stage),
            (Weight::ZERO, Stage::Progressing),
            "{}",
            world.state.message
        );
        assert!(
            world.state.message.contains(expected),
            "{}",
            world.state.message
        );
        world.assert_no_lost_requests();
    }
}

/// Fresh data without a verdict that permits a weight.
fn undecided_permitting(world: &World, next_weight: Option<Weight>) -> Option<AnalysisReport> {
    let report = AnalysisReport::undecided("more", world.now);
    Some(AnalysisReport {
        next_weight,
        ..report
    })
}

fn with_checks(plan: Plan, checks: &[&str]) -> Plan {
    edit(analysed(plan), |canary| {
        canary.analysis = canary.analysis.take().map(|analysis| Analysis {
            checks: requirements(&[], checks).checks,
            ..analysis
        });
    })
}

fn with_bake(plan: Plan, seconds: u64, checks: &[&str]) -> Plan {
    edit(analysed(plan), |canary| {
        let bake = Some(BakePlan {
            duration: secs(seconds),
            checks: requirements(&[], checks).checks,
        });
        canary.analysis = canary
            .analysis
            .take()
            .map(|analysis| Analysis { bake, ..analysis });
    })
}

#[test]
fn promotion_waits_for_checks_at_the_last_weight() {
    let mut world = World::stable(with_checks(
        plan(4, vec![weight(25), wait(5), weight(50), wait(5)]),
        &["errors"],
    ));
    world.report = satisfied(&world, 25, requirements(&[], &["errors"]));
    world.release("v2");
    world.run_for(secs(120));
    assert_eq!(
        world.share(),
        Weight::percent(50),
        "missing checks do not hold steps"
    );
    assert!(
        world.state.message.contains("waiting for check errors"),
        "{}",
        world.state.message
    );
    world.report = satisfied(&world, 50, requirements(&[], &[]));
    world.run_for(secs(700));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "the progress deadline does not apply"
    );
    world.report = satisfied(&world, 50, requirements(&[], &["errors"]));
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
}

#[test]
fn a_require_step_waits_only_for_its_own_requirements() {
    let step = Step::Require(requirements(&["availability"], &["errors"]));
    let mut world = World::stable(analysed(plan(
        4,
        vec![weight(25), step, weight(50), Step::Pause(None)],
    )));
    world.report = satisfied(&world, 25, requirements(&["latency"], &["errors"]));
    world.release("v2");
    world.run_for(secs(60));
    assert_eq!(world.state.step.map(|step| step.index), Some(1));
    assert!(
        world
            .state
            .message
            .contains("waiting for objective availability"),
        "{}",
        world.state.message
    );
    world.report = hold(HoldCode::Stale);
    world.run_for(secs(60));
    world.report = satisfied(&world, 20, requirements(&["availability"], &["errors"]));
    world.run_for(secs(60));
    assert_eq!(
        world.state.step.map(|step| step.index),
        Some(1),
        "a result at another weight does not count"
    );
    world.report = satisfied(&world, 25, requirements(&["availability"], &["errors"]));
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
}

#[test]
fn a_promoted_release_bakes_before_it_becomes_stable() {
    let mut world = World::stable(with_bake(
        plan(4, vec![weight(50), wait(5)]),
        700,
        &["errors"],
    ));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("all traffic", |world| world.state.bake.is_some());
    assert_eq!(world.share(), Weight::FULL);
    let since = world.state.bake.unwrap().since;
    // Longer than the progress deadline, and across a restart.
    world.run_for(secs(690));
    world.restart();
    world.run_for(secs(5));
    assert_eq!(world.state.bake.unwrap().since, since);
    assert_eq!(
        (world.stable_service.clone(), world.desired("v1")),
        (Some(rev("v1")), 4),
        "stable keeps its pods for a rollback"
    );
    world.report = hold(HoldCode::Stale);
    world.run_for(secs(60));
    assert_eq!(
        world.state.stage,
        Stage::Promoting,
        "missing data does not end the bake"
    );
    world.report = undecided(&world);
    world.run_for(secs(60));
    assert!(
        world.state.message.contains("check errors"),
        "{}",
        world.state.message
    );
    world.report = satisfied(&world, 100, requirements(&[], &["errors"]));
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
    world.run_for(secs(60));
    assert_eq!(
        (world.stable_service.clone(), world.desired("v1")),
        (Some(rev("v2")), 0)
    );
    world.assert_no_lost_requests();
}

#[test]
fn a_breach_during_the_bake_moves_traffic_back_at_once() {
    let mut world = World::stable(with_bake(plan(4, vec![weight(50), wait(5)]), 600, &[]));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("all traffic", |world| world.state.bake.is_some());
    world.run_for(secs(300));
    world.report = roll_back("breach");
    world.settle();
    assert_eq!(
        (world.share(), world.state.stage),
        (Weight::ZERO, Stage::Aborted),
        "in the same reconcile"
    );
    assert_eq!(world.state.bake, None);
    world.run_for(secs(60));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
    world.assert_no_lost_requests();
}

#[test]
fn promote_ends_the_bake_and_abort_ends_the_release() {
    for (verb, stable) in [(Verb::Promote, "v2"), (Verb::Abort, "v1")] {
        let mut world = World::stable(with_bake(
            plan(4, vec![weight(50), wait(5)]),
            600,
            &["errors"],
        ));
        world.report = undecided(&world);
        world.release("v2");
        world.run_until("all traffic", |world| world.state.bake.is_some());
        assert_eq!(world.command("1", verb).result, CommandResult::Done);
        world.run_for(secs(60));
        assert_eq!(world.state.stable_revision, Some(rev(stable)));
        world.assert_no_lost_requests();
    }
}

#[test]
fn missing_metrics_hold_and_resume_by_themselves() {
    let mut world = World::stable(analysed(plan(
        4,
        vec![weight(25), wait(60), weight(50), wait(60)],
    )));
    world.report = hold(HoldCode::Unreachable);
    world.release("v2");
    world.run_for(secs(600));
    assert_eq!(
        world.state.step.map(|step| step.index),
        Some(0),
        "{}",
        world.state.message
    );
    assert!(
        world.state.message.contains("Unreachable"),
        "{}",
        world.state.message
    );
    world.report = undecided(&world);
    world.run_for(secs(200));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn missing_metrics_for_the_maximum_duration_pause_the_release() {
    let mut world = World::stable(analysed(plan(4, vec![weight(25), Step::Analysis(None)])));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("the analysis step", |world| {
        world.state.step.is_some_and(|step| step.index == 1)
    });
    world.run_for(secs(3700));
    assert_eq!(
        world.state.pause.as_ref().map(|pause| pause.reason),
        Some(PauseReason::Inconclusive)
    );
    assert_eq!(world.events_of("Inconclusive").len(), 1);
    assert_eq!(
        world.command("1", Verb::Promote).result,
        CommandResult::Done
    );
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
}

#[test]
fn an_analysis_step_needs_fresh_data_for_its_duration() {
    let mut world = World::stable(analysed(plan(
        4,
        vec![weight(25), Step::Analysis(Some(secs(300)))],
    )));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("the analysis step", |world| {
        world.state.step.is_some_and(|step| step.index == 1)
    });
    world.run_for(secs(200));
    world.report = hold(HoldCode::Stale);
    world.run_for(secs(200));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "a hold does not count"
    );
    world.report = undecided(&world);
    world.run_for(secs(200));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "the duration starts again"
    );
    world.run_for(secs(200));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn evidence_sets_the_pace_without_steps() {
    let pace = EvidencePace {
        first_weight: Weight::percent(5),
        max_weight: Weight::percent(50),
    };
    let mut world = World::stable(analysed(edit(plan(20, vec![]), |canary| {
        canary.pace = Pace::Evidence(pace);
    })));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("at 5 %", |world| {
        world.state.weights.verified == Some(Weight::percent(5))
    });
    let next_weight = Some(Weight::percent(20));
    world.report = undecided_permitting(&world, next_weight);
    world.run_until("at 20 %", |world| {
        world.state.weights.verified == Some(Weight::percent(20))
    });
    assert_eq!(world.desired("v2"), 4);
    world.report = sound(&world, 0, Requirements::default());
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
    world.assert_no_lost_requests();
}

#[test]
fn samples_of_warming_pods_alone_do_not_promote() {
    let mut world = World::stable(analysed(plan(4, vec![weight(50)])));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("all steps are complete", |world| {
        world.state.step.is_some_and(|step| step.index == 1)
    });
    world.report = undecided(&world);
    world.run_for(secs(9));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, Weight::percent(50))
    );
    world.run_for(secs(2));
    assert_eq!(world.state.stage, Stage::Promoting);
}
