//! Tests the latency objectives of the built-in indicators on the exposition text of their exporters.

use serde_json::{Value, json};

use crate::support::{StoredSeries, counters, request_totals, scraped, select};

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
            "envoy-gateway",
            "250ms",
            (3000.0, 76.0),
            (27_015.0, 201.0),
            include_str!("../fixtures/envoy-gateway.txt"),
        ),
        (
            "contour",
            "250ms",
            (3000.0, 76.0),
            (27_015.0, 201.0),
            include_str!("../fixtures/contour.txt"),
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
