//! The verdict on a release, for pipelines and other controllers: promoted, rolled back, or not
//! decided yet. `kubectl serin verdict` and the HTTP endpoint of the controller report the same.

use jiff::Timestamp;
use serde::Serialize;
use serin_core::observation::HypotheticalResult;
use serin_core::state::{AbortCause, Phase, ReleaseResult, Stage};

use crate::status::RolloutStatus;

/// What became of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum VerdictResult {
    /// The revision is stable; in observe mode, Serin would have promoted it.
    Promoted,
    /// The release was aborted; in observe mode, Serin would have rolled it back.
    RolledBack,
    /// Neither is decided yet.
    Undecided,
}

impl VerdictResult {
    /// The result as it appears in the output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "Promoted",
            Self::RolledBack => "RolledBack",
            Self::Undecided => "Undecided",
        }
    }
}

/// The verdict on a release.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The result.
    pub verdict: VerdictResult,
    /// The revision that it is about. `None` if none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Whether the Rollout only observes: another controller decides about the release.
    pub observed: bool,
    /// The cause of a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<AbortCause>,
    /// Explanation for operators.
    pub message: String,
    /// The time of the decision. `None` if it is unknown or nothing is decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

impl Verdict {
    /// The verdict of a status on `revision`, or on the latest revision if that is `None`.
    /// `generation` is that of the Rollout: before the controller has processed it, nothing is
    /// decided.
    ///
    /// # Examples
    ///
    /// ```
    /// use serin_crds::RolloutStatus;
    /// use serin_crds::verdict::{Verdict, VerdictResult};
    ///
    /// let status = RolloutStatus::default();
    /// let verdict = Verdict::of_status(&status, 1, None);
    /// assert_eq!(verdict.verdict, VerdictResult::Undecided);
    /// ```
    pub fn of_status(status: &RolloutStatus, generation: i64, revision: Option<&str>) -> Self {
        let state = &status.state;
        let mut verdict = match &state.observation {
            Some(_) => Self::of_observation(status),
            None => Self::of_release(status),
        };
        if state.observed_generation < generation {
            let message = "the controller has not processed the latest spec yet";
            return verdict.undecided(message.to_owned());
        }
        if let Some(wanted) = revision
            && verdict.revision.as_deref() != Some(wanted)
        {
            let latest = verdict.revision.take();
            let latest = latest.unwrap_or_else(|| "not known".to_owned());
            verdict.revision = Some(wanted.to_owned());
            return verdict.undecided(format!("the latest revision is {latest}"));
        }
        verdict
    }

    fn undecided(self, message: String) -> Self {
        Self {
            verdict: VerdictResult::Undecided,
            cause: None,
            message,
            at: None,
            ..self
        }
    }

    fn of_release(status: &RolloutStatus) -> Self {
        let state = &status.state;
        let revision = state.current_revision.as_ref();
        let verdict = Self {
            verdict: VerdictResult::Undecided,
            revision: revision.map(|revision| revision.as_str().to_owned()),
            observed: false,
            cause: None,
            message: state.message.to_string(),
            at: None,
        };
        let abort = state.abort.as_ref();
        let abort = abort.filter(|abort| Some(&abort.revision) == revision);
        match (state.stage, abort) {
            (Stage::Aborted, Some(abort)) => Self {
                verdict: VerdictResult::RolledBack,
                cause: Some(abort.cause),
                message: abort.message.to_string(),
                at: Some(abort.at),
                ..verdict
            },
            (Stage::Aborted, None) => Self {
                verdict: VerdictResult::RolledBack,
                ..verdict
            },
            (Stage::Stable, _) if state.phase == Phase::Healthy => {
                let latest = state.history.last();
                let latest = latest.filter(|record| Some(&record.revision) == revision);
                let promoted = latest.filter(|record| record.result == ReleaseResult::Promoted);
                Self {
                    verdict: VerdictResult::Promoted,
                    at: promoted.map(|record| record.at),
                    ..verdict
                }
            }
            _ => verdict,
        }
    }

