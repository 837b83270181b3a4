//! Upgrades and rollbacks of the controller: it continues from a status that another version wrote.
//!
//! `recorded_statuses/<version>/<situation>.json` holds statuses that earlier versions wrote. A
//! folder is named after the schema version of the status, optionally with the release:
//! `v1`, `v1-0.2.0`. `SERIN_RECORD_STATUSES=v1 cargo test -p serin-runtime --test fake_cluster
//! recorded` records a folder. The folder of a released version is never recorded again.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serin_core::observed::AnalysisReport;
use serin_core::state::SCHEMA_VERSION;
use serin_core::state_reader::STATE_FIELDS;
use serin_crds::names::REVISION_LABEL;
use serin_crds::{Rollout, RolloutStatus};
use serin_fake_cluster::FakeCluster;
use tokio::task::JoinHandle;

use crate::fixtures::*;
use crate::harness::*;
use crate::situations::{Outcome, SITUATIONS, Situation, status_json};

const SEED: u64 = 700;

/// A status that a controller wrote, with `{{v1}}` in place of the revision of version `v1`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordedStatus {
    recorded_at: Timestamp,
    status: Value,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cluster/recorded_statuses")
}

/// The folders of [`folder`].
fn recorded_versions() -> Vec<String> {
    let entries = fs::read_dir(folder()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// All recordings: their name for messages, their situation, and the recording.
fn recordings() -> Vec<(String, &'static Situation, RecordedStatus)> {
    let mut recordings = Vec::new();
    for version in recorded_versions() {
        for situation in SITUATIONS {
            let path = folder()
                .join(&version)
                .join(format!("{}.json", situation.name));
            // Earlier versions do not know every situation.
            if let Ok(text) = fs::read_to_string(path) {
                let name = format!("{version}/{}", situation.name);
                recordings.push((name, situation, serde_json::from_str(&text).unwrap()));
            }
        }
    }
    recordings
}

/// The revisions by version.
fn revisions(cluster: &FakeCluster) -> BTreeMap<String, String> {
    let sets = replica_sets(cluster, "checkout");
    let revision = |set: &k8s_openapi::api::apps::v1::ReplicaSet| {
        let template = set.spec.clone()?.template?;
        let image = template.spec?.containers.first()?.image.clone()?;
        let version = image.rsplit_once(':')?.1.to_owned();
        Some((version, set.labels().get(REVISION_LABEL)?.clone()))
    };
    sets.iter().filter_map(revision).collect()
}

impl RecordedStatus {
    fn from_cluster(cluster: &FakeCluster) -> Self {
        let mut text = status_json(cluster).to_string();
        for (version, revision) in revisions(cluster) {
            text = text.replace(&revision, &format!("{{{{{version}}}}}"));
        }
        Self {
            recorded_at: cluster.now(),
            status: serde_json::from_str(&text).unwrap(),
        }
    }

    /// The status as if it had been written on this cluster.
    fn on(&self, cluster: &FakeCluster) -> Value {
        let mut text = self.status.to_string();
        for (version, revision) in revisions(cluster) {
            text = text.replace(&format!("{{{{{version}}}}}"), &revision);
        }
        assert!(!text.contains("{{v"), "a revision is missing: {text}");
        let mut status = serde_json::from_str(&text).unwrap();
        shift_times(&mut status, cluster.now().duration_since(self.recorded_at));
        status
    }
}

fn shift_times(value: &mut Value, by: SignedDuration) {
    match value {
        Value::String(text) => {
            if let Ok(time) = text.parse::<Timestamp>() {
                *text = (time + by).to_string();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shift_times(item, by)),
        Value::Object(fields) => fields.values_mut().for_each(|field| shift_times(field, by)),
        _ => {}
    }
}

/// Replaces the status of the Rollout by a recorded one, after checking that both are at the same
/// position.
fn install(cluster: &FakeCluster, name: &str, recorded: &Value) {
    let paths = [
        "/stage",
        "/step/index",
        "/weights/desired",
        "/pause/reason",
        "/abort/cause",
    ];
    for path in paths {
        let found = status_json(cluster).pointer(path).cloned();
        let expected = recorded.pointer(path).cloned();
        assert_eq!(
            found, expected,
            "{name}: the cluster is in another situation: {path}"
        );
    }
    cluster
        .edit::<Rollout>(SHOP, "checkout", |rollout| {
            rollout["status"] = recorded.clone();
        })
        .unwrap();
}

fn step_of(status: &Value) -> Option<u64> {
    status["step"]["index"].as_u64()
}

/// Observes in the background that the position and the canary's weight never go back.
struct PositionMonitor {
    steps: Arc<Mutex<Vec<u64>>>,
    task: JoinHandle<()>,
}

impl PositionMonitor {
    fn start(cluster: &FakeCluster, name: &str) -> Self {
        let before = status_json(cluster);
        let may_fall = before["restarting"] == true || before["weights"]["cap"].is_number();
        let weight = |status: &Value| status["weights"]["desired"].as_f64().unwrap_or(0.0);
        let lowest = if may_fall { 0.0 } else { weight(&before) };
        let steps = Arc::new(Mutex::new(Vec::new()));
        let (cluster, seen, name) = (cluster.clone(), Arc::clone(&steps), name.to_owned());
        let has_fallen = move |cluster: &FakeCluster| {
            let status = status_json(cluster);
            let mut seen = seen.lock().unwrap();
            if let Some(index) = step_of(&status)
                && seen.last() != Some(&index)
            {
                seen.push(index);
            }
            let is_restarting = status["restarting"] == true;
            status["stage"] == "Progressing" && !is_restarting && weight(&status) < lowest
        };
        let task = tokio::spawn(async move {
            let fell = cluster.wait_until(has_fallen, 100 * 60 * MINUTE).await;
            let found = position(&cluster, "checkout");
            assert!(fell.is_err(), "{name}: less than {lowest} %: {found}");
        });
        Self { steps, task }
    }

    /// Asserts that no pause was skipped and no step was repeated.
    async fn finish(self, cluster: &FakeCluster, name: &str, from_step: Option<u64>) {
        if self.task.is_finished() {
            self.task.await.unwrap();
        } else {
            self.task.abort();
        }
        let Some(from_step) = from_step else { return };
        let seen = self.steps.lock().unwrap().clone();
        assert!(
            seen.is_sorted() && seen.first().is_none_or(|first| *first >= from_step),
            "{name}: steps {seen:?} after step {from_step}"
        );
        let rollout = cluster.get_json("rollouts", SHOP, "checkout").unwrap();
        let steps = rollout["spec"]["strategy"]["canary"]["steps"].clone();
        for (index, step) in (0..).zip(steps.as_array().unwrap()) {
            assert!(
                step["pause"].is_null() || index <= from_step || seen.contains(&index),
                "{name}: the pause at step {index} was skipped: {seen:?}"
            );
        }
    }
}

/// Observes lost requests, once a stable version serves them through a route.
fn monitor_traffic(cluster: &FakeCluster) -> Option<TrafficMonitor> {
    let rollout = cluster.get_json("rollouts", SHOP, "checkout").unwrap();
    let is_routed = rollout["spec"]["strategy"]["canary"]["trafficRouting"].is_object();
    let has_stable = status_json(cluster)["stableRevision"].is_string();
    (is_routed && has_stable).then(|| TrafficMonitor::start(cluster, "checkout"))
}

/// Asserts that `version` has all pods and the route is as the user wrote it.
async fn ensure_settled(cluster: &FakeCluster, name: &str, version: &str) {
    cluster.sleep(30 * SECOND).await;
    let rollout = cluster.get_json("rollouts", SHOP, "checkout").unwrap();
    let replicas = i32::try_from(rollout["spec"]["replicas"].as_u64().unwrap()).unwrap();
    for (found, count) in replicas_by_version(cluster, "checkout") {
        let expected = if found == version { replicas } else { 0 };
        assert_eq!(count, expected, "{name}: pods of {found}");
    }
    assert_eq!(
        route_weights(cluster, "checkout"),
        (Some(1), None),
        "{name}"
    );
}

/// Takes over a status and asserts that the situation ends as it would have without the change.
async fn ensure_continues(
    name: &str,
    situation: &Situation,
    status_on: impl Fn(&FakeCluster) -> Value,
) {
    let cluster = situation.cluster(SEED).await;
    install(&cluster, name, &status_on(&cluster));
    let (before, step) = (
        position(&cluster, "checkout"),
        step_of(&status_json(&cluster)),
    );
    let traffic = monitor_traffic(&cluster);
    let positions = PositionMonitor::start(&cluster, name);
    let running = situation.take_over(&cluster);
    let version = match situation.outcome {
        Outcome::FirstDeployed => "v1",
        Outcome::Completes => "v2",
        Outcome::CompletesAfter(verb) => {
            cluster.sleep(20 * SECOND).await;
            assert_eq!(position(&cluster, "checkout"), before, "{name}");
            create_command(&cluster, "continue", "checkout", verb);
            let (outcome, message) = command_outcome(&cluster, "continue").await;
            assert_eq!(outcome, "Done", "{name}: {message}");
            let report = AnalysisReport::undecided("continued", cluster.now());
            running.analyzer.set_report("checkout", report);
            "v2"
        }
        Outcome::Aborted => {
            ensure_settled(&cluster, name, "v1").await;
            assert_eq!(position(&cluster, "checkout"), "Degraded/Aborted", "{name}");
            positions.finish(&cluster, name, None).await;
            return finish(traffic).await;
        }
        Outcome::Stable(version) => version,
    };
    wait_until_healthy(&cluster, "checkout", version).await;
    ensure_settled(&cluster, name, version).await;
    positions.finish(&cluster, name, step).await;
    finish(traffic).await;
}

async fn finish(traffic: Option<TrafficMonitor>) {
    if let Some(traffic) = traffic {
        traffic.finish().await;
    }
}

/// Takes over a status, aborts at once, and asserts that stable serves everything.
async fn ensure_abort_works(name: &str, situation: &Situation, recorded: &RecordedStatus) {
    let cluster = situation.cluster(SEED).await;
    install(&cluster, name, &recorded.on(&cluster));
    let traffic = monitor_traffic(&cluster);
    let _running = situation.take_over(&cluster);
    create_command(&cluster, "emergency", "checkout", "abort");
    let (outcome, message) = command_outcome(&cluster, "emergency").await;
    let (expected, version) = match situation.outcome {
        Outcome::FirstDeployed => ("Refused", "v1"),
        Outcome::Stable(version) => ("Done", version),
        _ => ("Done", "v1"),
    };
    assert_eq!(outcome, expected, "{name}: {message}");
    match situation.outcome {
        Outcome::FirstDeployed | Outcome::Stable(_) => {
            wait_until_healthy(&cluster, "checkout", version).await;
        }
        _ => wait_for_position(&cluster, "checkout", "Degraded/Aborted").await,
    }
    ensure_settled(&cluster, name, version).await;
    finish(traffic).await;
}

#[tokio::test(start_paused = true)]
async fn every_situation_is_recorded_for_this_schema_version() {
    if let Ok(version) = std::env::var("SERIN_RECORD_STATUSES") {
        fs::create_dir_all(folder().join(&version)).unwrap();
        for situation in SITUATIONS {
            let recorded = RecordedStatus::from_cluster(&situation.cluster(SEED).await);
            let path = folder()
                .join(&version)
                .join(format!("{}.json", situation.name));
            let text = serde_json::to_string_pretty(&recorded).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
    }
    let of_schema = |version: &str| {
        let (schema, _) = version.split_once('-').unwrap_or((version, ""));
        schema == format!("v{SCHEMA_VERSION}")
    };
    let recorded: Vec<_> = recordings()
        .into_iter()
        .filter(|(name, ..)| of_schema(name.split('/').next().unwrap()))
        .map(|(_, situation, _)| situation.name)
        .collect();
    for Situation { name, .. } in SITUATIONS {
        assert!(
            recorded.contains(name),
            "{name} is not recorded: see the top of upgrades.rs"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_takes_over_every_recorded_status() {
    for (name, situation, recorded) in recordings() {
        ensure_continues(&name, situation, |cluster| recorded.on(cluster)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_works_on_every_recorded_status() {
    for (name, situation, recorded) in recordings() {
        ensure_abort_works(&name, situation, &recorded).await;
    }
}

/// A status of a later build of the same schema version: every object has a field that this build
/// does not know, and there is a hold with an unknown code.
fn with_fields_of_a_later_build(mut status: Value) -> Value {
    add_unknown_fields(&mut status);
    let hold = json!({
        "source": "Weather", "code": "OfTheFuture", "message": "it rains", "blocks": "Advance",
        "ends": {"by": "Sunshine"}, "since": "2026-01-01T00:00:00Z",
    });
    match status["holds"].as_array_mut() {
        Some(holds) => holds.push(hold),
        None => status["holds"] = json!([hold]),
    }
    status
}

fn add_unknown_fields(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(add_unknown_fields),
        Value::Object(fields) => {
            // A plan is a copy of the spec. One that cannot be read is derived from the spec again.
            let nested = fields.iter_mut().filter(|(name, _)| *name != "spec");
            nested.for_each(|(_, field)| add_unknown_fields(field));
            fields.insert("ofTheFuture".into(), json!({"since": "tomorrow"}));
        }
        _ => {}
    }
}

/// The fields of a status from which the controller continues.
fn state_of(status: &RolloutStatus) -> Value {
    let mut status = serde_json::to_value(status).unwrap();
    let fields = status.as_object_mut().unwrap();
    fields.retain(|field, _| STATE_FIELDS.contains(&field.as_str()));
    status
}

#[test]
fn a_status_with_fields_of_a_later_build_is_read_without_loss() {
    for (name, _, recorded) in recordings() {
        let original = RolloutStatus::read(recorded.status.clone());
        assert_eq!(original.incompatibility, None, "{name}");
        let later = RolloutStatus::read(with_fields_of_a_later_build(recorded.status));
        assert_eq!(later.incompatibility, None, "{name}");
        assert_eq!(
            state_of(&later.status),
            state_of(&original.status),
            "{name}: the position of the release"
        );
        assert_eq!(
            later.status.original_routes, original.status.original_routes,
            "{name}: the routes to restore"
        );
    }
}

/// Every status is read without loss, so a few situations suffice.
#[tokio::test(start_paused = true)]
async fn a_controller_takes_over_a_status_of_a_later_build() {
    let names = [
        "paused_at_50",
        "paused_by_command",
        "frozen",
        "baking",
        "aborting",
    ];
    let is_named = |situation: &Situation| names.contains(&situation.name);
    for (name, situation, recorded) in recordings() {
        if is_named(situation) {
            let later = |cluster: &FakeCluster| with_fields_of_a_later_build(recorded.on(cluster));
            ensure_continues(&name, situation, later).await;
        }
    }
}
