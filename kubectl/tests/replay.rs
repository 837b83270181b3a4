//! `replay` against an in-memory Prometheus: failed releases, good releases, and records with gaps.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

mod prometheus;
mod replay_support;

use prometheus::Record;
use replay_support::{RecordBuilder, Replay, TRAEFIK, assert_contains};
use serin_kubectl::exit::Exit;

#[tokio::test]
async fn a_release_that_failed_ten_times_as_often_would_have_been_rolled_back() {
    let replay = Replay::new(RecordBuilder::release(1.0), TRAEFIK).await;
    insta::assert_snapshot!(replay.run("--from -65m").await.unwrap());
}

#[tokio::test]
async fn a_good_release_would_have_been_promoted_and_its_chart_is_written() {
    let replay = Replay::new(RecordBuilder::release(0.0), TRAEFIK).await;
    let svg = replay.file("chart.svg");
    let text = replay
        .run(&format!("--from -65m --svg {}", svg.display()))
        .await
        .unwrap();
    assert_contains(&text, "would have had the evidence to promote");
    assert_contains(
        &text,
        "The record ends at 11:39:45 UTC, when the canary stopped",
    );
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn.contains("rolls back at 100") && drawn.contains("<polyline"));
}

#[tokio::test]
async fn the_analysis_of_a_policy_is_replayed() {
    let replay = Replay::new(RecordBuilder::release(1.0), TRAEFIK).await;
    let expected = replay.run("--from -65m").await.unwrap();
    let written = std::fs::read_to_string(replay.file("rollout.yaml")).unwrap();
    let (without, analysis) = written.split_once("  analysis: ").unwrap();
    std::fs::write(replay.file("rollout.yaml"), without).unwrap();
    let error = replay.run("--from -65m").await.unwrap_err().to_string();
    assert_contains(&error, "has no spec.analysis");

    let policy = format!(
        "apiVersion: serin.dev/v1alpha1\nkind: RolloutPolicy\nmetadata: {{name: platform}}\n\
         spec: {{defaults: {{analysis: {}}}}}\n",
        analysis.trim()
    );
    std::fs::write(replay.file("policy.yaml"), policy).unwrap();
    let more = format!(
        "--from -65m --policy {}",
        replay.file("policy.yaml").display()
    );
    assert_eq!(replay.run(&more).await.unwrap(), expected);
}

#[tokio::test]
async fn a_bad_release_costs_less_than_with_fixed_thresholds() {
    let replay = Replay::new(RecordBuilder::release(1.0), TRAEFIK).await;
    let printed: serde_json::Value =
        serde_json::from_str(&replay.run("--from -65m -o json").await.unwrap()).unwrap();
    let rules = printed["releases"][0]["rules"].as_array().unwrap();
    let errors = |name: &str| {
        rules.iter().find(|rule| rule["rule"] == name).unwrap()["errors"]
            .as_f64()
            .unwrap()
    };
    for rule in [
        "fixed 1 % x 4",
        "fixed 0.1 % x 4",
        "success 99 % x 5",
        "Mann-Whitney, 25 %",
    ] {
        assert!(errors("Serin") < errors(rule), "{rule}: {printed}");
    }
}

#[tokio::test]
async fn a_gap_in_the_record_holds_the_release_and_is_reported() {
    let replay = Replay::new(RecordBuilder::release(0.0).without(22.0, 30.0), TRAEFIK).await;
    let text = replay.run("--from -65m").await.unwrap();
    assert_contains(&text, "Held (Stale)");
    assert_contains(
        &text,
        "availability: 8m 15s without data, from 11:11:45 UTC to 11:20:00 UTC",
    );
    assert!(
        text.contains("would have had the evidence to promote"),
        "the counters recover: {text}"
    );
}

#[tokio::test]
async fn each_period_of_canary_traffic_is_one_release() {
    let mut record_builder = RecordBuilder::new();
    let released = |minute: f64| (10.0..20.0).contains(&minute) || (40.0..50.0).contains(&minute);
    record_builder.traefik("checkout", "200", |_| Some(1_350.0));
    record_builder.traefik("checkout", "500", |minute| {
        Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 })
    });
    record_builder.traefik("checkout-canary", "200", move |minute| {
        Some(if released(minute) { 150.0 } else { 0.0 })
    });
    record_builder.traefik("checkout-canary", "500", move |minute| {
        Some(if (40.0..50.0).contains(&minute) {
            15.0
        } else {
            0.0
        })
    });
    let replay = Replay::new(record_builder, TRAEFIK).await;
    let text = replay.run("--from -65m --all").await.unwrap();
    assert_contains(
        &text,
        "Release 1 of 2: first request to the canary at 11:00:00 UTC",
    );
    assert_contains(
        &text,
        "Release 2 of 2: first request to the canary at 11:30:00 UTC",
    );
    let second = text.split("Release 2 of 2").nth(1).unwrap();
    assert!(
        second.contains("would have rolled back this release"),
        "{text}"
    );
    insta::assert_snapshot!(replay.run("--from -65m").await.unwrap());
    let one = replay.run("--from -65m --quiet 25m").await.unwrap();
    assert!(
        one.contains("Release: first request"),
        "--quiet joins both periods: {one}"
    );
}

#[tokio::test]
async fn a_canary_that_takes_over_is_one_release() {
    let mut record_builder = RecordBuilder::new();
    record_builder.traefik("checkout", "200", |minute| {
        Some(if minute < 30.0 { 1_350.0 } else { 0.0 })
    });
    record_builder.traefik("checkout-canary", "200", |minute| {
        Some(if minute >= 15.0 { 150.0 } else { 0.0 })
    });
    let text = Replay::new(record_builder, TRAEFIK)
        .await
        .run("--from -65m")
        .await
        .unwrap();
    assert_contains(
        &text,
        "Release: first request to the canary at 11:05:00 UTC",
    );
    assert_contains(&text, "when stable stopped receiving requests");
}

