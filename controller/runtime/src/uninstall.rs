//! `serin-controller release-finalizers`: cleans up after the controller was deleted while Rollouts
//! remain.
//!
//! A Rollout that has changed a route or a user's Service has a finalizer. Without a controller,
//! nothing would remove it, and neither the Rollout nor its namespace could be deleted. This
//! command restores what was changed, as a deletion does, and removes the finalizer. The Rollouts
//! and their pods are kept.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use serin_core::state::Stage;
use serin_crds::api_status;
use serin_crds::names::ROLLOUT_LABEL;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::cluster_cache::{
    Availability, CachedRoute, CachedService, CheckedObject, ClusterCache, Discovery, Key,
    RolloutObject, RouteCache,
};
use crate::election::{Candidate, Election, Leadership};
use crate::reconcile::{ResourceRestorer, release_finalizer};
use crate::scope::Scope;
use crate::telemetry::Metrics;

/// Maximum time to wait for a running controller to release its Lease.
const CONTROLLER_STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of Rollouts per list request.
const PAGE_SIZE: u32 = 200;

/// Errors that prevent the release of all finalizers.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// A controller is running and would add the finalizers again.
    #[error(
        "a controller still holds the Lease after {} s: delete its Deployment, then run this \
         command again",
        CONTROLLER_STOP_TIMEOUT.as_secs()
    )]
    ControllerRuns,
    /// The Rollouts could not be listed.
    #[error("listing the Rollouts: {0}")]
    List(kube::Error),
    /// The selected namespaces could not be listed.
    #[error("listing the namespaces: {0}")]
    ListNamespaces(kube::Error),
    /// The Rollouts of some namespaces could not be listed.
    #[error("the Rollouts of {0} namespaces could not be listed; see the log for the reasons")]
    Namespaces(usize),
    /// Some finalizers could not be removed.
    #[error(
        "{failed} of {all} Rollouts still have the finalizer; see the log for the reasons. Run \
         this command again, or remove the finalizer manually"
    )]
    Incomplete {
        /// Number of failures.
        failed: usize,
        /// Number of Rollouts with a finalizer.
        all: usize,
    },
}

/// Releases the finalizers of all Rollouts in the scope, once no controller holds the Lease. Returns the number of released Rollouts.
///
/// # Errors
/// A controller is still running, or requests to the API server fail.
pub async fn release_finalizers(
    client: &Client,
    scope: &Scope,
    candidate: Option<Candidate>,
    clock: &Clock,
) -> Result<usize, UninstallError> {
    let metrics = Arc::new(Metrics::new());
    let election =
        candidate.map(|candidate| Election::start(client.clone(), candidate, Arc::clone(&metrics)));
    let leadership = election
        .as_ref()
        .map_or_else(Leadership::without_election, Election::leadership);
    let mut changes = leadership.changes();
    // The borrowed value locks the channel and must be dropped before the election can proceed.
    let leads = timeout(CONTROLLER_STOP_TIMEOUT, changes.wait_for(|leads| *leads))
        .await
        .is_ok_and(|leads| leads.is_ok());
    let result = if leads {
        release_scope(client, scope, &leadership, &metrics, clock).await
    } else {
        Err(UninstallError::ControllerRuns)
    };
    if let Some(election) = election {
        election.release().await;
    }
    result
}

async fn release_scope(
    client: &Client,
    scope: &Scope,
    leadership: &Leadership,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<usize, UninstallError> {
    let namespaces = scope.current_namespaces(client).await;
    let Some(namespaces) = namespaces.map_err(UninstallError::ListNamespaces)? else {
        let count = release_all(client, None, leadership, metrics, clock).await?;
        return count.into_result();
    };
    let mut sum = ReleaseCount::default();
    for namespace in namespaces {
        match release_all(client, Some(&namespace), leadership, metrics, clock).await {
            Ok(count) => sum += count,
            // The namespace and its Role were deleted. The others are released nevertheless.
            Err(error) => {
                tracing::error!(%namespace, %error, "failed to list the Rollouts");
                sum.failed_namespaces += 1;
            }
        }
    }
    sum.into_result()
}

/// Numbers of Rollouts with a finalizer.
#[derive(Clone, Copy, Debug, Default)]
struct ReleaseCount {
    all: usize,
    failed: usize,
    failed_namespaces: usize,
}

impl ReleaseCount {
    const fn into_result(self) -> Result<usize, UninstallError> {
        let Self {
            all,
            failed,
            failed_namespaces,
        } = self;
        if failed > 0 {
            return Err(UninstallError::Incomplete { failed, all });
        }
        if failed_namespaces > 0 {
            return Err(UninstallError::Namespaces(failed_namespaces));
        }
        Ok(all)
    }
}

impl std::ops::AddAssign for ReleaseCount {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.failed += other.failed;
        self.failed_namespaces += other.failed_namespaces;
    }
}

