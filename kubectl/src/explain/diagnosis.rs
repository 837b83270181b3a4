//! Diagnosis of a release: a headline, the reasons and the next steps.

use serin_core::hold::HoldCode;
use serin_core::observation::{HypotheticalResult, Observation};
use serin_core::state::{AbortCause, Stage};

use crate::display::DisplayContext;
use crate::report::{AbortReport, HoldReport, Report, UnhealthyCondition};

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
    let Some(stage) = &report.stage else {
        return Diagnosis::new(DiagnosisKind::NotAnalyzed, "Not yet reconciled")
            .with_reason("The controller has not reconciled this Rollout yet.")
            .with_next_step("Check that the controller is running: kubectl get pods -A -l app.kubernetes.io/name=serin");
    };
    if let Some(observation) = &report.observation {
        return diagnose_observed(report, observation, display);
    }
    let mut diagnosis = match (stage.known(), &report.abort) {
        (Some(Stage::Aborted), Some(abort)) => diagnose_aborted(report, abort, display),
        (Some(Stage::FirstDeploy), _) => diagnose_first_deploy(report, display),
        (Some(Stage::Stable), _) => diagnose_stable(report, display),
        (Some(Stage::Progressing | Stage::Promoting), _) => {
            diagnose_in_progress(report, has_analysis, display)
        }
        (Some(Stage::Aborted) | None, _) => Diagnosis::new(DiagnosisKind::Ended, stage.text())
            .with_reason(report.message.clone().unwrap_or_default()),
    };
    let leads_with_spec = report.holds.first().is_some_and(|hold| {
        hold.code.equals(HoldCode::SpecInvalid) && diagnosis.headline.contains(&hold.message)
    });
    let invalid_spec = condition(report, "InvalidSpec").filter(|_| !leads_with_spec);
    if let Some(problem) = invalid_spec {
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

/// What Serin would have done with the latest release of another controller.
fn diagnose_observed(
    report: &Report,
    observation: &Observation,
    display: &DisplayContext,
) -> Diagnosis {
    let message = report.message.clone().unwrap_or_default();
    let changes_nothing = "Serin changes nothing, because spec.mode is Observe.";
    let Some(release) = &observation.release else {
        return Diagnosis::new(DiagnosisKind::NotAnalyzed, "Observing; no release yet")
            .with_reason(message)
            .with_next_step(changes_nothing);
    };
    let revision = release.revision.as_str();
    let is_over = release.ended_at.is_some();
    let Some(decision) = &release.would_have else {
        let kind = match (is_over, report.holds.is_empty()) {
            (true, _) => DiagnosisKind::Ended,
            (false, true) => DiagnosisKind::InProgress,
            (false, false) => DiagnosisKind::Held,
        };
        return Diagnosis::new(kind, format!("Serin has not decided about {revision}"))
            .with_reason(message)
            .with_next_step(changes_nothing);
    };
    let done = match decision.result {
        HypotheticalResult::Promoted => "would have promoted",
        HypotheticalResult::RolledBack => "would have rolled back",
    };
    let ago = display.elapsed_since(decision.at);
    Diagnosis::new(
        DiagnosisKind::Ended,
        format!("Serin {done} {revision} {ago} ago"),
    )
    .with_reason(decision.message.to_string())
    .with_reason(message)
    .with_next_step(changes_nothing)
}

fn condition<'a>(report: &'a Report, name: &str) -> Option<&'a UnhealthyCondition> {
    report
        .unhealthy_conditions
        .iter()
        .find(|condition| condition.condition == name)
}

fn current(report: &Report) -> &str {
    report
        .current_revision
        .as_deref()
        .unwrap_or("the new revision")
}

/// The holds because of which a release that waits does not start.
fn start_holds(report: &Report) -> impl Iterator<Item = &HoldReport> {
    report.holds.iter().filter(|hold| hold.blocks == "Start")
}

