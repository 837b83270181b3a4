//! Traffic routers of Argo Rollouts.

use serde_json::{Map, Value, json};

use super::{Names, native_routers};
use crate::fields::Fields;
use crate::http_route::{from_ingress, gateway_parent, http_route, plain_rule, service_port};
use crate::objects::Objects;
use crate::rollout::RolloutDraft;

/// Router of Argo Rollouts and its name for people.
const ROUTERS: [(&str, &str); 8] = [
    ("istio", "the subsets of an Istio DestinationRule"),
    ("nginx", "the canary annotations of ingress-nginx"),
    ("alb", "the AWS Load Balancer Controller"),
    ("traefik", "a TraefikService"),
    ("ambassador", "Ambassador Mappings"),
    ("appMesh", "AWS App Mesh"),
    ("smi", "an SMI TrafficSplit"),
    ("apisix", "an ApisixRoute"),
];

/// Sets the router. Returns the weight that stands for all of the traffic.
pub(super) fn convert(
    set: &Objects<'_>,
    router: Option<Fields>,
    names: &Names,
    draft: &mut RolloutDraft,
) -> f64 {
    let Some(mut router) = router else {
        return 100.0;
    };
    let max_weight = router.number("maxTrafficWeight").unwrap_or(100.0);
    if let Some(plugins) = router.object("plugins") {
        convert_plugins(plugins, draft);
    }
    for (field, description) in ROUTERS {
        let Some(mut fields) = router.object(field) else {
            continue;
        };
        if draft.has_router() {
            draft.notes.lost(
                router.path(field),
                "Serin splits the traffic in one place, and another router is set",
                "remove one of the two",
            );
            continue;
        }
        if set.options.gateway.is_none() {
            if native_routers::keep(set, field, max_weight, &mut fields, names, draft) {
                fields.finish(&mut draft.notes);
                continue;
            }
            draft.notes.not_yet(
                router.path(field),
                match field {
                    "nginx" => {
                        "Serin needs one canary Ingress, which is written if the only stable \
                                Ingress is part of the input"
                            .to_owned()
                    }
                    _ => format!("Serin does not write {description}"),
                },
                "convert with --gateway NAMESPACE/NAME to move the traffic to an HTTPRoute of that \
                 Gateway, or keep it on Argo Rollouts",
            );
            draft.is_refused = true;
            return max_weight;
        }
        replace_router(set, field, description, &mut fields, names, draft);
    }
    for mut route in router.objects("managedRoutes") {
        if let Some(name) = route.text("name").filter(|_| draft.can_choose_requests()) {
            draft.add_managed_route(&name);
        }
        route.finish(&mut draft.notes);
    }
    router.finish(&mut draft.notes);
    max_weight
}

/// The Gateway API plugin writes the same weights as Serin.
fn convert_plugins(mut plugins: Fields, draft: &mut RolloutDraft) {
    if let Some(mut gateway) = plugins.object("argoproj-labs/gatewayAPI") {
        let mut lists = Vec::new();
        for (one, several) in [
            ("httpRoute", "httpRoutes"),
            ("grpcRoute", "grpcRoutes"),
            ("tlsRoute", "tlsRoutes"),
            ("tcpRoute", "tcpRoutes"),
        ] {
            let routes = plugin_routes(&mut gateway, one, several, draft);
            if !routes.is_empty() {
                lists.push((several, routes));
            }
        }
        let namespace = gateway.text("namespace");
        if namespace.is_some() && namespace.as_deref() != draft.metadata["namespace"].as_str() {
            draft.notes.changed(
                gateway.path("namespace"),
                "Serin reads routes in the namespace of the Rollout",
                "move the route there",
            );
        }
        match lists.as_slice() {
            [] => {}
            [("httpRoutes", routes)] if routes.len() == 1 => {
                draft.set_route(routes[0]["name"].as_str().unwrap_or_default());
            }
            _ => {
                let lists = lists.into_iter();
                let lists: Map<String, Value> = lists
                    .map(|(field, routes)| (field.to_owned(), Value::Array(routes)))
                    .collect();
                let routing = json!({"gatewayAPI": lists});
                draft.canary.insert("trafficRouting".to_owned(), routing);
            }
        }
        gateway.finish(&mut draft.notes);
    }
    if !draft.has_router() && !draft.is_refused {
        draft.notes.not_yet(
            plugins.path("*"),
            "Serin has no plugins for routers",
            "use the Gateway API, or keep it on Argo Rollouts",
        );
        draft.is_refused = true;
    }
}

