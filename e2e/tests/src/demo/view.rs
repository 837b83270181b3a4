//! What is shown of a release under way: pure text, from the status and the load's counts.

use std::time::Duration;

use owo_colors::{OwoColorize, Style};
use serin_analysis::explain::{percent, thousands};
use serin_crds::RolloutStatus;
use serin_crds::status::EvidenceStatus;
use serin_load::{Counts, LoadHandle, Snapshot};

use crate::manifests::Spec;

/// The width of a bar in columns.
const BAR: u32 = 30;

/// The release that is watched.
pub(super) struct Release {
    version: &'static str,
    /// The generation that declares it: a status of an older one does not speak of it.
    generation: Option<i64>,
    steps: usize,
    /// The load's counts when it was declared.
    before: Option<Snapshot>,
}

impl Release {
    pub(super) fn new(
        version: &'static str,
        generation: Option<i64>,
        spec: &Spec,
        load: Option<&LoadHandle>,
    ) -> Self {
        let steps = spec
            .steps
            .as_ref()
            .and_then(|steps| steps.as_array())
            .map_or(0, Vec::len);
        Self {
            version,
            generation,
            steps,
            before: load.map(LoadHandle::snapshot),
        }
    }

    /// Whether a status speaks of this release.
    pub(super) fn is_in(&self, status: &RolloutStatus) -> bool {
        status.observed_generation >= self.generation
    }
}

/// One look at a release.
pub(super) struct Look<'a> {
    pub(super) release: &'a Release,
    /// Nothing while Serin has not taken it in.
    pub(super) status: Option<&'a RolloutStatus>,
    pub(super) load: Option<Snapshot>,
    pub(super) elapsed: Duration,
    pub(super) colour: bool,
}

