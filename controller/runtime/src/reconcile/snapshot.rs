//! Collects the objects of one Rollout.

use serin_core::plan::Plan;

use super::api_writer::with_timeout;
use super::{Context, ReconcileError, adoption, workload};
use crate::cluster_cache::RolloutObject;
use crate::local_state::LocalState;
use crate::observe::Snapshot;

/// Reads what no watch delivers, adopts orphans, and collects the objects of the Rollout with what
/// holds them.
pub(super) async fn take_snapshot(
    context: &Context,
    rollout: &RolloutObject,
    plan: &Plan,
    local: &mut LocalState,
) -> Result<Snapshot, ReconcileError> {
    let (cache, key) = (&context.cache, rollout.key());
    cache.record_plan(rollout, plan);
    let (client, routing) = (&context.client, plan.services());
    let read = local.unbound_services.read(client, cache, &key, routing);
    let ownership = context.ownership.as_ref();
    with_timeout(ownership, &key, "reading a Service", read).await?;
    adoption::adopt(context, rollout).await?;
    let mut snapshot = Snapshot::from_cache(cache, &key, rollout.uid(), Some(plan));
    snapshot.slices.extend(local.unbound_services.slices());
    snapshot.workload = workload::read(context, rollout, plan, &snapshot, local).await?;
    snapshot.record_holds(cache, rollout, routing, &local.corrections);
    Ok(snapshot)
}
