//! Records of a service and a replay over them.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serin_kubectl::cli::{Task, parse};
use serin_kubectl::display::DisplayContext;
use serin_kubectl::exit::CliError;
use serin_metrics_analysis::prometheus::Series;

use crate::prometheus::{Record, serve};

pub const NOW: &str = "2026-03-01T12:00:00Z";
pub const SCRAPE_MS: i64 = 15_000;

/// An objective with the counters of Traefik.
pub const TRAEFIK: &str = "indicator: traefik";

#[track_caller]
pub fn assert_contains(text: &str, expected: &str) {
    assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
}

/// Counters that grow at each scrape, starting 70 minutes before now.
pub struct RecordBuilder {
    pub series: Vec<Series>,
    pub from_ms: i64,
}

impl RecordBuilder {
    pub fn new() -> Self {
        let now: Timestamp = NOW.parse().unwrap();
        Self {
            series: Vec::new(),
            from_ms: now.as_millisecond() - 70 * 60_000,
        }
    }

    /// Adds a series. `of` returns the increment at each scrape by minutes since the start, or
    /// `None` for no sample.
    pub fn add(&mut self, labels: &[(&str, &str)], of: impl Fn(f64) -> Option<f64>) {
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

    /// Adds Traefik's counter of one Service and code.
    pub fn traefik(&mut self, service: &str, code: &str, of: impl Fn(f64) -> Option<f64>) {
        let service = format!("shop-{service}-80@kubernetesgateway");
        let labels = [
            ("__name__", "traefik_service_requests_total"),
            ("service", &service),
            ("code", code),
        ];
        let gateway = [("job", "traefik"), ("instance", "10.0.0.1:9100")];
        self.add(&[&labels[..], &gateway[..]].concat(), of);
    }

    /// A service with 100 requests per second and an error rate of one in 3,000. A canary gets 10 %
    /// from minute 20 to 50 and has `errors` errors per scrape.
    pub fn release(errors: f64) -> Self {
        let mut record_builder = Self::new();
        let released = |minute: f64| (20.0..50.0).contains(&minute);
        record_builder.traefik("checkout", "200", move |minute| {
            Some(if released(minute) { 1_349.0 } else { 1_499.0 })
        });
        record_builder.traefik("checkout", "500", |minute| {
            Some(if minute.fract() == 0.0 { 2.0 } else { 0.0 })
        });
        record_builder.traefik("checkout-canary", "200", move |minute| {
            Some(if released(minute) {
                150.0 - errors
            } else {
                0.0
            })
        });
        record_builder.traefik("checkout-canary", "500", move |minute| {
            Some(if released(minute) { errors } else { 0.0 })
        });
        record_builder
    }

    /// Removes the samples between two minutes.
    pub fn without(mut self, from: f64, to: f64) -> Self {
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

/// A month at 100 requests per second with half of the budget left.
pub fn service() -> Vec<(&'static str, f64)> {
    let month = 100.0 * 2_592_000.0;
    vec![
        ("total", month),
        ("errors", 0.0005 * month),
        ("age0", 2_592_000.0),
        ("seen", 1.0),
    ]
}

pub fn manifest(objective: &str) -> String {
    format!(
        "apiVersion: serin.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: checkout, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: c}}}}\n  \
         template: {{metadata: {{labels: {{app: c}}}}, spec: {{containers: [{{name: c, image: 'i:1'}}]}}}}\n  \
         strategy: {{canary: {{trafficRouting: {{gatewayAPI: {{httpRoute: c}}}}}}}}\n  \
         analysis: {{objectives: [{{name: availability, objective: 99.9, {objective}}}]}}\n"
    )
}

pub struct Replay {
    pub folder: tempfile::TempDir,
    pub url: String,
}

impl Replay {
    pub async fn new(record_builder: RecordBuilder, objective: &str) -> Self {
        Self::with_record(
            Record {
                series: record_builder.series,
                service: service(),
                refuses: None,
            },
            objective,
        )
        .await
    }

    pub async fn with_record(record: Record, objective: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rollout.yaml"), manifest(objective)).unwrap();
        Self {
            folder,
            url: serve(record).await,
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn run(&self, more: &str) -> Result<String, CliError> {
        self.run_at(NOW, more).await
    }

    pub async fn run_at(&self, now: &str, more: &str) -> Result<String, CliError> {
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
        let display = DisplayContext {
            now: now.parse().unwrap(),
            zone: TimeZone::UTC,
            width: 100,
        };
        let mut out = Vec::new();
        let mut aside = Vec::new();
        serin_kubectl::replay::run(&args, None, None, &display, &mut out, &mut aside).await?;
        let text = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        Ok(text.replace(&self.url, "http://prometheus"))
    }
}

impl RecordBuilder {
    /// Adds the counters of a pod: requests and errors per scrape.
    pub fn pod(
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

    /// Adds two pods of stable, each with one error per minute.
    pub fn stable_pods(&mut self) {
        for pod in ["checkout-aaa-podx1", "checkout-aaa-podx2"] {
            let errors = |minute: f64| Some(if minute.fract() == 0.0 { 1.0 } else { 0.0 });
            self.pod(pod, |_| Some(700.0), errors);
        }
    }

    /// Adds `kube_pod_created` of kube-state-metrics for a pod, by minutes since the start.
    #[expect(clippy::cast_precision_loss, reason = "seconds of today")]
    pub fn created(&mut self, pod: &str, minute: i64) {
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
