//! The text of the live view of a release, from its status and the counts of the load.

use std::time::Duration;

use owo_colors::{OwoColorize, Style};
use serin_analysis::explain::{percent, thousands};
use serin_core::state::Stage;
use serin_crds::RolloutStatus;
use serin_crds::status::EvidenceStatus;
use serin_load::{LoadHandle, LoadSnapshot, OutcomeCounts};

use crate::manifests::RolloutOptions;

/// Width of a bar in columns.
const BAR_WIDTH: u32 = 30;

/// The release that is shown.
pub(super) struct ReleaseProgress {
    version: &'static str,
    /// The generation of the release. A status of an older generation does not describe it.
    generation: Option<i64>,
    steps: usize,
    /// The counts of the load when the release was applied.
    before: Option<LoadSnapshot>,
}

impl ReleaseProgress {
    pub(super) fn new(
        version: &'static str,
        generation: Option<i64>,
        spec: &RolloutOptions,
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

    /// Whether a status describes this release.
    pub(super) fn is_described_by(&self, status: &RolloutStatus) -> bool {
        Some(status.state.observed_generation) >= self.generation
    }
}

/// One snapshot of a release.
pub(super) struct ReleaseView<'a> {
    pub(super) release: &'a ReleaseProgress,
    /// `None` until Serin has observed the release.
    pub(super) status: Option<&'a RolloutStatus>,
    pub(super) load: Option<LoadSnapshot>,
    pub(super) elapsed: Duration,
    pub(super) color: bool,
}

