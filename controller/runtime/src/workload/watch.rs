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
use tokio::time::Instant;

use super::template_version;
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
    /// What was reported last of a Deployment.
    reports: HashMap<Key, DeploymentReport>,
}

/// What the watch has reported of a Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentReport {
    /// Its resourceVersion. Empty if it was deleted.
    pub resource_version: String,
    /// Identifies its template.
    pub template_version: String,
    /// When this template was reported first.
    pub seen_at: Instant,
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
                index.reports.remove(&before);
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

    /// What was reported last of a Deployment. `None` if nothing was since a Rollout has named it.
    pub fn last_report(&self, deployment: &Key) -> Option<DeploymentReport> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.reports.get(deployment).cloned()
    }

    /// Records a report. Returns the Rollouts that name the Deployment.
    fn record_report(&self, deployment: &Key, mut report: DeploymentReport) -> Vec<Key> {
        let rollouts = self.rollouts_of(deployment);
        if !rollouts.is_empty() {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            let before = index.reports.get(deployment);
            if let Some(before) = before
                && before.template_version == report.template_version
            {
                report.seen_at = before.seen_at;
            }
            index.reports.insert(deployment.clone(), report);
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
    let metadata = &object.metadata;
    let resource_version = metadata.resource_version.clone().filter(|_| exists);
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let report = DeploymentReport {
        resource_version: resource_version.unwrap_or_default(),
        template_version: template_version(uid, metadata.generation.unwrap_or_default()),
        seen_at: Instant::now(),
    };
    let rollouts = cache.adopters.record_report(&key, report);
    for rollout in rollouts {
        let lane = cache.lane(&rollout);
        dispatcher.enqueue(&rollout, lane);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_template_was_seen_when_it_was_reported_first() {
        let adopters = Adopters::default();
        let deployment = Key::new("shop", "checkout");
        let report = |resource_version: &str, generation| DeploymentReport {
            resource_version: resource_version.to_owned(),
            template_version: template_version("uid", generation),
            seen_at: Instant::now(),
        };
        adopters.record_report(&deployment, report("1", 1));
        assert_eq!(adopters.last_report(&deployment), None, "nobody names it");
        adopters.record(deployment.clone(), Some(deployment.clone()));
        let first = Instant::now();
        for (version, generation, seen_at) in [("2", 1, 0), ("3", 1, 0), ("4", 2, 2), ("5", 2, 2)] {
            adopters.record_report(&deployment, report(version, generation));
            let last = adopters.last_report(&deployment).unwrap();
            assert_eq!(last.resource_version, version);
            assert_eq!(last.seen_at, first + Duration::from_secs(seen_at));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
}
