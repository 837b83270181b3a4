//! One watch per kind, each with its own backoff, so that a missing or forbidden kind does not
//! delay the others.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::reflector;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use rand::Rng;
use serde::de::DeserializeOwned;
use serin_crds::names::ROLLOUT_LABEL;
use serin_crds::{RolloutCommand, api_status};
use serin_traffic::ROUTERS;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::checked_object::CheckedObject;
use super::namespaced_watch::{NamespaceEvent, NamespacedApi, watch_each};
use super::object_cache::ObjectCache;
use super::objects::{CachedCommand, CachedObject, CachedRoute, CachedService};
use super::optional_kinds::{
    ApiGroups, Availability, Discovery, FIRST_MAX_AGE, KindState, absent_recheck_delay,
};
use super::pod_object::PodObject;
use super::replica_set_object::ReplicaSetObject;
use super::rollout_object::RolloutObject;
use super::watch_backoff::{BACKOFF_RESET_AFTER, MAX_BACKOFF, WatchBackoff};
use super::{ClusterCache, Key, RouteKey};
use crate::dispatcher::Dispatcher;
use crate::queue::Lane;

/// Duration of one watch request, in seconds. It bounds how long a broken connection goes
/// unnoticed.
const WATCH_SECONDS: u32 = 60;

/// Dependencies of the watches.
#[derive(Clone)]
pub struct Watches {
    pub client: Client,
    /// The namespaces to watch. All namespaces if empty.
    pub namespaces: Vec<String>,
    /// The cache to update.
    pub cluster: Arc<ClusterCache>,
    /// The API groups that were discovered last.
    pub api_groups: Arc<ApiGroups>,
    /// Receives the Rollouts that are affected by changes.
    pub dispatcher: Arc<Dispatcher>,
    /// The lane of all changes of this kind. If `None`, each is as urgent as the release that it
    /// affects.
    pub lane: Option<Lane>,
}

impl Watches {
    /// Starts all watches. `on_deleted` is called with the UID of each deleted Rollout.
    pub fn spawn(
        self,
        tasks: &mut JoinSet<()>,
        rollouts: reflector::store::Writer<RolloutObject>,
        on_deleted: impl Fn(&str) + Send + 'static,
    ) {
        tasks.spawn(watch_rollouts(self.clone(), rollouts, on_deleted));
        self.spawn_labelled::<ReplicaSetObject, _>(
            tasks,
            "replicasets",
            |cluster| &cluster.replica_sets,
            |_, cached| rollout_of(cached),
        );
        self.spawn_labelled::<PodObject, _>(
            tasks,
            "pods",
            |cluster| &cluster.pods,
            |_, cached| rollout_of(cached),
        );
        self.spawn_labelled::<EndpointSlice, _>(
            tasks,
            "endpointslices",
            |cluster| &cluster.slices,
            |_, cached| rollout_of(cached),
        );
        // Other Rollouts wait for a Service that its holder gives up.
        let claimants = |cluster: &ClusterCache, cached: &CachedService| {
            let claimants = cluster.claimants(&cached.identity.key).into_iter();
            let claimants = claimants.map(|claimant| claimant.rollout);
            claimants.chain(rollout_of(cached)).collect()
        };
        self.spawn_labelled::<Service, _>(
            tasks,
            "services",
            |cluster| &cluster.services,
            claimants,
        );
        let commands = self.clone();
        // A finished command is of no interest to its Rollout.
        let affected = |_: &ClusterCache, cached: &CachedCommand| {
            let rollout = Key::new(&cached.identity.key.namespace, &cached.rollout);
            let pending = cached.finished_at.is_none().then_some(rollout);
            pending.into_iter().collect()
        };
        // A person waits for a command.
        let urgent = Self {
            lane: Some(Lane::Urgent),
            ..self.clone()
        };
        tasks.spawn(urgent.watch_optional_kind(
            |cluster| &cluster.command_kind,
            move |_| commands.apis::<CheckedObject<RolloutCommand>>(),
            |cluster| &cluster.commands,
            affected,
        ));
        self.spawn_policies(tasks);
        for router in ROUTERS {
            let kind = router.route_kind();
            let routes = self.clone();
            let affected = move |cluster: &ClusterCache, cached: &CachedRoute| {
                let key = cached.identity.key.clone();
                cluster.rollouts_using_route(&RouteKey { kind, key })
            };
            tasks.spawn(self.clone().watch_optional_kind(
                move |cluster| &cluster.routes.of_kind(kind).state,
                move |resource| routes.dynamic_apis(resource),
                move |cluster| &cluster.routes.of_kind(kind).objects,
                affected,
            ));
        }
    }

