//! Where a release stands: in a headline, and what happens next.

use serin_crds::status::AbortStatus;

use super::holds;
use crate::look::Look;
use crate::report::{Report, Trouble};

/// Where a release stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    /// In a few words.
    pub headline: String,
    /// Why, in sentences.
    pub why: Vec<String>,
    /// What happens next, and what a person can do.
    pub next: Vec<String>,
    /// What kind of standing it is.
    pub kind: Kind,
}

/// The kinds of standing that are told differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing has been or is judged.
    Unjudged,
    /// Evidence is gathered.
    UnderWay,
    /// Data is missing, or the service is in trouble.
    Held,
    /// The evidence decided against it; at most one good release in so many ends so.
    RolledBack { one_in: u32 },
    /// It is over for another reason.
    Over,
}

impl Standing {
    fn new(kind: Kind, headline: impl Into<String>) -> Self {
        Self {
            headline: headline.into(),
            why: Vec::new(),
            next: Vec::new(),
            kind,
        }
    }

    fn because(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    fn then(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }
}

/// Where the release of this report stands. `judged`: whether the spec has an analysis.
pub(super) fn standing(report: &Report, judged: bool, look: &Look) -> Standing {
    let Some(stage) = report.stage.as_deref() else {
        return Standing::new(Kind::Unjudged, "Not yet seen by the controller")
            .because("The controller has written nothing about this Rollout yet, so there is nothing to explain.")
            .then("See whether the controller runs: kubectl get pods -A -l app.kubernetes.io/name=serin");
    };
    let mut standing = match (stage, &report.abort) {
        ("Aborted", Some(abort)) => aborted(report, abort, look),
        ("FirstDeploy", _) => Standing::new(Kind::Unjudged, "First deploy")
            .because(
                "This is the first revision: there is no stable one to compare it with, so no evidence is gathered.",
            )
            .then("It becomes stable as soon as all of its pods are available."),
        ("Stable", _) => stable(report, look),
        ("Progressing" | "Promoting", _) => under_way(report, judged),
        (other, _) => Standing::new(Kind::Over, other.to_owned()).because(report.message.clone().unwrap_or_default()),
    };
    if let Some(problem) = condition(report, "InvalidSpec") {
        standing.why.insert(
            0,
            format!("The newest spec cannot be used: {}", problem.message),
        );
        standing.next.insert(
            0,
            "Correct the spec; until then the plan before it stays in force.".to_owned(),
        );
    } else if !report.up_to_date {
        standing
            .why
            .push("The controller has not yet taken in the newest spec.".to_owned());
    }
    standing
}

fn condition<'a>(report: &'a Report, name: &str) -> Option<&'a Trouble> {
    report
        .troubles
        .iter()
        .find(|trouble| trouble.condition == name)
}

/// Why nothing goes on, in one CamelCase word and a sentence; the guard's sentence stands with its
/// evidence.
fn held(report: &Report) -> Option<(&str, Option<&str>)> {
    let told = condition(report, "MetricsReady").or_else(|| condition(report, "Frozen"));
    let guards = report
        .evidence
        .iter()
        .filter_map(|evidence| evidence.latency_guard.as_ref());
    let mut acting =
        guards.filter(|guard| guard.threshold.is_some() && guard.e_value >= guard.threshold);
    let told = told.map(|trouble| (trouble.reason.as_str(), Some(trouble.message.as_str())));
    told.or_else(|| acting.next().map(|_| ("LatencyGuard", None)))
}

fn current(report: &Report) -> &str {
    report
        .current_revision
        .as_deref()
        .unwrap_or("the new revision")
}

fn stable(report: &Report, look: &Look) -> Standing {
    let serves = format!("Revision {} serves all of the traffic.", current(report));
    let standing = Standing::new(Kind::Over, "No release is under way").because(serves);
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
            standing.because(format!(
                "It was {result} {} ago{why}.",
                look.ago(release.at)
            ))
        }
        None => standing,
    }
}

