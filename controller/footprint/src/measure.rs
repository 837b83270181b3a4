//! The measurement.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use serin_fake_cluster::{FakeCluster, RequestRecord};
use tokio::runtime::{Builder, Handle};
use tokio::time::{sleep, timeout};

use crate::allocator;
use crate::controller_process::{ControllerProcess, Counters};

const NAMESPACE: &str = "shop";
/// Seed of the latencies of the cluster.
const SEED: u64 = 20;
/// Maximum time until all Rollouts are healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(600);
/// Time without a write after which nothing more is due. Observations are written once they were
/// stable for 5 s, and drained pods are removed after 30 s.
const QUIET_FOR: Duration = Duration::from_secs(7);
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// Each look at all Rollouts keeps the cluster busy.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What a Rollout and a release cost.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Number of Rollouts.
    pub rollouts: u32,
    /// Bytes of memory of the controller for each Rollout, after a release and after a restart.
    /// The memory of a controller without Rollouts is subtracted.
    pub bytes_per_rollout: [f64; 2],
    /// Requests of each kind for a release, dry runs included and watches excluded.
    pub requests: BTreeMap<String, f64>,
    /// Bytes of the bodies of the requests of a release.
    pub request_bytes: f64,
    /// Reconciles for a release.
    pub reconciles: f64,
    /// Allocations for a release.
    pub allocations: f64,
    /// Bytes of these allocations.
    pub allocated_bytes: f64,
    /// CPU time for a release.
    pub cpu: Duration,
}

/// Runs a release of each of `rollouts` Rollouts at the same time: one replica, `setWeight: 20`,
/// `pause: 5s`, `setWeight: 50`, `pause: 5s`, no router and no analysis.
///
/// [`crate::CountingAllocator`] must be the global allocator.
///
/// # Errors
/// The controller does not start or stop, or the Rollouts do not become healthy.
pub fn measure(rollouts: u32) -> Result<Footprint> {
    let cluster_runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("cluster")
        .enable_all()
        .build()?;
    let cluster = cluster_runtime.handle().clone();
    let fake = cluster.block_on(async { FakeCluster::new(SEED) });
    let idle = started_memory(&fake, &cluster)?;
    let controller = ControllerProcess::start(&fake, &cluster)?;
    deploy(&fake, &cluster, rollouts, 1)?;
    fake.clear_requests();
    let before = controller.counters()?;
    deploy(&fake, &cluster, rollouts, 2)?;
    let after = controller.counters()?;
    let requests = count_requests(&fake.requests());
    let released = memory_of(controller)?;
    let restarted = started_memory(&fake, &cluster)?;
    let memory = [released - idle, restarted - idle];
    Ok(footprint(rollouts, before, after, requests, memory))
}

#[expect(clippy::cast_precision_loss, reason = "the figures are far below 2^52")]
fn footprint(
    rollouts: u32,
    before: Counters,
    after: Counters,
    requests: BTreeMap<String, u64>,
    memory: [i64; 2],
) -> Footprint {
    let each = |total: u64| total as f64 / f64::from(rollouts);
    Footprint {
        rollouts,
        bytes_per_rollout: memory.map(|bytes| bytes as f64 / f64::from(rollouts)),
        requests: requests
            .into_iter()
            .map(|(kind, count)| (kind, each(count)))
            .collect(),
        request_bytes: each(after.request_bytes - before.request_bytes),
        reconciles: each(after.reconciles - before.reconciles),
        allocations: each(after.allocations - before.allocations),
        allocated_bytes: each(after.allocated_bytes - before.allocated_bytes),
        cpu: after.cpu.saturating_sub(before.cpu) / rollouts,
    }
}

/// Bytes of a controller that has started and come to rest.
fn started_memory(fake: &FakeCluster, cluster: &Handle) -> Result<i64> {
    fake.clear_requests();
    let controller = ControllerProcess::start(fake, cluster)?;
    cluster.block_on(wait_until_quiet(fake))?;
    memory_of(controller)
}

/// Bytes that become free when the controller is dropped.
fn memory_of(controller: ControllerProcess) -> Result<i64> {
    let before = allocator::live_bytes();
    controller.stop()?;
    Ok(before - allocator::live_bytes())
}

