//! Steps of Argo Rollouts.

use serde_json::{Value, json};

use super::{Names, analysis};
use crate::checks::seconds;
use crate::fields::Fields;
use crate::objects::Objects;
use crate::rollout::RolloutDraft;

/// Converts all steps.
pub(super) fn convert(
    set: &Objects<'_>,
    steps: Vec<Fields>,
    names: &Names,
    max_weight: f64,
    draft: &mut RolloutDraft,
) {
    let mut weight = 0.0;
    for mut step in steps {
        if let Some(wanted) = step.number("setWeight") {
            weight = scaled(wanted, max_weight, &step.path("setWeight"), draft);
            draft.steps.push(json!({"setWeight": number(weight)}));
        }
        if let Some(pause) = step.object("pause") {
            convert_pause(pause, draft);
        } else if step.take("pause").is_some() {
            draft.steps.push(json!({"pause": {}}));
        }
        if let Some(scale) = step.object("setCanaryScale") {
            convert_scale(scale, max_weight, draft);
        }
        if let Some(inline) = step.object("analysis") {
            analysis::step(set, inline, names, weight, draft);
        }
        convert_managed_routes(&mut step, draft);
        convert_unsupported(&mut step, draft);
        step.finish(&mut draft.notes);
    }
}

/// A weight in percent with up to three decimals.
fn scaled(weight: f64, max_weight: f64, path: &str, draft: &mut RolloutDraft) -> f64 {
    let percent = weight / max_weight * 100.0;
    let rounded = (percent * 1_000.0).round() / 1_000.0;
    if (percent - rounded).abs() > 1e-9 {
        draft
            .notes
            .changed(path, format!("the weight is rounded to {rounded} %"), "");
    }
    rounded
}

/// A whole number without a fraction.
fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "a whole percentage")]
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

fn convert_pause(mut pause: Fields, draft: &mut RolloutDraft) {
    let path = pause.path("duration");
    let step = match pause.take("duration") {
        None => json!({"pause": {}}),
        Some(Value::Number(zero)) if zero.as_i64() == Some(0) => {
            draft.notes.kept(path, "a pause of 0 s is left out");
            return;
        }
        Some(Value::String(text)) if is_zero(&text) => {
            draft.notes.kept(path, "a pause of 0 s is left out");
            return;
        }
        Some(duration) => json!({"pause": {"duration": duration}}),
    };
    pause.finish(&mut draft.notes);
    draft.steps.push(step);
}

fn is_zero(text: &str) -> bool {
    text == "0" || seconds(text) == Some(0.0)
}

fn convert_scale(mut scale: Fields, max_weight: f64, draft: &mut RolloutDraft) {
    let path = scale.path("*");
    if !draft.has_router() {
        draft.notes.changed(
            path,
            "without a router the pods follow the weight, so the step is left out",
            "use setWeight",
        );
        return;
    }
    let size = if scale.flag("matchTrafficWeight") {
        json!({"matchTrafficWeight": true})
    } else if let Some(replicas) = scale.number("replicas") {
        json!({"replicas": number(replicas)})
    } else if let Some(weight) = scale.number("weight") {
        json!({"weight": number(scaled(weight, max_weight, &path, draft))})
    } else {
        json!({"matchTrafficWeight": true})
    };
    scale.ignore(&["replicas", "weight", "matchTrafficWeight"]);
    scale.finish(&mut draft.notes);
    draft.steps.push(json!({"setCanaryScale": size}));
}

/// Steps without a counterpart. One that decides about the release becomes a pause for a person, so
/// that nothing is promoted without it.
fn convert_unsupported(step: &mut Fields, draft: &mut RolloutDraft) {
    for (field, what) in [
        ("experiment", "experiments"),
        ("plugin", "plugins for steps"),
    ] {
        let path = step.path(field);
        if step.take(field).is_some() {
            draft.notes.not_yet(
                path,
                format!("Serin has no {what}: the step waits for a person instead"),
                "promote it by hand, or remove the pause",
            );
            draft.steps.push(json!({"pause": {}}));
        }
    }
}

/// Steps that choose requests. Serin sets the same rules, but only in routes that can hold them.
fn convert_managed_routes(step: &mut Fields, draft: &mut RolloutDraft) {
    for field in ["setHeaderRoute", "setMirrorRoute"] {
        let path = step.path(field);
        let Some(route) = step.take(field) else {
            continue;
        };
        if !draft.can_choose_requests() {
            draft.notes.not_yet(
                path,
                "Serin writes rules for requests only into HTTPRoutes, GRPCRoutes and \
                 VirtualServices: the step is left out",
                "move the traffic to an HTTPRoute, or write a rule of your own",
            );
            continue;
        }
        let name = route["name"].as_str().unwrap_or_default();
        draft.add_managed_route(name);
        if field == "setMirrorRoute" && route["match"].as_array().is_some_and(|all| !all.is_empty())
        {
            draft.notes.changed(
                path,
                "the requests that are copied are divided by the weight, as all others, instead of \
                 being sent to stable only",
                "set the rule before the first setWeight, and remove it there",
            );
        }
        draft.steps.push(json!({field: route}));
    }
}
