//! Why a Service or a route of a plan is not written, or less often: another Rollout holds it, it
//! must not be taken, or somebody else keeps changing it.

use std::collections::BTreeMap;

use serin_core::effect::Side;
use serin_core::hold::{Hold, HoldCode};
use serin_core::plan::{RouteRef, Routing};
use serin_crds::RolloutSpec;
use serin_crds::names::{ARGO_TEMPLATE_HASH_LABEL, REVISION_LABEL, ROLLOUT_LABEL};
use serin_traffic::router_of;

use super::Snapshot;
use crate::cluster_cache::{CachedService, Claimant, ClusterCache, Key, RolloutObject, RouteKey};
use crate::effects::{Corrections, route_label};

impl Snapshot {
    /// Records what holds the Services and routes of a plan.
    pub fn record_holds(
        &mut self,
        cache: &ClusterCache,
        rollout: &RolloutObject,
        routing: Option<&Routing>,
        corrections: &Corrections,
    ) {
        let Some(routing) = routing else { return };
        let spec = rollout.spec.as_deref().ok();
        for (side, name) in routing.services() {
            let service = self.services.get(name).map(AsRef::as_ref);
            let hold = self
                .ownership_conflict(cache, side, name, spec)
                .or_else(|| refusal(side, service?, rollout, spec))
                .or_else(|| corrections.hold(&format!("Service {name}"), writer(service)));
            self.service_holds
                .extend(hold.map(|hold| (name.clone(), hold)));
        }
        for route in &routing.routes {
            let object = route_label(route);
            let cached = self.route_object(route);
            let writer = cached.and_then(|cached| cached.other_writer.as_deref());
            let hold = self
                .shared_rule(cache, rollout, routing, route)
                .or_else(|| corrections.hold(&object, writer));
            self.route_holds
                .extend(hold.map(|hold| (route.clone(), hold)));
        }
    }

    /// Another Rollout holds the Service.
    fn ownership_conflict(
        &self,
        cache: &ClusterCache,
        side: Side,
        name: &str,
        spec: Option<&RolloutSpec>,
    ) -> Option<Hold> {
        let key = Key::new(&self.rollout.namespace, name);
        let holder = cache.other_holder(&key, &self.rollout)?.name;
        let service = self.services.get(name);
        let is_bound = service.is_some_and(|service| service.rollout.as_ref() == Some(&holder));
        let why = if is_bound { "has bound it" } else { "is older" };
        let message = format!(
            "{}: Service {name} is held by Rollout {holder}, which {why}; use another Service, or \
             delete Rollout {holder}",
            field(side, spec)
        );
        Some(Hold::new(HoldCode::OwnershipConflict, message))
    }

    /// An older Rollout splits the same rule between other Services.
    fn shared_rule(
        &self,
        cache: &ClusterCache,
        rollout: &RolloutObject,
        routing: &Routing,
        route: &RouteRef,
    ) -> Option<Hold> {
        let cached = self.route_object(route)?;
        let router = router_of(route.kind);
        let stable = routing.stable_service();
        let rules = router.managed_rules(&cached.object, route.rule.as_deref(), stable);
        let (key, own) = (
            RouteKey::new(&self.rollout.namespace, route),
            Claimant::new(rollout),
        );
        for rule in rules.ok()? {
            let is_rule = |name: &str| {
                let named = router.managed_rules(&cached.object, Some(name), stable);
                named.is_ok_and(|named| named.iter().any(|named| named.title == rule.title))
            };
            let others = rule.services.iter();
            for service in others.filter(|name| routing.side_of(name).is_none()) {
                let service = Key::new(&self.rollout.namespace, service);
                let older = cache
                    .claimants(&service)
                    .into_iter()
                    .find(|other| *other < own && cache.splits_rule(&other.rollout, &key, is_rule));
                if let Some(older) = older {
                    let message = format!(
                        "{} {}: the rule that sends requests to Service {stable} is held by Rollout \
                         {}, which is older and splits it between other Services; use a rule for \
                         each of the two",
                        router.kind(),
                        route.name,
                        older.rollout.name
                    );
                    return Some(Hold::new(HoldCode::OwnershipConflict, message));
                }
            }
        }
        None
    }
}

fn writer(service: Option<&CachedService>) -> Option<&str> {
    service.and_then(|service| service.other_writer.as_deref())
}

/// The field that names the Service of a side.
fn field(side: Side, spec: Option<&RolloutSpec>) -> &'static str {
    let is_blue_green = spec.is_some_and(|spec| spec.strategy.blue_green.is_some());
    match (side, is_blue_green) {
        (Side::Stable, false) => "spec.strategy.canary.stableService",
        (Side::Canary, false) => "spec.strategy.canary.canaryService",
        (Side::Stable, true) => "spec.strategy.blueGreen.activeService",
        (Side::Canary, true) => "spec.strategy.blueGreen.previewService",
    }
}

/// Why a Service must not be taken. A Service with the label of the Rollout may be: only somebody
/// who may change the Service can have set it.
fn refusal(
    side: Side,
    service: &CachedService,
    rollout: &RolloutObject,
    spec: Option<&RolloutSpec>,
) -> Option<Hold> {
    let Key { namespace, name } = &service.identity.key;
    let (problem, fix) = if (namespace.as_str(), name.as_str()) == ("default", "kubernetes") {
        (
            "it is the Service of the API server".to_owned(),
            "use another Service",
        )
    } else if service.rollout == rollout.metadata.name {
        return None;
    } else {
        problem_of(service, rollout, spec)?
    };
    let message = format!(
        "{}: Service {name} is not taken: {problem}; {fix}",
        field(side, spec)
    );
    Some(Hold::new(HoldCode::ServiceRefused, message))
}