/// Applies a version of all Rollouts and waits until it is stable and nothing is written any more.
fn deploy(fake: &FakeCluster, cluster: &Handle, rollouts: u32, version: u32) -> Result<()> {
    cluster.block_on(async {
        for index in 0..rollouts {
            fake.apply_object(rollout(index, version))?;
        }
        let mut unhealthy: Vec<u32> = (0..rollouts).collect();
        let waited = timeout(HEALTHY_WITHIN, async {
            while !unhealthy.is_empty() {
                sleep(POLL_INTERVAL).await;
                unhealthy.retain(|index| !is_healthy(fake, *index));
            }
        });
        let healthy = waited.await;
        healthy.with_context(|| format!("version {version} is not stable in all Rollouts"))?;
        wait_until_quiet(fake).await
    })
}

async fn wait_until_quiet(fake: &FakeCluster) -> Result<()> {
    let waited = timeout(QUIET_WITHIN, async {
        while !is_quiet(fake) {
            sleep(POLL_INTERVAL).await;
        }
    });
    waited.await.context("the controller does not come to rest")
}

fn is_quiet(fake: &FakeCluster) -> bool {
    let requests = fake.requests();
    let last = requests.iter().rfind(|request| !is_watch(request));
    let quiet_since = last.map(|request| fake.now().duration_since(request.at));
    // Before the first request, the controller is still starting.
    quiet_since.is_some_and(|since| since.unsigned_abs() >= QUIET_FOR)
}

fn is_watch(request: &RequestRecord) -> bool {
    request.verb == "watch"
}

fn is_healthy(fake: &FakeCluster, index: u32) -> bool {
    let rollout = fake.get_json("rollouts", NAMESPACE, &name(index));
    let rollout = rollout.unwrap_or_default();
    let status = &rollout["status"];
    status["phase"] == "Healthy"
        && status["observedGeneration"] == rollout["metadata"]["generation"]
        && status["stableRevision"] == status["currentRevision"]
}

fn name(index: u32) -> String {
    format!("service-{index:05}")
}

fn rollout(index: u32, version: u32) -> Value {
    let name = name(index);
    json!({
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "app",
                    "image": "registry.example/shop/checkout:1",
                    "env": [{"name": "VERSION", "value": format!("v{version}")}],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                }]},
            },
            "strategy": {"canary": {"steps": [
                {"setWeight": 20}, {"pause": {"duration": "5s"}},
                {"setWeight": 50}, {"pause": {"duration": "5s"}},
            ]}},
        },
    })
}

fn count_requests(requests: &[RequestRecord]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for request in requests.iter().filter(|request| !is_watch(request)) {
        let part = request.subresource.as_ref();
        let part = part.map_or_else(String::new, |part| format!("/{part}"));
        let dry_run = if request.dry_run { " (dry run)" } else { "" };
        let kind = format!("{} {}{part}{dry_run}", request.verb, request.plural);
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

impl Footprint {
    /// Writes for a release, Events and dry runs included.
    pub fn writes(&self) -> f64 {
        let writes = self.requests.iter();
        let writes =
            writes.filter(|(kind, _)| !kind.starts_with("get ") && !kind.starts_with("list "));
        writes.map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [released, restarted] = self.bytes_per_rollout.map(|bytes| bytes / 1024.0);
        writeln!(
            f,
            "{} Rollouts.\n\n| what | for each |\n|---|---|",
            self.rollouts
        )?;
        writeln!(f, "| memory after a release | {released:.1} KiB |")?;
        writeln!(f, "| memory after a restart | {restarted:.1} KiB |")?;
        writeln!(f, "| writes of a release | {:.2} |", self.writes())?;
        for (kind, count) in &self.requests {
            writeln!(f, "| - {kind} | {count:.2} |")?;
        }
        writeln!(
            f,
            "| bodies of its requests | {:.1} KiB |",
            self.request_bytes / 1024.0
        )?;
        writeln!(f, "| reconciles of a release | {:.1} |", self.reconciles)?;
        writeln!(f, "| allocations of a release | {:.0} |", self.allocations)?;
        writeln!(
            f,
            "| allocated bytes | {:.0} KiB |",
            self.allocated_bytes / 1024.0
        )?;
        writeln!(
            f,
            "| CPU time of a release | {:.2} ms |",
            self.cpu.as_secs_f64() * 1000.0
        )
    }
}
