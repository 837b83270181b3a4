//! The latency guard, from the buckets that Prometheus has to what the judge says.

use super::*;

/// Pods that keep the threshold of one second, and of whose requests so many of a hundred take
/// longer than 100 ms.
fn histograms(slow_of_canary: f64, slow_of_stable: f64) -> Vec<Series> {
    let of = |index: i64, pod: &str, le: Option<&str>, rate: f64| {
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
        let buckets = edges.map(|(le, rate)| of(index, pod, Some(le), rate));
        std::iter::once(of(index, pod, None, 100.0)).chain(buckets)
    });
    series.collect()
}

fn guarded(action: &str) -> JudgeRequest {
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"}, "warmUp": "0s",
        "objectives": [{"name": "latency", "objective": 99, "latency": {"threshold": "1s", "guard": action},
            "counters": {"total": "duration_seconds_count"}}],
    });
    JudgeRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    }
}

#[tokio::test]
async fn a_canary_that_keeps_its_threshold_and_is_slower_below_it_is_held() {
    let script = script(&Story::default()).await;
    script.set_series(histograms(40.0, 10.0));
    let life = gone_on(&script, &guarded("Hold"), 60).await;
    let message = life.held_for("LatencyGuard").await;
    assert!(
        message.contains("of the canary took longer than 100 ms; of stable's"),
        "{message}"
    );
    let look = life.look();
    let guard = look.evidence[0].latency_guard.clone().unwrap();
    assert_eq!(
        (guard.edges, guard.edge.as_deref(), guard.action.as_str()),
        (2, Some("100 ms"), "Hold")
    );
    assert!(
        guard.e_value.unwrap() > 100.0 && look.evidence[0].e_value.unwrap() < 1.0,
        "{look:?}"
    );
    // Its evidence outlives the process.
    let again = live(&script, at(62));
    again.judges.watch(JudgeRequest {
        resume_from: look.checkpoint,
        ..guarded("Hold")
    });
    assert_eq!(
        again.held_for("LatencyGuard").await.split(':').next(),
        Some("Slower than stable")
    );
}

#[tokio::test]
async fn a_guard_that_may_rolls_back_and_one_of_alike_sides_lets_go_on() {
    let script = script(&Story::default()).await;
    script.set_series(histograms(40.0, 10.0));
    let life = gone_on(&script, &guarded("RollBack"), 60).await;
    let look = life
        .until("a rollback", |look| {
            matches!(look.judgement, AnalysisReport::RollBack { .. })
        })
        .await;
    let AnalysisReport::RollBack { cause, message } = look.judgement else {
        panic!()
    };
    assert_eq!(cause, "Evidence");
    assert!(
        message.contains("of the canary took longer than 100 ms"),
        "{message}"
    );

    script.set_series(histograms(10.0, 10.0));
    let life = gone_on(&script, &guarded("RollBack"), 60).await;
    let look = life
        .until("evidence", |look| {
            !look.evidence.is_empty() && look.evidence[0].canary.requests > 1_000.0
        })
        .await;
    let goes_on = matches!(
        look.judgement,
        AnalysisReport::Undecided { .. } | AnalysisReport::Sound { .. }
    );
    assert!(goes_on, "{:?}", look.judgement);
    assert!(
        look.evidence[0]
            .latency_guard
            .as_ref()
            .unwrap()
            .e_value
            .unwrap()
            < 1.0
    );
}

#[tokio::test]
async fn buckets_of_too_many_series_are_added_up_and_guarded_all_the_same() {
    let script = script(&Story::default()).await;
    let parts = histograms(40.0, 10.0).into_iter().flat_map(|series| {
        ["/a", "/b", "/c"].map(|path| {
            let mut part = series.clone();
            part.labels.insert("path".to_owned(), path.to_owned());
            part
        })
    });
    script.set_series(parts.collect());
    let begun = begun(&script, &guarded("Hold")).await;
    let life = live_within(
        &script,
        at(60),
        Limits {
            answer_series: 20,
            ..Limits::default()
        },
    );
    life.judges.watch(JudgeRequest {
        resume_from: Some(begun),
        ..guarded("Hold")
    });
    let message = life.held_for("LatencyGuard").await;
    assert!(
        message.contains("of the canary took longer than 100 ms"),
        "{message}"
    );
    assert!(life.look().evidence[0].note.is_some());
}
