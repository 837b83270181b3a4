//! Tests of guardrails: what does not meet them gets no pod, or no request, and goes on by itself
//! once it is mended.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use jiff::Timestamp;
use serin_core::command::{CommandResult, Verb};
use serin_core::guardrail::{Finding, FindingMode, GuardrailKind, GuardrailReport};
use serin_core::hold::{Blocks, HoldCode, HoldSource};
use serin_core::plan::Plan;
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{Pods, World, plan, rev, secs, unrouted, wait, weight};

fn finding(code: HoldCode) -> Finding {
    Finding {
        guardrail: GuardrailKind::Resources,
        name: None,
        mode: FindingMode::Enforce,
        code,
        object: "container app".into(),
        problem: "it has no memory limit".into(),
        fix: "Set resources.limits.memory".into(),
        expires: None,
    }
}

fn report(world: &World, findings: Vec<Finding>) -> GuardrailReport {
    GuardrailReport {
        revision: world.target.clone(),
        findings,
        next_change: None,
        is_current: true,
    }
}

fn find(world: &mut World, code: HoldCode) {
    world.guardrails = report(world, vec![finding(code)]);
}

fn mend(world: &mut World) {
    world.guardrails = report(world, Vec::new());
}

fn two_steps() -> Plan {
    plan(4, vec![weight(20), wait(5), weight(50), wait(5)])
}

