//! `replay` of releases whose counters or warm-up depend on the pods, against an in-memory
//! Prometheus.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

mod prometheus;
mod replay_support;

use replay_support::{RecordBuilder, Replay, TRAEFIK, assert_contains};

/// An objective with counters of the pods.
const PODS: &str = "counters: {total: requests_total, errors: errors_total}";
const POD_ARGS: &str = "--from -65m --stable-pods checkout-aaa --canary-pods checkout-bbb -o json";

async fn printed(replay: &Replay, line: &str) -> serde_json::Value {
    serde_json::from_str(&replay.run(line).await.unwrap()).unwrap()
}

#[tokio::test]
async fn new_pods_count_from_their_first_scrape() {
    let mut record_builder = RecordBuilder::new();
    record_builder.stable_pods();
    let born = |count: f64| move |minute: f64| (minute >= 20.0).then_some(count);
    record_builder.pod("checkout-bbb-pody1", born(150.0), born(30.0));
    let replay = Replay::new(record_builder, PODS).await;
    let text = replay
        .run("--from -65m --stable-pods checkout-aaa --canary-pods checkout-bbb")
        .await
        .unwrap();
    assert_contains(&text, "first request to the canary at 11:10:00 UTC");
    assert_contains(&text, "would have rolled back this release");
    let unwrapped = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Three scrapes in 33 s. The first counts, but is no evidence because the weight changes in it.
    assert!(
        unwrapped.contains("33s after its first request, at 90 excess errors (90 of 450 requests"),
        "the first scrape counts: {text}"
    );
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
        record_builder.stable_pods();
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
    assert!(rolled_back_after(true).await < 60.0, "its warm-up was over");
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
    record_builder.stable_pods();
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
        record_builder.stable_pods();
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
