//! The images have no more known vulnerabilities than allowed, by the reports of the Trivy operator.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::{
    OnMissingReport, VulnerabilitiesGuardrail, VulnerabilityException, duration_or, parse_expiry,
};

use crate::evaluation::Report;
use crate::facts::{Facts, Source};
use crate::image::{ImageReference, registry_digest};
use crate::template::{Container, Template, items};

const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);
const REPORT_DEADLINE: Duration = Duration::from_secs(600);
/// Number of vulnerabilities that a finding names.
const NAMED: usize = 5;
/// Maximum number of vulnerabilities of a report that are read.
const MAX_LISTED: usize = 20_000;

pub(super) fn check(options: &VulnerabilitiesGuardrail, facts: &Facts, report: &mut Report) {
    let reports = match facts.objects_of(Source::VulnerabilityReports).known() {
        Ok(reports) => reports,
        Err(why) => return report.unknown("VulnerabilityReports", &why),
    };
    let Some(max_age) = duration(options.max_age.as_deref(), MAX_AGE, "maxAge", report) else {
        return;
    };
    let exceptions = exceptions_in_force(&options.exceptions, report);
    let mut counts = Counts::default();
    for container in Template(&facts.template).containers() {
        match find(reports, &container, facts, max_age, report) {
            Ok(found) => counts.add(found, &container, options, &exceptions),
            Err(problem) => report_missing(options, &container, &problem, facts, report),
        }
    }
    let limits = [
        (Severity::Critical, Some(options.max_critical.unwrap_or(0))),
        (Severity::High, options.max_high),
        (Severity::Medium, options.max_medium),
    ];
    for (severity, limit) in limits {
        if let Some(limit) = limit {
            counts.check(severity, limit, report);
        }
    }
}

fn duration(
    text: Option<&str>,
    default: Duration,
    field: &str,
    report: &mut Report,
) -> Option<Duration> {
    match duration_or(text, default) {
        Ok(duration) => Some(duration),
        Err(error) => {
            report.add(
                HoldCode::GuardrailInvalid,
                format!("vulnerabilities.{field}"),
                error.to_string(),
                "Correct it in the RolloutPolicy",
            );
            None
        }
    }
}

/// The identifiers that do not count now.
fn exceptions_in_force<'a>(
    exceptions: &'a [VulnerabilityException],
    report: &mut Report,
) -> BTreeSet<&'a str> {
    let mut in_force = BTreeSet::new();
    for exception in exceptions {
        match parse_expiry(&exception.expires) {
            Ok(end) if end > report.now => {
                report.changes_at(end);
                in_force.insert(exception.id.as_str());
            }
            Ok(_) => {}
            Err(error) => report.warn(
                HoldCode::GuardrailInvalid,
                format!("vulnerabilities.exceptions {}", exception.id),
                format!("it is not applied: {error}"),
                "Correct it in the RolloutPolicy",
            ),
        }
    }
    in_force
}

/// The current report about a container.
fn find<'a>(
    reports: &'a [Value],
    container: &Container<'_>,
    facts: &Facts,
    max_age: Duration,
    report: &mut Report,
) -> Result<&'a Value, String> {
    let matching = reports
        .iter()
        .filter(|report| is_about(report, container, facts));
    let newest = matching
        .filter_map(|report| {
            let at = report["report"]["updateTimestamp"].as_str()?;
            Some((at.parse::<Timestamp>().ok()?, report))
        })
        .max_by_key(|(at, _)| *at);
    let Some((at, found)) = newest else {
        return Err(format!("no report about {} exists", container.image()));
    };
    let age = SignedDuration::try_from(max_age).unwrap_or(SignedDuration::MAX);
    let end = at.checked_add(age).unwrap_or(Timestamp::MAX);
    if end <= report.now {
        return Err(format!(
            "the newest report about {} is of {at}",
            container.image()
        ));
    }
    report.changes_at(end);
    Ok(found)
}

/// Whether a report is about the image that a container of the revision runs: it is made of the
/// ReplicaSet or of one of its pods, or of the same digest.
fn is_about(report: &Value, container: &Container<'_>, facts: &Facts) -> bool {
    let labels = &report["metadata"]["labels"];
    let annotations = &report["metadata"]["annotations"];
    let label = |name: &str| {
        let key = format!("trivy-operator.{name}");
        // A value that is too long for a label is an annotation.
        labels[&key].as_str().or_else(|| annotations[&key].as_str())
    };
    let artifact = report["report"]["artifact"]["digest"].as_str();
    let is_digest = |digest: Option<&str>| digest.is_some() && digest == artifact;
    if is_digest(ImageReference::parse(container.image()).digest) {
        return true;
    }
    let pods = facts.pods.known().map(Vec::as_slice).unwrap_or_default();
    let mut running = pods.iter().flat_map(|pod| &pod.containers);
    if running.any(|running| {
        running.name == container.name && is_digest(registry_digest(&running.image_id))
    }) {
        return true;
    }
    let name = label("resource.name");
    let is_of_revision = match label("resource.kind") {
        Some("ReplicaSet") => name.is_some() && name == facts.replica_set.as_deref(),
        Some("Pod") => pods.iter().any(|pod| Some(pod.name.as_str()) == name),
        _ => false,
    };
    is_of_revision && label("container.name") == Some(container.name)
}

