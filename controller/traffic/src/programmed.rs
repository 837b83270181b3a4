//! What the routers say of a route, in its status.

use serde_json::Value;

const CONDITIONS: [&str; 2] = ["Accepted", "ResolvedRefs"];

/// Whether every router that a route is attached to has taken over its current generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgrammedSeen {
    /// All have.
    Yes,
    /// One has not, and why.
    Pending(String),
    /// One has taken over an earlier generation and nothing speaks against the current one so far.
    /// What both generations say alike is in effect.
    Earlier(String),
    /// None contradicts, but one does not tell which generation it means.
    Unreported,
}

/// Judges `status.parents` for every parent that `spec.parentRefs` names; several controllers may
/// report on one parent, and then each must agree. Reports on parents that the route is no longer
/// attached to do not count.
pub(crate) fn programmed(route: &Value) -> ProgrammedSeen {
    let namespace = text(route.pointer("/metadata/namespace"));
    let parents = list(route.pointer("/spec/parentRefs"));
    if parents.is_empty() {
        return ProgrammedSeen::Pending("the route names no parent in spec.parentRefs".into());
    }
    let generation = route
        .pointer("/metadata/generation")
        .and_then(Value::as_i64);
    let reports = list(route.pointer("/status/parents"));
    if reports.is_empty() {
        return ProgrammedSeen::Pending("no parent has reported".into());
    }
    let mut all_tell_the_generation = true;
    let mut earlier = None;
    for parent in parents {
        let parent = Parent::read(parent, namespace);
        let about_it = |report: &&Value| {
            report
                .get("parentRef")
                .is_some_and(|reference| Parent::read(reference, namespace) == parent)
        };
        let mut about = reports.iter().filter(about_it).peekable();
        if about.peek().is_none() {
            return ProgrammedSeen::Pending(format!("{} has not reported", parent.title()));
        }
        for report in about {
            match judge(report, generation) {
                Report::Agrees => {}
                Report::TellsNoGeneration => all_tell_the_generation = false,
                Report::Earlier(why) => earlier = Some(format!("{} {why}", parent.title())),
                Report::Not(why) => {
                    return ProgrammedSeen::Pending(format!("{} {why}", parent.title()));
                }
            }
        }
    }
    if let Some(why) = earlier {
        return ProgrammedSeen::Earlier(why);
    }
    if all_tell_the_generation {
        ProgrammedSeen::Yes
    } else {
        ProgrammedSeen::Unreported
    }
}

enum Report {
    Agrees,
    TellsNoGeneration,
    Earlier(String),
    Not(String),
}

fn judge(report: &Value, generation: Option<i64>) -> Report {
    let conditions = list(report.get("conditions"));
    let mut tells = true;
    let mut earlier = None;
    for wanted in CONDITIONS {
        let of_type = |c: &&Value| text(c.get("type")) == wanted;
        let Some(condition) = conditions.iter().find(of_type) else {
            return Report::Not(format!("has not reported {wanted}"));
        };
        let observed = condition.get("observedGeneration").and_then(Value::as_i64);
        let is_earlier = observed.is_some() && observed != generation;
        if is_earlier {
            earlier.get_or_insert(format!(
                "reports {wanted} for generation {}, not yet for {}",
                observed.unwrap_or_default(),
                generation.unwrap_or_default(),
            ));
        }
        if text(condition.get("status")) != "True" {
            let reason = text(condition.get("reason"));
            let message = text(condition.get("message"));
            return Report::Not(format!("reports {wanted} not true: {reason}: {message}"));
        }
        tells &= observed.is_some();
    }
    if let Some(why) = earlier {
        return Report::Earlier(why);
    }
    if tells {
        Report::Agrees
    } else {
        Report::TellsNoGeneration
    }
}

/// A parent with the defaults of Gateway API filled in.
#[derive(PartialEq, Eq)]
struct Parent<'a> {
    group: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    section: &'a str,
    port: Option<u64>,
}

