//! The explanation of each state that a Rollout is seen in, made through the controller's own
//! types.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use serin_analysis::counts::{Counts, Tick};
use serin_analysis::evidence::TickContext;
use serin_analysis::judge::{JudgeConfig, ObjectiveEvidence};
use serin_analysis::{Objective, PodCounts};
use serin_crds::RolloutSpec;
use serin_metrics_analysis::checkpoint::{Checkpoint, ObjectiveCheckpoint};
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::settings::Settings;

use super::*;
use crate::picture::Picture;
use crate::report::report;

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

/// A judged release: so many scrapes of these counts, and what is told of them.
struct Judged {
    checkpoint: Value,
    evidence: Value,
}

fn judged(scrapes: i64, counts: Counts, allotment: Option<f64>, pods: &[PodCounts]) -> Judged {
    let spec: RolloutSpec = serde_json::from_value(spec(true)).unwrap();
    let analysis = spec.analysis.unwrap();
    let settings = Settings::new(&analysis, None, Server::at("http://p")).unwrap();
    let config = settings.objective(&analysis.objectives[0], Some(0.0005), true);
    let (objective, mut state) = Objective::begin(config, BEGAN_MS).unwrap();
    let context = TickContext {
        warm_up_ends_ms: BEGAN_MS,
        weight_changed_at_ms: BEGAN_MS,
    };
    for scrape in 0..scrapes {
        let started_ms = BEGAN_MS + scrape * 15_000;
        let tick = Tick {
            started_ms,
            at_ms: started_ms + 15_000,
            counts,
            stable_pods: pods.to_vec(),
        };
        state.evidence.add(objective.bets(), &tick, &context);
        state.round_at_ms = tick.at_ms;
    }
    let judge = JudgeConfig::default();
    let told = ObjectiveEvidence::of(
        "availability",
        objective.bets(),
        &state.evidence,
        &judge,
        0.05,
    );
    let totals = told.counts;
    let evidence = json!([{
        "objective": "availability",
        "canary": {"requests": totals.canary_requests, "errors": totals.canary_errors},
        "stable": {"requests": totals.stable_requests, "errors": totals.stable_errors},
        "excess": told.excess, "lower": told.lower, "upper": told.upper, "eValue": told.ln_e.exp(), "threshold": 100.0,
        "budgetAllotment": allotment, "budgetSpent": told.spent,
        "message": "what the controller says"
    }]);
    let of = ObjectiveCheckpoint {
        fingerprint: String::new(),
        usual_rate: Some(0.0005),
        state,
        watch: None,
        summed: false,
        guard: None,
        scrape_interval_ms: None,
    };
    let checkpoint = Checkpoint {
        began_ms: BEGAN_MS,
        traffic_since_ms: Some(BEGAN_MS),
        previous_ended_second: None,
        burned_before: None,
        warm_up_ends_ms: BEGAN_MS,
        weight_thousandths: 5_000,
        weight_changed_at_ms: BEGAN_MS,
        fresh_since_ms: Some(BEGAN_MS),
        decided: None,
        phase: None,
        checks: BTreeMap::new(),
        objectives: BTreeMap::from([("availability".to_owned(), of)]),
    };
    Judged {
        checkpoint: serde_json::to_value(checkpoint).unwrap(),
        evidence,
    }
}

fn good() -> Judged {
    judged(20, Counts::new(75.0, 0.0, 1425.0, 1.0), Some(5184.0), &[])
}

