//! Rollouts of OpenKruise.

use serde_json::{Value, json};

use crate::fields::Fields;
use crate::http_route::gateway_parent;
use crate::note::Translation;
use crate::objects::{Objects, kruise_reference};
use crate::rollout::RolloutDraft;
use crate::side_metadata;

/// Converts a Rollout.
pub(crate) fn convert(set: &Objects<'_>, object: &Value) -> Translation {
    let mut draft = RolloutDraft::new(object);
    let reference = kruise_reference(object).clone();
    let name = reference["name"].as_str().unwrap_or_default().to_owned();
    if reference["kind"] != "Deployment" {
        draft.notes.not_yet(
            "spec.workloadRef.kind",
            "only a Deployment can be released",
            "use a Deployment",
        );
        draft.is_refused = true;
        return draft.finish();
    }
    let workload = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name});
    draft.spec.insert("workloadRef".to_owned(), workload);
    let mut spec = Fields::new("spec", object["spec"].clone());
    spec.ignore(&["workloadRef", "objectRef"]);
    if spec.flag("disabled") {
        draft
            .notes
            .changed("spec.disabled", "the Rollout is paused", "");
        draft.spec.insert("paused".to_owned(), json!(true));
    }
    let mut strategy = spec.object("strategy").unwrap_or_default();
    if strategy.flag("paused") {
        draft.spec.insert("paused".to_owned(), json!(true));
    }
    if strategy.has("blueGreen") {
        draft.notes.not_yet(
            "spec.strategy.blueGreen",
            "blue/green is not converted, because it switches in steps there",
            "write spec.strategy.blueGreen by hand",
        );
        draft.is_refused = true;
        return draft.finish();
    }
    let mut canary = strategy.object("canary").unwrap_or_default();
    routing(set, &mut canary, object, &mut draft);
    if draft.is_refused {
        return draft.finish();
    }
    let replicas = set
        .deployment(object["metadata"]["namespace"].as_str(), &name)
        .and_then(|deployment| deployment["spec"]["replicas"].as_f64());
    for step in canary.objects("steps") {
        convert_step(step, replicas, &mut draft);
    }
    side_metadata::convert(
        &mut canary,
        "patchPodTemplateMetadata",
        "canaryMetadata",
        &mut draft,
    );
    canary.finish(&mut draft.notes);
    strategy.finish(&mut draft.notes);
    spec.finish(&mut draft.notes);
    draft.finish()
}

fn routing(set: &Objects<'_>, canary: &mut Fields, object: &Value, draft: &mut RolloutDraft) {
    for mut routing in canary.objects("trafficRoutings") {
        let service = routing.text("service").unwrap_or_default();
        draft
            .canary
            .insert("stableService".to_owned(), json!(service));
        draft.canary.insert(
            "canaryService".to_owned(),
            json!(format!("{service}-canary")),
        );
        if let Some(grace) = routing.number("gracePeriodSeconds") {
            draft.notes.kept(
                routing.path("gracePeriodSeconds"),
                format!(
                    "the {grace} s are not needed: Serin waits until the router reports the change"
                ),
            );
        }
        let mut gateway = routing.object("gateway").unwrap_or_default();
        if let Some(route) = gateway.text("httpRouteName") {
            draft.set_route(&route);
        } else if let Some(mut ingress) = routing.object("ingress") {
            let name = ingress.text("name").unwrap_or_default();
            ingress.ignore(&["classType"]);
            let namespace = object["metadata"]["namespace"].as_str();
            let found = set.find(("networking.k8s.io", "Ingress"), namespace, &name);
            match (gateway_parent(set), found) {
                (Some(parent), Some(found)) => {
                    draft.notes.changed(
                        routing.path("ingress"),
                        "an HTTPRoute splits the traffic instead of the Ingress",
                        "let clients use the address of the Gateway, then remove the Ingress",
                    );
                    let routes =
                        crate::http_route::from_ingress(set, found, &parent, &mut draft.notes);
                    if let Some(route) = routes.first() {
                        draft.set_route(route["metadata"]["name"].as_str().unwrap_or_default());
                    }
                    draft.others.extend(routes);
                }
                _ => {
                    draft.notes.not_yet(
                        routing.path("ingress"),
                        "Serin does not write Ingresses",
                        "convert it together with the Ingress and with --gateway NAMESPACE/NAME",
                    );
                    draft.is_refused = true;
                }
            }
        } else {
            draft.notes.not_yet(
                routing.path("*"),
                "only an HTTPRoute can be split",
                "use gateway.httpRouteName",
            );
            draft.is_refused = true;
        }
        gateway.finish(&mut draft.notes);
        routing.finish(&mut draft.notes);
    }
}

fn convert_step(mut step: Fields, replicas: Option<f64>, draft: &mut RolloutDraft) {
    let path = step.path("replicas");
    let pods = step.text("replicas");
    let traffic = step.text("traffic").or_else(|| step.text("weight"));
    let traffic = traffic.and_then(|text| text.trim_end_matches('%').parse::<f64>().ok());
    let percent = |pods: &str| {
        pods.strip_suffix('%')
            .and_then(|text| text.parse::<f64>().ok())
    };
    if draft.has_router() {
        let scale = pods.as_deref().and_then(|pods| match percent(pods) {
            Some(weight) => Some(json!({"weight": weight})),
            None => pods
                .parse::<i64>()
                .ok()
                .map(|pods| json!({"replicas": pods})),
        });
        draft
            .steps
            .extend(scale.map(|scale| json!({"setCanaryScale": scale})));
        draft
            .steps
            .extend(traffic.map(|weight| json!({"setWeight": weight})));
    } else {
        let by_pods = pods.as_deref().and_then(|pods| {
            percent(pods).or_else(|| {
                let share = pods.parse::<f64>().ok()? / replicas.filter(|all| *all > 0.0)? * 100.0;
                Some((share.min(100.0) * 1_000.0).round() / 1_000.0)
            })
        });
        match by_pods.or(traffic) {
            Some(weight) => draft.steps.push(json!({"setWeight": weight})),
            None => draft.notes.lost(
                path,
                "the share of the pods is not known",
                "convert it together with the Deployment, or write replicas as a percentage",
            ),
        }
    }
    let mut pause = step.object("pause").unwrap_or_default();
    let pause = match pause.take("duration") {
        Some(duration) => json!({"pause": {"duration": duration}}),
        None => json!({"pause": {}}),
    };
    draft.steps.push(pause);
    step.finish(&mut draft.notes);
}
