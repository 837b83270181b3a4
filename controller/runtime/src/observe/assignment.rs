//! The unit that the observed objects assign to a side.

use serin_core::assignment_unit::AssignmentUnit;
use serin_core::plan::{Plan, Routing};
use serin_traffic::{RoutedObject, ServiceFacts, router_of, sticky_annotation};

use super::Snapshot;

impl Snapshot {
    /// The unit that the plan, its Services and its routes assign to a side. If all of the traffic moves
    /// at once, nothing stays on a side.
    pub(super) fn assignment_unit(&self, plan: &Plan) -> AssignmentUnit {
        if let Some(chosen) = AssignmentUnit::of_plan(plan) {
            return chosen;
        }
        if plan.is_blue_green() {
            return AssignmentUnit::Request;
        }
        let services = plan.services();
        let existing: Vec<_> = services
            .into_iter()
            .flat_map(Routing::services)
            .filter_map(|(_, name)| Some((name, self.services.get(name)?)))
            .map(|(name, service)| {
                let ports = service.spec.ports.iter().flatten();
                let protocols: Vec<_> = ports.map(|port| port.app_protocol.as_deref()).collect();
                (name, service, protocols)
            })
            .collect();
        let facts: Vec<ServiceFacts<'_>> = existing
            .iter()
            .map(|(name, service, protocols)| {
                let annotations = service.annotations.iter();
                let annotations = annotations.map(|(name, value)| (&**name, &**value));
                ServiceFacts {
                    name,
                    session_affinity: service.spec.session_affinity.as_deref(),
                    sticky_annotation: sticky_annotation(annotations),
                    app_protocols: protocols,
                }
            })
            .collect();
        let routes: Option<Vec<_>> = plan.routing().map(|routing| {
            let routes = routing.routes.iter();
            routes
                .filter_map(|route| {
                    Some(RoutedObject {
                        router: router_of(route.kind),
                        object: &self.route_object(route)?.object,
                        rule: route.rule.as_deref(),
                    })
                })
                .collect()
        });
        let stable = services.map(|routing| routing.stable_service().as_str());
        serin_traffic::assignment_unit(routes.as_deref(), stable, &facts)
    }
}