    fn spawn_labelled<K, F>(
        &self,
        tasks: &mut JoinSet<()>,
        kind: &'static str,
        cache: fn(&ClusterCache) -> &ObjectCache<F>,
        affected: impl Fn(&ClusterCache, &F) -> Vec<Key> + Send + 'static,
    ) where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
        F: CachedObject + From<K>,
    {
        let apis = self.apis::<CheckedObject<K>>();
        tasks.spawn(self.clone().watch_kind(
            kind,
            apis,
            watcher_config().labels(ROLLOUT_LABEL),
            cache,
            affected,
        ));
    }

    pub(super) fn apis<K>(&self) -> Vec<NamespacedApi<K>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        self.each_namespace(|client, namespace| match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        })
    }

    fn dynamic_apis(
        &self,
        resource: &ApiResource,
    ) -> Vec<NamespacedApi<CheckedObject<DynamicObject>>> {
        self.each_namespace(|client, namespace| match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
            None => Api::all_with(client, resource),
        })
    }

    fn each_namespace<K>(
        &self,
        api: impl Fn(Client, Option<&str>) -> Api<K>,
    ) -> Vec<NamespacedApi<K>> {
        if self.namespaces.is_empty() {
            return vec![(None, api(self.client.clone(), None))];
        }
        let namespaces = self.namespaces.iter();
        let apis = namespaces.map(|namespace| {
            let api = api(self.client.clone(), Some(namespace));
            (Some(namespace.clone()), api)
        });
        apis.collect()
    }

    /// Watches one kind in the namespaces.
    fn watch<K>(
        &self,
        kind: &'static str,
        apis: Vec<NamespacedApi<K>>,
        config: &watcher::Config,
    ) -> BoxStream<'static, watcher::Result<NamespaceEvent<K>>>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let cluster = Arc::clone(&self.cluster);
        watch_each(apis, config, move |namespace, listed| {
            cluster.record_access(kind, namespace, listed);
        })
    }

    /// Keeps the cache of one kind current and triggers the affected Rollouts. Never returns.
    async fn watch_kind<K, F>(
        self,
        kind: &'static str,
        apis: Vec<NamespacedApi<CheckedObject<K>>>,
        config: watcher::Config,
        cache: fn(&ClusterCache) -> &ObjectCache<F>,
        affected: impl Fn(&ClusterCache, &F) -> Vec<Key> + Send + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        F: CachedObject + From<K>,
    {
        let cluster = Arc::clone(&self.cluster);
        let cache = cache(&cluster);
        let mut events = self.watch(kind, apis, &config);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let affected_rollouts =
                        apply_event(cache, event, |cached: &F| affected(&cluster, cached));
                    self.trigger(&affected_rollouts);
                }
                // This includes a 404: every API server serves these kinds, so it does not mean
                // that the objects are gone.
                Err(problem) => log_interruption(kind, &problem),
            }
        }
    }

    /// Keeps the cache of an optional kind current. The kind may be absent at the start, appear,
    /// disappear, or change its served version. While it is absent, the cache is empty and counts
    /// as listed.
    pub(super) async fn watch_optional_kind<K, F>(
        self,
        state: impl for<'a> Fn(&'a ClusterCache) -> &'a KindState + Send + 'static,
        apis: impl Fn(&ApiResource) -> Vec<NamespacedApi<CheckedObject<K>>> + Send + Sync + 'static,
        cache: impl for<'a> Fn(&'a ClusterCache) -> &'a ObjectCache<F> + Send + 'static,
        affected: impl Fn(&ClusterCache, &F) -> Vec<Key> + Send + Sync + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        F: CachedObject + From<K>,
    {
        let cluster = Arc::clone(&self.cluster);
        let (state, cache) = (state(&cluster), cache(&cluster));
        let affected = |cached: &F| affected(&cluster, cached);
        let mut backoff = WatchBackoff::default();
        let mut lookups: u32 = 0;
        let mut max_age = FIRST_MAX_AGE;
        loop {
            lookups = lookups.saturating_add(1);
            let groups = &self.api_groups;
            let kind = state.kind();
            let version = match kind.discover_in(&self.client, groups, max_age).await {
                Discovery::Served(version) => Some(version),
                Discovery::Absent => None,
                Discovery::Forbidden => Some(state.kind().version_to_try(lookups as usize - 1)),
                Discovery::Failed(error) => {
                    tracing::warn!(kind = state.kind().plural(), %error, "API discovery failed; retrying");
                    sleep(backoff.next().unwrap_or(MAX_BACKOFF)).await;
                    continue;
                }
            };
            if let Some(version) = version {
                let objects = apis(&state.kind().resource(version));
                let began = Instant::now();
                let end = self
                    .watch_version(state, version, objects, cache, &affected)
                    .await;
                if end == WatchEnd::Recheck {
                    if began.elapsed() < BACKOFF_RESET_AFTER {
                        sleep(backoff.next().unwrap_or(MAX_BACKOFF)).await;
                    }
                    lookups = 0;
                    max_age = Duration::ZERO;
                    continue;
                }
            }
            self.mark_absent(state, cache, affected);
            let wait = absent_recheck_delay(lookups, rand::rng().random());
            max_age = tokio::select! {
                () = sleep(wait) => wait / 2,
                () = state.wait_for_recheck() => Duration::ZERO,
            };
        }
    }

    /// Watches one version of an optional kind until it may no longer be served.
    async fn watch_version<K, F>(
        &self,
        state: &KindState,
        version: &'static str,
        apis: Vec<NamespacedApi<CheckedObject<K>>>,
        cache: &ObjectCache<F>,
        affected: impl Fn(&F) -> Vec<Key>,
    ) -> WatchEnd
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        F: CachedObject + From<K>,
    {
        let is_one_list = apis.len() == 1;
        let mut events = self.watch(state.kind().plural(), apis, &watcher_config());
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = state.wait_for_recheck() => return WatchEnd::Recheck,
            };
            match event {
                Some(Ok(event)) => {
                    let listed = matches!(event, NamespaceEvent::Watch(Event::InitDone));
                    let affected_rollouts = apply_event(cache, event, &affected);
                    self.trigger(&affected_rollouts);
                    if listed {
                        self.mark_served(state, version);
                    }
                }
                Some(Err(watcher::Error::InitialListFailed(kube::Error::Api(status))))
                    if api_status::is_missing_kind(&status) =>
                {
                    return WatchEnd::Absent;
                }
                Some(Err(watcher::Error::InitialListFailed(kube::Error::Api(status))))
                    if api_status::is_forbidden(&status)
                        && is_one_list
                        && state.kind().is_of_policies() =>
                {
                    self.mark_forbidden(state, cache);
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

    fn mark_served(&self, state: &KindState, version: &'static str) {
        let before = state.set(Availability::Served(version));
        if before == Availability::Served(version) {
            return;
        }
        tracing::info!(kind = %state.kind(), version, "kind is served");
        if matches!(before, Availability::Absent | Availability::Forbidden) {
            self.trigger_all(state);
        }
    }

    fn mark_absent<F: CachedObject>(
        &self,
        state: &KindState,
        cache: &ObjectCache<F>,
        affected: impl Fn(&F) -> Vec<Key>,
    ) {
        // The state is set before the cache is cleared, so that no reconcile concludes from the
        // empty cache that objects were deleted.
        let before = state.set(Availability::Absent);
        self.cluster.forget_access(state.kind().plural());
        let affected_rollouts: Vec<Key> = cache
            .clear()
            .iter()
            .flat_map(|cached| affected(cached))
            .collect();
        self.trigger(&affected_rollouts);
        match before {
            Availability::Absent => {}
            Availability::Unknown | Availability::Forbidden => {
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
                self.trigger_all(state);
            }
        }
    }

    /// Triggers every Rollout. The availability of a kind also changes what is reported for
    /// Rollouts whose routes were never cached.
    fn trigger_all(&self, state: &KindState) {
        if state.kind().is_of_policies() {
            self.cluster
                .policies
                .changes
                .record(|changes| changes.all = true);
            return;
        }
        let rollouts: Vec<Key> = self
            .cluster
            .rollouts
            .state()
            .iter()
            .map(|rollout| rollout.key())
            .collect();
        self.trigger(&rollouts);
    }

    fn trigger(&self, rollouts: &[Key]) {
        for rollout in rollouts {
            let lane = self.lane.unwrap_or_else(|| self.cluster.lane(rollout));
            self.dispatcher.enqueue(rollout, lane);
        }
    }
}

/// The Rollout that an object belongs to.
fn rollout_of(cached: &impl CachedObject) -> Vec<Key> {
    let key = &cached.identity().key;
    let rollout = cached.rollout().into_iter();
    rollout
        .map(|rollout| Key::new(&key.namespace, rollout))
        .collect()
}

/// Why the watch of one version of an optional kind ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchEnd {
    /// The kind does not exist.
    Absent,
    /// The version may no longer be served, or a discovery was requested.
    Recheck,
}

