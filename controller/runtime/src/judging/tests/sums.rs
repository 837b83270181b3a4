//! Series that are too many to be read one by one.

use super::*;

/// The story's counters, each in three series.
fn in_three(story: &Story) -> Vec<Series> {
    let parts = story.series().into_iter().flat_map(|series| {
        ["/a", "/b", "/c"].map(|path| {
            let mut part = series.clone();
            part.labels.insert("path".to_owned(), path.to_owned());
            part
        })
    });
    parts.collect()
}

/// As many series fit into an answer as sums come back, and not as many as there are.
fn narrow() -> Limits {
    Limits {
        answer_series: 5,
        ..Limits::default()
    }
}

fn counted(checkpoint: &AnalysisStatus, what: &str) -> f64 {
    objective(checkpoint)["evidence"]["totals"][what]
        .as_f64()
        .unwrap()
}

#[tokio::test]
async fn series_that_have_become_too_many_are_added_up_and_nothing_counts_twice() {
    let story = Story {
        canary: (60.0, 0.5),
        stable: (240.0, 2.0),
        ..Story::default()
    };
    let script = script(&story).await;
    script.set_series(in_three(&story));
    let begun = begun(&script, &request()).await;
    let single = live(&script, at(100));
    single.judges.watch(JudgeRequest {
        resume_from: Some(begun),
        ..request()
    });
    let single = single.judged_until(99).await;
    let summed = live_within(&script, at(120), narrow());
    summed.judges.watch(JudgeRequest {
        resume_from: Some(single.clone()),
        ..request()
    });
    let look = summed
        .until("sums", |look| {
            round_at(look.checkpoint.as_ref()) >= at(113).as_millisecond()
        })
        .await;
    let checkpoint = look.checkpoint.clone().unwrap();
    assert_eq!(
        checkpoint.checkpoint["objectives"]["availability"]["summed"],
        json!(true)
    );
    let reading = look.evidence[0].note.as_deref().unwrap();
    assert!(
        reading.starts_with("Its series are too many to be read one by one"),
        "{reading}"
    );
    // The last single samples are of 10 ms after a second. The step that they are in counts
    // nothing: all after it do.
    let from_ms = round_at(Some(&single)) - start().as_millisecond();
    let seconds =
        (round_at(Some(&checkpoint)) - start().as_millisecond()) / 1_000 - (from_ms / 1_000 + 1);
    let seconds = f64::from(i32::try_from(seconds).unwrap());
    assert!(seconds >= 10.0, "{seconds}");
    let more = |what: &str| counted(&checkpoint, what) - counted(&single, what);
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
async fn sums_go_on_after_restarts_as_if_there_had_been_none() {
    let story = Story {
        canary: (60.0, 0.5),
        ..Story::default()
    };
    let script = script(&story).await;
    script.set_series(in_three(&story));
    let begun = begun(&script, &request()).await;
    let resumed = |from: &AnalysisStatus, seconds: i64| {
        // Between two scrapes, so that both lives have seen the same ones whenever in that second
        // their polls come.
        let life = live_within(&script, at(seconds) + 500.milliseconds(), narrow());
        life.judges.watch(JudgeRequest {
            resume_from: Some(from.clone()),
            ..request()
        });
        life
    };
    let mut checkpoint = begun.clone();
    for seconds in [20, 41, 90] {
        checkpoint = resumed(&checkpoint, seconds)
            .judged_until(seconds - 8)
            .await;
    }
    let (straight, restarted) = (resumed(&begun, 125), resumed(&checkpoint, 125));
    let (straight, restarted) = same_round(&straight, &restarted, 117).await;
    assert_eq!(objective(&straight), objective(&restarted));
    assert!(objective(&straight)["evidence"]["ticks"].as_u64().unwrap() >= 110);
}

#[tokio::test]
async fn what_is_too_much_even_when_added_up_holds_and_says_what_helps() {
    let script = script(&Story::default()).await;
    script.set_series(in_three(&Story::default()));
    let begun = begun(&script, &request()).await;
    let life = live_within(
        &script,
        at(60),
        Limits {
            answer_series: 0,
            ..Limits::default()
        },
    );
    life.judges.watch(JudgeRequest {
        resume_from: Some(begun),
        ..request()
    });
    let message = life.held_for("TooLarge").await;
    assert!(
        message.contains("Even added up by scrape target") && message.contains("gateway"),
        "{message}"
    );
}
