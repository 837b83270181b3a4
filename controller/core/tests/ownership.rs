//! Tests that nothing is written to Services and routes that somebody else holds, and that a Service
//! that other pods serve is not emptied.

mod world;

use serin_core::command::Verb;
use serin_core::effect::Effect;
use serin_core::hold::{Hold, HoldCode};
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{Pods, World, plan, rev, secs, wait, weight};

fn conflict() -> Hold {
    let message = "Service shop is held by Rollout first";
    Hold::new(HoldCode::OwnershipConflict, message)
}

#[test]
fn a_rollout_whose_stable_service_is_held_by_another_writes_nothing() {
    let mut world = World::new(plan(4, vec![weight(20), wait(5)]));
    world.stable_hold = Some(conflict());
    world.run_for(secs(300));
    assert!(world.sets.is_empty() && world.shares.is_empty());
    assert_eq!(
        (&world.stable_service, &world.canary_service),
        (&None, &None)
    );
    assert_eq!(world.state.phase, Phase::Degraded);
    assert!(world.state.message.contains("held by Rollout first"));
    assert_eq!(world.state.holds[0].code, HoldCode::OwnershipConflict);
    assert_eq!(world.events_of("OwnershipConflict").len(), 1, "one Event");
    world.stable_hold = None;
    world.run_for(secs(120));
    assert_eq!(world.state.stage, Stage::Stable, "{}", world.state.message);
    assert!(world.state.holds.is_empty());
}

#[test]
fn a_new_release_does_not_start_while_the_canary_service_is_refused() {
    let mut world = World::stable(plan(4, vec![weight(20), wait(5)]));
    let message = "canaryService `shop-canary`: it is of type ExternalName";
    world.canary_hold = Some(Hold::new(HoldCode::ServiceRefused, message));
    world.release("v2");
    world.run_for(secs(300));
    assert_eq!(world.desired("v2"), 0);
    assert_eq!(world.state.stage, Stage::Stable);
    assert!(world.state.message.contains("ExternalName"));
    world.canary_hold = None;
    world.run_for(secs(300));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn the_share_of_a_contested_rule_is_lowered_but_never_raised() {
    let mut world = World::stable(plan(4, vec![weight(20), wait(60), weight(50)]));
    world.release("v2");
    world.run_for(secs(30));
    assert_eq!(world.route, Ok(Weight::percent(20)));
    world.route_hold = Some(conflict());
    world.run_for(secs(300));
    assert_eq!(world.route, Ok(Weight::percent(20)), "not raised to 50 %");
    world.command("stop", Verb::Abort);
    world.run_for(secs(30));
    assert_eq!(world.route, Ok(Weight::ZERO), "an abort lowers it");
}

#[test]
fn a_service_keeps_the_pods_of_others_until_the_revision_has_all_of_its_pods() {
    let mut world = World::new(plan(4, vec![weight(20)]));
    world.other_ready = 3;
    world.stagger = secs(10);
    world.run_for(secs(25));
    let available = world.available(&rev("v1"));
    assert!((1..4).contains(&available), "{available}");
    assert_eq!(world.stable_service, None, "3 other pods serve it");
    let in_use = |hold: &&Hold| hold.code == HoldCode::ServiceInUse;
    let hold = world.state.holds.iter().find(in_use).unwrap();
    assert!(
        hold.message.contains("4 pods of revision v1"),
        "{}",
        hold.message
    );
    world.run_for(secs(60));
    assert_eq!(world.stable_service, Some(rev("v1")));
    assert_eq!(world.state.stage, Stage::Stable, "{}", world.state.message);
}

#[test]
fn a_service_of_other_pods_is_never_emptied_by_a_revision_without_pods() {
    for replicas in [0, 4] {
        let mut world = World::new(plan(replicas, vec![weight(20)]));
        world.other_ready = 1;
        world.pods.insert(rev("v1"), Pods::NeverReady);
        world.run_for(secs(3600));
        assert_eq!(world.stable_service, None, "{replicas} replicas");
    }
}

#[test]
fn the_position_names_who_keeps_changing_the_route() {
    let mut world = World::stable(plan(4, vec![weight(20), wait(5)]));
    world.release("v2");
    world.run_until("20 % are written", |world| {
        world.route == Ok(Weight::percent(20))
    });
    world.route = Ok(Weight::ZERO);
    let message = "HTTPRoute shop is changed again and again by argocd";
    world.route_hold = Some(Hold::new(HoldCode::Contested, message));
    let decision = world.reconcile_cut_after(1);
    assert!(
        world.state.message.contains("argocd"),
        "{}",
        world.state.message
    );
    let is_write = |effect: &Effect| matches!(effect, Effect::SetWeight { .. });
    assert!(decision.effects.iter().any(is_write), "it is still wanted");
}