/// Applies an event to the cache. Returns the affected Rollouts.
fn apply_event<K, F>(
    cache: &ObjectCache<F>,
    event: NamespaceEvent<CheckedObject<K>>,
    affected: impl Fn(&F) -> Vec<Key>,
) -> Vec<Key>
where
    K: Resource,
    F: CachedObject + From<K>,
{
    let event = match event {
        NamespaceEvent::Watch(event) => event,
        NamespaceEvent::Relisted { namespace, names } => {
            let gone = cache.retain_listed(&namespace, &names);
            return gone.iter().flat_map(|cached| affected(cached)).collect();
        }
    };
    match event {
        Event::Init => {
            cache.begin_listing();
            Vec::new()
        }
        Event::InitApply(object) => {
            let Some(cached) = decode_or_skip(object).map(F::from) else {
                return Vec::new();
            };
            // During the initial list, triggers are unnecessary: every Rollout is enqueued after
            // all kinds have been listed.
            let affected_rollouts = if cache.is_synced() {
                affected(&cached)
            } else {
                Vec::new()
            };
            cache.add_listed(cached);
            affected_rollouts
        }
        Event::InitDone => cache
            .finish_listing()
            .iter()
            .flat_map(|cached| affected(cached))
            .collect(),
        Event::Apply(object) => {
            let Some(cached) = decode_or_skip(object).map(F::from) else {
                return Vec::new();
            };
            let affected_rollouts = affected(&cached);
            cache.apply(cached);
            affected_rollouts
        }
        Event::Delete(object) => {
            let Some(cached) = decode_or_skip(object).map(F::from) else {
                return Vec::new();
            };
            cache.remove(&cached.identity().key);
            affected(&cached)
        }
    }
}