fn status(stage: &str, phase: &str, weight: f64, judged: Option<Judged>) -> Value {
    let spec: RolloutSpec = serde_json::from_value(spec(true)).unwrap();
    let mut status = json!({
        "observedGeneration": 3, "phase": phase, "stage": stage, "stageSince": "2026-03-01T11:50:00Z",
        "stableRevision": "v1", "currentRevision": "v2",
        "plan": {"hash": "h", "spec": serde_json::to_value(spec.plan("checkout").unwrap()).unwrap()},
        "weights": {"desired": weight, "verified": weight, "since": "2026-03-01T11:50:00Z"},
        "replicas": 5, "updatedReplicas": 1, "readyReplicas": 5, "availableReplicas": 5
    });
    if let Some(judged) = judged {
        status["evidence"] = judged.evidence;
        status["analysis"] = json!({"revision": "v2", "startedAt": "2026-03-01T11:50:00Z", "checkpoint": judged.checkpoint});
    }
    status
}

fn with(mut status: Value, field: &str, value: Value) -> Value {
    status[field] = value;
    status
}

fn held(reason: &str, message: &str) -> Value {
    in_condition(("MetricsReady", "False"), reason, message)
}

fn in_condition((condition, is): (&str, &str), reason: &str, message: &str) -> Value {
    let condition = json!([{
        "type": condition, "status": is, "reason": reason, "message": message,
        "lastTransitionTime": "2026-03-01T11:58:00Z"
    }]);
    with(
        status("Progressing", "Progressing", 5.0, Some(good())),
        "conditions",
        condition,
    )
}

fn aborted(cause: &str, message: &str, judged: Option<Judged>) -> Value {
    let abort = json!({
        "revision": "v2", "at": "2026-03-01T11:55:00Z", "cause": cause, "message": message,
        "by": if cause == "Command" { json!("ann") } else { Value::Null }
    });
    with(status("Aborted", "Degraded", 0.0, judged), "abort", abort)
}

fn explained_with(status: &Value, analysis: bool, all: bool) -> String {
    let rollout = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "checkout", "namespace": "shop", "generation": 3},
        "spec": spec(analysis), "status": status
    });
    let picture = Picture {
        rollout: serde_json::from_value(rollout).unwrap(),
        replica_sets: Ok(Vec::new()),
        pods: Ok(Vec::new()),
        routes: Vec::new(),
    };
    let look = Look {
        now: NOW.parse().unwrap(),
        zone: TimeZone::UTC,
        width: 100,
    };
    let report = report(&picture, look.now);
    assert_eq!(report.unread, Vec::<String>::new());
    let read = fetch::Read::of(&picture);
    let numbers = read.analysis.as_ref().map_or(Ok(Vec::new()), |of| {
        numbers(of, read.plan.as_ref(), &read.status)
    });
    let text = render(
        &Case {
            report: &report,
            analysis: read.analysis.as_ref(),
            numbers,
        },
        &look,
        all,
    );
    anstream::adapter::strip_str(&text).to_string()
}

fn explained(status: &Value) -> String {
    explained_with(status, true, false)
}

#[test]
fn undecided_tells_counts_then_the_comparison_then_what_is_needed_then_the_guarantee() {
    insta::assert_snapshot!(explained(&status(
        "Progressing",
        "Progressing",
        5.0,
        Some(good())
    )));
}

#[test]
fn all_adds_the_numbers_and_what_the_guarantee_stands_on() {
    insta::assert_snapshot!(explained_with(
        &status("Progressing", "Progressing", 5.0, Some(good())),
        true,
        true
    ));
}

#[test]
fn clustered_errors_are_told_with_the_temper() {
    let pods =
        [(712.0, 9.0), (713.0, 0.0)].map(|(requests, errors)| PodCounts { requests, errors });
    let judged = judged(20, Counts::new(75.0, 0.0, 1425.0, 9.0), None, &pods);
    let text = explained_with(
        &status("Progressing", "Progressing", 5.0, Some(judged)),
        true,
        true,
    );
    assert!(text.contains("k = 9 (phi = 9.01)"), "{text}");
    assert!(text.contains("the allotment is not known"), "{text}");
}

