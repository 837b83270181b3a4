//! The stage of a test: a cluster in memory, one or more controllers, and a judge that says what it
//! is told to.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};
use serin_core::observed::{AnalysisReport, SatisfiedRequirements};
use serin_core::units::Revision;
use serin_crds::names::REVISION_LABEL;
use serin_crds::{Rollout, RolloutCommand, RolloutStatus};
use serin_fake_cluster::World;
use serin_metrics_analysis::{JudgeRequest, Look};
use serin_runtime::clock::Clock;
use serin_runtime::controller::{Controller, Parts};
use serin_runtime::election::{Candidate, Election, Leadership};
use serin_runtime::judge::Judge;
use serin_runtime::telemetry::Metrics;
use serin_runtime::world::Key;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const SHOP: &str = "shop";

/// A judge that says what it is told to.
#[derive(Default)]
pub struct Script {
    says: Mutex<HashMap<String, Look>>,
    /// Rollouts (by name) at which it fails in a way that must not happen.
    panics_at: Mutex<HashSet<String>>,
    asked: Mutex<HashMap<String, JudgeRequest>>,
    triggers: Mutex<Option<mpsc::UnboundedSender<Key>>>,
}

impl Script {
    /// From now on the judge says this of that Rollout's releases, and triggers it.
    pub fn say(&self, rollout: &str, judgement: AnalysisReport) {
        self.show(rollout, Look::of(judgement));
    }

    /// The same with all that it has to show.
    pub fn show(&self, rollout: &str, look: Look) {
        self.says.lock().unwrap().insert(rollout.to_owned(), look);
        if let Some(triggers) = self.triggers.lock().unwrap().as_ref() {
            triggers.unbounded_send(Key::new(SHOP, rollout)).unwrap();
        }
    }

    pub fn panic_at(&self, rollout: &str) {
        self.panics_at.lock().unwrap().insert(rollout.to_owned());
    }

    pub fn recover(&self) {
        self.panics_at.lock().unwrap().clear();
    }

    /// What it was asked last about that Rollout.
    pub fn asked(&self, rollout: &str) -> Option<JudgeRequest> {
        self.asked
            .lock()
            .unwrap()
            .values()
            .find(|request| request.rollout.name == rollout)
            .cloned()
    }
}

impl Judge for Script {
    fn watch(&self, request: JudgeRequest) {
        assert!(
            !self
                .panics_at
                .lock()
                .unwrap()
                .contains(&request.rollout.name),
            "the judge stumbles"
        );
        self.asked
            .lock()
            .unwrap()
            .insert(request.uid.clone(), request);
    }

    fn forget(&self, uid: &str) {
        self.asked.lock().unwrap().remove(uid);
    }

    fn look(&self, uid: &str, _: &Revision) -> Look {
        let asked = self.asked.lock().unwrap();
        let said = asked.get(uid).and_then(|request| {
            self.says
                .lock()
                .unwrap()
                .get(&request.rollout.name)
                .cloned()
        });
        let begins = || AnalysisReport::Undecided {
            message: "begins".into(),
            fresh_since: Timestamp::UNIX_EPOCH,
            next_weight: None,
            satisfied: SatisfiedRequirements::default(),
        };
        said.unwrap_or_else(|| Look::of(begins()))
    }
}

/// A controller at work.
pub struct Running {
    pub who: String,
    pub judge: Arc<Script>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// As kill -9 does.
    pub fn kill(self, world: &World) {
        world.kill(&self.who);
        self.task.abort();
    }

