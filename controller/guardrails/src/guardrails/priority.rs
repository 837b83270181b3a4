//! The pods have a priority class.

use serin_core::hold::HoldCode;
use serin_crds::guardrails::PriorityGuardrail;

use crate::evaluation::Report;
use crate::facts::Facts;
use crate::template::Template;

pub(super) fn check(options: &PriorityGuardrail, facts: &Facts, report: &mut Report) {
    let template = Template(&facts.template);
    let class = template.spec()["priorityClassName"].as_str();
    let class = class.filter(|class| !class.is_empty());
    let allowed = options.allowed.join(", ");
    let fix = if allowed.is_empty() {
        "Set priorityClassName in the pod template".to_owned()
    } else {
        format!("Set priorityClassName in the pod template to one of: {allowed}")
    };
    let problem = match class {
        None => "the pods have no priority class".to_owned(),
        Some(class)
            if !options.allowed.is_empty() && options.allowed.iter().all(|a| a != class) =>
        {
            format!("the priority class {class} is not allowed")
        }
        Some(_) => return,
    };
    report.add(HoldCode::PriorityMissing, "pod template", problem, fix);
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::Priority;

    use super::super::test_facts::{codes, facts, facts_of};
    use super::*;

    #[test]
    fn the_pods_need_an_allowed_priority_class() {
        assert_eq!(
            codes(Priority, json!({}), &facts()),
            [HoldCode::PriorityMissing]
        );
        let high = facts_of(json!({"containers": [], "priorityClassName": "high"}));
        assert!(codes(Priority, json!({}), &high).is_empty());
        assert!(codes(Priority, json!({"allowed": ["high"]}), &high).is_empty());
        let other = json!({"allowed": ["low"]});
        assert_eq!(codes(Priority, other, &high), [HoldCode::PriorityMissing]);
    }
}
