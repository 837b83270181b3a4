//! The status that gateways report on a route.

use serde_json::Value;

/// The conditions that a parent reports.
const CONDITIONS: [&str; 2] = ["Accepted", "ResolvedRefs"];

/// Whether every gateway that a route is attached to has programmed its current generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgrammedStatus {
    /// All gateways have.
    Programmed,
    /// A gateway has not, for this reason.
    Pending(String),
    /// A gateway has programmed an earlier generation and reports no error. Settings that are equal
    /// in both generations are in effect.
    PreviousGeneration(String),
    /// No gateway reports an error, but one does not report the generation.
    UnknownGeneration,
}

/// Evaluates `status.parents` for every parent in `spec.parentRefs`. If several controllers report
/// on a parent, all of them must agree. Reports on former parents are ignored.
pub(crate) fn programmed_status(route: &Value) -> ProgrammedStatus {
    let namespace = text(route.pointer("/metadata/namespace"));
    let parents = list(route.pointer("/spec/parentRefs"));
    if parents.is_empty() {
        return ProgrammedStatus::Pending("the route has no parent in spec.parentRefs".into());
    }
    let generation = route
        .pointer("/metadata/generation")
        .and_then(Value::as_i64);
    let reports = list(route.pointer("/status/parents"));
    if reports.is_empty() {
        return ProgrammedStatus::Pending("no parent has reported".into());
    }
    let mut all_report_generation = true;
    let mut earlier = None;
    for parent in parents {
        let parent = ParentRef::parse(parent, namespace);
        let matches_parent = |report: &&Value| {
            report
                .get("parentRef")
                .is_some_and(|reference| ParentRef::parse(reference, namespace) == parent)
        };
        let mut parent_reports = reports.iter().filter(matches_parent).peekable();
        if parent_reports.peek().is_none() {
            return ProgrammedStatus::Pending(format!("{} has not reported", parent.title()));
        }
        for report in parent_reports {
            let conditions = list(report.get("conditions"));
            match evaluate_conditions(conditions, &CONDITIONS, generation) {
                ReportResult::Programmed => {}
                ReportResult::NoGeneration => all_report_generation = false,
                ReportResult::PreviousGeneration(why) => {
                    earlier = Some(format!("{} {why}", parent.title()));
                }
                ReportResult::Failed(why) => {
                    return ProgrammedStatus::Pending(format!("{} {why}", parent.title()));
                }
            }
        }
    }
    if let Some(why) = earlier {
        return ProgrammedStatus::PreviousGeneration(why);
    }
    if all_report_generation {
        ProgrammedStatus::Programmed
    } else {
        ProgrammedStatus::UnknownGeneration
    }
}

/// Evaluates one condition in `status.conditions`, which `reporter` writes. If it is missing, the
/// generation is unknown.
pub(crate) fn programmed_by_condition(
    route: &Value,
    condition_type: &str,
    reporter: &str,
) -> ProgrammedStatus {
    let conditions = list(route.pointer("/status/conditions"));
    let generation = route
        .pointer("/metadata/generation")
        .and_then(Value::as_i64);
    let of_type = |c: &&Value| text(c.get("type")) == condition_type;
    if !conditions.iter().any(|c| of_type(&c)) {
        return ProgrammedStatus::UnknownGeneration;
    }
    match evaluate_conditions(conditions, &[condition_type], generation) {
        ReportResult::Programmed => ProgrammedStatus::Programmed,
        ReportResult::NoGeneration => ProgrammedStatus::UnknownGeneration,
        ReportResult::PreviousGeneration(why) => {
            ProgrammedStatus::PreviousGeneration(format!("{reporter} {why}"))
        }
        ReportResult::Failed(why) => ProgrammedStatus::Pending(format!("{reporter} {why}")),
    }
}

enum ReportResult {
    Programmed,
    NoGeneration,
    PreviousGeneration(String),
    Failed(String),
}

