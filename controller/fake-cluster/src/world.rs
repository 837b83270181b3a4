//! The world, as a test holds it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::api::{DeleteOptions, Failure, Key, Kind, Part, Selector, Server, Writer, field};
use crate::faults::{Fault, RequestSeen};
use crate::shared::Shared;
use crate::tuning::{Fate, Tuning};
use crate::turns;

/// How often [`World::until`] looks again though nothing has changed in the store: what it waits
/// for may be elsewhere.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A cluster in memory, for one test.
///
/// Cheap to clone; all clones are one world. It lives on tokio's clock: under
/// `#[tokio::test(start_paused = true)]` an hour in it takes milliseconds, and what happens depends
/// on the seed alone, as far as the tasks that use it are deterministic themselves.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

/// What a test waited for did not happen in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it did not happen within {0:?}")]
pub struct Overdue(pub Duration);

/// What a test put into the world is not an object of a kind that is served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("this is not YAML: {0}")]
    Unreadable(String),
    /// There is no such kind.
    #[error("no kind {kind} in {api_version}")]
    UnknownKind {
        /// The object's `kind`.
        kind: String,
        /// The object's `apiVersion`.
        api_version: String,
    },
    /// The API server refuses it.
    #[error(transparent)]
    Refused(#[from] Failure),
}

impl World {
    /// An empty cluster with its controllers at work. Call it within a tokio runtime.
    pub fn new(seed: u64) -> Self {
        let shared = Arc::new(Shared::new(seed));
        tokio::spawn(turns::run(
            Arc::downgrade(&shared),
            shared.changed.subscribe(),
        ));
        Self { shared }
    }

    /// A client of the API server, known as `serin`.
    pub fn client(&self) -> Client {
        self.client_of("serin")
    }

    /// A client that the log and the fault plans know by this name: one for each process of a test.
    pub fn client_of(&self, who: &str) -> Client {
        Client::new(
            Server {
                shared: Arc::clone(&self.shared),
                who: who.into(),
            },
            "default",
        )
    }

