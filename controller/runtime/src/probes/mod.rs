//! Requests and Jobs of checks. Each check that is due has a task of its own, so that a slow one
//! delays no other.

mod http;
mod job;

use std::time::Duration;

use kube::Client;
use serin_metrics_analysis::checks::{Probe, ProbeOutcome};
use serin_metrics_analysis::http_probe::HttpProber;
use serin_metrics_analysis::{AnalysisRequest, RolloutName};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::analysis::ServerResolver;
use crate::clock::Clock;

/// Sends requests and runs Jobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Probes {
    client: KubeClient,
    http: HttpProber,
    secrets: ServerResolver,
    clock: Clock,
}

/// A client of the API server.
#[derive(Clone)]
struct KubeClient(Client);

impl std::fmt::Debug for KubeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// The Rollout to which a request or a Job belongs.
#[derive(Clone, Debug)]
pub struct ProbeOwner {
    rollout: RolloutName,
    uid: String,
    revision: String,
}

impl ProbeOwner {
    /// The Rollout of an analysis.
    pub fn new(request: &AnalysisRequest) -> Self {
        Self {
            rollout: request.rollout.clone(),
            uid: request.uid.clone(),
            revision: request.revision.to_string(),
        }
    }
}

/// What came of a request or a Job.
#[derive(Debug)]
pub struct ProbeResult {
    /// When it was begun, in milliseconds since the epoch.
    pub began_ms: i64,
    /// What came of it.
    pub outcome: ProbeOutcome,
}

/// The results of one check. Its task ends when this is dropped.
#[derive(Debug)]
pub struct ProbeSubscription {
    results: mpsc::Receiver<ProbeResult>,
    task: AbortHandle,
}

impl Drop for ProbeSubscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ProbeSubscription {
    /// Waits for the next result. Never returns if there are no more.
    pub async fn next(&mut self) -> ProbeResult {
        match self.results.recv().await {
            Some(result) => result,
            None => {
                sleep(Duration::MAX).await;
                std::future::pending().await
            }
        }
    }
}

impl Probes {
    /// `secrets` reads the Secrets of headers.
    pub const fn new(
        client: Client,
        http: HttpProber,
        secrets: ServerResolver,
        clock: Clock,
    ) -> Self {
        Self {
            client: KubeClient(client),
            http,
            secrets,
            clock,
        }
    }

    /// Starts the requests or the Job of a check.
    pub fn start(&self, probe: Probe, check: String, owner: ProbeOwner) -> ProbeSubscription {
        // A result is taken before the next one is begun.
        let (sender, results) = mpsc::channel(1);
        let probes = self.clone();
        let task = tokio::spawn(async move {
            match probe {
                Probe::Http { request, interval } => {
                    http::repeat(&probes, &request, interval, &check, &owner, &sender).await;
                }
                Probe::Job(run) => job::run(&probes, &run, &owner, &sender).await,
            }
        });
        ProbeSubscription {
            results,
            task: task.abort_handle(),
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }
}

/// Reports a result. Returns false if nobody waits for it any more.
async fn report(sender: &mpsc::Sender<ProbeResult>, began_ms: i64, outcome: ProbeOutcome) -> bool {
    let result = ProbeResult { began_ms, outcome };
    sender.send(result).await.is_ok()
}
