//! The twelve rules that hold at every moment, each by its name, most of them over random
//! histories.

mod world;

use std::time::Duration;

use proptest::prelude::*;
use serin_core::command::{CommandResult, Verb};
use serin_core::decide;
use serin_core::effect::Effect;
use serin_core::hold::{HoldCode, HoldSource};
use serin_core::plan::{Canary, Step};
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{
    POD_START, Pods, World, analysed, edit, frozen, hold, lower, plan, rev, roll_back, secs,
    undecided, wait, weight,
};

/// One thing that happens to a Rollout.
#[derive(Clone, Debug)]
enum Happening {
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
    /// The controller is killed after so many writes and starts again.
    Kill(usize),
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let version = prop_oneof![Just("v1"), Just("v2"), Just("v3")];
    prop_oneof![
        3 => version.clone().prop_map(Happening::Release),
        3 => prop_oneof![
            Just(Verb::Promote), Just(Verb::PromoteFull), Just(Verb::Abort), Just(Verb::Retry),
            Just(Verb::Pause), Just(Verb::Resume), Just(Verb::SkipStep), Just(Verb::Override)
        ].prop_map(Happening::Command),
        1 => prop_oneof![4 => 1..12_u32, 1 => Just(0)].prop_map(Happening::Scale),
        1 => prop::collection::vec(1..100_u32, 1..4).prop_map(Happening::Steps),
        1 => version.clone().prop_map(Happening::Crash),
        1 => version.prop_map(Happening::Recover),
        1 => (0..=100_u32).prop_map(Happening::Drift),
        1 => Just(Happening::Breach),
        1 => Just(Happening::Hold),
        1 => (0..40_u32).prop_map(Happening::StepDown),
        1 => Just(Happening::Freeze),
        2 => Just(Happening::Fresh),
        1 => any::<bool>().prop_map(Happening::InvalidSpec),
        3 => (0..6_usize).prop_map(Happening::Kill),
        6 => (1..40_u64).prop_map(Happening::Pass),
    ]
}

fn steps_of(weights: &[u32]) -> Vec<Step> {
    weights
        .iter()
        .flat_map(|percent| [weight(*percent), wait(5)])
        .collect()
}

fn start(dynamic: bool) -> World {
    let wanted = analysed(edit(plan(4, steps_of(&[20, 60])), |canary| {
        canary.dynamic_stable_scale = dynamic
    }));
    let mut world = World::stable(wanted);
    fresh(&mut world);
    world
}

fn fresh(world: &mut World) {
    world.report = undecided(world);
}

fn happen(world: &mut World, number: usize, happening: &Happening) {
    match happening {
        Happening::Release(version) => {
            world.release(version);
            fresh(world);
        }
        Happening::Command(verb) => {
            world.command(&number.to_string(), *verb);
        }
        Happening::Scale(replicas) => {
            let was_at_zero = std::mem::replace(&mut world.plan.replicas, *replicas) == 0;
            if was_at_zero && *replicas > 0 {
                // Until the first pods are there nobody can serve.
                world.run_for(POD_START * 2);
                world.forgive();
            }
        }
        Happening::Steps(weights) => {
            let replicas = world.plan.replicas;
            let dynamic = world.plan.canary().dynamic_stable_scale;
            let edited = analysed(plan(replicas, steps_of(weights)));
            world.plan = edit(edited, |canary| canary.dynamic_stable_scale = dynamic);
        }
        // Pods of the stable side that die take requests with them, whatever a controller does.
        Happening::Crash(version) if world.state.stable_revision != Some(rev(version)) => {
            world.pods.insert(rev(version), Pods::CrashLoop);
        }
        Happening::Recover(version) => {
            world.pods.remove(&rev(version));
        }
        // A route that sends requests to pods that are not there loses them before anyone can put
        // it back.
        Happening::Drift(percent) if world.available_behind_canary() => {
            world.route = Ok(Weight::percent(*percent))
        }
        Happening::Crash(_) | Happening::Drift(_) => {}
        Happening::Breach => {
            world.report = roll_back("breach");
            world.settle();
            fresh(world);
        }
        Happening::Hold => {
            world.report = hold(HoldCode::Stale);
        }
        Happening::StepDown(percent) => {
            world.report = lower(Weight::percent(*percent));
        }
        Happening::Freeze => {
            world.report = frozen("nothing to spend");
        }
        Happening::Fresh => fresh(world),
        Happening::InvalidSpec(invalid) => {
            world.spec_problem = invalid.then(|| "spec: broken".to_owned())
        }
        Happening::Kill(writes) => {
            world.reconcile_cut_after(*writes);
            world.restart();
        }
        Happening::Pass(seconds) => world.run_for(secs(*seconds)),
    }
}

