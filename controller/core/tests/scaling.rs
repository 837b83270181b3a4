//! Tests of changes of the number of pods during a release, for problems that users of other
//! controllers reported. Tests cite their source.

mod world;

use std::time::Duration;

use serin_core::command::Verb;
use serin_core::observed::ReplicasSource;
use serin_core::plan::{BakePlan, Plan, Step};
use serin_core::state::{PauseReason, Stage};
use serin_core::units::Weight;
use world::{World, analysed, edit, frozen, plan, rev, secs, undecided, unrouted, wait, weight};

/// v2 at 20 %, held by `hold`.
fn held_release(routed: bool, hold: impl FnOnce(&mut World)) -> World {
    let steps = vec![weight(20), Step::Pause(None), weight(60), wait(5)];
    let wanted = analysed(if routed {
        plan(3, steps)
    } else {
        unrouted(3, steps, 1, 0)
    });
    let mut world = World::stable(wanted);
    world.report = undecided(&world);
    world.release("v2");
    world.run_until_paused();
    hold(&mut world);
    world.run_for(secs(5));
    world
}

fn scale_to_zero_and_back(world: &mut World) {
    let replicas = world.plan.replicas;
    world.plan.replicas = 0;
    world.run_for(secs(3_700));
    let left: u32 = ["v1", "v2"]
        .iter()
        .map(|version| world.desired(version))
        .sum();
    assert_eq!(left, 0, "{}", world.state.message);
    world.restart();
    world.plan.replicas = replicas;
    world.forget_lost_requests();
    world.shares.clear();
}

// argo-rollouts #3686, PR #4950: at night the replicas go to 0 and in the morning the canary is
// stable.
#[test]
fn scaling_to_zero_and_back_keeps_the_position_under_every_kind_of_hold() {
    type Hold = fn(&mut World);
    let holds: [(&str, Hold); 5] = [
        ("a pause step", |_| {}),
        ("the pause command", |world| {
            assert_eq!(
                world.command("p", Verb::Pause).message,
                "nothing advances until `resume`"
            );
        }),
        ("spec.paused", |world| world.plan.paused = true),
        ("a freeze", |world| {
            world.report = frozen("nothing to spend");
        }),
        ("a spec problem", |world| {
            world.spec_problem = Some("spec.strategy: broken".into());
        }),
    ];
    for routed in [true, false] {
        for (name, hold) in holds {
            let mut world = held_release(routed, hold);
            let (step, stable) = (world.state.step, world.state.stable_revision.clone());
            let by_person = world.state.pause.as_ref().map(|pause| pause.reason);
            scale_to_zero_and_back(&mut world);
            assert!(
                world.state.message.contains("scaled to 0") || name != "a pause step",
                "{}",
                world.state.message
            );
            world.run_for(secs(10));
            // No pod can serve until the first pods are available.
            world.forget_lost_requests();
            world.run_for(secs(60));
            assert_eq!(
                (world.state.stage, world.state.step),
                (Stage::Progressing, step),
                "{name}: {}",
                world.state.message
            );
            assert_eq!(world.state.stable_revision, stable, "{name}");
            assert_eq!(
                world.state.pause.as_ref().map(|pause| pause.reason),
                by_person,
                "{name}"
            );
            if routed {
                assert_eq!(
                    (world.desired("v1"), world.share()),
                    (3, Weight::percent(20)),
                    "{name}"
                );
            } else {
                assert_eq!((world.desired("v1"), world.desired("v2")), (2, 1), "{name}");
            }
            assert!(
                world.events_of("PromotedWithoutTraffic").is_empty(),
                "{name}"
            );
            world.assert_no_lost_requests();
        }
    }
}

#[test]
fn scaling_to_zero_and_back_never_exceeds_the_share_of_the_canary() {
    let mut world = held_release(true, |_| {});
    scale_to_zero_and_back(&mut world);
    // The canary's pods start much faster than stable's.
    world.pod_start.insert(rev("v1"), secs(30));
    for _ in 0..120 {
        world.run_for(Duration::from_millis(500));
        assert!(
            world.share() <= Weight::percent(20),
            "{} of the traffic to the canary",
            world.share()
        );
        assert!(
            world.available(&rev("v1")) > 0 || world.available(&rev("v2")) == 0,
            "only the canary serves"
        );
    }
    assert_eq!(world.share(), Weight::percent(20));
}

#[test]
fn scaling_to_zero_during_a_promotion_keeps_the_stage() {
    let mut world = World::stable(edit(
        analysed(plan(3, vec![weight(50), wait(5)])),
        |canary| {
            let watch = BakePlan {
                duration: secs(600),
                checks: std::collections::BTreeSet::new(),
            };
            canary.analysis.as_mut().unwrap().bake = Some(watch);
        },
    ));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("all traffic", |world| world.state.bake.is_some());
    scale_to_zero_and_back(&mut world);
    world.run_for(secs(60));
    assert_eq!(
        (world.state.stage, world.state.stable_revision.clone()),
        (Stage::Promoting, Some(rev("v1")))
    );
    assert!(
        world.state.bake.is_some(),
        "still baking: {}",
        world.state.message
    );
    world.report = undecided(&world);
    world.run_until_stable("v2");
}

#[test]
fn an_aborted_release_that_is_scaled_to_zero_and_back_stays_aborted() {
    let mut world = held_release(true, |world| {
        world.command("a", Verb::Abort);
    });
    scale_to_zero_and_back(&mut world);
    world.run_for(secs(60));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Aborted, Weight::ZERO)
    );
    assert_eq!((world.desired("v1"), world.desired("v2")), (3, 0));
    // Neither a retry nor a change in Git promotes it because it has no traffic.
    world.plan.replicas = 0;
    world.run_for(secs(30));
    world.command("r", Verb::Retry);
    world.run_for(secs(30));
    assert_eq!(
        world.state.stable_revision,
        Some(rev("v1")),
        "{}",
        world.state.message
    );
}

