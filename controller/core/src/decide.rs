//! The decision, read from top to bottom: abort first, then take in what is asked, then advance,
//! then say what must be true.

use jiff::Timestamp;

use crate::context::{Context, Transition};
use crate::effect::{Decision, Effect};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::{
    abort, commands, growth, progress, replicas, route, scale, services, spec_change,
    status_message, step_down, steps, timers,
};

/// Decides what comes next for one Rollout.
///
/// `plan` is the spec as validated, or the plan in force while the spec cannot be used
/// (`seen.spec_problem`). The answer depends on nothing but the arguments; carried out and observed
/// again, it converges.
pub fn decide(plan: &Plan, seen: &Observed, now: Timestamp) -> Decision {
    let cx = Context {
        plan,
        observed: seen,
        now,
    };
    let mut transition = Transition {
        state: seen.state.clone(),
        reasons: Vec::new(),
    };

    // Nothing that can fail or wait comes before this.
    abort::on_breach(&cx, &mut transition);
    // What the metrics say is of the revision at hand, not of one that is asked for now.
    step_down::note(&cx, &mut transition);
    let outcomes = commands::take(&cx, &mut transition);

    spec_change::take_in(&cx, &mut transition);
    steps::advance(&cx, &mut transition);
    progress::record(&cx, &mut transition);
    abort::on_deadline(&cx, &mut transition);

    growth::record(&cx, &mut transition);
    replicas::record(&cx, &mut transition);
    route::note_weights(&cx, &mut transition);
    scale::note_draining(&cx, &mut transition);
    status_message::tell(&cx, &mut transition);
    if transition.state != seen.state {
        // Not worth a write of its own.
        scale::forget_drained(&cx, &mut transition);
    }

    let mut effects = route::effects(&cx, &transition.state);
    effects.extend(services::effects(&cx, &transition.state));
    effects.extend(scale::effects(&cx, &transition.state));
    effects.extend(
        outcomes
            .into_iter()
            .map(|(command, outcome)| Effect::FinishCommand {
                name: command.name.clone(),
                uid: command.uid.clone(),
                outcome,
            }),
    );
    let wake_at = timers::next(&cx, &transition.state);
    Decision {
        state: transition.state,
        effects,
        wake_at,
        reasons: transition.reasons,
    }
}
