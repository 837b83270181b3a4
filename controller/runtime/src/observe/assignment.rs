//! The unit that the observed objects assign to a side.

use serin_core::assignment_unit::AssignmentUnit;
use serin_core::plan::{Plan, Routing};
use serin_traffic::ServiceFacts;

use super::Snapshot;

impl Snapshot {
    /// The unit that the Services and routes of the plan assign to a side.
    pub(super) fn assignment_unit(&self, plan: &Plan) -> AssignmentUnit {
        let services = plan.services();
        let existing: Vec<_> = services
            .into_iter()
            .flat_map(Routing::services)
            .filter_map(|(_, name)| Some((name, self.services.get(name)?)))
            .map(|(name, service)| {
                let ports = service.spec.ports.iter().flatten();
                let protocols: Vec<_> = ports.map(|port| port.app_protocol.as_deref()).collect();
                (name, service.spec.session_affinity.as_deref(), protocols)
            })
            .collect();
        let facts: Vec<ServiceFacts<'_>> = existing
            .iter()
            .map(|(name, session_affinity, protocols)| ServiceFacts {
                name,
                session_affinity: *session_affinity,
                app_protocols: protocols,
            })
            .collect();
        let routes: Option<Vec<_>> = plan.routing().map(|routing| {
            let routes = routing.routes.iter();
            routes
                .filter_map(|route| {
                    Some((&self.route_object(route)?.object, route.rule.as_deref()))
                })
                .collect()
        });
        let stable = services.map(|routing| routing.stable_service().as_str());
        serin_traffic::assignment_unit(routes.as_deref(), stable, &facts)
    }
}
