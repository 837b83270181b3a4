//! Routers of Argo Rollouts that Serin writes too: the Rollout keeps its objects.

use serde_json::{Value, json};

use super::Names;
use crate::fields::Fields;
use crate::nginx::{PREFIX, canary_ingress};
use crate::objects::Objects;
use crate::rollout::RolloutDraft;

/// Keeps the objects of a router. Returns false if Serin does not write them, or not from this input.
pub(super) fn keep(
    set: &Objects<'_>,
    router: &str,
    max_weight: f64,
    fields: &mut Fields,
    names: &Names,
    draft: &mut RolloutDraft,
) -> bool {
    let routing = match router {
        "istio" => virtual_services(fields, draft),
        "nginx" => ingress(set, max_weight, fields, names, draft),
        "traefik" => fields
            .text("weightedTraefikServiceName")
            .map(|name| json!({"traefik": {"traefikServices": [{"name": name}]}})),
        "apisix" => apisix_route(fields, draft),
        _ => None,
    };
    let Some(routing) = routing else {
        return false;
    };
    draft.canary.insert("trafficRouting".to_owned(), routing);
    true
}

/// The VirtualServices that split the traffic between two hosts. `None` if they split it between
/// subsets of a DestinationRule, which Serin does not write.
fn virtual_services(istio: &mut Fields, draft: &mut RolloutDraft) -> Option<Value> {
    if istio.has("destinationRule") {
        return None;
    }
    let one = istio.object("virtualService").into_iter();
    let services: Vec<Fields> = one.chain(istio.objects("virtualServices")).collect();
    let mut kept: Vec<Value> = Vec::new();
    for mut service in services {
        let name = service.text("name").unwrap_or_default();
        // Argo Rollouts also accepts NAME.NAMESPACE.
        let (name, namespace) = name.split_once('.').unwrap_or((&name, ""));
        let own = draft.metadata["namespace"].as_str().unwrap_or_default();
        if !namespace.is_empty() && namespace != own {
            draft.notes.changed(
                service.path("name"),
                "Serin reads VirtualServices in the namespace of the Rollout",
                "move the VirtualService there",
            );
        }
        let mut one = json!({"name": name});
        for field in ["routes", "tlsRoutes", "tcpRoutes"] {
            if let Some(list) = service.take(field) {
                one[field] = list;
            }
        }
        service.finish(&mut draft.notes);
        kept.push(one);
    }
    (!kept.is_empty()).then(|| json!({"istio": {"virtualServices": kept}}))
}

/// Writes the canary Ingress that Argo Rollouts would make of the stable one. `None` unless there is
/// exactly one stable Ingress, and it is part of the input.
fn ingress(
    set: &Objects<'_>,
    max_weight: f64,
    fields: &mut Fields,
    names: &Names,
    draft: &mut RolloutDraft,
) -> Option<Value> {
    let other_prefix = fields.text("annotationPrefix");
    let other_prefix = other_prefix.filter(|prefix| format!("{prefix}/") != PREFIX);
    if fields.has("stableIngresses") || other_prefix.is_some() {
        return None;
    }
    let name = fields.text("stableIngress")?;
    let namespace = names.namespace.as_deref();
    let stable = set.find(("networking.k8s.io", "Ingress"), namespace, &name)?;
    let service = names.stable.as_deref().unwrap_or(&names.rollout);
    let canary = match &names.canary {
        Some(canary) => canary.clone(),
        None => format!("{}-canary", names.rollout),
    };
    let mut made = canary_ingress(stable, service, &canary)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive whole number"
    )]
    if max_weight > 100.0 {
        let total = (max_weight as u64).to_string();
        made["metadata"]["annotations"][format!("{PREFIX}canary-weight-total")] = json!(total);
    }
    for (short, value) in annotations(fields) {
        let key = format!("{PREFIX}{short}");
        if short.starts_with("canary") {
            draft.notes.not_yet(
                fields.path("additionalIngressAnnotations"),
                format!("{short} is not kept: it would send requests to the canary at any weight"),
                "route by header with a rule of your own",
            );
        } else {
            made["metadata"]["annotations"][key] = value;
        }
    }
    let ingress = made["metadata"]["name"].clone();
    draft.notes.kept(
        fields.path("stableIngress"),
        format!(
            "Ingress {} is written for the canary; Argo Rollouts deletes its own with its Rollout",
            ingress.as_str().unwrap_or_default()
        ),
    );
    draft.others.push(made);
    Some(json!({"nginx": {"canaryIngress": ingress}}))
}

/// The annotations for the canary Ingress, without their prefix.
fn annotations(fields: &mut Fields) -> Vec<(String, Value)> {
    let lists = ["additionalIngressAnnotations", "canaryIngressAnnotations"];
    let taken = lists.map(|list| fields.take(list));
    let all = taken.into_iter().flatten().filter_map(|list| match list {
        Value::Object(map) => Some(map),
        _ => None,
    });
    all.flatten()
        .map(|(key, value)| (key.trim_start_matches(PREFIX).to_owned(), value))
        .collect()
}

fn apisix_route(fields: &mut Fields, draft: &mut RolloutDraft) -> Option<Value> {
    let mut route = fields.object("route")?;
    let name = route.text("name")?;
    let mut kept = json!({"name": name});
    if let Some(rules) = route.take("rules") {
        kept["rules"] = rules;
    }
    route.finish(&mut draft.notes);
    Some(json!({"apisix": {"apisixRoutes": [kept]}}))
}
