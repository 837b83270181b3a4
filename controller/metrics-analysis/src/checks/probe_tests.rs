//! Checks by HTTP and by a Job: when they run, and what their results mean.

use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_core::state::AbortCause;

use super::*;
use crate::fixtures::request;

const SINCE_MS: i64 = 1_000_000;

/// A check that a step names since [`SINCE_MS`].
fn step_check(more: &Value) -> Checks {
    stored_step_check(more, BTreeMap::new())
}

fn stored_step_check(more: &Value, stored: BTreeMap<String, CheckState>) -> Checks {
    let mut spec = json!({"name": "Smoke_Test", "phase": "step"});
    let fields = more.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(fields);
    let mut request = request();
    request.analysis.checks = serde_json::from_value(json!([spec])).unwrap();
    Checks::new(&request, stored).unwrap()
}

/// A step that names the check, without traffic and with young pods.
fn at_step(now_ms: i64) -> CheckContext {
    CheckContext {
        phase: ReleasePhase::Release,
        phase_since_ms: 0,
        weight_changed_at_ms: 0,
        has_traffic: false,
        traffic_since_ms: 0,
        warm_up_ends_ms: i64::MAX,
        pods_are_young: true,
        grace_ms: 2_000,
        now_ms,
        awaited: AwaitedChecks {
            names: ["Smoke_Test".to_owned()].into(),
            since_ms: SINCE_MS,
        },
    }
}

fn elsewhere(now_ms: i64) -> CheckContext {
    CheckContext {
        awaited: AwaitedChecks::default(),
        ..at_step(now_ms)
    }
}

fn http(more: &Value) -> Value {
    let mut check = json!({
        "http": {"url": "http://{{args.canaryService}}.{{args.namespace}}.svc/"},
        "interval": "1s",
    });
    let fields = more.as_object().unwrap().clone();
    check.as_object_mut().unwrap().extend(fields);
    check
}

fn job(limit: u32) -> Value {
    json!({"failureLimit": limit, "job": {
        "serviceAccountName": "smoke",
        "template": {"spec": {"containers": [{"name": "t", "args": ["{{args.rollout}}"]}]}},
    }})
}

fn response(status: u16, body: &str) -> ProbeOutcome {
    let body = body.to_owned();
    ProbeOutcome::Response { status, body }
}

/// Records a result of what the check requests or runs now.
fn observe(checks: &mut Checks, outcome: &ProbeOutcome, now_ms: i64) {
    let at = at_step(now_ms);
    let probe = checks.probe(0, &at).expect("something to do");
    checks.observe_probe(0, &probe, outcome, now_ms, &at);
}

fn report(checks: &Checks, now_ms: i64) -> AnalysisReport {
    let undecided = AnalysisReport::undecided("No traffic.", jiff::Timestamp::UNIX_EPOCH);
    apply_checks(undecided, checks, &at_step(now_ms))
}

#[test]
fn a_request_of_a_step_runs_without_traffic_and_only_at_the_step() {
    let mut checks = step_check(&http(&json!({})));
    assert_eq!(checks.probe(0, &elsewhere(SINCE_MS)), None);
    let Some(Probe::Http { request, .. }) = checks.probe(0, &at_step(SINCE_MS)) else {
        panic!("{checks:?}");
    };
    assert_eq!(request.url, "http://checkout-canary.shop.svc/");
    observe(&mut checks, &response(204, ""), SINCE_MS + 10);
    let satisfied = report(&checks, SINCE_MS + 10).satisfied.requirements;
    assert!(satisfied.checks.contains("Smoke_Test"), "{satisfied:?}");
    // At another step it is queried again.
    let mut later = at_step(SINCE_MS + 20);
    later.awaited.since_ms = SINCE_MS + 20;
    assert!(checks.succeeded(&later).is_empty());
}

