//! Tests each built-in indicator on the exposition text of its exporter: the series that are read,
//! and the side that each belongs to.

use std::collections::BTreeMap;

use promql_parser::parser::{self, Expr};
use serde_json::{Value, json};
use serin_analysis::Arm;
use serin_core::units::{Revision, Weight};
use serin_metrics_analysis::counter_selectors::{AnalysisError, CounterSelectors};
use serin_metrics_analysis::prometheus::{Labels, Series};
use serin_metrics_analysis::routes::{RouteBackend, RouteParent, RouteRule, RouteRules};
use serin_metrics_analysis::target_deduplicator::TargetDeduplicator;
use serin_metrics_analysis::{AnalysisRequest, ReleasePhase, RolloutName};

/// A series as Prometheus stores it, and its value.
pub type StoredSeries = (Labels, f64);

/// Requests and bad requests of the canary, of stable, and of all versions together.
#[derive(Debug, PartialEq)]
struct RequestTotals {
    canary: (f64, f64),
    stable: (f64, f64),
    service: (f64, f64),
}

const EXPECTED_TOTALS: RequestTotals = RequestTotals {
    canary: (3000.0, 24.0),
    stable: (27_015.0, 14.0),
    service: (30_015.0, 38.0),
};

/// Converts exposition text to stored series, as Prometheus does. A line `# target: ...` sets the
/// labels that the scrape adds to the following lines. If a series already has such a label, it
/// becomes `exported_...`, unless the scrape honors the labels of its target.
fn scraped(text: &str, honor_labels: bool) -> Vec<StoredSeries> {
    let mut target = Labels::new();
    let mut stored = Vec::new();
    for line in text.lines() {
        if let Some(labels) = line.strip_prefix("# target: ") {
            target = labels_of(labels);
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap();
        let mut all = Labels::from([("__name__".to_owned(), name.to_owned())]);
        for (label, value) in labels_of(labels.strip_suffix('}').unwrap()) {
            let is_taken = target.contains_key(&label) && !honor_labels;
            // Prometheus stores no label without a value.
            if !value.is_empty() {
                all.insert(
                    if is_taken {
                        format!("exported_{label}")
                    } else {
                        label
                    },
                    value,
                );
            }
        }
        for (label, value) in &target {
            all.entry(label.clone()).or_insert_with(|| value.clone());
        }
        stored.push((all, value.parse().unwrap()));
    }
    assert!(!stored.is_empty());
    stored
}

/// Parses `a="b",c="d"`. No value of the fixtures contains a quote or an escape.
fn labels_of(text: &str) -> Labels {
    let pairs = text
        .split("\",")
        .map(|pair| pair.split_once("=\"").unwrap());
    pairs
        .map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect()
}

/// The series that a selector matches.
pub fn select<'a>(stored: &'a [StoredSeries], selector: &str) -> Vec<&'a StoredSeries> {
    let Ok(Expr::VectorSelector(selector)) = parser::parse(selector) else {
        panic!("no selector: {selector}")
    };
    let matches = |(labels, _): &&StoredSeries| {
        let name = selector
            .name
            .as_ref()
            .is_none_or(|name| labels["__name__"] == *name);
        let value = |label: &str| labels.get(label).map_or("", String::as_str);
        name && selector
            .matchers
            .matchers
            .iter()
            .all(|matcher| matcher.is_match(value(&matcher.name)))
    };
    stored.iter().filter(matches).collect()
}

/// A rule of a route behind the Gateway `gateway-system/local`, with these Services.
pub fn rule(namespace: &str, route: &str, index: usize, services: &[&str]) -> RouteRule {
    let backend = |service: &&str| RouteBackend {
        namespace: namespace.to_owned(),
        service: (*service).to_owned(),
        port: Some(80),
    };
    RouteRule {
        namespace: namespace.to_owned(),
        route: route.to_owned(),
        index: Some(index),
        name: None,
        parents: vec![RouteParent {
            is_listener_set: false,
            namespace: "gateway-system".into(),
            name: "local".into(),
        }],
        backends: services.iter().map(backend).collect(),
    }
}

pub fn request() -> AnalysisRequest {
    AnalysisRequest {
        rollout: RolloutName {
            namespace: "shop".into(),
            name: "checkout".into(),
        },
        uid: "1".into(),
        revision: Revision::new("bbb"),
        analysis: serde_json::from_value(json!({"objectives": []})).unwrap(),
        stable_service: Some("checkout".into()),
        canary_service: Some("checkout-canary".into()),
        rules: RouteRules {
            split: vec![rule(
                "shop",
                "checkout",
                0,
                &["checkout", "checkout-canary"],
            )],
            others: Vec::new(),
        },
        pod_sides: BTreeMap::new(),
        stable_replica_set: Some("checkout-aaa".into()),
        canary_replica_set: "checkout-bbb".into(),
        pods_created_at: BTreeMap::new(),
        weight: Weight::percent(10),
        pace: None,
        evidence_required_at: None,
        phase: ReleasePhase::Release,
        freeze_lifted: false,
        previous_ended_at: None,
        resume_from: None,
    }
}

