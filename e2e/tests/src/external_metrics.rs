//! A server of the external metrics API, whose one value the cases set. Autoscalers read it through
//! the API server.
//!
//! KEDA creates an HPA with an external metric for each of its scalers, and answers it with a server
//! of this API. What a release changes is the arithmetic of the HPA, so the cases need a value that
//! they can set to the unit, and not the way from a scaler to it. KEDA itself would need its operator
//! beside its server, and certificates between the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use jiff::Timestamp;
use kube::Client;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use serin_crds::api_status;
use serin_fake_cluster::certificates::CertificateAuthority;
use tokio::task::JoinHandle;

use crate::env::Env;
use crate::objects::{api, apply};
use crate::shop::eventually;

/// The metric.
pub const METRIC: &str = "queue-length";
const GROUP: &str = "external.metrics.k8s.io";
const VERSION: &str = "v1beta1";
const NAME: &str = "serin-e2e-external-metrics";
const NAMESPACE: &str = "kube-system";
/// Maximum time for the API to be served, and to be removed.
const API_TIMEOUT: Duration = Duration::from_secs(60);

/// The running server.
pub struct ExternalMetrics {
    client: Client,
    value: Arc<AtomicU32>,
    server: JoinHandle<()>,
    objects: Vec<Value>,
}

impl ExternalMetrics {
    /// Starts the server and registers it in the local cluster, with the value 0.
    ///
    /// # Errors
    /// If this is not the local cluster, or if the API is not served in time.
    pub async fn start(env: &Env) -> Result<Self> {
        let cluster = env.cluster.as_ref();
        let cluster = cluster.context("the server runs beside the local cluster only")?;
        let host = cluster.network().host();
        let listener = CertificateAuthority::new()?.listen_on(host, false).await?;
        let port = axum::serve::Listener::local_addr(&listener)?.port();
        let value = Arc::new(AtomicU32::new(0));
        let current = Arc::clone(&value);
        let answer = move |uri: Uri| {
            let value = current.load(Ordering::Relaxed);
            async move { answer(uri.path(), value, Timestamp::now()) }
        };
        let server = tokio::spawn(async move {
            let _ended = axum::serve(listener, Router::new().fallback(answer)).await;
        });
        let metrics = Self {
            client: env.client.clone(),
            value,
            server,
            objects: objects(&host.to_string(), port),
        };
        match metrics.register().await {
            Ok(()) => Ok(metrics),
            Err(error) => {
                metrics.remove().await?;
                Err(error)
            }
        }
    }

    async fn register(&self) -> Result<()> {
        for object in &self.objects {
            apply(&self.client, object).await?;
        }
        self.wait_until_served(true).await
    }

    /// Sets the value of the metric, which is a sum over the whole service.
    pub fn set(&self, value: u32) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// Removes the API and ends the server. While an API is served by nothing, namespaces cannot be
    /// deleted.
    ///
    /// # Errors
    /// If the API server rejects a request, or if the API is not removed in time.
    pub async fn remove(self) -> Result<()> {
        for object in self.objects.iter().rev() {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let params = DeleteParams::background();
            match api(&self.client, object).delete(name, &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.wait_until_served(false).await?;
        self.server.abort();
        Ok(())
    }

    async fn wait_until_served(&self, is_expected: bool) -> Result<()> {
        let what = if is_expected { "is served" } else { "is gone" };
        let what = format!("the external metrics API {what}");
        eventually(&what, API_TIMEOUT, async || {
            let groups = self.client.list_api_groups().await?.groups;
            let is_served = groups.iter().any(|group| group.name == GROUP);
            Ok(is_served == is_expected)
        })
        .await
    }
}

/// The answer to a request of the API server: the list of metrics, or the value of one.
fn answer(path: &str, value: u32, now: Timestamp) -> Response {
    let version = format!("{GROUP}/{VERSION}");
    if path == format!("/apis/{version}") {
        return Json(json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
            "resources": [{
                "name": METRIC, "singularName": "", "namespaced": true,
                "kind": "ExternalMetricValueList", "verbs": ["get"],
            }],
        }))
        .into_response();
    }
    if path.starts_with(&format!("/apis/{version}/namespaces/"))
        && path.ends_with(&format!("/{METRIC}"))
    {
        return Json(json!({
            "kind": "ExternalMetricValueList", "apiVersion": version, "metadata": {},
            "items": [{
                "metricName": METRIC, "metricLabels": {},
                "timestamp": now.to_string(), "value": value.to_string(),
            }],
        }))
        .into_response();
    }
    StatusCode::NOT_FOUND.into_response()
}

/// The objects that register a server at this address, in the order of their creation.
fn objects(host: &str, port: u16) -> Vec<Value> {
    let metadata = json!({"name": NAME, "namespace": NAMESPACE});
    let mut of_service = metadata.clone();
    of_service["labels"] = json!({"kubernetes.io/service-name": NAME});
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": of_service,
            "addressType": "IPv4",
            "endpoints": [{"addresses": [host], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }),
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{VERSION}.{GROUP}")},
            "spec": {
                "group": GROUP, "version": VERSION,
                "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true,
                "service": {"name": NAME, "namespace": NAMESPACE, "port": 443},
            },
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_answers_what_an_autoscaler_asks() {
        let status = |path: &str| answer(path, 40, Timestamp::UNIX_EPOCH).status();
        let version = format!("/apis/{GROUP}/{VERSION}");
        assert_eq!(status(&version), StatusCode::OK);
        let value = format!("{version}/namespaces/shop/{METRIC}");
        assert_eq!(status(&value), StatusCode::OK);
        for other in [
            "/apis",
            "/openapi/v2",
            &format!("{version}/namespaces/shop/other"),
        ] {
            assert_eq!(status(other), StatusCode::NOT_FOUND, "{other}");
        }
    }
}
