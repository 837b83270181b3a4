//! A controller in threads of its own, which reaches the cluster in the threads of the cluster.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body::Body as _;
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serin_core::units::Revision;
use serin_fake_cluster::FakeCluster;
use serin_metrics_analysis::{AnalysisRequest, AnalysisSnapshot};
use serin_runtime::analyzer::Analyzer;
use serin_runtime::clock::Clock;
use serin_runtime::controller::{Controller, ControllerDeps};
use serin_runtime::dispatcher::Dispatcher;
use serin_runtime::election::Leadership;
use serin_runtime::image_registry::NoImageRegistry;
use serin_runtime::reconcile::Safeguards;
use serin_runtime::telemetry::Metrics;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::service_fn;

use crate::allocator;

/// The beginning of the names of its threads.
const THREAD_NAME: &str = "serin";
/// The default of the controller.
const CONCURRENCY: u16 = 32;
/// Maximum time to stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Figures of a controller since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub reconciles: u64,
    pub allocations: u64,
    pub allocated_bytes: u64,
    pub cpu: Duration,
    /// Bytes of the bodies of its requests.
    pub request_bytes: u64,
}

/// A running controller.
pub(crate) struct ControllerProcess {
    runtime: Runtime,
    metrics: Arc<Metrics>,
    request_bytes: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

impl ControllerProcess {
    /// Starts a controller without leader election. `cluster` is the runtime of the cluster.
    pub(crate) fn start(fake: &FakeCluster, cluster: &Handle) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(THREAD_NAME)
            .on_thread_start(allocator::count_this_thread)
            .enable_all()
            .build()?;
        let metrics = Arc::new(Metrics::new());
        let request_bytes = Arc::new(AtomicU64::new(0));
        let (stop, mut stopped) = watch::channel(false);
        let client = {
            let _entered = cluster.enter();
            fake.client_for("serin")
        };
        let (handle, counter) = (cluster.clone(), Arc::clone(&request_bytes));
        let shared = Arc::clone(&metrics);
        let task = runtime.spawn(async move {
            let client = remote_client(client, handle, counter);
            let controller = Controller::new(ControllerDeps {
                client,
                namespaces: Vec::new(),
                concurrency: CONCURRENCY,
                clock: Clock::wall(),
                ownership: Arc::new(Leadership::without_election()),
                metrics: shared,
                analyzer: Arc::new(NoAnalyzer),
                registry: Arc::new(NoImageRegistry),
                dispatcher: Arc::new(Dispatcher::default()),
                instance: "serin".to_owned(),
                admission_policy: None,
                safeguards: Safeguards::default(),
            });
            let stopping = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            Ok(controller.run(stopping, STOP_WITHIN).await?)
        });
        Ok(Self {
            runtime,
            metrics,
            request_bytes,
            stop,
            task,
        })
    }

    pub(crate) fn counters(&self) -> Result<Counters> {
        let (allocations, allocated_bytes) = allocator::allocations();
        Ok(Counters {
            reconciles: reconciles(&self.metrics.encode()?),
            allocations,
            allocated_bytes,
            cpu: cpu_time()?,
            request_bytes: self.request_bytes.load(Relaxed),
        })
    }

    /// Stops the controller and drops everything of it.
    pub(crate) fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        self.runtime.block_on(self.task)??;
        self.runtime.shutdown_timeout(STOP_WITHIN);
        Ok(())
    }
}

/// A client whose requests are handled by the threads of the cluster.
fn remote_client(client: Client, cluster: Handle, bytes: Arc<AtomicU64>) -> Client {
    let send = move |request: http::Request<Body>| {
        let (client, cluster) = (client.clone(), cluster.clone());
        let size = request.body().size_hint().exact().unwrap_or(0);
        bytes.fetch_add(size, Relaxed);
        async move {
            let sent = cluster.spawn(async move { client.send(request).await });
            sent.await
                .unwrap_or_else(|error| Err(kube::Error::Service(error.into())))
        }
    };
    Client::new(service_fn(send), "default")
}

/// The sum of all results of `serin_reconciles_total`.
fn reconciles(metrics: &str) -> u64 {
    let lines = metrics.lines();
    let values = lines.filter_map(|line| {
        let rest = line.strip_prefix("serin_reconciles_total{")?;
        rest.rsplit_once(' ')?.1.parse::<u64>().ok()
    });
    values.sum()
}

/// The CPU time of the living threads of the controller.
fn cpu_time() -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir("/proc/self/task").context("cannot list the threads")? {
        let path = thread?.path();
        let is_counted =
            fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with(THREAD_NAME));
        if !is_counted {
            continue;
        }
        // `proc(5)`: the time on the CPU, the time of waiting, and the number of time slices.
        let times = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let on_cpu = times.split(' ').next().unwrap_or_default();
        nanoseconds += on_cpu.parse::<u64>().unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// No Rollout is analyzed.
struct NoAnalyzer;

impl Analyzer for NoAnalyzer {
    fn start_or_update(&self, _: AnalysisRequest) {}

    fn stop(&self, _: &str) {}

    fn snapshot(&self, _: &str, _: &Revision) -> AnalysisSnapshot {
        AnalysisSnapshot::undecided("nothing is analyzed", Timestamp::UNIX_EPOCH)
    }
}
