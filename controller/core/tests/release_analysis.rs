//! Tests of the analysis of a release, which stays the same until the release ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use proptest::prelude::*;
use serde_json::json;
use serin_core::command::{Command, CommandOutcome, CommandResult, Verb};
use serin_core::release_analysis::AnalysisDocument;
use serin_core::state::{AbortCause, ReleaseResult, Stage};
use serin_core::units::Weight;
use world::{World, analysed, edit, plan, rev, roll_back, secs, undecided, wait, weight};

const STRICT: f64 = 99.9;
const WEAK: f64 = 0.1;

fn document(objective: f64) -> AnalysisDocument {
    AnalysisDocument::from(
        json!({"objectives": [{"name": "availability", "objective": objective}]}),
    )
}

/// A world in which v1 is stable, and releases are analyzed by the strict objective.
fn strict_world() -> World {
    let steps = vec![weight(25), wait(30), weight(50), wait(30)];
    let mut world = World::stable(analysed(plan(4, steps)));
    world.spec_analysis = Some(document(STRICT));
    world
}

/// Edits `spec.analysis`. `None` removes it.
fn edit_analysis(world: &mut World, objective: Option<f64>, warm_up: u64) {
    let plan = analysed(world.plan.clone());
    world.plan = edit(plan, |canary| match (objective, &mut canary.analysis) {
        (Some(_), Some(analysis)) => analysis.warm_up = secs(warm_up),
        _ => canary.analysis = None,
    });
    world.spec_analysis = objective.map(document);
}

/// The objective that the runtime analyzes the release by: that of the release, or else the spec's.
fn analyzed_objective(world: &World) -> Option<f64> {
    let of_release = world.state.release_analysis.as_ref();
    let document = of_release.map(|fixed| &fixed.spec);
    let document = document.or(world.spec_analysis.as_ref())?;
    document.as_value()["objectives"][0]["objective"].as_f64()
}

/// Reports a canary that meets the weak objective only.
fn report_bad_canary(world: &mut World) {
    let has_traffic = world
        .state
        .weights
        .verified
        .is_some_and(|weight| !weight.is_zero());
    world.report = match analyzed_objective(world) {
        Some(objective) if objective > 50.0 && has_traffic => roll_back("worse than stable"),
        Some(_) => undecided(world),
        None => None,
    };
}

fn command(world: &mut World, uid: &str, reason: Option<&str>) -> CommandOutcome {
    let command = Command {
        adopt_analysis: true,
        reason: reason.map(Into::into),
        ..world.new_command(uid, Verb::Override)
    };
    world.commands.push(command);
    world.settle();
    let mut outcomes = world.outcomes.iter().rev();
    outcomes.find(|(done, _)| done == uid).unwrap().1.clone()
}

