//! Observe mode: another controller changes the pods and the traffic, and a Rollout only follows it.
//! Pure.
//!
//! [`follow`] finds out from the pods which revision is stable, which one is being released, and how
//! a release ended. [`record_decision`] records what Serin would have done with it. Neither returns
//! effects: nothing of the workload is changed in this mode.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::abort;
use crate::effect::{Level, Reason};
use crate::observed::{Observed, ReportKind};
use crate::plan::Plan;
use crate::state::{AbortCause, HOLDS_LIMIT, Phase, ReleaseRecord, ReleaseResult, Stage, State};
use crate::text::{Message, Name};
use crate::units::{Revision, Weight};

/// What a Rollout in observe mode knows about the workload of another controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Observation {
    /// Controller of the observed pods, for example Deployment/checkout. Unset before pods were
    /// found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Name>,
    /// Latest release of that controller. Unset before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<ObservedRelease>,
}

/// A release that another controller carries out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ObservedRelease {
    /// Revision that is released: the pod-template-hash of its ReplicaSet.
    pub revision: Revision,
    /// Time at which the first pods of the revision were created.
    pub started_at: Timestamp,
    /// Time at which the release was seen to be over. Unset while it is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How the other controller ended it: Promoted, Aborted or Superseded. Unset while it is in
    /// progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<ReleaseResult>,
    /// What Serin would have done. The first decision counts. Unset while nothing was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_have: Option<HypotheticalDecision>,
}

/// A decision that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct HypotheticalDecision {
    /// Promoted or RolledBack.
    pub result: HypotheticalResult,
    /// Time of the decision.
    pub at: Timestamp,
    /// Cause of the rollback, one of the abort causes. Unset for Promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<AbortCause>,
    /// Explanation for operators.
    pub message: Message,
}

/// What would have become of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HypotheticalResult {
    /// The evidence sufficed to promote it.
    Promoted,
    /// It would have been aborted.
    RolledBack,
}

impl HypotheticalResult {
    /// The result as it appears in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "Promoted",
            Self::RolledBack => "RolledBack",
        }
    }
}

/// The pods of another controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedWorkload {
    /// Kind and name of the controller, for example `Deployment/checkout`. `None` without pods.
    pub controller: Option<Name>,
    /// The ReplicaSets that have pods, the newest first.
    pub replica_sets: Vec<PodGroup>,
    /// The revisions behind the two Services. `None` if the spec names no Services: the revisions
    /// are then told apart by age.
    pub services: Option<ServiceRevisions>,
}

/// The pods of one ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodGroup {
    /// The revision.
    pub revision: Revision,
    /// Number of pods.
    pub pods: u32,
    /// Creation time of its oldest pod.
    pub since: Timestamp,
}

/// The revisions that the two Services select. `None` if a Service selects no pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRevisions {
    /// Behind the stable Service.
    pub stable: Option<Revision>,
    /// Behind the canary Service.
    pub canary: Option<Revision>,
}

/// The two revisions of a release.
struct Variants {
    stable: Revision,
    canary: Revision,
}

impl ObservedWorkload {
    fn group(&self, revision: &Revision) -> Option<&PodGroup> {
        let mut groups = self.replica_sets.iter();
        groups.find(|group| group.revision == *revision)
    }

    /// How a release ended. `None` if it is in progress.
    fn result_of(&self, release: &Variants) -> Option<ReleaseResult> {
        let Variants { stable, canary } = release;
        if let Some(services) = &self.services {
            if services.stable.as_ref().is_some_and(|seen| seen != stable) {
                return Some(ReleaseResult::Promoted);
            }
            return match &services.canary {
                None => Some(ReleaseResult::Aborted),
                Some(seen) if seen == canary => None,
                Some(seen) if seen == stable => Some(ReleaseResult::Aborted),
                Some(_) => Some(ReleaseResult::Superseded),
            };
        }
        let newest = self.replica_sets.first();
        let is_other = |group: &PodGroup| group.revision != *stable && group.revision != *canary;
        if newest.is_some_and(is_other) {
            Some(ReleaseResult::Superseded)
        } else if self.group(canary).is_none() {
            Some(ReleaseResult::Aborted)
        } else if self.group(stable).is_none() {
            Some(ReleaseResult::Promoted)
        } else {
            None
        }
    }

