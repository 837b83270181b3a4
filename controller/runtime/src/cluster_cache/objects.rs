//! The fields that are cached of each object. Clusters have many pods, and only a few of their
//! fields are needed.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::Value;
use serin_core::command::Command;
use serin_core::observed::PodProblem;
use serin_core::units::Revision;
use serin_crds::side_metadata::AddedMetadata;

use super::Key;
use super::convert::CRASH_LOOP;
use crate::revision::TemplateDigest;

/// Identifies an object and its version.
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
    /// The resourceVersion as a number, comparable within one kind. 0 if it is not a number; such
    /// an object always replaces the cached one.
    pub fn version(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

/// An object in the cache.
pub trait CachedObject: Send + Sync + 'static {
    /// The identity of the object.
    fn identity(&self) -> &Identity;
    /// The name of the Rollout that the object belongs to, in the same namespace.
    fn rollout(&self) -> Option<&str>;

    /// The keys under which [`ObjectCache::indexed`](super::ObjectCache::indexed) finds the object.
    /// Defaults to its Rollout.
    fn index_keys(&self) -> Vec<Key> {
        let rollout = self.rollout().into_iter();
        rollout
            .map(|rollout| Key::new(&self.identity().key.namespace, rollout))
            .collect()
    }
}

/// The cached fields of a ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachedReplicaSet {
    pub identity: Identity,
    /// The Rollout in its label.
    pub rollout: String,
    /// The revision in its label.
    pub revision: Option<Revision>,
    /// The UID of its controller.
    pub owner_uid: Option<String>,
    /// The hash of the template as the user wrote it.
    pub template_hash: Option<String>,
    /// The digest of the template as the API server stores it.
    pub template: Option<TemplateDigest>,
    /// `spec.replicas`.
    pub desired: u32,
    /// `status.replicas`.
    pub replicas: u32,
    /// `status.availableReplicas`.
    pub available: u32,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// The ports that its template declares.
    pub ports: Vec<DeclaredPort>,
    /// What was added to its template for the side of its revision. `None` if nothing was.
    pub added: Option<AddedMetadata>,
    /// Its controller, if any.
    pub owner: Option<ControllerRef>,
    /// The Deployment that it was taken over from, if any.
    pub deployment: Option<String>,
    /// Pods without the labels of its template, according to its status.
    pub unlabelled: u32,
    /// Whether its status is that of an earlier generation.
    pub is_status_stale: bool,
    /// Whether its selector contains labels of Serin, as in earlier versions. A Deployment cannot
    /// take it over.
    pub selects_revision: bool,
    /// Whether it has a deletion timestamp.
    pub terminating: bool,
    /// Why it cannot create pods, if it cannot.
    pub problem: Option<PodProblem>,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
}

impl CachedReplicaSet {
    /// Whether its name is that of a revision of this Rollout, or of the Deployment that it was
    /// taken over from.
    pub fn is_named_for(&self, rollout: &str) -> bool {
        let base = self.deployment.as_deref().unwrap_or(rollout);
        self.revision
            .as_ref()
            .is_some_and(|revision| self.identity.key.name == format!("{base}-{revision}"))
    }
}

/// The controller of an object: its owner reference with `controller: true`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerRef {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `name`.
    pub name: String,
}

/// A port that a container of a template declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredPort {
    /// Its name, if any.
    pub name: Option<String>,
    /// `containerPort`.
    pub number: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Whether a Service can reach it by name: it is the first port with this name and protocol in
    /// the pod.
    pub by_name: bool,
}

/// The cached fields of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachedPod {
    pub identity: Identity,
    /// The Rollout in its label.
    pub rollout: String,
    /// The revision in its label.
    pub revision: Option<Revision>,
    /// The UID of its ReplicaSet.
    pub owner_uid: Option<String>,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
    /// The node on which it runs. `None` before it is scheduled.
    pub node: Option<String>,
    /// Whether it is neither terminating nor finished.
    pub active: bool,
    /// The status of its Ready condition.
    pub ready: bool,
    /// The containers that have restarted.
    pub restarts: Vec<Restarts>,
    /// The waiting reason of one of its containers. A crash loop has priority.
    pub waiting: Option<String>,
    /// Since when it has had a node and none of its containers was created. `None` if one was.
    pub starting_since: Option<Timestamp>,
    /// Why it cannot run, if it cannot.
    pub problem: Option<PodProblem>,
    /// What was added to it for the side of its revision. `None` if nothing was.
    pub added: Option<Box<AddedMetadata>>,
}

/// The restarts of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// Number of restarts since the pod was created. Restarts caused by the node do not count.
    pub count: u32,
    /// Time of the last restart.
    pub last_at: Option<Timestamp>,
}

