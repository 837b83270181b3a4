//! The controller process, from its arguments to its shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use jiff::Timestamp;
use kube::Client;
use serin_core::lease::TimingError;
use serin_metrics_analysis::http_probe::{HttpProber, ProbeLimits};
use serin_metrics_analysis::prometheus::{HttpClient, Limits, Poller, RefusedAddresses};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::analysis::{AnalysisDeps, AnalysisManager, RefreshIntervals, ServerResolver};
use crate::answer_journal::AnswerJournal;
use crate::client;
use crate::clock::Clock;
use crate::config::{Command, Config};
use crate::controller::{Controller, ControllerDeps, TaskExited, wait_until_set};
use crate::dispatcher::Dispatcher;
use crate::election::{Candidate, Election, Leadership, unique_identity};
use crate::http;
use crate::image_registry::HttpImageRegistry;
use crate::journal::Journal;
use crate::probes::Probes;
use crate::reconcile::Safeguards;
use crate::slot_limit::SharedSlotLimit;
use crate::telemetry::{self, Metrics};
use crate::uninstall::{self, UninstallError};
use crate::verdict_server::verdict_router;
use crate::watchdog;

/// Errors that end the process.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Logging could not be set up.
    #[error(transparent)]
    Logs(#[from] telemetry::LogError),
    /// The Kubernetes client could not be created.
    #[error(transparent)]
    Client(#[from] client::ClientError),
    /// The HTTP client for Prometheus and registries could not be created.
    #[error("cannot create the HTTP client: {0}")]
    Http(String),
    /// An operating system call failed.
    #[error("{what}: {error}")]
    System {
        /// The operation.
        what: &'static str,
        error: std::io::Error,
    },
    /// The timing of the leader election is not safe.
    #[error("leader election: {0}")]
    Election(#[from] TimingError),
    /// A long-running task exited.
    #[error(transparent)]
    Task(#[from] TaskExited),
    /// Finalizers could not be released.
    #[error(transparent)]
    Uninstall(#[from] UninstallError),
}

impl RunError {
    fn system_error(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// The controller cannot start, or one of its tasks exits.
pub async fn run(config: Config) -> Result<(), RunError> {
    telemetry::init_logs(config.log_format.into(), &config.log_filter)?;
    if config.command == Some(Command::ReleaseFinalizers) {
        return release_finalizers(&config).await;
    }
    let stop = stop_signal()?;
    let slots = Arc::new(SharedSlotLimit::new(config.concurrency.into()));
    let client = client::infer(config.max_requests_per_second, Arc::clone(&slots)).await?;
    let metrics = Arc::new(Metrics::new());
    let instance = unique_identity(&config.pod_name);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %instance, scope = %config.scope(), "starting");
    let election = candidate(&config, &client, &instance)?
        .map(|candidate| Election::start(client.clone(), candidate, Arc::clone(&metrics)));
    let leadership = election
        .as_ref()
        .map_or_else(Leadership::without_election, Election::leadership);
    let scope = config.scope();
    let ownership = scope.limit(Arc::new(leadership), &client);
    let refused = refused_addresses().await;
    let dispatcher = Arc::new(Dispatcher::with_limit(slots));
    let safeguards = safeguards(&config)?;
    let http = HttpClient::with_refused_addresses(refused)
        .map_err(|error| RunError::Http(error.to_string()))?;
    let allowed = config.registry_allowed_addresses.clone();
    let registry = HttpImageRegistry::new(client.clone(), http.clone(), allowed);
    let manager = AnalysisManager::new(
        analysis_deps(&config, &client, &metrics, &safeguards.journal, http),
        Arc::clone(&ownership),
        Arc::clone(&dispatcher),
    );
    let review_client = client.clone();
    let controller = Controller::new(ControllerDeps {
        client,
        namespaces: scope.watched_namespaces(),
        concurrency: config.concurrency,
        clock: Clock::wall(),
        ownership,
        metrics: Arc::clone(&metrics),
        analyzer: Arc::new(manager),
        registry: Arc::new(registry),
        dispatcher,
        instance,
        admission_policy: config.admission_policy.filter(|name| !name.is_empty()),
        safeguards,
    });
    let ready = controller.ready();
    let metrics_server = serve(config.metrics_address, http::metrics_router(metrics), &stop);
    let health_server = serve(config.health_address, http::health_router(ready), &stop);
    let verdict_server = serve_optional(
        config.verdict_address,
        verdict_router(review_client, controller.cache()),
        &stop,
    );
    let ended = tokio::select! {
        ended = controller.run(wait_until_set(stop.clone()), config.shutdown_grace) => ended.map_err(RunError::from),
        error = metrics_server => Err(error),
        error = health_server => Err(error),
        error = verdict_server => Err(error),
    };
    if let Some(election) = election {
        election.release().await;
    }
    tracing::info!("stopped");
    ended
}

/// Serves endpoints. Returns only if that fails.
async fn serve(address: SocketAddr, router: Router, stop: &watch::Receiver<bool>) -> RunError {
    match http::serve(address, router, wait_until_set(stop.clone())).await {
        Err(error) => RunError::System {
            what: "serving the endpoints",
            error,
        },
        // The server stopped because of the shutdown.
        Ok(()) => std::future::pending().await,
    }
}

/// The same for endpoints that are off without an address.
async fn serve_optional(
    address: Option<SocketAddr>,
    router: Router,
    stop: &watch::Receiver<bool>,
) -> RunError {
    match address {
        Some(address) => serve(address, router, stop).await,
        None => std::future::pending().await,
    }
}

/// Opens the journal and starts the watchdog.
fn safeguards(config: &Config) -> Result<Safeguards, RunError> {
    let journal = match &config.state_dir {
        Some(directory) => Journal::open(directory, Timestamp::now()).unwrap_or_else(|error| {
            tracing::warn!(directory = %directory.display(), %error, "cannot use the state directory; continuing without it");
            Journal::default()
        }),
        None => {
            tracing::warn!("--state-dir is not set: a Rollout that ends the process does so again after each restart");
            Journal::default()
        }
    };
    let safeguards = Safeguards {
        journal,
        ..Safeguards::default()
    };
    if !config.watchdog_timeout.is_zero() {
        watchdog::start(
            safeguards.in_progress.clone(),
            safeguards.journal.clone(),
            config.watchdog_timeout,
        )
        .map_err(RunError::system_error("starting the watchdog"))?;
    }
    Ok(safeguards)
}

/// The candidate for the leader election. `None` if leader election is disabled.
fn candidate(
    config: &Config,
    client: &Client,
    instance: &str,
) -> Result<Option<Candidate>, TimingError> {
    if !config.leader_elect {
        return Ok(None);
    }
    let default_namespace = || client.default_namespace().to_owned();
    Ok(Some(Candidate {
        namespace: config
            .lease_namespace
            .clone()
            .unwrap_or_else(default_namespace),
        lease: config.lease_name.clone(),
        identity: instance.to_owned(),
        timing: config.timing()?,
    }))
}

async fn release_finalizers(config: &Config) -> Result<(), RunError> {
    let client = client::infer(config.max_requests_per_second, Arc::default()).await?;
    let candidate = candidate(config, &client, &unique_identity(&config.pod_name))?;
    let scope = config.scope();
    let count = uninstall::release_finalizers(&client, &scope, candidate, &Clock::wall()).await?;
    tracing::info!(rollouts = count, "all finalizers are removed");
    Ok(())
}

/// Maximum time to look up the name of the API server.
const API_SERVER_LOOKUP: Duration = Duration::from_secs(3);

/// The addresses of the API server, which Rollouts must not query: as the environment of a pod and
/// the client's configuration name it.
async fn refused_addresses() -> RefusedAddresses {
    let from_environment = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    let configured = kube::Config::infer().await.ok();
    let configured = configured.and_then(|config| Some(config.cluster_url.host()?.to_owned()));
    let mut refused = RefusedAddresses::default();
    for host in from_environment.into_iter().chain(configured) {
        refused = refused.with_api_server(&host);
        let lookup = tokio::net::lookup_host((host.trim_matches(['[', ']']), 443));
        match tokio::time::timeout(API_SERVER_LOOKUP, lookup).await {
            Ok(Ok(found)) => {
                let addresses = found.map(|address| address.ip().to_string());
                refused = addresses.fold(refused, |refused, ip| refused.with_api_server(&ip));
            }
            Ok(Err(_)) | Err(_) => tracing::warn!(
                host,
                "cannot look up the API server; queries of Rollouts to it are refused by name only"
            ),
        }
    }
    refused
}

fn analysis_deps(
    config: &Config,
    client: &Client,
    metrics: &Arc<Metrics>,
    journal: &Journal,
    http: HttpClient,
) -> AnalysisDeps {
    if config.sends_headers_in_clear_text() {
        tracing::warn!(
            "the headers of --prometheus-headers-dir are sent without encryption, because \
             --prometheus-address does not begin with https://"
        );
    }
    let query_metrics = Arc::clone(metrics);
    let on_query = Arc::new(move |took, error| query_metrics.record_query(took, error));
    let guard = Arc::new(AnswerJournal::new(journal.clone(), Clock::wall()));
    let servers = ServerResolver::new(
        client.clone(),
        config.default_server(),
        RefreshIntervals::default(),
    )
    .with_allowed_addresses(config.prometheus_allowed_addresses.clone())
    .with_namespace_label(config.prometheus_enforce_namespace_label.clone());
    let allowed = config.check_allowed_addresses.clone();
    let prober = HttpProber::new(http.clone(), allowed, ProbeLimits::default());
    AnalysisDeps {
        poller: Poller::with_guard(http, Limits::default(), on_query, Some(guard)),
        probes: Probes::new(client.clone(), prober, servers.clone(), Clock::wall()),
        servers,
        metrics: Arc::clone(metrics),
        clock: Clock::wall(),
    }
}

/// Becomes true at the first SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>, RunError> {
    let (stopping, stop) = watch::channel(false);
    let mut terminate =
        signal(SignalKind::terminate()).map_err(RunError::system_error("listening for SIGTERM"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(RunError::system_error("listening for SIGINT"))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.send_replace(true);
        // Keeps the sender alive. A second signal has no effect because the grace period is
        // bounded.
        std::future::pending::<()>().await;
    });
    Ok(stop)
}