    fn of_observation(status: &RolloutStatus) -> Self {
        let state = &status.state;
        let observation = state.observation.as_ref();
        let release = observation.and_then(|observation| observation.release.as_ref());
        let decision = release.and_then(|release| release.would_have.as_ref());
        let verdict = Self {
            verdict: VerdictResult::Undecided,
            revision: release.map(|release| release.revision.as_str().to_owned()),
            observed: true,
            cause: None,
            message: state.message.to_string(),
            at: None,
        };
        let Some(decision) = decision else {
            return verdict;
        };
        Self {
            verdict: match decision.result {
                HypotheticalResult::Promoted => VerdictResult::Promoted,
                HypotheticalResult::RolledBack => VerdictResult::RolledBack,
            },
            cause: decision.cause,
            message: decision.message.to_string(),
            at: Some(decision.at),
            ..verdict
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verdict(status: Value, revision: Option<&str>) -> Verdict {
        Verdict::of_status(&RolloutStatus::read(status).status, 2, revision)
    }

    fn stable() -> Value {
        json!({
            "observedGeneration": 2, "phase": "Healthy", "stage": "Stable",
            "currentRevision": "v2", "stableRevision": "v2", "message": "complete",
            "history": [{"revision": "v2", "result": "Promoted", "at": "2026-01-01T00:00:00Z", "message": "m"}],
        })
    }

    fn aborted() -> Value {
        json!({
            "observedGeneration": 2, "phase": "Degraded", "stage": "Aborted",
            "currentRevision": "v2", "stableRevision": "v1",
            "abort": {"revision": "v2", "at": "2026-01-01T00:00:00Z", "cause": "Evidence", "message": "worse"},
        })
    }

    #[test]
    fn a_stable_revision_was_promoted_and_an_aborted_one_rolled_back() {
        let promoted = verdict(stable(), None);
        assert_eq!(promoted.verdict, VerdictResult::Promoted);
        assert!(promoted.at.is_some());
        let rolled_back = verdict(aborted(), Some("v2"));
        assert_eq!(rolled_back.verdict, VerdictResult::RolledBack);
        assert_eq!(rolled_back.cause, Some(AbortCause::Evidence));
        assert_eq!(rolled_back.message, "worse");
    }

    #[test]
    fn a_release_in_progress_and_an_invalid_spec_are_undecided() {
        let mut status = stable();
        status["stage"] = json!("Progressing");
        assert_eq!(verdict(status, None).verdict, VerdictResult::Undecided);
        let mut status = stable();
        status["phase"] = json!("Degraded");
        assert_eq!(verdict(status, None).verdict, VerdictResult::Undecided);
        assert_eq!(verdict(json!({}), None).verdict, VerdictResult::Undecided);
    }

    #[test]
    fn a_status_of_an_older_generation_decides_nothing() {
        for mut status in [stable(), aborted()] {
            status["observedGeneration"] = json!(1);
            let verdict = verdict(status, None);
            assert_eq!(verdict.verdict, VerdictResult::Undecided);
            assert_eq!((verdict.cause, verdict.at), (None, None));
        }
    }

    #[test]
    fn the_verdict_on_another_revision_is_not_that_of_the_latest() {
        let verdict = verdict(aborted(), Some("v3"));
        assert_eq!(verdict.verdict, VerdictResult::Undecided);
        assert_eq!(verdict.revision.as_deref(), Some("v3"));
        assert_eq!(verdict.message, "the latest revision is v2");
    }

    #[test]
    fn in_observe_mode_the_verdict_is_what_serin_would_have_done() {
        let mut status = json!({
            "observedGeneration": 2, "phase": "Healthy", "stage": "Stable", "stableRevision": "v2",
            "currentRevision": "v2", "message": "Observing Deployment/shop",
            "observation": {"workload": "Deployment/shop", "release": {
                "revision": "v2", "startedAt": "2026-01-01T00:00:00Z", "result": "Promoted",
            }},
        });
        let undecided = verdict(status.clone(), None);
        assert_eq!(undecided.verdict, VerdictResult::Undecided);
        status["observation"]["release"]["wouldHave"] = json!({
            "result": "RolledBack", "at": "2026-01-01T00:01:00Z", "cause": "Evidence", "message": "worse",
        });
        let rolled_back = verdict(status, Some("v2"));
        assert_eq!(rolled_back.verdict, VerdictResult::RolledBack);
        assert!(rolled_back.observed && rolled_back.at.is_some());
    }

    #[test]
    fn the_output_has_one_word_for_the_result() {
        let json = serde_json::to_value(verdict(aborted(), None)).unwrap();
        assert_eq!(json["verdict"], "RolledBack");
        assert_eq!(json["cause"], "Evidence");
        assert_eq!(json["observed"], false);
    }
}
