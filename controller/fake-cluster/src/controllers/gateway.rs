//! A gateway controller that reports in the status of routes.

use serde_json::{Value, json};

use super::schedule::Controller;
use super::{ControllerContext, DelayedWork, condition, is_terminating, list};
use crate::api::{ObjectKey, ObjectStore};
use crate::tuning::GatewayReporting;

/// The controller name in status reports. Reports of other controllers are kept.
const CONTROLLER: &str = "serin.dev/fake-gateway";

/// The kinds of route that it serves.
const ROUTES: [&str; 4] = [
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "tlsroutes.gateway.networking.k8s.io",
    "tcproutes.gateway.networking.k8s.io",
];

#[derive(Default)]
pub(super) struct GatewayController {
    /// Routes whose status is outdated.
    outdated: DelayedWork<ObjectKey>,
}

impl Controller for GatewayController {
    fn input_version(store: &ObjectStore) -> u64 {
        store
            .newest_version_of(&ROUTES)
            .max(store.newest_version_of(&["services"]))
    }

    fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        if context.tuning.gateway_reporting == GatewayReporting::Disabled {
            return;
        }
        let routes = ROUTES.into_iter().flat_map(|kind| context.all(kind));
        for (key, route) in routes.collect::<Vec<_>>() {
            if is_terminating(&route) {
                continue;
            }
            let desired = desired_reports(&key, &route, context);
            if list(&route, "/status/parents") == desired {
                self.outdated.cancel(&key);
            } else if self
                .outdated
                .is_due(key.clone(), context.tuning.gateway, context)
            {
                self.outdated.cancel(&key);
                context.set_status(&key, &route, json!({"parents": desired}));
            }
        }
    }
}

fn desired_reports(key: &ObjectKey, route: &Value, context: &ControllerContext<'_>) -> Vec<Value> {
    let before = list(route, "/status/parents");
    let others = before
        .iter()
        .filter(|report| report["controllerName"] != CONTROLLER)
        .cloned();
    let resolved = missing_backend(key, route, context).is_none();
    let ours = list(route, "/spec/parentRefs").iter().map(|parent| {
        let earlier = before.iter().find(|r| r["controllerName"] == CONTROLLER && r["parentRef"] == *parent);
        let earlier = earlier.map_or(&[][..], |report| list(report, "/conditions"));
        let condition_entry = |kind: &str, holds: bool, reason: &str| {
            let mut entry = condition(earlier, kind, holds, reason, context.wall);
            if context.tuning.gateway_reporting == GatewayReporting::WithGeneration {
                entry["observedGeneration"] = route["metadata"]["generation"].clone();
            }
            entry
        };
        let reason = if resolved { "ResolvedRefs" } else { "BackendNotFound" };
        json!({
            "parentRef": parent, "controllerName": CONTROLLER,
            "conditions": [condition_entry("Accepted", true, "Accepted"), condition_entry("ResolvedRefs", resolved, reason)],
        })
    });
    ours.chain(others).collect()
}

/// The first Service that a rule references and that does not exist.
fn missing_backend(
    key: &ObjectKey,
    route: &Value,
    context: &ControllerContext<'_>,
) -> Option<String> {
    let backends = list(route, "/spec/rules")
        .iter()
        .flat_map(|rule| list(rule, "/backendRefs"));
    let mut services = backends
        .filter(|backend| backend["kind"] == "Service")
        .filter_map(|backend| {
            let namespace = backend["namespace"].as_str().unwrap_or(&key.namespace);
            backend["name"].as_str().map(|name| (namespace, name))
        });
    let missing = services.find(|(namespace, name)| {
        let service = ObjectKey {
            resource: "services".into(),
            namespace: (*namespace).into(),
            name: (*name).into(),
        };
        context.store.get(&service).is_none()
    });
    missing.map(|(_, name)| name.to_owned())
}