/// What must hold after everything that happens, given the moment before.
fn check_moment(world: &mut World) -> Result<(), TestCaseError> {
    let seen = world.observe();
    let decision = decide(&world.effective_plan(), &seen, world.now).unwrap();
    let (asked, cap) = (decision.state.weights.desired, decision.state.weights.cap);
    if decision.state.stage == Stage::Progressing {
        let index = decision.state.step.map_or(0, |step| step.index);
        let planned = Canary::weight_at(world.plan.steps(), index);
        prop_assert!(
            asked <= planned,
            "{asked} is asked for where the step asks for {planned}"
        );
        prop_assert!(
            cap.is_none_or(|cap| asked <= cap),
            "{asked} is asked for over a cap of {cap:?}"
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
                asked <= lower,
                "{asked} is asked for where the metrics ask for {lower}"
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

fn run(happenings: &[Happening], dynamic: bool) -> Result<World, TestCaseError> {
    let mut world = start(dynamic);
    for (number, happening) in happenings.iter().enumerate() {
        // Lost by what happened to the pods themselves is not the controller's doing.
        let crash = matches!(happening, Happening::Crash(_) | Happening::Drift(_));
        happen(&mut world, number, happening);
        check_moment(&mut world)?;
        world.settle();
        if crash || world.pods.values().any(|pods| *pods != Pods::Good) {
            world.forgive();
        }
        prop_assert!(
            world.lost.is_empty(),
            "after {happening:?}: {:#?}",
            world.lost
        );
    }
    Ok(world)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// Rules 2, 3, 4, 6, 7 and 12 over random histories: no request is sent to a side without pods,
    /// nothing shrinks under traffic, an abort never raises the share, whatever happens and
    /// wherever the controller is killed.
    #[test]
    fn invariants_hold_over_random_histories(
        happenings in prop::collection::vec(happening(), 1..40), dynamic in any::<bool>()
    ) {
        run(&happenings, dynamic)?;
    }

    /// After everything has become quiet and good, the Rollout comes to rest where its spec wants
    /// it, or says why not.
    #[test]
    fn every_history_comes_to_rest(happenings in prop::collection::vec(happening(), 1..30), dynamic in any::<bool>()) {
        let mut world = run(&happenings, dynamic)?;
        world.pods.clear();
        world.spec_problem = None;
        if world.plan.replicas == 0 {
            happen(&mut world, usize::MAX, &Happening::Scale(4));
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
        canary.dynamic_stable_scale = true
    });
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until("stable has shrunk", |world| world.desired("v1") == 2);
    // A pod more than needed is there by chance: it is used.
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
    // `World::reconcile` asserts at every step of every test that the decision is the same when it
    // is asked twice.
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
    // The command is taken in before the new revision, for which it was not made: it must not move
    // v3.
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
    // Whatever the release does in a run without a kill, it does with a kill after every number of
    // writes.
    let end = |kill_every: usize| {
        let mut world = World::stable(plan(4, vec![weight(25), wait(20), weight(50), wait(20)]));
        world.release("v2");
        for _ in 0..4_000 {
            world.reconcile_or_die(kill_every);
            world.now = world.now.checked_add(Duration::from_millis(250)).unwrap();
            world.check();
        }
        world.assert_nothing_lost();
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
