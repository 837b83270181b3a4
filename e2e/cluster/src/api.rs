//! Calls to the API server and to the health endpoints of components.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use http::header::CONTENT_TYPE;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::time::timeout;

use crate::host::UnmetCondition;

/// The field manager of the initial objects.
const FIELD_MANAGER: &str = "serin-cluster";

/// Timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the API server with administrator permissions.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
}

impl Api {
    /// Creates a client from a kubeconfig file.
    ///
    /// # Errors
    /// If the file is missing or invalid. The API server is not called yet.
    pub(crate) async fn connect(kubeconfig: &Path) -> Result<Self> {
        install_tls_provider();
        let file = Kubeconfig::read_from(kubeconfig)?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        // The callers poll conditions themselves and report why they do not hold.
        config.default_retry = false;
        Ok(Self {
            client: Client::try_from(config)?,
        })
    }

    /// Reads an object or a list at a path.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let request = Request::get(path).body(Vec::new())?;
        let answer = timeout(CALL_TIMEOUT, self.client.request(request)).await;
        answer
            .with_context(|| format!("no answer to {path}"))?
            .with_context(|| path.to_owned())
    }

    /// Applies an object (server-side apply) at a path.
    pub(crate) async fn apply(&self, path: &str, object: &Value) -> Result<()> {
        let request = Request::patch(format!("{path}?fieldManager={FIELD_MANAGER}&force=true"))
            .header(CONTENT_TYPE, "application/apply-patch+yaml")
            .body(serde_json::to_vec(object)?)?;
        let answer = timeout(CALL_TIMEOUT, self.client.request::<Value>(request)).await;
        answer
            .with_context(|| format!("no answer to {path}"))?
            .with_context(|| format!("cannot apply {path}"))?;
        Ok(())
    }
}

/// A health check of one component.
pub(crate) struct Health {
    base: String,
    path: &'static str,
    client: Client,
}

impl Health {
    pub(crate) fn new(base: String, path: &'static str, authority: &Path) -> Result<Self> {
        install_tls_provider();
        let mut config = Config::new(base.parse()?);
        config.default_retry = false;
        config.root_cert_file = Some(authority.to_owned());
        let client = Client::try_from(config)?;
        Ok(Self { base, path, client })
    }

    /// Succeeds if the endpoint returns a success status.
    pub(crate) async fn check(&self) -> Result<(), UnmetCondition> {
        let request = Request::get(self.path).body(Vec::new());
        let request = request.map_err(|error| UnmetCondition::Never(error.into()))?;
        match timeout(CALL_TIMEOUT, self.client.request_text(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(UnmetCondition::not_yet(format!(
                "{}{}: {error}",
                self.base, self.path
            ))),
            Err(_) => Err(UnmetCondition::not_yet(format!(
                "{}{}: no answer",
                self.base, self.path
            ))),
        }
    }
}

/// The status of a condition of an object. `None` if the object does not have the condition.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == kind)?;
    found["status"].as_str()
}

/// Installs the TLS provider of this process. Does nothing if one is installed.
fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_condition_is_found_by_its_type() {
        let node = json!({"status": {"conditions": [
            {"type": "DiskPressure", "status": "False"},
            {"type": "Ready", "status": "True"},
        ]}});
        assert_eq!(condition(&node, "Ready"), Some("True"));
        assert_eq!(condition(&node, "Absent"), None);
        assert_eq!(condition(&json!({}), "Ready"), None);
    }
}
