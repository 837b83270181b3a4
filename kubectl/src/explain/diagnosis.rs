//! Diagnosis of a release: a headline, the reasons and the next steps.

use serin_crds::status::AbortStatus;

use super::holds;
use crate::display::DisplayContext;
use crate::report::{Report, UnhealthyCondition};

/// Diagnosis of a release.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Diagnosis {
    /// Short description.
    pub headline: String,
    /// Reasons, one sentence each.
    pub reasons: Vec<String>,
    /// What happens next, and what the user can do.
    pub next_steps: Vec<String>,
    /// Its kind.
    pub kind: DiagnosisKind,
}

/// Kinds of diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiagnosisKind {
    /// The release is not analyzed.
    NotAnalyzed,
    /// The release is being analyzed.
    InProgress,
    /// Data is missing, or the service is unhealthy.
    Held,
    /// The evidence rolled the release back. At most one in `one_in` good releases ends like this.
    RolledBack { one_in: u32 },
    /// The release ended for another reason.
    Ended,
}

impl Diagnosis {
    fn new(kind: DiagnosisKind, headline: impl Into<String>) -> Self {
        Self {
            headline: headline.into(),
            reasons: Vec::new(),
            next_steps: Vec::new(),
            kind,
        }
    }

    fn with_reason(mut self, why: impl Into<String>) -> Self {
        self.reasons.push(why.into());
        self
    }

    fn with_next_step(mut self, next: impl Into<String>) -> Self {
        self.next_steps.push(next.into());
        self
    }
}

/// Diagnoses the release. `has_analysis`: whether the spec has an analysis.
pub(super) fn diagnose(report: &Report, has_analysis: bool, display: &DisplayContext) -> Diagnosis {
    let Some(stage) = report.stage.as_deref() else {
        return Diagnosis::new(DiagnosisKind::NotAnalyzed, "Not yet reconciled")
            .with_reason("The controller has not reconciled this Rollout yet.")
            .with_next_step("Check that the controller is running: kubectl get pods -A -l app.kubernetes.io/name=serin");
    };
    let mut diagnosis = match (stage, &report.abort) {
        ("Aborted", Some(abort)) => diagnose_aborted(report, abort, display),
        ("FirstDeploy", _) => Diagnosis::new(DiagnosisKind::NotAnalyzed, "First deploy")
            .with_reason(
                "This is the first revision. There is no stable revision to compare it with, so it is not analyzed.",
            )
            .with_next_step("It becomes stable when all of its pods are available."),
        ("Stable", _) => diagnose_stable(report, display),
        ("Progressing" | "Promoting", _) => diagnose_in_progress(report, has_analysis),
        (other, _) => Diagnosis::new(DiagnosisKind::Ended, other.to_owned()).with_reason(report.message.clone().unwrap_or_default()),
    };
    if let Some(problem) = condition(report, "InvalidSpec") {
        diagnosis.reasons.insert(
            0,
            format!("The latest spec is invalid: {}", problem.message),
        );
        diagnosis.next_steps.insert(
            0,
            "Correct the spec. Until then the previous plan stays active.".to_owned(),
        );
    } else if !report.up_to_date {
        diagnosis
            .reasons
            .push("The controller has not observed the latest spec yet.".to_owned());
    }
    diagnosis
}

fn condition<'a>(report: &'a Report, name: &str) -> Option<&'a UnhealthyCondition> {
    report
        .unhealthy_conditions
        .iter()
        .find(|condition| condition.condition == name)
}

/// The hold reason and its message. The message of the latency guard is shown with its evidence.
fn hold_reason(report: &Report) -> Option<(&str, Option<&str>)> {
    let condition = condition(report, "MetricsReady").or_else(|| condition(report, "Frozen"));
    let guards = report
        .evidence
        .iter()
        .filter_map(|evidence| evidence.latency_guard.as_ref());
    let mut acting =
        guards.filter(|guard| guard.threshold.is_some() && guard.e_value >= guard.threshold);
    let reason =
        condition.map(|condition| (condition.reason.as_str(), Some(condition.message.as_str())));
    reason.or_else(|| acting.next().map(|_| ("LatencyGuard", None)))
}

fn current(report: &Report) -> &str {
    report
        .current_revision
        .as_deref()
        .unwrap_or("the new revision")
}

fn diagnose_stable(report: &Report, display: &DisplayContext) -> Diagnosis {
    let serves = format!("Revision {} serves all traffic.", current(report));
    let diagnosis =
        Diagnosis::new(DiagnosisKind::Ended, "No release in progress").with_reason(serves);
    match report
        .releases
        .first()
        .filter(|release| Some(&release.revision) == report.current_revision.as_ref())
    {
        Some(release) => {
            let result = release.result.to_lowercase();
            let message = release.message.trim_end_matches('.');
            let why = if message.to_lowercase() == result {
                String::new()
            } else {
                format!(": {message}")
            };
            diagnosis.with_reason(format!(
                "It was {result} {} ago{why}.",
                display.elapsed_since(release.at)
            ))
        }
        None => diagnosis,
    }
}