impl Look<'_> {
    /// The live view: always as many lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let evidence = self.status.and_then(|status| status.evidence.first());
        vec![
            self.traffic(),
            self.against(evidence),
            row(
                "excess",
                &evidence
                    .and_then(excess)
                    .unwrap_or_else(|| "not yet known".into()),
            ),
            self.budget(evidence),
            row(
                "requests",
                &self.requests().unwrap_or_else(|| "none yet".into()),
            ),
            row("routing", &self.routing().unwrap_or_default()),
            row("Serin", &self.message()),
        ]
    }

    /// The same in one line, for where there is no terminal.
    pub(super) fn line(&self) -> String {
        let mut parts = vec![format!("{} {}", self.release.version, self.position())];
        if let Some(evidence) = self.status.and_then(|status| status.evidence.first()) {
            parts.extend(evidence_text(evidence));
            parts.extend(budget_text(evidence));
        }
        parts.extend(self.requests());
        parts.extend(self.routing());
        format!(
            "  [{:>3} s] {} | {}",
            self.elapsed.as_secs(),
            parts.join(" · "),
            self.message()
        )
    }

    /// What a new line is told for at once; other changes can wait for the next one.
    pub(super) fn position(&self) -> String {
        let Some(status) = self.status else {
            return "declared".into();
        };
        let weights = status.weights.as_ref();
        let (asked, verified) = (
            weights.map_or(0.0, |weights| weights.desired),
            weights.and_then(|seen| seen.verified),
        );
        let seen = if verified == Some(asked) {
            "in effect"
        } else {
            "on its way"
        };
        let stage = match status.stage.as_deref() {
            Some("FirstDeploy") => return "first deploy".into(),
            Some("Aborted") => format!("rolled back, {asked} % of the traffic, {seen}"),
            Some("Stable") => return "stable, all of the traffic".into(),
            _ => format!("gets {asked} % of the traffic, {seen}"),
        };
        match &status.step {
            Some(step) if status.stage.as_deref() == Some("Progressing") => {
                let at = usize::try_from(step.index).unwrap_or_default() + 1;
                format!(
                    "{stage}, step {} of {}",
                    at.min(self.release.steps),
                    self.release.steps
                )
            }
            _ => stage,
        }
    }

    fn traffic(&self) -> String {
        let weights = self.status.and_then(|status| status.weights.as_ref());
        let is_stable = self
            .status
            .is_some_and(|status| status.stage.as_deref() == Some("Stable"));
        let share = if is_stable {
            1.0
        } else {
            weights.map_or(0.0, |weights| weights.desired / 100.0)
        };
        let text = format!(
            "{} {} ({} s)",
            self.release.version,
            self.position(),
            self.elapsed.as_secs()
        );
        row(
            "traffic",
            &format!("{} {text}", self.bar(share, Style::new().cyan())),
        )
    }

    fn against(&self, evidence: Option<&EvidenceStatus>) -> String {
        let share = evidence
            .and_then(|of| Some(log_share(of.e_value?, of.threshold?)))
            .unwrap_or(0.0);
        let text = evidence
            .and_then(evidence_text)
            .unwrap_or_else(|| "nothing measured yet".into());
        row(
            "evidence",
            &format!("{} {text}", self.bar(share, by_share(share))),
        )
    }

    fn budget(&self, evidence: Option<&EvidenceStatus>) -> String {
        let share = evidence.and_then(budget_share).unwrap_or(0.0);
        let text = evidence
            .and_then(budget_text)
            .unwrap_or_else(|| "budget: nothing measured yet".into());
        row(
            "budget",
            &format!("{} {text}", self.bar(share, by_share(share))),
        )
    }

    /// What each version has answered since the release was declared.
    fn requests(&self) -> Option<String> {
        let (now, before) = (self.load.as_ref()?, self.release.before.as_ref()?);
        let of_version = |seen: &serin_load::VersionSnapshot| {
            let version = seen.version.as_deref()?;
            let (total, failed) = since(
                &seen.counts,
                before.version(version).map(|seen| &seen.counts),
            );
            (total > 0).then(|| {
                format!(
                    "{version}: {} requests, {} failed",
                    count(total),
                    count(failed)
                )
            })
        };
        let texts: Vec<_> = now.versions.iter().filter_map(of_version).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn routing(&self) -> Option<String> {
        let failures = self.load.as_ref()?.counts.routing_failures();
        Some(format!("{} lost to routing", count(failures)))
    }

    fn message(&self) -> String {
        self.status
            .and_then(|status| status.message.clone())
            .unwrap_or_else(|| "has not said anything yet".into())
    }

    fn bar(&self, share: f64, style: Style) -> String {
        let filled = (0..BAR)
            .filter(|cell| share * f64::from(BAR) >= f64::from(*cell) + 0.5)
            .count();
        let full = "█".repeat(filled);
        let empty = "░".repeat(BAR as usize - filled);
        if self.colour {
            format!("{}{empty}", full.style(style))
        } else {
            format!("{full}{empty}")
        }
    }
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:<9} {text}")
}

/// Requests and failures of the service since `before`.
fn since(now: &Counts, before: Option<&Counts>) -> (u64, u64) {
    let (total, failed) = before.map_or((0, 0), |before| (before.total(), before.service_errors));
    (now.total() - total, now.service_errors - failed)
}

fn by_share(share: f64) -> Style {
    match share {
        share if share >= 1.0 => Style::new().red(),
        share if share >= 0.5 => Style::new().yellow(),
        _ => Style::new().green(),
    }
}

/// How far the evidence has come, by its logarithm, in which every request adds its part.
fn log_share(e_value: f64, threshold: f64) -> f64 {
    if threshold > 1.0 {
        e_value.max(1.0).ln() / threshold.ln()
    } else {
        1.0
    }
}

fn evidence_text(of: &EvidenceStatus) -> Option<String> {
    let (e_value, threshold) = (of.e_value?, of.threshold?);
    let e_value = if e_value < 1e9 {
        thousands((e_value * 10.0).round() / 10.0)
    } else {
        format!("{e_value:.0e}")
    };
    Some(format!("E = {e_value} of {}", thousands(threshold.round())))
}

fn budget_share(of: &EvidenceStatus) -> Option<f64> {
    let allotment = of.budget_allotment.filter(|allotment| *allotment > 0.0)?;
    Some(of.budget_spent?.max(0.0) / allotment)
}

