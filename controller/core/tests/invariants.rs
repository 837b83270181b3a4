//! Tests of the twelve invariants, most of them over random histories.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::time::Duration;

use proptest::prelude::*;
use serin_core::command::{CommandResult, Verb};
use serin_core::decide;
use serin_core::effect::Effect;
use serin_core::hold::{HoldCode, HoldSource};
use serin_core::plan::{Analysis, Canary, Plan, Step};
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{
    POD_START, Pods, World, analysed, edit, frozen, hold, lower, plan, rev, roll_back, secs,
    undecided, wait, weight,
};

/// One change to a Rollout or its environment.
#[derive(Clone, Debug)]
enum Incident {
    Release(&'static str),
    Command(Verb),
    Scale(u32),
    Steps(Vec<u32>),
    Crash(&'static str),
    Recover(&'static str),
    Drift(u32),
    Breach,
    Hold,
    StepDown(u32),
    Freeze,
    Fresh,
    InvalidSpec(bool),
    /// The controller is killed after this number of writes and starts again.
    Kill(usize),
    Pass(u64),
}

fn incident() -> impl Strategy<Value = Incident> {
    let version = prop_oneof![Just("v1"), Just("v2"), Just("v3")];
    prop_oneof![
        3 => version.clone().prop_map(Incident::Release),
        3 => prop_oneof![
            Just(Verb::Promote), Just(Verb::PromoteFull), Just(Verb::Abort), Just(Verb::Retry),
            Just(Verb::Pause), Just(Verb::Resume), Just(Verb::SkipStep), Just(Verb::Override)
        ].prop_map(Incident::Command),
        1 => prop_oneof![4 => 1..12_u32, 1 => Just(0)].prop_map(Incident::Scale),
        1 => prop::collection::vec(1..100_u32, 1..4).prop_map(Incident::Steps),
        1 => version.clone().prop_map(Incident::Crash),
        1 => version.prop_map(Incident::Recover),
        1 => (0..=100_u32).prop_map(Incident::Drift),
        1 => Just(Incident::Breach),
        1 => Just(Incident::Hold),
        1 => (0..40_u32).prop_map(Incident::StepDown),
        1 => Just(Incident::Freeze),
        2 => Just(Incident::Fresh),
        1 => any::<bool>().prop_map(Incident::InvalidSpec),
        3 => (0..6_usize).prop_map(Incident::Kill),
        6 => (1..40_u64).prop_map(Incident::Pass),
    ]
}

fn steps_of(weights: &[u32]) -> Vec<Step> {
    weights
        .iter()
        .flat_map(|percent| [weight(*percent), wait(5)])
        .collect()
}

/// How many pods stable has during a release.
#[derive(Clone, Copy, Debug)]
enum StableScale {
    Full,
    /// It shrinks with its share of the traffic.
    Dynamic,
    /// It has baseline pods in addition.
    Baseline,
}

fn stable_scale() -> impl Strategy<Value = StableScale> {
    prop_oneof![
        Just(StableScale::Full),
        Just(StableScale::Dynamic),
        Just(StableScale::Baseline)
    ]
}

impl StableScale {
    fn apply(self, to: Plan) -> Plan {
        edit(analysed(to), |canary| match self {
            Self::Full => {}
            Self::Dynamic => canary.dynamic_stable_scale = true,
            Self::Baseline => {
                canary.analysis = canary.analysis.take().map(|analysis| Analysis {
                    baseline_pods: Some(2),
                    ..analysis
                });
            }
        })
    }
}

fn start(scale: StableScale) -> World {
    let mut world = World::stable(scale.apply(plan(4, steps_of(&[20, 60]))));
    fresh(&mut world);
    world
}

fn fresh(world: &mut World) {
    world.report = undecided(world);
}

fn apply(world: &mut World, number: usize, incident: &Incident) {
    match incident {
        Incident::Release(version) => {
            world.release(version);
            fresh(world);
        }
        Incident::Command(verb) => {
            world.command(&number.to_string(), *verb);
        }
        Incident::Scale(replicas) => {
            let was_at_zero = std::mem::replace(&mut world.plan.replicas, *replicas) == 0;
            if was_at_zero && *replicas > 0 {
                // No pod can serve until the first pods are available.
                world.run_for(POD_START * 2);
                world.forget_lost_requests();
            }
        }
        Incident::Steps(weights) => {
            let edited = plan(world.plan.replicas, steps_of(weights));
            let canary = world.plan.canary().clone();
            world.plan = edit(edited, |edited| {
                edited.dynamic_stable_scale = canary.dynamic_stable_scale;
                edited.analysis = canary.analysis;
            });
        }
        // Requests to failing stable pods are lost, whatever the controller does.
        Incident::Crash(version) if world.state.stable_revision != Some(rev(version)) => {
            world.pods.insert(rev(version), Pods::CrashLoop);
        }
        Incident::Recover(version) => {
            world.pods.remove(&rev(version));
        }
        // A route that sends requests to missing pods loses them before the controller can restore
        // it.
        Incident::Drift(percent) if world.available_behind_canary() => {
            world.route = Ok(Weight::percent(*percent));
        }
        Incident::Crash(_) | Incident::Drift(_) => {}
        Incident::Breach => {
            world.report = roll_back("breach");
            world.settle();
            fresh(world);
        }
        Incident::Hold => {
            world.report = hold(HoldCode::Stale);
        }
        Incident::StepDown(percent) => {
            world.report = lower(Weight::percent(*percent));
        }
        Incident::Freeze => {
            world.report = frozen("nothing to spend");
        }
        Incident::Fresh => fresh(world),
        Incident::InvalidSpec(invalid) => {
            world.spec_problem = invalid.then(|| "spec: broken".to_owned());
        }
        Incident::Kill(writes) => {
            world.reconcile_cut_after(*writes);
            world.restart();
        }
        Incident::Pass(seconds) => world.run_for(secs(*seconds)),
    }
}

/// Checks the next decision. Runs after every event, before the controller reacts to it.
fn check_decision(world: &mut World) -> Result<(), TestCaseError> {
    let seen = world.observe();
    let decision = decide(&world.effective_plan(), &seen, world.now).unwrap();
    let (desired, cap) = (decision.state.weights.desired, decision.state.weights.cap);
    if decision.state.stage == Stage::Progressing {
        let index = decision.state.step.map_or(0, |step| step.index);
        let planned = Canary::weight_at(world.plan.steps(), index);
        prop_assert!(
            desired <= planned,
            "weight {desired} exceeds the step's weight {planned}"
        );
        prop_assert!(
            cap.is_none_or(|cap| desired <= cap),
            "weight {desired} exceeds the cap {cap:?}"
        );
        let same = seen.state.stage == Stage::Progressing
            && seen.state.current_revision == decision.state.current_revision;
        let lower = seen
            .analysis
            .iter()
            .flat_map(|report| &report.holds)
            .find_map(|hold| hold.lower_to);
        if let Some(lower) = lower
            && same
        {
            prop_assert!(
                desired <= lower,
                "weight {desired} exceeds the weight {lower} that the metrics permit"
            );
        }
    } else {
        prop_assert_eq!(cap, None);
    }
    for effect in &decision.effects {
        if let Effect::Scale {
            revision, replicas, ..
        } = effect
        {
            let selected = world.stable_service.as_ref() == Some(revision)
                || (world.canary_service.as_ref() == Some(revision) && !world.share().is_zero());
            prop_assert!(
                *replicas > 0 || !selected || world.plan.replicas == 0,
                "{revision} is scaled to 0 while traffic may reach it"
            );
        }
        if let Effect::SetWeight { canary, .. } = effect {
            let stage = decision.state.stage;
            let rises = *canary > world.share();
            prop_assert!(
                !rises || matches!(stage, Stage::Progressing | Stage::Promoting),
                "the canary's share rises to {canary} in {stage:?}"
            );
            if !canary.is_zero() {
                let selected = world.canary_service.clone();
                prop_assert!(
                    selected.is_some_and(|revision| world.available(&revision) > 0),
                    "a share without pods"
                );
            }
        }
    }
    Ok(())
}

fn run(incidents: &[Incident], scale: StableScale) -> Result<World, TestCaseError> {
    let mut world = start(scale);
    for (number, incident) in incidents.iter().enumerate() {
        // Requests that are lost because pods failed do not count.
        let crash = matches!(incident, Incident::Crash(_) | Incident::Drift(_));
        apply(&mut world, number, incident);
        check_decision(&mut world)?;
        world.settle();
        if crash || world.pods.values().any(|pods| *pods != Pods::Good) {
            world.forget_lost_requests();
        }
        prop_assert!(
            world.lost.is_empty(),
            "after {incident:?}: {:#?}",
            world.lost
        );
    }
    Ok(world)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// Invariants 2, 3, 4, 6, 7 and 12 over random histories, with kills of the controller between
    /// any two writes: no request is sent to a side without pods, no side with traffic shrinks, an
    /// abort never raises the canary's share.
    #[test]
    fn invariants_hold_over_random_histories(
        incidents in prop::collection::vec(incident(), 1..40), scale in stable_scale()
    ) {
        run(&incidents, scale)?;
    }

    /// Without further faults the Rollout reaches the state of its spec, or is aborted with a
    /// reason.
    #[test]
    fn every_history_ends_in_a_final_state(incidents in prop::collection::vec(incident(), 1..30), scale in stable_scale()) {
        let mut world = run(&incidents, scale)?;
        world.pods.clear();
        world.spec_problem = None;
        if world.plan.replicas == 0 {
            apply(&mut world, usize::MAX, &Incident::Scale(4));
        }
        fresh(&mut world);
        world.run_for(secs(60));
        if world.state.pause.is_some() {
            world.command("last-resume", Verb::Resume);
        }
        world.run_for(secs(600));
        match world.state.stage {
            Stage::Stable => {
                prop_assert_eq!(&world.state.stable_revision, &world.target);
                prop_assert_eq!(world.state.phase, Phase::Healthy);
                let pods: u32 = world.sets.values().map(|set| set.desired).sum();
                prop_assert_eq!(pods, world.plan.replicas);
            }
            Stage::Aborted => {
                prop_assert!(world.state.abort.is_some());
                prop_assert_eq!(world.state.phase, Phase::Degraded);
            }
            stage => prop_assert!(false, "still {stage:?}: {}", world.state.message),
        }
        prop_assert_eq!(world.share(), Weight::ZERO);
    }
}

#[test]
fn invariant_01_abort_comes_first_before_validation_scaling_and_analysis() {
    let mut world = World::stable(analysed(plan(4, steps_of(&[50]))));
    fresh(&mut world);
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    world.spec_problem = Some("spec.strategy: broken".into());
    world.target = None;
    world.report = roll_back("breach");
    let decision = world.reconcile();
    assert!(decision.state.abort.is_some(), "the reason is recorded");
    assert!(
        matches!(
            decision.effects.first(),
            Some(Effect::SetWeight {
                canary: Weight::ZERO,
                ..
            })
        ),
        "{decision:?}"
    );
}

#[test]
fn invariant_02_abort_never_waits_for_stable_to_be_complete() {
    let wanted = edit(plan(10, vec![weight(80), wait(600)]), |canary| {
        canary.dynamic_stable_scale = true;
    });
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until("stable has shrunk", |world| world.desired("v1") == 2);
    // Stable has more pods than needed. They are used.
    let set = world.sets.get_mut(&rev("v1")).unwrap();
    set.desired = 5;
    set.ready_at.resize(5, world.now);
    world.command("1", Verb::Abort);
    assert_eq!(
        world.share(),
        Weight::percent(50),
        "half of the pods carry half of the traffic"
    );
    assert_eq!(world.desired("v1"), 10);
}

#[test]
fn invariant_03_no_side_gets_more_traffic_than_it_has_available_pods_for() {
    let mut world = World::stable(plan(10, vec![weight(40), wait(600)]));
    world.release("v2");
    world.run_until("at 40 %", |world| {
        world.state.weights.verified == Some(Weight::percent(40))
    });
    let set = world.sets.get_mut(&rev("v2")).unwrap();
    set.ready_at[0] = world.now.checked_add(secs(100)).unwrap();
    world.settle();
    assert_eq!(
        world.share(),
        Weight::percent(30),
        "three of four canary pods carry three quarters of 40 %"
    );
    world.run_for(secs(110));
    assert_eq!(world.share(), Weight::percent(40));
}

#[test]
fn invariant_04_nothing_is_scaled_down_while_traffic_may_still_reach_it() {
    let mut world = World::stable(plan(4, vec![weight(50), wait(600)]));
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    world.command("1", Verb::Abort);
    assert_eq!(
        world.state.draining,
        [],
        "the router has not been seen to act yet"
    );
    world.run_for(secs(3));
    let until = world
        .state
        .draining
        .first()
        .map(|drain| drain.until)
        .expect("a persisted drain");
    world.restart();
    world.run_for(secs(20));
    assert_eq!(world.desired("v2"), 2);
    assert_eq!(
        world.state.draining.first().map(|drain| drain.until),
        Some(until),
        "a restart does not move it"
    );
    world.run_for(secs(15));
    assert_eq!(world.desired("v2"), 0);
}

#[test]
fn invariant_05_a_step_is_complete_only_when_its_effect_has_been_observed() {
    let mut world = World::stable(plan(4, vec![weight(50), wait(600)]));
    world.release("v2");
    world.run_until("written", |world| world.share() == Weight::percent(50));
    assert_eq!(
        world.state.step.map(|step| step.index),
        Some(0),
        "written is not observed"
    );
    assert_eq!(world.state.weights.verified, None);
    world.run_for(secs(3));
    assert_eq!(world.state.step.map(|step| step.index), Some(1));
}

#[test]
fn invariant_06_everything_comes_from_one_pure_function() {
    // `World::reconcile` asserts in every test that two calls return the same decision.
    let mut world = World::stable(plan(4, vec![weight(50), wait(10)]));
    world.release("v2");
    let decision = world.reconcile();
    assert_eq!(decision.state.current_revision, Some(rev("v2")));
}

#[test]
fn invariant_07_nothing_is_inferred_from_a_live_route() {
    let mut world = World::stable(plan(4, vec![weight(20), wait(600), weight(60), wait(600)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    let step = world.state.step;
    world.route = Ok(Weight::percent(60));
    world.restart();
    world.settle();
    assert_eq!(
        (world.share(), world.state.step),
        (Weight::percent(20), step)
    );
}

#[test]
fn invariant_08_a_new_revision_voids_what_was_decided_for_the_old_one() {
    let mut world = World::stable(plan(4, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.release("v3");
    let outcome = world.command_for("1", Verb::Promote, Some("v2"), Some(1));
    // The command is processed before the new revision. It must not advance v3.
    world.run_for(secs(5));
    assert_eq!(world.state.current_revision, Some(rev("v3")));
    assert_eq!(
        world.state.step.map(|step| step.index),
        Some(0),
        "{outcome:?}"
    );
    let late = world.command_for("2", Verb::Promote, Some("v2"), Some(1));
    assert_eq!(late.result, CommandResult::Refused);
}

#[test]
fn invariant_10_missing_metrics_never_promote() {
    for code in HoldCode::ALL {
        if code.source() != HoldSource::Metrics {
            continue;
        }
        let mut world = World::stable(analysed(plan(4, vec![weight(50), wait(5)])));
        world.report = hold(*code);
        world.release("v2");
        world.run_for(secs(3_000));
        assert_eq!(world.state.stable_revision, Some(rev("v1")), "{code}");
        let message = &world.state.message;
        assert!(message.contains(code.as_str()), "{message}");
    }
}

#[test]
fn invariant_12_the_controller_can_be_killed_between_any_two_writes() {
    // A run with a kill after every n-th write has the same result as a run without a kill.
    let end = |kill_every: usize| {
        let mut world = World::stable(plan(4, vec![weight(25), wait(20), weight(50), wait(20)]));
        world.release("v2");
        for _ in 0..4_000 {
            world.reconcile_with_kill(kill_every);
            world.now = world.now.checked_add(Duration::from_millis(250)).unwrap();
            world.check();
        }
        world.assert_no_lost_requests();
        let shares: Vec<_> = world.shares.iter().map(|(_, share, _)| *share).collect();
        (
            world.state.stable_revision.clone(),
            world.desired("v1"),
            world.desired("v2"),
            shares,
        )
    };
    let without = end(usize::MAX);
    assert_eq!(without.0, Some(rev("v2")));
    for kill_every in 1..4 {
        assert_eq!(end(kill_every), without, "killed after {kill_every} writes");
    }
}
