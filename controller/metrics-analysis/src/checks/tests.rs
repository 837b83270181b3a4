use jiff::Timestamp;
use serde_json::{Value, json};
use serin_core::hold::Hold;
use serin_core::hold::HoldCode;
use serin_core::observed::ReportKind;
use serin_core::state::AbortCause;
use serin_core::units::Weight;
use serin_crds::status::CheckOutcome;

use super::check::format_values;
use super::*;
use crate::fixtures::request;
use crate::prometheus::Series;

const MINUTE_MS: i64 = 60_000;

fn checks(specs: Value) -> Checks {
    with_stored(specs, BTreeMap::new())
}

fn with_stored(specs: Value, stored: BTreeMap<String, CheckState>) -> Checks {
    let mut request = request();
    request.analysis.checks = serde_json::from_value(specs).unwrap();
    Checks::new(&request, stored).unwrap()
}

fn errors(more: Value) -> Checks {
    let mut spec =
        json!({"name": "errors", "query": "sum(errors_total)", "condition": "result[0] < 5"});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    checks(json!([spec]))
}

type AnswerResult = Result<Vec<Answer>, QueryError>;

fn answer_with(values: &[f64]) -> Vec<Answer> {
    let series = |value: &f64| Series {
        labels: BTreeMap::new(),
        samples: vec![(0, *value)],
    };
    vec![values.iter().map(series).collect()]
}

fn at(now_ms: i64) -> CheckContext {
    CheckContext {
        phase: ReleasePhase::Release,
        phase_since_ms: 0,
        weight_changed_at_ms: 0,
        has_traffic: true,
        traffic_since_ms: 0,
        warm_up_ends_ms: 0,
        pods_are_young: false,
        grace_ms: 2_000,
        now_ms,
        awaited: AwaitedChecks::default(),
    }
}

fn sufficient() -> AnalysisReport {
    AnalysisReport {
        ready_to_promote: true,
        ..AnalysisReport::undecided("Enough.", Timestamp::UNIX_EPOCH)
    }
}

/// The cause of a hold or a breach. Empty if there is none.
fn cause(report: &AnalysisReport) -> &str {
    let breach = report.breach_cause().map(AbortCause::as_str);
    let hold = report.hold_code().map(HoldCode::as_str);
    breach.or(hold).unwrap_or_default()
}

#[test]
fn arguments_and_built_in_arguments_are_substituted() {
    let checks = checks(
        json!([{"name": "queue", "condition": "result[0] < 5", "args": [{"name": "queue", "value": "a\"b"}],
        "query": "max(queue_length{queue=\"{{args.queue}}\",pod=~\"{{args.canaryReplicaSet}}-.*\"})"}]),
    );
    let CheckSource::Query(query) = &checks.all()[0].source else {
        panic!("{checks:?}");
    };
    assert_eq!(
        query,
        "max(queue_length{queue=\"a\\\"b\",pod=~\"checkout-bbb-.*\"})"
    );
}

#[test]
fn a_release_continues_once_every_check_has_succeeded_at_this_weight() {
    let mut checks = errors(json!({}));
    let report = apply_checks(sufficient(), &checks, &at(0));
    assert_eq!(
        (report.kind(), report.next_weight),
        (ReportKind::Undecided, None)
    );
    assert_eq!(
        report.message,
        "Enough. Not yet succeeded at this weight: errors."
    );
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[3.0])),
        MINUTE_MS,
        &at(MINUTE_MS),
    );
    let report = apply_checks(sufficient(), &checks, &at(MINUTE_MS));
    assert_eq!(report.kind(), ReportKind::Sufficient);
    assert_eq!(
        report.satisfied.requirements.checks,
        ["errors".to_owned()].into()
    );
    let moved = CheckContext {
        weight_changed_at_ms: MINUTE_MS + 1,
        ..at(MINUTE_MS + 1)
    };
    assert!(
        apply_checks(sufficient(), &checks, &moved).kind() == ReportKind::Undecided,
        "at another weight it is queried again"
    );
    let next_weight = Some(Weight::percent(20));
    let step = AnalysisReport {
        next_weight,
        ..AnalysisReport::undecided("More.", Timestamp::UNIX_EPOCH)
    };
    let report = apply_checks(step.clone(), &checks, &moved);
    assert_eq!(report.next_weight, None, "the weight does not rise before");
    let report = apply_checks(step, &checks, &at(MINUTE_MS));
    assert_eq!(report.next_weight, Some(Weight::percent(20)));
}