async fn watch_rollouts(
    watches: Watches,
    mut store: reflector::store::Writer<RolloutObject>,
    on_deleted: impl Fn(&str) + Send + 'static,
) {
    let mut known: HashMap<Key, String> = HashMap::new();
    let mut listed = None;
    let mut synced = false;
    let apis = watches.apis::<RolloutObject>();
    let mut events = watches.watch("rollouts", apis, &watcher_config());
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(NamespaceEvent::Watch(event)) => event,
            Ok(NamespaceEvent::Relisted { namespace, names }) => {
                let is_gone = |key: &Key| key.namespace == namespace && !names.contains(&key.name);
                let gone: Vec<Key> = known.keys().filter(|key| is_gone(key)).cloned().collect();
                for key in gone {
                    if let Some(rollout) = watches.cluster.rollouts.get(&key.as_rollout()) {
                        store.apply_watcher_event(&Event::Delete((*rollout).clone()));
                    }
                    let affected_rollouts = watches.cluster.forget(&key);
                    if let Some(uid) = known.remove(&key) {
                        on_deleted(&uid);
                    }
                    watches.trigger(&affected_rollouts);
                }
                continue;
            }
            Err(problem) => {
                log_interruption("rollouts", &problem);
                continue;
            }
        };
        let mut affected_rollouts = Vec::new();
        // Claims are recorded before a Rollout is known, and end after it is gone, so that nobody
        // else takes its Services in between.
        if let Event::InitApply(rollout) | Event::Apply(rollout) = &event {
            affected_rollouts.extend(watches.cluster.record_spec(rollout));
        }
        store.apply_watcher_event(&event);
        match &event {
            Event::Init => listed = Some(HashMap::new()),
            Event::InitApply(rollout) => {
                let seen = listed.get_or_insert_default();
                seen.insert(rollout.key(), rollout.uid().to_owned());
                if synced {
                    affected_rollouts.push(rollout.key());
                }
            }
            Event::InitDone => {
                synced = true;
                watches.cluster.rollouts_listed.send_replace(true);
                let before = std::mem::replace(&mut known, listed.take().unwrap_or_default());
                for (key, uid) in before {
                    match known.get(&key) {
                        Some(now) if *now == uid => {}
                        // Its claims were replaced by those of the new Rollout with this name.
                        Some(_) => on_deleted(&uid),
                        None => {
                            affected_rollouts.extend(watches.cluster.forget(&key));
                            on_deleted(&uid);
                        }
                    }
                }
            }
            Event::Apply(rollout) => {
                let before = known.insert(rollout.key(), rollout.uid().to_owned());
                // A list of one namespace can find another Rollout with the name of a deleted one.
                if let Some(before) = before.filter(|before| before != rollout.uid()) {
                    on_deleted(&before);
                }
                affected_rollouts.push(rollout.key());
            }
            Event::Delete(rollout) => {
                known.remove(&rollout.key());
                affected_rollouts.extend(watches.cluster.forget(&rollout.key()));
                on_deleted(rollout.uid());
            }
        }
        watches.trigger(&affected_rollouts);
    }
}

fn watcher_config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

fn decode_or_skip<K: Resource>(CheckedObject(object): CheckedObject<K>) -> Option<K> {
    object
        .map_err(|invalid| {
            let (namespace, name) =
                (invalid.metadata.namespace.unwrap_or_default(), invalid.metadata.name.unwrap_or_default());
            tracing::warn!(%namespace, %name, error = %invalid.error, "skipping object that failed to decode");
        })
        .ok()
}

fn log_interruption(kind: &str, problem: &watcher::Error) {
    tracing::warn!(kind, error = %problem, "watch interrupted; retrying");
}
