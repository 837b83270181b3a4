//! `kubectl serin lint`: checks manifests without a cluster.
//!
//! Six checks, as in the API server and the controller: the schema of the CRD with unknown fields,
//! its validation rules, the plan, the names of other objects in the same files, affinity in them,
//! and the guardrails of RolloutPolicies.

mod assignment;
mod feasibility;
mod guardrails;
mod junit;
mod policies;
mod references;
mod sarif;
mod schema;

use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serin_crds::RolloutSpec;
use serin_crds::names::GROUP;

use crate::cli::{LintArgs, LintFormat, TrafficArgs};
use crate::display_text::{escaped_json, printable};
use crate::documents::{self, Document, Documents};
use crate::effective::PolicySet;
use crate::exit::{CliError, Exit};

pub use feasibility::infeasible_objectives;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The API server or the controller rejects the object.
    Error,
    /// The object is valid, but may not work as intended.
    Warning,
    /// Something was not checked. Never an error.
    Note,
}

impl Severity {
    /// The severity in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One problem of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// The check that found it, for example `schema` or `guardrail/resources`.
    pub check: String,
    /// File and line of the object.
    pub source: String,
    /// Kind and name of the object. Empty if the document is not readable.
    pub object: String,
    /// The field, the problem and the fix.
    pub message: String,
}

/// Checks the files of the arguments, and prints the findings.
///
/// # Errors
/// A file cannot be opened, or the output cannot be written.
pub fn run(args: &LintArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let documents = documents::read(&args.files)?;
    let mut resolved_with = PolicySet::read(&args.policies)?;
    for document in &documents.objects {
        resolved_with.add(&document.object);
    }
    let mut findings = lint(&documents, &resolved_with, &args.traffic);
    let policies = documents::read(&args.policies)?;
    let now = Timestamp::now();
    findings.extend(guardrails::findings(&documents, &policies, now));
    match args.output {
        LintFormat::Json => print_json(&findings, out)?,
        LintFormat::Sarif => print_json(&sarif::log(&findings), out)?,
        LintFormat::Junit => out.write_all(junit::render(&findings, &documents).as_bytes())?,
        LintFormat::Text => print_text(&findings, &documents, out)?,
    }
    let fails = |finding: &Finding| match finding.severity {
        Severity::Error => true,
        Severity::Warning => args.strict,
        Severity::Note => false,
    };
    if findings.iter().any(fails) {
        return Ok(Exit::Refused);
    }
    Ok(Exit::Done)
}

fn print_json(value: &impl Serialize, out: &mut dyn Write) -> Result<(), CliError> {
    let json = serde_json::to_string_pretty(value);
    let json = json.map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    writeln!(out, "{}", escaped_json(&json))?;
    Ok(())
}

fn print_text(
    findings: &[Finding],
    documents: &Documents,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    for finding in findings {
        let severity = finding.severity.as_str();
        let object = match finding.object.as_str() {
            "" => String::new(),
            object => format!(" {object}:"),
        };
        let line = format!(
            "{}: {severity}:{object} {}",
            finding.source, finding.message
        );
        writeln!(out, "{}", printable(&line))?;
    }
    let rollouts = documents
        .objects
        .iter()
        .filter(|document| is_ours(document))
        .count();
    let count = |severity| {
        let of_severity = findings
            .iter()
            .filter(|finding| finding.severity == severity);
        of_severity.count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    writeln!(
        out,
        "{rollouts} objects of Serin: {errors} errors, {warnings} warnings"
    )?;
    Ok(())
}

/// The findings of all documents, in their order.
pub fn lint(documents: &Documents, policies: &PolicySet, traffic: &TrafficArgs) -> Vec<Finding> {
    let mut findings: Vec<Finding> = documents
        .problems
        .iter()
        .map(|problem| unreadable(problem))
        .collect();
    let objects: Vec<&Value> = documents
        .objects
        .iter()
        .map(|document| &document.object)
        .collect();
    for document in documents
        .objects
        .iter()
        .filter(|document| is_ours(document))
    {
        let object = describe(&document.object);
        let mut report = |severity, check: &str, messages: Vec<String>| {
            findings.extend(messages.into_iter().map(|message| Finding {
                severity,
                check: check.to_owned(),
                source: document.source.clone(),
                object: object.clone(),
                message,
            }));
        };
        let (errors, effective) = errors_with(&document.object, policies);
        let is_valid = errors.is_empty();
        report(Severity::Error, "schema", errors);
        report(
            Severity::Warning,
            "references",
            references::missing(&document.object, &objects),
        );
        if is_valid {
            report(
                Severity::Warning,
                "feasibility",
                infeasible_objectives(&effective, traffic),
            );
            let sticky = assignment::sticky_clients(&document.object, &objects);
            report(
                Severity::Warning,
                "assignment",
                sticky.into_iter().collect(),
            );
        }
    }
    findings
}

fn unreadable(problem: &str) -> Finding {
    let (source, message) = problem.split_once(": ").unwrap_or(("", problem));
    Finding {
        severity: Severity::Error,
        check: "yaml".to_owned(),
        source: source.to_owned(),
        object: String::new(),
        message: message.to_owned(),
    }
}

/// Why the API server or the controller rejects an object of Serin. The rules are evaluated only if
/// the structure is valid, as in the API server. The plan finds what the rules find, and more, with
/// the value and a fix.
pub fn errors(object: &Value) -> Vec<String> {
    errors_with(object, &PolicySet::default()).0
}

/// The same with what policies contribute, and the object with its effective spec.
fn errors_with(object: &Value, policies: &PolicySet) -> (Vec<String>, Value) {
    let structural = schema::structural_errors(object);
    if !structural.is_empty() {
        return (structural, object.clone());
    }
    let mut errors = schema::rule_errors(object);
    errors.extend(policies::policy_errors(object, policies));
    let effective = match policies::effective_object(object, policies) {
        Ok(effective) => effective,
        Err(problems) => {
            errors.extend(problems);
            return (errors, object.clone());
        }
    };
    let planned = plan_errors(&effective);
    if !planned.is_empty() {
        errors.retain(|error| !is_found_by_plan(error, &planned));
    }
    errors.extend(planned);
    (errors, effective)
}

/// Whether the plan reports a problem of the same field.
fn is_found_by_plan(error: &str, planned: &[String]) -> bool {
    let field = |text: &str| text.split(": ").next().unwrap_or_default().to_owned();
    planned.iter().any(|problem| field(problem) == field(error))
}

fn plan_errors(object: &Value) -> Vec<String> {
    if object["kind"] != "Rollout" {
        return Vec::new();
    }
    let spec: RolloutSpec = match serde_path_to_error::deserialize(&object["spec"]) {
        Ok(spec) => spec,
        Err(error) => return vec![format!("spec.{}: {}", error.path(), error.inner())],
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match spec.plan(name) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn is_ours(document: &Document) -> bool {
    let version = document.object["apiVersion"].as_str().unwrap_or_default();
    version.split('/').next() == Some(GROUP)
}

fn describe(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or("object");
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or("without a name");
    format!("{kind} {name}")
}