fn under_way(report: &Report, judged: bool) -> Standing {
    let revision = current(report);
    let weight = report
        .weights
        .as_ref()
        .map_or(0.0, |weights| weights.desired);
    let at = format!("revision {revision} at {weight} % of the traffic");
    if report.stage.as_deref() == Some("Promoting") {
        return Standing::new(Kind::UnderWay, format!("Being promoted: {at}"))
            .because(
                "The steps or the evidence have let it through; it takes over all of the traffic.",
            )
            .then("A breach of the objectives still rolls it back.");
    }
    if !judged {
        return Standing::new(Kind::Unjudged, format!("Not judged: {at}"))
            .because("The spec has no analysis: pods that crash and people alone decide about this release.")
            .then("Write spec.analysis with an objective, and Serin judges it against stable.");
    }
    if let Some((cause, message)) = held(report) {
        let hold = holds::hold(cause);
        return Standing {
            headline: format!("Held ({cause}): {at}"),
            why: message
                .into_iter()
                .chain([hold.meaning])
                .map(str::to_owned)
                .collect(),
            next: hold.fix.map(str::to_owned).into_iter().collect(),
            kind: Kind::Held,
        };
    }
    let commands = report
        .waiting
        .iter()
        .flat_map(|waiting| waiting.commands.iter());
    if let Some(waiting) = report.waiting.as_ref().filter(|waiting| waiting.pause) {
        let mut standing = Standing::new(Kind::UnderWay, format!("Paused: {at}"))
            .because(format!("It waits for {}.", waiting.what))
            .then("It is judged all the while, and rolled back where the evidence says so.");
        standing.next.extend(commands.cloned());
        return standing;
    }
    let mut standing = Standing::new(Kind::UnderWay, format!("Under way: {at}"));
    if let Some(waiting) = &report.waiting {
        standing = standing.because(format!("It waits for {}.", waiting.what));
    } else if let Some(message) = report
        .message
        .as_ref()
        .filter(|_| report.evidence.is_empty())
    {
        standing = standing.because(message.clone());
    }
    standing
}

fn aborted(report: &Report, abort: &AbortStatus, look: &Look) -> Standing {
    let revision = &abort.revision;
    let ago = look.ago(abort.at);
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
                Kind::RolledBack { one_in },
                "Rolled back by evidence".to_owned(),
            )
        }
        "ErrorBudget" => (
            Kind::RolledBack { one_in: 10 },
            "Rolled back: its error budget is spent".to_owned(),
        ),
        "ServiceBurning" => (
            Kind::RolledBack { one_in: 10 },
            "Rolled back: the service burns, and the canary is suspect".to_owned(),
        ),
        "PodCrash" => (Kind::Over, "Rolled back: its pods crash".to_owned()),
        "ProgressDeadline" => (
            Kind::Over,
            "Rolled back: it did not get ready in time".to_owned(),
        ),
        "Command" => {
            let by = abort
                .by
                .as_ref()
                .map_or_else(String::new, |by| format!(" by {by}"));
            (Kind::Over, format!("Aborted by a command{by}"))
        }
        "Reverted" => (
            Kind::Over,
            "Aborted: the spec went back to stable".to_owned(),
        ),
        other => (Kind::Over, format!("Aborted ({other})")),
    };
    let mut standing = Standing::new(kind, format!("{headline}, {ago} ago: revision {revision}"));
    if kind == Kind::Over {
        standing = standing
            .because(sentence(&abort.message))
            .because("The metrics did not decide this.");
    }
    let stable = report
        .stable_revision
        .as_deref()
        .map_or_else(String::new, |stable| format!(" (revision {stable})"));
    standing
        .then(format!(
            "Stable{stable} serves. Ship a corrected revision, or try this one again:"
        ))
        .then(format!(
            "kubectl serin retry {} -n {}",
            report.name, report.namespace
        ))
}

/// A message as a sentence.
fn sentence(message: &str) -> String {
    let mut characters = message.trim_end_matches('.').chars();
    let first = characters
        .next()
        .map(|first| first.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}
