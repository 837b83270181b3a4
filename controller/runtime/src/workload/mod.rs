//! The Deployment whose pods a Rollout takes over, or gives back.
//!
//! Deployments are not cached: each is read when its Rollout needs it, and a watch of their
//! metadata reports changes.

mod holds;
mod listed;
mod reader;
mod spec;
mod watch;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::DynamicObject;
use serde::Deserialize;
use serde_json::{Value, json};
use serin_core::hold::Hold;
use serin_core::observed::{AdoptableReplicaSet, DeploymentView, WorkloadView};
use serin_core::text::Message;
use serin_crds::names::{POD_TEMPLATE_HASH_LABEL, REVISION_LABEL, ROLLOUT_LABEL};
use serin_crds::plan::check_template_size;
use serin_crds::side_metadata;

use crate::revision;

pub use reader::{ReadError, WorkloadReader, WorkloadRequest};
pub use watch::{Adopters, watch_deployments};

/// What was read of a Deployment and its ReplicaSets.
#[derive(Clone, Debug)]
pub struct WorkloadObjects {
    /// The name of the Deployment.
    pub name: String,
    /// The Deployment. `None` if it does not exist or is being deleted.
    pub deployment: Option<DeploymentObject>,
    /// The ReplicaSet that serves, if the Rollout does not control it.
    pub replica_set: Option<AdoptableReplicaSet>,
    /// Its other ReplicaSets, which have no pods.
    pub idle_replica_sets: Vec<AdoptableReplicaSet>,
    /// Why the takeover does not begin.
    pub hold: Option<Hold>,
    /// Why the pods cannot be given back without a restart.
    pub return_problem: Option<Message>,
    /// The number of pods of a workload that is taken over.
    pub replicas: Option<u32>,
}

impl WorkloadObjects {
    /// The input of a decision.
    pub fn view(&self) -> WorkloadView {
        WorkloadView {
            name: self.name.clone(),
            deployment: self.deployment.as_ref().map(DeploymentObject::view),
            replica_set: self.replica_set.clone(),
            idle_replica_sets: self.idle_replica_sets.clone(),
            hold: self.hold.clone(),
            return_problem: self.return_problem.clone(),
        }
    }
}

/// A Deployment. The template is kept as JSON, so that fields unknown to this build are not lost.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentObject {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec`. Only its short fields if it is too large.
    pub spec: Value,
    /// Why the Rollout cannot use it.
    problem: Option<String>,
    status: DeploymentCounts,
}

/// The fields of the status of a Deployment that are used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeploymentCounts {
    observed_generation: Option<i64>,
    replicas: u32,
    updated_replicas: u32,
    available_replicas: u32,
}

impl From<DynamicObject> for DeploymentObject {
    fn from(mut object: DynamicObject) -> Self {
        let (spec, problem) = limit_size(object.data["spec"].take());
        let status = object.data["status"].take();
        Self {
            uid: object.metadata.uid.unwrap_or_default(),
            resource_version: object.metadata.resource_version.unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            spec,
            problem,
            status: serde_json::from_value(status).unwrap_or_default(),
        }
    }
}

/// The spec of a Deployment and, if it is too large to be kept in memory, why. Then only its short
/// fields are returned.
fn limit_size(spec: Value) -> (Value, Option<String>) {
    let mut limited = json!({"template": spec});
    let Err(problem) = check_template_size(&limited) else {
        return (limited["template"].take(), None);
    };
    let spec = &limited["template"];
    let short = json!({
        "paused": spec["paused"] == true,
        "replicas": spec["replicas"].as_u64(),
        "minReadySeconds": spec["minReadySeconds"].as_i64(),
    });
    (short, Some(problem.to_string()))
}

/// Identifies the template of a Deployment, by its UID and its generation.
fn template_version(uid: &str, generation: i64) -> String {
    format!("{uid}/{generation}")
}

impl DeploymentObject {
    fn view(&self) -> DeploymentView {
        DeploymentView {
            paused: self.spec["paused"] == true,
            is_observed: self.is_observed(),
            replicas: self.replicas(),
            updated: self.status.updated_replicas,
            pods: self.status.replicas,
        }
    }

    /// Identifies the template.
    fn template_version(&self) -> String {
        template_version(&self.uid, self.generation)
    }

    /// Whether its controller has seen the current spec.
    fn is_observed(&self) -> bool {
        self.status.observed_generation >= Some(self.generation)
    }

    /// `spec.replicas`.
    pub fn replicas(&self) -> u32 {
        number(&self.spec["replicas"]).unwrap_or(1)
    }

    fn selector(&self) -> LabelSelector {
        serde_json::from_value(self.spec["selector"].clone()).unwrap_or_default()
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// The controller of an object, if any.
pub fn controller_of(object: &DynamicObject) -> Option<&OwnerReference> {
    let mut owners = object.metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// The template and the selector of a ReplicaSet, without the labels that distinguish it from the
/// others of its Deployment or Rollout.
pub fn template_of(set: &Value) -> (Value, LabelSelector) {
    let mut template = set["spec"]["template"].clone();
    let labels = json!({
        ROLLOUT_LABEL: null, REVISION_LABEL: null, POD_TEMPLATE_HASH_LABEL: null,
    });
    json_patch::merge(&mut template, &json!({"metadata": {"labels": labels}}));
    side_metadata::remove(&mut template);
    revision::unpin(&mut template);
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    let mut selector: LabelSelector =
        serde_json::from_value(set["spec"]["selector"].clone()).unwrap_or_default();
    if let Some(labels) = &mut selector.match_labels {
        for label in [ROLLOUT_LABEL, REVISION_LABEL, POD_TEMPLATE_HASH_LABEL] {
            labels.remove(label);
        }
    }
    (template, selector)
}
