//! The inputs of a decision, and the new state that its parts build together.

use std::cell::Cell;

use jiff::Timestamp;

use crate::effect::{Level, Reason, Side};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::state::{
    AdoptedWorkload, HISTORY_LIMIT, Progress, ReleaseRecord, ReleaseResult, Stage, State,
    WorkloadPhase,
};
use crate::text::Message;
use crate::units::Revision;

/// The inputs of a decision.
pub(crate) struct Context<'a> {
    /// The plan to follow. During a release, its analysis is that of the release.
    pub plan: &'a Plan,
    /// The plan of the spec.
    pub spec_plan: &'a Plan,
    pub observed: &'a Observed,
    pub now: Timestamp,
    /// The earliest future deadline that was evaluated so far.
    earliest: Cell<Option<Timestamp>>,
}

impl<'a> Context<'a> {
    pub fn new(plan: &'a Plan, observed: &'a Observed, now: Timestamp) -> Self {
        Self {
            plan,
            spec_plan: plan,
            observed,
            now,
            earliest: Cell::new(None),
        }
    }

    /// The same inputs, with this plan to follow.
    #[must_use]
    pub fn following(self, plan: &'a Plan) -> Self {
        Self { plan, ..self }
    }

    /// Whether a deadline has been reached. If not, the decision is made again at that time, so no
    /// deadline can be forgotten.
    pub fn reached(&self, deadline: Timestamp) -> bool {
        if deadline <= self.now {
            return true;
        }
        let earliest = self.earliest.get().map_or(deadline, |at| at.min(deadline));
        self.earliest.set(Some(earliest));
        false
    }

    /// The earliest deadline that was evaluated and not yet reached.
    pub fn earliest_deadline(&self) -> Option<Timestamp> {
        self.earliest.get()
    }
}

/// The new state and the reasons for it.
pub(crate) struct Transition {
    pub state: State,
    pub reasons: Vec<Reason>,
}

impl Transition {
    pub fn new(state: State) -> Self {
        Self {
            state,
            reasons: Vec::new(),
        }
    }

    /// Adds a reason for the log alone: each Event is a write to the API server.
    pub fn detail(&mut self, code: &'static str, message: impl Into<Message>) {
        self.add_reason(code, message.into(), Level::Detail);
    }

    /// Adds a reason that becomes a Normal Event.
    pub fn normal(&mut self, code: &'static str, message: impl Into<Message>) {
        self.add_reason(code, message.into(), Level::Normal);
    }

    /// Adds a reason that becomes a Warning Event.
    pub fn warning(&mut self, code: &'static str, message: impl Into<Message>) {
        self.add_reason(code, message.into(), Level::Warning);
    }

    fn add_reason(&mut self, code: &'static str, message: Message, level: Level) {
        self.reasons.push(Reason {
            code,
            message,
            level,
        });
    }

    /// Enters a stage. Deadlines count from now, and the position in the previous stage is void.
    pub fn enter_stage(&mut self, stage: Stage, now: Timestamp) {
        self.state.bake = None;
        self.state.stage = stage;
        self.restart_deadline(now);
        self.state.pause = None;
        self.state.restarting = false;
        if stage != Stage::Progressing {
            self.state.step = None;
            self.state.weights.cap = None;
            self.state.growing_since = None;
        }
        if matches!(stage, Stage::Aborted | Stage::Stable) {
            self.state.release_started_at = None;
            self.state.release_analysis = None;
            self.state.release_guardrails = None;
            for policy in &mut self.state.release_policies {
                policy.defaults = None;
            }
            self.state.progress = None;
        }
    }

    /// Restarts the progress deadline for something new to wait for.
    pub fn restart_deadline(&mut self, now: Timestamp) {
        self.state.stage_since = Some(now);
        self.state.progress = Some(Progress::start(now));
    }

    /// Makes the current revision the stable one.
    pub fn become_stable(&mut self, now: Timestamp, message: &str) {
        let Some(revision) = self.state.current_revision.clone() else {
            return;
        };
        self.record_release(revision.clone(), ReleaseResult::Promoted, now, message);
        self.state.stable_revision = Some(revision);
        self.enter_stage(Stage::Stable, now);
    }

    /// Records how a release ended.
    pub fn record_release(
        &mut self,
        revision: Revision,
        result: ReleaseResult,
        at: Timestamp,
        message: impl Into<Message>,
    ) {
        let plan = self.state.plan.as_ref();
        let is_switch =
            result == ReleaseResult::Promoted && plan.is_some_and(|plan| plan.spec.is_blue_green());
        let stable = self.state.stable_revision.clone();
        self.state.add_to_history(ReleaseRecord {
            replaced: stable.filter(|stable| is_switch && *stable != revision),
            revision,
            result,
            at,
            message: message.into(),
        });
    }
}

