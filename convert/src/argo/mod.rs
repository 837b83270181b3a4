//! Rollouts of Argo Rollouts.

mod analysis;
mod blue_green;
mod native_routers;
mod probes;
mod routing;
pub(crate) mod service;
mod steps;

use serde_json::{Value, json};

use crate::fields::Fields;
use crate::note::Translation;
use crate::objects::Objects;
use crate::rollout::RolloutDraft;
use crate::side_metadata;

/// Names of the Services and of the Rollout, for queries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub rollout: String,
    pub namespace: Option<String>,
    pub stable: Option<String>,
    pub canary: Option<String>,
    pub labels: Value,
    pub annotations: Value,
}

/// Converts a Rollout.
pub(crate) fn convert(set: &Objects<'_>, object: &Value) -> Translation {
    let mut draft = RolloutDraft::new(object);
    let mut spec = Fields::new("spec", object["spec"].clone());
    workload(&mut spec, &mut draft);
    deadlines(&mut spec, &mut draft);
    draft.copy(
        &mut spec,
        &[
            "replicas",
            "minReadySeconds",
            "revisionHistoryLimit",
            "rollbackWindow",
            "paused",
            "restartAt",
        ],
    );
    // Limits of AnalysisRun objects, which Serin does not have.
    spec.ignore(&["analysis"]);
    let mut strategy = spec.object("strategy").unwrap_or_default();
    if let Some(mut blue_green) = strategy.object("blueGreen") {
        blue_green::convert(set, object, &mut blue_green, &mut draft);
        blue_green.finish(&mut draft.notes);
        strategy.finish(&mut draft.notes);
        spec.finish(&mut draft.notes);
        return draft.finish();
    }
    let mut canary = strategy.object("canary").unwrap_or_default();
    convert_canary(set, object, &mut canary, &mut draft);
    if !draft.is_refused {
        canary.finish(&mut draft.notes);
        strategy.finish(&mut draft.notes);
        spec.finish(&mut draft.notes);
    }
    draft.finish()
}

fn workload(spec: &mut Fields, draft: &mut RolloutDraft) {
    let Some(mut reference) = spec.object("workloadRef") else {
        draft.copy(spec, &["selector", "template"]);
        return;
    };
    spec.ignore(&["template", "selector"]);
    let kind = reference.text("kind").unwrap_or_default();
    if kind != "Deployment" {
        draft.notes.not_yet(
            reference.path("kind"),
            format!("a {kind} cannot be released"),
            "use a Deployment",
        );
        draft.is_refused = true;
        return;
    }
    let name = reference.text("name").unwrap_or_default();
    let mut workload = json!({
        "apiVersion": reference.text("apiVersion").unwrap_or_else(|| "apps/v1".to_owned()),
        "kind": kind,
        "name": name,
        "takeover": "SecondFleet",
    });
    match reference.text("scaleDown").as_deref() {
        Some("onsuccess") => workload["scaleDown"] = json!("onSuccess"),
        Some("progressively") => workload["scaleDown"] = json!("progressively"),
        _ => {}
    }
    reference.finish(&mut draft.notes);
    draft.spec.insert("workloadRef".to_owned(), workload);
}

fn deadlines(spec: &mut Fields, draft: &mut RolloutDraft) {
    let aborts = spec.flag("progressDeadlineAbort");
    if spec.has("progressDeadlineSeconds") && !aborts {
        draft.notes.changed(
            spec.path("progressDeadlineSeconds"),
            "after the deadline the release is aborted; Argo Rollouts only reports it without \
             progressDeadlineAbort",
            "raise it if pods may take longer to start, or set progressDeadlineAbort: false",
        );
    }
    draft.copy(spec, &["progressDeadlineSeconds"]);
}

