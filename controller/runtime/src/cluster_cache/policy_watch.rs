//! The watches of policies, and what a change of one sets off.
//!
//! One edit can concern every Rollout. They are reconciled one after the other, in the lowest lane
//! and at a limited rate, so that an edit neither delays releases nor floods the API server.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serin_crds::api_status;
use serin_policy::Labels;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::checked_object::CheckedObject;
use super::object_cache::ObjectCache;
use super::objects::CachedObject;
use super::optional_kinds::{Availability, KindState};
use super::policy_objects::{
    AnalysisTemplateObject, CachedPolicy, CachedTemplate, RolloutPolicyObject,
};
use super::watch_backoff::WatchBackoff;
use super::{ClusterCache, Key, Watches};
use crate::dispatcher::Dispatcher;
use crate::queue::Lane;

/// Time in which changes are collected before Rollouts are reconciled because of them.
const COLLECT: Duration = Duration::from_secs(1);
/// Interval at which Rollouts are reconciled because of changes.
const INTERVAL: Duration = Duration::from_millis(100);
/// Number of Rollouts per interval: 1,000 Rollouts take 20 s.
const PER_INTERVAL: usize = 5;
/// Duration of one watch request, in seconds.
const WATCH_SECONDS: u32 = 60;

impl Watches {
    /// Starts the watches of RolloutPolicies, AnalysisTemplates and, once a policy selects
    /// namespaces, of their labels.
    pub(super) fn spawn_policies(&self, tasks: &mut JoinSet<()>) {
        let client = self.client.clone();
        tasks.spawn(
            self.clone()
                .watch_optional_kind::<RolloutPolicyObject, CachedPolicy>(
                    |cluster| &cluster.policies.policy_kind,
                    move |_| vec![(None, Api::all(client.clone()))],
                    |cluster| &cluster.policies.policies,
                    |cluster, cached| {
                        cluster.policies.record_policy(cached);
                        Vec::new()
                    },
                ),
        );
        let templates = self.clone();
        tasks.spawn(
            self.clone()
                .watch_optional_kind::<AnalysisTemplateObject, CachedTemplate>(
                    |cluster| &cluster.policies.template_kind,
                    move |_| templates.apis::<CheckedObject<AnalysisTemplateObject>>(),
                    |cluster| &cluster.policies.templates,
                    |cluster, cached| {
                        cluster.policies.record_template(cached);
                        Vec::new()
                    },
                ),
        );
        let (cluster, dispatcher) = (Arc::clone(&self.cluster), Arc::clone(&self.dispatcher));
        tasks.spawn(spread_changes(cluster, dispatcher));
        tasks.spawn(watch_namespace_labels(
            self.client.clone(),
            Arc::clone(&self.cluster),
        ));
    }

    /// Records that the objects of a kind may not be listed. What was listed before stays.
    pub(super) fn mark_forbidden<F: CachedObject>(
        &self,
        state: &KindState,
        cache: &ObjectCache<F>,
    ) {
        if cache.is_synced() {
            return;
        }
        state.set(Availability::Forbidden);
        cache.clear();
        tracing::warn!(
            kind = state.kind().plural(),
            "no permission to list; Rollouts that need it start no release"
        );
        self.cluster
            .policies
            .changes
            .record(|changes| changes.all = true);
    }
}

/// Reconciles the Rollouts that a change concerns. Never returns.
async fn spread_changes(cluster: Arc<ClusterCache>, dispatcher: Arc<Dispatcher>) {
    let mut version = cluster.policies.changes.subscribe();
    let mut waiting: BTreeSet<Key> = BTreeSet::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if waiting.is_empty() {
            if version.changed().await.is_err() {
                // The sender is a field of the cache, which this task keeps.
                return std::future::pending().await;
            }
            sleep(COLLECT).await;
        }
        let changes = cluster.policies.changes.take();
        if !changes.is_empty() {
            waiting.extend(changes.rollouts(&cluster));
        }
        ticks.tick().await;
        for _ in 0..PER_INTERVAL {
            let Some(rollout) = waiting.pop_first() else {
                break;
            };
            dispatcher.enqueue(&rollout, Lane::Idle);
        }
    }
}

/// Keeps the labels of the namespaces current, once a policy selects namespaces. Never returns.
async fn watch_namespace_labels(client: Client, cluster: Arc<ClusterCache>) {
    cluster.policies.wait_until_namespaces_are_needed().await;
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut events = pin!(watcher(api, config).backoff(WatchBackoff::default()));
    let mut listing: HashMap<String, Arc<Labels>> = HashMap::new();
    let policies = &cluster.policies;
    let labels_of = |namespace: &PartialObjectMeta<Namespace>| {
        let labels = namespace.metadata.labels.clone();
        labels.unwrap_or_default()
    };
    let record = |namespace: String| {
        policies.changes.record(|changes| {
            changes.namespaces.insert(namespace);
        });
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(namespace)) => {
                listing.insert(namespace.name_any(), Arc::new(labels_of(&namespace)));
            }
            Ok(Event::InitDone) => {
                if policies.namespaces.replace(std::mem::take(&mut listing)) {
                    policies.changes.record(|changes| changes.all = true);
                }
            }
            Ok(Event::Apply(namespace)) => {
                let labels = labels_of(&namespace);
                if policies.namespaces.set(&namespace.name_any(), Some(labels)) {
                    record(namespace.name_any());
                }
            }
            Ok(Event::Delete(namespace)) => {
                policies.namespaces.set(&namespace.name_any(), None);
            }
            Err(error) => {
                if let watcher::Error::InitialListFailed(kube::Error::Api(status)) = &error
                    && api_status::is_forbidden(status)
                    && policies.namespaces.forbid()
                {
                    policies.changes.record(|changes| changes.all = true);
                }
                tracing::warn!(kind = "namespaces", %error, "watch interrupted; retrying");
            }
        }
    }
}
