//! The measurement.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use serin_fake_cluster::{FakeCluster, RequestRecord};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use crate::allocator;
use crate::controller_process::{ControllerProcess, Counters};

const NAMESPACE: &str = "shop";
/// Seed of the latencies of the cluster.
const SEED: u64 = 20;
/// Maximum time until all Rollouts are healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(600);
/// Time without a write after which nothing more of a release is due. Observations are written once
/// they were stable for 5 s.
const QUIET_FOR: Duration = Duration::from_secs(7);
/// The same after a start, which writes nothing if nothing has changed.
const STARTED_FOR: Duration = Duration::from_secs(2);
const QUIET_WITHIN: Duration = Duration::from_secs(300);
/// Number of Rollouts that exist before, so that memory that is allocated once does not count.
const EXISTING: u32 = 10;
/// Each look at all Rollouts keeps the cluster busy.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Which releases are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Releases {
    /// Number of Rollouts that are released at the same time.
    pub rollouts: u32,
    /// Duration of each of the two pauses of a release.
    pub pause: Duration,
    /// Number of RolloutPolicies that apply to every Rollout.
    pub policies: u32,
}

impl Releases {
    /// Releases with pauses of 5 s, as in the other benchmarks.
    pub const fn for_benchmark(rollouts: u32) -> Self {
        Self {
            rollouts,
            pause: Duration::from_secs(5),
            policies: 0,
        }
    }

    /// The same releases with pauses of 1 s, for tests.
    pub const fn quick(rollouts: u32) -> Self {
        Self {
            rollouts,
            pause: Duration::from_secs(1),
            policies: 0,
        }
    }

    /// The same releases under this number of RolloutPolicies.
    #[must_use]
    pub const fn under_policies(self, policies: u32) -> Self {
        Self { policies, ..self }
    }
}

/// What a Rollout and a release cost.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Bytes of memory of the controller for each Rollout, after a release and after a restart.
    /// The memory of a controller with a few other Rollouts is subtracted.
    pub bytes_per_rollout: [f64; 2],
    /// What a release costs.
    pub release: ReleaseCost,
}

/// What a release costs.
#[derive(Clone, Debug)]
pub struct ReleaseCost {
    /// Number of Rollouts.
    pub rollouts: u32,
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

/// A cluster in threads of its own.
struct Cluster {
    fake: FakeCluster,
    runtime: Runtime,
}

impl Cluster {
    /// Starts a cluster with the policies of the releases.
    fn start(releases: Releases) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("cluster")
            .enable_all()
            .build()?;
        let fake = runtime.block_on(async { FakeCluster::new(SEED) });
        runtime.block_on(async {
            for index in 0..releases.policies {
                fake.apply_object(policy(index))?;
            }
            anyhow::Ok(())
        })?;
        Ok(Self { fake, runtime })
    }

    fn start_controller(&self) -> Result<ControllerProcess> {
        ControllerProcess::start(&self.fake, self.runtime.handle())
    }

    fn deploy(&self, rollouts: Range<u32>, releases: Releases, version: u32) -> Result<()> {
        let deployed = deploy(&self.fake, rollouts, releases.pause, version);
        self.runtime.block_on(deployed)
    }

    /// Runs the first deployment of the Rollouts, and measures the release that follows.
    fn release(
        &self,
        controller: &ControllerProcess,
        rollouts: Range<u32>,
        releases: Releases,
    ) -> Result<ReleaseCost> {
        self.deploy(rollouts.clone(), releases, 1)?;
        self.fake.clear_requests();
        let before = controller.counters()?;
        self.deploy(rollouts, releases, 2)?;
        let after = controller.counters()?;
        let requests = count_requests(&self.fake.requests());
        Ok(release_cost(releases.rollouts, before, after, requests))
    }

    /// Bytes of a controller that has started and come to rest.
    fn started_memory(&self) -> Result<i64> {
        self.fake.clear_requests();
        let controller = self.start_controller()?;
        let quiet = wait_until_quiet(&self.fake, STARTED_FOR);
        self.runtime.block_on(quiet)?;
        memory_of(controller)
    }
}

/// Runs a release of each of the Rollouts at the same time: one replica, `setWeight: 20`, a pause,
/// `setWeight: 50`, a pause, no router and no analysis. Then restarts the controller.
///
/// [`crate::CountingAllocator`] must be the global allocator.
///
/// # Errors
/// The controller does not start or stop, or the Rollouts do not become healthy.
pub fn measure(releases: Releases) -> Result<Footprint> {
    let cluster = Cluster::start(releases)?;
    let controller = cluster.start_controller()?;
    cluster.deploy(0..EXISTING, releases, 1)?;
    controller.stop()?;
    let existing = cluster.started_memory()?;
    let controller = cluster.start_controller()?;
    let measured = EXISTING..EXISTING + releases.rollouts;
    let release = cluster.release(&controller, measured, releases)?;
    let running = memory_of(controller)?;
    let restarted = cluster.started_memory()?;
    #[expect(clippy::cast_precision_loss, reason = "the figures are far below 2^52")]
    let each = |bytes: i64| bytes as f64 / f64::from(releases.rollouts);
    Ok(Footprint {
        bytes_per_rollout: [each(running - existing), each(restarted - existing)],
        release,
    })
}

