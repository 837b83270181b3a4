use jiff::ToSpan;

use super::*;
use crate::fixtures::request;
use crate::prometheus::{Labels, Server};

fn by_pod() -> AnalysisRequest {
    let objectives = serde_json::json!([
        {"name": "pods", "objective": 99.9, "counters": {"total": "requests_total",
            "errors": "requests_total{code=\"500\"}"}},
        {"name": "gateway", "objective": 99.9, "indicator": "traefik"},
    ]);
    let mut request = request();
    request.analysis.objectives = serde_json::from_value(objectives).unwrap();
    request
}

fn settings(request: &AnalysisRequest) -> Settings {
    Settings::new(
        &request.analysis,
        None,
        Server::with_url("http://prometheus"),
    )
    .unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn refuted() -> DatedPlacebo {
    DatedPlacebo {
        at: now(),
        summary: PlaceboSummary {
            hours: 22,
            hours_with_rollback: 7,
            refutes_bound: true,
        },
    }
}

#[test]
fn without_a_release_all_pods_are_stable() {
    let set = "checkout-bbb".to_owned();
    let request = AnalysisRequest {
        stable_replica_set: Some(set.clone()),
        canary_replica_set: set,
        ..by_pod()
    };
    let labels: Labels = [
        ("__name__", "requests_total"),
        ("pod", "checkout-bbb-xk2v9"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let pods = idle_plan(&request, 0).unwrap();
    assert_eq!(pods.counters.arm(&labels), Some(Arm::Stable));
    assert!(
        idle_plan(&request, 1).is_none(),
        "a gateway does not distinguish pods"
    );
    let both = ObjectivePlan::from_request(&request).unwrap();
    assert_eq!(
        both[0].counters.arm(&labels),
        None,
        "both sides are the same"
    );
}

#[test]
fn a_spec_that_cannot_be_read_has_no_placebo_releases() {
    let mut request = by_pod();
    request.analysis.objectives[0].objective = 100.0;
    assert!(idle_plan(&request, 0).is_none());
}

#[test]
fn pods_that_start_later_are_stable_as_well() {
    // The name of the ReplicaSet does not fit into the names of its pods.
    let set = format!("checkout-{}", "b".repeat(60));
    let pod = format!("{}-xk2v9", &set[..57]);
    let mut request = AnalysisRequest {
        stable_replica_set: Some(set.clone()),
        canary_replica_set: set,
        ..by_pod()
    };
    let labels: Labels = [("pod".to_owned(), pod.clone())].into();
    let arm = |request: &AnalysisRequest| idle_plan(request, 0).unwrap().counters.arm(&labels);
    assert_eq!(arm(&request), None);
    request.pod_sides.insert(pod, Arm::Canary);
    assert_eq!(arm(&request), Some(Arm::Stable));
}

#[test]
fn placebo_releases_in_the_status_are_those_of_its_settings() {
    let request = by_pod();
    let (spec, settings) = (&request.analysis.objectives[0], settings(&request));
    let status = refuted().to_status(spec, &settings);
    assert_eq!((status.hours, status.hours_with_rollback), (22, 7));
    let read = |spec: &ObjectiveSpec, settings: &Settings| {
        DatedPlacebo::from_status(&status, spec, settings)
    };
    assert_eq!(read(spec, &settings), Some(refuted()));
    let stricter = ObjectiveSpec {
        objective: 99.99,
        ..spec.clone()
    };
    assert_eq!(read(&stricter, &settings), None);
    let mut bolder = settings.clone();
    bolder.analysis.alpha = 0.05;
    assert_eq!(read(spec, &bolder), None);
    let mut elsewhere = settings;
    elsewhere.server = Server::with_url("http://mimir");
    assert_eq!(read(spec, &elsewhere), Some(refuted()));
}

#[test]
fn the_next_day_is_read_a_day_later_also_if_the_clock_was_set_back() {
    let due_in = |hours: i64| refuted().due_in(now() + hours.hours()).as_secs() / 3_600;
    assert_eq!(
        [0, 1, 23, 24, 100, -5].map(due_in),
        [24, 23, 1, 0, 0, 24],
        "hours"
    );
}