    /// As SIGTERM does.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

/// Starts a controller that runs alone.
pub fn start(world: &World, who: &str) -> Running {
    start_as(world, who, None)
}

/// Starts a controller that takes part in the election.
pub fn start_elected(world: &World, who: &str) -> Running {
    let candidate = Candidate {
        namespace: "serin".into(),
        lease: "serin".into(),
        identity: who.to_owned(),
        timing: serin_core::lease::Timing::default(),
    };
    start_as(world, who, Some(candidate))
}

fn start_as(world: &World, who: &str, candidate: Option<Candidate>) -> Running {
    if let Ok(filter) = std::env::var("SERIN_TEST_LOG") {
        // The second of two controllers finds it done.
        let _ = serin_runtime::telemetry::init_logs(
            serin_runtime::telemetry::LogFormat::Human,
            &filter,
        );
    }
    let metrics = Arc::new(Metrics::new());
    let client = world.client_of(who);
    let election =
        candidate.map(|candidate| Election::start(client.clone(), candidate, Arc::clone(&metrics)));
    let judge = Arc::new(Script::default());
    let (triggers, judged) = mpsc::unbounded();
    *judge.triggers.lock().unwrap() = Some(triggers);
    let controller = Controller::new(Parts {
        client,
        namespace: None,
        concurrency: 8,
        clock: Clock::tokio_from(world.now()),
        leadership: election
            .as_ref()
            .map_or_else(Leadership::always, Election::leadership),
        metrics,
        judge: judge.clone(),
        judged: judged.boxed(),
        instance: who.to_owned(),
    });
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
    Running {
        who: who.to_owned(),
        judge,
        stop,
        task,
    }
}

/// A Rollout of `replicas` pods without a router, running `version`.
pub fn plain(name: &str, version: &str, replicas: u32, steps: Value) -> Value {
    let mut rollout = json!({
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "app",
                    "image": format!("shop/{name}:{version}"),
                    "ports": [{"name": "http", "containerPort": 8080}],
                }]},
            },
            "strategy": {"canary": {"scaleDownDelaySeconds": 5, "abortScaleDownDelaySeconds": 5}},
        },
    });
    rollout["spec"]["strategy"]["canary"]["steps"] = steps;
    rollout
}

/// The same behind a route.
pub fn routed(name: &str, version: &str, replicas: u32, steps: Value) -> Value {
    let mut rollout = plain(name, version, replicas, steps);
    rollout["spec"]["strategy"]["canary"]["trafficRouting"] =
        json!({"gatewayAPI": {"httpRoute": name}});
    rollout
}

/// The same with an objective, so that it is judged.
pub fn judged(name: &str, version: &str, replicas: u32, steps: Value) -> Value {
    let mut rollout = routed(name, version, replicas, steps);
    rollout["spec"]["analysis"] = json!({"objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}]});
    rollout
}

/// A route as its user writes it: two rules, one of them not ours.
pub fn route(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "parentRefs": [{"name": "gateway"}],
            "hostnames": [format!("{name}.example")],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/static"}}], "backendRefs": [{"name": "static", "port": 80}]},
                {"backendRefs": [{"name": name, "port": 80, "filters": [{"type": "ExtensionRef"}]}]},
            ],
        },
    })
}

/// The Service of the rule that is not ours.
pub fn static_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "static", "namespace": SHOP},
        "spec": {"selector": {"app": "static"}, "ports": [{"port": 80}]},
    })
}

/// What stands in a cluster before its first Rollout.
pub fn with_route(world: &World, name: &str) {
    apply(world, static_service());
    apply(world, route(name));
}

pub fn apply(world: &World, object: Value) {
    world.apply_object(object).unwrap();
}

pub fn status(world: &World, name: &str) -> RolloutStatus {
    // The spec may be one that no type can read.
    let rollout = world.get_json("rollouts", SHOP, name).unwrap_or_default();
    rollout
        .get("status")
        .map(|status| serde_json::from_value(status.clone()).unwrap())
        .unwrap_or_default()
}

/// Phase, stage and step index in one word, for example `Progressing/Progressing/2`.
pub fn position(world: &World, name: &str) -> String {
    let status = status(world, name);
    let step = status
        .step
        .map_or_else(String::new, |step| format!("/{}", step.index));
    format!(
        "{}/{}{step}",
        status.phase.unwrap_or_default(),
        status.stage.unwrap_or_default()
    )
}

pub fn is_healthy(world: &World, name: &str, version: &str) -> bool {
    let status = status(world, name);
    let rollout = world.get::<Rollout>(SHOP, name).unwrap();
    status.observed_generation == rollout.metadata.generation
        && status.phase.as_deref() == Some("Healthy")
        && status.stable_revision == status.current_revision
        && image_of(world, status.stable_revision.as_deref().unwrap_or_default()).ends_with(version)
}

/// Waits until a version is stable and complete.
pub async fn healthy(world: &World, name: &str, version: &str) {
    let ended = world
        .until(|world| is_healthy(world, name, version), 10 * MINUTE)
        .await;
    assert!(
        ended.is_ok(),
        "{name} is not healthy at {version}: {} {:?}",
        position(world, name),
        status(world, name)
    );
}

