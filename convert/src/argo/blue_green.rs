//! The blue/green strategy of Argo Rollouts.

use serde_json::{Map, Value, json};

use super::{Names, analysis, delays};
use crate::fields::Fields;
use crate::objects::Objects;
use crate::rollout::RolloutDraft;
use crate::side_metadata;

/// Length of the bake if the analysis after the promotion has no end of its own.
const BAKE_SECONDS_DEFAULT: f64 = 600.0;

/// Converts the strategy of `object`.
pub(super) fn convert(
    set: &Objects<'_>,
    object: &Value,
    strategy: &mut Fields,
    draft: &mut RolloutDraft,
) {
    let active = strategy.text("activeService");
    let preview = strategy.text("previewService");
    let names = Names {
        rollout: draft.name().to_owned(),
        namespace: object["metadata"]["namespace"]
            .as_str()
            .map(ToOwned::to_owned),
        stable: active.clone(),
        canary: preview.clone(),
        labels: object["metadata"]["labels"].clone(),
        annotations: object["metadata"]["annotations"].clone(),
    };
    let mut converted = Map::new();
    let services = [("activeService", active), ("previewService", preview)];
    for (field, service) in services {
        converted.extend(service.map(|name| (field.to_owned(), json!(name))));
    }
    for field in ["previewReplicaCount", "maxUnavailable"] {
        let value = strategy.take(field);
        converted.extend(value.map(|value| (field.to_owned(), value)));
    }
    delays(strategy, draft);
    super::anti_affinity(strategy, draft);
    for field in ["previewMetadata", "activeMetadata"] {
        side_metadata::convert(strategy, field, field, draft);
    }
    converted.append(&mut draft.canary);
    promotion(strategy, &mut converted, draft);
    let before = analyze(set, strategy, "prePromotionAnalysis", &names, draft);
    let after = analyze(set, strategy, "postPromotionAnalysis", &names, draft);
    if before.is_incomplete || after.is_incomplete {
        draft.notes.changed(
            strategy.path("autoPromotionEnabled"),
            "a person confirms the promotion, because not all of its metrics could be converted",
            "check the metrics that the other notes name, and promote by hand",
        );
        converted.insert("autoPromotionEnabled".to_owned(), json!(false));
        converted.remove("autoPromotionSeconds");
    }
    if after.has_metrics {
        let seconds = after.seconds.filter(|seconds| *seconds > 0.0);
        let seconds = seconds.unwrap_or(BAKE_SECONDS_DEFAULT);
        draft.analysis.set_bake_time(format!("{seconds}s"));
    }
    draft.blue_green = Some(converted);
}

fn promotion(strategy: &mut Fields, converted: &mut Map<String, Value>, draft: &mut RolloutDraft) {
    let enabled = strategy.take("autoPromotionEnabled");
    let path = strategy.path("autoPromotionSeconds");
    let seconds = strategy.take("autoPromotionSeconds");
    let seconds = seconds.filter(|seconds| seconds.as_f64().is_some_and(|value| value > 0.0));
    if seconds.is_some() && enabled == Some(json!(false)) {
        draft.notes.changed(
            path,
            "the release is promoted after this time; Argo Rollouts waits for a person as long as \
             autoPromotionEnabled is false",
            "remove autoPromotionSeconds to wait for a person",
        );
    }
    for (field, value) in [
        ("autoPromotionEnabled", enabled),
        ("autoPromotionSeconds", seconds),
    ] {
        converted.extend(value.map(|value| (field.to_owned(), value)));
    }
}

/// What an analysis became.
struct PhaseAnalysis {
    has_metrics: bool,
    is_incomplete: bool,
    seconds: Option<f64>,
}

/// Converts the analysis before or after the promotion into checks of that phase.
fn analyze(
    set: &Objects<'_>,
    strategy: &mut Fields,
    field: &str,
    names: &Names,
    draft: &mut RolloutDraft,
) -> PhaseAnalysis {
    let Some(mut fields) = strategy.object(field) else {
        return PhaseAnalysis {
            has_metrics: false,
            is_incomplete: false,
            seconds: None,
        };
    };
    let is_before = field == "prePromotionAnalysis";
    let phase = if is_before { "beforePromotion" } else { "bake" };
    draft.analysis.phase = Some(phase);
    let converted = analysis::convert(set, &mut fields, names, draft);
    draft.analysis.phase = None;
    if is_before && !converted.objectives.is_empty() {
        draft.notes.changed(
            strategy.path(field),
            "an objective needs traffic, so it is not required before the switch; it is judged in \
             the bake if there is one",
            "set spec.analysis.bakeTime, or write a check about the preview",
        );
    }
    fields.finish(&mut draft.notes);
    PhaseAnalysis {
        has_metrics: !converted.is_empty(),
        is_incomplete: converted.is_incomplete,
        seconds: converted.seconds,
    }
}
