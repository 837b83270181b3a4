//! Sends one request, reads the whole response, and determines the outcome.

use std::{error::Error, fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use crate::{
    options::{LoadPlan, LoadTarget},
    outcome::{RequestOutcome, RoutingFailure},
};

const X_VERSION: HeaderName = HeaderName::from_static("x-version");

/// A longer version is ignored.
const MAX_VERSION_BYTES: usize = 128;

/// Idle connections are closed before any common gateway closes them (Traefik 180 s, Envoy 1 h,
/// nginx 75 s). A request on a closing connection would count as a routing failure.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum number of idle connections. A stall may open as many as there are requests in flight.
const POOL_MAX_IDLE: usize = 512;

type HyperClient = legacy::Client<HttpConnector, Empty<Bytes>>;

/// The result of one request as the client observed it.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) outcome: RequestOutcome,
    /// `x-version`, if a response had it.
    pub(crate) version: Option<String>,
    /// Details of a routing failure.
    pub(crate) detail: Option<String>,
}

/// Sends requests to one target.
#[derive(Debug)]
pub(crate) struct Client {
    kept_alive: HyperClient,
    fresh: HyperClient,
    target: LoadTarget,
    timeout: Duration,
}

impl Client {
    pub(crate) fn new(plan: &LoadPlan) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // A connection may be started for one request and used by another, after the timeout of the
        // first.
        connector.set_connect_timeout(Some(plan.timeout));
        let build = |max_idle| {
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE_TIMEOUT)
                .pool_max_idle_per_host(max_idle)
                // A retry would hide the failures that this load counts.
                .retry_canceled_requests(false)
                .build(connector.clone())
        };
        Self {
            kept_alive: build(POOL_MAX_IDLE),
            fresh: build(0),
            target: plan.target.clone(),
            timeout: plan.timeout,
        }
    }

    /// Sends one request. Uses a new connection if `fresh`.
    pub(crate) async fn send(&self, fresh: bool) -> Exchange {
        let mut version = None;
        let outcome = timeout(self.timeout, self.exchange(fresh, &mut version)).await;
        let (outcome, detail) = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => (
                RequestOutcome::Routing(RoutingFailure::from_error(error.as_ref())),
                Some(error_chain(error.as_ref())),
            ),
            Err(_) => {
                let detail = format!(
                    "no complete response within {} s",
                    self.timeout.as_secs_f64()
                );
                (
                    RequestOutcome::Routing(RoutingFailure::Timeout),
                    Some(detail),
                )
            }
        };
        Exchange {
            outcome,
            version,
            detail,
        }
    }

    /// Sends the request and reads the response. Sets `version` as soon as it is known, because the
    /// body may fail afterwards.
    async fn exchange(
        &self,
        fresh: bool,
        version: &mut Option<String>,
    ) -> Result<(RequestOutcome, Option<String>), Box<dyn Error + Send + Sync>> {
        let mut request = Request::builder()
            .uri(self.target.uri.clone())
            .header(header::HOST, self.target.host.clone())
            .header(
                header::USER_AGENT,
                concat!("serin-load/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())?;
        request.headers_mut().extend(self.target.headers.clone());
        if fresh {
            // The server closes first and keeps the TIME_WAIT state, so that the client does not
            // run out of ports.
            request
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let client = if fresh { &self.fresh } else { &self.kept_alive };
        let response = client.request(request).await?;
        let (parts, mut body) = response.into_parts();
        *version = parse_version(&parts.headers);
        while let Some(frame) = body.frame().await {
            frame?;
        }
        let outcome = RequestOutcome::from_response(parts.status, version.is_some());
        let detail = match outcome {
            RequestOutcome::Routing(_) => {
                Some(format!("answered {} without x-version", parts.status))
            }
            RequestOutcome::Ok | RequestOutcome::ServiceError => None,
        };
        Ok((outcome, detail))
    }
}

fn parse_version(headers: &HeaderMap) -> Option<String> {
    let version = headers.get(X_VERSION)?.to_str().ok()?;
    (1..=MAX_VERSION_BYTES)
        .contains(&version.len())
        .then(|| version.to_owned())
}

/// An error with all its causes.
fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a `String` does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_must_be_readable_and_short() {
        let version = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            parse_version(&HeaderMap::from_iter([(X_VERSION, value)]))
        };
        assert_eq!(version(b"v2").as_deref(), Some("v2"));
        assert_eq!(version(b""), None);
        assert_eq!(version(b"\xff"), None);
        assert_eq!(version(&[b'a'; MAX_VERSION_BYTES + 1]), None);
        assert_eq!(parse_version(&HeaderMap::new()), None);
    }
}
