//! Checks by a Job: the controller creates it, and its success decides.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rules;

/// Maximum size of the pod template of a Job as JSON. The status of a release contains it.
pub const JOB_TEMPLATE_BYTES: usize = 8 << 10;
/// Maximum size of all texts of a template with their arguments.
pub const MAX_RENDERED_JOB_BYTES: usize = 64 << 10;

/// A Job whose success decides a check. After each failure that is tolerated, it runs again as
/// another Job. A Job is deleted after its time to live, or with the Rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobCheckSpec {
    /// ServiceAccount of its pods, in the Rollout's namespace.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub service_account_name: String,
    /// Pod template, of at most 8 KiB. In every text of it, `{{args.NAME}}` is replaced by the value
    /// of an argument. `restartPolicy` defaults to Never.
    pub template: JobPodTemplate,
    /// Maximum time until the Job has succeeded, for example `10m`. A Job that takes longer has
    /// failed. Defaults to 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub timeout: Option<String>,
    /// Number of times that a failed pod is replaced before the Job has failed. Defaults to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub backoff_limit: Option<i32>,
    /// Time for which the ended Job and its log are kept, for example `1h`. At least 15m, so that its
    /// result is not lost with a restart of the controller. Defaults to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub ttl_after_finished: Option<String>,
}

/// Template of the pods of a Job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobPodTemplate {
    /// Labels and annotations of the pods. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<JobPodMetadata>,
    /// Pod spec, as in a Job.
    #[schemars(schema_with = "pod_spec")]
    pub spec: Value,
}

/// Labels and annotations of the pods of a Job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobPodMetadata {
    /// Labels. Keys with the prefix `serin.dev/` are reserved. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "labels")]
    #[x_kube(validation = rules::no_reserved_labels())]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "annotations")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Schema of the labels. The limits bound the cost of the validation rules.
fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 63 }
    })
}

/// Schema of the annotations.
fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 1024 }
    })
}

/// Schema of a pod spec. Unknown fields are preserved: the API server validates the pod spec when
/// the Job is created. The plan refuses a template that is too large.
fn pod_spec(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
