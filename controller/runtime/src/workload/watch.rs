//! A watch of the metadata of all Deployments. It reports that a Deployment has changed; the
//! Deployment itself is read only if a Rollout names it.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::cluster_cache::{ClusterCache, Key, WatchBackoff};
use crate::dispatcher::Dispatcher;

/// Maximum number of workloads that are read at the same time. An object of 1.5 MB takes up to 30 MB
/// while it is decoded.
const CONCURRENT_READS: usize = 2;

/// The Deployments that Rollouts name, with the Rollouts.
#[derive(Debug)]
pub struct Adopters {
    index: RwLock<Index>,
    reads: Semaphore,
}

impl Default for Adopters {
    fn default() -> Self {
        Self {
            index: RwLock::default(),
            reads: Semaphore::new(CONCURRENT_READS),
        }
    }
}

#[derive(Debug, Default)]
struct Index {
    deployments: HashMap<Key, BTreeSet<Key>>,
    rollouts: HashMap<Key, Key>,
    /// The last reported resourceVersion of a Deployment. Empty if it was deleted.
    versions: HashMap<Key, String>,
}

impl Adopters {
    /// Waits until another workload may be read. Keep the permit until the answers are decoded.
    pub async fn begin_read(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.reads.acquire().await.ok()
    }

    /// Records which Deployment a Rollout names.
    pub fn record(&self, rollout: Key, deployment: Option<Key>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if index.rollouts.get(&rollout) == deployment.as_ref() {
            return;
        }
        if let Some(before) = index.rollouts.remove(&rollout)
            && let Some(others) = index.deployments.get_mut(&before)
        {
            others.remove(&rollout);
            if others.is_empty() {
                index.deployments.remove(&before);
                index.versions.remove(&before);
            }
        }
        if let Some(deployment) = deployment {
            let others = index.deployments.entry(deployment.clone()).or_default();
            others.insert(rollout.clone());
            index.rollouts.insert(rollout, deployment);
        }
    }

    /// The Rollouts that name a Deployment.
    pub fn rollouts_of(&self, deployment: &Key) -> Vec<Key> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let rollouts = index.deployments.get(deployment).into_iter();
        rollouts.flatten().cloned().collect()
    }

    /// The last reported resourceVersion of a Deployment; empty if it was deleted. `None` if
    /// nothing was reported since a Rollout has named it.
    pub fn version(&self, deployment: &Key) -> Option<String> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.versions.get(deployment).cloned()
    }

    /// Records a resourceVersion. Returns the Rollouts that name the Deployment.
    fn report(&self, deployment: &Key, version: String) -> Vec<Key> {
        let rollouts = self.rollouts_of(deployment);
        if !rollouts.is_empty() {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            index.versions.insert(deployment.clone(), version);
        }
        rollouts
    }
}

/// Reconciles the Rollouts that name a Deployment when it changes. Never returns. If the
/// Deployments cannot be watched, each is read again from time to time.
pub async fn watch_deployments(
    client: Client,
    namespace: Option<String>,
    cache: Arc<ClusterCache>,
    dispatcher: Arc<Dispatcher>,
) {
    let api: Api<PartialObjectMeta<Deployment>> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let config = watcher::Config::default().timeout(60);
    let mut events = pin!(watcher(api, config).backoff(WatchBackoff::default()));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                changed(&cache, &dispatcher, &object, true);
            }
            Ok(Event::Delete(object)) => changed(&cache, &dispatcher, &object, false),
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => {
                tracing::warn!(kind = "deployments", %error, "watch interrupted; retrying");
            }
        }
    }
}

fn changed(
    cache: &ClusterCache,
    dispatcher: &Dispatcher,
    object: &PartialObjectMeta<Deployment>,
    exists: bool,
) {
    let key = Key::new(
        object.metadata.namespace.as_deref().unwrap_or_default(),
        object.name_any(),
    );
    let version = object.metadata.resource_version.clone();
    let version = version.filter(|_| exists).unwrap_or_default();
    let rollouts = cache.adopters.report(&key, version);
    for rollout in rollouts {
        let lane = cache.lane(&rollout);
        dispatcher.enqueue(&rollout, lane);
    }
}
