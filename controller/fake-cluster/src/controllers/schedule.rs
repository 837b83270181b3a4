//! When a controller has to run again.

use tokio::time::Instant;

use super::ControllerContext;
use crate::api::ObjectStore;

/// A controller of the cluster.
pub(super) trait Controller {
    /// The version of the newest change of what it reads.
    fn input_version(store: &ObjectStore) -> u64;

    /// Compares what it reads with the desired state, and changes the store.
    fn reconcile(&mut self, context: &mut ControllerContext<'_>);
}

/// A controller without the runs that would find what the last one left.
#[derive(Default)]
pub(super) struct Scheduled<C> {
    pub(super) controller: C,
    /// The version of the store when the controller ran last. `None` if it has to run.
    seen: Option<u64>,
    /// The wake-up that the last run scheduled.
    wake: Option<Instant>,
}

impl<C: Controller> Scheduled<C> {
    /// Makes the controller run next time.
    pub(super) fn run_again(&mut self) {
        self.seen = None;
    }

    /// Runs the controller if its input is newer than its last run, or if its wake-up is due. Its
    /// own changes of its input make it run again.
    pub(super) fn reconcile_if_due(&mut self, context: &mut ControllerContext<'_>) {
        let input = C::input_version(context.store);
        let is_outdated = self.seen.is_none_or(|seen| seen < input);
        if is_outdated || self.wake.is_some_and(|at| at <= context.now) {
            context.since = self.seen.replace(context.store.version());
            let of_others = context.next.take();
            self.controller.reconcile(context);
            self.wake = std::mem::replace(&mut context.next, of_others);
        }
        if let Some(at) = self.wake {
            context.wake_at(at);
        }
    }
}
