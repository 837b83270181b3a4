//! `replay` against a Prometheus with a record in memory: releases that failed, that were good, and
//! records with holes.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall fail there"
)]

mod prometheus;

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use prometheus::{Record, serve};
use serin_kubectl::cli::{Task, parse};
use serin_kubectl::exit::{Exit, Failure};
use serin_kubectl::look::Look;
use serin_metrics_analysis::prometheus::Series;

const NOW: &str = "2026-03-01T12:00:00Z";
const SCRAPE_MS: i64 = 15_000;

/// Counters that grow scrape by scrape, from an hour and ten minutes before now.
struct Counting {
    series: Vec<Series>,
    from_ms: i64,
}

impl Counting {
    fn new() -> Self {
        let now: Timestamp = NOW.parse().unwrap();
        Self {
            series: Vec::new(),
            from_ms: now.as_millisecond() - 70 * 60_000,
        }
    }

    /// A series: what it counts at each scrape, by minutes since the beginning of the record;
    /// nothing: no sample.
    fn add(&mut self, labels: &[(&str, &str)], of: impl Fn(f64) -> Option<f64>) {
        let mut value = 0.0;
        let mut samples = Vec::new();
        for scrape in 0..(70 * 4) {
            let counted = of(f64::from(scrape) / 4.0);
            value += counted.unwrap_or(0.0);
            if counted.is_some() {
                samples.push((self.from_ms + i64::from(scrape) * SCRAPE_MS, value));
            }
        }
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.series.push(Series { labels, samples });
    }

    /// Traefik's counter of one Service, by code.
    fn traefik(&mut self, service: &str, code: &str, of: impl Fn(f64) -> Option<f64>) {
        let service = format!("shop-{service}-80@kubernetesgateway");
        let labels = [
            ("__name__", "traefik_service_requests_total"),
            ("service", &service),
            ("code", code),
        ];
        let gateway = [("job", "traefik"), ("instance", "10.0.0.1:9100")];
        self.add(&[&labels[..], &gateway[..]].concat(), of);
    }

    /// A service of 100 requests a second that fails one in 3,000, and a canary with 10 % of them
    /// from minute 20 to 50 that fails so many in each scrape.
    fn release(errors: f64) -> Self {
        let mut counting = Self::new();
        let released = |minute: f64| (20.0..50.0).contains(&minute);
        counting.traefik("checkout", "200", move |minute| {
            Some(if released(minute) { 1_349.0 } else { 1_499.0 })
        });
        counting.traefik("checkout", "500", |minute| {
            Some(if minute.fract() == 0.0 { 2.0 } else { 0.0 })
        });
        counting.traefik("checkout-canary", "200", move |minute| {
            Some(if released(minute) {
                150.0 - errors
            } else {
                0.0
            })
        });
        counting.traefik("checkout-canary", "500", move |minute| {
            Some(if released(minute) { errors } else { 0.0 })
        });
        counting
    }

    /// Without the samples between two minutes.
    fn without(mut self, from: f64, to: f64) -> Self {
        let begins_ms = self.from_ms;
        #[expect(clippy::cast_precision_loss, reason = "an hour of milliseconds")]
        let minute = |at_ms: i64| (at_ms - begins_ms) as f64 / 60_000.0;
        for series in &mut self.series {
            series
                .samples
                .retain(|(at_ms, _)| !(from..to).contains(&minute(*at_ms)));
        }
        self
    }
}

/// A month at 100 requests a second with half of the budget left.
fn service() -> Vec<(&'static str, f64)> {
    let month = 100.0 * 2_592_000.0;
    vec![
        ("total", month),
        ("errors", 0.0005 * month),
        ("age0", 2_592_000.0),
        ("seen", 1.0),
    ]
}