fn convert_canary(
    set: &Objects<'_>,
    object: &Value,
    canary: &mut Fields,
    draft: &mut RolloutDraft,
) {
    let names = Names {
        rollout: draft.name().to_owned(),
        namespace: object["metadata"]["namespace"]
            .as_str()
            .map(ToOwned::to_owned),
        stable: canary.text("stableService"),
        canary: canary.text("canaryService"),
        labels: object["metadata"]["labels"].clone(),
        annotations: object["metadata"]["annotations"].clone(),
    };
    let router = canary.object("trafficRouting");
    let max_weight = routing::convert(set, router, &names, draft);
    if draft.is_refused {
        return;
    }
    services(&names, draft);
    for field in ["maxSurge", "maxUnavailable"] {
        let value = canary.take(field);
        draft
            .canary
            .extend(value.map(|value| (field.to_owned(), value)));
    }
    delays(canary, draft);
    limits(canary, draft);
    if canary.flag("dynamicStableScale") {
        if draft.has_router() {
            draft
                .canary
                .insert("dynamicStableScale".to_owned(), json!(true));
        } else {
            let field = canary.path("dynamicStableScale");
            draft.notes.kept(
                field,
                "without a router the stable pods always follow the weight",
            );
        }
    }
    let is_incomplete = analysis::background(set, canary.object("analysis"), &names, draft);
    let steps = canary.objects("steps");
    let has_steps = !steps.is_empty();
    steps::convert(set, steps, &names, max_weight, draft);
    if is_incomplete {
        draft.pause_before_promotion(&canary.path("analysis"));
    }
    if !has_steps && !is_incomplete && !draft.analysis.is_empty() && draft.has_router() {
        draft.notes.changed(
            canary.path("steps"),
            "without steps the evidence sets the pace, instead of one step to 100 %",
            "add steps if the weights must be fixed",
        );
    }
}

/// The two Services. Without a router both or none are set.
fn services(names: &Names, draft: &mut RolloutDraft) {
    let path = "spec.strategy.canary";
    match (&names.stable, &names.canary) {
        (Some(_), None) | (None, Some(_)) if !draft.has_router() => {
            let (set, missing) = match names.stable {
                Some(_) => ("stableService", "canaryService"),
                None => ("canaryService", "stableService"),
            };
            draft.notes.lost(
                format!("{path}.{set}"),
                format!("without a router Serin binds Services only in pairs, and {missing} is not set"),
                format!("add {missing} to the source and convert it again, or use a Service without Serin"),
            );
        }
        (stable, canary) => {
            for (field, service) in [("stableService", stable), ("canaryService", canary)] {
                let service = service.as_ref();
                draft
                    .canary
                    .extend(service.map(|name| (field.to_owned(), json!(name))));
            }
        }
    }
}

/// Fields about pods that are the same, apart from how they are written.
fn limits(canary: &mut Fields, draft: &mut RolloutDraft) {
    // Without a router Argo Rollouts ignores it.
    let min_pods = canary.take("minPodsPerReplicaSet");
    let min_pods = min_pods.filter(|_| draft.has_router());
    draft
        .canary
        .extend(min_pods.map(|pods| ("minPodsPerReplicaSet".to_owned(), pods)));
    if let Some(mut threshold) = canary.object("replicaProgressThreshold") {
        let is_percentage = threshold.text("type").as_deref() == Some("Percentage");
        let value = threshold.take("value").unwrap_or(Value::Null);
        let value = if is_percentage {
            json!(format!("{value}%"))
        } else {
            value
        };
        draft
            .canary
            .insert("replicaProgressThreshold".to_owned(), value);
        threshold.finish(&mut draft.notes);
    }
    anti_affinity(canary, draft);
    for field in ["canaryMetadata", "stableMetadata"] {
        side_metadata::convert(canary, field, field, draft);
    }
}

fn anti_affinity(canary: &mut Fields, draft: &mut RolloutDraft) {
    let Some(anti_affinity) = canary.take("antiAffinity") else {
        return;
    };
    if draft.spec.contains_key("workloadRef") {
        draft.notes.lost(
            canary.path("antiAffinity"),
            "it cannot be used with workloadRef",
            "write a podAntiAffinity into the pod template of the Deployment",
        );
    } else {
        draft
            .canary
            .insert("antiAffinity".to_owned(), anti_affinity);
    }
}

fn delays(canary: &mut Fields, draft: &mut RolloutDraft) {
    let delay = canary.take("scaleDownDelaySeconds");
    draft
        .canary
        .extend(delay.map(|delay| ("scaleDownDelaySeconds".to_owned(), delay)));
    let field = "abortScaleDownDelaySeconds";
    let path = canary.path(field);
    match canary.number(field) {
        // In Argo Rollouts 0 means never.
        Some(0.0) => {
            draft.canary.insert(field.to_owned(), json!(i32::MAX));
            draft.notes.kept(
                path,
                "0 means never in Argo Rollouts and at once in Serin, so it became the longest delay",
            );
        }
        #[expect(clippy::cast_possible_truncation, reason = "a number of seconds")]
        Some(seconds) => {
            draft.canary.insert(field.to_owned(), json!(seconds as i64));
        }
        None => {}
    }
}
