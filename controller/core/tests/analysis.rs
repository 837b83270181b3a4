//! What the metrics say, case by case, against the planner in a small world: freezes, steps down,
//! checks, the watch after promotion.

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
    World, analysed, edit, frozen, hold, plan, rev, roll_back, satisfied, secs, sound, undecided,
    wait, weight,
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
fn a_freeze_is_lifted_by_its_own_verb_alone_and_with_a_reason() {
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
    let mut wordless = serin_core::command::Command {
        uid: "4".into(),
        name: "command-4".into(),
        verb: Verb::Override,
        required_revision: None,
        required_step: None,
        reason: Some(" ".into()),
        requested_by: Some("ada".into()),
    };
    world.commands.push(wordless.clone());
    world.settle();
    assert_eq!(
        world.outcomes.last().unwrap().1.result,
        CommandResult::Refused
    );
    (wordless.uid, wordless.reason) = ("5".into(), Some("the fix of an incident".into()));
    world.commands.push(wordless);
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
fn a_lifted_freeze_lifts_no_evidence_and_ends_with_its_revision() {
    let mut world = frozen_at_25();
    assert_eq!(
        world.command("1", Verb::Override).result,
        CommandResult::Done
    );
    world.release("v3");
    world.settle();
    assert_eq!(
        world.state.freeze_override, None,
        "a new revision is another question"
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
        "nor is a second attempt the same release"
    );
}

#[test]
fn what_is_not_frozen_cannot_be_lifted() {
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
fn without_data_the_weight_goes_down_and_comes_back_with_the_data_no_higher_than_its_step() {
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
    // Longer than the progress deadline: what waits for data does not run into it, nor does the way
    // back.
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
    world.assert_nothing_lost();
}

#[test]
fn a_canary_whose_traffic_was_taken_off_is_not_promoted_for_it() {
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
        "while a person is asked no traffic is added"
    );
    world.assert_nothing_lost();
}

#[test]
fn at_the_pace_of_evidence_the_way_down_leads_up_again_by_evidence_alone() {
    let pace = EvidencePace {
        first_weight: Weight::percent(20),
        max_weight: Weight::percent(50),
    };
    let mut world = World::stable(edit(analysed(plan(10, vec![])), |canary| {
        canary.pace = Pace::Evidence(pace)
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
    world.assert_nothing_lost();
}

/// The weight is more than the budget left bears.
fn budget_left_for(percent: u32) -> Option<AnalysisReport> {
    let hold = Hold::new(HoldCode::BudgetLeft, "this rollout has used 95 of 100");
    let hold = hold.lowering_to(Some(Weight::percent(percent)));
    Some(AnalysisReport::held(hold))
}

#[test]
fn a_budget_that_runs_low_lowers_the_weight_and_a_spent_one_leaves_the_canary_none() {
    let pace = EvidencePace {
        first_weight: Weight::percent(40),
        max_weight: Weight::percent(50),
    };
    let by_steps = analysed(plan(10, vec![weight(40), Step::Pause(None)]));
    let by_evidence = edit(analysed(plan(10, vec![])), |canary| {
        canary.pace = Pace::Evidence(pace)
    });
    for (plan, told) in [
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
        // What fits already is not lowered again, and nothing is raised while the budget holds the
        // release.
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
            world.state.message.contains(told),
            "{}",
            world.state.message
        );
        world.assert_nothing_lost();
    }
}

fn questions(objectives: &[&str], checks: &[&str]) -> Requirements {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Requirements {
        objectives: names(objectives),
        checks: names(checks),
    }
}

/// Fresh data that decides nothing yet but permits a weight.
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
            checks: questions(&[], checks).checks,
            ..analysis
        });
    })
}

fn watched(plan: Plan, seconds: u64, checks: &[&str]) -> Plan {
    edit(analysed(plan), |canary| {
        let watch = Some(BakePlan {
            duration: secs(seconds),
            checks: questions(&[], checks).checks,
        });
        canary.analysis = canary.analysis.take().map(|analysis| Analysis {
            bake: watch,
            ..analysis
        });
    })
}