#[test]
fn exceeding_the_failure_limit_rolls_back_and_failures_are_stored() {
    let mut checks = errors(json!({"failureLimit": 2}));
    for minute in 1..=2 {
        checks.observe(
            0,
            &AnswerResult::Ok(answer_with(&[7.0])),
            minute * MINUTE_MS,
            &at(minute * MINUTE_MS),
        );
        assert_eq!(
            cause(&apply_checks(
                sufficient(),
                &checks,
                &at(minute * MINUTE_MS)
            )),
            ""
        );
    }
    // A restarted controller continues from the stored state and queries immediately. This is not a
    // third failure.
    let stored: BTreeMap<String, CheckState> =
        serde_json::from_value(serde_json::to_value(checks.states()).unwrap()).unwrap();
    let spec = json!([{"name": "errors", "query": "sum(errors_total)", "condition": "result[0] < 5", "failureLimit": 2}]);
    let mut checks = with_stored(spec, stored.clone());
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[7.0])),
        2 * MINUTE_MS + 1_000,
        &at(2 * MINUTE_MS + 1_000),
    );
    assert_eq!(checks.breach(), None);
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[7.0])),
        3 * MINUTE_MS,
        &at(3 * MINUTE_MS),
    );
    let report = apply_checks(sufficient(), &checks, &at(3 * MINUTE_MS));
    assert_eq!(cause(&report), "Check");
    assert_eq!(
        report.message,
        "Check errors has failed 3 times, and 2 failures are tolerated: the last result 7 does not meet result[0] < 5."
    );
    // Results of another query are discarded.
    let other = json!([{"name": "errors", "query": "sum(errors_total)", "condition": "result[0] < 6", "failureLimit": 2}]);
    assert_eq!(with_stored(other, stored).states()["errors"].failures, 0);
}

#[test]
fn missing_and_nan_values_hold_with_their_own_cause() {
    for (values, name) in [
        (&[][..], "CheckEmpty"),
        (&[f64::NAN][..], "CheckNotANumber"),
    ] {
        let mut checks = errors(json!({"condition": "true || result[0] < 5"}));
        checks.observe(
            0,
            &AnswerResult::Ok(answer_with(values)),
            MINUTE_MS,
            &at(MINUTE_MS),
        );
        let report = apply_checks(sufficient(), &checks, &at(MINUTE_MS));
        assert_eq!(cause(&report), name, "{report:?}");
        assert_eq!(
            checks.statuses(&at(MINUTE_MS))[0].result,
            CheckOutcome::Inconclusive
        );
    }
    let mut checks = errors(json!({"condition": "result[1] < 5"}));
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[1.0])),
        MINUTE_MS,
        &at(MINUTE_MS),
    );
    assert_eq!(
        cause(&apply_checks(sufficient(), &checks, &at(MINUTE_MS))),
        "CheckUnreadable"
    );
}

#[test]
fn a_dry_run_is_reported_and_does_not_decide() {
    let mut checks = errors(json!({"dryRun": true}));
    for minute in 1..5 {
        checks.observe(
            0,
            &AnswerResult::Ok(answer_with(&[7.0])),
            minute * MINUTE_MS,
            &at(minute * MINUTE_MS),
        );
    }
    assert!(apply_checks(sufficient(), &checks, &at(0)).kind() == ReportKind::Sufficient);
    let status = &checks.statuses(&at(0))[0];
    assert_eq!(
        (status.failures, status.dry_run, status.result),
        (4, true, CheckOutcome::Failed)
    );
    checks.observe(
        0,
        &Err(QueryError::BadQuery("no".into())),
        9 * MINUTE_MS,
        &at(9 * MINUTE_MS),
    );
    assert!(
        apply_checks(sufficient(), &checks, &at(9 * MINUTE_MS)).kind() == ReportKind::Sufficient
    );
}

