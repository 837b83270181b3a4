//! Which Services the sources name for their stable and canary pods.

use serde_json::Value;

use crate::ObjectId;
use crate::objects::{Objects, kruise_reference};

/// Whether a source sends traffic to one of these Services.
pub(crate) fn claims_any(set: &Objects<'_>, object: &Value, services: &[&str]) -> bool {
    claimed(set, object)
        .iter()
        .any(|service| services.contains(&service.as_str()))
}

/// The Services that a source names, directly or by its defaults.
fn claimed(set: &Objects<'_>, object: &Value) -> Vec<String> {
    let spec = &object["spec"];
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let services: Vec<Option<String>> = match ObjectId::new(object).group_and_kind() {
        ("argoproj.io", "Rollout") => {
            let canary = &spec["strategy"]["canary"];
            vec![
                text(&canary["stableService"]),
                text(&canary["canaryService"]),
            ]
        }
        ("flagger.app", "Canary") => {
            vec![crate::flagger::apex_name(object).map(ToOwned::to_owned)]
        }
        ("rollouts.kruise.io", "Rollout") => {
            let routings = spec["strategy"]["canary"]["trafficRoutings"].as_array();
            let routings = routings.into_iter().flatten();
            routings.map(|routing| text(&routing["service"])).collect()
        }
        ("apps", "Deployment") if !is_target(set, object) => {
            let labels = &spec["template"]["metadata"]["labels"];
            let namespace = object["metadata"]["namespace"].as_str();
            let selecting = set.services_selecting(namespace, labels);
            selecting
                .iter()
                .map(|service| text(&service["metadata"]["name"]))
                .collect()
        }
        _ => Vec::new(),
    };
    services.into_iter().flatten().collect()
}

fn is_target(set: &Objects<'_>, deployment: &Value) -> bool {
    let name = &deployment["metadata"]["name"];
    let of_kruise = set.of_kind("rollouts.kruise.io", "Rollout");
    let mut references = of_kruise.map(kruise_reference);
    references.any(|reference| reference["name"] == *name)
        || set.is_referenced_deployment(deployment)
}
