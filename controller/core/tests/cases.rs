//! Behaviour, case by case, against the planner in a small world.

mod world;

use serin_core::command::{OutcomeResult, Verb};
use serin_core::observed::{Judgement, Proven};
use serin_core::plan::{CanaryScale, EvidencePace, Pace, Step};
use serin_core::state::{PauseReason, Phase, ReleaseResult, Stage};
use serin_core::units::Weight;
use world::{Pods, World, analysed, edit, hold, plan, rev, secs, undecided, unrouted, wait, weight};

#[test]
fn first_deploy_is_stable_without_steps_once_available() {
    let mut world = World::new(plan(3, vec![weight(5), Step::Pause(None)]));
    world.run_for(secs(2));
    assert_eq!(world.state.stage, Stage::FirstDeploy);
    assert_eq!(world.state.stable_revision, None);
    world.run_for(secs(10));
    assert_eq!((world.state.stage, world.state.phase), (Stage::Stable, Phase::Healthy));
    assert_eq!(world.desired("v1"), 3);
    assert!(world.shares.is_empty(), "the first deploy leaves the route alone");
}

#[test]
fn broken_first_revision_is_fixed_forward() {
    let mut world = World::new(plan(2, vec![weight(50)]));
    world.pods.insert(rev("v1"), Pods::CrashLoop);
    world.pods.insert(rev("v2"), Pods::NeverReady);
    world.run_for(secs(700));
    assert_eq!(world.state.phase, Phase::Degraded);
    world.release("v2");
    world.run_for(secs(60));
    world.release("v3");
    world.run_for(secs(60));
    assert_eq!(world.state.stable_revision, Some(rev("v3")));
    assert_eq!((world.desired("v1"), world.desired("v2"), world.desired("v3")), (0, 0, 2));
}

#[test]
fn a_good_release_goes_through_its_steps_and_is_promoted() {
    let mut world = World::stable(plan(4, vec![weight(25), wait(60), weight(50), wait(60)]));
    world.release("v2");
    world.run_until("at 25 %", |world| world.state.weights.verified == Some(Weight::percent(25)));
    assert_eq!(world.desired("v2"), 1);
    world.run_until("at 50 %", |world| world.state.weights.verified == Some(Weight::percent(50)));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 2));
    world.run_until("promoted", |world| world.state.stable_revision == Some(rev("v2")));
    world.run_for(secs(20));
    assert_eq!(world.state.phase, Phase::Healthy);
    assert_eq!(world.share(), Weight::ZERO, "the route is as it was");
    assert_eq!(world.stable_service, Some(rev("v2")));
    assert_eq!(world.desired("v1"), 4, "old pods stay for their delay");
    world.run_for(secs(40));
    assert_eq!((world.desired("v1"), world.desired("v2")), (0, 4));
    world.assert_nothing_lost();
    let shares: Vec<_> = world.shares.iter().map(|(_, share, _)| *share).collect();
    assert_eq!(shares, [25, 50, 100, 0].map(Weight::percent));
}

#[test]
fn writes_are_spent_with_care() {
    let mut world = World::stable(edit(unrouted(1, vec![weight(20), wait(5), weight(50), wait(5)], 1, 0), |_| {}));
    world.release("v2");
    world.run_until("stable", |world| world.state.stable_revision == Some(rev("v2")));
    world.run_for(secs(120));
    let events = world.events.len();
    let writes = world.status_writes + world.set_writes + events;
    assert!(writes <= 14, "{} status, {} ReplicaSets, {events} Events", world.status_writes, world.set_writes);
}

#[test]
fn a_breach_rolls_back_with_the_reason_and_scales_down_after_the_drain() {
    let mut world = World::stable(analysed(plan(4, vec![weight(25), wait(600)])));
    world.judgement = undecided(&world);
    world.release("v2");
    world.run_until("at 25 %", |world| world.state.weights.verified == Some(Weight::percent(25)));
    world.judgement =
        Judgement::RollBack { cause: "Evidence".into(), message: "the canary failed 24 of 3,000.".into() };
    world.settle();
    assert_eq!(world.share(), Weight::ZERO, "within the same reconcile");
    assert_eq!(world.state.phase, Phase::Degraded);
    assert!(world.state.message.contains("24 of 3,000. Stable v1 serves"), "{}", world.state.message);
    assert_eq!(world.events_of("RolledBack").len(), 1);
    assert_eq!(world.desired("v2"), 1);
    world.run_for(secs(60));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
    world.assert_nothing_lost();
}

