//! Executes effects. Each effect is idempotent, has its own timeout, and does not stop the others.

pub mod command;
mod corrections;
mod original_routes;
mod pod;
mod ports;
mod replica_set;
mod route;
mod service;
mod service_shape;
mod side_metadata;
mod workload;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DynamicObject, PatchParams, PostParams};
use kube::{Client, Resource};
use serin_core::effect::Effect;
use serin_core::plan::Plan;
use serin_crds::names::FIELD_MANAGER;
use serin_crds::{RolloutSpec, RolloutStatus, api_status};

use crate::cluster_cache::{ClusterCache, Key, RolloutObject};
use crate::observe::Snapshot;
use crate::ownership::Ownership;
use crate::telemetry::Metrics;
use crate::timed_write::{WriteAbandoned, timed_write};

pub use corrections::Corrections;
pub use original_routes::{needs_restore, original_routes};
pub use route::{restore_all_routes, restore_orphaned_routes, route_label};
pub use service::{release_all_services, release_orphaned_services};

/// Maximum time for one effect.
const TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP codes of requests that an admission policy, a webhook or RBAC refuses.
const REFUSALS: [u16; 4] = [400, 403, 405, 422];

/// Why an effect failed.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The object has changed since it was observed. The next reconcile retries.
    #[error("{0} was changed concurrently")]
    Conflict(String),
    /// Another controller may already be acting.
    #[error("this controller no longer holds the Lease")]
    NotLeader,
    /// The API server did not respond in time.
    #[error("the API server did not respond within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The effect is not possible in the current state.
    #[error("{0}")]
    Impossible(String),
    /// The cluster does not serve the kind of the object.
    #[error("{0}")]
    KindAbsent(String),
    /// Somebody else keeps changing the object, so it is put back later.
    #[error("{what} is changed again and again by another client; retrying in {} s", wait.as_secs())]
    Contested {
        /// The object.
        what: String,
        /// When to try again.
        wait: Duration,
    },
    /// The API server refused the request.
    #[error("{what}: {message}")]
    Refused {
        /// The object of the request.
        what: String,
        /// The message of the API server.
        message: String,
        /// Whether the request itself is refused, for example by a policy. Otherwise the API server
        /// could not handle it.
        by_policy: bool,
    },
    /// The request failed without a response from the API server.
    #[error("{what}: {error}")]
    Unreachable {
        /// The object of the request.
        what: String,
        /// The client error.
        error: kube::Error,
    },
}

impl EffectError {
    /// Whether a new reconcile is sufficient to resolve the error.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the API server refused the request itself, for example by a policy.
    pub const fn is_refused_by_policy(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                by_policy: true,
                ..
            }
        )
    }

    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        |error| match &error {
            kube::Error::Api(status) if api_status::is_conflict(status) => Self::Conflict(what),
            kube::Error::Api(status) => Self::Refused {
                what,
                message: api_status::message(status),
                by_policy: REFUSALS.contains(&status.code),
            },
            _ => Self::Unreachable { what, error },
        }
    }
}

impl From<WriteAbandoned> for EffectError {
    fn from(abandoned: WriteAbandoned) -> Self {
        match abandoned {
            WriteAbandoned::Timeout => Self::Timeout,
            WriteAbandoned::OwnershipEnds => Self::NotLeader,
        }
    }
}

/// Executes the effects of one decision.
#[derive(Clone, Copy)]
pub struct EffectExecutor<'a> {
    pub client: &'a Client,
    /// The cached objects, updated with the responses.
    pub cache: &'a ClusterCache,
    /// Which Rollouts this process may act on.
    pub ownership: &'a dyn Ownership,
    /// Counts the writes.
    pub metrics: &'a Metrics,
    /// The Rollout that the effects belong to.
    pub rollout: &'a RolloutObject,
    /// The spec. `None` if it cannot be decoded.
    pub spec: Option<&'a RolloutSpec>,
    /// Whether the spec was checked and is in use.
    pub is_spec_valid: bool,
    /// The status that was just written.
    pub status: &'a RolloutStatus,
    /// The plan used for the decision.
    pub plan: &'a Plan,
    /// The objects used for the decision.
    pub snapshot: &'a Snapshot,
    /// Limits how often an object is put back.
    pub corrections: &'a Corrections,
    /// The current time.
    pub now: Timestamp,
}

