//! When this process first observed the current state of Services and routes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serin_core::managed_route::ManagedRoute;
use serin_core::plan::{RouteRef, Routing};
use serin_core::units::{Revision, Weight};

/// When this process first observed the current state. A restarted process starts again, so these
/// times can be late but never early.
#[derive(Debug, Default)]
pub struct ObservationTimes {
    pub(super) first_at: Option<Timestamp>,
    pub(super) services: BTreeMap<String, ServiceTimes>,
    pub(super) routes: BTreeMap<RouteRef, RouteTimes>,
}

#[derive(Debug)]
pub(super) struct ServiceTimes {
    selects: Option<Revision>,
    serving_since: Timestamp,
}

/// The canary's share in a route's object, and the rules for chosen requests.
type Written = (Result<Weight, String>, Option<Vec<ManagedRoute>>);

#[derive(Debug)]
pub(super) struct RouteTimes {
    written: Written,
    pub written_since: Timestamp,
    pub programmed_since: Option<Timestamp>,
}

impl ObservationTimes {
    /// Drops the times of Services and routes that the plan no longer names.
    pub(super) fn retain_named(&mut self, routing: Option<&Routing>) {
        let is_named = |name: &str| routing.is_some_and(|routing| routing.side_of(name).is_some());
        self.services.retain(|name, _| is_named(name));
        self.routes
            .retain(|route, _| routing.is_some_and(|routing| routing.routes.contains(route)));
    }

    pub(super) fn record_serving(
        &mut self,
        name: &str,
        selects: Option<&Revision>,
        serving: bool,
        now: Timestamp,
    ) -> Option<Timestamp> {
        if !serving {
            self.services.remove(name);
            return None;
        }
        let fresh = || ServiceTimes {
            selects: selects.cloned(),
            serving_since: now,
        };
        let times = self.services.entry(name.to_owned()).or_insert_with(fresh);
        if times.selects.as_ref() != selects {
            *times = fresh();
        }
        Some(times.serving_since)
    }

    pub(super) fn record_route(
        &mut self,
        route: &RouteRef,
        written: Written,
        now: Timestamp,
    ) -> &mut RouteTimes {
        let times = self
            .routes
            .entry(route.clone())
            .or_insert_with(|| RouteTimes {
                written: written.clone(),
                written_since: now,
                programmed_since: None,
            });
        if times.written != written {
            times.written = written;
            times.written_since = now;
            times.programmed_since = None;
        }
        times
    }
}
