//! `replay` against an in-memory Prometheus: failed releases, good releases, and records with gaps.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

mod prometheus;
mod replay_support;

use prometheus::Record;
use replay_support::{RecordBuilder, Replay};
use serin_kubectl::exit::Exit;

const TRAEFIK: &str = "indicator: traefik";

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
    assert!(
        text.contains("would have had the evidence to promote"),
        "{text}"
    );
    assert!(
        text.contains("The record ends at 11:39:45 UTC, when the canary stopped"),
        "{text}"
    );
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn.contains("rolls back at 100") && drawn.contains("<polyline"));
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
    assert!(text.contains("Held (Stale)"), "{text}");
    assert!(
        text.contains("availability: 8m 15s without data, from 11:11:45 UTC to 11:20:00 UTC"),
        "{text}"
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
    assert!(
        text.contains("Release 1 of 2: first request to the canary at 11:00:00 UTC"),
        "{text}"
    );
    assert!(
        text.contains("Release 2 of 2: first request to the canary at 11:30:00 UTC"),
        "{text}"
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
    assert!(
        text.contains("Release: first request to the canary at 11:05:00 UTC"),
        "{text}"
    );
    assert!(
        text.contains("when stable stopped receiving requests"),
        "{text}"
    );
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
    assert!(
        why.contains("the canary failed 10 of 1,500 requests"),
        "{why}"
    );
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
    assert!(text.contains("Projected: one hour"), "{text}");
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
    assert!(
        text.contains("from 2026-03-01 10:55:00 UTC to 2026-03-01 12:00:00 UTC"),
        "{text}"
    );
    assert!(
        text.contains("first request to the canary at 2026-03-01 11:10:00 UTC"),
        "{text}"
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
    assert!(
        text.contains("No request to the canary was recorded for: before."),
        "{text}"
    );
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
async fn new_pods_count_from_their_first_scrape() {
    let mut record_builder = RecordBuilder::new();
    let pod = |name: &'static str, metric: &'static str| {
        [
            ("__name__", metric),
            ("pod", name),
            ("job", "pods"),
            ("instance", name),
        ]
    };
    for stable in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
        record_builder.add(&pod(stable, "requests_total"), |_| Some(700.0));
        record_builder.add(&pod(stable, "errors_total"), |minute| {
            Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 })
        });
    }
    let born = |count: f64| move |minute: f64| (minute >= 20.0).then_some(count);
    record_builder.add(&pod("checkout-bbb-pody1", "requests_total"), born(150.0));
    record_builder.add(&pod("checkout-bbb-pody1", "errors_total"), born(30.0));
    let counters = "counters: {total: requests_total, errors: errors_total}";
    let replay = Replay::new(record_builder, counters).await;
    let text = replay
        .run("--from -65m --stable-pods checkout-aaa --canary-pods checkout-bbb")
        .await
        .unwrap();
    assert!(
        text.contains("first request to the canary at 11:10:00 UTC"),
        "{text}"
    );
    assert!(
        text.contains("would have rolled back this release"),
        "{text}"
    );
    let unwrapped = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        unwrapped.contains("60 of 300 requests failed")
            || unwrapped.contains("30 of 150 requests failed"),
        "the first scrape counts: {text}"
    );
}

/// An objective with counters of the pods.
const PODS: &str = "counters: {total: requests_total, errors: errors_total}";
const POD_ARGS: &str = "--from -65m --stable-pods checkout-aaa --canary-pods checkout-bbb -o json";

async fn printed(replay: &Replay, line: &str) -> serde_json::Value {
    serde_json::from_str(&replay.run(line).await.unwrap()).unwrap()
}

#[tokio::test]
async fn overdispersion_is_estimated_from_before_the_release() {
    let mut record_builder = RecordBuilder::new();
    // Clients that retry on the same pod: twelve errors at once every five minutes.
    let cluster = |after: f64| {
        move |minute: f64| {
            Some(if (minute - after).rem_euclid(5.0) == 0.0 {
                12.0
            } else {
                0.0
            })
        }
    };
    record_builder.pod("checkout-aaa-podx1", |_| Some(700.0), cluster(4.0));
    record_builder.pod("checkout-aaa-podx2", |_| Some(700.0), cluster(4.5));
    // The canary has two such clusters close to each other, before stable's next one.
    let released = |count: f64| move |minute: f64| (minute >= 20.0).then_some(count);
    let errors = |minute: f64| {
        (minute >= 20.0).then_some(if [22.25, 22.75].contains(&minute) {
            12.0
        } else {
            0.0
        })
    };
    record_builder.pod("checkout-bbb-pody1", released(150.0), errors);
    let printed = printed(
        &Replay::new(record_builder, PODS).await,
        &format!("{POD_ARGS} --to -46m"),
    )
    .await;
    let release = &printed["releases"][0];
    assert_eq!(release["counted"][0]["canaryErrors"], 24.0, "{printed}");
    assert!(
        release["rules"][0]["decided"].is_null(),
        "clusters that are usual for stable are not evidence: {printed}"
    );
}

#[tokio::test]
async fn pod_ages_come_from_kube_state_metrics() {
    let released = |count: f64| move |minute: f64| (minute >= 20.0).then_some(count);
    let rolled_back_after = async |is_known: bool| {
        let mut record_builder = RecordBuilder::new();
        for stable in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
            record_builder.pod(
                stable,
                |_| Some(700.0),
                |minute| Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 }),
            );
        }
        // Up for ten minutes before its first request. One in 25 requests fails, which is normal
        // for new pods.
        record_builder.pod("checkout-bbb-pody1", released(150.0), released(6.0));
        if is_known {
            record_builder.created("checkout-bbb-pody1", 10);
        }
        let printed = printed(&Replay::new(record_builder, PODS).await, POD_ARGS).await;
        printed["releases"][0]["rules"][0]["decided"]["afterSeconds"]
            .as_f64()
            .unwrap()
    };
    assert!(
        rolled_back_after(true).await <= 30.0,
        "its warm-up was over"
    );
    assert!(
        rolled_back_after(false).await > 60.0,
        "the pod counts as new"
    );
}

