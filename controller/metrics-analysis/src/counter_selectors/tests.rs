use serde_json::json;
use serin_analysis::Arm;
use serin_core::hold::HoldCode;
use serin_crds::check::parse_promql;

use super::*;
use crate::fixtures::request;

fn counters(objective: serde_json::Value) -> Result<CounterSelectors, AnalysisError> {
    let objective: ObjectiveSpec = serde_json::from_value(objective).unwrap();
    CounterSelectors::new(&objective, &request())
}

fn selectors_from(total: &str, errors: &str) -> Result<CounterSelectors, AnalysisError> {
    counters(
        json!({"name": "availability", "objective": 99.9, "counters": {"total": total, "errors": errors}}),
    )
}

fn labels(label: &str, value: &str) -> Labels {
    Labels::from([(label.to_owned(), value.to_owned())])
}

#[test]
fn traefik_distinguishes_the_two_services_in_every_notation() {
    let counters =
        counters(json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}))
            .unwrap();
    let prefix = "httproute-shop-checkout-gw-infra-public-ep-web-0-8bd93a10a1ba373c380d-svc-shop-";
    let arm = |service: &str| counters.arm(&labels("service", service));
    assert_eq!(
        arm(&format!("{prefix}checkout-canary-1@kubernetesgateway")),
        Some(Arm::Canary)
    );
    assert_eq!(
        arm(&format!("{prefix}checkout-0@kubernetesgateway")),
        Some(Arm::Stable)
    );
    assert_eq!(
        arm("shop-checkout-canary-80@kubernetesgateway"),
        Some(Arm::Canary)
    );
    assert_eq!(arm("shop-checkout-80@kubernetesgateway"), Some(Arm::Stable));
    assert_eq!(arm("shop-checkout-other-80@kubernetesgateway"), None);
    assert_eq!(arm("othershop-checkout-80@kubernetesgateway"), None);
    assert_eq!(
        arm(&format!("{prefix}checkout-0@kubernetesgateway").replace("-0-8bd", "-1-8bd")),
        None,
        "another rule"
    );
    assert_eq!(
        arm(&format!("{prefix}checkout-0@kubernetesgateway").replace("infra", "other")),
        None
    );
    assert_eq!(arm("shop-checkout-80@kubernetescrd"), None);
    assert!(parse_promql(&counters.total).is_ok(), "{}", counters.total);
    assert!(
        parse_promql(&counters.errors).is_ok(),
        "{}",
        counters.errors
    );
    assert!(counters.verified);
}

#[test]
fn pods_are_distinguished_by_their_replica_set() {
    let counters = selectors_from(
        "http_requests_total{namespace=\"shop\"}",
        "http_requests_total{code=~\"5..\"}",
    )
    .unwrap();
    let arm = |pod: &str| counters.arm(&labels("pod", pod));
    assert_eq!(arm("checkout-bbb-x7k2p"), Some(Arm::Canary));
    assert_eq!(arm("checkout-aaa-x7k2p"), Some(Arm::Stable));
    assert_eq!(arm("checkout-aaa"), None);
    assert_eq!(arm("my-checkout-aaa-x7k2p"), None);
    assert_eq!(
        counters.pod(&labels("pod", "checkout-bbb-x7k2p")),
        Some("checkout-bbb-x7k2p")
    );
    assert_eq!(counters.total, "http_requests_total{namespace=\"shop\"}");
    assert_eq!(
        counters.total_of_sides,
        "http_requests_total{namespace=\"shop\",pod=~\"(?:checkout\\\\-bbb\\\\-[a-z0-9]{5})|(?:checkout\\\\-aaa\\\\-[a-z0-9]{5})\"}"
    );
}

#[test]
fn a_label_can_distinguish_the_sides() {
    let counters = counters(
        json!({"name": "availability", "objective": 99.9, "counters": {
        "total": "requests_total", "errors": "errors_total",
        "variants": {"label": "version", "canary": "v2.*", "stable": "v1.*"}}}),
    )
    .unwrap();
    assert_eq!(
        counters.arm(&labels("version", "v2-abc")),
        Some(Arm::Canary)
    );
    assert_eq!(
        counters.arm(&labels("version", "v1-abc")),
        Some(Arm::Stable)
    );
    assert_eq!(counters.arm(&labels("version", "xv1")), None);
    assert_eq!(counters.pod(&labels("version", "v2-abc")), None);
}

#[test]
fn a_series_of_both_sides_counts_for_neither() {
    let counters = counters(
        json!({"name": "availability", "objective": 99.9, "counters": {
        "total": "requests_total", "errors": "errors_total",
        "variants": {"label": "version", "canary": "v.*", "stable": "v1.*"}}}),
    )
    .unwrap();
    assert_eq!(counters.arm(&labels("version", "v1-abc")), None);
}

#[test]
fn other_expressions_than_selectors_are_rejected_with_the_fix() {
    let message = |total: &str| {
        let analysis_error = selectors_from(total, "errors_total").unwrap_err();
        assert_eq!(analysis_error.code, HoldCode::InvalidQuery);
        assert!(
            analysis_error
                .message
                .starts_with("spec.analysis.objectives[availability].counters.total: "),
            "{}",
            analysis_error.message
        );
        analysis_error.message
    };
    assert!(message("rate(http_requests_total[5m])").contains("without rate()"));
    assert!(message("http_requests_total[5m]").contains("range in brackets"));
    assert!(message("http_requests_total offset 5m").contains("offset"));
    assert!(message("http_requests_total{code=").contains("not PromQL"));
    assert!(message("1 + 1").contains("series selector"));
    assert!(message("requests_total{a=\"1\" or b=\"2\"}").contains("regular expression"));
}

#[test]
fn an_invalid_regular_expression_is_rejected() {
    let analysis_error = counters(
        json!({"name": "availability", "objective": 99.9, "counters": {
        "total": "requests_total", "errors": "errors_total",
        "variants": {"label": "version", "canary": "v2)|(", "stable": "v1"}}}),
    )
    .unwrap_err();
    assert!(
        analysis_error.message.contains("counters.variants.canary"),
        "{}",
        analysis_error.message
    );
}