#[test]
fn rolled_back_by_evidence() {
    let bad = judged(12, Counts::new(150.0, 3.0, 1350.0, 1.0), Some(5184.0), &[]);
    insta::assert_snapshot!(explained(&aborted(
        "Evidence",
        "Rolled back at 10 %: ...",
        Some(bad)
    )));
}

#[test]
fn rolled_back_by_the_budget_is_bounded_by_one_in_ten_only() {
    let bad = judged(12, Counts::new(150.0, 1.0, 1350.0, 1.0), Some(10.0), &[]);
    let text = explained(&aborted(
        "ErrorBudget",
        "Rolled back at 10 %: ...",
        Some(bad),
    ));
    assert!(text.contains("its error budget is spent"), "{text}");
    assert!(text.contains("at most 1 time in 10 where"), "{text}");
    assert!(text.contains("of the 10 errors that it may cost"), "{text}");
}

#[test]
fn what_a_crash_a_command_or_a_deadline_has_ended_was_not_decided_by_metrics() {
    let cases = [
        ("PodCrash", "its pods crash"),
        ("Command", "Aborted by a command by ann"),
        ("ProgressDeadline", "did not get ready in time"),
        ("Reverted", "went back to stable"),
        ("SomethingNew", "Aborted (SomethingNew)"),
    ];
    for (cause, words) in cases {
        let text = explained(&aborted(cause, "why it was", Some(good())));
        assert!(
            text.contains(words) && text.contains("Why it was."),
            "{cause}: {text}"
        );
        assert!(
            text.contains("The metrics did not decide this."),
            "{cause}: {text}"
        );
        assert!(
            text.contains("kubectl serin retry checkout -n shop"),
            "{cause}: {text}"
        );
        assert!(!text.contains("Evidence this strong"), "{cause}: {text}");
    }
}

#[test]
fn held_without_data() {
    let message = "availability has had no data for 2 min. This is not success. Holding at 5 %.";
    insta::assert_snapshot!(explained(&held("NoData", message)));
}

#[test]
fn every_cause_of_holding_is_explained_with_what_helps() {
    let causes = [
        "NoData",
        "Stale",
        "NoTraffic",
        "UnverifiedSelector",
        "Unreachable",
        "Timeout",
        "Partial",
        "NotANumber",
        "InvalidQuery",
        "InvalidSpec",
        "TooLarge",
        "Malformed",
        "SpecUnusable",
        "NotConfigured",
        "SecretForbidden",
        "SecretNotFound",
        "InvalidSecret",
        "SecretUnavailable",
        "Unauthorized",
        "UntrustedCertificate",
    ];
    let frozen = ["BudgetSpent", "ServiceBurning"].map(|cause| (cause, ("Frozen", "True")));
    for (cause, condition) in causes
        .map(|cause| (cause, ("MetricsReady", "False")))
        .into_iter()
        .chain(frozen)
    {
        let text = explained(&in_condition(condition, cause, "What the controller says."));
        assert!(
            text.contains(&format!("Held ({cause}): revision v2 at 5 %")),
            "{text}"
        );
        assert!(text.contains("What the controller says."), "{text}");
        assert!(text.contains("nothing is taken for a success"), "{text}");
        assert!(
            !text.contains("Until this is over nothing is promoted."),
            "{cause} has no words of its own"
        );
    }
    let unknown = explained(&held("SomethingNew", "What the controller says."));
    assert!(
        unknown.contains("Until this is over nothing is promoted."),
        "{unknown}"
    );
}

#[test]
fn a_latency_guard_that_holds_is_explained_and_one_that_does_not_is_told() {
    let guarded = |e_value: f64| {
        let mut status = status("Progressing", "Progressing", 5.0, Some(good()));
        status["evidence"][0]["latencyGuard"] = json!({
            "eValue": e_value, "threshold": 100.0, "action": "Hold", "edges": 12, "edge": "25ms",
            "message": "Slower than stable: 300 of 3,000 requests took longer than 25 ms."
        });
        explained(&status)
    };
    let holds = guarded(120.0);
    assert!(
        holds.contains("Held (LatencyGuard): revision v2 at 5 %"),
        "{holds}"
    );
    assert!(
        holds.contains("Slower than stable: 300 of 3,000"),
        "{holds}"
    );
    let calm = guarded(20.0);
    assert!(
        !calm.contains("Held") && calm.contains("Slower than stable: 300 of 3,000"),
        "{calm}"
    );
}

