//! Explanations of each state of a Rollout, created with the controller's types.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use serin_analysis::counts::{Counts, Tick};
use serin_analysis::decision::{AnalysisConfig, ObjectiveEvidence};
use serin_analysis::evidence::TickContext;
use serin_analysis::{Objective, PodCounts};
use serin_core::hold::{Hold, HoldCode};
use serin_crds::RolloutSpec;
use serin_metrics_analysis::checkpoint::{Checkpoint, ObjectiveCheckpoint};
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::settings::Settings;

use super::*;
use crate::report::report;
use crate::resources::RolloutResources;

const NOW: &str = "2026-03-01T12:00:00Z";
/// 11:50:00.
const BEGAN_MS: i64 = 1_772_365_800_000;

fn spec(analysis: bool) -> Value {
    let mut spec = json!({
        "replicas": 4,
        "selector": {"matchLabels": {"app": "checkout"}},
        "template": {"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": [{"name": "c", "image": "i:2"}]}},
        "analysis": {"objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}]},
        "strategy": {"canary": {"trafficRouting": {"gatewayAPI": {"httpRoute": "checkout"}}}}
    });
    if !analysis {
        spec.as_object_mut().unwrap().remove("analysis");
    }
    spec
}

/// An analyzed release after `scrapes` scrapes with these counts.
struct AnalyzedRelease {
    checkpoint: Value,
    evidence: Value,
}

fn analyzed(
    scrapes: i64,
    counts: Counts,
    allotment: Option<f64>,
    pods: &[PodCounts],
) -> AnalyzedRelease {
    let spec: RolloutSpec = serde_json::from_value(spec(true)).unwrap();
    let analysis = spec.analysis.unwrap();
    let settings = Settings::new(&analysis, None, Server::with_url("http://p")).unwrap();
    let config = settings.objective(&analysis.objectives[0], Some(0.0005), true);
    let (objective, mut state) = Objective::begin(config, BEGAN_MS).unwrap();
    let context = TickContext {
        warm_up_ends_ms: BEGAN_MS,
        weight_changed_at_ms: BEGAN_MS,
        young_share: None,
    };
    for scrape in 0..scrapes {
        let started_ms = BEGAN_MS + scrape * 15_000;
        let tick = Tick {
            started_ms,
            at_ms: started_ms + 15_000,
            counts,
            stable_pods: pods.to_vec(),
            ..Tick::default()
        };
        state.evidence.add(objective.bets(), &tick, &context);
        state.round_at_ms = tick.at_ms;
    }
    let judge = AnalysisConfig::default();
    let statistics = ObjectiveEvidence::from_evidence(
        "availability",
        objective.bets(),
        &state.evidence,
        &judge,
        0.05,
    );
    let totals = statistics.counts;
    let evidence = json!([{
        "objective": "availability",
        "canary": {"requests": totals.canary_requests, "errors": totals.canary_errors},
        "stable": {"requests": totals.stable_requests, "errors": totals.stable_errors},
        "excess": statistics.excess, "lower": statistics.lower, "upper": statistics.upper, "eValue": statistics.ln_e.exp(), "threshold": 100.0,
        "budgetAllotment": allotment, "budgetSpent": statistics.spent,
        "message": "message of the controller"
    }]);
    let objective_checkpoint = ObjectiveCheckpoint {
        fingerprint: String::new(),
        usual_rate: Some(0.0005),
        state,
        bake: None,
        is_aggregated: false,
        guard: None,
        scrape_interval_ms: None,
    };
    let checkpoint = Checkpoint {
        began_ms: BEGAN_MS,
        traffic_since_ms: Some(BEGAN_MS),
        previous_ended_second: None,
        burned_before: None,
        missing_data: None,
        awaits_traffic: false,
        warm_up_ends_ms: BEGAN_MS,
        weight_thousandths: 5_000,
        weight_changed_at_ms: BEGAN_MS,
        fresh_since_ms: Some(BEGAN_MS),
        decided: None,
        phase: None,
        checks: BTreeMap::new(),
        objectives: BTreeMap::from([("availability".to_owned(), objective_checkpoint)]),
    };
    AnalyzedRelease {
        checkpoint: serde_json::to_value(checkpoint).unwrap(),
        evidence,
    }
}

