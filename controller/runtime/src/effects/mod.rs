//! Makes the planner's desired states true, each idempotently, under its own timeout, and without
//! stopping the others.

pub mod command;
mod ports;
mod replica_set;
mod route;
mod service;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DynamicObject, PatchParams, PostParams};
use kube::{Client, Resource};
use serin_core::effect::Effect;
use serin_core::plan::Plan;
use serin_crds::names::FIELD_MANAGER;
use serin_crds::{RolloutSpec, RolloutStatus, api_status};
use tokio::time::timeout;

use crate::election::Leadership;
use crate::observe::Snapshot;
use crate::telemetry::Metrics;
use crate::world::{Key, RolloutObject, World};

pub use route::{is_changed, originals, restore_all, restore_left};
pub use service::{release_all as release_services, release_left as release_left_services};

/// How long one effect may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why an effect could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The object has changed since it was looked at: look again.
    #[error("{0} has changed meanwhile")]
    Conflict(String),
    /// Another controller may be acting by now.
    #[error("this controller does not hold the lease any more")]
    NotLeader,
    /// The API server did not answer in time.
    #[error("the API server did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// What is wanted is not possible as things stand.
    #[error("{0}")]
    Impossible(String),
    /// The cluster does not serve the kind of object that is to be changed.
    #[error("{0}")]
    KindAbsent(String),
    /// The API server said no.
    #[error("{what}: {message}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// What it answered.
        message: String,
    },
    /// The API server could not be asked.
    #[error("{what}: {error}")]
    Unreachable {
        /// What was asked of it.
        what: String,
        /// Why not.
        error: kube::Error,
    },
}

impl EffectError {
    /// Whether a fresh look is all that it takes.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        |error| match &error {
            kube::Error::Api(status) if api_status::is_conflict(status) => Self::Conflict(what),
            kube::Error::Api(status) => Self::Refused {
                what,
                message: api_status::message(status),
            },
            _ => Self::Unreachable { what, error },
        }
    }
}

/// What every effect needs.
#[derive(Clone, Copy)]
pub struct Hands<'a> {
    /// The API server.
    pub client: &'a Client,
    /// What is known, and where the answers go.
    pub world: &'a World,
    /// Whether this process may act.
    pub leadership: &'a Leadership,
    /// Where writes are counted.
    pub metrics: &'a Metrics,
    /// For whom.
    pub rollout: &'a RolloutObject,
    /// What the user wrote, where it can be read.
    pub spec: Option<&'a RolloutSpec>,
    /// The status that has just been written.
    pub status: &'a RolloutStatus,
    /// The plan.
    pub plan: &'a Plan,
    /// What was looked at.
    pub snapshot: &'a Snapshot,
    /// The time now.
    pub now: Timestamp,
}

impl Hands<'_> {
    /// Carries one effect out.
    ///
    /// # Errors
    /// Why it could not be; it is wanted again at the next reconcile.
    pub async fn carry_out(&self, effect: &Effect) -> Result<(), EffectError> {
        let doing = async {
            match effect {
                Effect::SetWeight { route, canary } => self.set_weight(route, *canary).await,
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
                Effect::FinishCommand { name, uid, outcome } => {
                    self.finish_command(name, uid, outcome).await
                }
            }
        };
        timeout(TIMEOUT, doing)
            .await
            .unwrap_or(Err(EffectError::Timeout))
    }

    /// To be asked immediately before each write.
    fn may_write(&self, kind: &'static str, verb: &'static str) -> Result<(), EffectError> {
        if !self.leadership.is_leader() {
            return Err(EffectError::NotLeader);
        }
        self.metrics.api_write(kind, verb);
        Ok(())
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
            .ok_or_else(|| EffectError::Impossible("the spec cannot be read".to_owned()))
    }

    /// What ties an object that we make to the Rollout, so that it goes with it.
    fn owner(&self) -> Result<OwnerReference, EffectError> {
        let owner = self.rollout.controller_owner_ref(&());
        owner.ok_or_else(|| EffectError::Impossible("the Rollout has no UID".to_owned()))
    }
}

/// A few words about an effect, for logs and metrics.
pub const fn kind_of(effect: &Effect) -> &'static str {
    match effect {
        Effect::SetWeight { .. } => "SetWeight",
        Effect::BindService { .. } => "BindService",
        Effect::CreateReplicaSet { .. } => "CreateReplicaSet",
        Effect::Scale { .. } => "Scale",
        Effect::DeleteReplicaSet { .. } => "DeleteReplicaSet",
        Effect::FinishCommand { .. } => "FinishCommand",
    }
}

/// Which effect this is, for people: its kind and its object.
pub fn name_of(effect: &Effect) -> String {
    let object = match effect {
        Effect::SetWeight { route, .. } => &route.name,
        Effect::CreateReplicaSet { revision, .. } => return format!("CreateReplicaSet {revision}"),
        Effect::BindService { name, .. }
        | Effect::Scale { name, .. }
        | Effect::DeleteReplicaSet { name, .. }
        | Effect::FinishCommand { name, .. } => name,
    };
    format!("{} {object}", kind_of(effect))
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

/// An object's data as JSON, whatever its type.
fn as_json(object: &DynamicObject) -> serde_json::Value {
    serde_json::to_value(object).unwrap_or(serde_json::Value::Null)
}
