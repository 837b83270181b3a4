//! `placebo` from past hours, against an in-memory Prometheus.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

mod prometheus;
mod replay_support;

use jiff::tz::TimeZone;
use replay_support::{NOW, RecordBuilder, TRAEFIK, assert_contains, manifest, service};
use serin_kubectl::cli::{Task, parse};
use serin_kubectl::display::DisplayContext;
use serin_kubectl::exit::CliError;

use crate::prometheus::{Record, serve};

const PODS: &str = "counters: {total: requests_total, errors: errors_total}";

/// Runs `placebo` on a record of 70 minutes before now.
async fn run(record: Record, objective: &str, more: &str) -> Result<String, CliError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollout.yaml");
    std::fs::write(&file, manifest(objective)).unwrap();
    let line = format!(
        "kubectl-serin placebo -f {} --prometheus {} {more}",
        file.display(),
        serve(record).await
    );
    let task = parse(
        "kubectl-serin",
        line.split_whitespace().map(Into::into).collect(),
    )
    .unwrap()
    .task;
    let Task::Placebo(args) = task else {
        unreachable!("{task:?}")
    };
    let display = DisplayContext {
        now: NOW.parse().unwrap(),
        zone: TimeZone::UTC,
        width: 100,
    };
    let mut out = Vec::new();
    let mut aside = Vec::new();
    serin_kubectl::placebo::run(&args, None, None, &display, &mut out, &mut aside).await?;
    Ok(anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string())
}

/// Four pods of stable. The first one fails in every tenth request between minutes 50 and 55.
fn record(is_failing: bool) -> Record {
    let mut builder = RecordBuilder::new();
    for pod in 0..4_i32 {
        let errors = move |minute: f64| {
            let scrape = minute * 4.0;
            let usual = if (scrape - f64::from(pod)).rem_euclid(8.0) == 0.0 {
                1.0
            } else {
                0.0
            };
            let fails = is_failing && pod == 0 && (50.0..55.0).contains(&minute);
            Some(if fails { 40.0 } else { usual })
        };
        builder.pod(&format!("checkout-aaa-pod{pod}z"), |_| Some(400.0), errors);
    }
    Record {
        series: builder.series,
        service: service(),
        refuses: None,
    }
}

const ARGS: &str = "--hours 1 --stable-pods checkout-aaa";

#[tokio::test]
async fn pods_that_are_alike_would_not_have_been_rolled_back() {
    let text = run(record(false), PODS, ARGS).await.unwrap();
    assert_contains(&text, "None of your own pods would have been rolled back");
    assert_contains(&text, "4 placebo releases");
    assert_contains(
        &text,
        "A calibration of the evidence needs 99 hours with placebo releases; there are 1.",
    );
    let arguments = format!("{ARGS} --weight 50");
    let together = run(record(false), PODS, &arguments);
    assert_contains(&together.await.unwrap(), "4 placebo releases");
}

#[tokio::test]
async fn a_pod_that_failed_is_named_with_its_hour() {
    let text = run(record(true), PODS, ARGS).await.unwrap();
    assert_contains(
        &text,
        "Your own pods would have been rolled back in the last hour",
    );
    assert_contains(&text, "checkout-aaa-pod0z");
    let json = run(record(true), PODS, &format!("{ARGS} -o json"))
        .await
        .unwrap();
    let output: serde_json::Value = serde_json::from_str(&json).unwrap();
    let objective = &output["objectives"][0];
    assert_eq!(objective["releases"], 4, "{output}");
    assert_eq!(objective["rolledBack"], 1, "{output}");
    assert_eq!(objective["alarms"][0]["pod"], "checkout-aaa-pod0z");
    assert_eq!(objective["boundRefuted"], false, "{output}");
}

#[tokio::test]
async fn sources_without_pods_and_hours_without_samples_are_explained() {
    let text = run(record(false), TRAEFIK, ARGS).await.unwrap();
    assert_contains(&text, "do not distinguish pods");
    let other = "--hours 1 --stable-pods checkout-ccc";
    let text = run(record(false), PODS, other).await.unwrap();
    assert_contains(&text, "no samples in this time");
    let missing = run(record(false), PODS, "--hours 1").await.unwrap_err();
    assert!(missing.to_string().contains("--stable-pods"), "{missing}");
}

#[tokio::test]
async fn a_prometheus_that_refuses_is_named() {
    let refusing = Record {
        refuses: Some("out of memory"),
        ..record(false)
    };
    let error = run(refusing, PODS, ARGS).await.unwrap_err().to_string();
    assert!(error.contains("Queried http://127.0.0.1"), "{error}");
}
