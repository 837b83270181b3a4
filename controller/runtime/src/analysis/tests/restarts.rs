//! A restarted controller resumes the analysis.

use super::*;
use serin_core::hold::HoldCode;
use serin_core::observed::ReportKind;

#[tokio::test]
async fn a_restart_does_not_change_the_evidence() {
    let prometheus = start_prometheus(&TrafficScenario {
        canary: (60.0, 0.5),
        until_seconds: 120,
        ..TrafficScenario::default()
    })
    .await;
    let begun = checkpoint_with_traffic(&prometheus, &request()).await;
    let resumed =
        |from: &AnalysisStatus, seconds: i64| resume(&prometheus, &request(), from, seconds);
    let mut checkpoint = begun.clone();
    for seconds in [17, 18, 44, 71, 119] {
        checkpoint = resumed(&checkpoint, seconds)
            .wait_for_evidence_until(seconds - 1)
            .await;
    }
    let (straight, restarted) = (resumed(&begun, 120), resumed(&checkpoint, 120));
    let (straight, restarted) = same_round(&straight, &restarted, 119).await;
    assert_eq!(objective(&straight), objective(&restarted));
    assert!(objective(&straight)["evidence"]["ticks"].as_u64().unwrap() >= 119);
}

#[tokio::test]
async fn a_long_release_has_a_bounded_checkpoint_and_is_backfilled_in_parts() {
    let prometheus = start_prometheus(&TrafficScenario {
        until_seconds: 2_000,
        ..TrafficScenario::default()
    })
    .await;
    let resume_from = Some(checkpoint_with_traffic(&prometheus, &request()).await);
    let limits = Limits {
        answer_bytes: 40_000,
        ..Limits::default()
    };
    let running = start_with_limits(&prometheus, at(1_900), limits);
    running.manager.start_or_update(AnalysisRequest {
        resume_from,
        ..request()
    });
    let large = running.wait_for_evidence_until(1_899).await;
    assert!(objective(&large)["evidence"]["ticks"].as_u64().unwrap() >= 1_890);
    let size = large.checkpoint.to_string().len();
    // The evidence has at most 6 KB, and does not grow with the release.
    assert!(size < 8_000, "{size} bytes");
}

/// Five pods, each scraped at a different time within the second. `pod` returns the counts of the
/// canary pods.
fn pods_series() -> Vec<Series> {
    let series = |index: i64, pod: &str, code: &str, counted: &dyn Fn(i64) -> i64| {
        let instance = format!("10.0.0.{index}:8080");
        let labels = [
            ("__name__", "http_requests_total"),
            ("job", "pods"),
            ("instance", &instance),
            ("pod", pod),
            ("code", code),
        ];
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let samples = (-60..=600).map(|second| {
            (
                at(second).as_millisecond() + 170 * index,
                counted(second + 60) as f64,
            )
        });
        Series {
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            samples: samples.collect(),
        }
    };
    let pods = [
        "checkout-aaa-11111",
        "checkout-aaa-22222",
        "checkout-aaa-33333",
        "checkout-bbb-44444",
        "checkout-bbb-55555",
    ];
    let series = pods.iter().zip(1..).flat_map(|(pod, index)| {
        [
            series(index, pod, "200", &|second| second * (60 + index)),
            series(index, pod, "500", &|second| second * index / 40),
        ]
    });
    series.collect()
}

#[tokio::test]
async fn restarts_do_not_change_the_evidence_of_many_sources() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_series(pods_series());
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}"}}],
    });
    let request = AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    };
    let begun = checkpoint_with_traffic(&prometheus, &request).await;
    let resumed =
        |from: &AnalysisStatus, seconds: i64| resume(&prometheus, &request, from, seconds);
    let mut checkpoint = begun.clone();
    for seconds in [13, 40, 41, 90, 118] {
        checkpoint = resumed(&checkpoint, seconds)
            .wait_for_evidence_until(seconds - 2)
            .await;
    }
    let (straight, restarted) = (resumed(&begun, 125), resumed(&checkpoint, 125));
    let (straight, restarted) = same_round(&straight, &restarted, 120).await;
    assert_eq!(objective(&straight), objective(&restarted));
    // From second -2, the last one before the traffic was observed, to the last scrape of each
    // canary pod in the round.
    let errors = |index: i64| {
        let last = (round_at(Some(&straight)) - start().as_millisecond() - 170 * index) / 1_000;
        (last + 60) * index / 40 - 58 * index / 40
    };
    let errors = f64::from(i32::try_from(errors(4) + errors(5)).unwrap());
    assert_eq!(
        objective(&straight)["evidence"]["totals"]["canaryErrors"],
        json!(errors)
    );
}

#[tokio::test]
async fn missing_metrics_stay_reported_by_a_restarted_and_by_a_replaced_task() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let running = resume_at(&prometheus, &request(), 60).await;
    running.wait_for_evidence_until(59).await;
    prometheus.set_mode(Mode::Hangs);
    let message = running.wait_for_hold(HoldCode::Timeout).await;

    let again = start_manager(&prometheus, at(70));
    again.manager.start_or_update(AnalysisRequest {
        resume_from: running.snapshot().checkpoint,
        ..request()
    });
    let is_kept = |snapshot: &AnalysisSnapshot| {
        snapshot.report.holds.first().is_some_and(|hold| {
            hold.code == HoldCode::Timeout && hold.message.to_string() == message
        })
    };
    assert!(is_kept(&again.snapshot()), "before the task has begun");
    let continued = again
        .wait_until("a checkpoint", |snapshot| snapshot.checkpoint.is_some())
        .await;
    assert!(is_kept(&continued), "before the first answer");

    // Another pace replaces the task.
    again.manager.start_or_update(AnalysisRequest {
        pace: Some(EvidencePace {
            first_weight: Weight::percent(1),
            max_weight: Weight::percent(50),
        }),
        ..request()
    });
    assert!(is_kept(&again.snapshot()), "{:?}", again.snapshot().report);
    prometheus.set_mode(Mode::Normal);
    again
        .wait_until("no hold", |snapshot| {
            snapshot.report.kind() == ReportKind::Undecided
        })
        .await;
}

#[tokio::test]
async fn a_canary_with_traffic_is_held_until_its_metrics_are_read() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_mode(Mode::Hangs);
    let running = start_manager(&prometheus, start());
    running.manager.start_or_update(AnalysisRequest {
        weight: Weight::ZERO,
        ..request()
    });
    assert_eq!(running.snapshot().report.kind(), ReportKind::Undecided);
    running
        .wait_until("waiting", |snapshot| {
            snapshot.report.message.contains("No traffic")
        })
        .await;
    running.manager.start_or_update(request());
    running.wait_for_hold(HoldCode::EvidenceInsufficient).await;
    running.wait_for_hold(HoldCode::Timeout).await;
    prometheus.set_mode(Mode::Normal);
    running
        .wait_until("no hold", |snapshot| {
            snapshot.report.kind() == ReportKind::Undecided
        })
        .await;
}