fn evaluate_conditions(
    conditions: &[Value],
    types: &[&str],
    generation: Option<i64>,
) -> ReportResult {
    let mut reports_generation = true;
    let mut earlier = None;
    for condition_type in types {
        let of_type = |c: &&Value| text(c.get("type")) == *condition_type;
        let Some(condition) = conditions.iter().find(of_type) else {
            return ReportResult::Failed(format!("has not reported {condition_type}"));
        };
        let observed = condition.get("observedGeneration").and_then(Value::as_i64);
        let is_earlier = observed.is_some() && observed != generation;
        if is_earlier {
            earlier.get_or_insert(format!(
                "reports {condition_type} for generation {}, not yet for {}",
                observed.unwrap_or_default(),
                generation.unwrap_or_default(),
            ));
        }
        if text(condition.get("status")) != "True" {
            let reason = text(condition.get("reason"));
            let message = text(condition.get("message"));
            return ReportResult::Failed(format!(
                "reports {condition_type} as not true: {reason}: {message}"
            ));
        }
        reports_generation &= observed.is_some();
    }
    if let Some(why) = earlier {
        return ReportResult::PreviousGeneration(why);
    }
    if reports_generation {
        ReportResult::Programmed
    } else {
        ReportResult::NoGeneration
    }
}

/// A parent reference with the defaults of Gateway API.
#[derive(PartialEq, Eq)]
struct ParentRef<'a> {
    group: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    section: &'a str,
    port: Option<u64>,
}

impl<'a> ParentRef<'a> {
    fn parse(reference: &'a Value, namespace: &'a str) -> Self {
        let field_or = |field: &str, default: &'a str| {
            reference
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or(default)
        };
        Self {
            group: field_or("group", "gateway.networking.k8s.io"),
            kind: field_or("kind", "Gateway"),
            namespace: field_or("namespace", namespace),
            name: field_or("name", ""),
            section: field_or("sectionName", ""),
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
        assert_eq!(
            programmed_status(&route(&json!([good]))),
            ProgrammedStatus::Programmed
        );
        let stale = report("envoy", Some(3), "True");
        assert_eq!(
            programmed_status(&route(&json!([good, stale]))),
            ProgrammedStatus::PreviousGeneration(
                "Gateway shop/public reports Accepted for generation 3, not yet for 4".into()
            )
        );
    }

    #[test]
    fn a_false_condition_is_reported_with_its_message() {
        assert_eq!(
            programmed_status(&route(&json!([report("traefik", Some(4), "False")]))),
            ProgrammedStatus::Pending(
                "Gateway shop/public reports ResolvedRefs as not true: BackendNotFound: no Service"
                    .into()
            )
        );
    }

    #[test]
    fn without_a_generation_the_result_is_unknown_unless_a_condition_is_false() {
        assert_eq!(
            programmed_status(&route(&json!([report("old", None, "True")]))),
            ProgrammedStatus::UnknownGeneration
        );
        assert!(matches!(
            programmed_status(&route(&json!([report("old", None, "False")]))),
            ProgrammedStatus::Pending(_)
        ));
    }

    #[test]
    fn a_missing_report_is_pending() {
        let none = ProgrammedStatus::Pending("no parent has reported".into());
        assert_eq!(programmed_status(&route(&json!([]))), none);
        assert_eq!(programmed_status(&route(&Value::Null)), none);
        let mut only_accepted = report("traefik", Some(4), "True");
        only_accepted["conditions"].as_array_mut().unwrap().pop();
        assert_eq!(
            programmed_status(&route(&json!([only_accepted]))),
            ProgrammedStatus::Pending("Gateway shop/public has not reported ResolvedRefs".into())
        );
    }

    #[test]
    fn only_reports_on_current_parents_count() {
        let mut left = report("traefik", Some(2), "False");
        left["parentRef"]["name"] = "former".into();
        let good = report("traefik", Some(4), "True");
        assert_eq!(
            programmed_status(&route(&json!([left, good]))),
            ProgrammedStatus::Programmed
        );
        assert_eq!(
            programmed_status(&route(&json!([left]))),
            ProgrammedStatus::Pending("Gateway shop/public has not reported".into())
        );
    }

    #[test]
    fn sections_of_a_gateway_are_separate_parents() {
        let mut two = route(&json!([report("traefik", Some(4), "True")]));
        two["spec"]["parentRefs"] =
            json!([{"name": "public"}, {"name": "public", "sectionName": "tls"}]);
        assert!(matches!(
            programmed_status(&two),
            ProgrammedStatus::Pending(_)
        ));
    }

    #[test]
    fn a_route_without_parents_is_pending() {
        let without_parents = json!({"metadata": {"generation": 1}, "spec": {}});
        assert_eq!(
            programmed_status(&without_parents),
            ProgrammedStatus::Pending("the route has no parent in spec.parentRefs".into())
        );
    }
}