impl EffectExecutor<'_> {
    /// Executes one effect.
    ///
    /// # Errors
    /// Why the effect failed. The next decision contains it again.
    pub async fn execute(&self, effect: &Effect) -> Result<(), EffectError> {
        let work = async {
            match effect {
                Effect::SetWeight {
                    route,
                    canary,
                    managed_routes,
                } => self.set_weight(route, *canary, managed_routes).await,
                Effect::BindService {
                    side,
                    name,
                    revision,
                } => self.bind_service(*side, name, revision).await,
                Effect::CreateReplicaSet { revision, replicas } => {
                    self.create_replica_set(revision, *replicas).await
                }
                Effect::Scale {
                    revision,
                    name,
                    replicas,
                } => self.scale(revision, name, *replicas).await,
                Effect::DeleteReplicaSet { revision, name } => {
                    self.delete_replica_set(revision, name).await
                }
                Effect::EvictPod { name, .. } => self.evict_pod(name).await,
                Effect::PauseDeployment { name } => self.pause_deployment(name).await,
                Effect::TakeReplicaSet { revision, name } => {
                    self.take_replica_set(revision, name).await
                }
                Effect::LabelPods { revision, name } => self.label_pods(revision, name).await,
                Effect::CreateDeployment { name, revision } => {
                    self.create_deployment(name, revision).await
                }
                Effect::RestoreObjects => self.restore_objects().await,
                Effect::ReturnReplicaSet {
                    name, deployment, ..
                } => self.return_replica_set(name, deployment).await,
                Effect::ResumeDeployment { name } => self.resume_deployment(name).await,
                Effect::ScaleDeployment { name, replicas } => {
                    self.scale_deployment(name, *replicas).await
                }
                Effect::FinishCommand { name, uid, outcome } => {
                    self.finish_command(name, uid, outcome).await
                }
            }
        };
        self.within_time(Box::pin(work)).await
    }

    /// Waits for the requests of one effect, and gives them up before another controller may act.
    async fn within_time<T>(
        &self,
        work: impl Future<Output = Result<T, EffectError>>,
    ) -> Result<T, EffectError> {
        timed_write(self.ownership, &self.rollout.key(), TIMEOUT, work)
            .await
            .unwrap_or_else(|abandoned| Err(abandoned.into()))
    }

    /// Checks the ownership of the Rollout and counts the write. Call this immediately before each
    /// write.
    fn authorize_write(&self, kind: &'static str, verb: &'static str) -> Result<(), EffectError> {
        if !self.ownership.owns(&self.rollout.key()) {
            return Err(EffectError::NotLeader);
        }
        self.metrics.record_api_write(kind, verb);
        Ok(())
    }

    /// Counts a write of `desired` to an object. Call this before the write.
    fn pace(&self, what: &str, desired: &str, lowers: bool) -> Result<(), EffectError> {
        let paced = self.corrections.count_write(what, desired, lowers);
        paced.map_err(|wait| EffectError::Contested {
            what: what.to_owned(),
            wait,
        })
    }

    /// Checks that no other Rollout holds a Service of this Rollout.
    fn check_held(&self, service: &str) -> Result<(), EffectError> {
        let holder = self
            .cache
            .other_holder(&self.key(service), &self.key(self.name()));
        holder.map_or(Ok(()), |holder| {
            Err(EffectError::Impossible(format!(
                "Service {service} is held by Rollout {}",
                holder.name
            )))
        })
    }

    fn key(&self, name: &str) -> Key {
        Key::new(self.namespace(), name)
    }

    fn namespace(&self) -> &str {
        self.rollout
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.rollout.metadata.name.as_deref().unwrap_or_default()
    }

    fn spec(&self) -> Result<&RolloutSpec, EffectError> {
        self.spec
            .ok_or_else(|| EffectError::Impossible("the spec cannot be decoded".to_owned()))
    }

    /// The owner reference for created objects, so that they are deleted with the Rollout.
    fn owner(&self) -> Result<OwnerReference, EffectError> {
        let owner = self.rollout.controller_owner_ref(&());
        owner.ok_or_else(|| EffectError::Impossible("the Rollout has no UID".to_owned()))
    }
}

/// The kind of an effect, for logs and metrics.
pub const fn effect_kind(effect: &Effect) -> &'static str {
    match effect {
        Effect::SetWeight { .. } => "SetWeight",
        Effect::BindService { .. } => "BindService",
        Effect::CreateReplicaSet { .. } => "CreateReplicaSet",
        Effect::Scale { .. } => "Scale",
        Effect::DeleteReplicaSet { .. } => "DeleteReplicaSet",
        Effect::EvictPod { .. } => "EvictPod",
        Effect::PauseDeployment { .. } => "PauseDeployment",
        Effect::TakeReplicaSet { .. } => "TakeReplicaSet",
        Effect::LabelPods { .. } => "LabelPods",
        Effect::CreateDeployment { .. } => "CreateDeployment",
        Effect::RestoreObjects => "RestoreObjects",
        Effect::ReturnReplicaSet { .. } => "ReturnReplicaSet",
        Effect::ResumeDeployment { .. } => "ResumeDeployment",
        Effect::ScaleDeployment { .. } => "ScaleDeployment",
        Effect::FinishCommand { .. } => "FinishCommand",
    }
}

/// The kind and object of an effect, for messages.
pub fn effect_label(effect: &Effect) -> String {
    let object = match effect {
        Effect::SetWeight { route, .. } => &route.name,
        Effect::CreateReplicaSet { revision, .. } => return format!("CreateReplicaSet {revision}"),
        Effect::RestoreObjects => return effect_kind(effect).to_owned(),
        Effect::BindService { name, .. }
        | Effect::EvictPod { name, .. }
        | Effect::PauseDeployment { name }
        | Effect::TakeReplicaSet { name, .. }
        | Effect::LabelPods { name, .. }
        | Effect::CreateDeployment { name, .. }
        | Effect::ReturnReplicaSet { name, .. }
        | Effect::ResumeDeployment { name }
        | Effect::ScaleDeployment { name, .. }
        | Effect::Scale { name, .. }
        | Effect::DeleteReplicaSet { name, .. }
        | Effect::FinishCommand { name, .. } => name,
    };
    format!("{} {object}", effect_kind(effect))
}

fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn post_params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// The object as JSON.
fn as_json(object: &DynamicObject) -> serde_json::Value {
    serde_json::to_value(object).unwrap_or(serde_json::Value::Null)
}