fn rollout(objective: &str) -> String {
    format!(
        "apiVersion: serin.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: checkout, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: c}}}}\n  \
         template: {{metadata: {{labels: {{app: c}}}}, spec: {{containers: [{{name: c, image: 'i:1'}}]}}}}\n  \
         strategy: {{canary: {{trafficRouting: {{gatewayAPI: {{httpRoute: c}}}}}}}}\n  \
         analysis: {{objectives: [{{name: availability, objective: 99.9, {objective}}}]}}\n"
    )
}

struct Replay {
    folder: tempfile::TempDir,
    url: String,
}

impl Replay {
    async fn of(counting: Counting, objective: &str) -> Self {
        Self::on(
            Record {
                series: counting.series,
                service: service(),
                refuses: None,
            },
            objective,
        )
        .await
    }

    async fn on(record: Record, objective: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rollout.yaml"), rollout(objective)).unwrap();
        Self {
            folder,
            url: serve(record).await,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn run(&self, more: &str) -> Result<String, Failure> {
        self.run_at(NOW, more).await
    }

    async fn run_at(&self, now: &str, more: &str) -> Result<String, Failure> {
        let file = self.file("rollout.yaml");
        let line = format!(
            "kubectl-serin replay -f {} --prometheus {} {more}",
            file.display(),
            self.url
        );
        let arguments = line.split_whitespace().map(Into::into).collect();
        let task = parse("kubectl-serin", arguments).unwrap().task;
        let Task::Replay(args) = task else {
            unreachable!("{task:?}")
        };
        let look = Look {
            now: now.parse().unwrap(),
            zone: TimeZone::UTC,
            width: 100,
        };
        let mut out = Vec::new();
        serin_kubectl::replay::run(&args, None, None, &look, &mut out).await?;
        let text = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        Ok(text.replace(&self.url, "http://prometheus"))
    }
}

const TRAEFIK: &str = "indicator: traefik";

#[tokio::test]
async fn a_release_that_failed_ten_times_as_often_would_have_been_rolled_back() {
    let replay = Replay::of(Counting::release(1.0), TRAEFIK).await;
    insta::assert_snapshot!(replay.run("--from -65m").await.unwrap());
}

#[tokio::test]
async fn a_good_release_would_have_been_promoted_and_its_chart_is_written() {
    let replay = Replay::of(Counting::release(0.0), TRAEFIK).await;
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
        text.contains("Its record ends when the canary got no more requests: at 11:39:45 UTC"),
        "{text}"
    );
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn.contains("rolls back at 100") && drawn.contains("<polyline"));
}

#[tokio::test]
async fn a_bad_release_costs_less_than_with_fixed_thresholds() {
    let replay = Replay::of(Counting::release(1.0), TRAEFIK).await;
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
async fn a_hole_in_the_record_holds_and_is_told() {
    let replay = Replay::of(Counting::release(0.0).without(22.0, 30.0), TRAEFIK).await;
    let text = replay.run("--from -65m").await.unwrap();
    assert!(text.contains("Held (Stale)"), "{text}");
    assert!(
        text.contains("availability: 8m 15s without data, from 11:11:45 UTC to 11:20:00 UTC"),
        "{text}"
    );
    assert!(
        text.contains("would have had the evidence to promote"),
        "the counters heal: {text}"
    );
}

#[tokio::test]
async fn each_time_that_the_canary_gets_traffic_again_is_a_release_of_its_own() {
    let mut counting = Counting::new();
    let released = |minute: f64| (10.0..20.0).contains(&minute) || (40.0..50.0).contains(&minute);
    counting.traefik("checkout", "200", |_| Some(1_350.0));
    counting.traefik("checkout", "500", |minute| {
        Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 })
    });
    counting.traefik("checkout-canary", "200", move |minute| {
        Some(if released(minute) { 150.0 } else { 0.0 })
    });
    counting.traefik("checkout-canary", "500", move |minute| {
        Some(if (40.0..50.0).contains(&minute) {
            15.0
        } else {
            0.0
        })
    });
    let replay = Replay::of(counting, TRAEFIK).await;
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
        second.contains("would have rolled this release back"),
        "{text}"
    );
    insta::assert_snapshot!(replay.run("--from -65m").await.unwrap());
    let one = replay.run("--from -65m --quiet 25m").await.unwrap();
    assert!(
        one.contains("Release: first request"),
        "ten minutes without traffic are not over yet: {one}"
    );
}

