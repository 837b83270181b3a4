//! The handle that tests use.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::api::{
    ApiError, ApiServer, DeleteOptions, FieldManager, ObjectKey, ObjectPart, Selector, ServedKind,
    metadata_str,
};
use crate::controller_loop;
use crate::faults::{Fault, RequestRecord};
use crate::state::SharedState;
use crate::tuning::{ClusterTuning, PodBehavior};

/// Poll interval of [`FakeCluster::wait_until`]. The condition may depend on more than the store.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A cluster in memory, for one test.
///
/// Cheap to clone; all clones share one cluster. It runs on tokio's clock: under
/// `#[tokio::test(start_paused = true)]` an hour passes in milliseconds. A run is determined by the
/// seed, if the tasks that use the cluster are deterministic.
#[derive(Clone)]
pub struct FakeCluster {
    shared: Arc<SharedState>,
}

/// A condition did not hold in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the condition did not hold within {0:?}")]
pub struct WaitTimeout(pub Duration);

/// A test's change to the cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The text is not valid YAML.
    #[error("invalid YAML: {0}")]
    InvalidYaml(String),
    /// The API server does not serve this kind.
    #[error("no kind {kind} in {api_version}")]
    UnknownKind {
        /// The object's `kind`.
        kind: String,
        /// The object's `apiVersion`.
        api_version: String,
    },
    /// The API server rejects the object.
    #[error(transparent)]
    Rejected(#[from] ApiError),
}

impl FakeCluster {
    /// Creates an empty cluster and starts its controllers. Must be called within a tokio runtime.
    pub fn new(seed: u64) -> Self {
        let shared = Arc::new(SharedState::new(seed));
        tokio::spawn(controller_loop::run(
            Arc::downgrade(&shared),
            shared.changed.subscribe(),
        ));
        Self { shared }
    }

    /// A client with the name `serin`.
    pub fn client(&self) -> Client {
        self.client_for("serin")
    }

    /// A client with this name in the request log and in faults. Use one per simulated process.
    pub fn client_for(&self, client: &str) -> Client {
        Client::new(
            ApiServer {
                shared: Arc::clone(&self.shared),
                client: client.into(),
            },
            "default",
        )
    }

