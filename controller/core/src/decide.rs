//! The decision, read from top to bottom: abort first, then take in what is asked, then advance, then say what must be true.

use jiff::Timestamp;

use crate::effect::{Decision, Effect, Level, Reason};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::state::{HISTORY_LIMIT, Release, ReleaseResult, Stage, State};
use crate::units::Revision;
use crate::{abort, cap, commands, release, route, scale, services, steps, timers, words};

/// Decides what comes next for one Rollout.
///
/// `plan` is the spec as validated, or the plan in force while the spec cannot be used (`seen.spec_problem`). The answer
/// depends on nothing but the arguments; carried out and observed again, it converges.
pub fn decide(plan: &Plan, seen: &Observed, now: Timestamp) -> Decision {
    let look = Look { plan, seen, now };
    let mut draft = Draft { state: seen.state.clone(), because: Vec::new() };

    // Nothing that can fail or wait comes before this.
    abort::on_breach(&look, &mut draft);
    // What the metrics say is of the revision at hand, not of one that is asked for now.
    cap::note(&look, &mut draft);
    let outcomes = commands::take(&look, &mut draft);

    release::take_in(&look, &mut draft);
    steps::advance(&look, &mut draft);
    abort::on_deadline(&look, &mut draft);

    route::note_weights(&look, &mut draft);
    scale::note_draining(&look, &mut draft);
    words::tell(&look, &mut draft);
    if draft.state != seen.state {
        // Not worth a write of its own.
        scale::forget_drained(&look, &mut draft);
    }

    let mut effects = route::effects(&look, &draft.state);
    effects.extend(services::effects(&look, &draft.state));
    effects.extend(scale::effects(&look, &draft.state));
    effects.extend(outcomes.into_iter().map(|(command, outcome)| Effect::FinishCommand {
        name: command.name.clone(),
        uid: command.uid.clone(),
        outcome,
    }));
    let wake_at = timers::next(&look, &draft.state);
    Decision { state: draft.state, effects, wake_at, because: draft.because }
}

/// What every part of the decision looks at.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    pub plan: &'a Plan,
    pub seen: &'a Observed,
    pub now: Timestamp,
}

/// The new position in the making.
pub(crate) struct Draft {
    pub state: State,
    pub because: Vec<Reason>,
}

impl Draft {
    /// A reason that goes to the log alone: each Event is a write to the API server.
    pub fn detail(&mut self, code: &'static str, message: impl Into<String>) {
        self.because.push(Reason { code, message: message.into(), level: Level::Detail });
    }

    /// A reason that becomes a Normal Event.
    pub fn normal(&mut self, code: &'static str, message: impl Into<String>) {
        self.because.push(Reason { code, message: message.into(), level: Level::Normal });
    }

    /// A reason that becomes a Warning Event.
    pub fn warning(&mut self, code: &'static str, message: impl Into<String>) {
        self.because.push(Reason { code, message: message.into(), level: Level::Warning });
    }

    /// Enters a stage: deadlines count from now, and what was waited for before is void.
    pub fn enter(&mut self, stage: Stage, now: Timestamp) {
        self.state.watch = None;
        self.state.stage = stage;
        self.state.stage_since = Some(now);
        self.state.pause = None;
        self.state.restarting = false;
        if stage != Stage::Stepping {
            self.state.step = None;
            self.state.weights.cap = None;
        }
    }

    /// Records how a release ended.
    pub fn record(&mut self, revision: Revision, result: ReleaseResult, at: Timestamp, message: impl Into<String>) {
        self.state.history.push(Release { revision, result, at, message: message.into() });
        let extra = self.state.history.len().saturating_sub(HISTORY_LIMIT);
        self.state.history.drain(..extra);
    }
}

/// Whether a release is under way, so that there is something to judge and to abort.
pub(crate) fn releasing(state: &State) -> bool {
    matches!(state.stage, Stage::Stepping | Stage::Promoting)
}