#[tokio::test]
async fn a_canary_that_takes_over_is_one_release_however_long_it_goes_on() {
    let mut counting = Counting::new();
    counting.traefik("checkout", "200", |minute| {
        Some(if minute < 30.0 { 1_350.0 } else { 0.0 })
    });
    counting.traefik("checkout-canary", "200", |minute| {
        Some(if minute >= 15.0 { 150.0 } else { 0.0 })
    });
    let text = Replay::of(counting, TRAEFIK)
        .await
        .run("--from -65m")
        .await
        .unwrap();
    assert!(
        text.contains("Release: first request to the canary at 11:05:00 UTC"),
        "{text}"
    );
    assert!(
        text.contains("Its record ends when stable got no more requests"),
        "{text}"
    );
}

#[tokio::test]
async fn what_ends_before_a_rule_decides_is_projected_and_told_apart_from_what_is_on_record() {
    let replay = Replay::of(Counting::release(1.0), TRAEFIK).await;
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
        "three minutes are on record: {strict}"
    );
    assert_eq!(strict["projected"]["ruling"], "rollBack");
    assert_eq!(strict["projected"]["afterSeconds"], 240.0);
    // One error in each of 16 scrapes, of which stable would have made a thirtieth.
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
    let told = replay.run("--from -65m --to -47m").await.unwrap();
    assert!(
        told.contains("Projected: had the canary gone on failing"),
        "{told}"
    );
}

#[tokio::test]
async fn a_time_of_another_day_has_its_date_once() {
    let replay = Replay::of(Counting::release(1.0), TRAEFIK).await;
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
async fn releases_by_their_times_have_their_names() {
    let replay = Replay::of(Counting::release(1.0), TRAEFIK).await;
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
        text.contains("2 releases, by what is on record"),
        "the first has none: {text}"
    );
    assert!(
        text.contains("No request to the canary is on record for: before."),
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
async fn pods_that_appear_on_record_count_from_their_first_scrape() {
    let mut counting = Counting::new();
    let pod = |name: &'static str, metric: &'static str| {
        [
            ("__name__", metric),
            ("pod", name),
            ("job", "pods"),
            ("instance", name),
        ]
    };
    for stable in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
        counting.add(&pod(stable, "requests_total"), |_| Some(700.0));
        counting.add(&pod(stable, "errors_total"), |minute| {
            Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 })
        });
    }
    let born = |count: f64| move |minute: f64| (minute >= 20.0).then_some(count);
    counting.add(&pod("checkout-bbb-pody1", "requests_total"), born(150.0));
    counting.add(&pod("checkout-bbb-pody1", "errors_total"), born(30.0));
    let counters = "counters: {total: requests_total, errors: errors_total}";
    let replay = Replay::of(counting, counters).await;
    let text = replay
        .run("--from -65m --stable-pods checkout-aaa --canary-pods checkout-bbb")
        .await
        .unwrap();
    assert!(
        text.contains("first request to the canary at 11:10:00 UTC"),
        "{text}"
    );
    assert!(
        text.contains("would have rolled this release back"),
        "{text}"
    );
    assert!(
        text.contains("60 failed of 300") || text.contains("30 failed of 150"),
        "the first scrape counts: {text}"
    );
}

/// Of the pods' own counters.
const PODS: &str = "counters: {total: requests_total, errors: errors_total}";
const OF_PODS: &str = "--from -65m --stable-pods checkout-aaa --canary-pods checkout-bbb -o json";

