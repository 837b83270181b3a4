//! The revision of the spec's template.

use std::time::Duration;

use serin_core::backoff::retry_after;
use serin_core::state::State;
use serin_core::units::Revision;
use tracing::Span;

use super::Reconcile;
use crate::cluster_cache::Key;
use crate::local_state::LocalState;
use crate::observe::Snapshot;
use crate::reconcile::spec_view::SpecView;
use crate::reconcile::{Context, jitter, workload};
use crate::revision::{self, TemplateRevision};

/// Looks up the revision of the template.
pub(super) async fn look_up_target(
    context: &Context,
    rollout: &Key,
    spec_view: &SpecView<'_>,
    snapshot: &Snapshot,
    local: &mut LocalState,
) -> TemplateRevision {
    match spec_view.template() {
        Ok((spec, hash)) => {
            revision::resolve(
                &context.client,
                &context.cache.replica_sets,
                rollout,
                spec,
                hash,
                &snapshot.replica_sets,
                &mut local.revisions,
            )
            .await
        }
        Err(problem) => TemplateRevision::Refused(problem),
    }
}

/// The result of the lookup of the template, as a reconcile uses it.
pub(super) struct ResolvedTarget {
    pub revision: Option<Revision>,
    /// When to look it up again.
    pub recheck_after: Option<Duration>,
    /// Whether the lookup failed.
    pub failed: bool,
}

impl Reconcile<'_> {
    /// Applies the result of the template lookup. A refused template is a problem of the spec; the
    /// active plan stays active.
    pub(super) fn resolve_target(
        &mut self,
        state: &State,
        target: TemplateRevision,
    ) -> ResolvedTarget {
        match target {
            TemplateRevision::Known(revision) => {
                Span::current().record("revision", revision.as_str());
                ResolvedTarget {
                    revision: Some(revision),
                    recheck_after: None,
                    failed: false,
                }
            }
            TemplateRevision::Refused(problem) => {
                if self.spec_view.problem.is_none() {
                    self.spec_view.problem = Some(problem);
                    self.spec_view.hash = None;
                    if let Some(in_force) = &state.plan {
                        self.plan = in_force.spec.clone();
                    }
                }
                ResolvedTarget {
                    revision: None,
                    recheck_after: Some(revision::REFUSAL_RECHECK_AFTER),
                    failed: false,
                }
            }
            TemplateRevision::Pending => ResolvedTarget {
                revision: None,
                recheck_after: Some(workload::recheck_after(state)),
                failed: false,
            },
            TemplateRevision::Unknown(why) => {
                tracing::warn!(%why, "template lookup failed; retrying");
                let wait = retry_after(1, jitter());
                ResolvedTarget {
                    revision: None,
                    recheck_after: Some(wait),
                    failed: true,
                }
            }
        }
    }
}