fn good() -> AnalyzedRelease {
    analyzed(20, Counts::new(75.0, 0.0, 1425.0, 1.0), Some(5184.0), &[])
}

fn status(stage: &str, phase: &str, weight: f64, release: Option<AnalyzedRelease>) -> Value {
    let spec: RolloutSpec = serde_json::from_value(spec(true)).unwrap();
    let mut status = json!({
        "observedGeneration": 3, "phase": phase, "stage": stage, "stageSince": "2026-03-01T11:50:00Z",
        "stableRevision": "v1", "currentRevision": "v2",
        "plan": {"hash": "h", "spec": serde_json::to_value(spec.plan("checkout").unwrap()).unwrap()},
        "weights": {"desired": weight, "verified": weight, "since": "2026-03-01T11:50:00Z"},
        "replicas": 5, "updatedReplicas": 1, "readyReplicas": 5, "availableReplicas": 5
    });
    if let Some(release) = release {
        status["evidence"] = release.evidence;
        status["analysis"] = json!({"revision": "v2", "startedAt": "2026-03-01T11:50:00Z", "checkpoint": release.checkpoint});
    }
    status
}

fn with(mut status: Value, field: &str, value: Value) -> Value {
    status[field] = value;
    status
}

/// A release at 5 % with a hold as the controller reports it.
fn held(code: HoldCode, message: &str) -> Value {
    let mut hold = Hold::new(code, message);
    hold.since = Some("2026-03-01T11:58:00Z".parse().unwrap());
    with_holds(json!([hold]))
}

fn with_holds(holds: Value) -> Value {
    let status = status("Progressing", "Progressing", 5.0, Some(good()));
    with(status, "holds", holds)
}

/// The text without white space, for comparisons that do not depend on line breaks.
fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}

fn aborted(cause: &str, message: &str, release: Option<AnalyzedRelease>) -> Value {
    let abort = json!({
        "revision": "v2", "at": "2026-03-01T11:55:00Z", "cause": cause, "message": message,
        "by": if cause == "Command" { json!("ann") } else { Value::Null }
    });
    with(status("Aborted", "Degraded", 0.0, release), "abort", abort)
}

fn explained_with(status: &Value, analysis: bool, all: bool) -> String {
    explain(&spec(analysis), status, all)
}

fn explain(spec: &Value, status: &Value, all: bool) -> String {
    let rollout = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "checkout", "namespace": "shop", "generation": 3},
        "spec": spec, "status": status
    });
    let replica_set = json!({
        "metadata": {"name": "checkout-v2", "labels": {"serin.dev/revision": "v2"}},
        "spec": {"replicas": 1, "selector": {}},
        "status": {"replicas": 1, "availableReplicas": status["updatedReplicas"]}
    });
    let resources = RolloutResources {
        rollout: serde_json::from_value(rollout).unwrap(),
        replica_sets: Ok(vec![serde_json::from_value(replica_set).unwrap()]),
        pods: Ok(Vec::new()),
        routes: Vec::new(),
    };
    let display = DisplayContext {
        now: NOW.parse().unwrap(),
        zone: TimeZone::UTC,
        width: 100,
    };
    let report = report(&resources, display.now);
    assert_eq!(report.read_errors, Vec::<String>::new());
    let read = fetch::ParsedRollout::from_resources(&resources);
    let numbers = read.analysis.as_ref().map_or(Ok(Vec::new()), |analysis| {
        objective_numbers(analysis, read.plan.as_ref(), &read.status)
    });
    let text = render(
        &ExplainInput {
            report: &report,
            analysis: read.analysis.as_ref(),
            numbers,
        },
        &display,
        all,
    );
    anstream::adapter::strip_str(&text).to_string()
}

