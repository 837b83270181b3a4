//! Test harness: a fake cluster, controllers with a scripted analyzer, and assertions.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serin_core::observed::AnalysisReport;
use serin_core::state::Phase;
use serin_core::units::Revision;
use serin_crds::names::REVISION_LABEL;
use serin_crds::{Rollout, RolloutCommand, RolloutStatus};
use serin_fake_cluster::FakeCluster;
use serin_metrics_analysis::{AnalysisRequest, AnalysisSnapshot};
use serin_registry::StoredSignature;
use serin_runtime::analyzer::Analyzer;
use serin_runtime::clock::Clock;
use serin_runtime::cluster_cache::Key;
use serin_runtime::controller::{Controller, ControllerDeps};
use serin_runtime::dispatcher::Dispatcher;
use serin_runtime::election::{Candidate, Election, Leadership};
use serin_runtime::image_registry::{ImageRegistry, ImageSource, LookupFailure};
use serin_runtime::queue::Lane;
use serin_runtime::reconcile::Safeguards;
use serin_runtime::scope::Scope;
use serin_runtime::state_sizes::StateSizes;
use serin_runtime::telemetry::Metrics;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::permissions::ensure_permitted;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const SHOP: &str = "shop";

/// An analyzer that returns the snapshots that a test sets.
#[derive(Default)]
pub struct ScriptedAnalyzer {
    snapshots: Mutex<HashMap<String, AnalysisSnapshot>>,
    /// Names of the Rollouts for which the analyzer panics.
    panics_for: Mutex<HashSet<String>>,
    requests: Mutex<HashMap<String, AnalysisRequest>>,
    dispatcher: Mutex<Option<Arc<Dispatcher>>>,
}

impl ScriptedAnalyzer {
    /// Sets the report for a Rollout and triggers a reconcile.
    pub fn set_report(&self, rollout: &str, report: AnalysisReport) {
        self.set_snapshot(rollout, AnalysisSnapshot::from_report(report));
    }

    /// Sets the snapshot for a Rollout and triggers a reconcile.
    pub fn set_snapshot(&self, rollout: &str, snapshot: AnalysisSnapshot) {
        self.snapshots
            .lock()
            .unwrap()
            .insert(rollout.to_owned(), snapshot);
        if let Some(dispatcher) = self.dispatcher.lock().unwrap().as_ref() {
            dispatcher.enqueue(&Key::new(SHOP, rollout), Lane::Ongoing);
        }
    }

    pub fn panic_for(&self, rollout: &str) {
        self.panics_for.lock().unwrap().insert(rollout.to_owned());
    }

    pub fn clear_panics(&self) {
        self.panics_for.lock().unwrap().clear();
    }

    /// The last analysis request for a Rollout.
    pub fn last_request(&self, rollout: &str) -> Option<AnalysisRequest> {
        self.requests
            .lock()
            .unwrap()
            .values()
            .find(|request| request.rollout.name == rollout)
            .cloned()
    }
}

impl Analyzer for ScriptedAnalyzer {
    fn start_or_update(&self, request: AnalysisRequest) {
        assert!(
            !self
                .panics_for
                .lock()
                .unwrap()
                .contains(&request.rollout.name),
            "the analyzer panics"
        );
        self.requests
            .lock()
            .unwrap()
            .insert(request.uid.clone(), request);
    }

    fn stop(&self, uid: &str) {
        self.requests.lock().unwrap().remove(uid);
    }

    fn snapshot(&self, uid: &str, _: &Revision) -> AnalysisSnapshot {
        let requests = self.requests.lock().unwrap();
        let scripted = requests.get(uid).and_then(|request| {
            self.snapshots
                .lock()
                .unwrap()
                .get(&request.rollout.name)
                .cloned()
        });
        let initial = || AnalysisReport::undecided("started", Timestamp::UNIX_EPOCH);
        scripted.unwrap_or_else(|| AnalysisSnapshot::from_report(initial()))
    }
}

/// A registry with the tags and signatures that a test sets.
#[derive(Default)]
pub struct ScriptedRegistry {
    tags: Mutex<HashMap<String, String>>,
    signatures: Mutex<HashMap<String, Vec<StoredSignature>>>,
    is_down: AtomicBool,
    questions: AtomicUsize,
}

impl ScriptedRegistry {
    /// Pushes an image under a tag.
    pub fn push(&self, tag: &str, digest: &str) {
        let mut tags = self.tags.lock().unwrap();
        tags.insert(tag.to_owned(), digest.to_owned());
    }