fn counters(objective: Value) -> Result<CounterSelectors, AnalysisError> {
    counters_of(&request(), objective)
}

pub fn counters_of(
    request: &AnalysisRequest,
    objective: Value,
) -> Result<CounterSelectors, AnalysisError> {
    let mut written = json!({"name": "availability", "objective": 99.9});
    written
        .as_object_mut()
        .unwrap()
        .extend(objective.as_object().unwrap().clone());
    CounterSelectors::new(&serde_json::from_value(written).unwrap(), request)
}

fn indicator(name: &str) -> CounterSelectors {
    counters(json!({"indicator": name})).unwrap()
}

fn sum<'a>(series: impl IntoIterator<Item = &'a StoredSeries>) -> f64 {
    series.into_iter().map(|(_, value)| value).sum()
}

/// The counts of an objective's four selectors. For a histogram, requests outside the bucket are
/// bad.
fn request_totals(counters: &CounterSelectors, stored: &[StoredSeries]) -> RequestTotals {
    let side_series = |selector: &str, arm: Arm| {
        sum(select(stored, selector)
            .into_iter()
            .filter(|(labels, _)| counters.arm(labels) == Some(arm)))
    };
    let bad = |total: f64, second: f64| {
        if counters.histogram.is_some() {
            total - second
        } else {
            second
        }
    };
    let arm = |arm: Arm| {
        let total = side_series(&counters.total_of_sides, arm);
        (
            total,
            bad(total, side_series(&counters.errors_of_sides, arm)),
        )
    };
    let total = sum(select(stored, &counters.total));
    let service = (total, bad(total, sum(select(stored, &counters.errors))));
    RequestTotals {
        canary: arm(Arm::Canary),
        stable: arm(Arm::Stable),
        service,
    }
}

#[test]
fn traefik_is_counted_by_service_in_every_notation() {
    let stored = scraped(include_str!("../fixtures/traefik.txt"), false);
    // A few more requests under older names: three to stable, and one to the canary, which failed.
    let expected = RequestTotals {
        canary: (3001.0, 25.0),
        stable: (27_018.0, 14.0),
        service: (30_019.0, 39.0),
    };
    assert_eq!(request_totals(&indicator("traefik"), &stored), expected);
}

#[test]
fn istio_is_counted_once_by_the_service_that_callers_chose() {
    let stored = scraped(include_str!("../fixtures/istio.txt"), false);
    assert_eq!(
        request_totals(&indicator("istio"), &stored),
        EXPECTED_TOTALS
    );
}

#[test]
fn linkerd_is_counted_by_backend_and_a_request_without_response_is_bad() {
    let stored = scraped(include_str!("../fixtures/linkerd.txt"), false);
    assert_eq!(
        request_totals(&indicator("linkerd"), &stored),
        EXPECTED_TOTALS
    );
}

#[test]
fn nginx_is_counted_by_the_upstream_of_the_canary() {
    let stored = scraped(include_str!("../fixtures/nginx.txt"), true);
    assert_eq!(
        request_totals(&indicator("nginx"), &stored),
        EXPECTED_TOTALS
    );
}

/// The label layouts of an indicator that match any series.
fn layouts_in(counters: &CounterSelectors, stored: &[StoredSeries]) -> Vec<CounterSelectors> {
    let is_found = |layout: &&CounterSelectors| !select(stored, &layout.total_of_sides).is_empty();
    counters.layouts().filter(is_found).cloned().collect()
}

/// The deduplicated series.
fn sides_only(counters: &CounterSelectors, stored: &[StoredSeries]) -> Vec<StoredSeries> {
    let series = |(labels, value): &StoredSeries| Series {
        labels: labels.clone(),
        samples: vec![(0, *value)],
    };
    let answer = select(stored, &counters.total_of_sides)
        .into_iter()
        .map(series)
        .collect();
    let [deduplicated] = TargetDeduplicator::default()
        .deduplicate(counters, [&answer])
        .unwrap();
    deduplicated
        .iter()
        .map(|series| (series.labels.clone(), series.samples[0].1))
        .collect()
}