fn explained(status: &Value) -> String {
    explained_with(status, true, false)
}

#[test]
fn undecided() {
    insta::assert_snapshot!(explained(&status(
        "Progressing",
        "Progressing",
        5.0,
        Some(good())
    )));
}

#[test]
fn all_adds_statistics_and_assumptions() {
    insta::assert_snapshot!(explained_with(
        &status("Progressing", "Progressing", 5.0, Some(good())),
        true,
        true
    ));
}

#[test]
fn overdispersion_is_shown_for_clustered_errors() {
    let pods = [(712.0, 9.0), (713.0, 0.0)].map(|(requests, errors)| PodCounts {
        requests,
        errors,
        ..PodCounts::default()
    });
    let release = analyzed(20, Counts::new(75.0, 0.0, 1425.0, 9.0), None, &pods);
    let text = explained_with(
        &status("Progressing", "Progressing", 5.0, Some(release)),
        true,
        true,
    );
    assert!(
        text.contains("k = 306 (phi = 9.01 within a scrape)"),
        "{text}"
    );
    assert!(text.contains("allotment unknown"), "{text}");
}

#[test]
fn rolled_back_by_evidence() {
    let bad = analyzed(12, Counts::new(150.0, 3.0, 1350.0, 1.0), Some(5184.0), &[]);
    insta::assert_snapshot!(explained(&aborted(
        "Evidence",
        "Rolled back at 10 %: ...",
        Some(bad)
    )));
}

#[test]
fn a_rollback_by_the_budget_is_bounded_by_one_in_ten() {
    let bad = analyzed(12, Counts::new(150.0, 1.0, 1350.0, 1.0), Some(10.0), &[]);
    let text = explained(&aborted(
        "ErrorBudget",
        "Rolled back at 10 %: ...",
        Some(bad),
    ));
    assert!(text.contains("its error budget is spent"), "{text}");
    assert!(text.contains("at most 1 time in 10, no"), "{text}");
    assert!(text.contains("of its allotment of 10 errors"), "{text}");
}

#[test]
fn crashes_commands_and_deadlines_are_not_attributed_to_metrics() {
    let cases = [
        ("PodCrash", "its pods crash", true),
        ("Command", "Aborted by a command by ann", true),
        ("ProgressDeadline", "did not become ready in time", true),
        ("Check", "a check failed more often than its limit", false),
        ("SomethingNew", "Aborted (SomethingNew)", false),
    ];
    for (cause, words, is_independent_of_metrics) in cases {
        let text = explained(&aborted(cause, "why it was", Some(good())));
        assert!(
            text.contains(words) && text.contains("Why it was."),
            "{cause}: {text}"
        );
        assert_eq!(
            text.contains("The metrics did not cause this."),
            is_independent_of_metrics,
            "{cause}: {text}"
        );
        assert!(
            text.contains("kubectl serin retry checkout -n shop"),
            "{cause}: {text}"
        );
        assert!(!text.contains("evidence this strong"), "{cause}: {text}");
    }
}

#[test]
fn held_without_data() {
    let message = "availability has had no data for 2 min. This is not success. Holding at 5 %.";
    insta::assert_snapshot!(explained(&held(HoldCode::NoData, message)));
}

#[test]
fn every_hold_is_explained_by_its_code() {
    for code in HoldCode::ALL {
        let text = explained(&held(*code, "Message of the controller."));
        let flat = without_spaces(&text);
        for part in [
            &format!("({code}): Message of the controller."),
            code.meaning(),
            code.fix(),
        ] {
            assert!(flat.contains(&without_spaces(part)), "{part:?} in {text}");
        }
    }
}

