//! Tests of the planner with evidence: missing data, steps down without data, and the pace of a
//! release.

#![allow(
    clippy::unnecessary_wraps,
    reason = "the reports are assigned to a field that may be empty"
)]

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::AnalysisReport;
use serin_core::plan::{EvidencePace, Pace, Requirements, Step};
use serin_core::state::{PauseReason, Stage};
use serin_core::units::Weight;
use world::{World, analysed, edit, hold, plan, rev, secs, sound, undecided, wait, weight};

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
    world.release_to("v2", 40);
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
    world.run_until_at(60);
    let shares: Vec<_> = world.shares.iter().map(|(_, share, _)| *share).collect();
    assert_eq!(shares, [40, 10, 2, 40, 60].map(Weight::percent));
    assert_eq!(world.state.weights.cap, None);
    world.assert_no_lost_requests();
}

#[test]
fn a_canary_without_traffic_is_not_promoted() {
    let mut world = World::stable(analysed(plan(4, vec![weight(50), wait(5)])));
    world.release_to("v2", 50);
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
    world.release_to("v2", 20);
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

/// Fresh data without a verdict that permits a weight.
fn undecided_permitting(world: &World, next_weight: Option<Weight>) -> Option<AnalysisReport> {
    let report = AnalysisReport::undecided("more", world.now);
    Some(AnalysisReport {
        next_weight,
        ..report
    })
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
    world.run_until_stable("v2");
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
    world.release_to("v2", 5);
    let next_weight = Some(Weight::percent(20));
    world.report = undecided_permitting(&world, next_weight);
    world.run_until_at(20);
    assert_eq!(world.desired("v2"), 4);
    world.report = sound(&world, 0, Requirements::default());
    world.run_until_stable("v2");
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
