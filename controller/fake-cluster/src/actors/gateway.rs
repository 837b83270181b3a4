//! A gateway that takes over routes and says so in their status.

use serde_json::{Value, json};

use super::{Due, Moment, condition, is_going, list};
use crate::api::Key;
use crate::tuning::GatewayReports;

/// The name under which it reports; what others report is left alone.
const CONTROLLER: &str = "serin.dev/sim-gateway";

#[derive(Default)]
pub(super) struct Gateway {
    /// Routes whose status does not tell their present state.
    behind: Due<Key>,
}

impl Gateway {
    pub(super) fn act(&mut self, moment: &mut Moment<'_>) {
        if moment.tuning.gateway_reports == GatewayReports::Nothing {
            return;
        }
        for (key, route) in moment.all("httproutes.gateway.networking.k8s.io") {
            if is_going(&route) {
                continue;
            }
            let wanted = reports(&key, &route, moment);
            if list(&route, "/status/parents") == wanted {
                self.behind.settle(&key);
            } else if self
                .behind
                .has_waited(key.clone(), moment.tuning.gateway, moment)
            {
                self.behind.settle(&key);
                moment.set_status(&key, &route, json!({"parents": wanted}));
            }
        }
    }
}

fn reports(key: &Key, route: &Value, moment: &Moment<'_>) -> Vec<Value> {
    let before = list(route, "/status/parents");
    let others = before
        .iter()
        .filter(|report| report["controllerName"] != CONTROLLER)
        .cloned();
    let resolved = missing_backend(key, route, moment).is_none();
    let ours = list(route, "/spec/parentRefs").iter().map(|parent| {
        let earlier = before.iter().find(|r| r["controllerName"] == CONTROLLER && r["parentRef"] == *parent);
        let earlier = earlier.map_or(&[][..], |report| list(report, "/conditions"));
        let tell = |kind: &str, holds: bool, reason: &str| {
            let mut told = condition(earlier, kind, holds, reason, moment.wall);
            if moment.tuning.gateway_reports == GatewayReports::WithGeneration {
                told["observedGeneration"] = route["metadata"]["generation"].clone();
            }
            told
        };
        let reason = if resolved { "ResolvedRefs" } else { "BackendNotFound" };
        json!({
            "parentRef": parent, "controllerName": CONTROLLER,
            "conditions": [tell("Accepted", true, "Accepted"), tell("ResolvedRefs", resolved, reason)],
        })
    });
    ours.chain(others).collect()
}

/// A Service that a rule names and that does not exist.
fn missing_backend(key: &Key, route: &Value, moment: &Moment<'_>) -> Option<String> {
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
        let service = Key {
            resource: "services".into(),
            namespace: (*namespace).into(),
            name: (*name).into(),
        };
        moment.store.get(&service).is_none()
    });
    missing.map(|(_, name)| name.to_owned())
}