/// Waits until the position begins so.
pub async fn reaches(world: &World, name: &str, wanted: &str) {
    let ended = world
        .until(
            |world| position(world, name).starts_with(wanted),
            10 * MINUTE,
        )
        .await;
    assert!(
        ended.is_ok(),
        "{name} does not reach {wanted}: {} {:?}",
        position(world, name),
        status(world, name)
    );
}

pub fn sets(world: &World, name: &str) -> Vec<ReplicaSet> {
    let all = world.objects::<ReplicaSet>();
    all.into_iter()
        .filter(|set| set.name_any().starts_with(&format!("{name}-")))
        .collect()
}

fn image_of(world: &World, revision: &str) -> String {
    let set = world
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
    image().unwrap_or_default()
}

/// `spec.replicas` by version.
pub fn sizes(world: &World, name: &str) -> HashMap<String, i32> {
    let version = |set: &ReplicaSet| {
        let image = image_of(world, &set.labels()[REVISION_LABEL]);
        image.rsplit(':').next().unwrap_or_default().to_owned()
    };
    sets(world, name)
        .iter()
        .map(|set| (version(set), set.spec.as_ref().unwrap().replicas.unwrap()))
        .collect()
}

/// The weights of the route's second rule: stable and, where it is there, canary.
pub fn weights(world: &World, name: &str) -> (Option<u64>, Option<u64>) {
    let route = world.get_json("httproutes", SHOP, name).unwrap();
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

/// What must hold at every moment: a backend with a share has ready endpoints of the revision that
/// its Service picks.
pub fn no_request_is_lost(world: &World, name: &str) -> bool {
    let carries = |service: &str| {
        let selects = world
            .get::<Service>(SHOP, service)
            .and_then(|service| service.spec?.selector?.get(REVISION_LABEL).cloned());
        let slices = world.objects::<EndpointSlice>();
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
    let (stable, canary) = weights(world, name);
    (stable.unwrap_or(0) == 0 || carries(name))
        && (canary.unwrap_or(0) == 0 || carries(&format!("{name}-canary")))
}

/// Watches over [`no_request_is_lost`] until it is dropped or asked.
pub struct Vigil(JoinHandle<()>);

impl Vigil {
    pub fn over(world: &World, name: &'static str) -> Self {
        let world = world.clone();
        Self(tokio::spawn(async move {
            let lost = world
                .until(|world| !no_request_is_lost(world, name), 100 * 60 * MINUTE)
                .await;
            let (at, weights, position) =
                (world.now(), weights(&world, name), position(&world, name));
            assert!(
                lost.is_err(),
                "a request was lost at {at}: {weights:?} {position}"
            );
        }))
    }

    pub async fn ends_well(self) {
        if self.0.is_finished() {
            self.0.await.unwrap();
        } else {
            self.0.abort();
        }
    }
}

/// Asks for something by a command.
pub fn command(world: &World, name: &str, rollout: &str, verb: &str) {
    apply(
        world,
        json!({
            "apiVersion": "serin.dev/v1alpha1",
            "kind": "RolloutCommand",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {"rolloutRef": {"name": rollout}, "verb": verb, "reason": "a test asks for it"},
        }),
    );
}

/// Waits for a command's outcome, and answers it with its message.
pub async fn outcome(world: &World, name: &str) -> (String, String) {
    let of = |world: &World| {
        let status = world.get::<RolloutCommand>(SHOP, name)?.status?;
        Some((
            format!("{:?}", status.outcome?),
            status.message.unwrap_or_default(),
        ))
    };
    world
        .until(|world| of(world).is_some(), MINUTE)
        .await
        .expect("the command has no outcome");
    of(world).unwrap()
}

pub fn condition(world: &World, name: &str, type_: &str) -> Option<(String, String, String)> {
    let conditions = status(world, name).conditions;
    let condition = conditions
        .into_iter()
        .find(|condition| condition.type_ == type_)?;
    Some((condition.status, condition.reason, condition.message))
}

/// The reasons of the Events about a Rollout, oldest first.
pub fn events(world: &World, name: &str) -> Vec<String> {
    let mut events = world.objects::<k8s_openapi::api::events::v1::Event>();
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
