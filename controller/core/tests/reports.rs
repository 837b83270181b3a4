//! Tests of the planner for problems that users of other controllers reported. Each test cites its
//! source.

mod world;

use std::time::Duration;

use serin_core::command::Verb;
use serin_core::observed::ReplicasSource;
use serin_core::plan::{BakePlan, EvidencePace, Pace, Plan, Step};
use serin_core::state::{PauseReason, Phase, Stage};
use serin_core::units::Weight;
use world::{
    Pods, World, analysed, edit, frozen, plan, rev, roll_back, secs, undecided, unrouted, wait,
    weight,
};

const HALF: Weight = Weight::percent(50);

/// A release at 50 % without a verdict, paced by evidence, with a progress deadline of 20 s.
fn paced_release(replicas: u32) -> World {
    let pace = EvidencePace {
        first_weight: HALF,
        max_weight: HALF,
    };
    let mut wanted = edit(analysed(plan(replicas, vec![])), |canary| {
        canary.pace = Pace::Evidence(pace);
    });
    wanted.progress_deadline = secs(20);
    let mut world = World::stable(wanted);
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(HALF)
    });
    world.run_for(secs(40));
    world.shares.clear();
    world
}

fn abort_cause(world: &World) -> Option<&str> {
    world.state.abort.as_ref().map(|abort| abort.cause.as_str())
}

// flagger #944: an autoscaler raises the number of pods, and the deadline rolls a good canary back.
#[test]
fn raising_replicas_does_not_make_a_release_overdue() {
    let mut world = paced_release(4);
    for replicas in [8, 12, 40] {
        world.plan.replicas = replicas;
        world.run_for(secs(25));
        assert_eq!(
            (world.state.stage, abort_cause(&world)),
            (Stage::Progressing, None),
            "{}",
            world.state.message
        );
    }
    assert_eq!(world.desired("v2"), 20);
    assert!(
        world.shares.is_empty(),
        "the verified pods still serve the traffic: {:?}",
        world.shares
    );
    // Pods that never start do not hold a step that was complete without them.
    world.pod_start.insert(rev("v2"), secs(100_000));
    world.plan.replicas = 80;
    world.run_for(secs(300));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, HALF),
        "{}",
        world.state.message
    );
    world.assert_no_lost_requests();
}

// argo-rollouts #1624, #2068: long after the last progress a pod is replaced.
#[test]
fn a_pod_replaced_long_after_the_last_progress_is_not_overdue() {
    let mut world = paced_release(4);
    world.replace_pod("v2");
    world.settle();
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, Weight::percent(25)),
        "{}",
        world.state.message
    );
    world.run_for(secs(10));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, HALF)
    );
    world.assert_no_lost_requests();
}

// The same problem in a release with steps: the step has been complete for an hour when the
// controller restarts and a pod is deleted.
#[test]
fn a_disturbance_after_a_controller_restart_is_not_overdue() {
    let mut world = paced_release(4);
    world.run_for(secs(3_600));
    world.restart();
    world.run_for(secs(60));
    world.replace_pod("v2");
    world.run_for(secs(60));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "{}",
        world.state.message
    );
}

// gatewayapi plugin PR #164: somebody edits the route, so its newest generation is briefly
// unconfirmed.
#[test]
fn a_route_that_is_confirmed_again_is_not_overdue() {
    let mut world = paced_release(4);
    world.unconfirmed = true;
    world.run_for(secs(5));
    world.unconfirmed = false;
    world.run_for(secs(30));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "{}",
        world.state.message
    );
    world.route = Ok(Weight::percent(10));
    world.run_for(secs(30));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, HALF),
        "restored: {}",
        world.state.message
    );
    assert_eq!(world.events_of("RouteDrift").len(), 1);
}

#[test]
fn a_lasting_disturbance_has_the_full_deadline_and_no_more() {
    let mut world = paced_release(4);
    world.pod_start.insert(rev("v2"), secs(100_000));
    world.replace_pod("v2");
    world.run_for(secs(19));
    assert_eq!(world.state.stage, Stage::Progressing);
    world.run_for(secs(2));
    assert_eq!(abort_cause(&world), Some("ProgressDeadline"));
}

