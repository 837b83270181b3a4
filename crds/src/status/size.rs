//! Bounds of the size of a status. etcd stores objects of at most 1.5 MiB, and every watcher of
//! Rollouts receives each status.

use std::io;

use serde::Serialize;
use serin_core::state::State;
use serin_core::text::{MESSAGE_BYTES, Message};

use super::RolloutStatus;

/// Maximum size of a status as JSON, without the active plan and the checkpoint of the analysis.
/// Longer messages are shortened.
pub const STATUS_BYTES: usize = 64 << 10;
/// Maximum size of the checkpoint of an analysis as JSON. A release with a larger one is held. A spec
/// whose objectives could have a larger one, by the sizes below, is refused.
pub const CHECKPOINT_BYTES: usize = 256 << 10;
/// Maximum size of the state of one objective as JSON.
pub const OBJECTIVE_BYTES: usize = 12 << 10;
/// Maximum additional size of the state of an objective with `latency.guard` as JSON.
pub const LATENCY_GUARD_BYTES: usize = 16 << 10;
/// Maximum additional size of the state of an objective with `endpointLabel` as JSON.
pub const ENDPOINTS_BYTES: usize = 14 << 10;
/// Maximum size of `spec.analysis` as JSON. `status.releaseAnalysis` contains it during a release.
pub const RELEASE_ANALYSIS_BYTES: usize = 128 << 10;
/// Maximum size of all original routes together as JSON. A route that does not fit is not changed.
pub const ORIGINAL_ROUTES_BYTES: usize = 12 << 10;
/// Maximum length of the selector.
pub const SELECTOR_BYTES: usize = 2 << 10;

/// Lengths to which messages are shortened until the status has at most [`STATUS_BYTES`].
const MESSAGE_LENGTHS: [usize; 4] = [512, 256, 128, 64];

/// Counts bytes instead of writing them.
#[derive(Default)]
struct ByteCount(usize);

impl io::Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The size of a value as JSON, in bytes.
pub fn serialized_bytes(value: &impl Serialize) -> usize {
    let mut count = ByteCount::default();
    // A value without a JSON form does not fit anywhere.
    serde_json::to_writer(&mut count, value).map_or(usize::MAX, |()| count.0)
}

impl RolloutStatus {
    /// Shortens messages until the status has at most [`STATUS_BYTES`] without its plan, the
    /// analysis, the policies, the checkpoint and the digests of images, which have their own bounds. All lists of the
    /// status have a maximum length.
    pub fn limit_size(&mut self) {
        let is_large = |status: &Self| {
            let plan = status.state.plan.as_ref().map_or(0, serialized_bytes);
            let analysis = status.analysis.as_ref().map_or(0, serialized_bytes);
            let fixed = status.state.release_analysis.as_ref();
            let fixed = fixed.map_or(0, serialized_bytes);
            let policies = serialized_bytes(&status.state.release_policies);
            let guardrails = status.state.release_guardrails.as_ref();
            let guardrails = guardrails.map_or(0, serialized_bytes);
            let of_policies = policies.saturating_add(guardrails);
            let own_bounds = plan.saturating_add(analysis).saturating_add(fixed);
            let own_bounds = own_bounds.saturating_add(of_policies);
            let digests = serialized_bytes(&status.image_digests);
            let own_bounds = own_bounds.saturating_add(digests);
            serialized_bytes(status).saturating_sub(own_bounds) > STATUS_BYTES
        };
        for bytes in MESSAGE_LENGTHS {
            if !is_large(self) {
                return;
            }
            self.shorten_messages(bytes);
        }
    }

    /// What an abort needs at least: the position, the plan and the original routes, with short
    /// messages, and without evidence, checks, budgets, the checkpoint and all but the last outcome
    /// of a release.
    #[must_use]
    pub fn minimal(&self) -> Self {
        let last = self.state.history.last().cloned();
        let mut minimal = Self {
            state: State {
                holds: Vec::new(),
                history: last.into_iter().collect(),
                ..self.state.clone()
            },
            original_routes: self.original_routes.clone(),
            conditions: self.conditions.clone(),
            replicas: self.replicas,
            updated_replicas: self.updated_replicas,
            ready_replicas: self.ready_replicas,
            available_replicas: self.available_replicas,
            selector: self.selector.clone(),
            ..Self::default()
        };
        minimal.shorten_messages(MESSAGE_LENGTHS[MESSAGE_LENGTHS.len() - 1]);
        minimal
    }

    fn shorten_messages(&mut self, bytes: usize) {
        for message in self.messages_mut() {
            message.shorten(bytes);
        }
        for condition in &mut self.conditions {
            let mut message: Message = std::mem::take(&mut condition.message).into();
            message.shorten(bytes.min(MESSAGE_BYTES));
            condition.message = message.into();
        }
    }

    fn messages_mut(&mut self) -> impl Iterator<Item = &mut Message> {
        let state = &mut self.state;
        let commands = state.commands.iter_mut();
        let releases = state.history.iter_mut();
        let abort = state.abort.iter_mut().map(|abort| &mut abort.message);
        let lifted = state.freeze_override.iter_mut();
        let observed = state.observation.iter_mut();
        let observed = observed.filter_map(|observation| observation.release.as_mut());
        let decisions = observed.filter_map(|release| release.would_have.as_mut());
        let of_state = std::iter::once(&mut state.message)
            .chain(decisions.map(|decision| &mut decision.message))
            .chain(abort)
            .chain(lifted.map(|lifted| &mut lifted.reason))
            .chain(state.holds.iter_mut().map(|hold| &mut hold.message))
            .chain(commands.map(|command| &mut command.outcome.message))
            .chain(releases.map(|release| &mut release.message));
        let evidence = self.evidence.iter_mut().flat_map(|evidence| {
            let guard = evidence.latency_guard.iter_mut();
            let own = [
                &mut evidence.message,
                &mut evidence.note,
                &mut evidence.assumption,
            ];
            own.into_iter()
                .flatten()
                .chain(guard.filter_map(|guard| guard.message.as_mut()))
        });
        let budgets = self.budgets.iter_mut().flat_map(|budget| {
            [&mut budget.message, &mut budget.infeasible]
                .into_iter()
                .flatten()
        });
        let checks = self.checks.iter_mut();
        of_state
            .chain(evidence)
            .chain(budgets)
            .chain(checks.filter_map(|check| check.message.as_mut()))
    }
}