    /// The cluster's wall clock. It advances with tokio's clock.
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    /// Applies YAML (one or more documents) or JSON as a GitOps tool would. The manifest replaces
    /// the object, except for its status and for metadata that the manifest does not contain.
    /// Returns the stored objects.
    ///
    /// # Errors
    /// The text is not valid YAML, or the API server rejects an object.
    pub fn apply(&self, text: &str) -> Result<Vec<Value>, ClusterError> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .map_err(|problem| ClusterError::InvalidYaml(problem.to_string()))?;
        documents
            .into_iter()
            .filter(|document| !document.is_null())
            .map(|object| self.apply_object(object))
            .collect()
    }

    /// Like [`FakeCluster::apply`], for one object.
    ///
    /// # Errors
    /// The API server rejects the object.
    pub fn apply_object(&self, mut object: Value) -> Result<Value, ClusterError> {
        let now = self.now();
        let mut state = self.shared.lock();
        let kind = known_kind(&state.store, &object)?;
        let namespace = match metadata_str(&object, "namespace") {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        };
        let key = ObjectKey::new(&kind, &namespace, metadata_str(&object, "name"));
        state.store.field_manager = FieldManager {
            manager: "gitops".into(),
            is_apply: true,
            ..FieldManager::default()
        };
        state.store.applied_configuration = Some(object.clone());
        let stored = match state.store.get(&key).cloned() {
            None => state.store.create(&kind, &namespace, object, now, false)?,
            Some(current) => {
                let mut metadata = current["metadata"].clone();
                json_patch::merge(&mut metadata, &object["metadata"]);
                object["metadata"] = metadata;
                state
                    .store
                    .update(&kind, &key, object, ObjectPart::Main, false)?
            }
        };
        drop(state);
        self.shared.notify();
        Ok(Value::clone(&stored))
    }

    /// Changes an object as `kubectl edit` would. Unlike there, `status` can be changed too.
    ///
    /// # Errors
    /// The object does not exist, or the API server rejects the change.
    pub fn edit<K>(
        &self,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), ClusterError>
    where
        K: Resource<DynamicType = ()>,
    {
        let kind = self.kind_of::<K>()?;
        let key = ObjectKey::new(&kind, namespace, name);
        let mut state = self.shared.lock();
        let current = state
            .store
            .get(&key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(&kind, name))?;
        let mut object = Value::clone(&current);
        change(&mut object);
        state.store.field_manager = FieldManager {
            manager: "kubectl-edit".into(),
            ..FieldManager::default()
        };
        let status = object["status"].clone();
        let updated = state
            .store
            .update(&kind, &key, object, ObjectPart::Main, false)?;
        if kind.status && status != updated["status"] {
            let mut with_status = Value::clone(&updated);
            with_status["status"] = status;
            state
                .store
                .update(&kind, &key, with_status, ObjectPart::Status, false)?;
        }
        drop(state);
        self.shared.notify();
        Ok(())
    }

    /// Deletes an object as `kubectl delete` would.
    ///
    /// # Errors
    /// The object does not exist.
    pub fn delete<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<(), ClusterError> {
        let kind = self.kind_of::<K>()?;
        let key = ObjectKey::new(&kind, namespace, name);
        let now = self.now();
        self.shared
            .lock()
            .store
            .delete(&kind, &key, &DeleteOptions::default(), now)?;
        self.shared.notify();
        Ok(())
    }

    /// Like [`FakeCluster::delete`], by the plural name of the kind (`httproutes`).
    ///
    /// # Errors
    /// The kind or the object does not exist.
    pub fn delete_json(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), ClusterError> {
        let now = self.now();
        let mut state = self.shared.lock();
        let kinds = &state.store.kinds;
        let kind = kinds.iter().find(|kind| kind.plural == plural).cloned();
        let kind = kind.ok_or_else(|| ClusterError::UnknownKind {
            kind: plural.to_owned(),
            api_version: String::new(),
        })?;
        let key = ObjectKey::new(&kind, namespace, name);
        state
            .store
            .delete(&kind, &key, &DeleteOptions::default(), now)?;
        drop(state);
        self.shared.notify();
        Ok(())
    }

    /// All objects of a kind, ordered by namespace and name.
    ///
    /// # Panics
    /// If the test stored an object that cannot be deserialized as `K`.
    pub fn objects<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let Ok(kind) = self.kind_of::<K>() else {
            return Vec::new();
        };
        let state = self.shared.lock();
        state
            .store
            .list(&kind.resource(), None)
            .map(|(_, object)| deserialize(object))
            .collect()
    }

    /// One object, or `None` if it does not exist.
    ///
    /// # Panics
    /// If the stored object cannot be deserialized as `K`.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let kind = self.kind_of::<K>().ok()?;
        let state = self.shared.lock();
        state
            .store
            .get(&ObjectKey::new(&kind, namespace, name))
            .map(|object| deserialize(object))
    }

    /// One object as JSON, by the plural name of its kind (`httproutes`, `rollouts`).
    pub fn get_json(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.shared.lock();
        let kind = state
            .store
            .kinds
            .iter()
            .find(|kind| kind.plural == plural)?;
        state
            .store
            .get(&ObjectKey::new(kind, namespace, name))
            .map(|object| Value::clone(object))
    }

    fn kind_of<K: Resource<DynamicType = ()>>(&self) -> Result<ServedKind, ClusterError> {
        let state = self.shared.lock();
        let (group, version, plural) = (K::group(&()), K::version(&()), K::plural(&()));
        let unknown = || ClusterError::UnknownKind {
            kind: K::kind(&()).into(),
            api_version: K::api_version(&()).into(),
        };
        state
            .store
            .kind(&group, &version, &plural)
            .cloned()
            .ok_or_else(unknown)
    }

    /// Sets the served versions of a custom kind (by plural name, for example `httproutes`), as a
    /// change of its CustomResourceDefinition does. Without any version, the kind and its objects
    /// are removed.
    pub fn set_served_versions(&self, plural: &str, versions: &[&str]) {
        let mut state = self.shared.lock();
        state.store.set_served_versions(plural, versions);
        state.controllers.run_all_again();
        drop(state);
        self.shared.notify();
    }

    /// Every request for objects that the API server received, oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.lock().requests.clone()
    }

    /// All write requests, including failed ones, oldest first.
    pub fn writes(&self) -> Vec<RequestRecord> {
        self.shared
            .lock()
            .requests
            .iter()
            .filter(|request| request.is_write())
            .cloned()
            .collect()
    }

    /// Clears the request log.
    pub fn clear_requests(&self) {
        self.shared.lock().requests.clear();
    }

    /// Changes the speed of the cluster.
    pub fn tune(&self, change: impl FnOnce(&mut ClusterTuning)) {
        let mut state = self.shared.lock();
        change(&mut state.tuning);
        state.controllers.run_all_again();
        drop(state);
        self.shared.notify();
    }

    /// Sets the behavior of the pods that match a label selector, from now on. The newest matching
    /// rule applies.
    ///
    /// # Errors
    /// The selector is invalid.
    pub fn set_pod_behavior(
        &self,
        labels: &str,
        behavior: PodBehavior,
    ) -> Result<(), ClusterError> {
        let selector = Selector::parse(labels, "")?;
        self.shared
            .lock()
            .controllers
            .set_pod_behavior(selector, behavior);
        self.shared.notify();
        Ok(())
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Starts an outage of the API server: watches break now, and connections are refused for
    /// `duration`.
    pub fn take_api_down_for(&self, duration: Duration) {
        self.shared.lock().api_down_until = Some(Instant::now() + duration);
        self.break_watches();
    }

    /// Breaks every open watch, as a restart of the API server does.
    pub fn break_watches(&self) {
        self.shared.lock().connection += 1;
        self.shared.notify();
    }

    /// Drops the change history, as etcd's compaction does. A watch from an older version gets 410.
    pub fn compact(&self) {
        self.shared.lock().store.compact();
    }

    /// Drops all but the newest changes of the history, so that a long test needs little memory.
    /// A watch that is behind the dropped changes misses them; keep as many as may occur within
    /// seconds.
    pub fn trim_history(&self, changes: usize) {
        self.shared.lock().store.trim_history(changes);
    }

    /// Kills a client at its n-th write from now on. The write is stored, but the client gets no
    /// response to it or to any later request. The test must then abort the client's tasks.
    pub fn kill_after_writes(&self, client: &str, writes: usize) {
        self.shared.lock().writes_left.insert(client.into(), writes);
    }

    /// Kills a client now. Requests in flight are processed, but get no response.
    pub fn kill(&self, client: &str) {
        self.shared.lock().dead.insert(client.into());
        self.shared.notify();
    }

    /// Whether a client was killed.
    pub fn is_dead(&self, client: &str) -> bool {
        self.shared.lock().dead.contains(client)
    }

    /// Waits until the condition holds, at most for `within` on tokio's clock.
    ///
    /// # Errors
    /// The condition did not hold in time.
    pub async fn wait_until(
        &self,
        condition: impl Fn(&Self) -> bool,
        within: Duration,
    ) -> Result<(), WaitTimeout> {
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            while !condition(self) {
                // Cannot fail: this cluster holds the sender.
                let _ = timeout(POLL_INTERVAL, changed.changed()).await;
            }
        };
        timeout(within, wait).await.map_err(|_| WaitTimeout(within))
    }

    /// Checks that the condition holds throughout `duration`.
    ///
    /// # Errors
    /// The condition stopped holding; the error contains the time until then.
    pub async fn holds_for(
        &self,
        condition: impl Fn(&Self) -> bool,
        duration: Duration,
    ) -> Result<(), WaitTimeout> {
        let started = Instant::now();
        match self
            .wait_until(|cluster| !condition(cluster), duration)
            .await
        {
            Err(WaitTimeout(_)) => Ok(()),
            Ok(()) => Err(WaitTimeout(started.elapsed())),
        }
    }

    /// Sleeps on tokio's clock.
    pub async fn sleep(&self, duration: Duration) {
        sleep(duration).await;
    }
}

fn known_kind(store: &crate::api::ObjectStore, object: &Value) -> Result<ServedKind, ClusterError> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let unknown = || ClusterError::UnknownKind {
        kind: text("kind"),
        api_version: text("apiVersion"),
    };
    store.kind_of(object).cloned().ok_or_else(unknown)
}

#[expect(
    clippy::panic,
    reason = "an object that does not match its kind is a bug in the test that stored it"
)]
fn deserialize<K: DeserializeOwned>(object: &Value) -> K {
    K::deserialize(object).unwrap_or_else(|problem| panic!("{problem} in {object}"))
}
