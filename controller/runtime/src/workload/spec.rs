//! The spec of a Rollout with the template of its Deployment filled in.

use std::fmt::Display;
use std::sync::Arc;

use serde_json::{Value, from_value};
use serin_crds::RolloutSpec;
use serin_crds::plan::check_template_size;
use serin_crds::rollout::PodTemplate;
use tokio::time::Instant;

use super::{DeploymentObject, template_of};
use crate::cluster_cache::RolloutObject;

/// Where a template was found.
pub(super) enum TemplateSource {
    /// In the Deployment.
    Deployment(DeploymentObject),
    /// In a ReplicaSet of the Rollout: the Deployment does not exist any more.
    ReplicaSet {
        /// Identifies the ReplicaSet.
        uid: String,
        /// The ReplicaSet.
        object: Value,
    },
    /// Nowhere, for this reason.
    Missing(String),
}

impl TemplateSource {
    /// Identifies the template.
    pub(super) fn version(&self) -> String {
        match self {
            Self::Deployment(deployment) => deployment.template_version(),
            Self::ReplicaSet { uid, .. } => uid.clone(),
            Self::Missing(problem) => problem.clone(),
        }
    }
}

/// The Rollout with the template and the selector of its Deployment, which was seen at `seen_at`. Its
/// version and its status are unchanged.
pub(super) fn resolve_spec(
    rollout: &RolloutObject,
    spec: &RolloutSpec,
    source: &TemplateSource,
    seen_at: Instant,
) -> Arc<RolloutObject> {
    let resolved = match source {
        TemplateSource::Missing(problem) => Err(problem.clone()),
        TemplateSource::Deployment(deployment) => match &deployment.problem {
            Some(problem) => Err(of_template(problem)),
            None => {
                let template = deployment.spec["template"].clone();
                let seconds = deployment.spec["minReadySeconds"].as_i64();
                fill_in(spec, template, deployment.selector(), seconds)
            }
        },
        TemplateSource::ReplicaSet { object, .. } => {
            let (template, selector) = template_of(object);
            let seconds = object["spec"]["minReadySeconds"].as_i64();
            fill_in(spec, template, selector, seconds)
        }
    };
    Arc::new(RolloutObject {
        spec: resolved,
        template_version: Some(source.version()),
        seen_at: seen_at.max(rollout.seen_at),
        ..rollout.clone()
    })
}

fn of_template(problem: impl Display) -> String {
    format!("the template of the Deployment in spec.workloadRef: {problem}")
}

fn fill_in(
    spec: &RolloutSpec,
    template: Value,
    selector: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    min_ready_seconds: Option<i64>,
) -> Result<Arc<RolloutSpec>, String> {
    check_template_size(&serde_json::json!({"template": template})).map_err(of_template)?;
    let mut template: PodTemplate = from_value(template).map_err(of_template)?;
    template.is_of_deployment = true;
    let seconds = min_ready_seconds.and_then(|seconds| i32::try_from(seconds).ok());
    Ok(Arc::new(RolloutSpec {
        template,
        selector,
        min_ready_seconds: spec.min_ready_seconds.or(seconds),
        ..spec.clone()
    }))
}