/// Maximum time by which the creation time of a pod, in whole seconds of the API server's clock,
/// can precede the start of its release.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

impl CachedPod {
    /// Whether the pod was created for the release that started at `start`.
    pub fn is_new_since(&self, start: Timestamp) -> bool {
        self.created_at
            .saturating_add(CLOCK_SKEW)
            .is_ok_and(|created| created >= start)
    }

    /// Number of container restarts since `start`. For older pods, only the time of the last
    /// restart of each container is known, so the result is a lower bound.
    pub fn restarts_since(&self, start: Timestamp) -> u32 {
        if self.is_new_since(start) {
            return self.restarts.iter().map(|container| container.count).sum();
        }
        let restarted = |container: &&Restarts| container.last_at.is_some_and(|at| at >= start);
        u32::try_from(self.restarts.iter().filter(restarted).count()).unwrap_or(u32::MAX)
    }

    /// The waiting reason of a container. A crash loop counts only if the container has failed
    /// since `start`.
    pub fn waiting_since(&self, start: Option<Timestamp>) -> Option<&str> {
        let has_failed = |start| self.is_new_since(start) || self.restarts_since(start) > 0;
        self.waiting
            .as_deref()
            .filter(|reason| *reason != CRASH_LOOP || start.is_none_or(has_failed))
    }
}

/// The cached fields of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CachedService {
    pub identity: Identity,
    /// The Rollout in its label. `None` for a user's Service that was never bound.
    pub rollout: Option<String>,
    /// The UID of its controller. `None` for a user's Service.
    pub owner_uid: Option<String>,
    /// Its controller, if any.
    pub owner: Option<ControllerRef>,
    /// The client other than Serin that last wrote it, as in `metadata.managedFields`.
    pub other_writer: Option<String>,
    /// The revision in its selector.
    pub selects: Option<Revision>,
    /// Its spec. The canary Service is a copy of the stable one, and both follow the ports of their
    /// revision.
    pub spec: ServiceSpec,
    /// Its annotations that affect how requests are routed to its endpoints.
    pub annotations: BTreeMap<String, String>,
}

/// The cached fields of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachedEndpointSlice {
    pub identity: Identity,
    /// The Rollout in the label that it inherits from its Service.
    pub rollout: String,
    /// The name of its Service.
    pub service: Option<String>,
    /// The UID of its Service. `None` if the slice is not one of the EndpointSlice controller:
    /// anybody who may create slices could have written it.
    pub service_uid: Option<String>,
    /// Its ready endpoints.
    pub ready: Vec<ReadyEndpoint>,
}

/// A ready endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadyEndpoint {
    /// The pod name. `None` if the endpoint is not a pod.
    pub pod: Option<String>,
}

/// The cached fields of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedRoute {
    pub identity: Identity,
    /// `metadata.generation`.
    pub generation: i64,
    /// The object without its managedFields.
    pub object: Value,
    /// Its backend Services, as returned by [`serin_metrics_analysis::routes::backend_names`].
    pub backends: Vec<String>,
    /// The client other than Serin that last wrote it, as in `metadata.managedFields`.
    pub other_writer: Option<String>,
}

impl CachedRoute {
    /// The index key of a backend, given as a joined name.
    pub fn backend_key(backend: &str) -> Key {
        Key::new(String::new(), backend)
    }
}

/// The cached fields of a RolloutCommand.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedCommand {
    pub identity: Identity,
    /// The name of the Rollout that it is for.
    pub rollout: String,
    /// The requested command.
    pub command: Command,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
    /// When it finished. `None` while it is pending.
    pub finished_at: Option<Timestamp>,
}

impl CachedCommand {
    /// Namespace and name of the Rollout that it is for.
    pub fn rollout_key(&self) -> Key {
        Key::new(&self.identity.key.namespace, &self.rollout)
    }
}

macro_rules! impl_labelled {
    ($($cached:ty),*) => {$(
        impl CachedObject for $cached {
            fn identity(&self) -> &Identity {
                &self.identity
            }

            fn rollout(&self) -> Option<&str> {
                Some(&self.rollout)
            }
        }
    )*};
}

impl_labelled!(
    CachedReplicaSet,
    CachedPod,
    CachedEndpointSlice,
    CachedCommand
);

impl CachedObject for CachedService {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn rollout(&self) -> Option<&str> {
        self.rollout.as_deref()
    }
}

impl CachedObject for CachedRoute {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn rollout(&self) -> Option<&str> {
        None
    }

    fn index_keys(&self) -> Vec<Key> {
        let backends = self.backends.iter();
        backends.map(|backend| Self::backend_key(backend)).collect()
    }
}