#[test]
fn never_ready_times_out_and_gets_no_request() {
    let mut world = World::stable(plan(4, vec![weight(25), wait(60)]));
    world.pods.insert(rev("v2"), Pods::NeverReady);
    world.release("v2");
    world.run_for(secs(599));
    assert_eq!(world.state.stage, Stage::Stepping);
    world.run_for(secs(60));
    assert_eq!(world.state.abort.as_ref().map(|abort| abort.cause.as_str()), Some("ProgressDeadline"));
    assert!(world.shares.is_empty(), "it never got a request: {:?}", world.shares);
    assert_eq!(world.desired("v2"), 0);
}

#[test]
fn a_crash_loop_aborts_through_the_pods_alone() {
    let mut world = World::stable(plan(5, vec![weight(20), wait(600)]));
    world.release("v2");
    world.run_until("at 20 %", |world| world.state.weights.verified == Some(Weight::percent(20)));
    world.pods.insert(rev("v2"), Pods::CrashLoop);
    world.settle();
    assert_eq!(world.state.abort.as_ref().map(|abort| abort.cause.as_str()), Some("PodCrash"));
    assert_eq!(world.share(), Weight::ZERO);
}

#[test]
fn v3_in_the_middle_of_v2_starts_at_step_0_after_v2_has_lost_its_traffic() {
    let mut world = World::stable(plan(4, vec![weight(50), wait(600)]));
    world.release("v2");
    world.run_until("at 50 %", |world| world.state.weights.verified == Some(Weight::percent(50)));
    world.release("v3");
    world.settle();
    assert_eq!(world.share(), Weight::ZERO);
    assert_eq!(world.canary_service, Some(rev("v2")), "its Service follows once it has no traffic");
    assert_eq!(world.desired("v2"), 2, "and its pods after that");
    assert_eq!(world.state.step.map(|step| step.index), Some(0));
    assert_eq!(world.state.stable_revision, Some(rev("v1")));
    world.run_until("v3 at 50 %", |world| world.state.weights.verified == Some(Weight::percent(50)));
    assert_eq!(world.canary_service, Some(rev("v3")));
    world.run_for(secs(60));
    assert_eq!(world.desired("v2"), 0);
    assert_eq!(world.state.history.last().map(|release| release.result), Some(ReleaseResult::Superseded));
    world.assert_nothing_lost();
}

#[test]
fn git_revert_to_stable_aborts_at_once_without_analysis() {
    let mut world = World::stable(analysed(plan(4, vec![weight(50), wait(600)])));
    world.judgement = undecided(&world);
    world.release("v2");
    world.run_until("at 50 %", |world| world.state.weights.verified == Some(Weight::percent(50)));
    world.judgement = hold("Unreachable");
    world.release("v1");
    world.settle();
    assert_eq!((world.state.stage, world.share()), (Stage::Stable, Weight::ZERO));
    world.run_for(secs(60));
    assert_eq!(world.state.phase, Phase::Healthy);
    assert_eq!(world.desired("v2"), 0);
    world.assert_nothing_lost();
}

#[test]
fn a_return_inside_the_rollback_window_skips_the_steps_and_outside_runs_them() {
    let mut wanted = plan(2, vec![weight(50), Step::Pause(None)]);
    wanted.rollback_window = 1;
    let mut world = World::stable(wanted);
    for version in ["v2", "v3"] {
        world.release(version);
        world.run_until("paused", |world| world.state.pause.is_some());
        assert_eq!(world.command(version, Verb::Promote).result, OutcomeResult::Done);
        world.run_until("stable", |world| world.state.stable_revision == Some(rev(version)));
        world.run_for(secs(60));
    }
    world.release("v1");
    world.run_for(secs(60));
    assert_eq!(world.state.stage, Stage::Stepping, "two back is outside of a window of one");
    world.release("v3");
    world.run_for(secs(60));
    world.release("v2");
    world.run_until("v2 again", |world| world.state.stable_revision == Some(rev("v2")));
    world.assert_nothing_lost();
}

