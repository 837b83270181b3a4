//! Writes to the API server. Only the owner of a Rollout writes, and every write is counted and has
//! a timeout.

use std::sync::Arc;
use std::time::Duration;

use json_patch::jsonptr::PointerBuf;
use json_patch::{PatchOperation, ReplaceOperation};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use serin_crds::RolloutStatus;
use serin_crds::names::FIELD_MANAGER;
use serin_crds::status::serialized_bytes;

use super::{Context, ReconcileError};
use crate::cluster_cache::{Key, RolloutObject};
use crate::local_state::LocalState;
use crate::ownership::Ownership;
use crate::status::patch;
use crate::timed_write::{WriteAbandoned, timed_write};

/// Maximum time to wait for a response of the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks the ownership of the Rollout and counts the write. Call this immediately before each
/// write.
pub(super) fn authorize_write(
    context: &Context,
    rollout: &RolloutObject,
    kind: &'static str,
    verb: &'static str,
) -> Result<(), ReconcileError> {
    if !context.ownership.owns(&rollout.key()) {
        return Err(ReconcileError::NotLeader);
    }
    context.metrics.record_api_write(kind, verb);
    Ok(())
}

/// Replaces the status, if the Rollout has not been written since it was read.
///
/// If the API server refuses the status as too large, a minimal one is written instead, so that an
/// abort takes effect. A release under way is not: without its evidence and its spent budget, it
/// would start to be analyzed again.
pub(super) async fn replace_status(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    local: &mut LocalState,
) -> Result<Arc<RolloutObject>, ReconcileError> {
    let written = match send_status(context, rollout, status, local).await {
        Err(ReconcileError::TooLarge(problem)) if !status.state.is_releasing() => {
            tracing::error!(%problem, bytes = serialized_bytes(status), "status is too large; \
                writing the position of the release without evidence and checks");
            send_status(context, rollout, &status.minimal(), local).await?
        }
        written => written?,
    };
    local.is_status_known = true;
    let written = local.record_written(written);
    local.record_status_written();
    Ok(written)
}

/// Sends a status. The first status that this process writes replaces the stored one as a whole,
/// because that may contain fields of another version. After that, only changes are sent.
async fn send_status(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    local: &mut LocalState,
) -> Result<RolloutObject, ReconcileError> {
    let key = rollout.key();
    // If the write fails, whatever the reason, the next one replaces everything.
    let is_known = std::mem::take(&mut local.is_status_known) && rollout.unreadable.is_empty();
    let changes = if is_known {
        patch::changes(&rollout.status, status)
    } else {
        patch::replacement(status).map(|replacement| vec![replacement])
    };
    let changes = changes.map_err(|problem| ReconcileError::Failed(problem.to_string()))?;
    // This is a patch because an update without the annotations and labels would take over their
    // field ownership, although the API server leaves them in place. The resourceVersion turns a
    // race into a conflict.
    let mut operations = vec![PatchOperation::Replace(ReplaceOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: rollout.resource_version().into(),
    })];
    operations.extend(changes);
    if tracing::enabled!(tracing::Level::DEBUG) {
        tracing::debug!(change = %status_diff(rollout, status), "writing the status");
    }
    authorize_write(context, rollout, "Rollout", "patch")?;
    let api: Api<RolloutObject> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Json::<()>(json_patch::Patch(operations));
    let request = api.patch_status(&key.name, &params, &patch);
    let ownership = context.ownership.as_ref();
    with_timeout(ownership, &key, "writing the status", request).await
}

/// Writes single fields of the status and leaves all others as they are, also those that this
/// version does not know.
pub(super) async fn patch_status_fields(
    context: &Context,
    rollout: &RolloutObject,
    fields: &Value,
    local: &mut LocalState,
) -> Result<Arc<RolloutObject>, ReconcileError> {
    let key = rollout.key();
    let patch = json!({
        "metadata": {"resourceVersion": rollout.resource_version()},
        "status": fields,
    });
    authorize_write(context, rollout, "Rollout", "patch")?;
    let api: Api<RolloutObject> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(&patch);
    let request = api.patch_status(&key.name, &params, &patch);
    let ownership = context.ownership.as_ref();
    let answer = with_timeout(ownership, &key, "writing the status", request).await?;
    let written = local.record_written(answer);
    local.record_status_written();
    Ok(written)
}

/// The change of the status as a JSON Patch.
fn status_diff(rollout: &RolloutObject, status: &RolloutStatus) -> String {
    let json = |status: &RolloutStatus| serde_json::to_value(status).unwrap_or_default();
    json_patch::diff(&json(&rollout.status), &json(status)).to_string()
}

/// Waits for a response of the API server to a request for a Rollout, and gives it up before another
/// controller may act. A request that was given up may still have succeeded; the next reconcile
/// observes the result.
pub(super) async fn with_timeout<T>(
    ownership: &dyn Ownership,
    rollout: &Key,
    what: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ReconcileError> {
    match timed_write(ownership, rollout, REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(ReconcileError::api(what)),
        Err(WriteAbandoned::OwnershipEnds) => Err(ReconcileError::NotLeader),
        Err(WriteAbandoned::Timeout) => Err(ReconcileError::Failed(format!(
            "{what}: no response within {} s",
            REQUEST_TIMEOUT.as_secs()
        ))),
    }
}
