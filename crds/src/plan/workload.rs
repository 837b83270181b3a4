//! Checks that the pods of a Rollout are described exactly once.

use super::object_name::is_object_name;
use super::problem::Problems;
use crate::rollout::RolloutSpec;
use crate::workload::{TakeoverMode, is_unset};

const FIX: &str = "set spec.selector and spec.template, or spec.workloadRef";

pub(super) fn check_workload(spec: &RolloutSpec, problems: &mut Problems) {
    if let Some(reference) = &spec.workload_ref {
        check_name("spec.workloadRef.name", &reference.name, problems);
    }
    if let Some(adopt) = &spec.adopt {
        check_name("spec.adopt.deployment", &adopt.deployment, problems);
    }
    let has_own = !is_unset(&spec.template) || !is_unset(&spec.selector);
    let Some(reference) = &spec.workload_ref else {
        if is_unset(&spec.template) && !spec.observes() {
            problems.required("spec.template", "the pods are not described", FIX);
        }
        return;
    };
    if has_own && !spec.template.is_of_deployment {
        let why = "the template and the selector are those of the Deployment";
        problems.invalid("spec.workloadRef", &reference.name, why, FIX);
    }
    let api_version = reference.api_version.as_deref().unwrap_or("apps/v1");
    if api_version != "apps/v1" {
        let why = "it is not the API version of Deployments";
        problems.invalid(
            "spec.workloadRef.apiVersion",
            &api_version,
            why,
            "use apps/v1",
        );
    }
    if reference.kind != "Deployment" {
        let why = "only a Deployment can be taken over";
        problems.invalid(
            "spec.workloadRef.kind",
            &reference.kind,
            why,
            "use Deployment",
        );
    }
    let is_second = reference.takeover == Some(TakeoverMode::SecondFleet);
    if reference.scale_down.is_some() && !is_second {
        let why = "a takeover in place has no second fleet";
        let fix = "remove it, or set spec.workloadRef.takeover to SecondFleet";
        problems.invalid("spec.workloadRef.scaleDown", &"set", why, fix);
    }
    if let Some(adopt) = &spec.adopt {
        let why = "spec.workloadRef takes over its Deployment already";
        problems.invalid(
            "spec.adopt.deployment",
            &adopt.deployment,
            why,
            "remove spec.adopt",
        );
    }
}

fn check_name(path: &str, name: &str, problems: &mut Problems) {
    if !is_object_name(name) {
        let fix = "use the metadata.name of a Deployment in the Rollout's namespace";
        problems.invalid(path, &name, "it is not a valid object name", fix);
    }
}

/// The selector of a Rollout that observes pods whose template it does not know.
pub(super) fn check_observed_selector(spec: &RolloutSpec, problems: &mut Problems) {
    if spec.workload_ref.is_none() && is_unset(&spec.selector) {
        let fix = "set spec.selector to that of the Deployment or Rollout to observe";
        problems.required("spec.selector", "the pods to observe are not known", fix);
    }
}

/// A Rollout that observes compares two sides with traffic, and a blue/green release has one.
pub(super) fn check_observed_strategy(spec: &RolloutSpec, problems: &mut Problems) {
    if spec.strategy.blue_green.is_some() {
        let problem = "it compares two sides that have traffic at the same time, which \
                       spec.strategy.blueGreen does not have";
        let fix = "use spec.strategy.canary, or remove spec.mode";
        problems.invalid("spec.mode", &"Observe", problem, fix);
    }
}