#[test]
fn edited_steps_restart_from_a_weight_that_is_no_higher() {
    let mut world = World::stable(plan(10, vec![weight(20), wait(600)]));
    world.release("v2");
    world.run_until("at 20 %", |world| world.state.weights.verified == Some(Weight::percent(20)));
    world.shares.clear();
    world.plan = plan(10, vec![weight(10), wait(600)]);
    world.run_for(secs(30));
    assert_eq!(world.state.weights.verified, Some(Weight::percent(10)));
    world.plan = plan(10, vec![weight(80), wait(600)]);
    world.run_for(secs(60));
    assert_eq!(world.state.weights.verified, Some(Weight::percent(80)));
    let shares: Vec<_> = world.shares.iter().map(|(_, share, _)| *share).collect();
    assert_eq!(shares, [10, 0, 80].map(Weight::percent), "higher is reached from zero");
    world.assert_nothing_lost();
}

#[test]
fn template_and_replicas_changed_in_one_apply_both_take_effect() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.plan = plan(6, vec![weight(50), Step::Pause(None)]);
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v1"), world.desired("v2")), (6, 3));
}

#[test]
fn scaling_while_paused_keeps_the_traffic_and_the_step() {
    let mut world = World::stable(plan(4, vec![weight(25), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    let step = world.state.step;
    world.plan = plan(12, vec![weight(25), Step::Pause(None)]);
    world.run_for(secs(30));
    assert_eq!((world.desired("v1"), world.desired("v2")), (12, 3));
    assert_eq!((world.state.step, world.share()), (step, Weight::percent(25)));
    let lowest = world.shares.iter().map(|(_, share, _)| *share).min();
    assert_eq!(lowest, Some(Weight::percent(25)), "a scale change takes no traffic from the canary");
    world.assert_nothing_lost();
}

#[test]
fn without_a_router_weights_are_approximated_within_surge_and_availability() {
    let mut world = World::stable(unrouted(10, vec![weight(30), Step::Pause(None)], 0, 5));
    world.release("v2");
    world.reconcile();
    assert_eq!((world.desired("v2"), world.desired("v1")), (0, 7), "3/7 is reached through 0/7");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v2"), world.desired("v1")), (3, 7));

    let mut world = World::stable(unrouted(10, vec![weight(30), Step::Pause(None)], 3, 0));
    world.release("v2");
    world.settle();
    assert_eq!((world.desired("v2"), world.desired("v1")), (3, 10), "3/10 on the way");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v2"), world.desired("v1")), (3, 7));

    let mut world = World::stable(unrouted(1, vec![weight(5), Step::Pause(None)], 1, 0));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v2"), world.desired("v1")), (1, 1));
}

#[test]
fn zero_replicas_is_an_explicit_state() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.plan = plan(0, vec![weight(50), Step::Pause(None)]);
    world.run_for(secs(10));
    assert_eq!(world.desired("v1"), 0);
    world.release("v2");
    world.run_for(secs(60));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
    assert!(world.events_of("RollbackWindow").iter().any(|event| event.contains("without analysis")));
}

#[test]
fn descending_steps_lower_the_weight_before_the_canary_shrinks() {
    let mut world = World::stable(plan(10, vec![weight(50), wait(10), weight(20), Step::Pause(None)]));
    world.release("v2");
    world.run_until("at 50 %", |world| world.state.weights.verified == Some(Weight::percent(50)));
    world.run_until("asked for 20 %", |world| world.share() == Weight::percent(20));
    assert_eq!(world.desired("v2"), 5);
    world.run_until("paused", |world| world.state.pause.as_ref().is_some_and(|pause| pause.until.is_none()));
    assert_eq!(world.desired("v2"), 2);
}

#[test]
fn stable_that_shrank_grows_back_before_traffic_returns_to_it() {
    let wanted = edit(plan(10, vec![weight(60), wait(600)]), |canary| canary.dynamic_stable_scale = true);
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until("stable has shrunk", |world| world.desired("v1") == 4);
    assert_eq!(world.command("1", Verb::Abort).result, OutcomeResult::Done);
    assert_eq!(world.desired("v1"), 10, "stable scales up at once");
    assert_eq!(world.share(), Weight::percent(60), "four of ten pods carry forty percent");
    world.run_for(secs(10));
    assert_eq!(world.share(), Weight::ZERO);
    world.assert_nothing_lost();
}

#[test]
fn canary_scale_apart_from_weight() {
    let scale = Step::SetCanaryScale(CanaryScale::Replicas(3));
    let mut world = World::stable(plan(10, vec![scale, weight(10), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v2"), world.share()), (3, Weight::percent(10)));
}

#[test]
fn timed_pauses_count_from_their_persisted_start_whatever_happened_to_the_controller() {
    let mut world = World::stable(plan(2, vec![weight(50), wait(600), weight(80), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    let until = world.state.pause.as_ref().and_then(|pause| pause.until).unwrap();
    for _ in 0..5 {
        world.restart();
        world.run_for(secs(10));
    }
    assert_eq!(world.state.pause.as_ref().and_then(|pause| pause.until), Some(until));
    // The controller is away until long after the pause.
    world.now = until.checked_add(secs(3600)).unwrap();
    world.restart();
    world.settle();
    assert_eq!(world.state.step.map(|step| step.index), Some(2));
}

#[test]
fn an_indefinite_pause_never_runs_into_the_progress_deadline() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.run_for(secs(7_200));
    assert_eq!(world.state.stage, Stage::Stepping);
    assert_eq!(world.command("1", Verb::Promote).result, OutcomeResult::Done);
    world.run_for(secs(60));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn commands_for_another_revision_or_step_are_refused_and_repeats_are_harmless() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None), weight(80), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    let stale = world.command_for("1", Verb::Promote, Some("v1"), None);
    assert_eq!(stale.result, OutcomeResult::Refused);
    assert!(stale.message.contains("v1") && stale.message.contains("v2"), "{}", stale.message);
    assert_eq!(world.command_for("2", Verb::Promote, Some("v2"), Some(3)).result, OutcomeResult::Refused);
    assert_eq!(world.command_for("3", Verb::Promote, Some("v2"), Some(1)).result, OutcomeResult::Done);
    world.run_until("paused again", |world| world.state.step.is_some_and(|step| step.index == 3));
    // The same command again, as after a crash before its outcome was written.
    assert_eq!(world.command_for("3", Verb::Promote, Some("v2"), Some(1)).result, OutcomeResult::Done);
    assert_eq!(world.state.step.map(|step| step.index), Some(3), "it was carried out once");
}

#[test]
fn abort_works_in_every_state_and_is_a_no_op_when_healthy() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    assert_eq!(world.command("1", Verb::Abort).result, OutcomeResult::Done);
    assert_eq!(world.state.phase, Phase::Healthy);
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!(world.command("2", Verb::PromoteFull).result, OutcomeResult::Done);
    world.run_until("all traffic", |world| world.share() == Weight::FULL);
    world.spec_problem = Some("spec.strategy: broken".into());
    assert_eq!(world.command("3", Verb::Abort).result, OutcomeResult::Done);
    world.run_for(secs(10));
    assert_eq!((world.state.stage, world.share()), (Stage::Aborted, Weight::ZERO));
    assert_eq!(world.state.abort.as_ref().and_then(|abort| abort.by.as_deref()), Some("ada"));
    world.assert_nothing_lost();
}

#[test]
fn abort_in_the_middle_of_the_switch_of_the_stable_service_loses_no_request() {
    let mut world = World::stable(plan(2, vec![weight(50)]));
    world.release("v2");
    world.run_until("the stable Service is switched", |world| world.stable_service == Some(rev("v2")));
    assert_eq!(world.state.stage, Stage::Promoting);
    assert_eq!(world.command("1", Verb::Abort).result, OutcomeResult::Done);
    world.run_for(secs(60));
    assert_eq!(world.stable_service, Some(rev("v1")));
    assert_eq!(world.share(), Weight::ZERO);
    assert_eq!((world.desired("v1"), world.desired("v2")), (2, 0));
    world.assert_nothing_lost();
}

#[test]
fn after_an_abort_the_next_commit_clears_it_and_retry_starts_anew() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.command("1", Verb::Abort);
    assert!(world.state.message.contains("v2"), "what Git still wants: {}", world.state.message);
    world.run_for(secs(300));
    assert_eq!(world.state.stage, Stage::Aborted, "Git is never fought");
    assert_eq!(world.command("2", Verb::Retry).result, OutcomeResult::Done);
    world.run_until("paused", |world| world.state.pause.is_some());
    world.command("3", Verb::Abort);
    world.release("v3");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.state.current_revision.clone(), world.state.abort.clone()), (Some(rev("v3")), None));
}

#[test]
fn pause_and_resume_by_command_and_skip() {
    let mut world = World::stable(plan(2, vec![weight(50), wait(10), weight(80), Step::Pause(None)]));
    assert!(world.refused("0", Verb::Pause).contains("no release"));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!(world.command("1", Verb::Pause).result, OutcomeResult::Done);
    world.run_for(secs(600));
    assert_eq!(world.state.step.map(|step| step.index), Some(1));
    assert_eq!(world.command("2", Verb::Resume).result, OutcomeResult::Done);
    world.run_until("the last pause", |world| world.state.step.is_some_and(|step| step.index == 3));
    assert_eq!(world.command("3", Verb::SkipStep).result, OutcomeResult::Done);
    world.run_until("stable", |world| world.state.stable_revision == Some(rev("v2")));
}

#[test]
fn missing_metrics_hold_and_resume_by_themselves() {
    let mut world = World::stable(analysed(plan(4, vec![weight(25), wait(60), weight(50), wait(60)])));
    world.judgement = hold("Unreachable");
    world.release("v2");
    world.run_for(secs(600));
    assert_eq!(world.state.step.map(|step| step.index), Some(0), "{}", world.state.message);
    assert!(world.state.message.contains("Unreachable"), "{}", world.state.message);
    world.judgement = undecided(&world);
    world.run_for(secs(200));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn missing_metrics_for_the_longest_duration_are_inconclusive_and_a_person_decides() {
    let mut world = World::stable(analysed(plan(4, vec![weight(25), Step::Analysis(None)])));
    world.judgement = undecided(&world);
    world.release("v2");
    world.run_until("the analysis step", |world| world.state.step.is_some_and(|step| step.index == 1));
    world.run_for(secs(3700));
    assert_eq!(world.state.pause.as_ref().map(|pause| pause.reason), Some(PauseReason::Inconclusive));
    assert_eq!(world.events_of("Inconclusive").len(), 1);
    assert_eq!(world.command("1", Verb::Promote).result, OutcomeResult::Done);
    world.run_until("stable", |world| world.state.stable_revision == Some(rev("v2")));
}

#[test]
fn an_analysis_step_needs_fresh_data_for_its_duration() {
    let mut world = World::stable(analysed(plan(4, vec![weight(25), Step::Analysis(Some(secs(300)))])));
    world.judgement = undecided(&world);
    world.release("v2");
    world.run_until("the analysis step", |world| world.state.step.is_some_and(|step| step.index == 1));
    world.run_for(secs(200));
    world.judgement = hold("Stale");
    world.run_for(secs(200));
    assert_eq!(world.state.stage, Stage::Stepping, "a hold does not count");
    world.judgement = undecided(&world);
    world.run_for(secs(200));
    assert_eq!(world.state.stage, Stage::Stepping, "the duration is counted anew");
    world.run_for(secs(200));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn evidence_sets_the_pace_where_no_steps_are_written() {
    let pace = EvidencePace { first_weight: Weight::percent(5), max_weight: Weight::percent(50) };
    let mut world = World::stable(analysed(edit(plan(20, vec![]), |canary| canary.pace = Pace::Evidence(pace))));
    world.judgement = undecided(&world);
    world.release("v2");
    world.run_until("at 5 %", |world| world.state.weights.verified == Some(Weight::percent(5)));
    let next_weight = Some(Weight::percent(20));
    world.judgement =
        Judgement::Undecided { message: "more".into(), fresh_since: world.now, next_weight, proven: Proven::default() };
    world.run_until("at 20 %", |world| world.state.weights.verified == Some(Weight::percent(20)));
    assert_eq!(world.desired("v2"), 4);
    world.judgement = Judgement::Sound { message: "sound".into(), fresh_since: world.now, proven: Proven::default() };
    world.run_until("stable", |world| world.state.stable_revision == Some(rev("v2")));
    world.assert_nothing_lost();
}

#[test]
fn a_route_that_someone_else_changed_is_put_back_and_told_once() {
    let mut world = World::stable(plan(4, vec![weight(25), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.route = Ok(Weight::percent(90));
    world.settle();
    assert_eq!(world.share(), Weight::percent(25));
    assert_eq!(world.events_of("RouteDrift").len(), 1);
    world.run_for(secs(10));
    assert_eq!(world.state.weights.verified, Some(Weight::percent(25)));
}

#[test]
fn a_router_that_reports_no_generation_is_believed_after_its_deadline() {
    let mut world = World::stable(plan(4, vec![weight(25), Step::Pause(None)]));
    world.reports = false;
    world.run_for(secs(20));
    world.release("v2");
    world.run_until("written", |world| world.share() == Weight::percent(25));
    world.run_for(secs(8));
    assert_eq!(world.state.weights.verified, None);
    world.run_for(secs(4));
    assert_eq!(world.state.weights.verified, Some(Weight::percent(25)));
}

#[test]
fn old_replica_sets_are_kept_up_to_the_history_limit() {
    let mut world = World::stable(plan(1, vec![weight(50)]));
    for version in ["v2", "v3", "v4", "v5", "v6", "v7"] {
        world.release(version);
        world.run_until("stable", |world| world.state.stable_revision == Some(rev(version)));
        world.run_for(secs(60));
    }
    let left: Vec<_> = world.sets.keys().map(ToString::to_string).collect();
    assert_eq!(left, ["v4", "v5", "v6", "v7"], "three old ones and the stable one");
    world.assert_nothing_lost();
}

#[test]
fn paused_in_the_spec_lets_nothing_advance_but_aborts() {
    let mut wanted = plan(2, vec![weight(50), wait(10)]);
    wanted.paused = true;
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_for(secs(300));
    assert_eq!((world.state.phase, world.state.step.map(|step| step.index)), (Phase::Paused, Some(0)));
    assert!(world.refused("1", Verb::Promote).contains("spec.paused"));
    assert_eq!(world.command("2", Verb::Abort).result, OutcomeResult::Done);
    assert_eq!(world.state.stage, Stage::Aborted);
}

#[test]
fn nothing_is_promoted_on_what_was_seen_of_young_pods_alone() {
    let mut world = World::stable(analysed(plan(4, vec![weight(50)])));
    world.judgement = undecided(&world);
    world.release("v2");
    world.run_until("all steps are complete", |world| world.state.step.is_some_and(|step| step.index == 1));
    world.judgement = undecided(&world);
    world.run_for(secs(9));
    assert_eq!((world.state.stage, world.share()), (Stage::Stepping, Weight::percent(50)));
    world.run_for(secs(2));
    assert_eq!(world.state.stage, Stage::Promoting);
}

#[test]
fn a_controller_that_was_away_does_not_find_a_release_overdue_at_its_first_look() {
    let mut world = World::stable(plan(4, vec![weight(50), wait(5)]));
    world.release("v2");
    world.run_until("written", |world| world.share() == Weight::percent(50));
    world.now = world.now.checked_add(secs(3_600)).unwrap();
    world.restart();
    world.run_for(secs(60));
    assert_eq!(world.state.stable_revision, Some(rev("v2")), "{}", world.state.message);
}