    /// Stores a signature next to an image.
    pub fn sign(&self, digest: &str, signature: StoredSignature) {
        let mut signatures = self.signatures.lock().unwrap();
        signatures
            .entry(digest.to_owned())
            .or_default()
            .push(signature);
    }

    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Number of questions so far.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }

    fn answer<T>(&self, answer: impl FnOnce() -> Option<T>) -> Result<T, LookupFailure> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        let failure = |problem: &str, fix: &str| LookupFailure {
            problem: problem.to_owned(),
            fix: fix.to_owned(),
        };
        if self.is_down.load(Ordering::SeqCst) {
            return Err(failure(
                "the registry did not answer in time",
                "Check the registry",
            ));
        }
        answer().ok_or_else(|| failure("the registry does not have it", "Push the image"))
    }
}

impl ImageRegistry for ScriptedRegistry {
    fn digest<'a>(
        &'a self,
        _: &'a ImageSource,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<String, LookupFailure>> {
        async move { self.answer(|| self.tags.lock().unwrap().get(tag).cloned()) }.boxed()
    }

    fn signatures<'a>(
        &'a self,
        _: &'a ImageSource,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Vec<StoredSignature>, LookupFailure>> {
        let stored = || {
            let signatures = self.signatures.lock().unwrap();
            Some(signatures.get(digest).cloned().unwrap_or_default())
        };
        async move { self.answer(stored) }.boxed()
    }
}

/// A running controller.
pub struct RunningController {
    pub name: String,
    pub analyzer: Arc<ScriptedAnalyzer>,
    pub registry: Arc<ScriptedRegistry>,
    pub state_sizes: StateSizes,
    pub metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    cluster: FakeCluster,
}

impl RunningController {
    /// Kills the controller as `kill -9` does.
    pub fn kill(self, cluster: &FakeCluster) {
        cluster.kill(&self.name);
        self.task.abort();
    }

    /// Stops the controller as SIGTERM does.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        (&mut self.task).await.unwrap();
    }
}

/// In every test, the Role of the chart must permit all requests of the controller.
impl Drop for RunningController {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            ensure_permitted(&self.cluster, &self.name);
        }
    }
}

/// Starts a controller without leader election.
pub fn start_controller(cluster: &FakeCluster, name: &str) -> RunningController {
    start(cluster, name, None, None, Safeguards::default())
}

/// Starts a controller without leader election, with these safeguards.
pub fn start_controller_with_safeguards(
    cluster: &FakeCluster,
    name: &str,
    safeguards: Safeguards,
) -> RunningController {
    start(cluster, name, None, None, safeguards)
}

/// Starts a controller without leader election that refuses commands while an admission policy is
/// not in force.
pub fn start_controller_with_policy(
    cluster: &FakeCluster,
    name: &str,
    policy: &str,
) -> RunningController {
    let policy = Some(policy.to_owned());
    start(cluster, name, None, policy, Safeguards::default())
}

/// Starts a controller without leader election that manages the Rollouts in a scope.
pub fn start_controller_in_scope(
    cluster: &FakeCluster,
    name: &str,
    scope: Scope,
) -> RunningController {
    start_in(cluster, name, None, None, Safeguards::default(), &scope)
}

/// Starts a controller with leader election.
pub fn start_elected_controller(cluster: &FakeCluster, name: &str) -> RunningController {
    let candidate = Candidate {
        namespace: "serin".into(),
        lease: "serin".into(),
        identity: name.to_owned(),
        timing: serin_core::lease::Timing::default(),
    };
    start(cluster, name, Some(candidate), None, Safeguards::default())
}

fn start(
    cluster: &FakeCluster,
    name: &str,
    candidate: Option<Candidate>,
    admission_policy: Option<String>,
    safeguards: Safeguards,
) -> RunningController {
    let scope = Scope::All;
    start_in(
        cluster,
        name,
        candidate,
        admission_policy,
        safeguards,
        &scope,
    )
}

fn start_in(
    cluster: &FakeCluster,
    name: &str,
    candidate: Option<Candidate>,
    admission_policy: Option<String>,
    safeguards: Safeguards,
    scope: &Scope,
) -> RunningController {
    if let Ok(filter) = std::env::var("SERIN_TEST_LOG") {
        // Fails if another controller of the test has initialized the logs.
        let _ = serin_runtime::telemetry::init_logs(
            serin_runtime::telemetry::LogFormat::Human,
            &filter,
        );
    }
    let metrics = Arc::new(Metrics::new());
    let client = cluster.client_for(name);
    let election =
        candidate.map(|candidate| Election::start(client.clone(), candidate, Arc::clone(&metrics)));
    let analyzer = Arc::new(ScriptedAnalyzer::default());
    let registry = Arc::new(ScriptedRegistry::default());
    let dispatcher = Arc::new(Dispatcher::default());
    *analyzer.dispatcher.lock().unwrap() = Some(Arc::clone(&dispatcher));
    let leadership = election
        .as_ref()
        .map_or_else(Leadership::without_election, Election::leadership);
    let ownership = scope.limit(Arc::new(leadership), &client);
    let controller = Controller::new(ControllerDeps {
        client,
        namespaces: scope.watched_namespaces(),
        concurrency: 8,
        clock: Clock::tokio_from(cluster.now()),
        ownership,
        metrics: Arc::clone(&metrics),
        analyzer: analyzer.clone(),
        registry: registry.clone(),
        dispatcher,
        instance: name.to_owned(),
        admission_policy,
        safeguards,
    });
    let state_sizes = controller.state_sizes();
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        let stopping = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        controller.run(stopping, 8 * SECOND).await.unwrap();
        if let Some(election) = election {
            election.release().await;
        }
    });
    RunningController {
        name: name.to_owned(),
        analyzer,
        registry,
        state_sizes,
        metrics,
        stop,
        task,
        cluster: cluster.clone(),
    }
}