#[test]
fn no_release_is_promoted_before_its_checks_have_succeeded_at_the_last_weight() {
    let mut world = World::stable(with_checks(
        plan(4, vec![weight(25), wait(5), weight(50), wait(5)]),
        &["errors"],
    ));
    world.report = satisfied(&world, 25, questions(&[], &["errors"]));
    world.release("v2");
    world.run_for(secs(120));
    assert_eq!(
        world.share(),
        Weight::percent(50),
        "steps are not held by it"
    );
    assert!(
        world.state.message.contains("waiting for check errors"),
        "{}",
        world.state.message
    );
    world.report = satisfied(&world, 50, questions(&[], &[]));
    world.run_for(secs(700));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "it runs into no progress deadline"
    );
    world.report = satisfied(&world, 50, questions(&[], &["errors"]));
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
}

#[test]
fn a_step_waits_for_what_it_names_and_for_nothing_else() {
    let step = Step::Require(questions(&["availability"], &["errors"]));
    let mut world = World::stable(analysed(plan(
        4,
        vec![weight(25), step, weight(50), Step::Pause(None)],
    )));
    world.report = satisfied(&world, 25, questions(&["latency"], &["errors"]));
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
    world.report = satisfied(&world, 20, questions(&["availability"], &["errors"]));
    world.run_for(secs(60));
    assert_eq!(
        world.state.step.map(|step| step.index),
        Some(1),
        "an answer at another weight is none"
    );
    world.report = satisfied(&world, 25, questions(&["availability"], &["errors"]));
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
}

#[test]
fn a_promoted_release_is_watched_before_it_becomes_stable() {
    let mut world = World::stable(watched(
        plan(4, vec![weight(50), wait(5)]),
        700,
        &["errors"],
    ));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("all traffic", |world| world.state.bake.is_some());
    assert_eq!(world.share(), Weight::FULL);
    let since = world.state.bake.unwrap().since;
    // Longer than the progress deadline, and over a restart.
    world.run_for(secs(690));
    world.restart();
    world.run_for(secs(5));
    assert_eq!(world.state.bake.unwrap().since, since);
    assert_eq!(
        (world.stable_service.clone(), world.desired("v1")),
        (Some(rev("v1")), 4),
        "the way back stays open"
    );
    world.report = hold(HoldCode::Stale);
    world.run_for(secs(60));
    assert_eq!(
        world.state.stage,
        Stage::Promoting,
        "missing data ends no watch"
    );
    world.report = undecided(&world);
    world.run_for(secs(60));
    assert!(
        world.state.message.contains("check errors"),
        "{}",
        world.state.message
    );
    world.report = satisfied(&world, 100, questions(&[], &["errors"]));
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
    world.run_for(secs(60));
    assert_eq!(
        (world.stable_service.clone(), world.desired("v1")),
        (Some(rev("v2")), 0)
    );
    world.assert_nothing_lost();
}

#[test]
fn a_breach_in_the_watch_takes_the_traffic_back_at_once() {
    let mut world = World::stable(watched(plan(4, vec![weight(50), wait(5)]), 600, &[]));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("all traffic", |world| world.state.bake.is_some());
    world.run_for(secs(300));
    world.report = roll_back("breach");
    world.settle();
    assert_eq!(
        (world.share(), world.state.stage),
        (Weight::ZERO, Stage::Aborted),
        "in the same look"
    );
    assert_eq!(world.state.bake, None);
    world.run_for(secs(60));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
    world.assert_nothing_lost();
}

#[test]
fn a_person_can_end_the_watch_or_the_release_in_it() {
    for (verb, stable) in [(Verb::Promote, "v2"), (Verb::Abort, "v1")] {
        let mut world = World::stable(watched(
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
        world.assert_nothing_lost();
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
fn missing_metrics_for_the_longest_duration_are_inconclusive_and_a_person_decides() {
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
        "the duration is counted anew"
    );
    world.run_for(secs(200));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn evidence_sets_the_pace_where_no_steps_are_written() {
    let pace = EvidencePace {
        first_weight: Weight::percent(5),
        max_weight: Weight::percent(50),
    };
    let mut world = World::stable(analysed(edit(plan(20, vec![]), |canary| {
        canary.pace = Pace::Evidence(pace)
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
    world.assert_nothing_lost();
}

#[test]
fn nothing_is_promoted_on_what_was_seen_of_young_pods_alone() {
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
