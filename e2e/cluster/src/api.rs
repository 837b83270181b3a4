//! Calls to the API server and to the components' health endpoints.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use http::header::CONTENT_TYPE;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::time::timeout;

use crate::host::Unmet;

/// Who the fields belong to that the cluster's own objects set.
const FIELD_MANAGER: &str = "serin-cluster";

/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);

/// The API server, as the administrator.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
}

impl Api {
    /// A client by a kubeconfig file.
    ///
    /// # Errors
    /// When the file is missing or wrong; nothing is called yet.
    pub(crate) async fn connect(kubeconfig: &Path) -> Result<Self> {
        install_tls_provider();
        let file = Kubeconfig::read_from(kubeconfig)?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        // We wait for conditions ourselves, and want to know why they do not hold.
        config.default_retry = false;
        Ok(Self {
            client: Client::try_from(config)?,
        })
    }

    /// Reads an object or a list by its path.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let request = Request::get(path).body(Vec::new())?;
        let answer = timeout(CALL, self.client.request(request)).await;
        answer
            .with_context(|| format!("no answer to {path}"))?
            .with_context(|| path.to_owned())
    }

    /// Server-side apply of a whole object at its path.
    pub(crate) async fn apply(&self, path: &str, object: &Value) -> Result<()> {
        let request = Request::patch(format!("{path}?fieldManager={FIELD_MANAGER}&force=true"))
            .header(CONTENT_TYPE, "application/apply-patch+yaml")
            .body(serde_json::to_vec(object)?)?;
        let answer = timeout(CALL, self.client.request::<Value>(request)).await;
        answer
            .with_context(|| format!("no answer to {path}"))?
            .with_context(|| format!("cannot apply {path}"))?;
        Ok(())
    }
}

/// Asks a health endpoint; `authority` signs the certificates of those that have one.
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

    /// Whether it answers that all is well.
    pub(crate) async fn ask(&self) -> Result<(), Unmet> {
        let request = Request::get(self.path).body(Vec::new());
        let request = request.map_err(|error| Unmet::Never(error.into()))?;
        match timeout(CALL, self.client.request_text(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Unmet::yet(format!("{}{}: {error}", self.base, self.path))),
            Err(_) => Err(Unmet::yet(format!("{}{}: no answer", self.base, self.path))),
        }
    }
}

/// The value of a condition of an object's status, if it has that condition.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == kind)?;
    found["status"].as_str()
}

/// One TLS provider for the process; another that stands already is as good.
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
