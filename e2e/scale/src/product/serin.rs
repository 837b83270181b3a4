//! Serin.

use anyhow::Result;
use serde_json::json;

use super::{ControllerStart, Observation, WatchedStatus};
use crate::api::Api;
use crate::control_plane::NAMESPACE;

pub(super) fn arguments(start: &ControllerStart<'_>) -> Vec<String> {
    let [metrics, health] = start.ports;
    vec![
        format!("--metrics-address=127.0.0.1:{metrics}"),
        format!("--health-address=127.0.0.1:{health}"),
        format!("--lease-namespace={NAMESPACE}"),
        format!("--pod-name={}", start.account),
    ]
}

pub(super) fn observe(status: &WatchedStatus) -> Observation {
    let is_healthy = status.phase.as_deref() == Some("Healthy");
    let is_stable = status.current_revision == status.stable_revision;
    Observation {
        observed: super::argo::generation(status),
        complete: (is_healthy && is_stable)
            .then(|| status.stable_revision.clone())
            .flatten(),
        paused: status.phase.as_deref() == Some("Paused"),
        aborted: status.stage.as_deref() == Some("Aborted"),
    }
}

pub(super) async fn abort(api: &Api, name: &str) -> Result<()> {
    let command = json!({
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "RolloutCommand",
        "metadata": {"generateName": format!("{name}-"), "namespace": NAMESPACE},
        "spec": {"rolloutRef": {"name": name}, "verb": "abort"},
    });
    let path = format!("/apis/serin.dev/v1alpha1/namespaces/{NAMESPACE}/rolloutcommands");
    api.create(&path, &command).await
}
