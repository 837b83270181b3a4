//! Canaries of Flagger.

pub(crate) mod generated;
mod metrics;
mod service;
mod webhooks;

use serde_json::{Value, json};

use crate::fields::Fields;
use crate::note::Translation;
use crate::objects::Objects;
use crate::rollout::RolloutDraft;

/// Maximum number of steps, as in the schema.
const MAX_STEPS: usize = 100;

/// What the queries of a Canary may name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub canary: String,
    pub namespace: Option<String>,
    pub target: String,
    /// The Service that carries all of the traffic.
    pub apex: String,
    pub ingress: Option<String>,
    pub route: Option<String>,
}

/// The name of the Service that carries all of the traffic of a Canary.
pub(crate) fn apex_name(canary: &Value) -> Option<&str> {
    let spec = &canary["spec"];
    let name = spec["service"]["name"].as_str();
    name.or_else(|| spec["targetRef"]["name"].as_str())
}

/// Converts a Canary.
pub(crate) fn convert(set: &Objects<'_>, object: &Value) -> Translation {
    let mut draft = RolloutDraft::new(object);
    let mut spec = Fields::new("spec", object["spec"].clone());
    let Some(target) = target(&mut spec, &mut draft) else {
        draft.is_refused = true;
        return draft.finish();
    };
    let names = Names {
        canary: draft.name().to_owned(),
        namespace: object["metadata"]["namespace"]
            .as_str()
            .map(ToOwned::to_owned),
        apex: apex_name(object).unwrap_or(&target).to_owned(),
        ingress: object["spec"]["ingressRef"]["name"]
            .as_str()
            .map(ToOwned::to_owned),
        route: object["spec"]["routeRef"]["name"]
            .as_str()
            .map(ToOwned::to_owned),
        target,
    };
    generated::report_other_images(set, &names, &mut draft);
    if spec.flag("suspend") {
        draft.spec.insert("paused".to_owned(), json!(true));
    }
    draft.copy(&mut spec, &["progressDeadlineSeconds"]);
    let provider = spec.text("provider");
    let mut service = spec.object("service").unwrap_or_default();
    let mut analysis = spec
        .object("analysis")
        .or_else(|| spec.object("canaryAnalysis"));
    let uses_weights = analysis.as_ref().is_some_and(has_weights);
    if !uses_weights {
        draft.notes.not_yet(
            "spec.analysis.iterations",
            "without weights Flagger switches all traffic at once (blue/green or A/B testing), which \
             is not converted",
            "add stepWeight and maxWeight, or write spec.strategy.blueGreen by hand",
        );
        draft.is_refused = true;
        return draft.finish();
    }
    service::convert(
        set,
        provider.as_deref(),
        &mut spec,
        &mut service,
        &names,
        &mut draft,
    );
    if draft.is_refused {
        return draft.finish();
    }
    service.finish(&mut draft.notes);
    if let Some(address) = spec.text("metricsServer")
        && let Err(why) = draft.analysis.set_address(&address)
    {
        draft.notes.lost("spec.metricsServer", why, "");
    }
    let skips_analysis = spec.flag("skipAnalysis");
    if let Some(mut analysis) = analysis.take() {
        if skips_analysis {
            analysis.ignore(&["metrics"]);
            draft
                .notes
                .kept("spec.skipAnalysis", "the Rollout has no analysis");
        }
        convert_analysis(set, &mut analysis, provider.as_deref(), &names, &mut draft);
        analysis.finish(&mut draft.notes);
    }
    autoscaler(&mut spec, &mut draft);
    spec.ignore(&["ingressRef", "routeRef", "upstreamRef", "revertOnDeletion"]);
    spec.finish(&mut draft.notes);
    draft.finish()
}

fn has_weights(analysis: &Fields) -> bool {
    (analysis.has("stepWeight") || analysis.has("stepWeights") || analysis.has("maxWeight"))
        && !analysis.has("match")
}