#[test]
fn a_release_that_does_not_start_is_explained_while_stable_serves() {
    let holds = json!([
        Hold::new(
            HoldCode::ResourcesMissing,
            "container app: it has no memory limit. Set resources.limits.memory of the container"
        ),
        Hold::new(
            HoldCode::NetworkPolicyMissing,
            "namespace shop: no network policy restricts the ingress traffic of the pods"
        ),
    ]);
    let stable = with(status("Stable", "Held", 0.0, None), "holds", holds.clone());
    let text = explained(&stable);
    for part in [
        "Held (ResourcesMissing): container app: it has no memory limit.",
        "No release has started. Revision v2 serves all traffic.",
        "Another hold (NetworkPolicyMissing): Namespace shop: no network policy",
        HoldCode::NetworkPolicyMissing.fix(),
    ] {
        let flat = without_spaces(&text);
        assert!(flat.contains(&without_spaces(part)), "{part:?} in {text}");
    }
    let aborted = with(aborted("PodCrash", "crashed", None), "holds", holds);
    let text = without_spaces(&explained(&aborted));
    let part = "The next release does not start (ResourcesMissing): Container app";
    assert!(text.contains(&without_spaces(part)), "{text}");
}

#[test]
fn a_hold_of_another_version_shows_its_code_and_message() {
    let text = explained(&with_holds(json!([{
        "source": "Weather", "code": "SomethingNew", "message": "it rains", "blocks": "Advance",
        "ends": {"by": "Sunshine"}
    }])));
    assert!(text.contains("Held (SomethingNew): it rains"), "{text}");
    let newer = "A newer kubectl plugin may know more.";
    assert!(
        without_spaces(&text).contains(&without_spaces(newer)),
        "{text}"
    );
}

#[test]
fn the_first_hold_leads_and_the_desired_weight_is_not_in_effect() {
    let mut status = with_holds(json!([
        Hold::new(
            HoldCode::ImagePullFailed,
            "waiting for 1 available pods of the new revision"
        ),
        Hold::new(HoldCode::NoData, "availability: no series of the canary"),
    ]));
    status["weights"] = json!({"desired": 50.0});
    status["updatedReplicas"] = json!(0);
    let text = explained(&status);
    for part in [
        "Held (ImagePullFailed): waiting for 1 available pods of the new revision",
        "Revision v2, canary 0 % in effect, 50 % desired.",
        "Another hold (NoData): Availability: no series of the canary.",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains("50 % of traffic"), "{text}");
}

#[test]
fn the_latency_guard_is_shown_whether_it_holds_or_not() {
    let slower = "Slower than stable: 300 of 3,000 requests took longer than 25 ms.";
    let explain_with_guard = |e_value: f64, mut status: Value| {
        status["evidence"][0]["latencyGuard"] = json!({
            "eValue": e_value, "threshold": 100.0, "action": "Hold", "edges": 12, "edge": "25ms",
            "message": slower
        });
        explained(&status)
    };
    let holds = explain_with_guard(120.0, held(HoldCode::LatencyGuard, slower));
    assert!(
        holds.contains("Held (LatencyGuard): Slower than stable: 300 of 3,000"),
        "{holds}"
    );
    assert!(holds.contains("E-value 120 (holds at 100)"), "{holds}");
    let calm = status("Progressing", "Progressing", 5.0, Some(good()));
    let calm = explain_with_guard(20.0, calm);
    assert!(
        !calm.contains("Held") && calm.contains("Slower than stable: 300 of 3,000"),
        "{calm}"
    );
}

#[test]
fn no_requests_are_not_success() {
    let none = explained(&status("Progressing", "Progressing", 5.0, None));
    assert!(
        none.contains("No request to the canary has been counted yet. This is not success."),
        "{none}"
    );
    let zero = analyzed(4, Counts::new(0.0, 0.0, 1500.0, 1.0), Some(5184.0), &[]);
    let zero = explained(&status("Progressing", "Progressing", 5.0, Some(zero)));
    assert!(
        zero.contains("No request to the canary has been counted. This is not success."),
        "{zero}"
    );
    assert!(!zero.contains("more requests"), "{zero}");
}

