//! `spec.workloadRef`, `spec.adopt` and `spec.onDelete`: the Deployment whose pods a Rollout takes
//! over, and who gets them back.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serin_core::plan::{Adoption, DeploymentScaleDown, Takeover, Workload};

use crate::rollout::RolloutSpec;
use crate::rules;

/// Deployment that has the pod template and the selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::scale_down_requires_second_fleet())]
pub struct WorkloadRef {
    /// API version of the workload. Defaults to apps/v1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::workload_api_version())]
    pub api_version: Option<String>,
    /// Kind of the workload: Deployment.
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::workload_kind())]
    pub kind: String,
    /// Name of the workload, in the namespace of the Rollout.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// What becomes of the pods of the Deployment. InPlace: the Rollout takes them over without a
    /// restart, and the Deployment is paused. SecondFleet: the Rollout creates pods of its own
    /// beside them. Defaults to InPlace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<TakeoverMode>,
    /// When the Deployment is scaled to 0 after the Rollout has created pods of its own: never,
    /// onSuccess (when the first revision serves with all of its pods) or progressively (as pods
    /// become available). Only with takeover SecondFleet. Defaults to never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScaleDown>,
}

/// What becomes of the pods of a Deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TakeoverMode {
    /// The Rollout takes them over without a restart, and the Deployment is paused.
    #[default]
    InPlace,
    /// The Rollout creates pods of its own beside them.
    SecondFleet,
}

/// When a Deployment is scaled to 0 after the Rollout has created pods of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ScaleDown {
    /// Never: its owner scales it down.
    #[default]
    Never,
    /// When the first revision serves with all of its pods.
    OnSuccess,
    /// As pods of the Rollout become available.
    Progressively,
}

/// Deployment whose pods the Rollout takes over without a restart. The template and the selector
/// are those of the Rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdoptSpec {
    /// Name of the Deployment, in the namespace of the Rollout. It may be deleted afterward.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub deployment: String,
}

/// Who changes the pods and the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutMode {
    /// The Rollout.
    #[default]
    Manage,
    /// Another controller. The Rollout only reports.
    Observe,
}

/// What becomes of the pods of a deleted Rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    /// They are given to the Deployment, which is created if it does not exist.
    GiveBack,
    /// They are deleted.
    Delete,
}

impl RolloutSpec {
    /// Whether another controller changes the pods and the traffic, and the Rollout only reports.
    pub fn observes(&self) -> bool {
        self.mode == Some(RolloutMode::Observe)
    }

    /// The Deployment from which the template and the selector are read. `None` if the spec has its
    /// own.
    pub fn template_source(&self) -> Option<&str> {
        let reference = self.workload_ref.as_ref();
        reference.map(|reference| reference.name.as_str())
    }

    /// Whose pods the Rollout manages.
    pub fn workload(&self) -> Workload {
        if let Some(reference) = &self.workload_ref {
            let takeover = match reference.takeover.unwrap_or_default() {
                TakeoverMode::InPlace => Takeover::InPlace,
                TakeoverMode::SecondFleet => {
                    Takeover::SecondFleet(match reference.scale_down.unwrap_or_default() {
                        ScaleDown::Never => DeploymentScaleDown::Never,
                        ScaleDown::OnSuccess => DeploymentScaleDown::OnSuccess,
                        ScaleDown::Progressively => DeploymentScaleDown::Progressively,
                    })
                }
            };
            return Workload::Adopted(Adoption {
                deployment: reference.name.clone(),
                reads_template: true,
                takeover,
            });
        }
        let adopt = self.adopt.as_ref();
        adopt.map_or(Workload::Owned, |adopt| {
            Workload::Adopted(Adoption {
                deployment: adopt.deployment.clone(),
                reads_template: false,
                takeover: Takeover::InPlace,
            })
        })
    }
}

/// Whether a field is left out of a spec.
pub(crate) fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
