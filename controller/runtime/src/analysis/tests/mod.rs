//! Tests of the analysis manager with a scripted Prometheus.
//!
//! A test advances time like production does: by a restart from the checkpoint, with a later clock.

mod addresses;
mod budgets;
mod checks;
mod credentials;
mod dispersion;
mod holds;
mod idle_placebo;
mod latency_guard;
mod lifecycle;
mod restarts;
mod scrape_intervals;
mod scripted_prometheus;
mod server_side_aggregation;
mod verdicts;

use serin_core::hold::HoldCode;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use serin_core::plan::EvidencePace;
use serin_core::units::{Revision, Weight};
use serin_crds::status::AnalysisStatus;
use serin_metrics_analysis::fixtures::request;
use serin_metrics_analysis::http_probe::{HttpProber, ProbeLimits};
use serin_metrics_analysis::prometheus::{AllowedAddress, HttpClient, Limits, Series};
use tokio::time::{sleep, timeout};

use self::scripted_prometheus::{Mode, ScriptedPrometheus};
use super::*;
use crate::election::Leadership;
use crate::queue::Lane;

fn install_tls() {
    // Another test may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn poller(limits: Limits) -> Poller {
    install_tls();
    Poller::new(HttpClient::new().unwrap(), limits, Arc::new(|_, _| {}))
}

/// An API server that must not be queried.
fn unreachable_api_server() -> kube::Client {
    let refused = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other(
            "the API server must not be queried",
        ))
    });
    kube::Client::new(refused, "default")
}

/// Allows Rollouts to use the servers of the tests.
fn loopback() -> Vec<AllowedAddress> {
    ["http://127.0.0.1", "https://127.0.0.1"]
        .map(|address| address.parse().unwrap())
        .into()
}

/// Resolves this Prometheus for all Rollouts.
fn servers(url: &str) -> ServerResolver {
    ServerResolver::new(
        unreachable_api_server(),
        Some(DefaultServer {
            address: url.into(),
            headers_dir: None,
        }),
        RefreshIntervals::default(),
    )
}

/// The start of the scenario.
fn start() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    start() + seconds.seconds()
}

/// Requests and errors per second of both sides, scraped once per second, starting one minute
/// before the release.
struct TrafficScenario {
    until_seconds: i64,
    canary: (f64, f64),
    stable: (f64, f64),
    bad_from_seconds: i64,
}

impl Default for TrafficScenario {
    fn default() -> Self {
        Self {
            until_seconds: 600,
            canary: (60.0, 0.0),
            stable: (240.0, 0.12),
            bad_from_seconds: 0,
        }
    }
}

impl TrafficScenario {
    /// The counters of one gateway. Those of the canary start with the release.
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

/// One process lifetime of the controller.
#[derive(Debug)]
struct RunningManager {
    manager: AnalysisManager,
    dispatcher: Arc<Dispatcher>,
    poller: Poller,
    leads: Option<watch::Sender<bool>>,
}

async fn start_prometheus(scenario: &TrafficScenario) -> ScriptedPrometheus {
    let prometheus = ScriptedPrometheus::start(Clock::tokio_from(start())).await;
    prometheus.set_series(scenario.series());
    prometheus
}

/// Starts a process at this time of the scenario.
fn start_manager(prometheus: &ScriptedPrometheus, now: Timestamp) -> RunningManager {
    start_with_limits(
        prometheus,
        now,
        Limits {
            poll_timeout: Duration::from_secs(2),
            ..Limits::default()
        },
    )
}

fn start_with_limits(
    prometheus: &ScriptedPrometheus,
    now: Timestamp,
    limits: Limits,
) -> RunningManager {
    start_with_servers(prometheus, now, limits, servers(&prometheus.url))
}

fn start_with_servers(
    prometheus: &ScriptedPrometheus,
    now: Timestamp,
    limits: Limits,
    servers: ServerResolver,
) -> RunningManager {
    let clock = Clock::tokio_from(now);
    prometheus.set_clock(clock.clone());
    let poller = poller(limits);
    let http = HttpClient::new().unwrap();
    let prober = HttpProber::new(http, loopback(), ProbeLimits::default());
    let api_server = unreachable_api_server();
    let deps = AnalysisDeps {
        poller: poller.clone(),
        probes: Probes::new(api_server, prober, servers.clone(), clock.clone()),
        servers,
        metrics: Arc::new(Metrics::new()),
        clock,
    };
    let dispatcher = Arc::new(Dispatcher::default());
    let manager = AnalysisManager::new(
        deps,
        Arc::new(Leadership::without_election()),
        Arc::clone(&dispatcher),
    );
    RunningManager {
        manager,
        dispatcher,
        poller,
        leads: None,
    }
}

impl RunningManager {
    fn snapshot(&self) -> AnalysisSnapshot {
        self.manager.snapshot("1", &Revision::new("bbb"))
    }

