//! Releases whose samples arrive at another interval than configured.

use super::*;
use serin_core::hold::HoldCode;

/// The series of a scenario with one scrape every `every` seconds.
fn series_every(scenario: &TrafficScenario, every: i64) -> Vec<Series> {
    let mut series = scenario.series();
    for series in &mut series {
        series
            .samples
            .retain(|(at_ms, _)| ((at_ms - start().as_millisecond()) / 1_000) % every == 0);
    }
    series.retain(|series| !series.samples.is_empty());
    series
}

// flagger #1123, prometheus #8001: the scrape interval is longer than the configured one.
#[tokio::test]
async fn a_longer_scrape_interval_than_configured_is_not_stale() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_series(series_every(&TrafficScenario::default(), 30));
    let running = resume_at(&prometheus, &request(), 299).await;
    // 29 s after the last scrape. With the configured interval of 1 s, this would be stale after 8
    // s.
    running.wait_for_evidence_until(270).await;
    let snapshot = running
        .wait_until("fresh samples", |snapshot| snapshot.has_samples_at_weight)
        .await;
    assert!(snapshot.report.is_fresh(), "{:?}", snapshot.report);
    assert_eq!(
        snapshot.evidence[0].note.as_deref(),
        Some("Samples arrive every 30 s; spec.analysis.prometheus.scrapeInterval is 1 s.")
    );
    let checkpoint = snapshot.checkpoint.unwrap();
    assert_eq!(
        checkpoint.checkpoint["objectives"]["availability"]["scrapeIntervalMs"],
        json!(30_000)
    );
    // A restarted controller keeps the measured interval, and a removed exporter eventually becomes
    // stale.
    let running = start_manager(&prometheus, at(600 + 90 + 10));
    running.manager.start_or_update(AnalysisRequest {
        resume_from: Some(checkpoint),
        ..request()
    });
    running.wait_for_hold(HoldCode::Stale).await;
}

#[tokio::test]
async fn aggregation_uses_the_measured_scrape_interval() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_series(series_every(&TrafficScenario::default(), 10));
    let mut begun = checkpoint_with_traffic(&prometheus, &request()).await;
    begun.checkpoint["objectives"]["availability"]["summed"] = json!(true);
    let running = start_manager(&prometheus, at(305));
    running.manager.start_or_update(AnalysisRequest {
        resume_from: Some(begun),
        ..request()
    });
    running.wait_for_evidence_until(270).await;
    let snapshot = running.snapshot();
    assert!(snapshot.report.is_fresh(), "{:?}", snapshot.report);
    let reading = snapshot.evidence[0].note.clone().unwrap();
    assert!(reading.contains("Samples arrive every 10 s"), "{reading}");
    assert!(
        reading.contains("delays the results by up to 25 s"),
        "the grid is the learned one: {reading}"
    );
}