impl<'a> Parent<'a> {
    fn read(reference: &'a Value, namespace: &'a str) -> Self {
        let or = |field: &str, default: &'a str| {
            reference
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or(default)
        };
        Self {
            group: or("group", "gateway.networking.k8s.io"),
            kind: or("kind", "Gateway"),
            namespace: or("namespace", namespace),
            name: or("name", ""),
            section: or("sectionName", ""),
            port: reference.get("port").and_then(Value::as_u64),
        }
    }

    fn title(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn route(parents: &Value) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": "checkout", "generation": 4},
            "spec": {"parentRefs": [{"name": "public"}]},
            "status": {"parents": parents},
        })
    }

    fn report(controller: &str, generation: Option<i64>, resolved: &str) -> Value {
        let condition = |kind: &str, status: &str| {
            let mut condition = json!({"type": kind, "status": status, "reason": "BackendNotFound", "message": "no Service"});
            if let Some(generation) = generation {
                condition["observedGeneration"] = generation.into();
            }
            condition
        };
        json!({
            "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop", "name": "public"},
            "controllerName": controller,
            "conditions": [condition("Accepted", "True"), condition("ResolvedRefs", resolved)],
        })
    }

    #[test]
    fn every_controller_that_reports_on_the_parent_must_agree() {
        let good = report("traefik", Some(4), "True");
        assert_eq!(programmed(&route(&json!([good]))), ProgrammedSeen::Yes);
        let stale = report("envoy", Some(3), "True");
        assert_eq!(
            programmed(&route(&json!([good, stale]))),
            ProgrammedSeen::Earlier(
                "Gateway shop/public reports Accepted for generation 3, not yet for 4".into()
            )
        );
    }

    #[test]
    fn a_refusal_is_told_in_the_routers_words() {
        assert_eq!(
            programmed(&route(&json!([report("traefik", Some(4), "False")]))),
            ProgrammedSeen::Pending(
                "Gateway shop/public reports ResolvedRefs not true: BackendNotFound: no Service"
                    .into()
            )
        );
    }

    #[test]
    fn without_a_generation_nobody_can_tell_but_a_refusal_still_counts() {
        assert_eq!(
            programmed(&route(&json!([report("old", None, "True")]))),
            ProgrammedSeen::Unreported
        );
        assert!(matches!(
            programmed(&route(&json!([report("old", None, "False")]))),
            ProgrammedSeen::Pending(_)
        ));
    }

    #[test]
    fn silence_is_pending() {
        let none = ProgrammedSeen::Pending("no parent has reported".into());
        assert_eq!(programmed(&route(&json!([]))), none);
        assert_eq!(programmed(&route(&Value::Null)), none);
        let mut only_accepted = report("traefik", Some(4), "True");
        only_accepted["conditions"].as_array_mut().unwrap().pop();
        assert_eq!(
            programmed(&route(&json!([only_accepted]))),
            ProgrammedSeen::Pending("Gateway shop/public has not reported ResolvedRefs".into())
        );
    }

    #[test]
    fn a_parent_that_the_route_has_left_does_not_count_and_one_it_has_joined_must_report() {
        let mut left = report("traefik", Some(2), "False");
        left["parentRef"]["name"] = "former".into();
        let good = report("traefik", Some(4), "True");
        assert_eq!(
            programmed(&route(&json!([left, good]))),
            ProgrammedSeen::Yes
        );
        assert_eq!(
            programmed(&route(&json!([left]))),
            ProgrammedSeen::Pending("Gateway shop/public has not reported".into())
        );
    }

    #[test]
    fn sections_of_one_gateway_are_parents_of_their_own() {
        let mut two = route(&json!([report("traefik", Some(4), "True")]));
        two["spec"]["parentRefs"] =
            json!([{"name": "public"}, {"name": "public", "sectionName": "tls"}]);
        assert!(matches!(programmed(&two), ProgrammedSeen::Pending(_)));
    }

    #[test]
    fn a_route_that_is_attached_to_nothing_says_so() {
        let alone = json!({"metadata": {"generation": 1}, "spec": {}});
        assert_eq!(
            programmed(&alone),
            ProgrammedSeen::Pending("the route names no parent in spec.parentRefs".into())
        );
    }
}
