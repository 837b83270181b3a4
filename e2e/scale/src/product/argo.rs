//! Argo Rollouts.

use anyhow::Result;
use serde_json::{Value, json};

use super::{ControllerStart, Observation, WatchedStatus};
use crate::api::{Api, PatchFormat};

pub(super) fn arguments(start: &ControllerStart<'_>, kubeconfig: &str) -> Vec<String> {
    let [metrics, health] = start.ports;
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--metricsPort={metrics}"),
        format!("--healthzPort={health}"),
    ]
}

pub(super) fn observe(status: &WatchedStatus) -> Observation {
    let is_healthy = status.phase.as_deref() == Some("Healthy");
    let is_stable = status.current_pod_hash == status.stable_rs;
    Observation {
        observed: generation(status),
        complete: (is_healthy && is_stable)
            .then(|| status.stable_rs.clone())
            .flatten(),
        paused: status.phase.as_deref() == Some("Paused"),
        // `status.abort` is the request; the controller reports it in the phase.
        aborted: status.phase.as_deref() == Some("Degraded"),
    }
}

/// The observed generation as text. Empty if there is none.
pub(super) fn generation(status: &WatchedStatus) -> String {
    match &status.observed_generation {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(number) => number.to_string(),
    }
}

/// As `kubectl argo rollouts abort` does.
pub(super) async fn abort(api: &Api, path: &str) -> Result<()> {
    let change = json!({"status": {"abort": true}});
    api.patch(&format!("{path}/status"), PatchFormat::MergePatch, &change)
        .await
}