#[test]
fn an_unavailable_server_holds_after_the_grace_period() {
    let mut checks = errors(json!({}));
    checks.observe(0, &AnswerResult::Ok(answer_with(&[3.0])), 0, &at(0));
    let away = Err(QueryError::Unreachable("away".into()));
    checks.observe(0, &away, MINUTE_MS, &at(MINUTE_MS));
    assert!(
        apply_checks(sufficient(), &checks, &at(MINUTE_MS + 1_000)).kind()
            == ReportKind::Sufficient
    );
    let later = at(MINUTE_MS + 2_000);
    assert_eq!(
        cause(&apply_checks(sufficient(), &checks, &later)),
        "Unreachable"
    );
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[3.0])),
        MINUTE_MS + 5_000,
        &at(MINUTE_MS + 5_000),
    );
    assert!(
        apply_checks(sufficient(), &checks, &at(MINUTE_MS + 5_000)).kind()
            == ReportKind::Sufficient
    );
    assert_eq!(checks.states()["errors"].failures, 0);
}

#[test]
fn each_check_is_queried_in_its_phase_only() {
    let check = |name: &str, phase: &str| json!({"name": name, "query": "1", "condition": "result[0] > 0", "phase": phase});
    let mut checks = checks(json!([
        check("all-along", "release"),
        check("before", "beforePromotion"),
        check("after", "bake"),
    ]));
    let queried =
        |checks: &Checks, at: &CheckContext| [0, 1, 2].map(|index| checks.is_active(index, at));
    let before = CheckContext {
        phase: ReleasePhase::BeforePromotion,
        phase_since_ms: 5_000,
        ..at(5_000)
    };
    let after = CheckContext {
        phase: ReleasePhase::Bake,
        phase_since_ms: 9_000,
        ..at(9_000)
    };
    assert_eq!(queried(&checks, &at(0)), [true, false, false]);
    assert_eq!(queried(&checks, &before), [true, true, false]);
    assert_eq!(queried(&checks, &after), [false, false, true]);
    let preview = CheckContext {
        phase: ReleasePhase::Preview,
        has_traffic: false,
        ..at(5_000)
    };
    assert_eq!(
        queried(&checks, &preview),
        [true, true, false],
        "a preview needs no traffic"
    );
    assert_eq!(
        queried(
            &checks,
            &CheckContext {
                has_traffic: false,
                ..at(0)
            }
        ),
        [false; 3]
    );
    checks.observe(1, &AnswerResult::Ok(answer_with(&[1.0])), 4_000, &before);
    assert_eq!(
        checks.succeeded(&before),
        BTreeSet::new(),
        "a result from before the start does not count"
    );
    checks.observe(1, &AnswerResult::Ok(answer_with(&[1.0])), 70_000, &before);
    assert_eq!(checks.succeeded(&before), ["before".to_owned()].into());
}

#[test]
fn checks_do_not_override_a_negative_report() {
    let mut checks = errors(json!({}));
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[3.0])),
        MINUTE_MS,
        &at(MINUTE_MS),
    );
    let rolled_back = AnalysisReport::breached(AbortCause::Evidence, "worse");
    assert_eq!(
        apply_checks(rolled_back.clone(), &checks, &at(MINUTE_MS)),
        rolled_back
    );
    let frozen = AnalysisReport::held(Hold::new(HoldCode::BudgetSpent, "nothing left"));
    assert_eq!(
        apply_checks(frozen.clone(), &checks, &at(MINUTE_MS)),
        frozen
    );
}

#[test]
fn values_are_rounded_for_display() {
    let values = [0.101_315_509_264_367_83, 120.0, 0.000_003_515_18, -1e300];
    assert_eq!(format_values(&values), "0.101316, 120, 3.51518e-6, -1e300");
    assert_eq!(
        format_values(&[0.0, f64::INFINITY, 1.0, 2.0, 3.0]),
        "0, inf, 1, 2, and 1 more"
    );
}

/// The status message of the first check.
fn message(checks: &Checks, at: &CheckContext) -> String {
    checks.statuses(at)[0].message.clone().unwrap().into()
}

