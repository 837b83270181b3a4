//! Series that are too many to be read individually.

use super::*;
use serin_core::hold::HoldCode;

/// The counters of the scenario, each split into three series.
fn split_in_three(scenario: &TrafficScenario) -> Vec<Series> {
    let parts = scenario.series().into_iter().flat_map(|series| {
        ["/a", "/b", "/c"].map(|path| {
            let mut part = series.clone();
            part.labels.insert("path".to_owned(), path.to_owned());
            part
        })
    });
    parts.collect()
}

/// Limits that fit the aggregated series but not the individual ones.
fn narrow_limits() -> Limits {
    Limits {
        answer_series: 5,
        ..Limits::default()
    }
}

fn evidence_count(checkpoint: &AnalysisStatus, what: &str) -> f64 {
    objective(checkpoint)["evidence"]["totals"][what]
        .as_f64()
        .unwrap()
}

#[tokio::test]
async fn the_switch_to_aggregation_counts_nothing_twice() {
    let scenario = TrafficScenario {
        canary: (60.0, 0.5),
        stable: (240.0, 2.0),
        ..TrafficScenario::default()
    };
    let prometheus = start_prometheus(&scenario).await;
    prometheus.set_series(split_in_three(&scenario));
    let begun = checkpoint_with_traffic(&prometheus, &request()).await;
    let single = start_manager(&prometheus, at(100));
    single.manager.start_or_update(AnalysisRequest {
        resume_from: Some(begun),
        ..request()
    });
    let single = single.wait_for_evidence_until(99).await;
    let summed = start_with_limits(&prometheus, at(120), narrow_limits());
    summed.manager.start_or_update(AnalysisRequest {
        resume_from: Some(single.clone()),
        ..request()
    });
    let snapshot = summed
        .wait_until("sums", |snapshot| {
            round_at(snapshot.checkpoint.as_ref()) >= at(113).as_millisecond()
        })
        .await;
    let checkpoint = snapshot.checkpoint.clone().unwrap();
    assert_eq!(
        checkpoint.checkpoint["objectives"]["availability"]["summed"],
        json!(true)
    );
    let reading = snapshot.evidence[0].note.as_deref().unwrap();
    assert!(
        reading.starts_with("There are too many series to read them individually"),
        "{reading}"
    );
    // The last individual samples are 10 ms after a full second. The step that contains them is not
    // counted; all later steps are.
    let from_ms = round_at(Some(&single)) - start().as_millisecond();
    let seconds =
        (round_at(Some(&checkpoint)) - start().as_millisecond()) / 1_000 - (from_ms / 1_000 + 1);
    let seconds = f64::from(i32::try_from(seconds).unwrap());
    assert!(seconds >= 10.0, "{seconds}");
    let more = |what: &str| evidence_count(&checkpoint, what) - evidence_count(&single, what);
    assert_eq!(
        (more("canaryRequests"), more("stableRequests")),
        (seconds * 180.0, seconds * 720.0)
    );
    assert!(
        (more("stableErrors") - seconds * 6.0).abs() <= 3.0,
        "{}",
        more("stableErrors")
    );
}

#[tokio::test]
async fn restarts_do_not_change_aggregated_evidence() {
    let scenario = TrafficScenario {
        canary: (60.0, 0.5),
        ..TrafficScenario::default()
    };
    let prometheus = start_prometheus(&scenario).await;
    prometheus.set_series(split_in_three(&scenario));
    let begun = checkpoint_with_traffic(&prometheus, &request()).await;
    let resumed = |from: &AnalysisStatus, seconds: i64| {
        // Between two scrapes, so that both processes have read the same samples regardless of when
        // they poll within that second.
        let running = start_with_limits(
            &prometheus,
            at(seconds) + 500.milliseconds(),
            narrow_limits(),
        );
        running.manager.start_or_update(AnalysisRequest {
            resume_from: Some(from.clone()),
            ..request()
        });
        running
    };
    let mut checkpoint = begun.clone();
    for seconds in [20, 41, 90] {
        checkpoint = resumed(&checkpoint, seconds)
            .wait_for_evidence_until(seconds - 8)
            .await;
    }
    let (straight, restarted) = (resumed(&begun, 125), resumed(&checkpoint, 125));
    let (straight, restarted) = same_round(&straight, &restarted, 117).await;
    assert_eq!(objective(&straight), objective(&restarted));
    assert!(objective(&straight)["evidence"]["ticks"].as_u64().unwrap() >= 110);
}

#[tokio::test]
async fn aggregates_that_exceed_the_limits_hold_with_a_suggestion() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_series(split_in_three(&TrafficScenario::default()));
    let begun = checkpoint_with_traffic(&prometheus, &request()).await;
    let running = start_with_limits(
        &prometheus,
        at(60),
        Limits {
            answer_series: 0,
            ..Limits::default()
        },
    );
    running.manager.start_or_update(AnalysisRequest {
        resume_from: Some(begun),
        ..request()
    });
    let message = running.wait_for_hold(HoldCode::TooLarge).await;
    assert!(
        message.contains("adds them up by scrape target") && message.contains("gateway"),
        "{message}"
    );
}
