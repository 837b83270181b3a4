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
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use serin_core::state::Stage;
use serin_crds::api_status;
use serin_crds::names::ROLLOUT_LABEL;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::cluster_cache::{
    Availability, CachedRoute, CachedService, ClusterCache, Discovery, Key, RolloutObject,
    RouteCache,
};
use crate::election::{Candidate, Election, Leadership};
use crate::reconcile::{ResourceRestorer, release_finalizer};
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

/// Releases the finalizers of all Rollouts, or of those in one namespace, once no controller holds
/// the Lease. Returns the number of released Rollouts.
///
/// # Errors
/// A controller is still running, or requests to the API server fail.
pub async fn release_finalizers(
    client: &Client,
    namespace: Option<&str>,
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
        release_all(client, namespace, &leadership, &metrics, clock).await
    } else {
        Err(UninstallError::ControllerRuns)
    };
    if let Some(election) = election {
        election.release().await;
    }
    result
}

async fn release_all(
    client: &Client,
    namespace: Option<&str>,
    leadership: &Leadership,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<usize, UninstallError> {
    let (mut all, mut failed) = (0, 0);
    let mut params = ListParams::default().limit(PAGE_SIZE);
    let api: Api<DeserializeGuard<RolloutObject>> = namespace.map_or_else(
        || Api::all(client.clone()),
        |namespace| Api::namespaced(client.clone(), namespace),
    );
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            // Without the CustomResourceDefinition, there are no Rollouts.
            Err(kube::Error::Api(status)) if api_status::is_missing_kind(&status) => {
                return Ok(all);
            }
            Err(error) => return Err(UninstallError::List(error)),
        };
        for DeserializeGuard(rollout) in page.items {
            let Ok(rollout) = rollout else { continue };
            let key = rollout.key();
            match release(client, &rollout, leadership, metrics, clock).await {
                Ok(false) => {}
                Ok(true) => {
                    all += 1;
                    tracing::info!(rollout = %key, "restored routes and Services and removed the \
                        finalizer");
                }
                Err(problem) => {
                    all += 1;
                    failed += 1;
                    tracing::error!(rollout = %key, %problem, "failed to remove the finalizer");
                }
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None if failed > 0 => return Err(UninstallError::Incomplete { failed, all }),
            None => return Ok(all),
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
