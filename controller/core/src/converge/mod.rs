//! Converging: the safety rules between what the strategy wants and what is written.
//!
//! Nothing here knows strategies or stages. No request may be sent to a side without pods, nothing
//! shrinks under traffic, and a Service changes its revision only if no request can be lost by it
//! (docs/adr/0006).

pub(crate) mod bindings;
pub(crate) mod replica_ratio;
pub(crate) mod replicas;
pub(crate) mod traffic;

use crate::context::Context;
use crate::effect::Effect;
use crate::state::State;
use crate::target::Target;
use crate::workload;

/// The next effects toward the target: traffic first, then Services, then pods.
pub(crate) fn converge(cx: &Context<'_>, state: &State, target: &Target) -> Vec<Effect> {
    if let Some(effects) = workload::exclusive_effects(cx, state) {
        return effects;
    }
    let mut effects = traffic::effects(cx, state, target);
    effects.extend(bindings::effects(cx, target));
    effects.extend(replicas::effects(cx, state, target));
    effects.extend(workload::upkeep_effects(cx, state));
    effects
}

/// Available pods of a revision.
fn available_pods(cx: &Context<'_>, revision: &crate::units::Revision) -> u32 {
    let set = cx.observed.replica_sets.get(revision);
    set.map_or(0, |set| set.available)
}