// argo-rollouts #3258, PR #4864: a metric that is measured before the canary is warm aborts a
// healthy release.
#[test]
fn a_check_starts_after_its_initial_delay_and_the_release_waits() {
    let mut checks = errors(json!({"initialDelay": "2m"}));
    let early = at(119_000);
    assert!(!checks.is_active(0, &early));
    assert_eq!(checks.next_start_ms(&early), Some(120_000));
    assert_eq!(
        message(&checks, &early),
        "Starts at 1970-01-01T00:02:00Z (initialDelay)."
    );
    let report = apply_checks(sufficient(), &checks, &early);
    assert_eq!(
        (report.kind(), report.next_weight),
        (ReportKind::Undecided, None)
    );
    assert_eq!(
        report.message,
        "Enough. Not yet succeeded at this weight: errors (starts at 1970-01-01T00:02:00Z (initialDelay))."
    );
    assert!(report.satisfied.requirements.checks.is_empty());
    // Polls are shared: the result of a query that was sent before the start is ignored.
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[7.0])),
        119_000,
        &at(121_000),
    );
    checks.observe(
        0,
        &Err(QueryError::BadQuery("no".into())),
        119_000,
        &at(121_000),
    );
    assert_eq!(
        (checks.breach(), checks.blocking_error(&at(121_000))),
        (None, None)
    );
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[3.0])),
        121_000,
        &at(121_000),
    );
    assert!(apply_checks(sufficient(), &checks, &at(121_000)).kind() == ReportKind::Sufficient);
    assert_eq!(checks.next_start_ms(&at(121_000)), None);
}

#[test]
fn the_warm_up_delays_checks() {
    let mut checks = errors(json!({"initialDelay": "10s"}));
    let young = |now_ms: i64| CheckContext {
        warm_up_ends_ms: 60_000,
        ..at(now_ms)
    };
    assert!(!checks.is_active(0, &young(59_999)));
    assert_eq!(
        message(&checks, &young(30_000)),
        "Starts at 1970-01-01T00:01:00Z (warmUp)."
    );
    assert!(apply_checks(sufficient(), &checks, &young(30_000)).kind() == ReportKind::Undecided);
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[7.0])),
        30_000,
        &young(30_000),
    );
    assert_eq!(checks.states()["errors"].failures, 0);
    assert!(checks.is_active(0, &young(60_000)));
    // Later most pods are young again, as after a scale-up. A failure is not counted, but it is no
    // success either.
    let scaled_up = CheckContext {
        pods_are_young: true,
        ..young(120_000)
    };
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[7.0])),
        120_000,
        &scaled_up,
    );
    assert_eq!(
        (checks.breach(), checks.succeeded(&scaled_up)),
        (None, BTreeSet::new())
    );
    assert!(message(&checks, &scaled_up).contains("most canary pods are younger than warmUp"));
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[3.0])),
        180_000,
        &CheckContext {
            pods_are_young: true,
            ..young(180_000)
        },
    );
    assert!(
        apply_checks(sufficient(), &checks, &young(180_000)).kind() == ReportKind::Sufficient,
        "a success counts"
    );
    checks.observe(
        0,
        &AnswerResult::Ok(answer_with(&[7.0])),
        240_000,
        &young(240_000),
    );
    assert!(checks.breach().is_some());
}

#[test]
fn the_initial_delay_of_a_later_phase_starts_with_the_phase() {
    for (name, phase) in [
        ("beforePromotion", ReleasePhase::BeforePromotion),
        ("bake", ReleasePhase::Bake),
    ] {
        let checks = errors(json!({"initialDelay": "2m", "phase": name}));
        assert_eq!(checks.next_start_ms(&at(300_000)), None, "it is not due");
        let in_phase = |now_ms: i64| CheckContext {
            phase,
            phase_since_ms: 300_000,
            ..at(now_ms)
        };
        assert_eq!(checks.next_start_ms(&in_phase(300_000)), Some(420_000));
        assert!(
            !checks.is_active(0, &in_phase(419_999)) && checks.is_active(0, &in_phase(420_000))
        );
        assert!(
            apply_checks(sufficient(), &checks, &in_phase(310_000)).kind() == ReportKind::Undecided
        );
    }
}

#[test]
fn failures_of_an_earlier_attempt_do_not_count_against_a_retry() {
    let mut checks = errors(json!({}));
    // This attempt received its first traffic ten minutes ago. The query is shared with another
    // Rollout and was sent earlier.
    let retry = CheckContext {
        traffic_since_ms: 600_000,
        ..at(600_500)
    };
    checks.observe(0, &AnswerResult::Ok(answer_with(&[7.0])), 599_000, &retry);
    assert_eq!(
        (checks.breach(), checks.states()["errors"].failures),
        (None, 0)
    );
}