fn report_missing(
    options: &VulnerabilitiesGuardrail,
    container: &Container<'_>,
    problem: &str,
    facts: &Facts,
    report: &mut Report,
) {
    const FIELD: &str = "reportDeadline";
    let text = options.report_deadline.as_deref();
    let Some(wait) = duration(text, REPORT_DEADLINE, FIELD, report) else {
        return;
    };
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    let deadline = facts
        .pods_since
        .map(|since| since.checked_add(wait).unwrap_or(Timestamp::MAX));
    let is_over = deadline.is_some_and(|deadline| deadline <= report.now);
    let continues = options.on_missing_report == Some(OnMissingReport::Continue);
    let problem = match deadline {
        Some(deadline) if is_over => format!("{problem}, since the deadline at {deadline}"),
        Some(deadline) => format!("{problem}; it is awaited until {deadline}"),
        None => format!("{problem}, because no pod of the revision runs yet"),
    };
    let fix = "Wait for the scan of the Trivy operator; if it does not come, see its log";
    if let Some(deadline) = deadline.filter(|_| !is_over) {
        report.changes_at(deadline);
    }
    let code = HoldCode::VulnerabilityReportMissing;
    if is_over && continues {
        report.warn(code, container.label(), problem, fix);
    } else {
        report.add(code, container.label(), problem, fix);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Critical,
    High,
    Medium,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
        }
    }
}

/// The vulnerabilities of a revision.
#[derive(Default)]
struct Counts {
    /// Severity, container and text of each.
    listed: Vec<(Severity, String, String)>,
    /// Vulnerabilities that a report only counts.
    unlisted: [u64; 3],
}

impl Counts {
    fn add(
        &mut self,
        found: &Value,
        container: &Container<'_>,
        options: &VulnerabilitiesGuardrail,
        exceptions: &BTreeSet<&str>,
    ) {
        let report = &found["report"];
        let ignores_unfixed = options.ignore_unfixed == Some(true);
        let mut seen = BTreeSet::new();
        let mut of_report = [0_u64; 3];
        for vulnerability in items(&report["vulnerabilities"]).take(MAX_LISTED) {
            let text = |field: &str| vulnerability[field].as_str().unwrap_or_default();
            let severity = match text("severity") {
                "CRITICAL" => Severity::Critical,
                "HIGH" => Severity::High,
                "MEDIUM" => Severity::Medium,
                _ => continue,
            };
            of_report[severity as usize] += 1;
            let (id, fixed) = (text("vulnerabilityID"), text("fixedVersion"));
            let is_unfixed = fixed.is_empty();
            let is_ignored = exceptions.contains(id) || (ignores_unfixed && is_unfixed);
            let is_new = seen.insert((id, text("resource"), text("installedVersion")));
            if is_ignored || !is_new {
                continue;
            }
            let fixed = if is_unfixed {
                "not fixed".to_owned()
            } else {
                format!("fixed in {fixed}")
            };
            let (resource, installed) = (text("resource"), text("installedVersion"));
            let line = format!("{id} ({resource} {installed}, {fixed})");
            self.listed.push((severity, container.label(), line));
        }
        // A report that counts more than it lists hides some of them.
        let summary = &report["summary"];
        for (severity, field) in [
            (Severity::Critical, "criticalCount"),
            (Severity::High, "highCount"),
            (Severity::Medium, "mediumCount"),
        ] {
            let counted = summary[field].as_u64().unwrap_or(0);
            let index = severity as usize;
            self.unlisted[index] += counted.saturating_sub(of_report[index]);
        }
    }

    fn check(&self, severity: Severity, limit: i32, report: &mut Report) {
        let of_severity = || {
            self.listed
                .iter()
                .filter(|(other, _, _)| *other == severity)
        };
        let listed = u64::try_from(of_severity().count()).unwrap_or(u64::MAX);
        let count = listed.saturating_add(self.unlisted[severity as usize]);
        if count <= u64::try_from(limit).unwrap_or(0) {
            return;
        }
        let lines: Vec<&str> = of_severity()
            .take(NAMED)
            .map(|(_, _, line)| line.as_str())
            .collect();
        let object = of_severity().next().map_or_else(
            || "pod template".to_owned(),
            |(_, container, _)| container.clone(),
        );
        let more = if count > lines.len() as u64 && !lines.is_empty() {
            ", ..."
        } else {
            ""
        };
        let name = severity.as_str();
        report.add(
            HoldCode::Vulnerable,
            object,
            format!(
                "the images have {count} {name} vulnerabilities, and {limit} are allowed: {}{more}",
                lines.join(", ")
            ),
            "Update the packages or the base image, or add an exception with a date",
        );
    }
}

#[cfg(test)]
mod tests;
