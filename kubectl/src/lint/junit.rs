//! The findings as JUnit XML: one test case for each object of Serin.

use super::sarif::location;
use super::{Finding, Severity, describe, is_ours};
use crate::audit::escape;
use crate::documents::Documents;

/// The report.
pub(super) fn render(findings: &[Finding], documents: &Documents) -> String {
    let mut cases: Vec<(String, String)> = Vec::new();
    let of_objects = documents
        .objects
        .iter()
        .filter(|document| is_ours(document));
    for document in of_objects {
        cases.push((document.source.clone(), describe(&document.object)));
    }
    // Files that cannot be read have no object.
    for finding in findings {
        let case = (finding.source.clone(), finding.object.clone());
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    let mut failures = 0;
    let mut body = String::new();
    for (source, object) in &cases {
        let of_case = |finding: &&Finding| finding.source == *source && finding.object == *object;
        let found: Vec<&Finding> = findings.iter().filter(of_case).collect();
        failures += usize::from(found.iter().any(|one| one.severity == Severity::Error));
        body.push_str(&test_case(source, object, &found));
    }
    let tests = cases.len();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"kubectl serin lint\" tests=\"{tests}\" failures=\"{failures}\">\n\
         <testsuite name=\"kubectl serin lint\" tests=\"{tests}\" failures=\"{failures}\">\n\
         {body}</testsuite>\n</testsuites>\n"
    )
}

fn test_case(source: &str, object: &str, findings: &[&Finding]) -> String {
    let (file, line) = location(source);
    let name = if object.is_empty() { source } else { object };
    let mut case = format!(
        "<testcase name=\"{}\" classname=\"{}\" file=\"{}\" line=\"{line}\">\n",
        escape(name),
        escape(file),
        escape(file)
    );
    let lines = |wanted: fn(Severity) -> bool| -> Vec<String> {
        let found = findings.iter().filter(|finding| wanted(finding.severity));
        found
            .map(|finding| {
                format!(
                    "{source}: {}: {}",
                    finding.severity.as_str(),
                    finding.message
                )
            })
            .collect()
    };
    let errors = lines(|severity| severity == Severity::Error);
    if let Some(first) = findings.iter().find(|one| one.severity == Severity::Error) {
        case.push_str(&format!(
            "<failure type=\"{}\" message=\"{}\">{}</failure>\n",
            escape(&first.check),
            escape(&first.message),
            escape(&errors.join("\n"))
        ));
    }
    let others = lines(|severity| severity != Severity::Error);
    if !others.is_empty() {
        case.push_str(&format!(
            "<system-out>{}</system-out>\n",
            escape(&others.join("\n"))
        ));
    }
    case + "</testcase>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_is_a_test_case_that_fails_with_its_errors() {
        let mut documents = Documents::default();
        let rollout = |name: &str| {
            format!("apiVersion: serin.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {name}}}\n")
        };
        documents.parse(&format!("{}---\n{}", rollout("a"), rollout("b")), "f.yaml");
        let finding = |severity, message: &str| Finding {
            severity,
            check: "guardrail/resources".to_owned(),
            source: "f.yaml:1".to_owned(),
            object: "Rollout a".to_owned(),
            message: message.to_owned(),
        };
        let findings = [
            finding(Severity::Error, "<no> \"limit\"\u{1b}"),
            finding(Severity::Warning, "no probe"),
        ];
        let xml = render(&findings, &documents);
        assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");
        assert!(
            xml.contains("message=\"&lt;no&gt; &quot;limit&quot; \""),
            "{xml}"
        );
        assert!(
            xml.contains("<system-out>f.yaml:1: warning: no probe</system-out>"),
            "{xml}"
        );
        assert!(xml.contains("<testcase name=\"Rollout b\""), "{xml}");
        assert_eq!(xml.matches("<failure").count(), 1);
    }
}
