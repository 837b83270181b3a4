//! The decision, read from top to bottom: abort first, then take in what is asked, then advance,
//! then say what must be true.

use jiff::Timestamp;

use crate::draft::{Draft, Look};
use crate::effect::{Decision, Effect};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::{
    abort, cap, commands, growth, progress, release, replicas, route, scale, services, steps,
    timers, words,
};

/// Decides what comes next for one Rollout.
///
/// `plan` is the spec as validated, or the plan in force while the spec cannot be used
/// (`seen.spec_problem`). The answer depends on nothing but the arguments; carried out and observed
/// again, it converges.
pub fn decide(plan: &Plan, seen: &Observed, now: Timestamp) -> Decision {
    let look = Look { plan, seen, now };
    let mut draft = Draft {
        state: seen.state.clone(),
        because: Vec::new(),
    };

    // Nothing that can fail or wait comes before this.
    abort::on_breach(&look, &mut draft);
    // What the metrics say is of the revision at hand, not of one that is asked for now.
    cap::note(&look, &mut draft);
    let outcomes = commands::take(&look, &mut draft);

    release::take_in(&look, &mut draft);
    steps::advance(&look, &mut draft);
    progress::record(&look, &mut draft);
    abort::on_deadline(&look, &mut draft);

    growth::record(&look, &mut draft);
    replicas::record(&look, &mut draft);
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
    effects.extend(
        outcomes
            .into_iter()
            .map(|(command, outcome)| Effect::FinishCommand {
                name: command.name.clone(),
                uid: command.uid.clone(),
                outcome,
            }),
    );
    let wake_at = timers::next(&look, &draft.state);
    Decision {
        state: draft.state,
        effects,
        wake_at,
        because: draft.because,
    }
}