#[derive(Clone, Copy, Debug)]
enum Edit {
    Analysis(Option<f64>, u64),
    PodRestartLimit(u32),
    Restart,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let objective = prop::option::of(prop::sample::select(vec![STRICT, WEAK, 0.5, 99.0]));
    let edit = prop_oneof![
        4 => (objective, 0..600_u64).prop_map(|(objective, warm_up)| Edit::Analysis(objective, warm_up)),
        1 => (0..1_000_u32).prop_map(Edit::PodRestartLimit),
        1 => Just(Edit::Restart),
    ];
    prop::collection::vec(edit, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_edit_of_the_analysis_promotes_a_release_that_would_have_been_rolled_back(
        edits in edits(), every in 1..20_u64,
    ) {
        let mut world = strict_world();
        world.report = undecided(&world);
        world.release("v2");
        world.run_for(secs(1));
        let fixed = world.state.release_analysis.clone().unwrap();
        prop_assert_eq!(&fixed.spec, &document(STRICT));
        for edit in edits {
            match edit {
                Edit::Analysis(objective, warm_up) => edit_analysis(&mut world, objective, warm_up),
                Edit::PodRestartLimit(limit) => {
                    world.plan = world::edit(world.plan.clone(), |canary| canary.pod_restart_limit = limit);
                }
                Edit::Restart => world.restart(),
            }
            // The canary shows that it is bad only after the edits.
            world.report = world.state.release_analysis.is_some().then(|| undecided(&world)).flatten();
            world.run_for(secs(every));
            if let Some(still) = &world.state.release_analysis {
                prop_assert_eq!(&still.spec, &fixed.spec);
                prop_assert_eq!(&still.plan, &fixed.plan);
                prop_assert_eq!(still.pod_restart_limit, fixed.pod_restart_limit);
            }
            if world.state.stage != Stage::Progressing {
                // All steps were complete without a verdict.
                return Ok(());
            }
        }
        for _ in 0..300 {
            report_bad_canary(&mut world);
            world.run_for(secs(1));
        }
        prop_assert_eq!(world.state.stage, Stage::Aborted);
        prop_assert_eq!(world.share(), Weight::ZERO);
        prop_assert_eq!(&world.state.release_analysis, &None);
    }
}

#[test]
fn a_weaker_analysis_counts_from_the_next_release() {
    let mut world = strict_world();
    world.release_to("v2", 25);
    edit_analysis(&mut world, Some(WEAK), 0);
    world.settle();
    world.restart();
    world.settle();
    assert!(world.state.release_analysis.clone().unwrap().edited);
    assert_eq!(world.events_of("AnalysisEdited").len(), 1);
    assert!(
        world
            .state
            .message
            .contains("edit of the analysis counts from the next release"),
        "{}",
        world.state.message
    );
    assert_eq!(analyzed_objective(&world), Some(STRICT));
    report_bad_canary(&mut world);
    world.settle();
    assert_eq!(world.state.stage, Stage::Aborted);
    world.report = undecided(&world);
    world.release("v3");
    world.settle();
    assert_eq!(analyzed_objective(&world), Some(WEAK));
    assert!(!world.state.release_analysis.clone().unwrap().edited);
    report_bad_canary(&mut world);
    world.run_until_stable("v3");
    assert_eq!(world.state.release_analysis, None);
}

#[test]
fn a_raised_restart_limit_counts_from_the_next_release() {
    let mut world = strict_world();
    world.release_to("v2", 25);
    world.plan = edit(world.plan.clone(), |canary| {
        canary.pod_restart_limit = 1_000;
    });
    world.settle();
    assert!(world.state.release_analysis.clone().unwrap().edited);
    world.restarts.insert(rev("v2"), 3);
    world.settle();
    assert_eq!(world.state.stage, Stage::Aborted);
    let abort = world.state.abort.clone().unwrap();
    assert_eq!(abort.cause, AbortCause::PodCrash);
}

#[test]
fn a_template_that_is_changed_together_with_the_analysis_is_analyzed_by_it() {
    let mut world = strict_world();
    world.release_to("v2", 25);
    edit_analysis(&mut world, Some(WEAK), 7);
    world.release("v3");
    world.settle();
    assert_eq!(
        world.state.history.last().unwrap().result,
        ReleaseResult::Superseded
    );
    assert_eq!(world.state.current_revision, Some(rev("v3")));
    let fixed = world.state.release_analysis.clone().unwrap();
    assert_eq!((fixed.plan.warm_up, fixed.edited), (secs(7), false));
    assert_eq!(analyzed_objective(&world), Some(WEAK));
}

#[test]
fn a_reverted_edit_is_no_longer_reported() {
    let mut world = strict_world();
    world.release_to("v2", 25);
    edit_analysis(&mut world, None, 0);
    world.settle();
    assert!(world.state.release_analysis.clone().unwrap().edited);
    edit_analysis(&mut world, Some(STRICT), 10);
    world.settle();
    assert!(!world.state.release_analysis.clone().unwrap().edited);
    assert!(!world.state.message.contains("edit of the analysis"));
}

#[test]
fn only_an_override_with_a_reason_applies_an_edited_analysis_at_once() {
    let mut world = strict_world();
    assert_eq!(
        command(&mut world, "1", Some("a typo")).result,
        CommandResult::Refused
    );
    world.release_to("v2", 25);
    let unchanged = command(&mut world, "2", Some("a typo"));
    assert!(
        unchanged.message.contains("already follows"),
        "{}",
        unchanged.message
    );
    edit_analysis(&mut world, Some(WEAK), 3);
    world.settle();
    assert_eq!(
        command(&mut world, "3", Some(" ")).result,
        CommandResult::Refused
    );
    assert_eq!(analyzed_objective(&world), Some(STRICT));
    // An override that lifts a freeze does not apply the edit.
    assert_eq!(
        world.command("4", Verb::Override).result,
        CommandResult::Refused
    );
    assert_eq!(analyzed_objective(&world), Some(STRICT));
    assert_eq!(
        command(&mut world, "5", Some("a typo")).result,
        CommandResult::Done
    );
    assert_eq!(analyzed_objective(&world), Some(WEAK));
    let fixed = world.state.release_analysis.clone().unwrap();
    assert_eq!((fixed.plan.warm_up, fixed.edited), (secs(3), false));
    assert_eq!(world.events_of("AnalysisAdopted").len(), 1);
    // From now on, this is the analysis of the release.
    edit_analysis(&mut world, None, 0);
    world.settle();
    assert_eq!(analyzed_objective(&world), Some(WEAK));
}

#[test]
fn a_release_without_a_recorded_analysis_follows_the_first_one_that_is_observed() {
    let mut world = strict_world();
    world.release_to("v2", 25);
    // As written by an older version.
    world.state.release_analysis = None;
    edit_analysis(&mut world, Some(99.0), 5);
    world.settle();
    assert_eq!(analyzed_objective(&world), Some(99.0));
    edit_analysis(&mut world, Some(WEAK), 5);
    world.settle();
    assert_eq!(analyzed_objective(&world), Some(99.0));
}