#[tokio::test]
async fn canary_pods_define_the_warm_up_with_gateway_counters() {
    let mut record_builder = RecordBuilder::release(6.0);
    record_builder.created("checkout-bbb-pody1", 10);
    let replay = Replay::new(record_builder, TRAEFIK).await;
    let after = |printed: serde_json::Value| {
        printed["releases"][0]["rules"][0]["decided"]["afterSeconds"]
            .as_f64()
            .unwrap()
    };
    assert!(
        after(printed(&replay, "--from -65m -o json").await) > 60.0,
        "no pods are named"
    );
    assert!(
        after(printed(&replay, "--from -65m --canary-pods checkout-bbb -o json").await) <= 30.0
    );
}

#[tokio::test]
async fn the_pods_of_an_earlier_attempt_say_nothing_of_the_age_of_this_ones() {
    let mut record_builder = RecordBuilder::new();
    for stable in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
        record_builder.pod(
            stable,
            |_| Some(700.0),
            |minute| Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 }),
        );
    }
    // The same revision twice, with other pods; of the second's requests one in twenty-five fails,
    // which young pods may.
    let during = |from: f64, to: f64, count: f64| {
        move |minute: f64| (from..to).contains(&minute).then_some(count)
    };
    record_builder.pod(
        "checkout-bbb-pody1",
        during(20.0, 25.0, 150.0),
        during(20.0, 25.0, 0.0),
    );
    record_builder.pod(
        "checkout-bbb-pody2",
        during(50.0, 60.0, 150.0),
        during(50.0, 60.0, 6.0),
    );
    let printed = printed(&Replay::new(record_builder, PODS).await, POD_ARGS).await;
    assert_eq!(
        printed["releases"].as_array().unwrap().len(),
        2,
        "{printed}"
    );
    let again = &printed["releases"][1]["rules"][0]["decided"];
    assert!(
        again["afterSeconds"].as_f64().unwrap() > 60.0,
        "its pods are new: {again}"
    );
}

#[tokio::test]
async fn what_an_old_pod_had_counted_before_it_was_first_scraped_is_none_of_the_release() {
    let record_builder = |is_recorded: bool| {
        let mut record_builder = RecordBuilder::new();
        for stable in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
            record_builder.pod(
                stable,
                |_| Some(700.0),
                |minute| Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 }),
            );
        }
        record_builder.pod(
            "checkout-bbb-pody1",
            |minute| (minute >= 20.0).then_some(150.0),
            |minute| (minute >= 20.0).then_some(0.0),
        );
        // A third pod of stable has been up all the time, but is scraped only from minute 25 on.
        let late = |first: f64, then: f64| {
            move |minute: f64| (minute >= 25.0).then_some(if minute < 25.25 { first } else { then })
        };
        record_builder.pod(
            "checkout-aaa-podx3",
            late(900_000.0, 0.0),
            late(5_000.0, 0.0),
        );
        if is_recorded {
            record_builder.created("checkout-aaa-podx3", -300);
        }
        record_builder
    };
    let stable_errors = |printed: &serde_json::Value| {
        printed["releases"][0]["counted"][0]["stableErrors"]
            .as_f64()
            .unwrap()
    };
    let recorded = printed(&Replay::new(record_builder(true), PODS).await, POD_ARGS).await;
    assert!(
        stable_errors(&recorded) < 200.0,
        "by kube_pod_created: {recorded}"
    );
    let replay = Replay::new(record_builder(false), PODS).await;
    let unknown = printed(&replay, POD_ARGS).await;
    assert!(
        stable_errors(&unknown) > 5_000.0,
        "a pod without creation time counts as new: {unknown}"
    );
    let line = r#"{"name": "v7", "from": "2026-03-01T10:55:00Z", "to": "2026-03-01T12:00:00Z", "podsCreatedAt": {"checkout-aaa-podx3": "2026-03-01T05:50:00Z"}}"#;
    std::fs::write(replay.file("releases.jsonl"), line).unwrap();
    let listed = format!(
        "--releases {} {}",
        replay.file("releases.jsonl").display(),
        POD_ARGS.trim_start_matches("--from -65m ")
    );
    let text = printed(&replay, &listed).await;
    assert!(stable_errors(&text) < 200.0, "by the file: {text}");
}

#[tokio::test]
async fn given_weights_are_used() {
    let replay = Replay::new(RecordBuilder::release(0.0), TRAEFIK).await;
    let text = replay
        .run("--from -65m --step-weights 0s=10")
        .await
        .unwrap();
    assert!(text.contains("set by --step-weights"), "{text}");
}

#[tokio::test]
async fn an_empty_record_and_a_server_error_are_reported() {
    let empty = Replay::new(RecordBuilder::new(), TRAEFIK)
        .await
        .run("--from -65m")
        .await
        .unwrap();
    assert!(
        empty.contains("No request to the canary was recorded in that time"),
        "{empty}"
    );
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
    assert!(
        text.contains("would have had the evidence to promote"),
        "{text}"
    );
    assert!(
        !text.contains("without data") && !text.contains("Held (Stale)"),
        "{text}"
    );
}
