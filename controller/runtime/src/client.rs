//! The client of the API server.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the API server may take to begin an answer. A watch begins its answer at once.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a kubeconfig nor a ServiceAccount was found.
    #[error("no way to the API server is configured: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// What was found cannot be used.
    #[error("the API server's client cannot be set up: {0}")]
    Setup(#[from] kube::Error),
}

/// A client as the environment says: a kubeconfig, or else the pod's own ServiceAccount.
///
/// # Errors
/// Where the environment names no API server, or what it names cannot be used.
pub async fn infer() -> Result<Client, ClientError> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Retries are the reconcile's own: the client's would hold one reconcile for minutes.
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&TimeoutLayer::new(RESPONSE_TIMEOUT))
        .build())
}
