//! The way to the API server: the same kubeconfig, context and namespace that kubectl itself would
//! use.

use std::future::Future;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serin_crds::api_status;

use crate::exit::{Exit, Failure};
use crate::options::GlobalOptions;

/// How long one request may take: a person waits for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A client and the namespace to look in.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

/// Reads the kubeconfig and makes a client; nothing is sent yet.
///
/// # Errors
/// The kubeconfig is missing, unreadable or names something that it does not hold.
pub async fn connect(options: &GlobalOptions) -> Result<Connection, Failure> {
    let chosen_context = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    let chosen = options.kubeconfig.is_some() || options.context.is_some();
    let config = match &options.kubeconfig {
        Some(file) => match Kubeconfig::read_from(file) {
            Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &chosen_context)
                .await
                .map_err(unreadable)?,
            Err(error) => return Err(unreadable(error)),
        },
        None if chosen => Config::from_kubeconfig(&chosen_context)
            .await
            .map_err(unreadable)?,
        None => Config::infer().await.map_err(unreadable)?,
    };
    let mut config = config;
    config.connect_timeout = Some(CONNECT_WITHIN);
    // A person waits: an answer of "too many requests" is told, not retried for minutes.
    config.default_retry = false;
    if let Some(user) = &options.impersonate {
        config.auth_info.impersonate = Some(user.clone());
    }
    let namespace = options
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("cannot make a client of the kubeconfig: {}", causes(&error)),
        )
    })?;
    Ok(Connection { client, namespace })
}

fn unreadable(error: impl std::error::Error + 'static) -> Failure {
    Failure::new(Exit::Usage, format!("no usable kubeconfig: {}", causes(&error)))
        .hint("Name one with --kubeconfig or KUBECONFIG; `kubectl config get-contexts` lists the contexts.")
}

/// Sends one request and waits a bounded time for the answer.
///
/// # Errors
/// The API server's refusal, or that it could not be reached in time.
pub async fn ask<T>(
    doing: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match try_ask(request).await {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(error)) => Err(api_failure(doing, &error)),
        None => Err(no_answer(doing)),
    }
}

/// As [`ask`], for a caller that looks at the error itself; `None`: no answer in time.
pub async fn try_ask<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Option<Result<T, kube::Error>> {
    tokio::time::timeout(ANSWER_WITHIN, request).await.ok()
}

/// The failure where the API server has not answered in time.
pub fn no_answer(doing: &str) -> Failure {
    Failure::new(
        Exit::Api,
        format!(
            "cannot {doing}: no answer from the API server for {} s",
            ANSWER_WITHIN.as_secs()
        ),
    )
}

/// What an error of the API means to a person.
pub fn api_failure(doing: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if api_status::is_forbidden(status) => Failure::new(
            Exit::Refused,
            format!("cannot {doing}: {}", api_status::message(status)),
        ),
        kube::Error::Api(status) if api_status::is_unauthorized(status) => Failure::new(
            Exit::Refused,
            format!("cannot {doing}: the API server does not accept your credentials"),
        ),
        kube::Error::Api(status) if api_status::is_missing_kind(status) => Failure::new(
            Exit::Api,
            format!("cannot {doing}: this cluster does not know the kind"),
        )
        .hint("Are Serin's CRDs installed? `kubectl get crd rollouts.serin.dev` tells."),
        kube::Error::Api(status) => Failure::new(
            Exit::Api,
            format!("cannot {doing}: {}", api_status::message(status)),
        ),
        other => Failure::new(Exit::Api, format!("cannot {doing}: {}", causes(other))),
    }
}

/// An error and what caused it, on one line, each said once.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
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
    fn a_missing_kind_is_told_from_a_missing_object() {
        let kind = api(
            404,
            serde_json::json!({"reason": "NotFound", "message": "404 page not found"}),
        );
        assert!(api_failure("list Rollouts", &kind).hints[0].contains("CRDs"));
        // What kube makes of the plain text with which the API server answers for a group that
        // nobody installed.
        let group = serde_json::json!({"reason": "Failed to parse error data", "message": "404 page not found"});
        assert!(api_failure("list Rollouts", &api(404, group)).hints[0].contains("CRDs"));
        let object = api(
            404,
            serde_json::json!({"reason": "NotFound", "message": "no", "details": {"name": "x"}}),
        );
        assert!(api_failure("list Rollouts", &object).hints.is_empty());
    }

    #[test]
    fn what_the_api_server_forbids_is_a_refusal_and_what_breaks_is_not() {
        let forbidden = api(
            403,
            serde_json::json!({"reason": "Forbidden", "message": "no"}),
        );
        assert_eq!(api_failure("read", &forbidden).exit, Exit::Refused);
        // From a proxy in front of the API server.
        let page = serde_json::json!({"reason": "Failed to parse error data", "message": "<html>no</html>"});
        assert_eq!(api_failure("read", &api(403, page)).exit, Exit::Refused);
        let broken = api(
            500,
            serde_json::json!({"reason": "InternalError", "message": "etcd"}),
        );
        assert_eq!(api_failure("read", &broken).exit, Exit::Api);
    }
}