/// What is wrong with a Service that the Rollout has not taken yet, and the fix.
fn problem_of(
    service: &CachedService,
    rollout: &RolloutObject,
    spec: Option<&RolloutSpec>,
) -> Option<(String, &'static str)> {
    if let Some(owner) = &service.owner
        && service.owner_uid.as_deref() != Some(rollout.uid())
    {
        let problem = format!("its controller is {} {}", owner.kind, owner.name);
        return Some((problem, "use a Service without a controller"));
    }
    if service.spec.type_.as_deref() == Some("ExternalName") {
        let problem = "spec.type is ExternalName, which selects no pods".to_owned();
        return Some((problem, "make it a ClusterIP Service"));
    }
    let mut selector: BTreeMap<String, String> = service.spec.selector.clone().unwrap_or_default();
    selector.remove(REVISION_LABEL);
    if selector.is_empty() {
        let problem = "spec.selector is empty, so its endpoints are not those of pods".to_owned();
        return Some((
            problem,
            "set a selector that selects the pods of the template",
        ));
    }
    let template = spec?.template.metadata.as_ref();
    let mut labels = template
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default();
    let name = rollout.metadata.name.clone().unwrap_or_default();
    labels.insert(ROLLOUT_LABEL.to_owned(), name);
    let (key, value) = selector
        .iter()
        .find(|(key, value)| labels.get(*key) != Some(*value))?;
    if key == ARGO_TEMPLATE_HASH_LABEL {
        let problem = format!("Argo Rollouts selects its pods with {key}={value}");
        let fix = "delete its Rollout with --cascade=orphan, so that Argo Rollouts removes the key, \
                   or remove the key if Argo Rollouts does not run any more";
        return Some((problem, fix));
    }
    let problem = match labels.get(key) {
        Some(label) => format!(
            "spec.selector has {key}={value}, and the pods of the template have {key}={label}"
        ),
        None => {
            format!("spec.selector has {key}={value}, and the pods of the template lack that label")
        }
    };
    Some((
        problem,
        "use the labels of spec.template, or another Service",
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rollout() -> RolloutObject {
        RolloutObject::from_json(json!({
            "metadata": {"name": "checkout", "namespace": "shop", "uid": "uid-1"},
            "spec": {
                "selector": {"matchLabels": {"app": "checkout"}},
                "template": {
                    "metadata": {"labels": {"app": "checkout", "tier": "web"}},
                    "spec": {"containers": [{"name": "app", "image": "a"}]},
                },
                "strategy": {"canary": {}},
            },
        }))
        .unwrap()
    }

    fn message(metadata: &Value, spec: &Value) -> Option<String> {
        let service = json!({"metadata": metadata, "spec": spec});
        let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
        let (service, rollout) = (CachedService::from(service), rollout());
        let spec = rollout.spec.as_deref().ok();
        refusal(Side::Stable, &service, &rollout, spec).map(|hold| hold.message.to_string())
    }

    #[test]
    fn a_service_that_selects_the_pods_of_the_template_is_taken() {
        let meta = json!({"name": "web", "namespace": "shop"});
        for selector in [
            json!({"app": "checkout"}),
            json!({"app": "checkout", "tier": "web", "serin.dev/revision": "gone"}),
            json!({"app": "checkout", "serin.dev/rollout": "checkout"}),
        ] {
            assert_eq!(message(&meta, &json!({"selector": selector})), None);
        }
    }

    #[test]
    fn a_refused_service_is_named_with_field_value_and_fix() {
        let meta = |namespace: &str, name: &str| json!({"name": name, "namespace": namespace});
        let web = || meta("shop", "web");
        let mut owned = web();
        owned["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Widget", "name": "w",
                                           "uid": "uid-9", "controller": true}]);
        let ours = json!({"selector": {"app": "checkout"}});
        let cases = [
            (owned, ours.clone(), "its controller is Widget w"),
            (
                web(),
                json!({"type": "ExternalName", "externalName": "example.com"}),
                "ExternalName",
            ),
            (web(), json!({}), "spec.selector is empty"),
            (
                web(),
                json!({"selector": {"app": "payments"}}),
                "app=payments, and the pods of",
            ),
            (web(), json!({"selector": {"zone": "a"}}), "lack that label"),
            (
                web(),
                json!({"selector": {"app": "checkout", ARGO_TEMPLATE_HASH_LABEL: "6589"}}),
                "Argo Rollouts selects its pods with rollouts-pod-template-hash=6589; delete its",
            ),
            (meta("default", "kubernetes"), ours, "the API server"),
        ];
        for (metadata, spec, problem) in cases {
            let message = message(&metadata, &spec).unwrap();
            let name = metadata["name"].as_str().unwrap();
            assert!(
                message.contains(problem)
                    && message.starts_with("spec.strategy.canary.stableService: Service")
                    && message.contains(name)
                    && message.contains("; "),
                "{message}"
            );
        }
    }

    #[test]
    fn the_label_of_the_rollout_is_the_consent_of_the_services_owner() {
        let labels = json!({"serin.dev/rollout": "checkout"});
        let meta = |namespace: &str, name: &str| json!({"name": name, "namespace": namespace, "labels": labels});
        assert_eq!(message(&meta("shop", "web"), &json!({})), None);
        assert!(message(&meta("default", "kubernetes"), &json!({})).is_some());
    }
}