#[test]
fn traefik_counts_once_with_every_scrape_configuration() {
    let text = include_str!("../fixtures/scrapes-traefik.txt");
    let sections: Vec<String> = text
        .split("# target: ")
        .skip(1)
        .map(|section| format!("# target: {section}"))
        .collect();
    assert_eq!(sections.len(), 4);
    // flagger #974, traefik-helm-chart #702: with a ServiceMonitor the label `service` becomes
    // `exported_service`.
    for section in &sections {
        let stored = scraped(section, false);
        let [layout] = layouts_in(&indicator("traefik"), &stored)
            .try_into()
            .unwrap();
        assert_eq!(
            request_totals(&layout, &sides_only(&layout, &stored)),
            EXPECTED_TOTALS,
            "{section}"
        );
    }
    let stored: Vec<StoredSeries> = sections
        .iter()
        .flat_map(|section| scraped(section, false))
        .collect();
    for layout in layouts_in(&indicator("traefik"), &stored) {
        assert_eq!(
            request_totals(&layout, &sides_only(&layout, &stored)),
            EXPECTED_TOTALS
        );
    }
}

#[test]
fn pods_behind_a_collector_are_read_from_the_renamed_label() {
    // A collector names the pods whose metrics it exposes; the scrape adds the labels of the
    // collector itself.
    let collector = "# target: job=\"collector\",instance=\"10.0.0.9:8889\",namespace=\"monitoring\",pod=\"collector-0\"\n";
    let series = |pod: &str| {
        format!(
            "http_server_request_duration_seconds_count{{namespace=\"shop\",pod=\"{pod}\",http_response_status_code=\"200\"}} 7\n"
        )
    };
    let text = format!(
        "{collector}{}{}",
        series("checkout-aaa-4c8mn"),
        series("checkout-bbb-x7k2p")
    );
    let stored = scraped(&text, false);
    let [layout] = layouts_in(&indicator("pod"), &stored).try_into().unwrap();
    let totals = request_totals(&layout, &sides_only(&layout, &stored));
    assert_eq!((totals.canary.0, totals.stable.0), (7.0, 7.0));
}

#[test]
fn nginx_without_honor_labels_is_read_from_the_renamed_labels() {
    let stored = scraped(include_str!("../fixtures/nginx.txt"), false);
    let no_requests = RequestTotals {
        canary: (0.0, 0.0),
        stable: (0.0, 0.0),
        service: (0.0, 0.0),
    };
    assert_eq!(request_totals(&indicator("nginx"), &stored), no_requests);
    let [layout] = layouts_in(&indicator("nginx"), &stored).try_into().unwrap();
    assert_eq!(
        request_totals(&layout, &sides_only(&layout, &stored)),
        EXPECTED_TOTALS
    );
    // Written out, as docs/reference/indicators.md has it.
    let series = "nginx_ingress_controller_requests{exported_namespace=\"shop\",exported_service=\"checkout\"";
    let written = counters(json!({"counters": {
        "total": format!("{series}}}"), "errors": format!("{series},status=~\"5..\"}}"),
        "variants": {"label": "canary", "canary": "shop-checkout-canary-.+", "stable": "(?:)"},
    }}));
    assert_eq!(request_totals(&written.unwrap(), &stored), EXPECTED_TOTALS);
}

#[test]
fn pods_are_counted_by_themselves_and_other_status_labels_are_no_data() {
    let stored = scraped(include_str!("../fixtures/pod.txt"), false);
    let counters = indicator("pod");
    // The service includes the pods of all revisions.
    assert_eq!(
        request_totals(&counters, &stored),
        RequestTotals {
            service: (30_085.0, 38.0),
            ..EXPECTED_TOTALS
        }
    );
    let of_pods = select(&stored, &counters.total_of_sides);
    let pods: Vec<_> = of_pods
        .into_iter()
        .filter_map(|(labels, _)| counters.pod(labels))
        .collect();
    assert_eq!(
        pods,
        [
            "checkout-aaa-4c8mn",
            "checkout-aaa-4c8mn",
            "checkout-bbb-x7k2p",
            "checkout-bbb-x7k2p"
        ]
    );
}