#[test]
fn responses_succeed_fail_or_hold() {
    let cases = [
        (json!({}), response(503, "down"), "Check"),
        (json!({}), response(302, ""), "Check"),
        (
            json!({"condition": "status == 200 && body.ready"}),
            response(200, "{\"ready\":false}"),
            "Check",
        ),
        (
            json!({"condition": "status == 200 && body.ready"}),
            response(200, "{}"),
            "CheckUnreadable",
        ),
        (
            json!({"condition": "body.contains('ok')"}),
            response(200, "all ok"),
            "",
        ),
        (
            json!({}),
            ProbeOutcome::Unreachable("Connection refused".to_owned()),
            "CheckUnavailable",
        ),
        (
            json!({"http": {"url": "http://a.shop.svc", "failIfUnreachable": true}}),
            ProbeOutcome::Unreachable("Connection refused".to_owned()),
            "Check",
        ),
        (
            json!({}),
            ProbeOutcome::Refused(AnalysisError {
                code: HoldCode::SecretNotFound,
                message: "The Secret does not exist.".to_owned(),
            }),
            "SecretNotFound",
        ),
    ];
    for (fields, outcome, expected) in cases {
        let mut checks = step_check(&http(&fields));
        observe(&mut checks, &outcome, SINCE_MS + 10);
        let report = report(&checks, SINCE_MS + 10);
        let breach = report.breach_cause().map(AbortCause::as_str);
        let hold = report.hold_code().map(HoldCode::as_str);
        let found = breach.or(hold).unwrap_or_default();
        assert_eq!(found, expected, "{fields} {outcome:?}: {}", report.message);
    }
}

#[test]
fn a_restarted_controller_finds_the_job_that_it_created() {
    let name = |checks: &Checks| match checks.probe(0, &at_step(SINCE_MS + 10)) {
        Some(Probe::Job(run)) => run.name,
        other => panic!("{other:?}"),
    };
    let mut checks = step_check(&job(1));
    let first = name(&checks);
    assert_eq!(name(&step_check(&job(1))), first, "nothing was stored");
    assert!(
        first.len() <= 63 && first.starts_with("checkout-smoke-test-"),
        "{first}"
    );
    observe(
        &mut checks,
        &ProbeOutcome::JobRunning("running".to_owned()),
        SINCE_MS + 10,
    );
    assert_eq!(name(&checks), first);
    observe(
        &mut checks,
        &ProbeOutcome::JobFailed("failed".to_owned()),
        SINCE_MS + 20,
    );
    let second = name(&checks);
    assert_ne!(second, first);
    let restarted = stored_step_check(&job(1), checks.states());
    assert_eq!(name(&restarted), second, "the failure was stored");
    // A result of the first Job that arrives again changes nothing.
    let at = at_step(SINCE_MS + 30);
    let outdated = step_check(&job(1)).probe(0, &at).unwrap();
    let failed = ProbeOutcome::JobFailed("failed".to_owned());
    checks.observe_probe(0, &outdated, &failed, SINCE_MS + 30, &at);
    assert_eq!(checks.breach(), None);
    let mut other_step = at_step(SINCE_MS + 10);
    other_step.awaited.since_ms = SINCE_MS + 5_000;
    other_step.now_ms = SINCE_MS + 5_000;
    let Some(Probe::Job(other)) = step_check(&job(1)).probe(0, &other_step) else {
        panic!()
    };
    assert_ne!(other.name, first, "the step began again");
}

#[test]
fn a_job_runs_until_it_succeeds_or_fails_too_often() {
    let mut checks = step_check(&job(1));
    for second in 1..=2 {
        let failed = ProbeOutcome::JobFailed(format!("Job {second} has failed."));
        observe(&mut checks, &failed, SINCE_MS + second);
    }
    assert_eq!(checks.probe(0, &at_step(SINCE_MS + 3)), None);
    let breach = checks.breach().unwrap();
    assert_eq!(
        breach,
        "Check Smoke_Test has failed 2 times, and 1 failure is tolerated. Job 2 has failed."
    );
    let mut checks = step_check(&job(0));
    observe(
        &mut checks,
        &ProbeOutcome::JobSucceeded("done".to_owned()),
        SINCE_MS + 1,
    );
    assert_eq!(checks.probe(0, &at_step(SINCE_MS + 2)), None);
    assert_eq!(
        checks.statuses(&at_step(SINCE_MS + 2))[0]
            .message
            .as_deref(),
        Some("done")
    );
}
