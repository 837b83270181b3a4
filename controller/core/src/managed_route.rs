//! Rules that steps add to the routes of a Rollout: chosen requests go to the canary, or are copied
//! to it.
//!
//! The rules in force follow from the plan and the position alone, as weights do. Nothing about them
//! is stored, so that a restarted controller continues with the same rules.

use serde::{Deserialize, Serialize};

use crate::plan::{Pace, Plan, RouteKind, Step};
use crate::units::Weight;

/// A rule for chosen requests, which comes before the user's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedRoute {
    /// The position in `trafficRouting.managedRoutes`. The lowest is matched first.
    pub precedence: u32,
    /// The name in `trafficRouting.managedRoutes`.
    pub name: String,
    /// What becomes of the requests.
    pub action: ManagedAction,
    /// The requests, of which one match suffices. A step without any removes the rule.
    pub matches: Vec<RequestMatch>,
}

/// What becomes of the chosen requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ManagedAction {
    /// All of them go to the canary.
    ToCanary,
    /// They are answered as all other requests are, and the canary gets a copy whose answer is
    /// discarded.
    Mirror {
        /// The percentage of the requests that are copied, from 1 to 100.
        percent: u32,
    },
}

/// A match of requests. All of its conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMatch {
    /// The HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<StringMatch>,
    /// The headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// The name of the header. Case does not matter.
    pub name: String,
    /// The condition on its value.
    pub value: StringMatch,
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    /// It is this text.
    Exact(String),
    /// It begins with this text.
    Prefix(String),
    /// It matches this regular expression, as the router understands it.
    Regex(String),
}

impl ManagedAction {
    /// The step that sets the rule.
    pub const fn step_name(self) -> &'static str {
        match self {
            Self::ToCanary => "setHeaderRoute",
            Self::Mirror { .. } => "setMirrorRoute",
        }
    }
}

impl ManagedRoute {
    /// Whether the step removes the rule of this name.
    pub fn is_removal(&self) -> bool {
        self.matches.is_empty()
    }
}

impl RouteKind {
    /// Whether Serin can write managed routes into objects of this kind.
    pub const fn has_managed_routes(self) -> bool {
        match self {
            Self::HttpRoute | Self::GrpcRoute | Self::VirtualService => true,
            Self::TlsRoute
            | Self::TcpRoute
            | Self::Ingress
            | Self::TraefikService
            | Self::IngressRoute
            | Self::HttpProxy
            | Self::ApisixRoute => false,
        }
    }
}

/// The rules after the steps up to and including `index`, by precedence.
pub fn managed_routes_at(steps: &[Step], index: usize) -> Vec<ManagedRoute> {
    let mut routes: Vec<ManagedRoute> = Vec::new();
    for step in steps.iter().take(index.saturating_add(1)) {
        if let Step::SetManagedRoute(route) = step {
            routes.retain(|other| other.name != route.name);
            if !route.is_removal() {
                routes.push(route.clone());
            }
        }
    }
    routes.sort_by_key(|route| route.precedence);
    routes
}

/// The different sets of rules that the steps of a plan bring about. Empty if no step sets a rule.
pub fn managed_route_sets(plan: &Plan) -> Vec<Vec<ManagedRoute>> {
    let steps = plan.steps();
    let mut sets: Vec<Vec<ManagedRoute>> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        if matches!(step, Step::SetManagedRoute(_)) {
            let set = managed_routes_at(steps, index);
            if !set.is_empty() && !sets.contains(&set) {
                sets.push(set);
            }
        }
    }
    sets
}

/// A rule that is in force at a step at which both sides get traffic and are compared. The chosen
/// requests are not a random sample. `None` if there is no such step.
pub fn biases_comparison(plan: &Plan) -> Option<ManagedRoute> {
    let Pace::Steps(steps) = &plan.canary().pace else {
        return None;
    };
    let mut weight = Weight::ZERO;
    let mut latest = None;
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::SetWeight(set) => weight = *set,
            Step::SetManagedRoute(_) => {
                latest = managed_routes_at(steps, index).into_iter().next();
            }
            _ => {}
        }
        if latest.is_some() && !weight.is_zero() && weight < Weight::FULL {
            return latest;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::test_plan;

    fn header(precedence: u32, name: &str, value: &str) -> ManagedRoute {
        ManagedRoute {
            precedence,
            name: name.into(),
            action: ManagedAction::ToCanary,
            matches: vec![RequestMatch {
                headers: vec![HeaderMatch {
                    name: "x-user".into(),
                    value: StringMatch::Exact(value.into()),
                }],
                ..RequestMatch::default()
            }],
        }
    }

    fn removal(name: &str) -> ManagedRoute {
        ManagedRoute {
            matches: Vec::new(),
            ..header(0, name, "")
        }
    }

    fn plan_of(steps: &[Step]) -> Plan {
        let mut plan = test_plan();
        plan.canary_mut().pace = Pace::Steps(steps.to_vec());
        plan
    }

    #[test]
    fn a_rule_is_in_force_until_it_is_removed_and_the_first_of_the_list_comes_first() {
        let (testers, staff) = (header(1, "testers", "1"), header(0, "staff", "2"));
        let steps = [
            Step::SetManagedRoute(testers.clone()),
            Step::SetWeight(Weight::percent(5)),
            Step::SetManagedRoute(staff.clone()),
            Step::SetManagedRoute(removal("testers")),
        ];
        assert_eq!(managed_routes_at(&steps, 0), std::slice::from_ref(&testers));
        assert_eq!(managed_routes_at(&steps, 1), std::slice::from_ref(&testers));
        assert_eq!(
            managed_routes_at(&steps, 2),
            [staff.clone(), testers.clone()]
        );
        assert_eq!(managed_routes_at(&steps, 3), std::slice::from_ref(&staff));
        assert_eq!(managed_routes_at(&steps, 9), std::slice::from_ref(&staff));
        let sets = managed_route_sets(&plan_of(&steps));
        assert_eq!(
            sets,
            [
                vec![testers.clone()],
                vec![staff.clone(), testers],
                vec![staff]
            ]
        );
    }

    #[test]
    fn a_later_step_of_the_same_name_replaces_the_rule() {
        let steps = [
            Step::SetManagedRoute(header(0, "staff", "1")),
            Step::SetManagedRoute(header(0, "staff", "2")),
        ];
        assert_eq!(managed_routes_at(&steps, 1), [header(0, "staff", "2")]);
    }

    #[test]
    fn only_rules_beside_a_split_bias_the_comparison() {
        let set = Step::SetManagedRoute(header(0, "staff", "1"));
        let remove = Step::SetManagedRoute(removal("staff"));
        let weight = |percent| Step::SetWeight(Weight::percent(percent));
        let biases = |steps: &[Step]| biases_comparison(&plan_of(steps)).is_some();
        assert!(!biases(&[set.clone(), remove.clone(), weight(20)]));
        assert!(!biases(&[set.clone(), weight(100)]));
        assert!(biases(&[set.clone(), weight(20), remove.clone()]));
        assert!(biases(&[weight(20), set, remove]));
        assert!(!biases(&[weight(20)]));
    }

    #[test]
    fn a_stored_rule_is_read_back() {
        let step = Step::SetManagedRoute(ManagedRoute {
            action: ManagedAction::Mirror { percent: 35 },
            ..header(3, "copies", "1")
        });
        let json = serde_json::to_string(&step).unwrap();
        assert_eq!(serde_json::from_str::<Step>(&json).unwrap(), step);
    }
}
