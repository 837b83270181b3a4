//! One watch per kind, each with a backoff of its own, so that a kind that is missing or forbidden
//! slows no other.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc;
use futures::{SinkExt, Stream, StreamExt};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use rand::Rng;
use serde::de::DeserializeOwned;
use serin_core::backoff::retry_after;
use serin_crds::names::ROLLOUT_LABEL;
use serin_crds::{RolloutCommand, api_status};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::cache::Cache;
use super::facts::{CommandFact, Fact, RouteFact};
use super::kinds::{Availability, Discovery, KindState, absent_poll};
use super::rollout::RolloutObject;
use super::{Key, World};

/// Asks for a reconcile of one Rollout.
pub type Trigger = ObjectRef<RolloutObject>;

/// How long a failed watch waits at most.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A watch that has been well for so long starts from the first wait again.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// A watch is renewed after so long, which bounds how long a connection that died in silence goes
/// unnoticed.
const WATCH_SECONDS: u32 = 60;

/// What the watches need.
#[derive(Clone)]
pub struct Watches {
    /// The API server.
    pub client: Client,
    /// The only namespace to look at; none: all of them.
    pub namespace: Option<String>,
    /// Where what they see goes.
    pub world: Arc<World>,
    /// Whom they tell.
    pub triggers: mpsc::Sender<Trigger>,
}

impl Watches {
    /// Starts all of them. `on_gone` is called for each Rollout that is deleted.
    pub fn spawn(
        self,
        tasks: &mut JoinSet<()>,
        rollouts: reflector::store::Writer<RolloutObject>,
        on_gone: impl Fn(&Key, &str) + Send + 'static,
    ) {
        tasks.spawn(follow_rollouts(self.clone(), rollouts, on_gone));
        self.spawn_labelled::<ReplicaSet, _>(tasks, |world| &world.replica_sets);
        self.spawn_labelled::<Pod, _>(tasks, |world| &world.pods);
        self.spawn_labelled::<Service, _>(tasks, |world| &world.services);
        self.spawn_labelled::<EndpointSlice, _>(tasks, |world| &world.slices);
        let commands = self.clone();
        let of_command = |_: &World, fact: &CommandFact| {
            vec![Key::new(&fact.identity.key.namespace, &fact.rollout)]
        };
        tasks.spawn(self.clone().follow_optional(
            |world| &world.command_kind,
            move |_| commands.api::<DeserializeGuard<RolloutCommand>>(),
            |world| &world.commands,
            of_command,
        ));
        let routes = self.clone();
        let of_route = |world: &World, fact: &RouteFact| world.interested_in(&fact.identity.key);
        tasks.spawn(self.follow_optional(
            |world| &world.route_kind,
            move |resource| routes.dynamic_api(resource),
            |world| &world.routes,
            of_route,
        ));
    }