    /// The world's wall clock; it goes as tokio's clock does.
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    /// Applies YAML (one document or several) or JSON as Git would: what is written replaces
    /// everything but metadata that is not written and the status. Returns the objects as they are
    /// stored.
    ///
    /// # Errors
    /// It cannot be read, or the API server refuses it.
    pub fn apply(&self, text: &str) -> Result<Vec<Value>, Refusal> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .map_err(|problem| Refusal::Unreadable(problem.to_string()))?;
        documents
            .into_iter()
            .filter(|document| !document.is_null())
            .map(|object| self.apply_object(object))
            .collect()
    }

    /// As [`World::apply`], for one object.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn apply_object(&self, mut object: Value) -> Result<Value, Refusal> {
        let now = self.now();
        let mut state = self.shared.lock();
        let kind = known_kind(&state.store, &object)?;
        let namespace = match field(&object, "namespace") {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        };
        let key = Key::new(&kind, &namespace, field(&object, "name"));
        state.store.writer = Writer {
            manager: "gitops".into(),
            applies: true,
            ..Writer::default()
        };
        state.store.applied_configuration = Some(object.clone());
        let stored = match state.store.get(&key).cloned() {
            None => state.store.create(&kind, &namespace, object, now, false)?,
            Some(current) => {
                let mut metadata = current["metadata"].clone();
                json_patch::merge(&mut metadata, &object["metadata"]);
                object["metadata"] = metadata;
                state.store.update(&kind, &key, object, Part::Main, false)?
            }
        };
        drop(state);
        self.shared.announce();
        Ok(Value::clone(&stored))
    }

    /// Changes an object by hand, as `kubectl edit` would; a change of `status` counts too.
    ///
    /// # Errors
    /// There is no such object, or the API server refuses the change.
    pub fn edit<K>(
        &self,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), Refusal>
    where
        K: Resource<DynamicType = ()>,
    {
        let kind = self.kind_of::<K>()?;
        let key = Key::new(&kind, namespace, name);
        let mut state = self.shared.lock();
        let current = state
            .store
            .get(&key)
            .cloned()
            .ok_or_else(|| Failure::not_found(&kind, name))?;
        let mut object = Value::clone(&current);
        change(&mut object);
        state.store.writer = Writer {
            manager: "kubectl-edit".into(),
            ..Writer::default()
        };
        let status = object["status"].clone();
        let updated = state.store.update(&kind, &key, object, Part::Main, false)?;
        if kind.status && status != updated["status"] {
            let mut with_status = Value::clone(&updated);
            with_status["status"] = status;
            state
                .store
                .update(&kind, &key, with_status, Part::Status, false)?;
        }
        drop(state);
        self.shared.announce();
        Ok(())
    }

    /// Deletes an object, as `kubectl delete` would.
    ///
    /// # Errors
    /// There is no such object.
    pub fn delete<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<(), Refusal> {
        let kind = self.kind_of::<K>()?;
        let key = Key::new(&kind, namespace, name);
        let now = self.now();
        self.shared
            .lock()
            .store
            .delete(&kind, &key, &DeleteOptions::default(), now)?;
        self.shared.announce();
        Ok(())
    }

    /// All objects of a kind, in order of namespace and name.
    ///
    /// # Panics
    /// Where what is stored is not a `K`: then the test has put it there.
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
            .map(|(_, object)| typed(object))
            .collect()
    }

    /// One object.
    ///
    /// # Panics
    /// Where what is stored is not a `K`.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let kind = self.kind_of::<K>().ok()?;
        let state = self.shared.lock();
        state
            .store
            .get(&Key::new(&kind, namespace, name))
            .map(|object| typed(object))
    }

    /// One object as JSON, by the plural of its kind (`httproutes`, `rollouts`).
    pub fn get_json(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.shared.lock();
        let kind = state
            .store
            .kinds
            .iter()
            .find(|kind| kind.plural == plural)?;
        state
            .store
            .get(&Key::new(kind, namespace, name))
            .map(|object| Value::clone(object))
    }

    fn kind_of<K: Resource<DynamicType = ()>>(&self) -> Result<Kind, Refusal> {
        let state = self.shared.lock();
        let (group, version, plural) = (K::group(&()), K::version(&()), K::plural(&()));
        let unknown = || Refusal::UnknownKind {
            kind: K::kind(&()).into(),
            api_version: K::api_version(&()).into(),
        };
        state
            .store
            .kind(&group, &version, &plural)
            .cloned()
            .ok_or_else(unknown)
    }

    /// Changes which versions of a custom kind are served (by its plural, for example
    /// `httproutes`), as a change of its CustomResourceDefinition does. Objects stay while one is
    /// left; without any, the kind and its objects are gone.
    pub fn serve(&self, plural: &str, versions: &[&str]) {
        self.shared.lock().store.serve(plural, versions);
        self.shared.announce();
    }

    /// Every request about objects that the API server got, oldest first.
    pub fn requests(&self) -> Vec<RequestSeen> {
        self.shared.lock().requests.clone()
    }

    /// The requests that asked for something to be stored, whether or not they were granted.
    pub fn writes(&self) -> Vec<RequestSeen> {
        self.shared
            .lock()
            .requests
            .iter()
            .filter(|request| request.is_write())
            .cloned()
            .collect()
    }

    /// Forgets the log of requests.
    pub fn forget_requests(&self) {
        self.shared.lock().requests.clear();
    }

    /// Changes how fast the world is.
    pub fn tune(&self, change: impl FnOnce(&mut Tuning)) {
        change(&mut self.shared.lock().tuning);
        self.shared.announce();
    }

    /// Decides what becomes of the pods with these labels (a label selector), from now on; the
    /// newest rule counts.
    ///
    /// # Errors
    /// The selector cannot be read.
    pub fn fate(&self, labels: &str, fate: Fate) -> Result<(), Refusal> {
        let selector = Selector::parse(labels, "")?;
        self.shared.lock().actors.kubelet.decree(selector, fate);
        self.shared.announce();
        Ok(())
    }

    /// Lets requests go wrong.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Ends all fault plans.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
    }

    /// Takes the API server away for so long: connections are refused, and watches break now.
    pub fn api_away_for(&self, duration: Duration) {
        self.shared.lock().away_until = Some(Instant::now() + duration);
        self.break_watches();
    }

    /// Breaks every watch, as a restart of the API server does.
    pub fn break_watches(&self) {
        self.shared.lock().connection += 1;
        self.shared.announce();
    }

    /// Forgets the past, as etcd's compaction does: a watch that starts from before now is told
    /// 410.
    pub fn compact(&self) {
        self.shared.lock().store.compact();
    }

    /// Lets a client die with the n-th write from now on: it is carried out, but the client never
    /// hears of it, nor of anything else from then on. The test then ends the client's tasks and
    /// starts another.
    pub fn dies_after_writes(&self, who: &str, writes: usize) {
        self.shared.lock().writes_left.insert(who.into(), writes);
    }

    /// Lets a client die now: what is under way is carried out, but never answered.
    pub fn kill(&self, who: &str) {
        self.shared.lock().dead.insert(who.into());
        self.shared.announce();
    }

    /// Whether a client has died.
    pub fn is_dead(&self, who: &str) -> bool {
        self.shared.lock().dead.contains(who)
    }

    /// Waits until the condition holds; at most so long by tokio's clock, which passes in no time
    /// where it is paused.
    ///
    /// # Errors
    /// It did not happen in time.
    pub async fn until(
        &self,
        condition: impl Fn(&Self) -> bool,
        within: Duration,
    ) -> Result<(), Overdue> {
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            while !condition(self) {
                // Fails never: this world holds the sender.
                let _ = timeout(LOOK_EVERY, changed.changed()).await;
            }
        };
        timeout(within, wait).await.map_err(|_| Overdue(within))
    }

    /// Checks that the condition holds all the time for so long.
    ///
    /// # Errors
    /// How long it did hold.
    pub async fn holds(
        &self,
        condition: impl Fn(&Self) -> bool,
        during: Duration,
    ) -> Result<(), Overdue> {
        let started = Instant::now();
        match self.until(|world| !condition(world), during).await {
            Err(Overdue(_)) => Ok(()),
            Ok(()) => Err(Overdue(started.elapsed())),
        }
    }

    /// Lets time pass.
    pub async fn pass(&self, duration: Duration) {
        sleep(duration).await;
    }
}

fn known_kind(store: &crate::api::Store, object: &Value) -> Result<Kind, Refusal> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let unknown = || Refusal::UnknownKind {
        kind: text("kind"),
        api_version: text("apiVersion"),
    };
    store.kind_of(object).cloned().ok_or_else(unknown)
}

#[expect(
    clippy::panic,
    reason = "an object that is not of its kind is a mistake in the test that stored it"
)]
fn typed<K: DeserializeOwned>(object: &Value) -> K {
    K::deserialize(object).unwrap_or_else(|problem| panic!("{problem} in {object}"))
}
