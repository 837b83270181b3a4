//! Connection to the API server with the kubeconfig, context and namespace that kubectl would use.

use std::future::Future;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serin_crds::api_status;

use crate::display_text::{printable, printable_object};
use crate::exit::{CliError, Exit};
use crate::options::GlobalOptions;

/// Timeout of one request; a person waits for it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout for the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client and the current namespace.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

/// Reads the kubeconfig and creates a client. Sends no request.
///
/// # Errors
/// Fails if the kubeconfig is missing, invalid, or lacks the requested context.
pub async fn connect(options: &GlobalOptions) -> Result<Connection, CliError> {
    let chosen_context = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    let chosen = options.kubeconfig.is_some() || options.context.is_some();
    let config = match &options.kubeconfig {
        Some(file) => match Kubeconfig::read_from(file) {
            Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &chosen_context)
                .await
                .map_err(kubeconfig_error)?,
            Err(error) => return Err(kubeconfig_error(error)),
        },
        None if chosen => Config::from_kubeconfig(&chosen_context)
            .await
            .map_err(kubeconfig_error)?,
        None => Config::infer().await.map_err(kubeconfig_error)?,
    };
    let mut config = config;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A person waits: "too many requests" is reported instead of retried for minutes.
    config.default_retry = false;
    if let Some(user) = &options.impersonate {
        config.auth_info.impersonate = Some(user.clone());
    }
    let namespace = options
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| {
        CliError::new(
            Exit::Usage,
            format!(
                "cannot create a client from the kubeconfig: {}",
                error_chain(&error)
            ),
        )
    })?;
    Ok(Connection { client, namespace })
}

fn kubeconfig_error(error: impl std::error::Error + 'static) -> CliError {
    CliError::new(
        Exit::Usage,
        format!("no usable kubeconfig: {}", error_chain(&error)),
    )
    .hint("Set --kubeconfig or KUBECONFIG. `kubectl config get-contexts` lists the contexts.")
}

/// Sends one request with a timeout. `doing` completes "cannot ..." in the error.
///
/// # Errors
/// Returns the error of the API server, or a timeout.
pub async fn send<T: Serialize + DeserializeOwned>(
    doing: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CliError> {
    match try_send(request).await {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(error)) => Err(api_error(doing, &error)),
        None => Err(timeout_error(doing)),
    }
}

/// Same as [`send`], but the answer is not made printable: it is written back to the API server.
///
/// # Errors
/// Returns the error of the API server, or a timeout.
pub async fn send_exact<T>(
    doing: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(api_error(doing, &error)),
        Err(_) => Err(timeout_error(doing)),
    }
}

/// Same as [`send`] for callers that handle the error. `None` means a timeout.
pub async fn try_send<T: Serialize + DeserializeOwned>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Option<Result<T, kube::Error>> {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, request).await.ok()?;
    Some(match answer {
        Ok(object) => printable_object(&object).map_err(kube::Error::SerdeError),
        Err(kube::Error::Api(status)) => {
            Err(printable_object(&status).map_or_else(kube::Error::SerdeError, kube::Error::Api))
        }
        Err(error) => Err(error),
    })
}

/// The error for a timeout.
pub fn timeout_error(doing: &str) -> CliError {
    CliError::new(
        Exit::Api,
        format!(
            "cannot {doing}: no answer from the API server within {} s",
            REQUEST_TIMEOUT.as_secs()
        ),
    )
}

/// Converts an API error to an error for the user.
pub fn api_error(doing: &str, error: &kube::Error) -> CliError {
    match error {
        kube::Error::Api(status) if api_status::is_forbidden(status) => CliError::new(
            Exit::Refused,
            format!("cannot {doing}: {}", api_status::message(status)),
        ),
        kube::Error::Api(status) if api_status::is_unauthorized(status) => CliError::new(
            Exit::Refused,
            format!("cannot {doing}: the API server does not accept your credentials"),
        ),
        kube::Error::Api(status) if api_status::is_missing_kind(status) => CliError::new(
            Exit::Api,
            format!("cannot {doing}: this cluster does not serve the kind"),
        )
        .hint("Check that Serin's CRDs are installed: kubectl get crd rollouts.serin.dev"),
        kube::Error::Api(status) => CliError::new(
            Exit::Api,
            format!("cannot {doing}: {}", api_status::message(status)),
        ),
        other => CliError::new(Exit::Api, format!("cannot {doing}: {}", error_chain(other))),
    }
}

/// The error and its sources on one line, without repetition.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = cause.source();
    }
    printable(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, body: serde_json::Value) -> kube::Error {
        let mut status: kube::core::Status = serde_json::from_value(body).unwrap();
        status.code = code;
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn a_missing_kind_is_distinguished_from_a_missing_object() {
        let kind = api(
            404,
            serde_json::json!({"reason": "NotFound", "message": "404 page not found"}),
        );
        assert!(api_error("list Rollouts", &kind).hints[0].contains("CRDs"));
        // How kube represents the plain-text answer of the API server for an API group that is not
        // installed.
        let group = serde_json::json!({"reason": "Failed to parse error data", "message": "404 page not found"});
        assert!(api_error("list Rollouts", &api(404, group)).hints[0].contains("CRDs"));
        let object = api(
            404,
            serde_json::json!({"reason": "NotFound", "message": "no", "details": {"name": "x"}}),
        );
        assert!(api_error("list Rollouts", &object).hints.is_empty());
    }

    #[test]
    fn forbidden_requests_are_refusals_and_server_errors_are_not() {
        let forbidden = api(
            403,
            serde_json::json!({"reason": "Forbidden", "message": "no"}),
        );
        assert_eq!(api_error("read", &forbidden).exit, Exit::Refused);
        // From a proxy in front of the API server.
        let page = serde_json::json!({"reason": "Failed to parse error data", "message": "<html>no</html>"});
        assert_eq!(api_error("read", &api(403, page)).exit, Exit::Refused);
        let broken = api(
            500,
            serde_json::json!({"reason": "InternalError", "message": "etcd"}),
        );
        assert_eq!(api_error("read", &broken).exit, Exit::Api);
    }
}
