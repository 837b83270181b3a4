//! Gates: steps that wait for a person or for a condition on an object.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// What a gate waits for. Exactly one of `approval` and `object` must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_kind_of_gate())]
#[x_kube(validation = rules::on_expiry_requires_expire_after())]
pub struct GateSpec {
    /// Waits until somebody promotes the release. An empty object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalSpec>,
    /// Waits until an object meets a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectGateSpec>,
    /// Time after which the gate expires, for example `24h`. It starts with the step. If unset, the
    /// gate waits without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub expire_after: Option<String>,
    /// What happens when the gate expires. Abort: the release is aborted. Hold: the release waits,
    /// and the gate opens neither by itself nor by a promotion any more; the command `skip-step`
    /// leaves it. Requires `expireAfter`. Defaults to Abort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<GateExpiry>,
}

/// An approval without settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalSpec {}

/// What happens when a gate expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GateExpiry {
    /// The release is aborted.
    #[default]
    Abort,
    /// The release waits until somebody decides.
    Hold,
}

/// An object and the condition that it must meet. The controller reads it every 5 to 30 seconds. It
/// needs permission to get the object, and so does the author of the Rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::a_cluster_object_has_no_namespace())]
#[x_kube(validation = rules::secrets_are_no_gates())]
pub struct ObjectGateSpec {
    /// Group and version of the object, for example `batch/v1` or `v1`.
    #[schemars(length(min = 1, max = 317))]
    #[x_kube(validation = rules::api_version())]
    pub api_version: String,
    /// Resource as in an RBAC rule: the plural name in lowercase, for example `jobs`. Secrets are
    /// not permitted.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::resource_name())]
    pub resource: String,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// Namespace of the object. Defaults to that of the Rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub namespace: Option<String>,
    /// If true, the object belongs to no namespace. Excludes `namespace`. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_scoped: Option<bool>,
    /// CEL expression over `object` that must be true, for example
    /// `object.status.conditions.exists(c, c.type == 'Ready' && c.status == 'True')`. An object that
    /// lacks a field that the expression reads does not meet it.
    #[schemars(length(min = 1, max = 1024))]
    pub condition: String,
}
