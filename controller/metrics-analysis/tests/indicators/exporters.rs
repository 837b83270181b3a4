//! Tests each built-in indicator on the exposition text of its exporter: the series that are read,
//! and the side that each belongs to.

use serde_json::json;

use crate::support::{
    EXPECTED_TOTALS, RequestTotals, StoredSeries, counters, indicator, layouts_in, request_totals,
    scraped, select, sides_only,
};

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
fn clusters_of_envoy_are_counted_by_the_service_that_they_are_named_after() {
    for (name, text) in [
        (
            "envoy-gateway",
            include_str!("../fixtures/envoy-gateway.txt"),
        ),
        ("contour", include_str!("../fixtures/contour.txt")),
    ] {
        let stored = scraped(text, false);
        let totals = request_totals(&indicator(name), &stored);
        assert_eq!(totals, EXPECTED_TOTALS, "{name}");
    }
}

#[test]
fn clusters_of_envoy_gateway_that_backends_with_filters_have_are_counted_by_their_position() {
    let stored = scraped(include_str!("../fixtures/envoy-gateway.txt"), false);
    let cluster = "envoy_cluster_name=~\"httproute/shop/filtered/rule/0/backend/.+\"";
    let counters = counters(json!({"counters": {
        "total": format!("envoy_cluster_upstream_rq_completed{{{cluster}}}"),
        "errors": format!("envoy_cluster_upstream_rq_xx{{{cluster},envoy_response_code_class=\"5\"}}"),
        "variants": {"label": "envoy_cluster_name", "canary": ".*/backend/1", "stable": ".*/backend/0"},
    }}));
    assert_eq!(request_totals(&counters.unwrap(), &stored), EXPECTED_TOTALS);
}

// As seen with the TraefikService of a local cluster, and Traefik's own kinds in general.
#[test]
fn services_of_traefiks_own_kinds_are_counted_by_written_counters() {
    let stored = scraped(include_str!("../fixtures/traefik-crd.txt"), false);
    let services = "service=~\"shop-checkout(-canary)?-8080@kubernetescrd\"";
    let counters = counters(json!({"counters": {
        "total": format!("traefik_service_requests_total{{{services}}}"),
        "errors": format!("traefik_service_requests_total{{{services},code=~\"5..\"}}"),
        "variants": {
            "label": "service", "canary": "shop-checkout-canary-8080@kubernetescrd",
            "stable": "shop-checkout-8080@kubernetescrd",
        },
    }}));
    let expected = RequestTotals {
        canary: (81.0, 4.0),
        stable: (731.0, 5.0),
        service: (812.0, 9.0),
    };
    assert_eq!(request_totals(&counters.unwrap(), &stored), expected);
}
