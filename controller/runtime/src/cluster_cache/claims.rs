//! Which Rollout may write a Service or a rule of a route.
//!
//! A Rollout claims the Services that its spec names, and those of its active plan. Of several
//! Rollouts that claim one Service, exactly one holds it:
//!
//! 1. the Rollout that the label `serin.dev/rollout` of the Service names, while that Rollout exists:
//!    it has bound the Service, and may be in the middle of a release;
//! 2. otherwise the oldest, by creation time, then by UID.
//!
//! The rules of a route that have a Service as their backend belong to the holder of that Service as
//! a stable Service. Several Rollouts can use different rules of one route. If their stable Services
//! are backends of the same rule, the oldest Rollout holds the rule.
//!
//! A Rollout writes only what it holds. A claim ends when the Rollout is deleted or names another
//! Service.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use serin_core::plan::{RouteKind, RouteRef, Routing};

use super::Key;
use super::rollout_object::RolloutObject;

/// Kind, namespace and name of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    pub kind: RouteKind,
    pub key: Key,
}

impl RouteKey {
    /// The route of a plan, in the namespace of its Rollout.
    pub fn new(namespace: &str, route: &RouteRef) -> Self {
        Self {
            kind: route.kind,
            key: Key::new(namespace, &route.name),
        }
    }
}

/// A Rollout that claims Services. The oldest comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    created_at: Timestamp,
    uid: String,
    /// The Rollout.
    pub rollout: Key,
}

impl Claimant {
    /// The claimant of a Rollout.
    pub fn new(rollout: &RolloutObject) -> Self {
        let created_at = rollout.metadata.creation_timestamp.as_ref();
        Self {
            created_at: created_at.map(|time| time.0).unwrap_or_default(),
            uid: rollout.uid().to_owned(),
            rollout: rollout.key(),
        }
    }
}

/// What one Rollout claims.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RolloutClaims {
    claimant: Claimant,
    /// What the spec names.
    spec: Option<Routing>,
    /// What the active plan names.
    plan: Option<Routing>,
}

impl RolloutClaims {
    fn routings(&self) -> impl Iterator<Item = &Routing> {
        self.spec.iter().chain(&self.plan)
    }

    fn services(&self) -> BTreeSet<Key> {
        let namespace = &self.claimant.rollout.namespace;
        let services = self.routings().flat_map(Routing::services);
        services
            .map(|(_, service)| Key::new(namespace, service))
            .collect()
    }

    fn routes(&self) -> BTreeSet<RouteKey> {
        let namespace = &self.claimant.rollout.namespace;
        let routes = self.routings().flat_map(|routing| &routing.routes);
        routes
            .map(|route| RouteKey::new(namespace, route))
            .collect()
    }
}

/// What a change of claims affects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClaimChange {
    /// The other Rollouts that claim the same Services.
    pub rollouts: BTreeSet<Key>,
    /// The Services that no Rollout claims any more.
    pub unclaimed: Vec<Key>,
}

/// The claims of all Rollouts, indexed by Service and by route.
#[derive(Debug, Default)]
pub struct Claims {
    rollouts: HashMap<Key, RolloutClaims>,
    service_claimants: HashMap<Key, BTreeSet<Claimant>>,
    route_claimants: HashMap<RouteKey, BTreeSet<Key>>,
}

impl Claims {
    /// Records what the spec of a Rollout names.
    pub fn set_spec(&mut self, claimant: Claimant, spec: Option<Routing>) -> ClaimChange {
        let before = self.rollouts.get(&claimant.rollout);
        let plan = before
            .filter(|before| before.claimant == claimant)
            .and_then(|before| before.plan.clone());
        let rollout = claimant.rollout.clone();
        let next = RolloutClaims {
            claimant,
            spec,
            plan,
        };
        self.replace(&rollout, Some(next))
    }

    /// Records what the active plan of a Rollout names. Has no effect after the Rollout was removed.
    pub fn set_plan(&mut self, claimant: &Claimant, plan: Option<Routing>) -> ClaimChange {
        let before = self.rollouts.get(&claimant.rollout);
        let Some(before) = before.filter(|before| before.claimant == *claimant) else {
            return ClaimChange::default();
        };
        if before.plan == plan {
            // Every reconcile records the plan.
            return ClaimChange::default();
        }
        let next = RolloutClaims {
            plan,
            ..before.clone()
        };
        self.replace(&claimant.rollout, Some(next))
    }

    /// Removes a deleted Rollout.
    pub fn remove(&mut self, rollout: &Key) -> ClaimChange {
        self.replace(rollout, None)
    }

    /// The Rollouts that claim a Service, the oldest first.
    pub fn of_service(&self, service: &Key) -> impl Iterator<Item = &Claimant> {
        self.service_claimants.get(service).into_iter().flatten()
    }

    /// The Rollouts that name a route.
    pub fn of_route(&self, route: &RouteKey) -> impl Iterator<Item = &Key> {
        self.route_claimants.get(route).into_iter().flatten()
    }

    /// Number of Rollouts, Services and routes that are remembered.
    pub fn entry_count(&self) -> usize {
        self.rollouts.len() + self.service_claimants.len() + self.route_claimants.len()
    }

    /// Whether a Rollout splits a rule of a route. `is_rule` returns whether a name in a plan is that
    /// of the rule.
    pub fn splits_rule(
        &self,
        rollout: &Key,
        route: &RouteKey,
        is_rule: impl Fn(&str) -> bool,
    ) -> bool {
        let claims = self.rollouts.get(rollout);
        let mut routes = claims
            .into_iter()
            .flat_map(RolloutClaims::routings)
            .flat_map(|routing| &routing.routes);
        routes.any(|named| {
            RouteKey::new(&rollout.namespace, named) == *route
                && named.rule.as_deref().is_none_or(&is_rule)
        })
    }