impl ReleaseView<'_> {
    /// The lines of the live view. Their number is constant.
    pub(super) fn lines(&self) -> Vec<String> {
        let evidence = self.status.and_then(|status| status.evidence.first());
        vec![
            self.traffic(),
            self.evidence(evidence),
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

    /// The view in one line, for output without a terminal.
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

    /// The position of the release. Without a terminal, a change is printed immediately.
    pub(super) fn position(&self) -> String {
        let Some(status) = self.status else {
            return "declared".into();
        };
        let weights = status.state.weights;
        let desired = weights.desired.as_percent();
        let effect = if weights.verified == Some(weights.desired) {
            "in effect"
        } else {
            "not in effect yet"
        };
        let stage = match status.state.stage {
            Stage::FirstDeploy => return "first deploy".into(),
            Stage::Aborted => format!("rolled back, {desired} % of the traffic, {effect}"),
            Stage::Stable => return "stable, all of the traffic".into(),
            Stage::Progressing | Stage::Promoting => {
                format!("gets {desired} % of the traffic, {effect}")
            }
        };
        match &status.state.step {
            Some(step) if status.state.stage == Stage::Progressing => {
                let at = step.index + 1;
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
        let weights = self.status.map(|status| status.state.weights);
        let is_stable = self
            .status
            .is_some_and(|status| status.state.stage == Stage::Stable);
        let share = if is_stable {
            1.0
        } else {
            weights.map_or(0.0, |weights| weights.desired.as_percent() / 100.0)
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

    fn evidence(&self, evidence: Option<&EvidenceStatus>) -> String {
        let share = evidence
            .and_then(|evidence| Some(log_share(evidence.e_value?, evidence.threshold?)))
            .unwrap_or(0.0);
        let text = evidence
            .and_then(evidence_text)
            .unwrap_or_else(|| "nothing measured yet".into());
        row(
            "evidence",
            &format!("{} {text}", self.bar(share, style_for_share(share))),
        )
    }

    fn budget(&self, evidence: Option<&EvidenceStatus>) -> String {
        let share = evidence.and_then(budget_share).unwrap_or(0.0);
        let text = evidence
            .and_then(budget_text)
            .unwrap_or_else(|| "budget: nothing measured yet".into());
        row(
            "budget",
            &format!("{} {text}", self.bar(share, style_for_share(share))),
        )
    }

    /// The requests that each version has answered since the release was applied.
    fn requests(&self) -> Option<String> {
        let (now, before) = (self.load.as_ref()?, self.release.before.as_ref()?);
        let of_version = |seen: &serin_load::VersionSnapshot| {
            let version = seen.version.as_deref()?;
            let (total, failed) = counts_since(
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
        Some(format!("{} lost in routing", count(failures)))
    }

    fn message(&self) -> String {
        self.status.map_or_else(
            || "no status yet".into(),
            |status| status.state.message.to_string(),
        )
    }

    fn bar(&self, share: f64, style: Style) -> String {
        let filled = (0..BAR_WIDTH)
            .filter(|cell| share * f64::from(BAR_WIDTH) >= f64::from(*cell) + 0.5)
            .count();
        let full = "█".repeat(filled);
        let empty = "░".repeat(BAR_WIDTH as usize - filled);
        if self.color {
            format!("{}{empty}", full.style(style))
        } else {
            format!("{full}{empty}")
        }
    }
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:<9} {text}")
}

/// Requests and failures since `before`.
fn counts_since(now: &OutcomeCounts, before: Option<&OutcomeCounts>) -> (u64, u64) {
    let (total, failed) = before.map_or((0, 0), |before| (before.total(), before.service_errors));
    (now.total() - total, now.service_errors - failed)
}

fn style_for_share(share: f64) -> Style {
    match share {
        share if share >= 1.0 => Style::new().red(),
        share if share >= 0.5 => Style::new().yellow(),
        _ => Style::new().green(),
    }
}

/// Progress of the evidence towards the threshold on a logarithmic scale, on which every request
/// adds its share.
fn log_share(e_value: f64, threshold: f64) -> f64 {
    if threshold > 1.0 {
        e_value.max(1.0).ln() / threshold.ln()
    } else {
        1.0
    }
}

fn evidence_text(evidence: &EvidenceStatus) -> Option<String> {
    let (e_value, threshold) = (evidence.e_value?, evidence.threshold?);
    let e_value = if e_value < 1e9 {
        thousands((e_value * 10.0).round() / 10.0)
    } else {
        format!("{e_value:.0e}")
    };
    Some(format!("E = {e_value} of {}", thousands(threshold.round())))
}

fn budget_share(evidence: &EvidenceStatus) -> Option<f64> {
    let allotment = evidence
        .budget_allotment
        .filter(|allotment| *allotment > 0.0)?;
    Some(evidence.budget_spent?.max(0.0) / allotment)
}

/// The used share of the budget, in percent and in errors.
pub(super) fn budget_text(evidence: &EvidenceStatus) -> Option<String> {
    let (share, spent, allotment) = (
        budget_share(evidence)?,
        evidence.budget_spent?.max(0.0),
        evidence.budget_allotment?,
    );
    Some(format!(
        "budget {} used ({spent:.1} of {} errors)",
        percent(share),
        thousands(allotment.floor())
    ))
}

/// The excess failure rate of the canary over stable in percentage points, with its bounds.
fn excess(evidence: &EvidenceStatus) -> Option<String> {
    let points = |fraction: f64| format!("{:+.2}", fraction * 100.0);
    let excess = points(evidence.excess?);
    // Bounds of 100 points carry no information.
    let lower = evidence.lower.filter(|lower| *lower > -1.0).map(points);
    let upper = evidence.upper.filter(|upper| *upper < 1.0).map(points);
    let bounds = match (lower, upper) {
        (Some(lower), Some(upper)) => format!("between {lower} and {upper}"),
        (Some(lower), None) => format!("above {lower}"),
        (None, Some(upper)) => format!("below {upper}"),
        (None, None) => "no bounds yet".to_owned(),
    };
    Some(format!(
        "{excess} percentage points more failures than stable ({bounds})"
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

    fn release() -> ReleaseProgress {
        ReleaseProgress {
            version: "v2",
            generation: Some(2),
            steps: 6,
            before: None,
        }
    }

    fn in_progress() -> RolloutStatus {
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
    fn the_view_shows_traffic_evidence_excess_and_budget() {
        let (release, status) = (release(), in_progress());
        let view = ReleaseView {
            release: &release,
            status: Some(&status),
            load: None,
            elapsed: Duration::from_secs(14),
            color: false,
        };
        let lines = view.lines();
        assert!(
            lines[0].ends_with("v2 gets 25 % of the traffic, in effect, step 3 of 6 (14 s)"),
            "{}",
            lines[0]
        );
        assert_eq!(lines[0].matches('█').count(), 8, "a quarter of 30");
        assert_eq!(
            lines[1].matches('█').count(),
            15,
            "10 is half way to 100 on a logarithmic scale"
        );
        assert!(
            lines[2].ends_with("+2.90 percentage points more failures than stable (above +0.20)"),
            "{}",
            lines[2]
        );
        assert!(
            lines[3].ends_with("budget 50 % used (13.0 of 26 errors)"),
            "{}",
            lines[3]
        );
        assert!(lines[6].contains("step 3 of 6"));
        assert!(view.line().contains("E = 10 of 100"), "{}", view.line());
    }

    #[test]
    fn the_number_of_lines_does_not_depend_on_the_status() {
        let release = release();
        let view = ReleaseView {
            release: &release,
            status: None,
            load: None,
            elapsed: Duration::ZERO,
            color: true,
        };
        let status = in_progress();
        let known = ReleaseView {
            status: Some(&status),
            ..view
        };
        let lines = known.lines().len();
        assert_eq!(
            ReleaseView {
                status: None,
                ..known
            }
            .lines()
            .len(),
            lines
        );
    }

    #[test]
    fn a_status_of_an_older_generation_does_not_describe_the_release() {
        let mut status = in_progress();
        assert!(release().is_described_by(&status));
        status.state.observed_generation = 1;
        assert!(!release().is_described_by(&status));
        status.state.observed_generation = 0;
        assert!(!release().is_described_by(&status));
    }
}