#[test]
fn envoy_gateway_is_rejected_because_its_counters_have_no_sides() {
    let analysis_error = counters(json!({"indicator": "envoy-gateway"})).unwrap_err();
    assert!(
        analysis_error.message.contains("use the indicator pod"),
        "{}",
        analysis_error.message
    );
    let stored = scraped(include_str!("../fixtures/envoy-gateway.txt"), false);
    let written = |route: &str| {
        let cluster =
            format!("envoy_cluster_name=~\"httproute/shop/{route}/rule/0(/backend/.+)?\"");
        let counters = counters(json!({"counters": {
            "total": format!("envoy_cluster_upstream_rq_completed{{{cluster}}}"),
            "errors": format!("envoy_cluster_upstream_rq_xx{{{cluster},envoy_response_code_class=\"5\"}}"),
            "variants": {"label": "envoy_cluster_name", "canary": ".*/backend/1", "stable": ".*/backend/0"},
        }}));
        request_totals(&counters.unwrap(), &stored)
    };
    // If a backend has a filter, each backend has its own cluster, and the sides can be
    // distinguished. Without a filter they cannot.
    assert_eq!(written("filtered"), EXPECTED_TOTALS);
    let undistinguished = RequestTotals {
        canary: (0.0, 0.0),
        stable: (0.0, 0.0),
        service: (30_015.0, 38.0),
    };
    assert_eq!(written("checkout"), undistinguished);
}

#[test]
fn a_native_histogram_is_read_without_a_suffix() {
    let stored = scraped(include_str!("../fixtures/pod.txt"), false);
    let counters =
        counters(json!({"indicator": "pod", "objective": 99, "latency": {"threshold": "250ms"}}))
            .unwrap();
    let native = |(labels, value): &StoredSeries| {
        let mut labels = labels.clone();
        let name = labels["__name__"].strip_suffix("_count")?.to_owned();
        labels.insert("__name__".to_owned(), name);
        Some((labels, *value))
    };
    let native: Vec<StoredSeries> = stored.iter().filter_map(native).collect();
    assert_eq!(select(&native, &counters.total_of_sides).len(), 4);
    assert_eq!(
        select(&native, &counters.errors_of_sides).len(),
        4,
        "its buckets are inside of it"
    );
    let service = counters.histogram.as_ref().unwrap().native.clone();
    assert!(select(&native, &service).len() > 4, "{service}");
}

#[test]
fn slow_requests_are_those_outside_the_bucket() {
    let cases = [
        (
            "traefik",
            "300ms",
            (2976.0, 76.0),
            (27_001.0, 201.0),
            include_str!("../fixtures/traefik.txt"),
        ),
        (
            "istio",
            "250ms",
            (2976.0, 76.0),
            (27_001.0, 201.0),
            include_str!("../fixtures/istio.txt"),
        ),
        (
            "linkerd",
            "1s",
            (3000.0, 2.0),
            (27_015.0, 14.0),
            include_str!("../fixtures/linkerd.txt"),
        ),
        (
            "nginx",
            "250ms",
            (2976.0, 76.0),
            (27_001.0, 201.0),
            include_str!("../fixtures/nginx.txt"),
        ),
        (
            "pod",
            "250ms",
            (3000.0, 76.0),
            (27_015.0, 201.0),
            include_str!("../fixtures/pod.txt"),
        ),
    ];
    for (name, threshold, canary, stable, text) in cases {
        let counters =
            counters(json!({"indicator": name, "latency": {"threshold": threshold}})).unwrap();
        let totals = request_totals(&counters, &scraped(text, name == "nginx"));
        assert_eq!((totals.canary, totals.stable), (canary, stable), "{name}");
        assert!(!counters.verified, "{name}: its bucket may be missing");
    }
}

#[test]
fn a_custom_histogram_is_selected_by_its_count() {
    let stored = scraped(include_str!("../fixtures/pod.txt"), false);
    let total = "http_server_request_duration_seconds_count{namespace=\"shop\",http_response_status_code!=\"\"}";
    let counters =
        counters(json!({"latency": {"threshold": "0.5s"}, "counters": {"total": total}})).unwrap();
    let totals = request_totals(&counters, &stored);
    assert_eq!(
        (totals.canary, totals.stable),
        ((3000.0, 0.0), (27_015.0, 1.0))
    );
}

#[test]
fn an_unusable_latency_objective_is_rejected() {
    let message = |objective: Value| counters(objective).unwrap_err().message;
    let total =
        |total: &str| json!({"latency": {"threshold": "300ms"}, "counters": {"total": total}});
    assert!(message(total("http_requests_total")).contains("the count of a histogram"));
    assert!(message(total("request_time_count")).contains("does not contain its unit"));
    assert!(
        message(json!({"latency": {"threshold": "soon"}, "indicator": "traefik"}))
            .contains("threshold \"soon\"")
    );
    assert!(message(json!({"counters": {"total": "a"}})).contains("counters.errors"));
    let both = json!({"latency": {"threshold": "1s"}, "counters": {"total": "a_seconds_count", "errors": "b"}});
    assert!(message(both).contains("keep one of the two"));
}
