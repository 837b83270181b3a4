//! Blue/green: all of the traffic moves at once, from a side that is complete to another.
//!
//! The state machine is that of a canary. While the release progresses, the new revision (the
//! preview) has pods but no traffic: its steps set no weight. Its promotion is the switch: of the
//! routes if there is a router, otherwise of the selector of the stable Service, which this
//! strategy calls the active Service. The bake follows the switch. The rules that differ are here.

use crate::context::Context;
use crate::freeze_override;
use crate::hold::Hold;
use crate::observed::Observed;
use crate::plan::{CanaryScale, Exposure, Plan, Step, Strategy};
use crate::state::{ReleaseResult, Stage, State};
use crate::units::{Revision, Weight, saturating_add};

impl Plan {
    /// Whether all of the traffic moves at once.
    pub fn is_blue_green(&self) -> bool {
        matches!(self.strategy, Strategy::BlueGreen(_))
    }

    /// Whether the numbers of pods of the two sides set the split.
    pub fn splits_by_pods(&self) -> bool {
        matches!(
            self.exposure,
            Exposure::ReplicaRatio | Exposure::ReplicaRatioServices(_)
        )
    }

    /// Whether the selector of the stable Service decides which side has the traffic.
    pub fn switches_service(&self) -> bool {
        matches!(self.exposure, Exposure::Switch(_))
    }
}

/// Why the traffic must not be switched yet: the service burns its error budget or has spent it, and
/// nobody has lifted the freeze. `None` with another strategy.
pub(crate) fn freeze_before_switch<'a>(cx: &Context<'a>, state: &State) -> Option<&'a Hold> {
    let report = cx.observed.analysis.as_ref()?;
    let is_before = cx.plan.is_blue_green() && state.stage == Stage::Progressing;
    report
        .freeze()
        .filter(|_| is_before && !freeze_override::is_lifted(state))
}

/// The new side's share without a router, as the stable Service selects it: everything, unless it
/// selects the stable revision.
pub fn switched_share(observed: &Observed) -> Weight {
    let service = observed.stable_service.as_ref();
    let selected = service.and_then(|service| service.selects.as_ref());
    let stable = observed.state.stable_revision.as_ref();
    match selected.zip(stable) {
        Some((selected, stable)) if selected != stable => Weight::FULL,
        _ => Weight::ZERO,
    }
}

/// Whether `to` pods of one side may take over the requests of `from` pods of the other: all that
/// are wanted, or as many as serve now.
///
/// After an abort, a side that does not become complete within the progress deadline takes over
/// with the pods that it has: a failed revision must not serve forever because of a missing pod.
pub(crate) fn can_take_over(cx: &Context<'_>, to: u32, from: u32) -> bool {
    let needed = cx.plan.canary().sufficient_pods(cx.plan.replicas).min(from);
    to > 0 && (to >= needed || is_abort_overdue(cx))
}

fn is_abort_overdue(cx: &Context<'_>) -> bool {
    let state = &cx.observed.state;
    let abort = state.abort.as_ref();
    let abort = abort.filter(|_| state.stage == Stage::Aborted);
    abort.is_some_and(|abort| cx.reached(saturating_add(abort.at, cx.plan.progress_deadline)))
}

/// The revision that an abort returns to after its successor has become stable: the one that it
/// replaced, while its pods are kept for `scaleDownDelaySeconds`. `None` with another strategy.
pub(crate) fn previous_side<'a>(cx: &Context<'_>, state: &'a State) -> Option<&'a Revision> {
    if !cx.plan.is_blue_green() || state.stage != Stage::Stable || cx.plan.replicas == 0 {
        return None;
    }
    let previous = replaced_by_stable(state)?;
    let drain = state
        .draining
        .iter()
        .find(|drain| drain.revision == *previous)?;
    let set = cx.observed.replica_sets.get(previous)?;
    (set.desired > 0 && !cx.reached(drain.until)).then_some(previous)
}

/// The revision that the stable revision replaced. `None` if the last release was not its promotion.
fn replaced_by_stable(state: &State) -> Option<&Revision> {
    let last = state.history.last()?;
    let is_promotion = last.result == ReleaseResult::Promoted
        && Some(&last.revision) == state.stable_revision.as_ref();
    last.replaced.as_ref().filter(|_| is_promotion)
}

/// A step, as the strategy means it.
pub(crate) fn describe_step(step: &Step) -> &'static str {
    match step {
        Step::SetCanaryScale(CanaryScale::Replicas(_)) => "preview pods",
        Step::SetCanaryScale(_) => "all preview pods",
        Step::Pause(_) => "waiting for promotion",
        Step::Analysis(_) | Step::Require(_) => "checks before the switch",
        Step::Gate(_) => "gate",
        Step::SetWeight(_) | Step::SetManagedRoute(_) => "traffic",
    }
}