    fn spawn_labelled<K, F>(&self, tasks: &mut JoinSet<()>, cache: fn(&World) -> &Cache<F>)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
        F: Fact + From<K>,
    {
        let of_labelled = |_: &World, fact: &F| {
            let key = &fact.identity().key;
            fact.rollout()
                .map(|rollout| Key::new(&key.namespace, rollout))
                .into_iter()
                .collect()
        };
        let api = self.api::<DeserializeGuard<K>>();
        tasks.spawn(
            self.clone()
                .follow(api, settings().labels(ROLLOUT_LABEL), cache, of_labelled),
        );
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn dynamic_api(&self, resource: &ApiResource) -> Api<DeserializeGuard<DynamicObject>> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Keeps one cache as the API server says, for ever, and triggers the Rollouts that a change
    /// concerns.
    async fn follow<K, F>(
        mut self,
        api: Api<DeserializeGuard<K>>,
        settings: watcher::Config,
        cache: fn(&World) -> &Cache<F>,
        concerned: impl Fn(&World, &F) -> Vec<Key> + Send + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        F: Fact + From<K>,
    {
        let world = Arc::clone(&self.world);
        let cache = cache(&world);
        let kind = api
            .resource_url()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let mut events = pin!(patient(watcher(api, settings)));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let concerns = take_in(cache, event, |fact: &F| concerned(&world, fact));
                    self.trigger(&concerns).await;
                }
                // A 404 too: every API server has these kinds, so their objects are not gone
                // because of it.
                Err(problem) => log_interruption(&kind, &problem),
            }
        }
    }

    /// Keeps the cache of an optional kind. The kind may be absent at the start, appear, disappear,
    /// and change the version that is served. While it is absent the cache is empty and counts as
    /// listed.
    async fn follow_optional<K, F>(
        mut self,
        state: fn(&World) -> &KindState,
        api: impl Fn(&ApiResource) -> Api<DeserializeGuard<K>> + Send + Sync + 'static,
        cache: fn(&World) -> &Cache<F>,
        concerned: impl Fn(&World, &F) -> Vec<Key> + Send + Sync + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        F: Fact + From<K>,
    {
        let world = Arc::clone(&self.world);
        let (state, cache) = (state(&world), cache(&world));
        let concerned = |fact: &F| concerned(&world, fact);
        let mut patience = Patience::default();
        let mut lookups: u32 = 0;
        loop {
            lookups = lookups.saturating_add(1);
            let version = match state.kind().discover(&self.client).await {
                Discovery::Served(version) => Some(version),
                Discovery::Absent => None,
                Discovery::Forbidden => Some(state.kind().version_to_try(lookups as usize - 1)),
                Discovery::Failed(error) => {
                    tracing::warn!(kind = state.kind().plural(), %error, "API discovery failed and is retried");
                    sleep(patience.next().unwrap_or(LONGEST_WAIT)).await;
                    continue;
                }
            };
            if let Some(version) = version {
                let objects = api(&state.kind().resource(version));
                let began = Instant::now();
                let end = self
                    .watch_version(state, version, objects, cache, &concerned)
                    .await;
                if end == WatchEnd::Recheck {
                    if began.elapsed() < WELL_AFTER {
                        sleep(patience.next().unwrap_or(LONGEST_WAIT)).await;
                    }
                    lookups = 0;
                    continue;
                }
            }
            self.mark_absent(state, cache, &concerned).await;
            let wait = absent_poll(lookups, rand::rng().random());
            tokio::select! {
                () = sleep(wait) => {}
                () = state.recheck_requested() => {}
            }
        }
    }

    /// Watches one version of an optional kind until it may no longer be served.
    async fn watch_version<K, F>(
        &mut self,
        state: &KindState,
        version: &'static str,
        api: Api<DeserializeGuard<K>>,
        cache: &Cache<F>,
        concerned: impl Fn(&F) -> Vec<Key>,
    ) -> WatchEnd
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        F: Fact + From<K>,
    {
        let mut events = pin!(patient(watcher(api, settings())));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = state.recheck_requested() => return WatchEnd::Recheck,
            };
            match event {
                Some(Ok(event)) => {
                    let listed = matches!(event, Event::InitDone);
                    let concerns = take_in(cache, event, &concerned);
                    self.trigger(&concerns).await;
                    if listed {
                        self.mark_served(state, version).await;
                    }
                }
                Some(Err(watcher::Error::InitialListFailed(kube::Error::Api(status))))
                    if api_status::is_missing_kind(&status) =>
                {
                    return WatchEnd::Absent;
                }
                Some(Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))))
                    if api_status::is_missing_kind(&status) =>
                {
                    return WatchEnd::Recheck;
                }
                Some(Err(problem)) => log_interruption(state.kind().plural(), &problem),
                None => return WatchEnd::Recheck,
            }
        }
    }

    async fn mark_served(&mut self, state: &KindState, version: &'static str) {
        let before = state.set(Availability::Served(version));
        if before == Availability::Served(version) {
            return;
        }
        tracing::info!(kind = %state.kind(), version, "the cluster serves this kind");
        if before == Availability::Absent {
            self.trigger_all().await;
        }
    }

    async fn mark_absent<F: Fact>(
        &mut self,
        state: &KindState,
        cache: &Cache<F>,
        concerned: impl Fn(&F) -> Vec<Key>,
    ) {
        // First the state, then the cache: nobody may conclude from the empty cache that an object
        // was deleted.
        let before = state.set(Availability::Absent);
        let concerns: Vec<Key> = cache
            .clear()
            .iter()
            .flat_map(|fact| concerned(fact))
            .collect();
        self.trigger(&concerns).await;
        match before {
            Availability::Absent => {}
            Availability::Unknown => {
                tracing::info!(
                    "{}; Rollouts that do not use it are not affected",
                    state.absent_message()
                );
            }
            Availability::Served(_) => {
                tracing::warn!(
                    "{}; it was served until now, and Rollouts that use it are held",
                    state.absent_message()
                );
                self.trigger_all().await;
            }
        }
    }

    /// Whether an optional kind is served changes what is reported of Rollouts whose routes were
    /// never seen.
    async fn trigger_all(&mut self) {
        let rollouts: Vec<Key> = self
            .world
            .rollouts
            .state()
            .iter()
            .map(|rollout| rollout.key())
            .collect();
        self.trigger(&rollouts).await;
    }

    async fn trigger(&mut self, rollouts: &[Key]) {
        for rollout in rollouts {
            // Nobody listens any more: the process is about to end.
            let _ = self.triggers.send(rollout.as_rollout()).await;
        }
    }
}

/// Why the watch of one version of an optional kind ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchEnd {
    /// The kind cannot be listed.
    Absent,
    /// The version may no longer be served, or somebody requested a lookup.
    Recheck,
}

