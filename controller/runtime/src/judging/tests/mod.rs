//! Judges against a scripted Prometheus.
//!
//! A test jumps in time as production does: by a restart from the checkpoint, with a clock that
//! shows a later time.

mod access;
mod budgets;
mod checks;
mod guard;
mod intervals;
mod learning;
mod lifecycle;
mod restarts;
mod script;
mod sums;
mod troubles;
mod verdicts;

use std::time::Duration;

use futures::StreamExt;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use serin_core::observed::AnalysisReport;
use serin_core::plan::EvidencePace;
use serin_core::units::{Revision, Weight};
use serin_crds::status::AnalysisStatus;
use serin_metrics_analysis::fixtures::request;
use serin_metrics_analysis::prometheus::{HttpClient, Limits, Series};
use tokio::time::{sleep, timeout};

use self::script::{Mode, Script};
use super::*;

fn install_tls() {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn poller(limits: Limits) -> Poller {
    install_tls();
    Poller::new(HttpClient::new().unwrap(), limits, Arc::new(|_, _| {}))
}

/// An API server that is never asked.
fn nobody() -> kube::Client {
    let refused = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("it is not to be asked"))
    });
    kube::Client::new(refused, "default")
}

/// All Rollouts are judged by this Prometheus.
fn servers(url: &str) -> Servers {
    Servers::new(
        nobody(),
        Some(DefaultServer {
            address: url.into(),
            headers_dir: None,
        }),
        Rereading::default(),
    )
}

/// When the story begins.
fn start() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    start() + seconds.seconds()
}

/// Requests and errors a second of both sides, scraped once a second from a minute before the start
/// on.
struct Story {
    until_seconds: i64,
    canary: (f64, f64),
    stable: (f64, f64),
    bad_from_seconds: i64,
}

impl Default for Story {
    fn default() -> Self {
        Self {
            until_seconds: 600,
            canary: (60.0, 0.0),
            stable: (240.0, 0.12),
            bad_from_seconds: 0,
        }
    }
}

impl Story {
    /// The counters of one gateway; the canary's begin at the start.
    fn series(&self) -> Vec<Series> {
        let mut series = self.counter("checkout-canary-1", 0, self.canary, self.bad_from_seconds);
        series.extend(self.counter("checkout-0", -60, self.stable, -60));
        series
    }

    fn counter(
        &self,
        service: &str,
        from: i64,
        (requests, errors): (f64, f64),
        bad_from: i64,
    ) -> Vec<Series> {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred seconds")]
        let since = |second: i64, from: i64| (second - from).max(0) as f64;
        let samples = |value: &dyn Fn(i64) -> f64, from: i64| {
            (from..=self.until_seconds)
                .map(|second| (at(second).as_millisecond() + 10, value(second).floor()))
                .collect()
        };
        let labels = |code: &str| {
            let service = format!(
                "httproute-shop-checkout-gw-infra-public-ep-web-0-8bd93a10-svc-shop-{service}@kubernetesgateway"
            );
            [
                ("__name__", "traefik_service_requests_total"),
                ("job", "traefik"),
                ("instance", "gateway:8082"),
                ("code", code),
                ("service", &service),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
        };
        let bad = |second: i64| (since(second, bad_from) * errors).floor();
        let good = |second: i64| (since(second, from) * requests).floor() - bad(second);
        let first_bad = (from..=self.until_seconds).find(|second| bad(*second) >= 1.0);
        let mut series = vec![Series {
            labels: labels("200"),
            samples: samples(&good, from),
        }];
        series.extend(first_bad.map(|first| Series {
            labels: labels("500"),
            samples: samples(&bad, first),
        }));
        series
    }
}

/// One life of the controller.
#[derive(Debug)]
struct Life {
    judges: Judges,
    triggers: Triggers,
    poller: Poller,
    leads: Option<watch::Sender<bool>>,
}

async fn script(story: &Story) -> Script {
    let script = Script::start(Clock::tokio_from(start())).await;
    script.set_series(story.series());
    script
}

/// A life that begins at a time of the story.
fn live(script: &Script, now: Timestamp) -> Life {
    live_within(
        script,
        now,
        Limits {
            poll_timeout: Duration::from_secs(2),
            ..Limits::default()
        },
    )
}

fn live_within(script: &Script, now: Timestamp, limits: Limits) -> Life {
    live_by(script, now, limits, servers(&script.url))
}

fn live_by(script: &Script, now: Timestamp, limits: Limits, servers: Servers) -> Life {
    let clock = Clock::tokio_from(now);
    script.set_clock(clock.clone());
    let poller = poller(limits);
    let bench = Bench {
        poller: poller.clone(),
        servers,
        metrics: Arc::new(Metrics::new()),
        clock,
    };
    let (judges, triggers) = Judges::new(bench, Leadership::always());
    Life {
        judges,
        triggers,
        poller,
        leads: None,
    }
}

impl Life {
    fn look(&self) -> Look {
        self.judges.look("1", &Revision::new("bbb"))
    }

    /// Waits until the look is as expected.
    async fn until(&self, what: &str, is_so: impl Fn(&Look) -> bool) -> Look {
        let seen = timeout(Duration::from_secs(30), async {
            while !is_so(&self.look()) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(
            seen.await.is_ok(),
            "{what} is not reached; last seen: {:#?}",
            self.look().judgement
        );
        self.look()
    }

    async fn held_for(&self, cause: &str) -> String {
        let look = self
            .until(cause, |look| matches!(&look.judgement, AnalysisReport::Hold { cause: held, .. } if held == cause))
            .await;
        match look.judgement {
            AnalysisReport::Hold { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the evidence reaches to this second of the story; the checkpoint then.
    async fn judged_until(&self, seconds: i64) -> AnalysisStatus {
        let reached =
            |look: &Look| round_at(look.checkpoint.as_ref()) >= at(seconds).as_millisecond();
        self.until("the round", reached).await.checkpoint.unwrap()
    }
}

fn objective(checkpoint: &AnalysisStatus) -> &Value {
    &checkpoint.checkpoint["objectives"]["availability"]["state"]
}

fn round_at(checkpoint: Option<&AnalysisStatus>) -> i64 {
    checkpoint
        .and_then(|checkpoint| objective(checkpoint)["roundAtMs"].as_i64())
        .unwrap_or(0)
}

/// The checkpoint of a release whose canary has just got its traffic.
async fn begun(script: &Script, request: &JudgeRequest) -> AnalysisStatus {
    let life = live(script, start());
    life.judges.watch(request.clone());
    life.until("a checkpoint", |look| look.checkpoint.is_some())
        .await
        .checkpoint
        .unwrap()
}

/// A life that goes on at `seconds` with a release that has begun at the start.
async fn gone_on(script: &Script, request: &JudgeRequest, seconds: i64) -> Life {
    let resume_from = Some(begun(script, request).await);
    let life = live(script, at(seconds));
    life.judges.watch(JudgeRequest {
        resume_from,
        ..request.clone()
    });
    life
}

/// The checkpoints of two lives after the same scrapes, whichever those are, from this second on.
async fn same_round(one: &Life, other: &Life, seconds: i64) -> (AnalysisStatus, AnalysisStatus) {
    let same = async {
        loop {
            let (one, other) = (one.look().checkpoint, other.look().checkpoint);
            let round = round_at(one.as_ref());
            if round >= at(seconds).as_millisecond() && round == round_at(other.as_ref()) {
                return (one.unwrap(), other.unwrap());
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), same).await.unwrap()
}