/// The routes of one kind, which the plugin names by two fields.
fn plugin_routes(
    gateway: &mut Fields,
    one: &str,
    several: &str,
    draft: &mut RolloutDraft,
) -> Vec<Value> {
    let mut routes: Vec<Value> = Vec::new();
    routes.extend(gateway.text(one).map(|name| json!({"name": name})));
    for mut route in gateway.objects(several) {
        routes.extend(route.text("name").map(|name| json!({"name": name})));
        route.ignore(&["useHeaderRoutes"]);
        route.finish(&mut draft.notes);
    }
    routes
}

/// Lets an HTTPRoute of the Gateway in the options carry the traffic.
fn replace_router(
    set: &Objects<'_>,
    router: &str,
    description: &str,
    fields: &mut Fields,
    names: &Names,
    draft: &mut RolloutDraft,
) {
    let Some(parent) = gateway_parent(set) else {
        return;
    };
    let namespace = names.namespace.as_deref();
    draft.notes.changed(
        format!("spec.strategy.canary.trafficRouting.{router}"),
        format!("an HTTPRoute splits the traffic instead of {description}"),
        "let clients use the address of the Gateway, then remove the old route",
    );
    let mut ingresses: Vec<String> = Vec::new();
    ingresses.extend(fields.text("stableIngress"));
    ingresses.extend(fields.text("ingress"));
    for list in ["stableIngresses", "ingresses"] {
        if let Some(Value::Array(more)) = fields.take(list) {
            ingresses.extend(
                more.iter()
                    .filter_map(|name| name.as_str().map(ToOwned::to_owned)),
            );
        }
    }
    let mut converted: Vec<Value> = Vec::new();
    for name in &ingresses {
        match set.find(("networking.k8s.io", "Ingress"), namespace, name) {
            Some(ingress) => {
                converted.extend(from_ingress(set, ingress, &parent, &mut draft.notes));
            }
            None => draft.notes.lost(
                format!("spec.strategy.canary.trafficRouting.{router}"),
                format!(
                    "Ingress {name} is not part of the input, so its hosts and paths are not known"
                ),
                "convert it together with the Ingress",
            ),
        }
    }
    if converted.is_empty() {
        converted.extend(plain_route(set, fields, names, parent, draft));
    }
    fields.ignore(&[
        "virtualService",
        "virtualServices",
        "destinationRule",
        "servicePort",
    ]);
    fields.ignore(&[
        "rootService",
        "trafficSplitName",
        "weightedTraefikServiceName",
    ]);
    fields.ignore(&["mappings", "route", "virtualNodeGroup", "annotationPrefix"]);
    let refs: Vec<Value> = converted
        .iter()
        .map(|route| json!({"name": route["metadata"]["name"]}))
        .collect();
    match refs.as_slice() {
        [] => draft.set_route(&names.rollout),
        [only] => draft.set_route(only["name"].as_str().unwrap_or_default()),
        _ => {
            let routing = json!({"gatewayAPI": {"httpRoutes": refs}});
            draft.canary.insert("trafficRouting".to_owned(), routing);
        }
    }
    draft.others.extend(converted);
}

/// A route with one rule, and the hosts of the VirtualService if it is part of the input.
fn plain_route(
    set: &Objects<'_>,
    fields: &mut Fields,
    names: &Names,
    parent: Value,
    draft: &mut RolloutDraft,
) -> Option<Value> {
    let namespace = names.namespace.as_deref();
    let mut service = fields.object("virtualService");
    let virtual_service = service.as_mut().and_then(|service| service.text("name"));
    let object = virtual_service
        .as_deref()
        .and_then(|name| set.find(("networking.istio.io", "VirtualService"), namespace, name));
    let hosts: Vec<String> = object
        .and_then(|object| object["spec"]["hosts"].as_array())
        .into_iter()
        .flatten()
        .filter_map(|host| host.as_str())
        .filter(|host| {
            *host != "*" && host.contains('.') && host.rsplit('.').next() != Some("local")
        })
        .map(ToOwned::to_owned)
        .collect();
    let stable = names
        .stable
        .clone()
        .unwrap_or_else(|| names.rollout.clone());
    let field = "spec.strategy.canary.trafficRouting";
    let Some(port) = service_port(set, namespace, &stable, None) else {
        draft.notes.lost(
            field,
            format!("no HTTPRoute was written: the port of Service {stable} is not known"),
            format!(
                "convert it together with the Service, or create HTTPRoute {} with a rule for it",
                names.rollout
            ),
        );
        return None;
    };
    if object.is_none() {
        draft.notes.changed(
            field,
            "the HTTPRoute matches every host and path: the old route is not part of the input",
            "add its hostnames and matches",
        );
    } else {
        draft.notes.changed(
            field,
            "matches, timeouts and retries of the VirtualService are not converted",
            "add those that the service needs to the HTTPRoute",
        );
    }
    let rules = vec![plain_rule(&stable, port)];
    Some(http_route(
        &names.rollout,
        namespace,
        vec![parent],
        &hosts,
        rules,
    ))
}
