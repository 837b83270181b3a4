use serde_json::json;

use super::*;
use crate::fixtures::request;

fn counters(objective: &serde_json::Value) -> CounterSelectors {
    let mut written = json!({"name": "availability", "objective": 99.9});
    written
        .as_object_mut()
        .unwrap()
        .extend(objective.as_object().unwrap().clone());
    CounterSelectors::new(&serde_json::from_value(written).unwrap(), &request()).unwrap()
}

fn traefik() -> CounterSelectors {
    counters(&json!({"indicator": "traefik"}))
}

fn by_pod() -> CounterSelectors {
    counters(&json!({"counters": {"total": "requests_total", "errors": "errors_total"}}))
}

fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Series {
    let labels = labels
        .iter()
        .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
    Series {
        labels: labels.collect(),
        samples: samples.to_vec(),
    }
}

/// The counter of stable at one Traefik instance.
fn traefik_series(scrape: &[(&str, &str)]) -> Series {
    let mut labels = vec![
        ("code", "200"),
        ("service", "shop-checkout-80@kubernetesgateway"),
    ];
    labels.extend_from_slice(scrape);
    series(&labels, &[(1_000, 5.0), (2_000, 9.0)])
}

fn deduplicated(counters: &CounterSelectors, answer: &Answer) -> Result<Vec<Series>, String> {
    TargetDeduplicator::default()
        .deduplicate(counters, [answer])
        .map(|[answer]| answer.into_owned())
}

#[test]
fn a_process_that_several_jobs_scrape_counts_once() {
    // A ServiceMonitor, a PodMonitor and annotations, as their usual relabeling writes them.
    let service_monitor = [
        ("job", "traefik"),
        ("instance", "10.0.0.1:9100"),
        ("namespace", "infra"),
        ("pod", "traefik-a"),
        ("container", "traefik"),
        ("endpoint", "metrics"),
    ];
    let pod_monitor = [
        ("job", "infra/traefik"),
        ("instance", "10.0.0.1:9100"),
        ("namespace", "infra"),
        ("pod", "traefik-a"),
        ("container", "traefik"),
        ("endpoint", "metrics"),
    ];
    let annotations = [
        ("job", "kubernetes-pods"),
        ("instance", "10.0.0.1:9100"),
        ("node", "worker-1"),
    ];
    let answer = vec![
        traefik_series(&service_monitor),
        traefik_series(&pod_monitor),
        traefik_series(&annotations),
    ];
    assert_eq!(deduplicated(&traefik(), &answer).unwrap().len(), 1);
}

#[test]
fn two_processes_both_count() {
    let series = |instance: &str, pod: &str| {
        traefik_series(&[
            ("job", "traefik"),
            ("instance", instance),
            ("namespace", "infra"),
            ("pod", pod),
        ])
    };
    let answer = vec![
        series("10.0.0.1:9100", "traefik-a"),
        series("10.0.0.2:9100", "traefik-b"),
    ];
    assert_eq!(deduplicated(&traefik(), &answer).unwrap().len(), 2);
    // In two jobs that are distinguished by their addresses.
    let series =
        |job: &str, instance: &str| traefik_series(&[("job", job), ("instance", instance)]);
    let answer = vec![series("a", "10.0.0.1:9100"), series("b", "10.0.0.2:9100")];
    assert_eq!(deduplicated(&traefik(), &answer).unwrap().len(), 2);
}

#[test]
fn a_pair_of_prometheus_servers_counts_once() {
    // Thanos without deduplication: all labels are equal except for the replica label.
    let series = |replica: &str| {
        traefik_series(&[
            ("job", "traefik"),
            ("instance", "10.0.0.1:9100"),
            ("prometheus_replica", replica),
        ])
    };
    let kept = deduplicated(
        &traefik(),
        &vec![series("prometheus-0"), series("prometheus-1")],
    )
    .unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].labels["prometheus_replica"], "prometheus-0");
}

#[test]
fn one_proxy_on_two_ports_counts_once() {
    // Istio: the same counters at 15090 of Envoy and, merged with the application's, at 15020.
    let series = |job: &str, instance: &str| {
        traefik_series(&[
            ("job", job),
            ("instance", instance),
            ("namespace", "infra"),
            ("pod", "gateway-a"),
        ])
    };
    let answer = vec![
        series("annotations", "10.0.0.1:15020"),
        series("infra/envoy", "10.0.0.1:15090"),
    ];
    assert_eq!(deduplicated(&traefik(), &answer).unwrap().len(), 1);
}

