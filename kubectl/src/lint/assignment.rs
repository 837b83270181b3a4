//! Affinity in the files, because of which clients and not requests are assigned to a side.

use serde_json::Value;
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::plan::{Plan, Routing};
use serin_crds::RolloutSpec;
use serin_traffic::{RoutedObject, ServiceFacts, router_of, sticky_annotation};

/// The warning that clients are assigned to a side of a Rollout with an analysis. If all of the
/// traffic moves at once, nothing stays on a side. Connections, which
/// every Rollout without a router assigns, are reported by the controller only: a mesh is not visible
/// in the files.
pub(super) fn sticky_clients(rollout: &Value, objects: &[&Value]) -> Option<String> {
    let spec: RolloutSpec = serde_json::from_value(rollout["spec"].clone()).ok()?;
    let plan = spec.plan(rollout["metadata"]["name"].as_str()?).ok()?;
    plan.canary()
        .analysis
        .as_ref()
        .filter(|_| !plan.is_blue_green())?;
    let find = |kind: &str, name: &str| {
        let mut objects = objects.iter().copied();
        objects.find(|object| {
            let namespaces =
                [rollout, object].map(|object| object["metadata"]["namespace"].as_str());
            object["kind"] == kind
                && object["metadata"]["name"] == name
                && (namespaces.contains(&None) || namespaces[0] == namespaces[1])
        })
    };
    let unit = assignment_unit(&plan, find);
    matches!(unit, AssignmentUnit::Client { .. }).then(|| unit.to_string())
}

fn assignment_unit<'a>(
    plan: &Plan,
    find: impl Fn(&str, &str) -> Option<&'a Value>,
) -> AssignmentUnit {
    let services: Vec<ServiceFacts<'_>> = plan
        .services()
        .into_iter()
        .flat_map(Routing::services)
        .filter_map(|(_, name)| {
            let service = find("Service", name)?;
            let annotations = service["metadata"]["annotations"].as_object();
            let annotations = annotations.into_iter().flatten();
            let annotations =
                annotations.filter_map(|(name, value)| Some((&**name, value.as_str()?)));
            Some(ServiceFacts {
                name,
                session_affinity: service["spec"]["sessionAffinity"].as_str(),
                sticky_annotation: sticky_annotation(annotations),
                app_protocols: &[],
            })
        })
        .collect();
    let routes: Option<Vec<_>> = plan.routing().map(|routing| {
        let routes = routing.routes.iter();
        routes
            .filter_map(|route| {
                let of_kind = router_of(route.kind);
                Some(RoutedObject {
                    router: of_kind,
                    object: find(of_kind.kind(), &route.name)?,
                    rule: route.rule.as_deref(),
                })
            })
            .collect()
    });
    let stable = plan
        .services()
        .map(|routing| routing.stable_service().as_str());
    serin_traffic::assignment_unit(routes.as_deref(), stable, &services)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rollout(analysis: &Value) -> Value {
        json!({
            "kind": "Rollout", "metadata": {"name": "shop", "namespace": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "shop"}},
                "template": {
                    "metadata": {"labels": {"app": "shop"}},
                    "spec": {"containers": [{"name": "app", "image": "a"}]},
                },
                "strategy": {"canary": {
                    "trafficRouting": {"gatewayAPI": {"httpRoute": "shop"}},
                    "steps": [{"setWeight": 20}],
                }},
                "analysis": analysis,
            },
        })
    }

    fn analyzed() -> Value {
        rollout(&json!({"objectives": [
            {"name": "availability", "objective": 99.9, "indicator": "traefik"},
        ]}))
    }

    fn service(namespace: &str, affinity: &str) -> Value {
        json!({
            "kind": "Service", "metadata": {"name": "shop", "namespace": namespace},
            "spec": {"sessionAffinity": affinity},
        })
    }

    #[test]
    fn the_affinity_of_the_stable_service_is_a_warning() {
        let warning = sticky_clients(&analyzed(), &[&service("shop", "ClientIP")]).unwrap();
        let why = "Service shop: spec.sessionAffinity is ClientIP";
        assert!(
            warning.starts_with(why) && warning.contains("Remove the affinity"),
            "{warning}"
        );
    }

    #[test]
    fn a_sticky_cookie_of_traefik_is_a_warning() {
        let mut service = service("shop", "None");
        let annotation = "traefik.ingress.kubernetes.io/service.sticky.cookie";
        service["metadata"]["annotations"] = json!({annotation: "true"});
        let warning = sticky_clients(&analyzed(), &[&service]).unwrap();
        assert!(
            warning.starts_with(&format!("Service shop: annotation {annotation} is true")),
            "{warning}"
        );
    }

    #[test]
    fn the_session_persistence_of_the_route_is_a_warning() {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "shop"},
            "spec": {"rules": [{
                "backendRefs": [{"name": "shop", "port": 80}], "sessionPersistence": {},
            }]},
        });
        let warning = sticky_clients(&analyzed(), &[&route]).unwrap();
        assert!(
            warning.contains("spec.rules[0].sessionPersistence"),
            "{warning}"
        );
    }

    #[test]
    fn no_affinity_another_namespace_and_no_analysis_are_no_warning() {
        for other in [service("shop", "None"), service("other", "ClientIP")] {
            assert_eq!(sticky_clients(&analyzed(), &[&other]), None);
        }
        let service = service("shop", "ClientIP");
        assert_eq!(sticky_clients(&rollout(&Value::Null), &[&service]), None);
    }
}