impl Counting {
    /// A pod's requests and errors in each scrape.
    fn pod(
        &mut self,
        pod: &str,
        requests: impl Fn(f64) -> Option<f64>,
        errors: impl Fn(f64) -> Option<f64>,
    ) {
        let labels = |metric| {
            [
                ("__name__", metric),
                ("pod", pod),
                ("job", "pods"),
                ("instance", pod),
            ]
        };
        self.add(&labels("requests_total"), requests);
        self.add(&labels("errors_total"), errors);
    }

    /// What kube-state-metrics tells of a pod's creation, from then on, at a minute since the
    /// beginning of the record.
    #[expect(clippy::cast_precision_loss, reason = "seconds of today")]
    fn created(&mut self, pod: &str, minute: i64) {
        let created_ms = self.from_ms + minute * 60_000;
        let labels = [
            ("__name__", "kube_pod_created"),
            ("namespace", "shop"),
            ("pod", pod),
            ("job", "kube-state-metrics"),
        ];
        let labels = labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let scrapes = (0..70 * 4)
            .map(|scrape| self.from_ms + scrape * SCRAPE_MS)
            .filter(|at_ms| *at_ms >= created_ms);
        let samples = scrapes
            .map(|at_ms| (at_ms, created_ms as f64 / 1_000.0))
            .collect();
        self.series.push(Series { labels, samples });
    }
}

async fn printed(replay: &Replay, line: &str) -> serde_json::Value {
    serde_json::from_str(&replay.run(line).await.unwrap()).unwrap()
}

#[tokio::test]
async fn how_errors_cluster_is_learnt_from_before_the_release_as_the_controller_does() {
    let mut counting = Counting::new();
    // Clients that retry on the same pod: twelve errors at once, every five minutes.
    let cluster = |after: f64| {
        move |minute: f64| {
            Some(if (minute - after).rem_euclid(5.0) == 0.0 {
                12.0
            } else {
                0.0
            })
        }
    };
    counting.pod("checkout-aaa-podx1", |_| Some(700.0), cluster(4.0));
    counting.pod("checkout-aaa-podx2", |_| Some(700.0), cluster(4.5));
    // The canary has two such clusters, close to each other, before stable has its next.
    let released = |count: f64| move |minute: f64| (minute >= 20.0).then_some(count);
    let errors = |minute: f64| {
        (minute >= 20.0).then_some(if [22.25, 22.75].contains(&minute) {
            12.0
        } else {
            0.0
        })
    };
    counting.pod("checkout-bbb-pody1", released(150.0), errors);
    let printed = printed(
        &Replay::of(counting, PODS).await,
        &format!("{OF_PODS} --to -46m"),
    )
    .await;
    let release = &printed["releases"][0];
    assert_eq!(release["counted"][0]["canaryErrors"], 24.0, "{printed}");
    assert!(
        release["rules"][0]["decided"].is_null(),
        "two clusters are no evidence where they are known to be usual: {printed}"
    );
}

#[tokio::test]
async fn pods_are_as_old_as_kube_state_metrics_says() {
    let released = |count: f64| move |minute: f64| (minute >= 20.0).then_some(count);
    let rolled_back_after = async |is_known: bool| {
        let mut counting = Counting::new();
        for stable in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
            counting.pod(
                stable,
                |_| Some(700.0),
                |minute| Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 }),
            );
        }
        // Up for ten minutes before its first request, of which one in twenty-five fails: of young
        // pods that is still no wonder.
        counting.pod("checkout-bbb-pody1", released(150.0), released(6.0));
        if is_known {
            counting.created("checkout-bbb-pody1", 10);
        }
        let printed = printed(&Replay::of(counting, PODS).await, OF_PODS).await;
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
        "it is taken to be new"
    );
}

