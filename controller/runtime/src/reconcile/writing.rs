//! Writes to the API server: by the leader only, counted, and waited for with an end.

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use serin_crds::RolloutStatus;
use serin_crds::names::FIELD_MANAGER;
use tokio::time::timeout;

use super::{Context, Failure};
use crate::memory::Memory;
use crate::world::RolloutObject;

/// Longer than this no single answer of the API server is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// To be asked immediately before each write.
pub(super) fn may_write(
    context: &Context,
    kind: &'static str,
    verb: &'static str,
) -> Result<(), Failure> {
    if !context.leadership.is_leader() {
        return Err(Failure::NotLeader);
    }
    context.metrics.api_write(kind, verb);
    Ok(())
}

/// Writes a whole status, on the condition that nobody has written the Rollout since it was read.
pub(super) async fn replace_status(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    memory: &mut Memory,
) -> Result<Arc<RolloutObject>, Failure> {
    let key = rollout.key();
    // A patch, since an update without the object's annotations and labels takes their ownership
    // from whoever applied them, although the API server leaves them in place. The resourceVersion
    // makes a race a conflict.
    let patch: json_patch::Patch = serde_json::from_value(json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": rollout.resource_version()},
        {"op": "add", "path": "/status", "value": status},
    ]))
    .map_err(|problem| Failure::Failed(problem.to_string()))?;
    if tracing::enabled!(tracing::Level::DEBUG) {
        tracing::debug!(change = %change(rollout, status), "writing the status");
    }
    may_write(context, "Rollout", "patch")?;
    let api: Api<RolloutObject> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Json::<()>(patch);
    let answer = in_time(
        "writing the status",
        api.patch_status(&key.name, &params, &patch),
    )
    .await?;
    let written = memory.wrote(answer);
    memory.wrote_status();
    Ok(written)
}

/// What a status changes, as JSON Patch.
fn change(rollout: &RolloutObject, status: &RolloutStatus) -> String {
    let json = |status: &RolloutStatus| serde_json::to_value(status).unwrap_or_default();
    rollout
        .status
        .as_ref()
        .map(|before| json_patch::diff(&json(before), &json(status)).to_string())
        .unwrap_or_default()
}

/// Waits for one answer of the API server. One that comes too late may have been carried out all
/// the same: the next look tells.
pub(super) async fn in_time<T>(
    what: &'static str,
    asking: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match timeout(ANSWER_TIMEOUT, asking).await {
        Ok(answer) => answer.map_err(Failure::api(what)),
        Err(_) => Err(Failure::Failed(format!(
            "{what}: no answer within {} s",
            ANSWER_TIMEOUT.as_secs()
        ))),
    }
}
