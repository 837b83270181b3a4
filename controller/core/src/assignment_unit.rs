//! What is assigned to a side as a whole: a request, a client or a connection.

use std::fmt;

use crate::managed_route::biases_comparison;
use crate::plan::Plan;

/// The unit that is assigned to stable or to the canary as a whole.
///
/// The bound on false rollbacks holds for counts of this unit. If clients are assigned and requests
/// are counted, all errors of one client are one observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AssignmentUnit {
    /// Each request.
    #[default]
    Request,
    /// All requests of a client, or of its session.
    Client {
        /// The object, the field and its value that assign clients.
        why: String,
    },
    /// All requests of a connection.
    Connection {
        /// Why connections are assigned.
        why: String,
    },
    /// Each request, except for those that a rule chooses for the canary or copies to it.
    ChosenRequests {
        /// The rule.
        why: String,
    },
}

impl AssignmentUnit {
    /// The requests that a step of the plan chooses while the two sides are compared, whatever the
    /// Services and routes assign. `None` if there are none.
    pub fn of_plan(plan: &Plan) -> Option<Self> {
        let route = biases_comparison(plan)?;
        let (step, name) = (route.action.step_name(), route.name);
        let why = format!("{step} {name} is in force while both sides get traffic");
        Some(Self::ChosenRequests { why })
    }

    /// The reason of the condition. `None` if each request is assigned.
    pub const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Request => None,
            Self::Client { .. } => Some("ByClient"),
            Self::Connection { .. } => Some("ByConnection"),
            Self::ChosenRequests { .. } => Some("ByMatch"),
        }
    }
}

/// The cause, the consequence and the fix. Empty if each request is assigned.
impl fmt::Display for AssignmentUnit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => Ok(()),
            Self::Client { why } => write!(
                formatter,
                "{why}, so a client can stay on one side, and all of its errors are one observation. \
                 No bound on false rollbacks is claimed for counted requests. Remove the affinity \
                 for the release, or count sessions: sessions with an error of all sessions, as \
                 custom counters with unit: Client. More canary pods reduce the effect of one client."
            ),
            Self::Connection { why } => write!(
                formatter,
                "{why}, so all requests of a keep-alive or gRPC connection stay on one side, and all \
                 of its errors are one observation. No bound on false rollbacks is claimed for \
                 counted requests. Use a router or a mesh that assigns each request, limit the age \
                 of connections, or count connections with an error of all connections, as custom \
                 counters with unit: Connection. More canary pods reduce the effect of one \
                 connection."
            ),
            Self::ChosenRequests { why } => write!(
                formatter,
                "{why}, and its requests are not a random sample of all requests. No bound on false \
                 rollbacks is claimed for counted requests. Remove the rule with a step before the \
                 first setWeight."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_other_than_the_request_names_cause_consequence_and_fix() {
        let why = || "Service shop: spec.sessionAffinity is ClientIP".to_owned();
        for (unit, reason, fix) in [
            (
                AssignmentUnit::Client { why: why() },
                "ByClient",
                "count sessions",
            ),
            (
                AssignmentUnit::Connection { why: why() },
                "ByConnection",
                "count connections",
            ),
            (
                AssignmentUnit::ChosenRequests { why: why() },
                "ByMatch",
                "Remove the rule",
            ),
        ] {
            let text = unit.to_string();
            assert_eq!(unit.reason(), Some(reason));
            assert!(text.starts_with(&why()) && text.contains(fix), "{text}");
            assert!(
                text.contains("No bound on false rollbacks is claimed"),
                "{text}"
            );
        }
    }

    #[test]
    fn requests_need_no_note() {
        assert_eq!(AssignmentUnit::Request.reason(), None);
        assert_eq!(AssignmentUnit::Request.to_string(), "");
    }
}
