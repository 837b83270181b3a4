//! The latency guard, from the Prometheus buckets to the report.

use super::*;
use serin_core::hold::HoldCode;
use serin_core::observed::Breach;
use serin_core::observed::ReportKind;
use serin_core::state::AbortCause;
use serin_crds::analysis::GuardAction;

/// Pods that meet the threshold of one second, and the percentage of requests on each side that
/// take longer than 100 ms.
fn latency_series(slow_of_canary: f64, slow_of_stable: f64) -> Vec<Series> {
    let series = |index: i64, pod: &str, le: Option<&str>, rate: f64| {
        let instance = format!("10.0.0.{index}:8080");
        let name = if le.is_some() {
            "duration_seconds_bucket"
        } else {
            "duration_seconds_count"
        };
        let labels = [
            ("__name__", name),
            ("job", "pods"),
            ("instance", &instance),
            ("pod", pod),
        ];
        let labels = labels.into_iter().chain(le.map(|le| ("le", le)));
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let samples = (-60..=600).map(|second| {
            (
                at(second).as_millisecond() + 170 * index,
                (rate * (second + 60) as f64).floor(),
            )
        });
        Series {
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            samples: samples.collect(),
        }
    };
    let pods = [
        ("checkout-aaa-11111", slow_of_stable),
        ("checkout-aaa-22222", slow_of_stable),
        ("checkout-bbb-33333", slow_of_canary),
    ];
    let series = pods.into_iter().zip(1..).flat_map(|((pod, slow), index)| {
        let edges = [("0.1", 100.0 - slow), ("1", 99.9), ("+Inf", 100.0)];
        let buckets = edges.map(|(le, rate)| series(index, pod, Some(le), rate));
        std::iter::once(series(index, pod, None, 100.0)).chain(buckets)
    });
    series.collect()
}

fn request_with_guard(action: &str) -> AnalysisRequest {
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"}, "warmUp": "0s",
        "objectives": [{"name": "latency", "objective": 99, "latency": {"threshold": "1s", "guard": action},
            "counters": {"total": "duration_seconds_count"}}],
    });
    AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    }
}

#[tokio::test]
async fn a_canary_that_meets_its_threshold_but_is_slower_is_held() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_series(latency_series(40.0, 10.0));
    let running = resume_at(&prometheus, &request_with_guard("Hold"), 60).await;
    let message = running.wait_for_hold(HoldCode::LatencyGuard).await;
    assert!(
        message.contains("canary requests took longer than 100 ms; for stable,"),
        "{message}"
    );
    let snapshot = running.snapshot();
    let guard = snapshot.evidence[0].latency_guard.clone().unwrap();
    assert_eq!(
        (guard.edges, guard.edge.as_deref(), guard.action),
        (2, Some("100 ms"), GuardAction::Hold)
    );
    assert!(
        guard.e_value.unwrap() > 100.0 && snapshot.evidence[0].e_value.unwrap() < 1.0,
        "{snapshot:?}"
    );
    // Its evidence survives a restart.
    let again = start_manager(&prometheus, at(62));
    again.manager.start_or_update(AnalysisRequest {
        resume_from: snapshot.checkpoint,
        ..request_with_guard("Hold")
    });
    assert_eq!(
        again
            .wait_for_hold(HoldCode::LatencyGuard)
            .await
            .split(':')
            .next(),
        Some("Slower than stable")
    );
}

#[tokio::test]
async fn a_latency_guard_can_roll_back_and_passes_if_both_sides_are_equal() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_series(latency_series(40.0, 10.0));
    let running = resume_at(&prometheus, &request_with_guard("RollBack"), 60).await;
    let snapshot = running
        .wait_until("a rollback", |snapshot| {
            snapshot.report.kind() == ReportKind::Breach
        })
        .await;
    let Some(Breach { cause, message }) = snapshot.report.breach else {
        panic!()
    };
    assert_eq!(cause, AbortCause::Evidence);
    assert!(
        message.contains("canary requests took longer than 100 ms"),
        "{message}"
    );

    prometheus.set_series(latency_series(10.0, 10.0));
    let running = resume_at(&prometheus, &request_with_guard("RollBack"), 60).await;
    let snapshot = running
        .wait_until("evidence", |snapshot| {
            !snapshot.evidence.is_empty() && snapshot.evidence[0].canary.requests > 1_000.0
        })
        .await;
    let continues = snapshot.report.is_fresh();
    assert!(continues, "{:?}", snapshot.report);
    assert!(
        snapshot.evidence[0]
            .latency_guard
            .as_ref()
            .unwrap()
            .e_value
            .unwrap()
            < 1.0
    );
}

#[tokio::test]
async fn the_latency_guard_works_with_server_side_aggregation() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let parts = latency_series(40.0, 10.0).into_iter().flat_map(|series| {
        ["/a", "/b", "/c"].map(|path| {
            let mut part = series.clone();
            part.labels.insert("path".to_owned(), path.to_owned());
            part
        })
    });
    prometheus.set_series(parts.collect());
    let begun = checkpoint_with_traffic(&prometheus, &request_with_guard("Hold")).await;
    let running = start_with_limits(
        &prometheus,
        at(60),
        Limits {
            answer_series: 20,
            ..Limits::default()
        },
    );
    running.manager.start_or_update(AnalysisRequest {
        resume_from: Some(begun),
        ..request_with_guard("Hold")
    });
    let message = running.wait_for_hold(HoldCode::LatencyGuard).await;
    assert!(
        message.contains("canary requests took longer than 100 ms"),
        "{message}"
    );
    assert!(running.snapshot().evidence[0].note.is_some());
}