    fn replace(&mut self, rollout: &Key, next: Option<RolloutClaims>) -> ClaimChange {
        let before = self.rollouts.get(rollout);
        if before == next.as_ref() {
            return ClaimChange::default();
        }
        let mut services = BTreeSet::new();
        if let Some(before) = self.rollouts.remove(rollout) {
            for service in before.services() {
                remove_from(&mut self.service_claimants, &service, &before.claimant);
                services.insert(service);
            }
            for route in before.routes() {
                remove_from(&mut self.route_claimants, &route, rollout);
            }
        }
        if let Some(next) = next {
            for service in next.services() {
                let claimants = self.service_claimants.entry(service.clone()).or_default();
                claimants.insert(next.claimant.clone());
                services.insert(service);
            }
            for route in next.routes() {
                let rollouts = self.route_claimants.entry(route).or_default();
                rollouts.insert(rollout.clone());
            }
            self.rollouts.insert(rollout.clone(), next);
        }
        let others = services
            .iter()
            .flat_map(|service| self.of_service(service))
            .map(|claimant| claimant.rollout.clone())
            .filter(|other| other != rollout);
        ClaimChange {
            rollouts: others.collect(),
            unclaimed: services
                .iter()
                .filter(|service| !self.service_claimants.contains_key(*service))
                .cloned()
                .collect(),
        }
    }
}

/// Removes a value from an index, and its key with the last value.
fn remove_from<K: Eq + std::hash::Hash, V: Ord>(
    index: &mut HashMap<K, BTreeSet<V>>,
    key: &K,
    value: &V,
) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serin_core::plan::ArmBinding;

    use super::*;

    fn claimant(name: &str, created_at: i64) -> Claimant {
        Claimant {
            created_at: Timestamp::from_second(created_at).unwrap(),
            uid: format!("uid-{name}"),
            rollout: Key::new("shop", name),
        }
    }

    fn routing(stable: &str, rule: Option<&str>) -> Routing {
        Routing {
            binding: ArmBinding::services(stable, format!("{stable}-canary")),
            routes: vec![RouteRef {
                kind: RouteKind::HttpRoute,
                name: "web".into(),
                rule: rule.map(Into::into),
            }],
            settle: Duration::ZERO,
            unverified_after: Duration::ZERO,
        }
    }

    fn names(claims: &Claims, service: &str) -> Vec<String> {
        let service = Key::new("shop", service);
        let claimants = claims.of_service(&service);
        claimants
            .map(|claimant| claimant.rollout.name.clone())
            .collect()
    }

    #[test]
    fn the_oldest_claimant_comes_first_whoever_was_recorded_first() {
        let mut claims = Claims::default();
        claims.set_spec(claimant("second", 20), Some(routing("web", None)));
        let change = claims.set_spec(claimant("first", 10), Some(routing("web", None)));
        assert_eq!(change.rollouts, [Key::new("shop", "second")].into());
        assert_eq!(names(&claims, "web"), ["first", "second"]);
        claims.set_spec(claimant("another", 10), Some(routing("web", None)));
        assert_eq!(names(&claims, "web")[0], "another", "the UID decides a tie");
    }

    #[test]
    fn a_claim_lasts_while_either_the_spec_or_the_active_plan_names_the_service() {
        let mut claims = Claims::default();
        let first = claimant("first", 10);
        claims.set_spec(first.clone(), Some(routing("old", None)));
        claims.set_plan(&first, Some(routing("old", None)));
        let change = claims.set_spec(first.clone(), Some(routing("new", None)));
        assert_eq!(change.unclaimed, []);
        assert_eq!(names(&claims, "old"), ["first"]);
        let change = claims.set_plan(&first, Some(routing("new", None)));
        assert_eq!(names(&claims, "old"), Vec::<String>::new());
        assert_eq!(
            change.unclaimed,
            [Key::new("shop", "old"), Key::new("shop", "old-canary")]
        );
    }

    #[test]
    fn nothing_is_left_of_a_deleted_rollout_even_if_its_plan_is_recorded_late() {
        let mut claims = Claims::default();
        let first = claimant("first", 10);
        claims.set_spec(first.clone(), Some(routing("web", None)));
        claims.remove(&first.rollout);
        claims.set_plan(&first, Some(routing("web", None)));
        assert!(claims.rollouts.is_empty() && claims.service_claimants.is_empty());
        assert!(claims.route_claimants.is_empty());
    }

    #[test]
    fn a_rule_is_split_by_the_rollouts_that_name_it_or_the_whole_route() {
        let mut claims = Claims::default();
        claims.set_spec(claimant("whole", 10), Some(routing("a", None)));
        claims.set_spec(claimant("one", 20), Some(routing("b", Some("api"))));
        let route = RouteKey {
            kind: RouteKind::HttpRoute,
            key: Key::new("shop", "web"),
        };
        let splits = |name, rule: Option<&str>| {
            let is_rule = |named: &str| Some(named) == rule;
            claims.splits_rule(&Key::new("shop", name), &route, is_rule)
        };
        assert!(splits("whole", None) && splits("whole", Some("api")));
        assert!(splits("one", Some("api")));
        assert!(!splits("one", Some("other")) && !splits("one", None));
        assert_eq!(claims.of_route(&route).count(), 2);
    }
}