#[test]
fn a_held_release_that_is_scaled_to_zero_is_not_promoted() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.plan.replicas = 0;
    world.plan.paused = true;
    world.run_for(secs(30));
    world.release("v2");
    world.run_for(secs(60));
    assert_eq!(
        world.state.stable_revision,
        Some(rev("v1")),
        "{}",
        world.state.message
    );
}

#[test]
fn a_pause_by_command_survives_edited_steps() {
    let mut world = held_release(true, |world| {
        world.command("p", Verb::Pause);
    });
    let replicas = world.plan.replicas;
    world.plan = analysed(plan(replicas, vec![weight(10), wait(1), weight(100)]));
    world.run_for(secs(120));
    assert_eq!(
        world.state.pause.as_ref().map(|pause| pause.reason),
        Some(PauseReason::Command)
    );
    assert!(world.share() <= Weight::percent(20), "{}", world.share());
    assert_eq!(world.state.stable_revision, Some(rev("v1")));
}

/// The highest share of the available pods that the canary has had while `replicas` went from one
/// number to another.
fn highest_canary_share(mut world: World, replicas: u32) -> f64 {
    world.plan.replicas = replicas;
    let mut highest = 0.0_f64;
    for _ in 0..400 {
        world.run_for(Duration::from_millis(250));
        let (canary, stable) = (
            f64::from(world.available(&rev("v2"))),
            f64::from(world.available(&rev("v1"))),
        );
        highest = highest.max(canary / (canary + stable));
    }
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "{}",
        world.state.message
    );
    world.assert_no_lost_requests();
    highest
}

fn at_30_percent(mut wanted: Plan, from: u32) -> World {
    wanted.replicas = from;
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until_paused();
    world.pod_start.insert(rev("v1"), secs(40));
    world
}

// Scaling during a release, in every mode: the canary never gets all of the new pods.
#[test]
fn both_sides_grow_and_shrink_in_the_proportion_of_the_traffic() {
    let steps = || vec![weight(30), Step::Pause(None)];
    for (from, to) in [(10, 20), (10, 40), (40, 10), (20, 10), (10, 0)] {
        for surge in [(3, 0), (0, 5), (25, 25)] {
            let share = highest_canary_share(
                at_30_percent(unrouted(10, steps(), surge.0, surge.1), from),
                to,
            );
            assert!(
                share.is_nan() || share <= 0.345,
                "{from} -> {to} with {surge:?}: {share}"
            );
        }
        for dynamic in [false, true] {
            let wanted = edit(plan(10, steps()), |canary| {
                canary.dynamic_stable_scale = dynamic;
            });
            let share = highest_canary_share(at_30_percent(wanted, from), to);
            assert!(share <= 0.345, "{from} -> {to}, dynamic {dynamic}: {share}");
        }
    }
}

#[test]
fn a_broken_stable_revision_does_not_hold_the_canary_forever() {
    let mut world = at_30_percent(plan(4, vec![weight(30), Step::Pause(None)]), 4);
    world.pod_start.insert(rev("v1"), secs(1_000_000));
    world.plan.replicas = 12;
    world.run_for(secs(60));
    assert_eq!(world.desired("v2"), 2);
    world.run_for(secs(600));
    assert_eq!(world.desired("v2"), 4);
}

// argo-rollouts #3689, #119: the field is removed because of an autoscaler, and the API server
// defaults it to 1.
#[test]
fn removing_replicas_does_not_shrink_a_fleet() {
    let mut world = World::stable(plan(10, vec![weight(50), wait(5)]));
    (world.plan.replicas, world.replicas_source) = (1, ReplicasSource::Default);
    world.run_for(secs(60));
    world.restart();
    world.run_for(secs(600));
    assert_eq!(world.desired("v1"), 10);
    assert_eq!(
        world.events_of("ReplicasKept").len(),
        1,
        "{:?}",
        world.events
    );
    // An autoscaler starts at the 1 that it reads and scales up gradually.
    for replicas in [4, 8] {
        (world.plan.replicas, world.replicas_source) = (replicas, ReplicasSource::Scaled);
        world.run_for(secs(15));
        assert_eq!(world.desired("v1"), 10);
    }
    world.plan.replicas = 12;
    world.run_for(secs(15));
    assert_eq!(world.desired("v1"), 12);
    world.plan.replicas = 7;
    world.run_for(secs(15));
    assert_eq!(world.desired("v1"), 7, "its number applies from now on");
}

#[test]
fn an_autoscaler_scales_down_after_its_stabilization_window() {
    let mut world = World::stable(plan(10, vec![weight(50), wait(5)]));
    (world.plan.replicas, world.replicas_source) = (1, ReplicasSource::Default);
    world.run_for(secs(60));
    (world.plan.replicas, world.replicas_source) = (3, ReplicasSource::Scaled);
    world.run_for(secs(290));
    assert_eq!(world.desired("v1"), 10);
    world.run_for(secs(20));
    assert_eq!(world.desired("v1"), 3);
}

#[test]
fn declared_replicas_apply_at_once() {
    let mut world = World::stable(plan(10, vec![weight(50), wait(5)]));
    world.plan.replicas = 1;
    world.run_for(secs(60));
    assert_eq!(world.desired("v1"), 1);
}