    /// Waits until the snapshot satisfies the condition.
    async fn wait_until(
        &self,
        what: &str,
        condition: impl Fn(&AnalysisSnapshot) -> bool,
    ) -> AnalysisSnapshot {
        let reached = timeout(Duration::from_secs(30), async {
            while !condition(&self.snapshot()) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(
            reached.await.is_ok(),
            "{what} is not reached; last seen: {:#?}",
            self.snapshot().report
        );
        self.snapshot()
    }

    async fn wait_for_hold(&self, code: HoldCode) -> String {
        let snapshot = self
            .wait_until(code.as_str(), |snapshot| {
                snapshot.report.hold_code() == Some(code)
            })
            .await;
        snapshot.report.holds[0].message.to_string()
    }

    /// Waits until the evidence covers this second of the scenario. Returns the checkpoint.
    async fn wait_for_evidence_until(&self, seconds: i64) -> AnalysisStatus {
        let reached = |snapshot: &AnalysisSnapshot| {
            round_at(snapshot.checkpoint.as_ref()) >= at(seconds).as_millisecond()
        };
        self.wait_until("the round", reached)
            .await
            .checkpoint
            .unwrap()
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

/// The checkpoint of a release whose canary has just received its first traffic.
async fn checkpoint_with_traffic(
    prometheus: &ScriptedPrometheus,
    request: &AnalysisRequest,
) -> AnalysisStatus {
    let running = start_manager(prometheus, start());
    running.manager.start_or_update(request.clone());
    running
        .wait_until("a checkpoint", |snapshot| snapshot.checkpoint.is_some())
        .await
        .checkpoint
        .unwrap()
}

/// A process that resumes the release at this second of the scenario.
async fn resume_at(
    prometheus: &ScriptedPrometheus,
    request: &AnalysisRequest,
    seconds: i64,
) -> RunningManager {
    let begun = checkpoint_with_traffic(prometheus, request).await;
    resume(prometheus, request, &begun, seconds)
}

/// A controller that continues from a checkpoint at this second.
fn resume(
    prometheus: &ScriptedPrometheus,
    request: &AnalysisRequest,
    from: &AnalysisStatus,
    seconds: i64,
) -> RunningManager {
    let running = start_manager(prometheus, at(seconds));
    running.manager.start_or_update(AnalysisRequest {
        resume_from: Some(from.clone()),
        ..request.clone()
    });
    running
}

/// The checkpoints of two processes after the same scrapes, at this second or later.
async fn same_round(
    one: &RunningManager,
    other: &RunningManager,
    seconds: i64,
) -> (AnalysisStatus, AnalysisStatus) {
    let same = async {
        loop {
            let (one, other) = (one.snapshot().checkpoint, other.snapshot().checkpoint);
            let round = round_at(one.as_ref());
            if round >= at(seconds).as_millisecond() && round == round_at(other.as_ref()) {
                return (one.unwrap(), other.unwrap());
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), same).await.unwrap()
}
