//! The controller process, from its arguments to its shutdown.

use std::sync::Arc;

use futures::StreamExt;
use kube::Client;
use serin_metrics_analysis::prometheus::{HttpClient, Limits, Poller};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::analysis::{AnalysisDeps, AnalysisManager, RefreshIntervals, ServerResolver};
use crate::client;
use crate::clock::Clock;
use crate::cluster_cache::Key;
use crate::config::{Command, Config};
use crate::controller::{Controller, ControllerDeps, TaskExited, wait_until_set};
use crate::election::{Candidate, Election, Leadership, unique_identity};
use crate::http;
use crate::telemetry::{self, Metrics};
use crate::uninstall::{self, UninstallError};

/// Errors that end the process.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Logging could not be set up.
    #[error(transparent)]
    Logs(#[from] telemetry::LogError),
    /// The Kubernetes client could not be created.
    #[error(transparent)]
    Client(#[from] client::ClientError),
    /// The Prometheus client could not be created.
    #[error("cannot create the Prometheus client: {0}")]
    Prometheus(String),
    /// An operating system call failed.
    #[error("{what}: {error}")]
    System {
        /// The operation.
        what: &'static str,
        error: std::io::Error,
    },
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
    let client = client::infer().await?;
    let metrics = Arc::new(Metrics::new());
    let instance = unique_identity(&config.pod_name);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %instance, namespace = config.namespace.as_deref().unwrap_or("(all)"), "starting");
    let election = candidate(&config, &client, &instance)
        .map(|candidate| Election::start(client.clone(), candidate, Arc::clone(&metrics)));
    let leadership = election
        .as_ref()
        .map_or_else(Leadership::without_election, Election::leadership);
    let (manager, triggers) = AnalysisManager::new(
        analysis_deps(&config, &client, &metrics)?,
        leadership.clone(),
    );
    let controller = Controller::new(ControllerDeps {
        client,
        namespace: config.namespace,
        concurrency: config.concurrency,
        clock: Clock::wall(),
        leadership,
        metrics: Arc::clone(&metrics),
        analyzer: Arc::new(manager),
        analysis_triggers: triggers
            .map(|rollout| Key::new(rollout.namespace, rollout.name))
            .boxed(),
        instance,
    });
    let endpoints = http::router(metrics, controller.ready());
    let serving = http::serve(
        config.metrics_address,
        endpoints,
        wait_until_set(stop.clone()),
    );
    let failed_serving = async {
        match serving.await {
            Err(error) => RunError::System {
                what: "serving the endpoints",
                error,
            },
            // The server stopped because of the shutdown.
            Ok(()) => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = controller.run(wait_until_set(stop.clone()), config.shutdown_grace) => ended.map_err(RunError::from),
        error = failed_serving => Err(error),
    };
    if let Some(election) = election {
        election.release().await;
    }
    tracing::info!("stopped");
    ended
}

/// The candidate for the leader election. `None` if leader election is disabled.
fn candidate(config: &Config, client: &Client, instance: &str) -> Option<Candidate> {
    config.leader_elect.then(|| Candidate {
        namespace: config
            .lease_namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned()),
        lease: config.lease_name.clone(),
        identity: instance.to_owned(),
        timing: config.timing(),
    })
}

async fn release_finalizers(config: &Config) -> Result<(), RunError> {
    let client = client::infer().await?;
    let candidate = candidate(config, &client, &unique_identity(&config.pod_name));
    let namespace = config.namespace.as_deref();
    let count =
        uninstall::release_finalizers(&client, namespace, candidate, &Clock::wall()).await?;
    tracing::info!(rollouts = count, "all finalizers are removed");
    Ok(())
}

fn analysis_deps(
    config: &Config,
    client: &Client,
    metrics: &Arc<Metrics>,
) -> Result<AnalysisDeps, RunError> {
    let http = HttpClient::new().map_err(|error| RunError::Prometheus(error.to_string()))?;
    let query_metrics = Arc::clone(metrics);
    let on_query = Arc::new(move |took, error| query_metrics.record_query(took, error));
    Ok(AnalysisDeps {
        poller: Poller::new(http, Limits::default(), on_query),
        servers: ServerResolver::new(
            client.clone(),
            config.default_server(),
            RefreshIntervals::default(),
        ),
        metrics: Arc::clone(metrics),
        clock: Clock::wall(),
    })
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