/// The share of the budget that is used, in percent and in errors.
pub(super) fn budget_text(of: &EvidenceStatus) -> Option<String> {
    let (share, spent, allotment) = (
        budget_share(of)?,
        of.budget_spent?.max(0.0),
        of.budget_allotment?,
    );
    Some(format!(
        "budget {} used ({spent:.1} of {} errors)",
        percent(share),
        thousands(allotment.floor())
    ))
}

/// The canary's excess of failures over stable's, in points of percent, with its bounds.
fn excess(of: &EvidenceStatus) -> Option<String> {
    let points = |fraction: f64| format!("{:+.2}", fraction * 100.0);
    let excess = points(of.excess?);
    // Bounds of a whole 100 points are no knowledge at all.
    let lower = of.lower.filter(|lower| *lower > -1.0).map(points);
    let upper = of.upper.filter(|upper| *upper < 1.0).map(points);
    let bounds = match (lower, upper) {
        (Some(lower), Some(upper)) => format!("surely between {lower} and {upper}"),
        (Some(lower), None) => format!("surely above {lower}"),
        (None, Some(upper)) => format!("surely below {upper}"),
        (None, None) => "too early for bounds".to_owned(),
    };
    Some(format!(
        "{excess} points of failures beside stable ({bounds})"
    ))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a demo are far below 2^53"
)]
pub(super) fn count(number: u64) -> String {
    thousands(number as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn release() -> Release {
        Release {
            version: "v2",
            generation: Some(2),
            steps: 6,
            before: None,
        }
    }

    fn stepping() -> RolloutStatus {
        serde_json::from_value(json!({
            "observedGeneration": 2, "stage": "Progressing", "message": "step 3 of 6 (setWeight 25 %)",
            "step": {"index": 2, "startedAt": "2026-01-01T00:00:00Z"},
            "weights": {"desired": 25.0, "verified": 25.0},
            "evidence": [{
                "objective": "availability", "eValue": 10.0, "threshold": 100.0, "excess": 0.029, "lower": 0.002,
                "upper": 1.0, "budgetAllotment": 26.0, "budgetSpent": 13.0,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn the_view_tells_traffic_evidence_excess_and_budget() {
        let (release, status) = (release(), stepping());
        let look = Look {
            release: &release,
            status: Some(&status),
            load: None,
            elapsed: Duration::from_secs(14),
            colour: false,
        };
        let lines = look.lines();
        assert!(
            lines[0].ends_with("v2 gets 25 % of the traffic, in effect, step 3 of 6 (14 s)"),
            "{}",
            lines[0]
        );
        assert_eq!(lines[0].matches('█').count(), 8, "a quarter of 30");
        assert_eq!(
            lines[1].matches('█').count(),
            15,
            "10 is half way to 100, by the logarithm"
        );
        assert!(
            lines[2].ends_with("+2.90 points of failures beside stable (surely above +0.20)"),
            "{}",
            lines[2]
        );
        assert!(
            lines[3].ends_with("budget 50 % used (13.0 of 26 errors)"),
            "{}",
            lines[3]
        );
        assert!(lines[6].contains("step 3 of 6"));
        assert!(look.line().contains("E = 10 of 100"), "{}", look.line());
    }

    #[test]
    fn the_view_has_as_many_lines_before_anything_is_known() {
        let release = release();
        let look = Look {
            release: &release,
            status: None,
            load: None,
            elapsed: Duration::ZERO,
            colour: true,
        };
        let status = stepping();
        let known = Look {
            status: Some(&status),
            ..look
        };
        let lines = known.lines().len();
        assert_eq!(
            Look {
                status: None,
                ..known
            }
            .lines()
            .len(),
            lines
        );
    }

    #[test]
    fn a_status_of_an_older_generation_does_not_speak_of_the_release() {
        let mut status = stepping();
        assert!(release().is_in(&status));
        status.observed_generation = Some(1);
        assert!(!release().is_in(&status));
        status.observed_generation = None;
        assert!(!release().is_in(&status));
    }
}
