use serde_json::{Value, json};

use super::*;
use crate::fixtures::request;
use crate::objective_analysis::ObjectivePlan;
use crate::prometheus::{Series, Server};
use crate::release_analysis::{ReleaseAnalysis, settings_for};
use crate::request::AnalysisRequest;
use crate::sample_reader::ObjectiveAnswers;

const BEGAN_MS: i64 = 1_700_000_000_000;
const CANARY: &str = "checkout-bbb-11111";
const YOUNG: &str = "checkout-aaa-22222";
const OLD: [&str; 2] = ["checkout-aaa-33333", "checkout-aaa-44444"];

fn at_second(second: i64) -> Timestamp {
    Timestamp::from_millisecond(BEGAN_MS + second * 1_000).unwrap()
}

/// A request whose canary and youngest stable pod were created 20 s before the canary's traffic.
fn pod_request(objective: &Value, has_baseline: bool) -> AnalysisRequest {
    let mut analysis = json!({
        "warmUp": "0s",
        "prometheus": {"scrapeInterval": "15s"},
        "objectives": [objective],
    });
    if has_baseline {
        analysis["baseline"] = json!({"replicas": 1});
    }
    let created_at = [
        (CANARY, -20),
        (YOUNG, -20),
        (OLD[0], -90_000),
        (OLD[1], -80_000),
    ];
    AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        pods_created_at: created_at
            .map(|(pod, second)| (pod.to_owned(), at_second(second)))
            .into(),
        baseline_since: has_baseline.then(|| at_second(-21)),
        ..request()
    }
}

fn availability() -> Value {
    json!({"name": "availability", "objective": 99.9, "counters": {
        "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}",
    }})
}

fn series(name: &str, pod: &str, label: (&str, &str), second: i64, per_second: f64) -> Series {
    let labels = [
        ("__name__", name),
        ("job", "pods"),
        ("instance", pod),
        ("pod", pod),
        label,
    ];
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let samples = (0..=second)
        .step_by(15)
        .map(|at| (BEGAN_MS + at * 1_000, (at as f64 * per_second).floor()))
        .collect();
    Series {
        labels: labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        samples,
    }
}

/// Young pods of both sides fail 2 % of 50 requests per second, and old pods 0.05 %.
fn requests_until(second: i64) -> [Answer; 2] {
    let mut total = Answer::new();
    let pods = [
        (CANARY, 1.0),
        (YOUNG, 1.0),
        (OLD[0], 0.025),
        (OLD[1], 0.025),
    ];
    for (pod, errors) in pods {
        for (code, per_second) in [("200", 50.0 - errors), ("500", errors)] {
            let name = "http_requests_total";
            total.push(series(name, pod, ("code", code), second, per_second));
        }
    }
    let is_error = |series: &&Series| series.labels["code"] == "500";
    let errors = total.iter().filter(is_error).cloned().collect();
    [total, errors]
}

fn begin(request: &AnalysisRequest) -> ReleaseAnalysis {
    let settings = settings_for(request, Server::with_url("http://prometheus")).unwrap();
    let plans = ObjectivePlan::from_request(request).unwrap();
    ReleaseAnalysis::begin(settings, plans, request, None, BEGAN_MS).unwrap()
}

fn observe(release: &mut ReleaseAnalysis, answers: &[Answer], second: i64) {
    let now_ms = BEGAN_MS + second * 1_000;
    let samples = ObjectiveAnswers::from_answers(answers).unwrap();
    let settled_ms = release.settled_ms(0, samples.total, now_ms);
    release.observe(0, samples, settled_ms, now_ms);
}

#[test]
fn what_young_pods_of_both_sides_have_in_common_does_not_roll_back() {
    let mut release = begin(&pod_request(&availability(), true));
    for second in (15..900).step_by(15) {
        observe(&mut release, &requests_until(second), second);
        let report = release.snapshot(BEGAN_MS + second * 1_000).report;
        assert_eq!(report.breach, None);
    }
    let snapshot = release.snapshot(BEGAN_MS + 900_000);
    let note = snapshot.evidence[0].note.clone().unwrap();
    assert!(
        note.contains("compared with the 1 stable pod that started with it: ")
            && note.contains("All stable pods count for the error budget."),
        "{note}"
    );
    assert!(
        snapshot.evidence[0].stable.requests > 2.0 * snapshot.evidence[0].canary.requests,
        "the counts of stable are those of all pods"
    );
}

