//! When to look again though nothing has changed.

use jiff::Timestamp;

use crate::abort::GRACE;
use crate::draft::{Look, releasing};
use crate::observed::{Judgement, ServiceSeen};
use crate::plan::Step;
use crate::state::{Stage, State};
use crate::units::after;
use crate::waiting::Wait;
use crate::{progress, router, steps};

/// The next moment at which something may have become true by time alone.
pub(crate) fn next(look: &Look<'_>, state: &State) -> Option<Timestamp> {
    let mut times: Vec<Timestamp> = state.draining.iter().map(|drain| drain.until).collect();
    times.extend(state.pause.as_ref().and_then(|pause| pause.until));
    times.extend(state.replicas_kept.and_then(|kept| kept.until));
    times.extend(
        state
            .growing_since
            .map(|since| after(since, look.plan.progress_deadline)),
    );
    if let Some(routing) = look.plan.routing() {
        times.extend(
            look.seen
                .routes
                .iter()
                .filter_map(|route| router::effective_from(routing, route)),
        );
        let services = [&look.seen.stable_service, &look.seen.canary_service];
        let serving = |service: &&Option<ServiceSeen>| {
            service.as_ref().and_then(|service| service.serving_since)
        };
        times.extend(
            services
                .iter()
                .filter_map(serving)
                .map(|since| after(since, routing.settle)),
        );
    }
    if releasing(state) || state.stage == Stage::FirstDeploy {
        times.extend(progress::overdue_at(look, state));
        times.push(after(
            look.seen.looked_since,
            look.plan.progress_deadline.min(GRACE),
        ));
    }
    if state.stage == Stage::Stepping {
        times.extend(analysis(look, state));
    }
    if let (Some(plan), Some(watch)) = (look.plan.watch(), state.watch_under_way()) {
        times.push(after(watch.since, plan.duration));
    }
    times.into_iter().filter(|at| *at > look.now).min()
}

/// When an analysis may end: by its duration, or undecided at its longest.
fn analysis(look: &Look<'_>, state: &State) -> Vec<Timestamp> {
    let Some(step) = state.step else {
        return Vec::new();
    };
    let mut times = Vec::new();
    if let Some(analysis) = &look.plan.canary().analysis {
        times.push(after(step.started_at, analysis.longest));
    }
    if let Wait::Until(at) = steps::wait(look, state) {
        times.push(at);
    }
    if let (
        Some(Step::Analysis(Some(duration))),
        Judgement::Undecided { fresh_since, .. } | Judgement::Sound { fresh_since, .. },
    ) = (steps::current(look.plan, state), &look.seen.judgement)
    {
        times.push(after(step.started_at.max(*fresh_since), *duration));
    }
    times
}
