//! Why a Deployment is not taken over, or its pods cannot be given back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serin_core::hold::{Hold, HoldCode};
use serin_core::text::Message;

use super::DeploymentObject;
use crate::cluster_cache::CachedReplicaSet;
use crate::revision::TemplateDigest;

/// Why the Deployment as it is now is not taken over. `selector` is that of the Rollout.
pub(super) fn of_deployment(
    name: &str,
    deployment: &DeploymentObject,
    selector: &LabelSelector,
) -> Option<Hold> {
    let hold = |code, message: String| Some(Hold::new(code, message));
    if let Some(problem) = &deployment.problem {
        let message = format!("Deployment {name} is not taken over: {problem}");
        return hold(HoldCode::WorkloadUnsupported, message);
    }
    if deployment.spec["strategy"]["type"] == "Recreate" {
        let message = format!(
            "Deployment {name} has spec.strategy.type: Recreate, which never runs two versions at \
             the same time; a release does. Set it to RollingUpdate"
        );
        return hold(HoldCode::WorkloadUnsupported, message);
    }
    if deployment.selector() != *selector {
        let message = format!(
            "Deployment {name} has another spec.selector than the Rollout: use the same selector \
             in the Rollout"
        );
        return hold(HoldCode::WorkloadUnsupported, message);
    }
    let desired = deployment.replicas();
    let status = &deployment.status;
    let (pods, updated) = (status.replicas, status.updated_replicas);
    let available = status.available_replicas;
    let is_complete = pods == desired && updated == desired && available == desired;
    if !deployment.is_observed() || !is_complete {
        let message = format!(
            "Deployment {name} is being updated: {updated} of {desired} pods have its template, \
             {available} are available, and {pods} exist"
        );
        return hold(HoldCode::WorkloadProgressing, message);
    }
    None
}

/// Why a Deployment that an autoscaler scales is not taken over.
pub(super) fn of_autoscaler(name: &str, autoscaler: &str) -> Hold {
    let message = format!(
        "HorizontalPodAutoscaler {autoscaler} scales Deployment {name}: point its \
         spec.scaleTargetRef to the Rollout (apiVersion serin.dev/v1alpha1, kind Rollout)"
    );
    Hold::new(HoldCode::WorkloadAutoscaled, message)
}

/// Why the pods of `stable` cannot be given back without a restart.
pub(super) fn return_problem(
    name: &str,
    deployment: Option<&DeploymentObject>,
    stable: Option<&CachedReplicaSet>,
) -> Option<Message> {
    let Some(stable) = stable else {
        return Some("there is no stable revision to give back".into());
    };
    if stable.selects_revision {
        let message = "the ReplicaSet of the stable revision was created by an earlier version of \
                       Serin, whose selector no Deployment has: release another revision first";
        return Some(message.into());
    }
    let deployment = deployment?;
    if Some(TemplateDigest::from_stored(&deployment.spec["template"])) != stable.template {
        return Some(
            format!(
                "Deployment {name} has another template than the stable revision, so its pods \
                 would be replaced: apply the template of the stable revision to the Deployment, \
                 or delete the Deployment with --cascade=orphan"
            )
            .into(),
        );
    }
    let (replicas, desired) = (deployment.replicas(), stable.desired);
    (replicas < desired).then(|| {
        let message = format!(
            "Deployment {name} has {replicas} replicas, and the Rollout has {desired} pods: scale \
             it first with `kubectl scale deployment {name} --replicas={desired}`"
        );
        message.into()
    })
}
