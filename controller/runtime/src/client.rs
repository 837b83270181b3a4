//! The Kubernetes API client.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use tower::timeout::TimeoutLayer;

use crate::request_rate::RequestRateLayer;
use crate::slot_limit::SharedSlotLimit;
use crate::write_latency::WriteLatencyLayer;

/// Maximum time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time until the API server starts its response. Watches start their response immediately.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Errors that prevent the creation of a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a kubeconfig nor a ServiceAccount was found.
    #[error("no Kubernetes API server is configured: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The discovered configuration is invalid.
    #[error("cannot create the Kubernetes client: {0}")]
    Setup(#[from] kube::Error),
}

/// Creates a client from the environment: from a kubeconfig, or from the ServiceAccount of the pod.
/// It sends at most this number of requests per second, except for Leases. 0 is no limit. The
/// latency of its writes is reported to `slots`.
///
/// # Errors
/// The environment contains no configuration, or the configuration is invalid.
pub async fn infer(
    requests_per_second: u32,
    slots: Arc<SharedSlotLimit>,
) -> Result<Client, ClientError> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // The reconcile loop retries. Retries inside the client would block one reconcile for minutes.
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&WriteLatencyLayer::new(slots))
        .with_layer(&TimeoutLayer::new(RESPONSE_TIMEOUT))
        .with_layer(&RequestRateLayer::new(requests_per_second))
        .build())
}

/// The username of this process according to the API server, for messages that suggest RBAC rules.
pub async fn own_username(client: &Client) -> String {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .ok();
    let user = review.and_then(|review| review.status?.user_info?.username);
    user.unwrap_or_else(|| "THE-USER-OF-THE-CONTROLLER".to_owned())
}
