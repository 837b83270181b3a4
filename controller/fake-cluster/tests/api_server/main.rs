//! The rules of the API server, tested through a real client.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod objects;
mod watches_and_faults;

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;
use serin_fake_cluster::FakeCluster;

pub const SECOND: Duration = Duration::from_secs(1);

pub fn config_map(name: &str, data: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}}, "data": {"key": data}
    }))
    .unwrap()
}

pub fn rollouts(cluster: &FakeCluster) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("serin.dev", "v1alpha1", "Rollout");
    Api::namespaced_with(
        cluster.client(),
        "shop",
        &ApiResource::from_gvk_with_plural(&kind, "rollouts"),
    )
}

pub fn rollout(name: &str, replicas: u32) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
        "spec": {"replicas": replicas}, "status": {"phase": "Healthy"},
    }))
    .unwrap()
}

pub fn code(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason),
        other => panic!("not an API server error: {other}"),
    }
}

pub fn config_maps(cluster: &FakeCluster) -> Api<ConfigMap> {
    Api::namespaced(cluster.client(), "shop")
}