fn diagnose_in_progress(report: &Report, has_analysis: bool) -> Diagnosis {
    let revision = current(report);
    let weight = report
        .weights
        .as_ref()
        .map_or(0.0, |weights| weights.desired);
    let at = format!("revision {revision} at {weight} % of traffic");
    if report.stage.as_deref() == Some("Promoting") {
        return Diagnosis::new(DiagnosisKind::InProgress, format!("Promoting: {at}"))
            .with_reason(
                "The release has passed its steps or its analysis and is taking over all traffic.",
            )
            .with_next_step("A breach of the objectives still rolls it back.");
    }
    if !has_analysis {
        return Diagnosis::new(DiagnosisKind::NotAnalyzed, format!("Not analyzed: {at}"))
            .with_reason("The spec has no analysis. Only pod failures and commands decide about this release.")
            .with_next_step("Add an objective to spec.analysis to compare the canary with stable.");
    }
    if let Some((cause, message)) = hold_reason(report) {
        let hold = holds::explain_hold(cause);
        return Diagnosis {
            headline: format!("Held ({cause}): {at}"),
            reasons: message
                .into_iter()
                .chain([hold.meaning])
                .map(str::to_owned)
                .collect(),
            next_steps: hold.fix.map(str::to_owned).into_iter().collect(),
            kind: DiagnosisKind::Held,
        };
    }
    let commands = report
        .waiting
        .iter()
        .flat_map(|waiting| waiting.commands.iter());
    if let Some(waiting) = report.waiting.as_ref().filter(|waiting| waiting.pause) {
        let mut diagnosis = Diagnosis::new(DiagnosisKind::InProgress, format!("Paused: {at}"))
            .with_reason(format!("It waits for {}.", waiting.what))
            .with_next_step(
                "The analysis continues during the pause and can still roll the release back.",
            );
        diagnosis.next_steps.extend(commands.cloned());
        return diagnosis;
    }
    let mut diagnosis = Diagnosis::new(DiagnosisKind::InProgress, format!("In progress: {at}"));
    if let Some(waiting) = &report.waiting {
        diagnosis = diagnosis.with_reason(format!("It waits for {}.", waiting.what));
    } else if let Some(message) = report
        .message
        .as_ref()
        .filter(|_| report.evidence.is_empty())
    {
        diagnosis = diagnosis.with_reason(message.clone());
    }
    diagnosis
}

fn diagnose_aborted(report: &Report, abort: &AbortStatus, display: &DisplayContext) -> Diagnosis {
    let revision = &abort.revision;
    let ago = display.elapsed_since(abort.at);
    let (kind, headline) = match abort.cause.as_str() {
        "Evidence" => {
            let threshold = report
                .evidence
                .iter()
                .filter_map(|evidence| evidence.threshold)
                .fold(0.0, f64::max);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "1/alpha, cut to a whole number"
            )]
            let one_in = if threshold > 1.0 {
                threshold.round().min(1e9) as u32
            } else {
                100
            };
            (
                DiagnosisKind::RolledBack { one_in },
                "Rolled back by evidence".to_owned(),
            )
        }
        "ErrorBudget" => (
            DiagnosisKind::RolledBack { one_in: 10 },
            "Rolled back: its error budget is spent".to_owned(),
        ),
        "ServiceBurning" => (
            DiagnosisKind::RolledBack { one_in: 10 },
            "Rolled back: the service burns its error budget, and the canary is the likely cause"
                .to_owned(),
        ),
        "PodCrash" => (
            DiagnosisKind::Ended,
            "Rolled back: its pods crash".to_owned(),
        ),
        "ProgressDeadline" => (
            DiagnosisKind::Ended,
            "Rolled back: it did not become ready in time".to_owned(),
        ),
        "Command" => {
            let by = abort
                .by
                .as_ref()
                .map_or_else(String::new, |by| format!(" by {by}"));
            (DiagnosisKind::Ended, format!("Aborted by a command{by}"))
        }
        "Reverted" => (
            DiagnosisKind::Ended,
            "Aborted: the spec was reverted to stable".to_owned(),
        ),
        other => (DiagnosisKind::Ended, format!("Aborted ({other})")),
    };
    let mut diagnosis = Diagnosis::new(kind, format!("{headline}, {ago} ago: revision {revision}"));
    if kind == DiagnosisKind::Ended {
        diagnosis = diagnosis
            .with_reason(as_sentence(&abort.message))
            .with_reason("The metrics did not cause this.");
    }
    let stable = report
        .stable_revision
        .as_deref()
        .map_or_else(String::new, |stable| format!(" (revision {stable})"));
    diagnosis
        .with_next_step(format!(
            "Stable{stable} serves all traffic. Ship a corrected revision, or retry this one:"
        ))
        .with_next_step(format!(
            "kubectl serin retry {} -n {}",
            report.name, report.namespace
        ))
}

/// Formats a message as a sentence.
fn as_sentence(message: &str) -> String {
    let mut characters = message.trim_end_matches('.').chars();
    let first = characters
        .next()
        .map(|first| first.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}
