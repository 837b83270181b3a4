//! Tests of the planner with an error budget: freezes, and steps down because of the budget.

#![allow(
    clippy::unnecessary_wraps,
    reason = "the reports are assigned to a field that may be empty"
)]

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::AnalysisReport;
use serin_core::plan::{EvidencePace, Pace, Step};
use serin_core::state::Stage;
use serin_core::units::Weight;
use world::{World, analysed, edit, frozen, plan, roll_back, secs, undecided, wait, weight};

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
    world.run_until_at(25);
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
        adopt_analysis: false,
        reason: Some(" ".into()),
        requested_by: Some("ada".into()),
        created_at: world.now,
        authorization: serin_core::command::Authorization::Verified,
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
    world.run_until_at(50);
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
    world.run_until_at(25);
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
        world.release_to("v2", 40);
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
