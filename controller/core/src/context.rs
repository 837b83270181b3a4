//! What every part of the decision looks at, and the new position that they make together.

use jiff::Timestamp;

use crate::effect::{Level, Reason};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::state::{HISTORY_LIMIT, Progress, ReleaseRecord, ReleaseResult, Stage, State};
use crate::units::Revision;

/// What every part of the decision looks at.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub plan: &'a Plan,
    pub observed: &'a Observed,
    pub now: Timestamp,
}

/// The new position in the making.
pub(crate) struct Transition {
    pub state: State,
    pub reasons: Vec<Reason>,
}

impl Transition {
    /// A reason that goes to the log alone: each Event is a write to the API server.
    pub fn detail(&mut self, code: &'static str, message: impl Into<String>) {
        self.reasons.push(Reason {
            code,
            message: message.into(),
            level: Level::Detail,
        });
    }

    /// A reason that becomes a Normal Event.
    pub fn normal(&mut self, code: &'static str, message: impl Into<String>) {
        self.reasons.push(Reason {
            code,
            message: message.into(),
            level: Level::Normal,
        });
    }

    /// A reason that becomes a Warning Event.
    pub fn warning(&mut self, code: &'static str, message: impl Into<String>) {
        self.reasons.push(Reason {
            code,
            message: message.into(),
            level: Level::Warning,
        });
    }

    /// Enters a stage: deadlines count from now, and what was waited for before is void.
    pub fn enter_stage(&mut self, stage: Stage, now: Timestamp) {
        self.state.bake = None;
        self.state.stage = stage;
        self.start_waiting(now);
        self.state.pause = None;
        self.state.restarting = false;
        if stage != Stage::Progressing {
            self.state.step = None;
            self.state.weights.cap = None;
            self.state.growing_since = None;
        }
        if matches!(stage, Stage::Aborted | Stage::Stable) {
            self.state.release_started_at = None;
            self.state.progress = None;
        }
    }

    /// Starts something new to wait for, with the whole progress deadline.
    pub fn start_waiting(&mut self, now: Timestamp) {
        self.state.stage_since = Some(now);
        self.state.progress = Some(Progress::start(now));
    }

    /// The current revision is the one that production stands on.
    pub fn become_stable(&mut self, now: Timestamp, how: &str) {
        let Some(revision) = self.state.current_revision.clone() else {
            return;
        };
        self.record(revision.clone(), ReleaseResult::Promoted, now, how);
        self.state.stable_revision = Some(revision);
        self.enter_stage(Stage::Stable, now);
    }

    /// Records how a release ended.
    pub fn record(
        &mut self,
        revision: Revision,
        result: ReleaseResult,
        at: Timestamp,
        message: impl Into<String>,
    ) {
        self.state.history.push(ReleaseRecord {
            revision,
            result,
            at,
            message: message.into(),
        });
        let extra = self.state.history.len().saturating_sub(HISTORY_LIMIT);
        self.state.history.drain(..extra);
    }
}

/// Whether a release is under way, so that there is something to judge and to abort.
pub(crate) fn releasing(state: &State) -> bool {
    matches!(state.stage, Stage::Progressing | Stage::Promoting)
}