/// Takes an event into the cache and answers the Rollouts that it concerns.
fn take_in<K, F>(
    cache: &Cache<F>,
    event: Event<DeserializeGuard<K>>,
    concerned: impl Fn(&F) -> Vec<Key>,
) -> Vec<Key>
where
    K: Resource,
    F: Fact + From<K>,
{
    match event {
        Event::Init => {
            cache.begin_listing();
            Vec::new()
        }
        Event::InitApply(object) => {
            let Some(fact) = readable(object).map(F::from) else {
                return Vec::new();
            };
            // At the start every Rollout is looked at once anyway, when all kinds have been listed.
            let concerns = if cache.is_synced() {
                concerned(&fact)
            } else {
                Vec::new()
            };
            cache.list(fact);
            concerns
        }
        Event::InitDone => cache
            .listed()
            .iter()
            .flat_map(|fact| concerned(fact))
            .collect(),
        Event::Apply(object) => {
            let Some(fact) = readable(object).map(F::from) else {
                return Vec::new();
            };
            let concerns = concerned(&fact);
            cache.apply(fact);
            concerns
        }
        Event::Delete(object) => {
            let Some(fact) = readable(object).map(F::from) else {
                return Vec::new();
            };
            cache.remove(&fact.identity().key);
            concerned(&fact)
        }
    }
}

async fn follow_rollouts(
    mut watches: Watches,
    mut store: reflector::store::Writer<RolloutObject>,
    on_gone: impl Fn(&Key, &str) + Send + 'static,
) {
    let mut known = std::collections::HashMap::new();
    let mut listed = None;
    let mut synced = false;
    let mut events = pin!(patient(watcher(watches.api::<RolloutObject>(), settings())));
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(problem) => {
                log_interruption("rollouts", &problem);
                continue;
            }
        };
        store.apply_watcher_event(&event);
        let mut concerns = Vec::new();
        match &event {
            Event::Init => listed = Some(std::collections::HashMap::new()),
            Event::InitApply(rollout) => {
                let seen = listed.get_or_insert_default();
                seen.insert(rollout.key(), rollout.uid().to_owned());
                if synced {
                    concerns.push(rollout.key());
                }
            }
            Event::InitDone => {
                synced = true;
                watches.world.rollouts_listed.send_replace(true);
                let before = std::mem::replace(&mut known, listed.take().unwrap_or_default());
                before
                    .iter()
                    .filter(|(key, uid)| known.get(key) != Some(uid))
                    .for_each(|(key, uid)| on_gone(key, uid));
            }
            Event::Apply(rollout) => {
                known.insert(rollout.key(), rollout.uid().to_owned());
                concerns.push(rollout.key());
            }
            Event::Delete(rollout) => {
                known.remove(&rollout.key());
                on_gone(&rollout.key(), rollout.uid());
            }
        }
        watches.trigger(&concerns).await;
    }
}

fn settings() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

fn patient<T>(
    events: impl Stream<Item = watcher::Result<Event<T>>> + Send,
) -> impl Stream<Item = watcher::Result<Event<T>>> + Send
where
    T: Send,
{
    events.backoff(Patience::default())
}

/// Longer after every failure, until the watch has been well for a while: its every new beginning
/// is told as a success, so that a success alone means nothing.
#[derive(Debug, Default)]
struct Patience {
    failures: u32,
    failed_at: Option<Instant>,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let was_well = self.failed_at.is_some_and(|at| at.elapsed() >= WELL_AFTER);
        self.failures = if was_well {
            1
        } else {
            self.failures.saturating_add(1)
        };
        self.failed_at = Some(Instant::now());
        Some(retry_after(self.failures, rand::rng().random()).min(LONGEST_WAIT))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {}
}

fn readable<K: Resource>(DeserializeGuard(object): DeserializeGuard<K>) -> Option<K> {
    object
        .map_err(|invalid| {
            let (namespace, name) =
                (invalid.metadata.namespace.unwrap_or_default(), invalid.metadata.name.unwrap_or_default());
            tracing::warn!(%namespace, %name, error = %invalid.error, "an object cannot be read and is left aside");
        })
        .ok()
}

fn log_interruption(kind: &str, problem: &watcher::Error) {
    tracing::warn!(kind, error = %problem, "a watch was interrupted and is tried again");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_begins_and_fails_again_and_again_waits_longer_each_time() {
        let mut patience = Patience::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            // Its beginning is told as a success.
            patience.reset();
            waits.extend(patience.next());
        }
        assert!(waits[0] <= Duration::from_millis(200), "{waits:?}");
        assert!(
            waits[7] >= LONGEST_WAIT / 2 && waits[7] <= LONGEST_WAIT,
            "{waits:?}"
        );
        tokio::time::advance(WELL_AFTER).await;
        assert!(
            patience.next().unwrap() <= Duration::from_millis(200),
            "it was well for a while"
        );
    }
}