fn diagnose_stable(report: &Report, display: &DisplayContext) -> Diagnosis {
    let serves = format!("Revision {} serves all traffic.", current(report));
    if let Some(hold) = start_holds(report).next() {
        let place = format!("No release has started. {serves}");
        return diagnose_hold(report, hold, &place, display);
    }
    let diagnosis =
        Diagnosis::new(DiagnosisKind::Ended, "No release in progress").with_reason(serves);
    match report
        .releases
        .first()
        .filter(|release| Some(&release.revision) == report.current_revision.as_ref())
    {
        Some(release) => {
            let result = release.result.text().to_lowercase();
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

fn diagnose_first_deploy(report: &Report, display: &DisplayContext) -> Diagnosis {
    let diagnosis = match report.holds.first() {
        Some(hold) => diagnose_hold(report, hold, &as_sentence(&position(report)), display),
        None => Diagnosis::new(DiagnosisKind::NotAnalyzed, "First deploy"),
    };
    Diagnosis {
        kind: DiagnosisKind::NotAnalyzed,
        ..diagnosis
    }
    .with_reason(
        "This is the first revision. There is no stable revision to compare it with, so it is not analyzed.",
    )
    .with_next_step("It becomes stable when all of its pods are available.")
}

/// The current revision with its share of the traffic, for example `revision v2 at 5 % of traffic`
/// or `revision v2, canary 0 % in effect, 50 % desired`.
fn position(report: &Report) -> String {
    let revision = current(report);
    match report.canary {
        Some(share) if share.is_in_effect() => {
            format!("revision {revision} at {}", share.describe())
        }
        Some(share) if report.is_blue_green => format!("revision {revision}, {}", share.describe()),
        Some(share) => format!("revision {revision}, canary {}", share.describe()),
        None => format!("revision {revision}"),
    }
}

/// Diagnoses a release that a hold stops. The message of this hold leads, and `place` is where the
/// release is.
fn diagnose_hold(
    report: &Report,
    hold: &HoldReport,
    place: &str,
    display: &DisplayContext,
) -> Diagnosis {
    let (label, kind) = if hold.is_pause() {
        ("Paused", DiagnosisKind::InProgress)
    } else if hold.is_planned_wait() || hold.is_usual_wait(display.now) {
        ("In progress", DiagnosisKind::InProgress)
    } else {
        ("Held", DiagnosisKind::Held)
    };
    let headline = format!("{label} ({}): {}", hold.code, hold.message);
    let mut diagnosis = Diagnosis::new(kind, headline)
        .with_reason(hold.meaning())
        .with_reason(place);
    diagnosis.next_steps.extend(hold.fix().map(str::to_owned));
    let others = report.holds.iter();
    for other in others.filter(|other| !std::ptr::eq(*other, hold)) {
        diagnosis = diagnosis.with_reason(format!(
            "Another hold ({}): {} {}",
            other.code,
            as_sentence(&other.message),
            other.meaning()
        ));
        diagnosis.next_steps.extend(other.fix().map(str::to_owned));
    }
    if let Some(waiting) = report.waiting.as_ref().filter(|wait| wait.code.is_some()) {
        diagnosis.next_steps.extend(waiting.ends.clone());
        diagnosis
            .next_steps
            .extend(waiting.commands.iter().cloned());
    }
    diagnosis
}

/// Diagnoses a release in progress that has no hold.
fn diagnose_without_holds(report: &Report) -> Diagnosis {
    let at = position(report);
    let Some(waiting) = &report.waiting else {
        let diagnosis = Diagnosis::new(DiagnosisKind::InProgress, format!("In progress: {at}"));
        let message = report.message.iter().filter(|_| report.evidence.is_empty());
        return message.fold(diagnosis, |diagnosis, message| {
            diagnosis.with_reason(message.clone())
        });
    };
    let label = if waiting.pause {
        "Paused"
    } else {
        "In progress"
    };
    let mut diagnosis = Diagnosis::new(DiagnosisKind::InProgress, format!("{label}: {at}"))
        .with_reason(format!("It waits for {}.", waiting.what));
    diagnosis
        .next_steps
        .extend(waiting.commands.iter().cloned());
    diagnosis
}

fn diagnose_in_progress(
    report: &Report,
    has_analysis: bool,
    display: &DisplayContext,
) -> Diagnosis {
    let first = report.holds.first();
    let is_promoting = report
        .stage
        .as_ref()
        .is_some_and(|stage| stage.equals(Stage::Promoting));
    let mut diagnosis = match first {
        Some(hold) => diagnose_hold(report, hold, &as_sentence(&position(report)), display),
        None if is_promoting => {
            let headline = format!("Promoting: {}", position(report));
            Diagnosis::new(DiagnosisKind::InProgress, headline)
        }
        None if !has_analysis => {
            let headline = format!("Not analyzed: {}", position(report));
            Diagnosis::new(DiagnosisKind::NotAnalyzed, headline)
        }
        None => diagnose_without_holds(report),
    };
    if is_promoting {
        let breach = "A breach of the objectives still rolls it back.";
        diagnosis.next_steps.insert(0, breach.to_owned());
        return diagnosis.with_reason(
            "The release has passed its steps or its analysis and is taking over all traffic.",
        );
    }
    if !has_analysis {
        diagnosis.kind = DiagnosisKind::NotAnalyzed;
        let next = if report.is_blue_green {
            "Add an objective and bakeTime to spec.analysis to observe the new revision after the switch."
        } else {
            "Add an objective to spec.analysis to compare the canary with stable."
        };
        return diagnosis
            .with_reason("The spec has no analysis. Only pod failures and commands decide about this release.")
            .with_next_step(next);
    }
    if report.waiting.as_ref().is_some_and(|waiting| waiting.pause) {
        let analysis =
            "The analysis continues during the pause and can still roll the release back.";
        diagnosis.next_steps.insert(0, analysis.to_owned());
    }
    diagnosis
}

/// The chance that a release as good as stable is rolled back by the evidence: 1 in this number.
fn false_rollbacks_one_in(report: &Report) -> u32 {
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
    if threshold > 1.0 {
        threshold.round().min(1e9) as u32
    } else {
        100
    }
}

fn abort_headline(report: &Report, abort: &AbortReport) -> (DiagnosisKind, String) {
    let ended = |headline: &str| (DiagnosisKind::Ended, headline.to_owned());
    let rolled_back =
        |one_in, headline: &str| (DiagnosisKind::RolledBack { one_in }, headline.to_owned());
    match abort.cause.known() {
        Some(AbortCause::Evidence) => {
            rolled_back(false_rollbacks_one_in(report), "Rolled back by evidence")
        }
        Some(AbortCause::ErrorBudget) => rolled_back(10, "Rolled back: its error budget is spent"),
        Some(AbortCause::ServiceBurning) => rolled_back(
            10,
            &format!(
                "Rolled back: the service burns its error budget, and the {} is the likely cause",
                report.released_side()
            ),
        ),
        Some(AbortCause::Check) => ended("Rolled back: a check failed more often than its limit"),
        Some(AbortCause::PodCrash) => ended("Rolled back: its pods crash"),
        Some(AbortCause::ProgressDeadline) => ended("Rolled back: it did not become ready in time"),
        Some(AbortCause::GateExpired) => ended("Aborted: a gate was not opened in time"),
        Some(AbortCause::Command) => {
            let by = abort.by.as_ref();
            let by = by.map_or_else(String::new, |by| format!(" by {by}"));
            ended(&format!("Aborted by a command{by}"))
        }
        None => ended(&format!("Aborted ({})", abort.cause)),
    }
}

fn diagnose_aborted(report: &Report, abort: &AbortReport, display: &DisplayContext) -> Diagnosis {
    let revision = &abort.revision;
    let ago = display.elapsed_since(abort.at);
    let (kind, headline) = abort_headline(report, abort);
    let mut diagnosis = Diagnosis::new(kind, format!("{headline}, {ago} ago: revision {revision}"));
    if kind == DiagnosisKind::Ended {
        diagnosis = diagnosis.with_reason(as_sentence(&abort.message));
    }
    let is_independent_of_metrics = matches!(
        abort.cause.known(),
        Some(
            AbortCause::PodCrash
                | AbortCause::ProgressDeadline
                | AbortCause::GateExpired
                | AbortCause::Command
        )
    );
    if is_independent_of_metrics {
        diagnosis = diagnosis.with_reason("The metrics did not cause this.");
    }
    let stable = report
        .stable_revision
        .as_deref()
        .map_or_else(String::new, |stable| format!(" (revision {stable})"));
    for hold in start_holds(report) {
        diagnosis = diagnosis.with_reason(format!(
            "The next release does not start ({}): {} {}",
            hold.code,
            as_sentence(&hold.message),
            hold.meaning()
        ));
        diagnosis.next_steps.extend(hold.fix().map(str::to_owned));
    }
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
