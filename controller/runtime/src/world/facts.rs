//! The little that is kept of each object: fleets have many pods, and the planner needs only a few
//! of their fields.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::Value;
use serin_core::command::Command;
use serin_core::units::Revision;

use super::Key;
use super::convert::CRASH_LOOP;

/// What tells one object, and one state of it, from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Namespace and name.
    pub key: Key,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

impl Identity {
    /// The resourceVersion as a number: they are comparable within one kind. 0 where a server
    /// writes something else, so that such an object is always taken.
    pub fn version(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

/// Something known about one object.
pub trait Fact: Send + Sync + 'static {
    /// Which object, in which state.
    fn identity(&self) -> &Identity;
    /// The name of the Rollout in the same namespace that it belongs to.
    fn rollout(&self) -> Option<&str>;
}

/// A ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSetFact {
    /// Which object.
    pub identity: Identity,
    /// By its label.
    pub rollout: String,
    /// By its label.
    pub revision: Option<Revision>,
    /// The UID of its controller.
    pub owner_uid: Option<String>,
    /// The hash of the template as the user wrote it.
    pub template_hash: Option<String>,
    /// `spec.replicas`.
    pub desired: u32,
    /// `status.replicas`.
    pub replicas: u32,
    /// `status.availableReplicas`.
    pub available: u32,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// The ports that its template declares.
    pub ports: Vec<ContainerPortFact>,
    /// Its controller, if any.
    pub owner: Option<OwnerFact>,
    /// It has a deletion timestamp.
    pub terminating: bool,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
}

/// The controller of an object: its owner reference with `controller: true`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerFact {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `name`.
    pub name: String,
}

/// A port that a container of a template declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerPortFact {
    /// Its name, if any.
    pub name: Option<String>,
    /// `containerPort`.
    pub number: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Whether a Service can reach it by its name: the first port of this name and protocol in the
    /// pod.
    pub by_name: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFact {
    /// Which object.
    pub identity: Identity,
    /// By its label.
    pub rollout: String,
    /// By its label.
    pub revision: Option<Revision>,
    /// The UID of its ReplicaSet.
    pub owner_uid: Option<String>,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
    /// It is neither terminating nor finished.
    pub active: bool,
    /// Its Ready condition.
    pub ready: bool,
    /// The containers that have restarted.
    pub restarts: Vec<Restarts>,
    /// Why a container of it waits, in the kubelet's words; a crash loop before anything else.
    pub waiting: Option<String>,
}

/// The restarts of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// How many, over the pod's life. One that the node was the cause of does not count.
    pub count: u32,
    /// When the last one was.
    pub last_at: Option<Timestamp>,
}

/// How much earlier than the release, by the API server's clock and in whole seconds, a pod of it
/// may seem to be created.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

impl PodFact {
    /// Whether it was created for the release that began at `start`.
    pub fn is_new_since(&self, start: Timestamp) -> bool {
        self.created_at
            .saturating_add(CLOCK_SKEW)
            .is_ok_and(|created| created >= start)
    }

    /// Container restarts since `start`. Of a pod that is older only the last restart of each
    /// container is known by its time, so that the answer is then the lowest number that is
    /// certain.
    pub fn restarts_since(&self, start: Timestamp) -> u32 {
        if self.is_new_since(start) {
            return self.restarts.iter().map(|container| container.count).sum();
        }
        let restarted = |container: &&Restarts| container.last_at.is_some_and(|at| at >= start);
        u32::try_from(self.restarts.iter().filter(restarted).count()).unwrap_or(u32::MAX)
    }

    /// Why a container of it waits; a crash loop only if it has failed since `start`.
    pub fn waiting_since(&self, start: Option<Timestamp>) -> Option<&str> {
        let has_failed = |start| self.is_new_since(start) || self.restarts_since(start) > 0;
        self.waiting
            .as_deref()
            .filter(|reason| *reason != CRASH_LOOP || start.is_none_or(has_failed))
    }
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFact {
    /// Which object.
    pub identity: Identity,
    /// By its label; a user's Service has none before it is first bound.
    pub rollout: Option<String>,
    /// The UID of its controller; a user's Service has none.
    pub owner_uid: Option<String>,
    /// The revision in its selector.
    pub selects: Option<Revision>,
    /// Its spec: the canary Service is a copy of the stable one, and both follow their revision's
    /// ports.
    pub spec: ServiceSpec,
    /// Its annotations that describe how requests are sent to its endpoints.
    pub annotations: BTreeMap<String, String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceFact {
    /// Which object.
    pub identity: Identity,
    /// By the label that it inherits from its Service.
    pub rollout: String,
    /// Its Service.
    pub service: Option<String>,
    /// Its ready endpoints.
    pub ready: Vec<EndpointFact>,
}

/// A ready endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointFact {
    /// The pod's name; none where it is no pod.
    pub pod: Option<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFact {
    /// Which object.
    pub identity: Identity,
    /// `metadata.generation`.
    pub generation: i64,
    /// The whole object but its managedFields.
    pub object: Value,
    /// The Services behind it, as [`serin_metrics_analysis::routes::backend_names`] reads them.
    pub backends: Vec<String>,
}

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandFact {
    /// Which object.
    pub identity: Identity,
    /// The Rollout that it is about.
    pub rollout: String,
    /// What is asked for.
    pub command: Command,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
    /// When it ended; none while it waits.
    pub finished_at: Option<Timestamp>,
}

macro_rules! labelled {
    ($($fact:ty),*) => {$(
        impl Fact for $fact {
            fn identity(&self) -> &Identity {
                &self.identity
            }

            fn rollout(&self) -> Option<&str> {
                Some(&self.rollout)
            }
        }
    )*};
}

labelled!(ReplicaSetFact, PodFact, SliceFact, CommandFact);

impl Fact for ServiceFact {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn rollout(&self) -> Option<&str> {
        self.rollout.as_deref()
    }
}

impl Fact for RouteFact {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn rollout(&self) -> Option<&str> {
        None
    }
}