pub fn status(cluster: &FakeCluster, name: &str) -> RolloutStatus {
    // Read as JSON, because the spec may be invalid.
    let rollout = cluster.get_json("rollouts", SHOP, name).unwrap_or_default();
    rollout
        .get("status")
        .map(|status| RolloutStatus::read(status.clone()).status)
        .unwrap_or_default()
}

/// Phase, stage and step index, for example `Progressing/Progressing/2`.
pub fn position(cluster: &FakeCluster, name: &str) -> String {
    let rollout = cluster.get_json("rollouts", SHOP, name).unwrap_or_default();
    let status = &rollout["status"];
    let step = status["step"]["index"]
        .as_u64()
        .map_or_else(String::new, |index| format!("/{index}"));
    format!(
        "{}/{}{step}",
        status["phase"].as_str().unwrap_or_default(),
        status["stage"].as_str().unwrap_or_default()
    )
}

pub fn is_healthy(cluster: &FakeCluster, name: &str, version: &str) -> bool {
    let status = status(cluster, name);
    let rollout = cluster.get::<Rollout>(SHOP, name).unwrap();
    Some(status.state.observed_generation) == rollout.metadata.generation
        && status.state.phase == Phase::Healthy
        && status.state.stable_revision == status.state.current_revision
        && image_of(
            cluster,
            status
                .state
                .stable_revision
                .as_ref()
                .map_or("", Revision::as_str),
        )
        .ends_with(version)
}

/// Waits until a version is stable and the Rollout is healthy.
pub async fn wait_until_healthy(cluster: &FakeCluster, name: &str, version: &str) {
    let result = cluster
        .wait_until(|cluster| is_healthy(cluster, name, version), 10 * MINUTE)
        .await;
    assert!(
        result.is_ok(),
        "{name} is not healthy at {version}: {} {:?}",
        position(cluster, name),
        status(cluster, name)
    );
}

/// Waits until the position starts with `expected`.
pub async fn wait_for_position(cluster: &FakeCluster, name: &str, expected: &str) {
    let result = cluster
        .wait_until(
            |cluster| position(cluster, name).starts_with(expected),
            10 * MINUTE,
        )
        .await;
    assert!(
        result.is_ok(),
        "{name} does not reach {expected}: {} {:?}",
        position(cluster, name),
        status(cluster, name)
    );
}

pub fn replica_sets(cluster: &FakeCluster, name: &str) -> Vec<ReplicaSet> {
    let all = cluster.objects::<ReplicaSet>();
    all.into_iter()
        .filter(|set| set.name_any().starts_with(&format!("{name}-")))
        .collect()
}

/// The image of a revision without its digest.
fn image_of(cluster: &FakeCluster, revision: &str) -> String {
    let set = cluster
        .objects::<ReplicaSet>()
        .into_iter()
        .find(|set| set.labels().get(REVISION_LABEL).map(String::as_str) == Some(revision));
    let image = || {
        set?.spec?
            .template?
            .spec?
            .containers
            .into_iter()
            .next()?
            .image
    };
    let image = image().unwrap_or_default();
    image.split('@').next().unwrap_or_default().to_owned()
}

/// `spec.replicas` by version.
pub fn replicas_by_version(cluster: &FakeCluster, name: &str) -> HashMap<String, i32> {
    let version = |set: &ReplicaSet| {
        let image = image_of(cluster, &set.labels()[REVISION_LABEL]);
        image.rsplit(':').next().unwrap_or_default().to_owned()
    };
    replica_sets(cluster, name)
        .iter()
        .map(|set| (version(set), set.spec.as_ref().unwrap().replicas.unwrap()))
        .collect()
}

/// The spec of a route.
pub fn route_spec(cluster: &FakeCluster, name: &str) -> serde_json::Value {
    cluster.get_json("httproutes", SHOP, name).unwrap()["spec"].clone()
}