#[test]
fn without_a_baseline_the_same_release_is_rolled_back() {
    let mut release = begin(&pod_request(&availability(), false));
    let without_young_pod = |second: i64| {
        requests_until(second).map(|mut answer| {
            answer.retain(|series| series.labels["pod"] != YOUNG);
            answer
        })
    };
    let breach = (15..900).step_by(15).find_map(|second| {
        observe(&mut release, &without_young_pod(second), second);
        release.snapshot(BEGAN_MS + second * 1_000).report.breach
    });
    assert!(breach.is_some());
}

#[test]
fn the_latency_guard_compares_with_the_baseline() {
    let objective = json!({
        "name": "latency", "objective": 99, "latency": {"threshold": "1s", "guard": "Hold"},
        "counters": {"total": "duration_seconds_count"},
    });
    // Young pods are slower than 100 ms in 40 % of the cases, old pods in 10 %.
    let answers = |second: i64, has_baseline: bool| {
        let mut answers = [Answer::new(), Answer::new(), Answer::new()];
        let pods = [
            (CANARY, 30.0),
            (YOUNG, 30.0),
            (OLD[0], 45.0),
            (OLD[1], 45.0),
        ];
        for (pod, fast) in pods {
            if pod == YOUNG && !has_baseline {
                continue;
            }
            let none = ("kind", "count");
            answers[0].push(series("duration_seconds_count", pod, none, second, 50.0));
            for (edge, per_second) in [("0.1", fast), ("1", 50.0), ("+Inf", 50.0)] {
                let mut bucket = series(
                    "duration_seconds_bucket",
                    pod,
                    ("kind", "count"),
                    second,
                    per_second,
                );
                bucket.labels.insert("le".to_owned(), edge.to_owned());
                if edge == "1" {
                    answers[1].push(bucket.clone());
                }
                answers[2].push(bucket);
            }
        }
        answers
    };
    let e_value = |has_baseline: bool| {
        let mut release = begin(&pod_request(&objective, has_baseline));
        for second in (15..600).step_by(15) {
            observe(&mut release, &answers(second, has_baseline), second);
        }
        let evidence = &release.snapshot(BEGAN_MS + 600_000).evidence[0];
        evidence.latency_guard.as_ref().unwrap().e_value.unwrap()
    };
    assert!(e_value(false) > 100.0);
    assert!(e_value(true) < 2.0);
}

#[test]
fn baseline_pods_are_found_by_age_and_stay_after_they_were_deleted() {
    let request = pod_request(&availability(), true);
    let counters = ObjectivePlan::from_request(&request)
        .unwrap()
        .remove(0)
        .counters;
    let [total, _] = requests_until(30);
    let young = PodId::from_name(&source_key(&total[2].labels, Some(YOUNG)));
    let mut pods = BaselinePods::default();
    let mut created_at = request.pods_created_at.clone();
    assert_eq!(pods.find(&counters, &total, &created_at), None);
    pods.set_since(request.baseline_since);
    assert_eq!(
        pods.find(&counters, &total, &created_at),
        Some([young].into())
    );
    created_at.remove(YOUNG);
    assert_eq!(
        pods.find(&counters, &total, &created_at),
        Some([young].into()),
        "its last samples still count"
    );
    let compared = pods.compared(&counters, &total);
    let names: BTreeSet<&str> = compared
        .iter()
        .map(|series| series.labels["pod"].as_str())
        .collect();
    assert_eq!(names, [CANARY, YOUNG].into());
}

#[test]
fn a_release_without_baseline_pods_has_no_evidence_and_is_held() {
    let mut missing = pod_request(&availability(), true);
    missing.pods_created_at.remove(YOUNG);
    let mut release = begin(&missing);
    for second in (15..900).step_by(15) {
        observe(&mut release, &requests_until(second), second);
    }
    let report = release.snapshot(BEGAN_MS + 900_000).report;
    assert_eq!(report.breach, None);
    assert!(!report.holds.is_empty(), "{report:?}");
}