#[test]
fn a_release_that_violates_a_guardrail_gets_no_pod_and_goes_on_once_it_is_mended() {
    let mut world = World::stable(two_steps());
    world.release("v2");
    find(&mut world, HoldCode::ResourcesMissing);
    world.run_for(secs(3_000));
    assert_eq!(world.desired("v2"), 0);
    assert!(world.shares.is_empty(), "no request");
    assert_eq!(world.state.stage, Stage::Stable);
    assert_eq!(world.state.phase, Phase::Degraded);
    let message = &world.state.message;
    for part in ["v2", "container app", "no memory limit", "Set resources"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(world.state.holds[0].code, HoldCode::ResourcesMissing);
    assert_eq!(world.events_of("ResourcesMissing").len(), 1, "one Event");
    mend(&mut world);
    world.run_for(secs(300));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
    assert!(world.state.holds.is_empty());
}

#[test]
fn the_next_commit_that_meets_the_guardrails_is_released() {
    let mut world = World::stable(two_steps());
    world.release("v2");
    find(&mut world, HoldCode::ImageNotPinned);
    world.run_for(secs(60));
    world.release("v3");
    mend(&mut world);
    world.run_for(secs(300));
    assert_eq!(world.state.stable_revision, Some(rev("v3")));
    assert!(!world.sets.contains_key(&rev("v2")));
}

#[test]
fn what_is_only_known_from_pods_keeps_every_request_away() {
    for paced in [two_steps(), plan(4, Vec::new())] {
        let mut world = World::stable(paced);
        world.release("v2");
        find(&mut world, HoldCode::VulnerabilityReportMissing);
        world.run_for(secs(3_000));
        assert!(
            world.desired("v2") > 0,
            "the pods are needed for the report"
        );
        assert!(world.shares.is_empty(), "{:?}", world.shares);
        assert_ne!(world.state.stable_revision, Some(rev("v2")));
        assert_ne!(world.state.stage, Stage::Aborted, "{}", world.state.message);
        mend(&mut world);
        world.run_for(secs(300));
        assert_eq!(world.state.stable_revision, Some(rev("v2")));
    }
}

#[test]
fn a_violation_that_appears_during_a_release_keeps_its_share() {
    let mut world = World::stable(plan(4, vec![weight(20), wait(30), weight(50)]));
    world.release("v2");
    world.run_until("at 20 %", |world| world.route == Ok(Weight::percent(20)));
    find(&mut world, HoldCode::NetworkPolicyMissing);
    world.run_for(secs(600));
    assert_eq!(
        world.route,
        Ok(Weight::percent(20)),
        "not raised, and not lowered"
    );
    world.command("stop", Verb::Abort);
    world.run_for(secs(60));
    assert_eq!(world.route, Ok(Weight::ZERO), "an abort lowers it");
}

#[test]
fn the_first_revision_gets_no_pod_either() {
    let mut world = World::new(two_steps());
    find(&mut world, HoldCode::ProbeMissing);
    world.run_for(secs(600));
    assert!(world.sets.is_empty());
    assert_eq!(world.state.phase, Phase::Degraded);
    assert!(
        world.state.message.contains("v1"),
        "{}",
        world.state.message
    );
    mend(&mut world);
    world.run_for(secs(120));
    assert_eq!(world.state.stable_revision, Some(rev("v1")));
}

#[test]
fn the_service_of_a_first_revision_is_bound_once_its_pods_are_verified() {
    let mut world = World::new(two_steps());
    find(&mut world, HoldCode::Vulnerable);
    world.run_for(secs(600));
    assert!(world.desired("v1") > 0);
    assert_eq!(world.stable_service, None, "no request reaches it");
    mend(&mut world);
    world.run_for(secs(120));
    assert_eq!(world.stable_service, Some(rev("v1")));
    assert_eq!(world.state.stage, Stage::Stable);
}

#[test]
fn pods_that_do_not_start_run_into_the_deadline_under_a_guardrail_as_well() {
    let mut world = World::stable(two_steps());
    world.release("v2");
    world.pods.insert(rev("v2"), Pods::NeverReady);
    find(&mut world, HoldCode::VulnerabilityReportMissing);
    world.run_for(secs(3_000));
    assert_eq!(world.state.stage, Stage::Aborted, "{}", world.state.message);
}

#[test]
fn a_warning_and_an_exception_hold_nothing_and_are_reported() {
    let warning = Finding {
        mode: FindingMode::Warn,
        ..finding(HoldCode::ResourcesMissing)
    };
    let excepted = Finding {
        expires: Some("2026-03-01T00:00:00Z".parse().unwrap()),
        ..finding(HoldCode::ResourcesMissing)
    };
    for reported in [warning, excepted] {
        let mut world = World::stable(two_steps());
        world.release("v2");
        world.guardrails = report(&world, vec![reported]);
        world.run_for(secs(300));
        assert_eq!(world.state.stable_revision, Some(rev("v2")));
        assert_eq!(world.events_of("GuardrailWarning").len(), 1);
    }
}

#[test]
fn the_planner_decides_again_when_the_findings_change_by_time() {
    let mut world = World::stable(two_steps());
    let at: Timestamp = world.now.checked_add(secs(1_234)).unwrap();
    world.guardrails.next_change = Some(at);
    assert_eq!(world.settle().wake_at, Some(at));
}

#[test]
fn a_stable_revision_that_violates_a_new_guardrail_keeps_serving() {
    let mut world = World::stable(two_steps());
    find(&mut world, HoldCode::PodSecurityTooLow);
    world.run_for(secs(600));
    assert_eq!(world.state.phase, Phase::Healthy);
    assert!(world.state.holds.is_empty());
    assert_eq!(world.desired("v1"), 4);
}

#[test]
fn the_way_back_stays_open() {
    // To the stable revision, from a release.
    let mut world = World::stable(two_steps());
    world.release("v2");
    world.run_until("at 20 %", |world| world.route == Ok(Weight::percent(20)));
    world.release("v1");
    find(&mut world, HoldCode::ResourcesMissing);
    world.run_for(secs(120));
    assert_eq!(world.state.stage, Stage::Stable);
    // To the revision before, inside the rollback window.
    let mut plan = two_steps();
    plan.rollback_window = 1;
    let mut world = World::stable(plan);
    world.release("v2");
    world.run_for(secs(300));
    world.release("v1");
    find(&mut world, HoldCode::ResourcesMissing);
    world.run_for(secs(300));
    assert_eq!(
        world.state.stable_revision,
        Some(rev("v1")),
        "{}",
        world.state.message
    );
}

#[test]
fn a_retry_and_a_full_promotion_do_not_bypass_a_guardrail() {
    let mut world = World::stable(two_steps());
    world.release("v2");
    world.run_until("at 20 %", |world| world.route == Ok(Weight::percent(20)));
    find(&mut world, HoldCode::ImageNotPinned);
    world.command("full", Verb::PromoteFull);
    world.run_for(secs(300));
    assert_eq!(world.route, Ok(Weight::percent(20)));
    assert_ne!(world.state.stable_revision, Some(rev("v2")));
    world.command("stop", Verb::Abort);
    world.run_for(secs(60));
    let outcome = world.command("again", Verb::Retry);
    world.run_for(secs(60));
    assert_eq!(outcome.result, CommandResult::Refused);
    assert!(
        outcome.message.contains("ImageNotPinned"),
        "{}",
        outcome.message
    );
    assert_eq!(world.state.stage, Stage::Aborted);
}

#[test]
fn without_a_router_what_is_known_before_the_first_pod_holds_as_well() {
    let mut world = World::stable(unrouted(4, vec![weight(50), wait(5)], 1, 0));
    world.release("v2");
    find(&mut world, HoldCode::ResourcesMissing);
    world.run_for(secs(600));
    assert_eq!(world.desired("v2"), 0);
    mend(&mut world);
    world.run_for(secs(300));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn a_paused_release_stays_paused_under_a_guardrail() {
    let mut world = World::stable(two_steps());
    world.release("v2");
    world.run_until("at 20 %", |world| world.route == Ok(Weight::percent(20)));
    world.command("pause", Verb::Pause);
    find(&mut world, HoldCode::ResourcesMissing);
    world.run_for(secs(60));
    assert_eq!(world.state.phase, Phase::Paused);
    mend(&mut world);
    world.run_for(secs(60));
    assert_eq!(world.state.phase, Phase::Paused);
}

#[test]
fn every_guardrail_code_keeps_a_release_from_its_first_request() {
    for code in HoldCode::ALL {
        if code.source() != HoldSource::Guardrail {
            continue;
        }
        assert!(
            matches!(code.blocks(), Blocks::Start | Blocks::Raise),
            "{code}"
        );
        let mut world = World::stable(two_steps());
        world.release("v2");
        find(&mut world, *code);
        world.run_for(secs(300));
        assert!(world.shares.is_empty(), "{code}: {:?}", world.shares);
        let holds = &world.state.holds;
        assert!(
            holds.iter().any(|hold| hold.code == *code),
            "{code}: {holds:?}"
        );
    }
}
