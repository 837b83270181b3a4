//! One request: sent, read to its end, judged.

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
    options::{Plan, Target},
    outcome::{Outcome, RoutingFailure},
};

const X_VERSION: HeaderName = HeaderName::from_static("x-version");

/// A version longer than this is no version.
const LONGEST_VERSION_BYTES: usize = 128;

/// Kept-alive connections are given up before any common gateway gives them up (Traefik 180 s,
/// Envoy 1 h, nginx 75 s): a request that met a closing connection would be counted as the
/// routing's loss.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Kept-alive connections at most; a stall may open as many as there are requests in flight.
const POOL_MAX_IDLE: usize = 512;

type HyperClient = legacy::Client<HttpConnector, Empty<Bytes>>;

/// What was seen of one request.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    /// `x-version`, where an answer carried it.
    pub(crate) version: Option<String>,
    /// The story of a routing failure.
    pub(crate) detail: Option<String>,
}

/// Sends requests to one target.
#[derive(Debug)]
pub(crate) struct Client {
    kept_alive: HyperClient,
    fresh: HyperClient,
    target: Target,
    timeout: Duration,
}

impl Client {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // A connection may be begun for one request and finished for another, beyond the first
        // one's time.
        connector.set_connect_timeout(Some(plan.timeout));
        let build = |max_idle| {
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE_TIMEOUT)
                .pool_max_idle_per_host(max_idle)
                // What a retry would mend is what this load is here to count.
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

    /// Sends one request, on a connection of its own if it shall be `fresh`.
    pub(crate) async fn send(&self, fresh: bool) -> Seen {
        let mut version = None;
        let outcome = timeout(self.timeout, self.exchange(fresh, &mut version)).await;
        let (outcome, detail) = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => (
                Outcome::Routing(RoutingFailure::of_error(error.as_ref())),
                Some(story(error.as_ref())),
            ),
            Err(_) => {
                let story = format!("no whole answer within {} s", self.timeout.as_secs_f64());
                (Outcome::Routing(RoutingFailure::Timeout), Some(story))
            }
        };
        Seen {
            outcome,
            version,
            detail,
        }
    }

    /// The exchange itself. The version is handed out as soon as it is known, for the body may fail
    /// after it.
    async fn exchange(
        &self,
        fresh: bool,
        version: &mut Option<String>,
    ) -> Result<(Outcome, Option<String>), Box<dyn Error + Send + Sync>> {
        let mut request = Request::builder()
            .uri(self.target.uri.clone())
            .header(header::HOST, self.target.host.clone())
            .header(
                header::USER_AGENT,
                concat!("serin-load/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())?;
        if fresh {
            // The server closes first and so keeps the TIME_WAIT: the client's ports do not run
            // out.
            request
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let client = if fresh { &self.fresh } else { &self.kept_alive };
        let response = client.request(request).await?;
        let (parts, mut body) = response.into_parts();
        *version = version_of(&parts.headers);
        while let Some(frame) = body.frame().await {
            frame?;
        }
        let outcome = Outcome::of_answer(parts.status, version.is_some());
        let detail = match outcome {
            Outcome::Routing(_) => Some(format!("answered {} without x-version", parts.status)),
            Outcome::Ok | Outcome::ServiceError => None,
        };
        Ok((outcome, detail))
    }
}

fn version_of(headers: &HeaderMap) -> Option<String> {
    let version = headers.get(X_VERSION)?.to_str().ok()?;
    (1..=LONGEST_VERSION_BYTES)
        .contains(&version.len())
        .then(|| version.to_owned())
}

/// An error with all its causes.
fn story(error: &(dyn Error + 'static)) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let _ = write!(story, ": {error}");
        cause = error.source();
    }
    story
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_must_be_readable_and_short() {
        let version = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            version_of(&HeaderMap::from_iter([(X_VERSION, value)]))
        };
        assert_eq!(version(b"v2").as_deref(), Some("v2"));
        assert_eq!(version(b""), None);
        assert_eq!(version(b"\xff"), None);
        assert_eq!(version(&[b'a'; LONGEST_VERSION_BYTES + 1]), None);
        assert_eq!(version_of(&HeaderMap::new()), None);
    }
}
