//! When to look again though nothing has changed.

use jiff::Timestamp;

use crate::abort::GRACE;
use crate::blockers::Wait;
use crate::context::{Context, releasing};
use crate::observed::{AnalysisReport, ServiceView};
use crate::plan::Step;
use crate::state::{Stage, State};
use crate::units::saturating_add;
use crate::{progress, route_state, steps};

/// The next moment at which something may have become true by time alone.
pub(crate) fn next(cx: &Context<'_>, state: &State) -> Option<Timestamp> {
    let mut times: Vec<Timestamp> = state.draining.iter().map(|drain| drain.until).collect();
    times.extend(state.pause.as_ref().and_then(|pause| pause.until));
    times.extend(state.replicas_kept.and_then(|kept| kept.until));
    times.extend(
        state
            .growing_since
            .map(|since| saturating_add(since, cx.plan.progress_deadline)),
    );
    if let Some(routing) = cx.plan.routing() {
        times.extend(
            cx.observed
                .routes
                .iter()
                .filter_map(|route| route_state::effective_from(routing, route)),
        );
        let services = [&cx.observed.stable_service, &cx.observed.canary_service];
        let serving = |service: &&Option<ServiceView>| {
            service.as_ref().and_then(|service| service.serving_since)
        };
        times.extend(
            services
                .iter()
                .filter_map(serving)
                .map(|since| saturating_add(since, routing.settle)),
        );
    }
    if releasing(state) || state.stage == Stage::FirstDeploy {
        times.extend(progress::overdue_at(cx, state));
        times.push(saturating_add(
            cx.observed.observed_since,
            cx.plan.progress_deadline.min(GRACE),
        ));
    }
    if state.stage == Stage::Progressing {
        times.extend(analysis(cx, state));
    }
    if let (Some(plan), Some(watch)) = (cx.plan.bake(), state.active_bake()) {
        times.push(saturating_add(watch.since, plan.duration));
    }
    times.into_iter().filter(|at| *at > cx.now).min()
}

/// When an analysis may end: by its duration, or undecided at its longest.
fn analysis(cx: &Context<'_>, state: &State) -> Vec<Timestamp> {
    let Some(step) = state.step else {
        return Vec::new();
    };
    let mut times = Vec::new();
    if let Some(analysis) = &cx.plan.canary().analysis {
        times.push(saturating_add(step.started_at, analysis.max_duration));
    }
    if let Wait::Until(at) = steps::wait(cx, state) {
        times.push(at);
    }
    if let (
        Some(Step::Analysis(Some(duration))),
        AnalysisReport::Undecided { fresh_since, .. } | AnalysisReport::Sound { fresh_since, .. },
    ) = (steps::current(cx.plan, state), &cx.observed.analysis)
    {
        times.push(saturating_add(step.started_at.max(*fresh_since), *duration));
    }
    times
}