#[test]
fn no_request_yet_is_no_success() {
    let none = explained(&status("Progressing", "Progressing", 5.0, None));
    assert!(
        none.contains("no request to the canary has been counted. This is not success."),
        "{none}"
    );
    let zero = judged(4, Counts::new(0.0, 0.0, 1500.0, 1.0), Some(5184.0), &[]);
    let zero = explained(&status("Progressing", "Progressing", 5.0, Some(zero)));
    assert!(
        zero.contains("No request to the canary has been counted. This is not success."),
        "{zero}"
    );
    assert!(!zero.contains("more requests"), "{zero}");
}

#[test]
fn a_canary_without_a_stable_side_has_nothing_to_be_compared_with() {
    let alone = judged(4, Counts::new(1500.0, 1.0, 0.0, 0.0), Some(5184.0), &[]);
    let alone = explained(&status("Progressing", "Progressing", 100.0, Some(alone)));
    let unwrapped = alone.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        unwrapped.contains("there is nothing to compare with"),
        "{alone}"
    );
    assert!(!alone.contains("more requests"), "{alone}");
}

#[test]
fn a_pause_tells_who_can_end_it() {
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
        inconclusive.contains("the evidence has not, in the longest time"),
        "{inconclusive}"
    );
    assert!(pause("Step", json!("2026-03-01T12:03:00Z")).contains("the end of a timed pause"));
    assert!(pause("Command", Value::Null).contains("kubectl serin resume checkout -n shop"));
}

#[test]
fn proven_is_told_as_what_is_shown() {
    let proven = judged(400, Counts::new(750.0, 0.0, 750.0, 0.0), Some(5184.0), &[]);
    let text = explained(&status("Promoting", "Progressing", 100.0, Some(proven)));
    assert!(text.contains("Being promoted: revision v2"), "{text}");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains(
            "it is shown that of 10,000 requests the canary fails less than 5 more than stable"
        ),
        "{text}"
    );
}

#[test]
fn states_without_evidence_say_so() {
    let unseen = explained(&Value::Null);
    assert!(
        unseen.contains("Not yet seen by the controller"),
        "{unseen}"
    );
    let first = explained(&status("FirstDeploy", "Progressing", 0.0, None));
    assert!(
        first.contains("no stable one to compare it with"),
        "{first}"
    );
    let unjudged = explained_with(
        &status("Progressing", "Progressing", 5.0, None),
        false,
        false,
    );
    assert!(
        unjudged.contains("Not judged") && unjudged.contains("pods that crash and people alone"),
        "{unjudged}"
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
fn a_spec_that_cannot_be_used_and_one_that_is_too_new_are_told_first() {
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
        invalid.contains("The newest spec cannot be used: spec.replicas: no"),
        "{invalid}"
    );
    let stale = explained(&with(
        status("Progressing", "Progressing", 5.0, None),
        "observedGeneration",
        json!(2),
    ));
    assert!(
        stale.contains("has not yet taken in the newest spec"),
        "{stale}"
    );
}

#[test]
fn evidence_that_cannot_be_read_hides_nothing_else() {
    let mut status = status("Progressing", "Progressing", 5.0, Some(good()));
    status["analysis"]["checkpoint"] = json!({"of": "another version"});
    let text = explained_with(&status, true, true);
    assert!(
        text.contains("The canary failed 0 of 1,500 requests."),
        "{text}"
    );
    assert!(
        text.contains("older or newer than the controller"),
        "{text}"
    );
}
