//! Releases whose samples arrive at another interval than the spec says.

use super::*;

/// The series of a story with one scrape every `every` seconds.
fn thinned(story: &Story, every: i64) -> Vec<Series> {
    let mut series = story.series();
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
async fn a_release_that_is_scraped_less_often_than_configured_is_not_stale() {
    let script = script(&Story::default()).await;
    script.set_series(thinned(&Story::default(), 30));
    let life = gone_on(&script, &request(), 299).await;
    // 29 s after the last scrape: at the configured 1 s that would be stale after 8 s.
    life.judged_until(270).await;
    let look = life
        .until("fresh samples", |look| look.has_samples_at_weight)
        .await;
    assert!(
        matches!(
            look.judgement,
            AnalysisReport::Undecided { .. } | AnalysisReport::Sound { .. }
        ),
        "{:?}",
        look.judgement
    );
    assert_eq!(
        look.evidence[0].note.as_deref(),
        Some("Samples arrive every 30 s; spec.analysis.prometheus.scrapeInterval says 1 s.")
    );
    let checkpoint = look.checkpoint.unwrap();
    assert_eq!(
        checkpoint.checkpoint["objectives"]["availability"]["scrapeIntervalMs"],
        json!(30_000)
    );
    // A restarted controller goes on with it, and an exporter that is gone becomes stale at last.
    let life = live(&script, at(600 + 90 + 10));
    life.judges.watch(JudgeRequest {
        resume_from: Some(checkpoint),
        ..request()
    });
    life.held_for("Stale").await;
}

#[tokio::test]
async fn sums_are_asked_for_at_the_interval_of_the_samples() {
    let script = script(&Story::default()).await;
    script.set_series(thinned(&Story::default(), 10));
    let mut begun = begun(&script, &request()).await;
    begun.checkpoint["objectives"]["availability"]["summed"] = json!(true);
    let life = live(&script, at(305));
    life.judges.watch(JudgeRequest {
        resume_from: Some(begun),
        ..request()
    });
    life.judged_until(270).await;
    let look = life.look();
    assert!(
        matches!(
            look.judgement,
            AnalysisReport::Undecided { .. } | AnalysisReport::Sound { .. }
        ),
        "{:?}",
        look.judgement
    );
    let reading = look.evidence[0].note.clone().unwrap();
    assert!(reading.contains("Samples arrive every 10 s"), "{reading}");
    assert!(
        reading.contains("up to 25 s later"),
        "the grid is the learned one: {reading}"
    );
}