impl State {
    /// Adds how a release ended, and forgets the oldest beyond the limit.
    pub(crate) fn add_to_history(&mut self, release: ReleaseRecord) {
        self.history.push(release);
        let extra = self.history.len().saturating_sub(HISTORY_LIMIT);
        self.history.drain(..extra);
    }

    /// Whether a release is under way, so that there is something to analyze and to abort.
    pub fn is_releasing(&self) -> bool {
        matches!(self.stage, Stage::Progressing | Stage::Promoting)
    }

    /// The side of a revision: stable if it is the stable revision or the first one, and canary if it
    /// is the current one beside it, also after an abort. `None` for other revisions, and while a
    /// Deployment has the pods.
    pub fn side_of(&self, revision: &Revision) -> Option<Side> {
        let is_managed = |workload: &AdoptedWorkload| workload.phase == WorkloadPhase::TakenOver;
        if !self.workload.as_ref().is_none_or(is_managed) {
            return None;
        }
        let is = |other: &Option<Revision>| other.as_ref() == Some(revision);
        if is(&self.stable_revision) {
            return Some(Side::Stable);
        }
        is(&self.current_revision).then_some(match self.stable_revision {
            Some(_) => Side::Canary,
            None => Side::Stable,
        })
    }
}

/// A plan of one pod without steps.
#[cfg(test)]
pub(crate) fn test_plan() -> Plan {
    use crate::plan::{Amount, Canary, Exposure, Pace, Strategy, Workload};
    Plan {
        replicas: 1,
        progress_deadline: std::time::Duration::from_secs(600),
        progress_deadline_abort: true,
        revision_history_limit: 10,
        rollback_window: 0,
        paused: false,
        restart_at: None,
        workload: Workload::Owned,
        exposure: Exposure::ReplicaRatio,
        strategy: Strategy::Canary(Canary {
            max_surge: Amount::Pods(1),
            max_unavailable: Amount::Pods(0),
            scale_down_delay: std::time::Duration::ZERO,
            abort_scale_down_delay: std::time::Duration::ZERO,
            dynamic_stable_scale: false,
            min_pods_per_replica_set: 0,
            replica_progress_threshold: None,
            pace: Pace::Steps(Vec::new()),
            analysis: None,
            pod_restart_limit: 2,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluated_deadline_is_never_forgotten() {
        let (plan, observed) = (test_plan(), Observed::default());
        let now = Timestamp::UNIX_EPOCH;
        let cx = Context::new(&plan, &observed, now);
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!(cx.reached(now));
        assert_eq!(cx.earliest_deadline(), None);
        assert!(!cx.reached(at(30)) && !cx.reached(at(10)) && !cx.reached(at(20)));
        assert_eq!(cx.earliest_deadline(), Some(at(10)));
    }

    #[test]
    fn a_revision_is_on_the_side_that_it_serves() {
        let revision = Revision::new;
        let mut state = State {
            current_revision: Some(revision("v1")),
            ..State::default()
        };
        assert_eq!(
            state.side_of(&revision("v1")),
            Some(Side::Stable),
            "first deploy"
        );
        state.stable_revision = Some(revision("v1"));
        state.current_revision = Some(revision("v2"));
        for stage in [Stage::Progressing, Stage::Promoting, Stage::Aborted] {
            state.stage = stage;
            assert_eq!(state.side_of(&revision("v1")), Some(Side::Stable));
            assert_eq!(state.side_of(&revision("v2")), Some(Side::Canary));
            assert_eq!(state.side_of(&revision("v0")), None);
        }
        state.stable_revision = Some(revision("v2"));
        assert_eq!(state.side_of(&revision("v2")), Some(Side::Stable));
        assert_eq!(state.side_of(&revision("v1")), None, "it drains");
        let workload = |phase| AdoptedWorkload {
            deployment: "shop".to_owned(),
            phase,
            since: Timestamp::UNIX_EPOCH,
        };
        state.workload = Some(workload(WorkloadPhase::TakenOver));
        assert_eq!(state.side_of(&revision("v2")), Some(Side::Stable));
        state.workload = Some(workload(WorkloadPhase::GivingBack));
        assert_eq!(state.side_of(&revision("v2")), None);
    }
}