#[test]
fn a_blue_green_release_is_not_explained_as_a_canary() {
    let blue_green = |mut status: Value| {
        let router = json!({"gatewayAPI": {"httpRoute": "checkout"}});
        let mut changed = spec(true);
        changed["strategy"] =
            json!({"blueGreen": {"activeService": "checkout", "trafficRouting": router}});
        let plan: RolloutSpec = serde_json::from_value(changed.clone()).unwrap();
        status["plan"]["spec"] = serde_json::to_value(plan.plan("checkout").unwrap()).unwrap();
        let text = explain(&changed, &status, false);
        assert!(
            !text.contains("canary") && !text.contains("Canary"),
            "{text}"
        );
        text
    };
    let before = blue_green(status("Progressing", "Progressing", 0.0, None));
    assert!(
        before.contains("gets no requests before the switch"),
        "{before}"
    );
    let alone = analyzed(4, Counts::new(1500.0, 1.0, 0.0, 0.0), Some(5184.0), &[]);
    let after = blue_green(status("Promoting", "Progressing", 100.0, Some(alone)));
    assert!(
        after.contains("The new revision failed 4 of 6,000 requests."),
        "{after}"
    );
    let unwrapped = after.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(unwrapped.contains("before the switch"), "{after}");
    assert!(
        unwrapped.contains("no bound on false rollbacks is claimed"),
        "{after}"
    );
}

#[test]
fn a_canary_without_stable_requests_has_no_comparison() {
    let alone = analyzed(4, Counts::new(1500.0, 1.0, 0.0, 0.0), Some(5184.0), &[]);
    let alone = explained(&status("Progressing", "Progressing", 100.0, Some(alone)));
    let unwrapped = alone.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        unwrapped.contains("there is nothing to compare with"),
        "{alone}"
    );
    assert!(!alone.contains("more requests"), "{alone}");
}

#[test]
fn a_pause_shows_the_commands_that_end_it() {
    let pause = |reason: &str, until: Value| {
        let pause = json!({"reason": reason, "since": "2026-03-01T11:58:00Z", "until": until});
        explained(&with(
            status("Progressing", "Paused", 5.0, Some(good())),
            "pause",
            pause,
        ))
    };
    let inconclusive = pause("Inconclusive", Value::Null);
    assert!(
        inconclusive.contains("Paused: revision v2")
            && inconclusive.contains("kubectl promote checkout -n shop")
    );
    assert!(
        inconclusive.contains("the analysis was inconclusive"),
        "{inconclusive}"
    );
    assert!(pause("Step", json!("2026-03-01T12:03:00Z")).contains("the end of a timed pause"));
    assert!(pause("Command", Value::Null).contains("kubectl serin resume checkout -n shop"));
}

#[test]
fn a_pause_hold_shows_the_commands_that_end_it() {
    let inconclusive = explained(&held(
        HoldCode::Inconclusive,
        "the analysis is inconclusive",
    ));
    assert!(
        inconclusive.contains("Paused (Inconclusive): the analysis is inconclusive")
            && inconclusive.contains("kubectl promote checkout -n shop")
            && inconclusive.contains("kubectl abort checkout -n shop"),
        "{inconclusive}"
    );
    let paused = explained(&held(HoldCode::PausedByCommand, "paused by a command"));
    assert!(
        paused.contains("kubectl serin resume checkout -n shop"),
        "{paused}"
    );
}

#[test]
fn sufficient_evidence_is_reported() {
    let proven = analyzed(400, Counts::new(750.0, 0.0, 750.0, 0.0), Some(5184.0), &[]);
    let text = explained(&status("Promoting", "Progressing", 100.0, Some(proven)));
    assert!(text.contains("Promoting: revision v2"), "{text}");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains(
            "the evidence shows that per 10,000 requests the canary fails less than 5 more than stable"
        ),
        "{text}"
    );
}

