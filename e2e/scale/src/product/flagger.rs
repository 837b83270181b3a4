//! Flagger with its Kubernetes provider, which has no weights: one analysis interval, then the
//! promotion.

use anyhow::Result;
use serde_json::json;

use super::{ControllerStart, Observation, WatchedStatus, pod_template};
use crate::api::Api;
use crate::control_plane::NAMESPACE;

pub(super) fn arguments(start: &ControllerStart<'_>, kubeconfig: &str) -> Vec<String> {
    let [port, _] = start.ports;
    vec![
        format!("-kubeconfig={kubeconfig}"),
        "-mesh-provider=kubernetes".into(),
        // Nothing listens there, and nothing is queried.
        "-metrics-server=http://127.0.0.1:9".into(),
        format!("-port={port}"),
        "-log-level=info".into(),
        "-enable-leader-election=true".into(),
        format!("-leader-election-namespace={NAMESPACE}"),
    ]
}

/// The path of the Deployments that Flagger watches.
pub(super) fn deployments() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
}

pub(super) fn observe(status: &WatchedStatus) -> Observation {
    let phase = status.phase.as_deref();
    let is_complete = matches!(phase, Some("Initialized" | "Succeeded"));
    let applied = status.last_applied_spec.clone().unwrap_or_default();
    let is_promoted = phase == Some("Initialized")
        || status.last_promoted_spec.as_deref() == Some(applied.as_str());
    Observation {
        complete: (is_complete && is_promoted && !applied.is_empty()).then(|| applied.clone()),
        observed: applied,
        paused: false,
        aborted: phase == Some("Failed"),
    }
}

/// Creates the Deployment and its Canary.
pub(super) async fn create(api: &Api, canaries: &str, name: &str) -> Result<()> {
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": pod_template(name, false),
        },
    });
    api.create(&deployments(), &deployment).await?;
    let canary = json!({
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "provider": "kubernetes",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": {"port": 80, "targetPort": 8080},
            "analysis": {"interval": "10s", "threshold": 1, "iterations": 1},
        },
    });
    api.create(canaries, &canary).await
}