#[test]
fn jobs_that_may_scrape_the_same_process_are_rejected() {
    let series =
        |job: &str, instance: &str| traefik_series(&[("job", job), ("instance", instance)]);
    for (one, other) in [
        ("10.0.0.1:9100", "10.0.0.1:9101"),
        ("10.0.0.1:9100", "worker-1"),
        ("10.0.0.1:9100", ""),
    ] {
        let error =
            deduplicated(&traefik(), &vec![series("a", one), series("b", other)]).unwrap_err();
        assert!(
            error.contains("job=\"a\"")
                && error.contains("job=\"b\"")
                && error.contains("remove one of the two jobs"),
            "{error}"
        );
    }
}

#[test]
fn series_of_several_clusters_are_rejected() {
    let series = |cluster: &str, instance: &str| {
        traefik_series(&[
            ("job", "traefik"),
            ("instance", instance),
            ("cluster", cluster),
        ])
    };
    let error = deduplicated(
        &traefik(),
        &vec![
            series("east", "10.0.0.1:9100"),
            series("west", "10.1.0.1:9100"),
        ],
    )
    .unwrap_err();
    assert!(
        error.contains("cluster=\"east\"") && error.contains("cluster=\"west\""),
        "{error}"
    );
}

#[test]
fn pods_behind_one_collector_are_distinguished() {
    let series = |pod: &str, job: &str| {
        series(
            &[("job", job), ("instance", "10.0.0.9:8889"), ("pod", pod)],
            &[(1_000, 1.0)],
        )
    };
    let answer = vec![
        series("checkout-aaa-11111", "a"),
        series("checkout-aaa-22222", "a"),
        series("checkout-aaa-22222", "b"),
    ];
    assert_eq!(deduplicated(&by_pod(), &answer).unwrap().len(), 2);
}

#[test]
fn two_containers_of_a_pod_count_and_one_container_in_two_jobs_is_rejected() {
    let series = |job: &str, port: &str, endpoint: &str| {
        let instance = format!("10.0.0.9:{port}");
        series(
            &[
                ("job", job),
                ("instance", &instance),
                ("endpoint", endpoint),
                ("pod", "checkout-aaa-11111"),
            ],
            &[(1_000, 1.0)],
        )
    };
    assert_eq!(
        deduplicated(
            &by_pod(),
            &vec![
                series("a", "80", "/x"),
                series("a", "80", "/y"),
                series("a", "81", "")
            ]
        )
        .unwrap()
        .len(),
        3
    );
    assert!(
        deduplicated(
            &by_pod(),
            &vec![series("a", "80", ""), series("b", "81", "")]
        )
        .is_err()
    );
}

#[test]
fn a_silent_target_is_replaced_and_its_successor_counts_from_its_second_scrape() {
    let series = |job: &str, samples: &[(i64, f64)]| {
        series(
            &[
                ("job", job),
                ("instance", "10.0.0.9:80"),
                ("pod", "checkout-bbb-11111"),
            ],
            samples,
        )
    };
    let jobs = |targets: &mut TargetDeduplicator, answer: &Answer| {
        let [kept] = targets.deduplicate(&by_pod(), [answer]).unwrap();
        kept.iter()
            .map(|series| series.labels["job"].clone())
            .collect::<Vec<_>>()
    };
    let born = BTreeMap::from([("checkout-bbb-11111".to_owned(), Timestamp::UNIX_EPOCH)]);
    let mut targets = TargetDeduplicator::default();
    assert_eq!(
        jobs(&mut targets, &vec![series("b", &[(1, 1.0), (2, 2.0)])]),
        ["b"]
    );
    assert_eq!(
        jobs(
            &mut targets,
            &vec![
                series("a", &[(2, 2.0), (3, 3.0)]),
                series("b", &[(1, 1.0), (3, 3.0)])
            ]
        ),
        ["b"]
    );
    assert_eq!(targets.without_changed_pods(&born).len(), 1);
    assert_eq!(
        jobs(
            &mut targets,
            &vec![
                series("a", &[(2, 2.0), (9, 9.0)]),
                series("b", &[(1, 1.0), (3, 3.0)])
            ]
        ),
        ["a"]
    );
    assert_eq!(
        targets.without_changed_pods(&born).len(),
        0,
        "it would count all of its requests again"
    );
}