/// The weights of the stable and the canary backend in the second rule. `None` if the backend is
/// missing.
pub fn route_weights(cluster: &FakeCluster, name: &str) -> (Option<u64>, Option<u64>) {
    let route = cluster.get_json("httproutes", SHOP, name).unwrap();
    let backends = route["spec"]["rules"][1]["backendRefs"]
        .as_array()
        .unwrap()
        .clone();
    let weight = |service: &str| {
        backends
            .iter()
            .find(|backend| backend["name"] == service)
            .map(|backend| backend["weight"].as_u64().unwrap_or(1))
    };
    (weight(name), weight(&format!("{name}-canary")))
}

/// Whether every backend with a non-zero weight has ready endpoints and a Service that selects a
/// revision. Must hold at all times, otherwise requests are lost.
pub fn traffic_has_endpoints(cluster: &FakeCluster, name: &str) -> bool {
    let has_endpoints = |service: &str| {
        let selects = cluster
            .get::<Service>(SHOP, service)
            .and_then(|service| service.spec?.selector?.get(REVISION_LABEL).cloned());
        let slices = cluster.objects::<EndpointSlice>();
        let of_service = slices.iter().filter(|slice| {
            slice
                .labels()
                .get("kubernetes.io/service-name")
                .map(String::as_str)
                == Some(service)
        });
        let ready = of_service
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| {
                endpoint
                    .conditions
                    .as_ref()
                    .and_then(|conditions| conditions.ready)
                    == Some(true)
            });
        selects.is_some() && ready.count() > 0
    };
    let (stable, canary) = route_weights(cluster, name);
    (stable.unwrap_or(0) == 0 || has_endpoints(name))
        && (canary.unwrap_or(0) == 0 || has_endpoints(&format!("{name}-canary")))
}

/// Checks [`traffic_has_endpoints`] in the background until [`TrafficMonitor::finish`].
pub struct TrafficMonitor(JoinHandle<()>);

impl TrafficMonitor {
    pub fn start(cluster: &FakeCluster, name: &'static str) -> Self {
        let cluster = cluster.clone();
        Self(tokio::spawn(async move {
            let violated = cluster
                .wait_until(
                    |cluster| !traffic_has_endpoints(cluster, name),
                    100 * 60 * MINUTE,
                )
                .await;
            let (at, weights, position) = (
                cluster.now(),
                route_weights(&cluster, name),
                position(&cluster, name),
            );
            assert!(
                violated.is_err(),
                "requests were lost at {at}: {weights:?} {position}"
            );
        }))
    }

    pub async fn finish(self) {
        if self.0.is_finished() {
            self.0.await.unwrap();
        } else {
            self.0.abort();
        }
    }
}

/// Waits for the outcome of a command. Returns its result and message.
pub async fn command_outcome(cluster: &FakeCluster, name: &str) -> (String, String) {
    let outcome_of = |cluster: &FakeCluster| {
        let status = cluster.get::<RolloutCommand>(SHOP, name)?.status?;
        Some((
            format!("{:?}", status.outcome?),
            status.message.unwrap_or_default(),
        ))
    };
    cluster
        .wait_until(|cluster| outcome_of(cluster).is_some(), MINUTE)
        .await
        .expect("the command has no outcome");
    outcome_of(cluster).unwrap()
}

pub fn condition(
    cluster: &FakeCluster,
    name: &str,
    condition_type: &str,
) -> Option<(String, String, String)> {
    let conditions = status(cluster, name).conditions;
    let condition = conditions
        .into_iter()
        .find(|condition| condition.type_ == condition_type)?;
    Some((condition.status, condition.reason, condition.message))
}

/// Waits for an Event, which is written in the background.
pub async fn wait_for_event(cluster: &FakeCluster, name: &str, reason: &str) {
    let is_published =
        |cluster: &FakeCluster| event_reasons(cluster, name).contains(&reason.to_owned());
    let published = cluster.wait_until(is_published, 10 * SECOND).await;
    assert!(
        published.is_ok(),
        "no Event {reason}: {:?}",
        event_reasons(cluster, name)
    );
}

/// The reasons of the Events for a Rollout, oldest first.
pub fn event_reasons(cluster: &FakeCluster, name: &str) -> Vec<String> {
    let mut events = cluster.objects::<k8s_openapi::api::events::v1::Event>();
    events.retain(|event| {
        event
            .regarding
            .as_ref()
            .and_then(|regarding| regarding.name.as_deref())
            == Some(name)
    });
    events.sort_by_key(|event| {
        event
            .metadata
            .resource_version
            .as_deref()
            .and_then(|version| version.parse::<u64>().ok())
    });
    events
        .into_iter()
        .filter_map(|event| event.reason)
        .collect()
}
