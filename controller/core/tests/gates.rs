//! Tests of the planner with gates, and with checks before the first traffic.

mod world;

use std::time::Duration;

use serin_core::command::{CommandResult, Verb};
use serin_core::gate::{
    Gate, GateCondition, GateExpiry, GateReading, GateReport, ObjectGate, ObjectScope,
};
use serin_core::hold::HoldCode;
use serin_core::plan::{Analysis, CanaryScale, EvidencePace, Pace, Plan, Step};
use serin_core::state::{AbortCause, Phase, Stage};
use serin_core::units::Weight;
use world::{World, analysed, edit, hold, plan, requirements, satisfied, secs, weight};

fn approval(expire_after: Option<Duration>, on_expiry: GateExpiry) -> Step {
    Step::Gate(Gate {
        waits_for: GateCondition::Approval,
        expire_after,
        on_expiry,
    })
}

fn object() -> ObjectGate {
    ObjectGate {
        api_version: "batch/v1".to_owned(),
        resource: "jobs".to_owned(),
        name: "migrate".to_owned(),
        scope: ObjectScope::OwnNamespace,
        condition: "object.status.succeeded > 0".to_owned(),
    }
}

fn object_step(expire_after: Option<Duration>) -> Step {
    Step::Gate(Gate {
        waits_for: GateCondition::Object(object()),
        expire_after,
        on_expiry: GateExpiry::Abort,
    })
}

fn read(reading: GateReading) -> GateReport {
    let gate = object();
    GateReport { gate, reading }
}

/// The code of the first hold.
fn first_hold(world: &World) -> Option<HoldCode> {
    world.state.holds.first().map(|hold| hold.code)
}

/// A release that waits at a gate behind 25 %.
fn at_gate(gate: Step) -> World {
    let mut world = World::stable(plan(4, vec![weight(25), gate, weight(50)]));
    world.release_to("v2", 25);
    world.settle();
    world
}

#[test]
fn an_approval_opens_the_gate_and_is_recorded() {
    let mut world = at_gate(approval(Some(secs(3_600)), GateExpiry::Abort));
    assert_eq!(first_hold(&world), Some(HoldCode::ApprovalPending));
    assert_eq!(world.state.phase, Phase::Paused);
    world.run_for(secs(3_000));
    assert_eq!(world.share(), Weight::percent(25), "nobody has approved");
    let outcome = world.command("go", Verb::Promote);
    assert_eq!(outcome.result, CommandResult::Done);
    assert!(
        outcome.message.contains("approved by ada"),
        "{}",
        outcome.message
    );
    assert_eq!(
        world.events_of("GateApproved"),
        ["ada approved the gate of step 2: a test"]
    );
    world.run_until_stable("v2");
    world.assert_no_lost_requests();
}

#[test]
fn a_gate_that_nobody_approves_in_time_aborts() {
    let mut world = at_gate(approval(Some(secs(600)), GateExpiry::Abort));
    // A restarted controller counts from the start of the step.
    world.run_for(secs(300));
    world.restart();
    world.run_for(secs(290));
    assert_eq!(world.state.stage, Stage::Progressing);
    world.run_for(secs(60));
    assert_eq!(world.state.stage, Stage::Aborted);
    let abort = world.state.abort.as_ref().unwrap();
    assert_eq!(abort.cause, AbortCause::GateExpired);
    assert_eq!(
        abort.message.as_str(),
        "the approval was not given within 600 s"
    );
    assert_eq!(world.share(), Weight::ZERO);
    world.assert_no_lost_requests();
}

#[test]
fn a_gate_that_holds_when_it_expires_is_left_only_by_skipping_it() {
    let mut world = at_gate(approval(Some(secs(600)), GateExpiry::Hold));
    world.run_for(secs(5_000));
    assert_eq!(world.state.stage, Stage::Progressing);
    assert_eq!(first_hold(&world), Some(HoldCode::GateExpired));
    let refusal = world.refused("late", Verb::Promote);
    assert!(refusal.contains("the gate has expired"), "{refusal}");
    assert_eq!(
        world.command("skip", Verb::SkipStep).result,
        CommandResult::Done
    );
    world.run_until_stable("v2");
}

#[test]
fn a_gate_does_not_expire_while_a_person_holds_the_release() {
    let mut world = at_gate(approval(Some(secs(600)), GateExpiry::Abort));
    world.command("wait", Verb::Pause);
    world.run_for(secs(5_000));
    assert_eq!(world.state.stage, Stage::Progressing);
}