    /// The revision that serves and, if it is another one, the revision that is being released.
    fn revisions(&self, known: Option<&Revision>) -> (Option<Revision>, Option<Revision>) {
        if let Some(services) = &self.services {
            let stable = services.stable.clone();
            let differs =
                |canary: &Revision| stable.as_ref().is_some_and(|stable| stable != canary);
            let canary = services.canary.clone().filter(differs);
            return (stable, canary);
        }
        let Some(newest) = self.replica_sets.first() else {
            return (None, None);
        };
        let known = known.filter(|known| self.group(known).is_some());
        let largest = || {
            let older = self.replica_sets.iter().skip(1);
            older.max_by_key(|group| group.pods)
        };
        let stable = known.or_else(|| largest().map(|group| &group.revision));
        match stable {
            Some(stable) if *stable != newest.revision => {
                (Some(stable.clone()), Some(newest.revision.clone()))
            }
            _ => (Some(newest.revision.clone()), None),
        }
    }

    /// The share of a revision in the pods of both.
    fn share(&self, release: &Variants) -> Weight {
        let pods = |revision| {
            self.group(revision)
                .map_or(0, |group| u64::from(group.pods))
        };
        let (stable, canary) = (pods(&release.stable), pods(&release.canary));
        let share = (canary * 100_000).checked_div(stable + canary).unwrap_or(0);
        Weight::from_thousandths(u32::try_from(share).unwrap_or(u32::MAX))
    }
}

/// Follows the other controller: begins and ends releases by what is seen of its pods.
pub fn follow(state: &mut State, seen: &ObservedWorkload, now: Timestamp) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let workload = &mut observation(state).workload;
    *workload = seen.controller.clone().or_else(|| workload.take());
    if let Some(release) = release_in_progress(state)
        && let Some(result) = seen.result_of(&release)
    {
        reasons.push(end_release(state, &release, result, now));
    }
    if !state.is_releasing() {
        let (stable, canary) = seen.revisions(state.stable_revision.as_ref());
        let canary = canary.filter(|canary| !is_promoted(state, canary));
        enter_stable(state, stable.clone(), now);
        if let (Some(stable), Some(canary)) = (stable, canary) {
            let release = Variants { stable, canary };
            reasons.push(begin_release(state, seen, release, now));
        }
    }
    let release = release_in_progress(state);
    state.weights.desired = release.map_or(Weight::ZERO, |release| seen.share(&release));
    reasons
}

fn observation(state: &mut State) -> &mut Observation {
    state.observation.get_or_insert_default()
}

fn release_in_progress(state: &State) -> Option<Variants> {
    let is_releasing = state.is_releasing();
    let canary = state.current_revision.clone().filter(|_| is_releasing)?;
    let stable = state.stable_revision.clone()?;
    Some(Variants { stable, canary })
}

/// Whether the latest release was that of this revision, and it was promoted. A controller that
/// copies the template of a canary to its stable pods, as Flagger does, keeps the canary's pods for
/// a time.
fn is_promoted(state: &State, revision: &Revision) -> bool {
    let latest = state.observation.as_ref();
    let latest = latest.and_then(|observation| observation.release.as_ref());
    latest.is_some_and(|release| {
        release.revision == *revision && release.result == Some(ReleaseResult::Promoted)
    })
}

fn enter_stable(state: &mut State, stable: Option<Revision>, now: Timestamp) {
    if state.stage != Stage::Stable {
        state.stage = Stage::Stable;
        state.stage_since = Some(now);
    }
    state.phase = Phase::Healthy;
    state.release_started_at = None;
    state.holds = Vec::new();
    if stable.is_some() {
        state.stable_revision.clone_from(&stable);
        state.current_revision = stable;
    }
}

fn begin_release(
    state: &mut State,
    seen: &ObservedWorkload,
    release: Variants,
    now: Timestamp,
) -> Reason {
    let Variants { stable, canary } = release;
    let started_at = seen
        .group(&canary)
        .map_or(now, |group| group.since.min(now));
    let controller = seen.controller.as_ref().map_or("somebody", Name::as_str);
    let message = format!("{controller} releases {canary}; {stable} is stable");
    state.stage = Stage::Progressing;
    state.stage_since = Some(now);
    state.release_started_at = Some(started_at);
    state.stable_revision = Some(stable);
    state.current_revision = Some(canary.clone());
    observation(state).release = Some(ObservedRelease {
        revision: canary,
        started_at,
        ended_at: None,
        result: None,
        would_have: None,
    });
    Reason {
        code: "ObservedReleaseStarted",
        message: message.into(),
        level: Level::Normal,
    }
}

