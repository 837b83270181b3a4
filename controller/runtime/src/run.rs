//! The whole program: from its arguments to its end.

use std::sync::Arc;

use futures::StreamExt;
use kube::Client;
use serin_metrics_analysis::prometheus::{HttpClient, Limits, Poller};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::client;
use crate::clock::Clock;
use crate::config::{Command, Config};
use crate::controller::{Controller, PartEnded, Parts};
use crate::election::{Candidate, Election, Leadership, identity};
use crate::http;
use crate::judging::{Bench, Judges, Rereading, Servers};
use crate::telemetry::{self, Metrics};
use crate::uninstall::{self, UninstallError};
use crate::world::Key;

/// Why the program could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Logging could not be set up.
    #[error(transparent)]
    Logs(#[from] telemetry::LogError),
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] client::ClientError),
    /// There is no way to ask Prometheus.
    #[error("the Prometheus client cannot be set up: {0}")]
    Prometheus(String),
    /// Something of the operating system could not be had.
    #[error("{what}: {error}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// A part has ended by itself.
    #[error(transparent)]
    Part(#[from] PartEnded),
    /// Finalizers could not be released.
    #[error(transparent)]
    Uninstall(#[from] UninstallError),
}

impl RunError {
    fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}

/// Runs the controller until it is told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// Where it cannot start, or a part of it ends by itself.
pub async fn run(config: Config) -> Result<(), RunError> {
    telemetry::init_logs(config.log_format.into(), &config.log_filter)?;
    if config.command == Some(Command::ReleaseFinalizers) {
        return release_finalizers(&config).await;
    }
    let stop = stop_signal()?;
    let client = client::infer().await?;
    let metrics = Arc::new(Metrics::new());
    let instance = identity(&config.pod_name);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %instance, namespace = config.namespace.as_deref().unwrap_or("(all)"), "starting");
    let election = candidate(&config, &client, &instance)
        .map(|candidate| Election::start(client.clone(), candidate, Arc::clone(&metrics)));
    let leadership = election
        .as_ref()
        .map_or_else(Leadership::always, Election::leadership);
    let (judges, triggers) = Judges::new(bench(&config, &client, &metrics)?, leadership.clone());
    let controller = Controller::new(Parts {
        client,
        namespace: config.namespace,
        concurrency: config.concurrency,
        clock: Clock::wall(),
        leadership,
        metrics: Arc::clone(&metrics),
        judge: Arc::new(judges),
        judged: triggers
            .map(|rollout| Key::new(rollout.namespace, rollout.name))
            .boxed(),
        instance,
    });
    let endpoints = http::router(metrics, controller.ready());
    let serving = http::serve(config.metrics_address, endpoints, until_set(stop.clone()));
    let failed_serving = async {
        match serving.await {
            Err(error) => RunError::System {
                what: "serving the endpoints",
                error,
            },
            // It has ended because everything does.
            Ok(()) => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = controller.run(until_set(stop.clone()), config.shutdown_grace) => ended.map_err(RunError::from),
        error = failed_serving => Err(error),
    };
    if let Some(election) = election {
        election.release().await;
    }
    tracing::info!("stopped");
    ended
}

/// How this process takes part in the election; `None` if it runs alone.
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
    let candidate = candidate(config, &client, &identity(&config.pod_name));
    let namespace = config.namespace.as_deref();
    let count =
        uninstall::release_finalizers(&client, namespace, candidate, &Clock::wall()).await?;
    tracing::info!(rollouts = count, "no Rollout holds the finalizer any more");
    Ok(())
}

fn bench(config: &Config, client: &Client, metrics: &Arc<Metrics>) -> Result<Bench, RunError> {
    let http = HttpClient::new().map_err(|error| RunError::Prometheus(error.to_string()))?;
    let counted = Arc::clone(metrics);
    let noted = Arc::new(move |took, error| counted.queried(took, error));
    Ok(Bench {
        poller: Poller::new(http, Limits::default(), noted),
        servers: Servers::new(
            client.clone(),
            config.default_server(),
            Rereading::default(),
        ),
        metrics: Arc::clone(metrics),
        clock: Clock::wall(),
    })
}

/// Turns true with the first SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>, RunError> {
    let (stopping, stop) = watch::channel(false);
    let mut terminate =
        signal(SignalKind::terminate()).map_err(RunError::system("listening for SIGTERM"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(RunError::system("listening for SIGINT"))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.send_replace(true);
        // Dropped only with the process: a second signal changes nothing, the grace is bounded.
        std::future::pending::<()>().await;
    });
    Ok(stop)
}

async fn until_set(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}
