//! The findings as a SARIF log, which code hosts show at the line of the manifest.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use serin_core::guardrail::GuardrailKind;

use super::{Finding, Severity};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// The log.
pub(super) fn log(findings: &[Finding]) -> Value {
    let mut rules: BTreeMap<&str, Value> = BTreeMap::new();
    for finding in findings {
        let check = finding.check.as_str();
        rules
            .entry(check)
            .or_insert_with(|| json!({"id": check, "shortDescription": {"text": meaning(check)}}));
    }
    let results: Vec<Value> = findings.iter().map(result).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "kubectl-serin lint",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.into_values().collect::<Vec<_>>(),
            }},
            "results": results,
        }],
    })
}

fn result(finding: &Finding) -> Value {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let (file, line) = location(&finding.source);
    let text = match finding.object.as_str() {
        "" => finding.message.clone(),
        object => format!("{object}: {}", finding.message),
    };
    let mut result = json!({"ruleId": finding.check, "level": level, "message": {"text": text}});
    if !file.is_empty() {
        result["locations"] = json!([{"physicalLocation": {
            "artifactLocation": {"uri": file.replace('\\', "/")},
            "region": {"startLine": line},
        }}]);
    }
    result
}

/// File and line of `FILE:LINE`.
pub(super) fn location(source: &str) -> (&str, u64) {
    match source.rsplit_once(':') {
        Some((file, line)) => match line.parse() {
            Ok(line) => (file, line),
            Err(_) => (source, 1),
        },
        None => (source, 1),
    }
}

fn meaning(check: &str) -> String {
    let guardrail = check.strip_prefix("guardrail/").map(|name| {
        let kind = GuardrailKind::ALL.iter().find(|kind| kind.as_str() == name);
        kind.map_or(GuardrailKind::Custom.meaning(), |kind| kind.meaning())
    });
    let text = guardrail.unwrap_or(match check {
        "yaml" => "The file is YAML.",
        "schema" => "The API server and the controller accept the object.",
        "references" => "The objects that it names are in the files.",
        "feasibility" => "The traffic suffices to prove the objectives.",
        "assignment" => "Requests, and not clients, are assigned to a side.",
        _ => "The guardrails can be checked.",
    });
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_has_its_file_line_and_rule() {
        let finding = Finding {
            severity: Severity::Error,
            check: "guardrail/resources".to_owned(),
            source: "deploy/shop.yaml:12".to_owned(),
            object: "Rollout shop".to_owned(),
            message: "no limit".to_owned(),
        };
        let log = log(&[finding.clone(), finding]);
        let run = &log["runs"][0];
        let location = &run["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(location["artifactLocation"]["uri"], "deploy/shop.yaml");
        assert_eq!(location["region"]["startLine"], 12);
        assert_eq!(run["results"][1]["ruleId"], "guardrail/resources");
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 1);
        let meaning = &rules[0]["shortDescription"]["text"];
        assert_eq!(meaning, GuardrailKind::Resources.meaning());
    }

    #[test]
    fn a_source_without_a_line_is_the_first_line() {
        assert_eq!(location("a.yaml:7"), ("a.yaml", 7));
        assert_eq!(location("a.yaml"), ("a.yaml", 1));
        assert_eq!(location("c:\\a.yaml"), ("c:\\a.yaml", 1));
    }
}