fn end_release(
    state: &mut State,
    release: &Variants,
    result: ReleaseResult,
    now: Timestamp,
) -> Reason {
    let canary = &release.canary;
    let done = match result {
        ReleaseResult::Promoted => "was promoted",
        ReleaseResult::Aborted => "was rolled back",
        ReleaseResult::Superseded => "was superseded",
    };
    let latest = observation(state).release.as_mut();
    let decision = latest.and_then(|latest| {
        latest.ended_at = Some(now);
        latest.result = Some(result);
        latest.would_have.as_ref()
    });
    let decision = decision.map_or_else(|| "would not have decided yet".to_owned(), describe);
    let message = Message::from(format!("{canary} {done}; Serin {decision}"));
    state.add_to_history(ReleaseRecord {
        revision: canary.clone(),
        result,
        at: now,
        message: message.clone(),
        replaced: None,
    });
    if result == ReleaseResult::Promoted {
        state.stable_revision = Some(canary.clone());
    }
    enter_stable(state, state.stable_revision.clone(), now);
    Reason {
        code: "ObservedReleaseEnded",
        message,
        level: Level::Normal,
    }
}

fn describe(decision: &HypotheticalDecision) -> String {
    let done = match decision.result {
        HypotheticalResult::Promoted => "would have promoted it",
        HypotheticalResult::RolledBack => "would have rolled it back",
    };
    format!("{done} at {}: {}", decision.at, decision.message)
}

/// Records what Serin would do with the release in progress, unless it is recorded already, and
/// sets the phase, the holds and the message.
pub fn record_decision(
    state: &mut State,
    observed: &Observed,
    plan: &Plan,
    now: Timestamp,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let is_releasing = state.is_releasing();
    let latest = observation(state).release.as_mut();
    if let Some(latest) = latest.filter(|latest| is_releasing && latest.would_have.is_none())
        && let Some(decision) = hypothetical_decision(observed, plan, now)
    {
        let message = decision.message.clone();
        reasons.push(match decision.result {
            HypotheticalResult::Promoted => Reason {
                code: "WouldPromote",
                message,
                level: Level::Normal,
            },
            HypotheticalResult::RolledBack => Reason {
                code: "WouldRollBack",
                message,
                level: Level::Warning,
            },
        });
        latest.would_have = Some(decision);
    }
    let report = observed.analysis.as_ref().filter(|_| is_releasing);
    let holds = report.map(|report| report.holds.iter().take(HOLDS_LIMIT).cloned());
    state.holds = holds.into_iter().flatten().collect();
    state.phase = if is_releasing {
        Phase::Progressing
    } else {
        Phase::Healthy
    };
    state.message = status_message(state, observed);
    reasons
}

/// What Serin would do now. `None` if it would wait.
fn hypothetical_decision(
    observed: &Observed,
    plan: &Plan,
    now: Timestamp,
) -> Option<HypotheticalDecision> {
    let rolled_back = |cause, message: Message| HypotheticalDecision {
        result: HypotheticalResult::RolledBack,
        at: now,
        cause: Some(cause),
        message,
    };
    let report = observed.analysis.as_ref();
    if let Some(breach) = report.and_then(|report| report.breach.clone()) {
        return Some(rolled_back(breach.cause, breach.message));
    }
    let revision = observed.state.current_revision.as_ref()?;
    let canary = observed.replica_sets.get(revision);
    if let Some(message) = canary.and_then(|canary| abort::describe_crash(plan, observed, canary)) {
        return Some(rolled_back(AbortCause::PodCrash, message.into()));
    }
    let report = report.filter(|report| report.kind() == ReportKind::Sufficient)?;
    Some(HypotheticalDecision {
        result: HypotheticalResult::Promoted,
        at: now,
        cause: None,
        message: report.message.clone(),
    })
}

fn status_message(state: &State, observed: &Observed) -> Message {
    let observation = state.observation.as_ref();
    let workload = observation.and_then(|observation| observation.workload.as_ref());
    let workload = workload.map_or("the workload", Name::as_str);
    let release = observation.and_then(|observation| observation.release.as_ref());
    let Some(release) = release else {
        return format!("Observing {workload}: no release yet").into();
    };
    let revision = &release.revision;
    let decision = match &release.would_have {
        Some(decision) => format!("Serin {}", describe(decision)),
        None if release.result.is_some() => "Serin would not have decided yet".to_owned(),
        None => {
            let report = observed.analysis.as_ref();
            let waits = report.map(|report| report.message.as_str());
            format!(
                "Serin would wait: {}",
                waits.unwrap_or("no analysis is set")
            )
        }
    };
    let done = match release.result {
        None => "is being released",
        Some(ReleaseResult::Promoted) => "was promoted",
        Some(ReleaseResult::Aborted) => "was rolled back",
        Some(ReleaseResult::Superseded) => "was superseded",
    };
    format!("Observing {workload}: {revision} {done}. {decision}").into()
}

#[cfg(test)]
mod tests;