#[test]
fn an_object_opens_the_gate_when_it_meets_the_condition() {
    let mut world = at_gate(object_step(None));
    assert_eq!(first_hold(&world), Some(HoldCode::GateClosed));
    world.gate = Some(read(GateReading::Closed(
        "jobs.batch migrate does not exist".into(),
    )));
    world.run_for(secs(60));
    assert!(
        world
            .state
            .message
            .contains("jobs.batch migrate does not exist"),
        "{}",
        world.state.message
    );
    world.gate = Some(read(GateReading::Unreadable(
        "the controller may not read it".into(),
    )));
    world.run_for(secs(60));
    assert_eq!(first_hold(&world), Some(HoldCode::GateUnreadable));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "the progress deadline does not apply"
    );
    let refusal = world.refused("go", Verb::Promote);
    assert!(refusal.contains("does not wait for approval"), "{refusal}");
    world.gate = Some(read(GateReading::Open));
    world.run_until_stable("v2");
    world.assert_no_lost_requests();
}

#[test]
fn what_was_read_for_another_gate_does_not_open_this_one() {
    let mut world = at_gate(object_step(Some(secs(600))));
    let gate = ObjectGate {
        name: "other".to_owned(),
        ..object()
    };
    world.gate = Some(GateReport {
        gate,
        reading: GateReading::Open,
    });
    world.run_for(secs(60));
    assert_eq!(world.share(), Weight::percent(25));
    assert_eq!(first_hold(&world), Some(HoldCode::GateClosed));
    world.run_for(secs(600));
    assert_eq!(world.abort_cause(), Some("GateExpired"));
}

#[test]
fn a_breach_at_a_gate_aborts() {
    let mut world = at_gate(approval(None, GateExpiry::Abort));
    world.report = world::roll_back("worse");
    world.run_for(secs(10));
    assert_eq!(world.abort_cause(), Some("Evidence"));
}

fn smoke_test() -> Plan {
    let steps = vec![
        Step::SetCanaryScale(CanaryScale::Replicas(1)),
        Step::Require(requirements(&[], &["smoke"])),
        Step::SetCanaryScale(CanaryScale::MatchTrafficWeight),
        weight(25),
    ];
    analysed(plan(4, steps))
}

#[test]
fn a_step_waits_for_its_checks_before_the_first_traffic() {
    let mut world = World::stable(smoke_test());
    world.report = world::undecided(&world);
    world.release("v2");
    world.run_for(secs(120));
    assert_eq!((world.desired("v2"), world.share()), (1, Weight::ZERO));
    let (awaited, since) = serin_core::awaited_checks(&world.plan, &world.state).unwrap();
    assert_eq!(awaited, &requirements(&[], &["smoke"]).checks);
    assert_eq!(Some(since), world.state.step.map(|step| step.started_at));
    // A problem of the check is the reason, although there is no traffic to measure.
    world.report = hold(HoldCode::CheckUnavailable);
    world.run_for(secs(10));
    assert_eq!(first_hold(&world), Some(HoldCode::CheckUnavailable));
    assert_eq!(world.share(), Weight::ZERO);
    world.report = satisfied(&world, 0, requirements(&[], &["smoke"]));
    world.run_until_at(25);
    world.assert_no_lost_requests();
}

fn paced_smoke_test() -> Plan {
    edit(analysed(plan(4, Vec::new())), |canary| {
        canary.pace = Pace::Evidence(EvidencePace {
            first_weight: Weight::percent(5),
            max_weight: Weight::percent(50),
        });
        canary.analysis = canary.analysis.take().map(|analysis| Analysis {
            checks_before_traffic: requirements(&[], &["smoke"]).checks,
            ..analysis
        });
    })
}

#[test]
fn a_release_paced_by_evidence_waits_for_its_checks_before_the_first_traffic() {
    let mut world = World::stable(paced_smoke_test());
    world.report = world::undecided(&world);
    world.release("v2");
    world.run_for(secs(120));
    assert_eq!((world.desired("v2"), world.share()), (1, Weight::ZERO));
    assert!(serin_core::awaited_checks(&world.plan, &world.state).is_some());
    world.restart();
    world.run_for(secs(10));
    assert_eq!(world.share(), Weight::ZERO);
    world.report = satisfied(&world, 0, requirements(&[], &["smoke"]));
    world.run_until_at(5);
    world.report = world::undecided(&world);
    world.run_for(secs(120));
    assert_eq!(world.share(), Weight::percent(5), "the checks are over");
    assert_eq!(serin_core::awaited_checks(&world.plan, &world.state), None);
    world.assert_no_lost_requests();
}

#[test]
fn a_failed_check_before_the_first_traffic_aborts_without_a_request() {
    for plan in [smoke_test(), paced_smoke_test()] {
        let mut world = World::stable(plan);
        world.report = world::undecided(&world);
        world.release("v2");
        world.run_for(secs(60));
        world.report = world::roll_back("check smoke has failed");
        world.run_for(secs(60));
        assert_eq!(world.state.stage, Stage::Aborted);
        assert!(
            world.shares.iter().all(|(_, share, _)| share.is_zero()),
            "{:?}",
            world.shares
        );
    }
}