async fn release_all(
    client: &Client,
    namespace: Option<&str>,
    leadership: &Leadership,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<ReleaseCount, UninstallError> {
    let mut count = ReleaseCount::default();
    let mut params = ListParams::default().limit(PAGE_SIZE);
    let api: Api<CheckedObject<RolloutObject>> = namespace.map_or_else(
        || Api::all(client.clone()),
        |namespace| Api::namespaced(client.clone(), namespace),
    );
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            // Without the CustomResourceDefinition, there are no Rollouts.
            Err(kube::Error::Api(status)) if api_status::is_missing_kind(&status) => {
                return Ok(count);
            }
            Err(error) => return Err(UninstallError::List(error)),
        };
        for CheckedObject(rollout) in page.items {
            let Ok(rollout) = rollout else { continue };
            let key = rollout.key();
            match release(client, &rollout, leadership, metrics, clock).await {
                Ok(false) => {}
                Ok(true) => {
                    count.all += 1;
                    tracing::info!(rollout = %key, "restored routes and Services and removed the \
                        finalizer");
                }
                Err(problem) => {
                    count.all += 1;
                    count.failed += 1;
                    tracing::error!(rollout = %key, %problem, "failed to remove the finalizer");
                }
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(count),
        }
    }
}

/// Releases one Rollout. Returns false if it has no finalizer.
async fn release(
    client: &Client,
    rollout: &RolloutObject,
    leadership: &Leadership,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<bool, String> {
    let cache = load_cache(client, rollout)
        .await
        .map_err(|error| error.to_string())?;
    // During a release, a Service that selects pods of all revisions would send requests to the
    // canary.
    let state = &rollout.status.state;
    let is_releasing = state.is_releasing() || state.stage == Stage::Aborted;
    let keeps_selectors = is_releasing && rollout.metadata.deletion_timestamp.is_none();
    let restorer = ResourceRestorer {
        client,
        cache: &cache,
        ownership: leadership,
        metrics,
        now: clock.now(),
        keeps_selectors,
    };
    release_finalizer(&restorer, rollout).await
}

/// Reads the objects that the Rollout may have changed.
async fn load_cache(client: &Client, rollout: &RolloutObject) -> kube::Result<Arc<ClusterCache>> {
    let (cache, _) = ClusterCache::new();
    let Key { namespace, name } = rollout.key();
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    for service in services
        .list(&ListParams::default().labels(&format!("{ROLLOUT_LABEL}={name}")))
        .await?
        .items
    {
        cache.services.put(CachedService::from(service));
    }
    for original in rollout.status.original_routes.clone() {
        if let Some(routes) = cache.routes.of_name(&original.kind) {
            load_route(client, routes, &Key::new(&namespace, &original.name)).await?;
        }
    }
    Ok(cache)
}

/// Reads one route. Without its kind, there is nothing to restore.
async fn load_route(client: &Client, routes: &RouteCache, route: &Key) -> kube::Result<()> {
    if routes.state.availability() == Availability::Unknown {
        match routes.state.kind().discover(client).await {
            Discovery::Served(version) => drop(routes.state.set(Availability::Served(version))),
            Discovery::Absent => drop(routes.state.set(Availability::Absent)),
            Discovery::Forbidden | Discovery::Failed(_) => {}
        }
    }
    let Ok(resource) = routes.state.resource() else {
        return Ok(());
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &route.namespace, &resource);
    match api.get_opt(&route.name).await {
        Ok(Some(found)) => drop(routes.objects.put(CachedRoute::from(found))),
        Ok(None) => {}
        // The kind was removed after discovery.
        Err(kube::Error::Api(status)) if api_status::is_missing_kind(&status) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
