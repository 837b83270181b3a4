//! The dispersion that is estimated from the time before a release.

use super::*;

/// A counter of a pod with one sample per second. `counts` returns the value at each second of the
/// scenario.
fn pod(name: &str, code: &str, from: i64, counts: impl Fn(i64) -> f64) -> Series {
    let labels = [
        ("__name__", "http_requests_total"),
        ("job", "shop"),
        ("instance", name),
        ("pod", name),
        ("code", code),
    ];
    Series {
        labels: labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        samples: (from..=120)
            .map(|second| (at(second).as_millisecond() + 10, counts(second)))
            .collect(),
    }
}

#[tokio::test]
async fn the_dispersion_of_stable_errors_is_estimated_from_before_the_release() {
    #[expect(clippy::cast_precision_loss, reason = "a few hundred seconds")]
    let requests = |second: i64| (second + 1_200) as f64 * 100.0;
    // One of two pods fails eight requests at once, every 40 seconds until the release starts.
    #[expect(clippy::cast_precision_loss, reason = "a few hundred seconds")]
    let clusters = |second: i64| ((second.min(-20) + 1_200) / 40 * 8) as f64;
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_series(vec![
        pod("checkout-aaa-x7k2p", "200", -1_200, requests),
        pod("checkout-aaa-x7k2p", "500", -1_200, clusters),
        pod("checkout-aaa-q9w4z", "200", -1_200, requests),
        pod("checkout-bbb-m3n5v", "200", 0, |second| {
            requests(second - 1_200)
        }),
    ]);
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}", "variants": {"podLabel": "pod"}}}],
    });
    let request = AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    };
    let running = resume_at(&prometheus, &request, 60).await;
    let checkpoint = running.wait_for_evidence_until(50).await;
    // The scale of single ticks ends with the chi-squared statistic and its degrees of freedom, both
    // weighted by errors.
    let dispersion = &objective(&checkpoint)["evidence"]["dispersion"]["scales"][0];
    let phi = dispersion[3].as_f64().unwrap() / dispersion[4].as_f64().unwrap();
    // Eight correlated errors in a second in which their pod had 108 requests and the other pod
    // 100.
    assert!((phi - 8.0 * 100.0 / 108.0).abs() < 0.01, "{dispersion}");
}