// Kubernetes' progressDeadlineSeconds: each pod that becomes available is progress.
#[test]
fn progress_renews_the_deadline() {
    let mut wanted = plan(4, vec![weight(100)]);
    wanted.progress_deadline = secs(20);
    let mut world = World::stable(wanted);
    world.stagger = secs(15);
    world.release("v2");
    world.run_until("promoted", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
    world.assert_no_lost_requests();
}

#[test]
fn a_promotion_that_keeps_advancing_may_exceed_the_deadline() {
    for routed in [true, false] {
        let steps = vec![weight(25), wait(5)];
        let mut wanted = if routed {
            plan(8, steps)
        } else {
            unrouted(8, steps, 1, 0)
        };
        wanted.progress_deadline = secs(20);
        let mut world = World::stable(wanted);
        world.stagger = secs(15);
        world.pod_start.insert(rev("v2"), secs(15));
        world.release("v2");
        world.run_until("promoted", |world| {
            world.state.stable_revision == Some(rev("v2"))
        });
        world.assert_no_lost_requests();
    }
}

// Documentation of argo-rollouts and behavior of a Deployment: flapping pods are no progress.
#[test]
fn flapping_pods_do_not_renew_the_deadline() {
    let mut wanted = plan(4, vec![weight(50), wait(600)]);
    wanted.progress_deadline = secs(60);
    let mut world = World::stable(wanted);
    world.release("v2");
    let began = world.now;
    for _ in 0..100 {
        world.pods.insert(rev("v2"), Pods::NeverReady);
        world.run_for(secs(2));
        world.pods.remove(&rev("v2"));
        world.run_for(Duration::from_millis(1_500));
        if world.state.stage != Stage::Progressing {
            break;
        }
    }
    assert_eq!(
        abort_cause(&world),
        Some("ProgressDeadline"),
        "{}",
        world.state.message
    );
    let took = world.now.duration_since(began).as_secs();
    assert!((60..140).contains(&took), "{took} s");
}

#[test]
fn a_state_that_flaps_after_it_was_reached_becomes_overdue() {
    let mut world = paced_release(4);
    for _ in 0..10 {
        world.pods.insert(rev("v2"), Pods::NeverReady);
        world.run_for(secs(3));
        world.pods.remove(&rev("v2"));
        world.run_for(secs(3));
    }
    assert_eq!(
        abort_cause(&world),
        Some("ProgressDeadline"),
        "{}",
        world.state.message
    );
}

#[test]
fn a_manual_hold_does_not_exceed_the_deadline() {
    let mut wanted = plan(4, vec![weight(100), wait(5)]);
    wanted.progress_deadline = secs(20);
    let mut world = World::stable(wanted);
    world.pod_start.insert(rev("v2"), secs(100));
    world.release("v2");
    world.run_for(secs(10));
    world.plan.paused = true;
    world.run_for(secs(85));
    world.plan.paused = false;
    world.run_for(secs(10));
    assert_eq!(abort_cause(&world), None, "{}", world.state.message);
    world.run_until("promoted", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
}

#[test]
fn the_first_deploy_is_overdue_only_without_progress() {
    let mut wanted = plan(4, vec![weight(50)]);
    wanted.progress_deadline = secs(20);
    let mut world = World::new(wanted);
    world.stagger = secs(15);
    for _ in 0..40 {
        world.run_for(secs(1));
        assert_ne!(
            world.state.phase,
            Phase::Degraded,
            "{}",
            world.state.message
        );
    }
}

/// v1 stable, a rollback window of three.
fn with_rollback_window() -> World {
    let mut wanted = plan(2, vec![weight(20), Step::Pause(None)]);
    wanted.rollback_window = 3;
    World::stable(analysed(wanted))
}

fn promote(world: &mut World, version: &str) {
    world.report = undecided(world);
    world.release(version);
    world.settle();
    world.run_until("paused", |world| world.state.pause.is_some());
    world.command(&format!("promote-{version}"), Verb::PromoteFull);
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev(version))
    });
    world.run_for(secs(60));
}

fn assert_runs_its_steps(world: &mut World, version: &str) {
    world.report = undecided(world);
    world.release(version);
    world.run_for(secs(60));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, Weight::percent(20)),
        "{}",
        world.state.message
    );
    assert!(world.events_of("RollbackWindow").is_empty());
}

