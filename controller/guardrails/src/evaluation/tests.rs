use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn guardrails(value: serde_json::Value) -> Guardrails {
    serde_json::from_value(value).unwrap()
}

fn facts() -> Facts {
    Facts {
        namespace_name: "shop".to_owned(),
        rollout_name: "checkout".to_owned(),
        replicas: 3,
        template: json!({"spec": {"containers": [{"name": "app", "image": "app"}]}}),
        ..Facts::default()
    }
}

fn exception(guardrail: &str, expires: &str) -> GuardrailException {
    GuardrailException {
        guardrail: guardrail.to_owned(),
        reason: "migration".to_owned(),
        expires: expires.to_owned(),
    }
}

#[test]
fn the_mode_decides_whether_a_finding_holds() {
    for (mode, expected) in [
        ("Enforce", vec![true]),
        ("Warn", vec![false]),
        ("Off", vec![]),
    ] {
        let guardrails = guardrails(json!({"priority": {"mode": mode}}));
        let findings = evaluate(&guardrails, &[], &facts(), now()).findings;
        let holding: Vec<bool> = findings.iter().map(Finding::is_holding).collect();
        assert_eq!(holding, expected, "{mode}");
    }
    assert_eq!(
        evaluate(&Guardrails::default(), &[], &facts(), now()),
        Evaluation::default()
    );
}

#[test]
fn an_exception_lifts_its_guardrail_until_it_ends() {
    let guardrails = guardrails(json!({
        "priority": {"mode": "Enforce"}, "imagePinned": {"mode": "Enforce"},
    }));
    let exceptions = [exception("priority", "2026-07-01")];
    let evaluation = evaluate(&guardrails, &exceptions, &facts(), now());
    let holding: Vec<GuardrailKind> = evaluation
        .findings
        .iter()
        .filter(|finding| finding.is_holding())
        .map(|finding| finding.guardrail)
        .collect();
    assert_eq!(holding, [GuardrailKind::ImagePinned]);
    let end: Timestamp = "2026-07-02T00:00:00Z".parse().unwrap();
    let excepted = evaluation.findings.last().unwrap();
    assert_eq!(excepted.expires, Some(end));
    // It is reported a week before it ends.
    assert_eq!(
        evaluation.next_change,
        Some("2026-06-25T00:00:00Z".parse().unwrap())
    );
}

#[test]
fn an_exception_is_reported_before_it_ends_and_bites_after_it() {
    let guardrails = guardrails(json!({"priority": {"mode": "Enforce"}}));
    let run = |expires: &str| {
        let exceptions = [exception("priority", expires)];
        evaluate(&guardrails, &exceptions, &facts(), now()).findings
    };
    let ending = run("2026-06-03");
    let codes: Vec<HoldCode> = ending.iter().map(|finding| finding.code).collect();
    let expected = [
        HoldCode::PriorityMissing,
        HoldCode::GuardrailExceptionEnding,
    ];
    assert_eq!(codes, expected);
    assert!(ending.iter().all(|finding| !finding.is_holding()));
    let ended = run("2026-05-31");
    assert!(ended[0].is_holding());
    assert!(
        ended[0]
            .problem
            .contains("the exception ended at 2026-06-01"),
        "{ended:?}"
    );
    let invalid = run("soon");
    assert!(invalid[0].is_holding());
    assert_eq!(invalid[1].code, HoldCode::GuardrailInvalid);
}

#[test]
fn an_exception_from_a_guardrail_that_is_met_is_silent() {
    let guardrails = guardrails(json!({"spread": {"mode": "Enforce", "minReplicas": 10}}));
    let exceptions = [exception("spread", "2026-06-02")];
    let evaluation = evaluate(&guardrails, &exceptions, &facts(), now());
    assert_eq!(evaluation, Evaluation::default());
}

#[test]
fn findings_of_one_guardrail_are_bounded() {
    let containers: Vec<_> = (0..100)
        .map(|n| json!({"name": format!("c{n}"), "image": "x"}))
        .collect();
    let mut facts = facts();
    facts.template = json!({"spec": {"containers": containers}});
    let guardrails = guardrails(json!({"imagePinned": {"mode": "Enforce"}}));
    let findings = evaluate(&guardrails, &[], &facts, now()).findings;
    assert_eq!(findings.len(), MAX_FINDINGS);
    let last = findings.last().unwrap();
    assert!(last.problem.contains("and 84 more problems"), "{last}");
}

#[test]
fn a_malformed_template_is_evaluated_without_a_panic() {
    let all: serde_json::Map<String, serde_json::Value> = GuardrailKind::ALL
        .iter()
        .filter(|kind| **kind != GuardrailKind::Custom)
        .map(|kind| (kind.as_str().to_owned(), json!({"mode": "Enforce"})))
        .collect();
    let guardrails = guardrails(serde_json::Value::Object(all));
    for template in [
        json!(null),
        json!([1]),
        json!({"spec": {"containers": "none", "volumes": {"a": 1}}}),
        json!({"spec": {"containers": [null, 3, {"env": [null], "ports": {}}]}}),
        json!({"metadata": {"labels": [], "annotations": 1}, "spec": null}),
    ] {
        let mut facts = facts();
        facts.template = template;
        assert!(
            !evaluate(&guardrails, &[], &facts, now())
                .findings
                .is_empty()
        );
    }
}
