use super::*;
use crate::counts::PodId;

fn pod(name: &str, requests: f64, errors: f64) -> PodCounts {
    PodCounts {
        pod: PodId::from_name(name),
        requests,
        errors,
    }
}

fn id(name: &str) -> u64 {
    PodId::from_name(name).or_position(0)
}

/// One scrape of these canary pods and of two stable pods that fail at 0.1 %.
fn tick(index: i64, canary: &[PodCounts]) -> Tick {
    let sum = |count: fn(&PodCounts) -> f64| canary.iter().map(count).sum();
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts: Counts::new(sum(|pod| pod.requests), sum(|pod| pod.errors), 2_000.0, 2.0),
        stable_pods: vec![pod("s1", 1_000.0, 1.0), pod("s2", 1_000.0, 1.0)],
        canary_pods: canary.to_vec(),
        ..Tick::default()
    }
}

fn after(ticks: i64, canary: &[PodCounts]) -> PodEvidence {
    let mut pods = PodEvidence::default();
    for index in 0..ticks {
        pods.add(&tick(index, canary), 0, 0.001);
    }
    pods
}

#[test]
fn the_limit_is_the_number_of_ways_to_choose_the_canary_pods() {
    assert_eq!(pod_arrangement_limit(1, 4), 5.0);
    assert_eq!(pod_arrangement_limit(1, 99), 100.0);
    assert_eq!(pod_arrangement_limit(2, 13), 105.0);
    assert_eq!(pod_arrangement_limit(3, 7), 120.0);
    assert_eq!(pod_arrangement_limit(7, 3), 120.0);
    assert_eq!(pod_arrangement_limit(0, 4), 1.0);
    assert_eq!(pod_arrangement_limit(4, 0), 1.0);
    assert_eq!(pod_arrangement_limit(5_000, 5_000), 1e12);
}

#[test]
fn the_one_pod_that_fails_is_an_outlier() {
    let pods = after(
        10,
        &[
            pod("a", 100.0, 3.0),
            pod("b", 100.0, 0.0),
            pod("c", 100.0, 0.1),
        ],
    );
    let outlier = pods.canary_outlier(1.0).unwrap();
    assert_eq!(outlier.pod, id("a"));
    assert_eq!(outlier.counts, Counts::new(1_000.0, 30.0, 2_000.0, 1.0));
    assert!(outlier.share > 0.99, "{}", outlier.share);
    assert_eq!(pods.stable_outlier(1.0), None);
    assert_eq!(
        pods.canary_outlier(20.0),
        None,
        "one cluster of errors is not a bad pod"
    );
}

#[test]
fn a_release_that_fails_on_all_pods_has_no_outlier() {
    let equal = [pod("a", 100.0, 3.0), pod("b", 100.0, 3.0)];
    assert_eq!(after(10, &equal).canary_outlier(1.0), None);
    let uneven = [pod("a", 100.0, 6.0), pod("b", 100.0, 3.0)];
    assert_eq!(after(10, &uneven).canary_outlier(1.0), None);
    let busy = [pod("a", 1_000.0, 9.0), pod("b", 1.0, 0.0)];
    assert_eq!(
        after(2, &busy).canary_outlier(1.0),
        None,
        "the other pod had no requests that could fail"
    );
}

#[test]
fn one_pod_cannot_be_distinguished_from_the_release() {
    let pods = after(10, &[pod("a", 100.0, 30.0)]);
    assert_eq!(pods.canary_outlier(1.0), None);
    assert_eq!(pods.only_canary_pod(), Some(id("a")));
    assert_eq!(
        after(1, &[pod("a", 1.0, 0.0), pod("b", 1.0, 0.0)]).only_canary_pod(),
        None
    );
}

#[test]
fn a_pod_that_is_excluded_is_charged_but_is_not_evidence() {
    let canary = [pod("a", 100.0, 10.0), pod("b", 100.0, 0.0)];
    let mut pods = after(10, &canary);
    let outlier = pods.canary_outlier(1.0).unwrap();
    assert!(pods.exclude(&outlier, "a", 150_000));
    let next = tick(10, &canary);
    let kept = pods.add(&next, 0, 0.001).into_owned();
    assert_eq!(kept.counts, Counts::new(100.0, 0.0, 2_000.0, 2.0));
    assert_eq!(kept.canary_pods, [canary[1]]);
    assert!((pods.excess_errors(0.001) - 9.9).abs() < 1e-9);
    assert_eq!(pods.excluded[0].last_seen_ms, 165_000);
    assert_eq!(pods.only_canary_pod(), None);
    // The errors of both parts are those of the whole.
    let mut whole = SpentBudget::default();
    whole.charge(&next, 0, 0.001);
    let mut rest = SpentBudget::default();
    rest.charge(&kept, 0, 0.001);
    let parts = pods.excess_errors(0.001) + rest.excess_errors(0.001);
    assert!((whole.excess_errors(0.001) - parts).abs() < 1e-9);
}

#[test]
fn a_release_excludes_few_pods() {
    let mut pods = PodEvidence::default();
    let outlier = |pod| OutlierPod {
        pod,
        share: 1.0,
        counts: Counts::default(),
    };
    for pod in 1..=3 {
        assert!(pods.exclude(&outlier(pod), "pod", 0));
    }
    assert!(!pods.exclude(&outlier(4), "pod", 0));
}

#[test]
fn the_state_stays_small_and_survives_json_exactly() {
    let mut pods = PodEvidence::default();
    for index in 0..200_i64 {
        let names: Vec<String> = (index..index + 40)
            .map(|pod| format!("pod-{pod}"))
            .collect();
        let canary: Vec<PodCounts> = names
            .iter()
            .map(|name| pod(name, 1_234.0, if name == "pod-100" { 7.0 } else { 0.0 }))
            .collect();
        pods.add(&tick(index, &canary), 0, 0.001);
    }
    let outlier = pods.canary_outlier(1.0).unwrap();
    assert_eq!(
        outlier.pod,
        id("pod-100"),
        "the pod with the errors is kept"
    );
    let requests: f64 = pods.canary.iter().map(|tally| tally.requests).sum();
    assert_eq!(requests, 200.0 * 40.0 * 1_234.0);
    pods.exclude(&outlier, &"p".repeat(63), 1);
    let json = serde_json::to_string(&pods).unwrap();
    assert!(json.len() < 3_500, "{} bytes", json.len());
    assert_eq!(serde_json::from_str::<PodEvidence>(&json).unwrap(), pods);
}