/// The name of the Deployment. `None` if the target is not one.
fn target(spec: &mut Fields, draft: &mut RolloutDraft) -> Option<String> {
    let mut reference = spec.object("targetRef")?;
    let kind = reference.text("kind").unwrap_or_default();
    let name = reference.text("name").unwrap_or_default();
    if kind != "Deployment" {
        draft.notes.not_yet(
            reference.path("kind"),
            format!("a {kind} cannot be released"),
            "use a Deployment",
        );
        return None;
    }
    reference.ignore(&["apiVersion"]);
    reference.finish(&mut draft.notes);
    let workload = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name});
    draft.spec.insert("workloadRef".to_owned(), workload);
    Some(name)
}

fn autoscaler(spec: &mut Fields, draft: &mut RolloutDraft) {
    let Some(mut reference) = spec.object("autoscalerRef") else {
        return;
    };
    let kind = reference.text("kind").unwrap_or_default();
    let name = reference.text("name").unwrap_or_default();
    draft.notes.changed(
        reference.path("name"),
        format!("{kind} {name} scales the Rollout, and Serin makes no copy of it"),
        "set its scaleTargetRef to the Rollout; an autoscaler in the input is converted",
    );
    reference.ignore(&[
        "apiVersion",
        "primaryScalerQueries",
        "primaryScalerReplicas",
    ]);
    reference.finish(&mut draft.notes);
}

fn convert_analysis(
    set: &Objects<'_>,
    analysis: &mut Fields,
    provider: Option<&str>,
    names: &Names,
    draft: &mut RolloutDraft,
) {
    let interval = analysis.text("interval").unwrap_or_else(|| "1m".to_owned());
    let threshold = analysis.number("threshold");
    let is_incomplete =
        metrics::convert(set, analysis, provider, names, &interval, threshold, draft);
    let weights = weights(analysis);
    let waits = if draft.analysis.is_empty() {
        json!({"pause": {"duration": interval}})
    } else {
        json!({"analysis": {"duration": interval}})
    };
    if weights.len() * 2 > MAX_STEPS {
        let (first, last) = (weights.first().copied(), weights.last().copied());
        draft.notes.changed(
            "spec.analysis.stepWeight",
            format!(
                "{} weights are too many steps: the evidence sets the pace",
                weights.len()
            ),
            "raise stepWeight to keep fixed steps",
        );
        let pace = json!({"firstWeight": first, "maxWeight": last});
        draft.canary.insert("pace".to_owned(), pace);
    } else {
        for weight in weights {
            draft.steps.push(json!({"setWeight": weight}));
            // With all of the traffic there is nothing to compare with.
            let is_full = weight >= 100;
            let waits = if is_full {
                json!({"pause": {"duration": interval}})
            } else {
                waits.clone()
            };
            draft.steps.push(waits);
        }
    }
    webhooks::convert(analysis, &interval, threshold, names, draft);
    if is_incomplete && !draft.canary.contains_key("pace") {
        draft.pause_before_promotion("spec.analysis.metrics");
    }
}

/// The weights in percent, in order.
fn weights(analysis: &mut Fields) -> Vec<u32> {
    let listed = analysis.take("stepWeights");
    let step = analysis.number("stepWeight");
    let max = analysis.number("maxWeight");
    if let Some(Value::Array(listed)) = listed {
        let listed = listed
            .iter()
            .filter_map(|weight| u32::try_from(weight.as_u64()?).ok());
        return listed.filter(|weight| (1..=100).contains(weight)).collect();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to 100"
    )]
    let percent = |value: f64| value.clamp(1.0, 100.0) as u32;
    let max = percent(max.unwrap_or(100.0));
    let step = percent(step.unwrap_or(f64::from(max)));
    let mut weights: Vec<u32> = (1..max)
        .map(|index| index * step)
        .take_while(|weight| *weight < max)
        .collect();
    weights.push(max);
    weights
}