/// Like [`measure`], without the memory of the Rollouts, which takes twice as long.
///
/// # Errors
/// The controller does not start or stop, or the Rollouts do not become healthy.
pub fn measure_release(releases: Releases) -> Result<ReleaseCost> {
    let cluster = Cluster::start(releases)?;
    let controller = cluster.start_controller()?;
    let release = cluster.release(&controller, 0..releases.rollouts, releases)?;
    controller.stop()?;
    Ok(release)
}

#[expect(clippy::cast_precision_loss, reason = "the figures are far below 2^52")]
fn release_cost(
    rollouts: u32,
    before: Counters,
    after: Counters,
    requests: BTreeMap<String, u64>,
) -> ReleaseCost {
    let each = |total: u64| total as f64 / f64::from(rollouts);
    ReleaseCost {
        rollouts,
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

/// Bytes that become free when the controller is dropped.
fn memory_of(controller: ControllerProcess) -> Result<i64> {
    let before = allocator::live_bytes();
    controller.stop()?;
    Ok(before - allocator::live_bytes())
}

/// Applies a version of Rollouts and waits until it is stable and nothing is written any more.
async fn deploy(
    fake: &FakeCluster,
    rollouts: Range<u32>,
    pause: Duration,
    version: u32,
) -> Result<()> {
    for index in rollouts.clone() {
        fake.apply_object(rollout(index, pause, version))?;
    }
    let mut unhealthy: Vec<u32> = rollouts.collect();
    let waited = timeout(HEALTHY_WITHIN, async {
        while !unhealthy.is_empty() {
            sleep(POLL_INTERVAL).await;
            unhealthy.retain(|index| !is_healthy(fake, *index));
        }
    });
    let healthy = waited.await;
    healthy.with_context(|| format!("version {version} is not stable in all Rollouts"))?;
    wait_until_quiet(fake, QUIET_FOR).await
}

async fn wait_until_quiet(fake: &FakeCluster, quiet_for: Duration) -> Result<()> {
    let waited = timeout(QUIET_WITHIN, async {
        while !is_quiet(fake, quiet_for) {
            sleep(POLL_INTERVAL).await;
        }
    });
    waited.await.context("the controller does not come to rest")
}

fn is_quiet(fake: &FakeCluster, quiet_for: Duration) -> bool {
    let requests = fake.requests();
    let last = requests.iter().rfind(|request| !is_watch(request));
    let quiet_since = last.map(|request| fake.now().duration_since(request.at));
    // Before the first request, the controller is still starting.
    quiet_since.is_some_and(|since| since.unsigned_abs() >= quiet_for)
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

/// A policy as a platform team writes it. It contributes defaults and defines objectives and checks.
fn policy(index: u32) -> Value {
    let objective = |name: &str| {
        json!({"name": name, "objective": 99.9, "parameters": [{"name": "job"}], "counters": {
            "total": "requests_total{namespace=\"{{rollout.namespace}}\",job=\"{{parameters.job}}\"}",
            "errors": "requests_total{job=\"{{parameters.job}}\",code=~\"5..\"}",
        }})
    };
    json!({
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": format!("policy-{index}")},
        "spec": {
            "precedence": index,
            "rolloutSelector": {"matchExpressions": [{"key": "exempt", "operator": "DoesNotExist"}]},
            "defaults": {
                "progressDeadlineSeconds": 600,
                "strategy": {"canary": {"podRestartLimit": 2, "scaleDownDelaySeconds": 30}},
            },
            "objectives": [objective("availability"), objective("quality"), objective("freshness")],
            "checks": [{"name": "queue", "query": "sum(queue_length)", "condition": "result[0] < 9.0"}],
        },
    })
}

fn rollout(index: u32, pause: Duration, version: u32) -> Value {
    let name = name(index);
    let pause = json!({"pause": {"duration": format!("{}s", pause.as_secs())}});
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
            "strategy": {"canary": {
                "steps": [{"setWeight": 20}, pause, {"setWeight": 50}, pause],
            }},
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

impl ReleaseCost {
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
            self.release.rollouts
        )?;
        writeln!(f, "| memory after a release | {released:.1} KiB |")?;
        writeln!(f, "| memory after a restart | {restarted:.1} KiB |")?;
        write!(f, "{}", self.release)
    }
}

/// The rows of a table.
impl fmt::Display for ReleaseCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
