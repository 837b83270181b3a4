//! Executes the effects of a decision.

use std::time::Duration;

use serin_core::backoff::retry_after;
use serin_core::effect::{Decision, Effect};
use serin_core::state::Stage;
use serin_core::units::Revision;
use serin_crds::status::{OriginalRoute, PinnedRevision, image_digests};

use super::Reconcile;
use crate::cluster_cache::RolloutObject;
use crate::effects::{self, EffectError, EffectExecutor};
use crate::local_state::LocalState;
use crate::reconcile::effect_failures::EffectFailures;
use crate::reconcile::{AFTER_CONFLICT, jitter};

impl Reconcile<'_> {
    /// The routes as they were before the first change, to be written before the effects.
    pub(super) fn original_routes(&self, decision: &Decision) -> Vec<OriginalRoute> {
        let recorded = &self.status.original_routes;
        let (key, cache) = (self.rollout.key(), &self.context.cache);
        effects::original_routes(
            recorded,
            decision,
            self.plan.routing(),
            &self.snapshot,
            &key,
            cache,
        )
    }

    /// The digests of images that the status records: those of the revision whose ReplicaSet is
    /// created now, and those of the revisions that can still run.
    pub(super) fn image_digests(
        &self,
        decision: &Decision,
        local: &LocalState,
    ) -> Vec<PinnedRevision> {
        let added = decision.effects.iter().find_map(|effect| {
            let Effect::CreateReplicaSet { revision, .. } = effect else {
                return None;
            };
            let images = local.guardrails.resolved_images(revision);
            let revision = revision.clone();
            (!images.is_empty()).then_some(PinnedRevision { revision, images })
        });
        let state = &decision.state;
        let is_kept = |revision: &Revision| {
            let is_current = [&state.current_revision, &state.stable_revision]
                .into_iter()
                .any(|current| current.as_ref() == Some(revision));
            is_current
                || self.snapshot.replica_sets.contains_key(revision)
                || state
                    .history
                    .iter()
                    .any(|release| release.revision == *revision)
        };
        image_digests(&self.status.image_digests, added, is_kept)
    }

    /// Executes the effects in order. A failed effect does not stop the others. Returns when to
    /// retry.
    pub(super) async fn apply_effects(
        &self,
        rollout: &RolloutObject,
        decision: &Decision,
        local: &mut LocalState,
    ) -> Option<Duration> {
        let status = &rollout.status;
        let executor = EffectExecutor {
            client: &self.context.client,
            cache: &self.context.cache,
            ownership: self.context.ownership.as_ref(),
            metrics: &self.context.metrics,
            rollout,
            spec: self.spec_view.spec,
            is_spec_valid: self.spec_view.problem.is_none(),
            status,
            plan: &self.plan,
            snapshot: &self.snapshot,
            corrections: &local.corrections,
            now: self.now,
        };
        let mut failures = EffectFailures::default();
        // Services are updated before traffic is increased. Traffic is reduced without waiting.
        if decision.effects.iter().any(Effect::gives_canary_requests) {
            failures.record("UpdateServices", executor.update_services().await);
        }
        if self.plan.routing().is_none() {
            self.restore_removed_references(&executor, decision, &mut failures)
                .await;
        }
        for effect in &decision.effects {
            let Err(error) = executor.execute(effect).await else {
                continue;
            };
            if let Effect::CreateReplicaSet { revision, .. } = effect {
                // If the name is taken, the next lookup chooses another name.
                local.revisions.forget(revision);
            }
            if !error.is_conflict() && !matches!(error, EffectError::Contested { .. }) {
                self.context
                    .metrics
                    .record_effect_failure(effects::effect_kind(effect));
            }
            failures.record(&effects::effect_label(effect), Err(error));
        }
        if self.plan.routing().is_some() {
            self.restore_removed_references(&executor, decision, &mut failures)
                .await;
        }
        if self.plan.services().is_some() {
            failures.record("UpdateServices", executor.update_services().await);
        }
        if self.spec_view.problem.is_none() {
            failures.record("UpdateReplicaSets", executor.update_replica_sets().await);
            let updated = executor.update_side_metadata().await;
            let updated = updated.map(|is_incomplete| failures.retry_soon |= is_incomplete);
            failures.record("UpdateSideMetadata", updated);
        }
        let EffectFailures {
            failed,
            retry_soon,
            contested,
        } = failures;
        let any_failed = !failed.is_empty();
        local.record_effect_failures(failed);
        if any_failed {
            let retry = retry_after(local.consecutive_effect_failures(), jitter());
            return Some(contested.map_or(retry, |wait| wait.min(retry)));
        }
        if retry_soon {
            return Some(AFTER_CONFLICT);
        }
        contested
    }

    /// Restores routes and Services that were removed from the plan. Services are only restored
    /// outside a release: during a release they must select the stable revision.
    async fn restore_removed_references(
        &self,
        executor: &EffectExecutor<'_>,
        decision: &Decision,
        failures: &mut EffectFailures,
    ) {
        // A removed route must not send traffic to pods that are about to be deleted.
        match effects::restore_orphaned_routes(executor).await {
            Ok(changed) => failures.retry_soon |= changed,
            Err(error) => return failures.record("RestoreRoute", Err(error)),
        }
        if self.plan.splits_by_pods() || decision.state.stage == Stage::Stable {
            failures.record(
                "ReleaseService",
                effects::release_orphaned_services(executor).await,
            );
        }
    }
}