#[tokio::test]
async fn beside_a_gateways_counters_the_canarys_pods_tell_when_its_warm_up_ended() {
    let mut counting = Counting::release(6.0);
    counting.created("checkout-bbb-pody1", 10);
    let replay = Replay::of(counting, TRAEFIK).await;
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
    let mut counting = Counting::new();
    for stable in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
        counting.pod(
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
    counting.pod(
        "checkout-bbb-pody1",
        during(20.0, 25.0, 150.0),
        during(20.0, 25.0, 0.0),
    );
    counting.pod(
        "checkout-bbb-pody2",
        during(50.0, 60.0, 150.0),
        during(50.0, 60.0, 6.0),
    );
    let printed = printed(&Replay::of(counting, PODS).await, OF_PODS).await;
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
    let counting = |is_recorded: bool| {
        let mut counting = Counting::new();
        for stable in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
            counting.pod(
                stable,
                |_| Some(700.0),
                |minute| Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 }),
            );
        }
        counting.pod(
            "checkout-bbb-pody1",
            |minute| (minute >= 20.0).then_some(150.0),
            |minute| (minute >= 20.0).then_some(0.0),
        );
        // A third pod of stable was up all the time, but is scraped from minute 25 on only.
        let late = |first: f64, then: f64| {
            move |minute: f64| (minute >= 25.0).then_some(if minute < 25.25 { first } else { then })
        };
        counting.pod(
            "checkout-aaa-podx3",
            late(900_000.0, 0.0),
            late(5_000.0, 0.0),
        );
        if is_recorded {
            counting.created("checkout-aaa-podx3", -300);
        }
        counting
    };
    let stable_errors = |printed: &serde_json::Value| {
        printed["releases"][0]["counted"][0]["stableErrors"]
            .as_f64()
            .unwrap()
    };
    let recorded = printed(&Replay::of(counting(true), PODS).await, OF_PODS).await;
    assert!(
        stable_errors(&recorded) < 200.0,
        "by kube_pod_created: {recorded}"
    );
    let replay = Replay::of(counting(false), PODS).await;
    let unknown = printed(&replay, OF_PODS).await;
    assert!(
        stable_errors(&unknown) > 5_000.0,
        "a pod that appears is taken to be new: {unknown}"
    );
    let line = r#"{"name": "v7", "from": "2026-03-01T10:55:00Z", "to": "2026-03-01T12:00:00Z", "podsCreatedAt": {"checkout-aaa-podx3": "2026-03-01T05:50:00Z"}}"#;
    std::fs::write(replay.file("releases.jsonl"), line).unwrap();
    let listed = format!(
        "--releases {} {}",
        replay.file("releases.jsonl").display(),
        OF_PODS.trim_start_matches("--from -65m ")
    );
    let told = printed(&replay, &listed).await;
    assert!(stable_errors(&told) < 200.0, "by the file: {told}");
}

#[tokio::test]
async fn weights_are_taken_as_given() {
    let replay = Replay::of(Counting::release(0.0), TRAEFIK).await;
    let text = replay
        .run("--from -65m --step-weights 0s=10")
        .await
        .unwrap();
    assert!(text.contains("as given by --step-weights"), "{text}");
}

#[tokio::test]
async fn an_empty_record_and_a_server_in_trouble_are_told_as_what_they_are() {
    let empty = Replay::of(Counting::new(), TRAEFIK)
        .await
        .run("--from -65m")
        .await
        .unwrap();
    assert!(
        empty.contains("No request to the canary is on record in that time"),
        "{empty}"
    );
    let record = Record {
        refuses: Some("the disk is full"),
        ..Record::default()
    };
    let failure = Replay::on(record, TRAEFIK)
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
async fn a_record_that_was_scraped_once_a_minute_has_no_gaps() {
    let mut counting = Counting::release(0.0);
    for series in &mut counting.series {
        series.samples = series.samples.iter().copied().step_by(4).collect();
    }
    let replay = Replay::of(counting, TRAEFIK).await;
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