#[tokio::test]
async fn undecided_rules_are_projected_beyond_the_record() {
    let replay = Replay::new(RecordBuilder::release(1.0), TRAEFIK).await;
    let text = replay.run("--from -65m --to -47m -o json").await.unwrap();
    let printed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rules = printed["releases"][0]["rules"].as_array().unwrap();
    let rule = |name: &str| rules.iter().find(|rule| rule["rule"] == name).unwrap();
    assert_eq!(rule("Serin")["decided"]["ruling"], "rollBack");
    assert_eq!(rule("Serin")["decided"]["afterSeconds"], 135.0);
    assert!(rule("Serin")["projected"].is_null());
    let why = printed["releases"][0]["why"].as_str().unwrap();
    assert_contains(why, "the canary failed 10 of 1,500 requests");
    let strict = rule("fixed 0.1 % x 4");
    assert!(
        strict["decided"].is_null(),
        "only three minutes are recorded: {strict}"
    );
    assert_eq!(strict["projected"]["ruling"], "rollBack");
    assert_eq!(strict["projected"]["afterSeconds"], 240.0);
    // One error in each of 16 scrapes, of which stable would have caused a thirtieth.
    let errors = strict["projected"]["errors"].as_f64().unwrap();
    assert!((14.0..17.0).contains(&errors), "{strict}");
    let lax = rule("fixed 1 % x 4");
    assert_eq!(
        (
            &lax["projected"]["ruling"],
            &lax["projected"]["afterSeconds"]
        ),
        (&"promote".into(), &1_200.0.into())
    );
    let errors = lax["projected"]["errors"].as_f64().unwrap();
    assert!(
        (220.0..240.0).contains(&errors),
        "an hour of one error in 15 s: {lax}"
    );
    let summary = &printed["summary"];
    assert_eq!(summary["onRecord"][0]["rolledBack"], 1);
    assert_eq!(summary["onRecord"][2]["undecided"], 1);
    assert_eq!(summary["projected"][2]["medianSecondsToRollBack"], 240.0);
    let text = replay.run("--from -65m --to -47m").await.unwrap();
    assert_contains(&text, "Projected: one hour");
}

#[tokio::test]
async fn times_of_another_day_have_a_date() {
    let replay = Replay::new(RecordBuilder::release(1.0), TRAEFIK).await;
    let text = replay
        .run_at(
            "2026-03-03T12:00:00Z",
            "--from 2026-03-01T10:55:00Z --to 2026-03-01T12:00:00Z",
        )
        .await
        .unwrap();
    assert_contains(
        &text,
        "from 2026-03-01 10:55:00 UTC to 2026-03-01 12:00:00 UTC",
    );
    assert_contains(
        &text,
        "first request to the canary at 2026-03-01 11:10:00 UTC",
    );
}

#[tokio::test]
async fn listed_releases_keep_their_names() {
    let replay = Replay::new(RecordBuilder::release(1.0), TRAEFIK).await;
    let line = |name: &str, from: &str, to: &str| {
        format!(
            "{{\"name\": \"{name}\", \"from\": \"2026-03-01T{from}Z\", \"to\": \"2026-03-01T{to}Z\"}}\n"
        )
    };
    let list = [
        line("before", "10:55:00", "11:05:00"),
        line("v7", "11:08:00", "11:20:00"),
        line("v8", "11:20:00", "11:30:00"),
    ];
    std::fs::write(replay.file("releases.jsonl"), list.concat()).unwrap();
    let listed = format!("--releases {}", replay.file("releases.jsonl").display());
    let text = replay.run(&listed).await.unwrap();
    assert!(
        text.contains("2 releases, as recorded"),
        "the first window has no release: {text}"
    );
    assert_contains(&text, "No request to the canary was recorded for: before.");
    assert!(
        text.lines()
            .any(|line| line.trim_start().starts_with("v7") && line.contains("rolls back")),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.trim_start().starts_with("v8")),
        "{text}"
    );
}

#[tokio::test]
async fn given_weights_are_used() {
    let replay = Replay::new(RecordBuilder::release(0.0), TRAEFIK).await;
    let text = replay
        .run("--from -65m --step-weights 0s=10")
        .await
        .unwrap();
    assert_contains(&text, "set by --step-weights");
}

#[tokio::test]
async fn an_empty_record_and_a_server_error_are_reported() {
    let empty = Replay::new(RecordBuilder::new(), TRAEFIK)
        .await
        .run("--from -65m")
        .await
        .unwrap();
    assert_contains(&empty, "No request to the canary was recorded in that time");
    let record = Record {
        refuses: Some("the disk is full"),
        ..Record::default()
    };
    let failure = Replay::with_record(record, TRAEFIK)
        .await
        .run("--from -65m")
        .await
        .unwrap_err();
    assert_eq!(failure.exit, Exit::Api);
    assert!(
        failure.to_string().contains("the disk is full")
            && failure.to_string().contains("--prometheus"),
        "{failure}"
    );
}

// flagger #1123, prometheus #8001: Prometheus scrapes once a minute by default.
#[tokio::test]
async fn a_scrape_interval_of_one_minute_has_no_gaps() {
    let mut record_builder = RecordBuilder::release(0.0);
    for series in &mut record_builder.series {
        series.samples = series.samples.iter().copied().step_by(4).collect();
    }
    let replay = Replay::new(record_builder, TRAEFIK).await;
    let text = replay.run("--from -65m").await.unwrap();
    assert_contains(&text, "would have had the evidence to promote");
    assert!(
        !text.contains("without data") && !text.contains("Held (Stale)"),
        "{text}"
    );
}