#[test]
fn states_without_evidence_are_explained() {
    let unseen = explained(&Value::Null);
    assert!(unseen.contains("Not yet reconciled"), "{unseen}");
    let first = explained(&status("FirstDeploy", "Progressing", 0.0, None));
    assert!(
        first.contains("no stable revision to compare it with"),
        "{first}"
    );
    let unanalyzed = explained_with(
        &status("Progressing", "Progressing", 5.0, None),
        false,
        false,
    );
    assert!(
        unanalyzed.contains("Not analyzed")
            && unanalyzed.contains("Only pod failures and commands"),
        "{unanalyzed}"
    );
}

#[test]
fn promoted() {
    let history = json!([{"revision": "v2", "result": "Promoted", "at": "2026-03-01T11:57:00Z", "message": "promoted"}]);
    let mut status = with(
        status("Stable", "Healthy", 0.0, Some(good())),
        "history",
        history,
    );
    status["stableRevision"] = json!("v2");
    insta::assert_snapshot!(explained(&status));
}

#[test]
fn an_invalid_or_unobserved_spec_is_reported_first() {
    let condition = json!([{
        "type": "InvalidSpec", "status": "True", "reason": "InvalidSpec", "message": "spec.replicas: no",
        "lastTransitionTime": "2026-03-01T11:58:00Z"
    }]);
    let invalid = explained(&with(
        status("Progressing", "Progressing", 5.0, None),
        "conditions",
        condition,
    ));
    assert!(
        invalid.contains("The latest spec is invalid: spec.replicas: no"),
        "{invalid}"
    );
    let stale = explained(&with(
        status("Progressing", "Progressing", 5.0, None),
        "observedGeneration",
        json!(2),
    ));
    assert!(
        stale.contains("has not observed the latest spec yet"),
        "{stale}"
    );
}

#[test]
fn the_unit_of_assignment_is_explained_unless_it_is_the_request() {
    let note = "Service checkout: spec.sessionAffinity is ClientIP, so a client can stay.";
    let condition = json!([{
        "type": "RoutedPerRequest", "status": "False", "reason": "ByClient", "message": note,
        "lastTransitionTime": "2026-03-01T11:58:00Z"
    }]);
    let plain = status("Progressing", "Progressing", 5.0, Some(good()));
    let text = explained(&with(plain.clone(), "conditions", condition));
    assert!(text.contains("Unit of assignment"), "{text}");
    assert!(
        without_spaces(&text).contains(&without_spaces(note)),
        "{text}"
    );
    assert!(!explained(&plain).contains("Unit of assignment"));
}

#[test]
fn an_unreadable_checkpoint_does_not_hide_the_rest() {
    let mut status = status("Progressing", "Progressing", 5.0, Some(good()));
    status["analysis"]["checkpoint"] = json!({"of": "another version"});
    let text = explained_with(&status, true, true);
    assert!(
        text.contains("The canary failed 0 of 1,500 requests."),
        "{text}"
    );
    assert!(
        text.contains("plugin and controller versions may differ"),
        "{text}"
    );
}

fn observed(would_have: Value) -> Value {
    let mut status = status("Progressing", "Progressing", 5.0, Some(good()));
    status["plan"] = Value::Null;
    status["message"] = json!("Observing Deployment/checkout: v2 is being released");
    status["observation"] = json!({"workload": "Deployment/checkout", "release": {
        "revision": "v2", "startedAt": "2026-03-01T11:50:00Z", "wouldHave": would_have,
    }});
    status.as_object_mut().unwrap().remove("plan");
    status
}

#[test]
fn in_observe_mode_the_headline_is_what_serin_would_have_done() {
    let undecided = explained(&observed(Value::Null));
    assert!(
        undecided.contains("Serin has not decided about v2"),
        "{undecided}"
    );
    assert!(undecided.contains("Serin changes nothing"), "{undecided}");
    let rolled_back = explained(&observed(json!({
        "result": "RolledBack", "at": "2026-03-01T11:55:00Z", "cause": "Evidence", "message": "worse",
    })));
    let headline = "Serin would have rolled back v2 5m ago";
    assert!(rolled_back.contains(headline), "{rolled_back}");
    assert!(rolled_back.contains("worse"), "{rolled_back}");
}
