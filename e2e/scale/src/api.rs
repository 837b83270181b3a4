//! Calls to the API server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Request;
use http::header::CONTENT_TYPE;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Interval between checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A client with administrator permissions.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
}

/// The format of a patch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PatchFormat {
    /// RFC 6902.
    JsonPatch,
    /// RFC 7386.
    MergePatch,
}

impl Api {
    pub(crate) async fn connect(kubeconfig: &Path) -> Result<Self> {
        // Does nothing if the process has a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let file = Kubeconfig::read_from(kubeconfig)?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        Ok(Self {
            client: Client::try_from(config)?,
        })
    }

    /// The client, for watches.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let request = Request::get(path).body(Vec::new())?;
        let answer = self.client.request(request).await;
        answer.with_context(|| format!("GET {path}"))
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let Ok(request) = Request::get("/readyz").body(Vec::new()) else {
            return false;
        };
        self.client.request_text(request).await.is_ok()
    }

    pub(crate) async fn create(&self, collection: &str, object: &Value) -> Result<()> {
        let request = Request::post(collection)
            .header(CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(object)?)?;
        self.client
            .request::<IgnoredAny>(request)
            .await
            .with_context(|| format!("POST {collection}"))?;
        Ok(())
    }

    pub(crate) async fn patch(
        &self,
        path: &str,
        format: PatchFormat,
        change: &Value,
    ) -> Result<()> {
        let content_type = match format {
            PatchFormat::JsonPatch => "application/json-patch+json",
            PatchFormat::MergePatch => "application/merge-patch+json",
        };
        let request = Request::patch(path)
            .header(CONTENT_TYPE, content_type)
            .body(serde_json::to_vec(change)?)?;
        self.client
            .request::<IgnoredAny>(request)
            .await
            .with_context(|| format!("PATCH {path}"))?;
        Ok(())
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let request = Request::delete(path).body(Vec::new())?;
        self.client
            .request::<IgnoredAny>(request)
            .await
            .with_context(|| format!("DELETE {path}"))?;
        Ok(())
    }
}

/// Polls until `probe` returns true.
///
/// # Errors
/// If it does not within `limit`, or if it fails.
pub(crate) async fn wait_until(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !probe().await? {
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