// argo-rollouts #3039: the window lets an aborted revision go to 100 % without a step.
#[test]
fn an_aborted_revision_inside_the_rollback_window_runs_its_steps() {
    for fix_forward in [false, true] {
        let mut world = with_rollback_window();
        world.report = undecided(&world);
        world.release("v2");
        world.run_until("paused", |world| world.state.pause.is_some());
        world.report = roll_back("breach");
        world.settle();
        if fix_forward {
            promote(&mut world, "v3");
        } else {
            world.release("v1");
            world.run_for(secs(60));
            assert_eq!(world.state.phase, Phase::Healthy);
        }
        assert_runs_its_steps(&mut world, "v2");
    }
}

#[test]
fn a_superseded_revision_inside_the_rollback_window_runs_its_steps() {
    let mut world = with_rollback_window();
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    promote(&mut world, "v3");
    assert_runs_its_steps(&mut world, "v2");
}

#[test]
fn a_revision_aborted_after_an_earlier_promotion_runs_its_steps() {
    let mut world = with_rollback_window();
    promote(&mut world, "v2");
    world.report = undecided(&world);
    world.release("v1");
    world.settle();
    assert_eq!(
        world.state.stage,
        Stage::Promoting,
        "a promoted revision skips the steps"
    );
    world.report = roll_back("breach");
    world.settle();
    world.release("v2");
    world.run_for(secs(60));
    world.events.clear();
    assert_runs_its_steps(&mut world, "v1");
}

#[test]
fn a_return_inside_the_rollback_window_waits_during_a_manual_hold() {
    let mut world = with_rollback_window();
    promote(&mut world, "v2");
    world.plan.paused = true;
    world.release("v1");
    world.run_for(secs(60));
    assert_eq!(
        (world.state.stage, world.state.step.map(|step| step.index)),
        (Stage::Progressing, Some(0))
    );
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

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
    world.run_until("paused", |world| world.state.pause.is_some());
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
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
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
    world.run_until("paused", |world| world.state.pause.is_some());
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

// argo-rollouts #2939 and node restarts: problems of both sides are not the canary's fault.
#[test]
fn restarts_of_both_sides_do_not_abort() {
    let mut world = World::stable(plan(10, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.restarts.extend([(rev("v1"), 10), (rev("v2"), 5)]);
    world.run_for(secs(5));
    assert_eq!(abort_cause(&world), None);
    world.restarts.insert(rev("v2"), 7);
    world.run_for(secs(5));
    assert_eq!(abort_cause(&world), Some("PodCrash"));
}

#[test]
fn a_retry_counts_restarts_from_zero() {
    let mut world = World::stable(plan(4, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    let first = world.state.release_started_at.expect("a start");
    world.command("a", Verb::Abort);
    assert_eq!(world.state.release_started_at, None);
    world.run_for(secs(10));
    world.command("r", Verb::Retry);
    assert!(
        world
            .state
            .release_started_at
            .is_some_and(|second| second > first)
    );
}

// traefik #9158: a route that refers to a canary Service that does not exist yet.
#[test]
fn the_canary_service_exists_from_the_first_deploy() {
    let mut world = World::new(plan(2, vec![weight(50), wait(5)]));
    world.settle();
    assert_eq!(world.canary_service, Some(rev("v1")));
    world.run_for(secs(60));
    assert_eq!(world.state.phase, Phase::Healthy);
    world.canary_service = None;
    world.run_for(secs(5));
    assert_eq!(
        world.canary_service,
        Some(rev("v1")),
        "created again after somebody deletes it"
    );
    world.release("v2");
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
    world.assert_no_lost_requests();
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

// Related to argo-rollouts #1838: the traffic share of a superseded revision does not pass to the
// new one. It loses its share even if the stable revision first has to scale up.
#[test]
fn a_superseded_canary_loses_its_traffic_even_if_stable_had_shrunk() {
    let wanted = edit(plan(5, vec![weight(20), Step::Pause(None)]), |canary| {
        canary.dynamic_stable_scale = true;
    });
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until("stable has shrunk", |world| world.desired("v1") == 4);
    world.release("v3");
    world.settle();
    assert_eq!(world.desired("v1"), 5);
    assert_eq!(
        world.state.weights.verified, None,
        "the share of v2 is not the share of v3"
    );
    world.run_until("v3 at 20 %", |world| {
        world.state.weights.verified == Some(Weight::percent(20))
    });
    assert_eq!(world.canary_service, Some(rev("v3")));
    world.assert_no_lost_requests();
}
