//! Blue/green over random histories, with a controller that is killed at any write.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use proptest::prelude::*;
use serin_core::command::Verb;
use serin_core::hold::HoldCode;
use serin_core::state::Stage;
use serin_core::units::Revision;
use world::{
    Pods, World, all_pods, analysed, baked, blue_green_kinds, edit, preview, rev, roll_back, secs,
    strategies, undecided, wait,
};

fn active(world: &World) -> &str {
    world.stable_service.as_ref().unwrap().as_str()
}

/// One change to a Rollout or its environment.
#[derive(Clone, Debug)]
enum Incident {
    Release(&'static str),
    Command(Verb),
    Scale(u32),
    Strategy(usize),
    Crash(&'static str),
    Recover(&'static str),
    Breach,
    Hold,
    /// The controller is killed after this number of writes and starts again.
    Kill(usize),
    Pass(u64),
}

fn incident() -> impl Strategy<Value = Incident> {
    let version = prop_oneof![Just("v1"), Just("v2"), Just("v3")];
    prop_oneof![
        4 => version.clone().prop_map(Incident::Release),
        4 => prop_oneof![
            Just(Verb::Promote), Just(Verb::PromoteFull), Just(Verb::Abort), Just(Verb::Retry),
            Just(Verb::Pause), Just(Verb::Resume), Just(Verb::SkipStep)
        ].prop_map(Incident::Command),
        1 => (1..10_u32).prop_map(Incident::Scale),
        1 => (0..4_usize).prop_map(Incident::Strategy),
        1 => version.clone().prop_map(Incident::Crash),
        1 => version.prop_map(Incident::Recover),
        2 => Just(Incident::Breach),
        1 => Just(Incident::Hold),
        4 => (0..6_usize).prop_map(Incident::Kill),
        8 => (1..40_u64).prop_map(Incident::Pass),
    ]
}

fn apply(world: &mut World, number: usize, incident: &Incident) {
    match incident {
        Incident::Release(version) => {
            world.release(version);
            world.report = undecided(world);
        }
        Incident::Command(verb) => {
            world.command(&number.to_string(), *verb);
        }
        Incident::Scale(replicas) => world.plan.replicas = *replicas,
        Incident::Strategy(index) => {
            let next = strategies(world.plan.replicas).swap_remove(*index);
            world.plan = baked(next, 30);
        }
        // Requests to failing pods that serve are lost, whatever the controller does.
        Incident::Crash(version) if !serves(world, version) => {
            world.pods.insert(rev(version), Pods::CrashLoop);
        }
        Incident::Crash(_) => {}
        Incident::Recover(version) => {
            world.pods.remove(&rev(version));
        }
        Incident::Breach => {
            world.report = roll_back("breach");
            world.settle();
            world.report = undecided(world);
        }
        Incident::Hold => world.report = world::hold(HoldCode::Stale),
        Incident::Kill(writes) => world.reconcile_with_kill(*writes),
        Incident::Pass(seconds) => world.run_for(secs(*seconds)),
    }
}

/// Whether requests may reach the revision, or will because it is the stable one.
fn serves(world: &World, revision: &str) -> bool {
    let revision = rev(revision);
    world.may_serve(&revision) || world.state.stable_revision.as_ref() == Some(&revision)
}

fn check_after(world: &World, before: Option<&Revision>) {
    world.assert_no_lost_requests();
    let is_switch = world.stable_service.as_ref() != before;
    if let (true, Some(now)) = (is_switch, &world.stable_service) {
        assert!(
            world.available(now) > 0,
            "the active Service selects {now} without pods"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Invariants 2, 3, 4 and 12 over random histories, with the controller killed at any write.
    #[test]
    fn no_history_of_blue_green_loses_a_request(
        is_routed in any::<bool>(),
        incidents in prop::collection::vec(incident(), 1..25),
    ) {
        let steps = [preview(1), wait(5), all_pods()];
        let [switched, routed] = blue_green_kinds(3, &steps);
        let mut world = World::stable(baked(if is_routed { routed } else { switched }, 30));
        world.report = undecided(&world);
        for (number, incident) in incidents.iter().enumerate() {
            let before = world.stable_service.clone();
            apply(&mut world, number, incident);
            check_after(&world, before.as_ref());
        }
        world.pods.clear();
        world.report = undecided(&world);
        world.run_for(secs(2_000));
        world.assert_no_lost_requests();
        // It may wait for a person.
        if world.state.is_releasing() {
            return Ok(());
        }
        let stable = world.state.stable_revision.clone().unwrap();
        prop_assert_eq!(world.stable_service.as_ref(), Some(&stable));
        prop_assert_eq!(world.available(&stable), world.plan.replicas);
    }
}

#[test]
fn a_controller_killed_at_any_write_of_a_switch_carries_on() {
    for plan in blue_green_kinds(3, &[all_pods()]) {
        for writes in 0..4 {
            for moment in (0..60).step_by(2) {
                let mut world = World::stable(baked(plan.clone(), 10));
                world.report = undecided(&world);
                world.release("v2");
                world.run_for(secs(moment));
                for _ in 0..3 {
                    world.reconcile_with_kill(writes);
                }
                world.run_until_stable("v2");
                world.run_for(secs(60));
                assert_eq!((world.desired("v1"), world.desired("v2")), (0, 3));
                world.assert_no_lost_requests();
            }
        }
    }
}

#[test]
fn an_abort_at_any_moment_returns_all_traffic() {
    for plan in blue_green_kinds(3, &[preview(1), wait(5), all_pods()]) {
        for moment in 0..60 {
            let mut world = World::stable(edit(analysed(plan.clone()), |settings| {
                settings.abort_scale_down_delay = secs(0);
                settings.scale_down_delay = secs(20);
            }));
            world.report = undecided(&world);
            world.release("v2");
            world.run_for(secs(moment));
            let can_return = world.state.stage != Stage::Stable || world.desired("v1") > 0;
            world.command("a", Verb::Abort);
            world.run_for(secs(120));
            let expected = if can_return { "v1" } else { "v2" };
            assert_eq!(
                (active(&world), world.desired(expected)),
                (expected, 3),
                "{moment} s"
            );
            world.assert_no_lost_requests();
        }
    }
}
