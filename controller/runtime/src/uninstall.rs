//! `serin-controller release-finalizers`: what is left to do when the controller goes and Rollouts
//! stay.
//!
//! A Rollout that has changed a route or a user's Service holds a finalizer. Without a controller
//! nobody would remove it, and neither the Rollout nor its namespace could be deleted. This gives
//! back what was changed, as a deletion does, and removes the finalizer. The Rollouts and their
//! pods stay.

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
use crate::election::{Candidate, Election, Leadership};
use crate::reconcile::{GiveBack, release_finalizer};
use crate::telemetry::Metrics;
use crate::world::{Availability, Discovery, Key, RolloutObject, RouteFact, ServiceFact, World};

/// How long a controller that is still running may take to stop and give its Lease back.
const CONTROLLER_STOPS_WITHIN: Duration = Duration::from_secs(60);
/// How many Rollouts are read at once.
const PAGE: u32 = 200;

/// Why not all finalizers could be released.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// A controller is at work and would add them again.
    #[error(
        "a controller still holds the Lease after {} s: delete its Deployment first, then run this again",
        CONTROLLER_STOPS_WITHIN.as_secs()
    )]
    ControllerRuns,
    /// The Rollouts could not be read.
    #[error("listing the Rollouts: {0}")]
    List(kube::Error),
    /// Some could not be released.
    #[error(
        "{failed} of {all} Rollouts still hold the finalizer; the log says why. Run this again, or remove it by hand"
    )]
    Incomplete {
        /// How many failed.
        failed: usize,
        /// How many there were.
        all: usize,
    },
}

/// Releases the finalizers of all Rollouts, or of those of one namespace, once no controller leads.
/// Returns how many.
///
/// # Errors
/// A controller is still running, or the API server refuses.
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
        .map_or_else(Leadership::always, Election::leadership);
    let mut changes = leadership.changes();
    // What is waited for is a lock on the channel, which must be gone before the election goes on.
    let leads = timeout(CONTROLLER_STOPS_WITHIN, changes.wait_for(|leads| *leads))
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
    let mut params = ListParams::default().limit(PAGE);
    let api: Api<DeserializeGuard<RolloutObject>> = namespace.map_or_else(
        || Api::all(client.clone()),
        |namespace| Api::namespaced(client.clone(), namespace),
    );
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            // Without the CustomResourceDefinition there are no Rollouts.
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
                    tracing::info!(rollout = %key, "gave back its routes and Services, and removed the finalizer");
                }
                Err(problem) => {
                    all += 1;
                    failed += 1;
                    tracing::error!(rollout = %key, %problem, "the finalizer could not be removed");
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

/// Releases one Rollout; false if it holds no finalizer.
async fn release(
    client: &Client,
    rollout: &RolloutObject,
    leadership: &Leadership,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<bool, String> {
    let world = read(client, rollout)
        .await
        .map_err(|error| error.to_string())?;
    // In the middle of a release a Service that selects pods of any revision would send requests to
    // the canary.
    let is_releasing = rollout.status.as_ref().is_ok_and(|status| {
        status.state().is_ok_and(|state| {
            matches!(
                state.stage,
                Stage::Progressing | Stage::Promoting | Stage::Aborted
            )
        })
    });
    let keeps_selectors = is_releasing && rollout.metadata.deletion_timestamp.is_none();
    let give_back = GiveBack {
        client,
        world: &world,
        leadership,
        metrics,
        now: clock.now(),
        keeps_selectors,
    };
    release_finalizer(&give_back, rollout).await
}

/// What a Rollout may have changed.
async fn read(client: &Client, rollout: &RolloutObject) -> kube::Result<Arc<World>> {
    let (world, _) = World::new();
    let Key { namespace, name } = rollout.key();
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    for service in services
        .list(&ListParams::default().labels(&format!("{ROLLOUT_LABEL}={name}")))
        .await?
        .items
    {
        world.services.put(ServiceFact::from(service));
    }
    match world.route_kind.kind().discover(client).await {
        Discovery::Served(version) => drop(world.route_kind.set(Availability::Served(version))),
        Discovery::Absent => drop(world.route_kind.set(Availability::Absent)),
        Discovery::Forbidden | Discovery::Failed(_) => {}
    }
    // Without the kind there are no routes to give back.
    let Ok(resource) = world.route_kind.resource() else {
        return Ok(world);
    };
    let routes: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let originals = rollout
        .status
        .as_ref()
        .map(|status| status.original_routes.clone())
        .unwrap_or_default();
    for original in originals {
        match routes.get_opt(&original.name).await {
            Ok(Some(route)) => drop(world.routes.put(RouteFact::from(route))),
            Ok(None) => {}
            // The kind has just gone.
            Err(kube::Error::Api(status)) if api_status::is_missing_kind(&status) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(world)
}
