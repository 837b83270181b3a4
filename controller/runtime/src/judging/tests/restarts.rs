//! A controller that begins again goes on where it was.

use super::*;

#[tokio::test]
async fn a_restart_in_mid_evidence_gives_the_same_answer() {
    let script = script(&Story {
        canary: (60.0, 0.5),
        until_seconds: 120,
        ..Story::default()
    })
    .await;
    let begun = begun(&script, &request()).await;
    let resumed = async |from: &AnalysisStatus, seconds: i64| {
        let life = live(&script, at(seconds));
        life.judges.watch(JudgeRequest {
            resume_from: Some(from.clone()),
            ..request()
        });
        life.judged_until(seconds - 1).await
    };
    let straight = resumed(&begun, 120).await;
    let mut restarted = begun.clone();
    for seconds in [17, 18, 44, 71, 119, 120] {
        restarted = resumed(&restarted, seconds).await;
    }
    // Both have seen the last sample.
    assert_eq!(round_at(Some(&straight)), round_at(Some(&restarted)));
    assert_eq!(objective(&straight), objective(&restarted));
    assert!(objective(&straight)["evidence"]["ticks"].as_u64().unwrap() >= 119);
}

#[tokio::test]
async fn a_long_release_keeps_its_size_and_is_read_again_in_portions_that_fit() {
    let script = script(&Story {
        until_seconds: 2_000,
        ..Story::default()
    })
    .await;
    let resume_from = Some(begun(&script, &request()).await);
    let limits = Limits {
        answer_bytes: 40_000,
        ..Limits::default()
    };
    let life = live_within(&script, at(1_900), limits);
    life.judges.watch(JudgeRequest {
        resume_from,
        ..request()
    });
    let large = life.judged_until(1_899).await;
    assert!(objective(&large)["evidence"]["ticks"].as_u64().unwrap() >= 1_890);
    let size = large.checkpoint.to_string().len();
    assert!(size < 4_000, "{size} bytes");
}

/// Five pods, each scraped at its own moment of the second; the canary's counts by `pod`.
fn pods_series() -> Vec<Series> {
    let of = |index: i64, pod: &str, code: &str, counted: &dyn Fn(i64) -> i64| {
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
            of(index, pod, "200", &|second| second * (60 + index)),
            of(index, pod, "500", &|second| second * index / 40),
        ]
    });
    series.collect()
}

#[tokio::test]
async fn many_sources_give_the_same_answer_after_restarts_too() {
    let script = script(&Story::default()).await;
    script.set_series(pods_series());
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}"}}],
    });
    let request = JudgeRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    };
    let begun = begun(&script, &request).await;
    let resumed = |from: &AnalysisStatus, seconds: i64| {
        let life = live(&script, at(seconds));
        life.judges.watch(JudgeRequest {
            resume_from: Some(from.clone()),
            ..request.clone()
        });
        life
    };
    let mut checkpoint = begun.clone();
    for seconds in [13, 40, 41, 90, 118] {
        checkpoint = resumed(&checkpoint, seconds)
            .judged_until(seconds - 2)
            .await;
    }
    let (straight, restarted) = (resumed(&begun, 125), resumed(&checkpoint, 125));
    let (straight, restarted) = same_round(&straight, &restarted, 120).await;
    assert_eq!(objective(&straight), objective(&restarted));
    // From second -2, the last before the traffic was seen, to each canary pod's last scrape of the
    // round.
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
