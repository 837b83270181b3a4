//! Sends the HTTP requests of checks, with bounds.
//!
//! The URL is text of a tenant, but the request comes from the controller's place in the network. So
//! only Services of the Rollout's own namespace can be reached, and what the installer lists in
//! addition. Redirects are not followed, no response is read beyond [`MAX_RESPONSE_BYTES`], and a
//! slow endpoint occupies only places of its own namespace and host.

mod slots;

use std::fmt;
use std::sync::Arc;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serin_core::hold::HoldCode;
use serin_core::text::excerpt;
use serin_crds::http_check::HttpMethod;
use tokio::time::timeout;

use crate::checks::{HttpRequest, ProbeOutcome};
use crate::counter_selectors::AnalysisError;
use crate::prometheus::{AddressTrust, AllowedAddress, HttpClient, host_and_port, root_cause};

pub use slots::ProbeLimits;
use slots::Slots;

/// Maximum size of a response.
pub const MAX_RESPONSE_BYTES: usize = 32 << 10;
/// Ends of the names of Services behind their namespace.
const SERVICE_DOMAINS: [&str; 2] = ["svc", "svc.cluster.local"];
/// Headers of the connection, which a check must not set.
const CONNECTION_HEADERS: [&str; 6] = [
    "connection",
    "content-length",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Sends requests. Cheap to clone: clones share connections and limits.
#[derive(Clone)]
pub struct HttpProber {
    http: HttpClient,
    allowed: Arc<[AllowedAddress]>,
    slots: Arc<Slots>,
}

impl fmt::Debug for HttpProber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProber")
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// Namespace of the Rollout.
    pub namespace: &'a str,
    /// Name of the check.
    pub check: &'a str,
}

impl Sender<'_> {
    /// The path of a field of the check.
    fn field(&self, field: &str) -> String {
        format!("spec.analysis.checks[{}].http.{field}", self.check)
    }
}

impl HttpProber {
    /// Creates a prober. `allowed` are the addresses that Rollouts may use besides the Services of
    /// their namespace.
    pub fn new(http: HttpClient, allowed: Vec<AllowedAddress>, limits: ProbeLimits) -> Self {
        Self {
            http,
            allowed: allowed.into(),
            slots: Arc::new(Slots::new(limits)),
        }
    }

    /// Sends a request with these headers. Ends within twice the timeout of the request: once for a
    /// free place, and once for the response.
    pub async fn send(
        &self,
        request: &HttpRequest,
        headers: &[(String, String)],
        sender: &Sender<'_>,
    ) -> ProbeOutcome {
        let prepared = self
            .client_for(&request.url, sender)
            .and_then(|client| Ok((client, header_map(request, headers, sender)?)));
        let (client, headers) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return ProbeOutcome::Refused(error),
        };
        let host = host_and_port(&request.url);
        let place = self.slots.take(sender.namespace, host);
        let Ok(_place) = timeout(request.timeout, place).await else {
            let message = format!(
                "Check {} is delayed: too many requests of this namespace or to this host are \
                 waiting for a response. Serin retries automatically.",
                sender.check
            );
            let code = HoldCode::CheckUnavailable;
            return ProbeOutcome::Refused(AnalysisError { code, message });
        };
        let sending = send(&client, request, headers, sender);
        timeout(request.timeout, sending).await.unwrap_or_else(|_| {
            let seconds = request.timeout.as_secs_f64();
            ProbeOutcome::Unreachable(format!("the response took longer than {seconds} s"))
        })
    }

    /// The connections for a URL, if it is allowed.
    fn client_for(&self, url: &str, sender: &Sender<'_>) -> Result<reqwest::Client, AnalysisError> {
        let address = url.split('?').next().unwrap_or_default();
        let mut allowed = self.allowed.iter();
        if allowed.any(|allowed| allowed.permits(address)) {
            return Ok(self.http.with_system_trust(AddressTrust::Trusted));
        }
        let problem = match self.http.refusal(url) {
            Some(reason) => format!("it is {reason}"),
            None if is_service_of(url, sender.namespace) => {
                return Ok(self.http.with_system_trust(AddressTrust::Restricted));
            }
            None => format!("it is not a Service of the namespace {}", sender.namespace),
        };
        let message = format!(
            "{} {:?} is not allowed: {problem}. Use a name that ends with .{}.svc, or ask the \
             operator of the controller to add the address to --check-allowed-address.",
            sender.field("url"),
            excerpt(url),
            sender.namespace
        );
        let code = HoldCode::InvalidSpec;
        Err(AnalysisError { code, message })
    }
}

/// Whether the host of a URL is the name of a Service in this namespace.
fn is_service_of(url: &str, namespace: &str) -> bool {
    let (host, _) = host_and_port(url);
    SERVICE_DOMAINS.iter().any(|domain| {
        let end = format!(".{namespace}.{domain}");
        host.strip_suffix(&end).is_some_and(|name| !name.is_empty())
    })
}

fn header_map(
    request: &HttpRequest,
    headers: &[(String, String)],
    sender: &Sender<'_>,
) -> Result<HeaderMap, AnalysisError> {
    let mut map = HeaderMap::new();
    if !request.body.is_empty() {
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in headers {
        let parsed = HeaderName::try_from(name.as_str()).ok();
        let parsed = parsed.filter(|name| !CONNECTION_HEADERS.contains(&name.as_str()));
        let (Some(parsed), Ok(mut value)) = (parsed, HeaderValue::from_str(value)) else {
            let message = format!(
                "{}[{name}] cannot be sent: it is not a valid header; correct its name and value.",
                sender.field("headers")
            );
            let code = HoldCode::InvalidSpec;
            return Err(AnalysisError { code, message });
        };
        value.set_sensitive(true);
        map.insert(parsed, value);
    }
    Ok(map)
}

async fn send(
    client: &reqwest::Client,
    request: &HttpRequest,
    headers: HeaderMap,
    sender: &Sender<'_>,
) -> ProbeOutcome {
    let builder = match request.method {
        HttpMethod::Get => client.get(&request.url),
        HttpMethod::Post => client.post(&request.url).body(request.body.clone()),
    };
    let response = match builder.headers(headers).send().await {
        Ok(response) => response,
        Err(error) => return unreachable(&error),
    };
    let status = response.status().as_u16();
    match read_body(response).await {
        Ok(Some(body)) => ProbeOutcome::Response { status, body },
        Ok(None) => {
            let message = format!(
                "Check {} cannot be evaluated: {} responds with more than {} KiB. Use an endpoint \
                 with a short response.",
                sender.check,
                sender.field("url"),
                MAX_RESPONSE_BYTES >> 10
            );
            let code = HoldCode::CheckUnreadable;
            ProbeOutcome::Refused(AnalysisError { code, message })
        }
        Err(error) => unreachable(&error),
    }
}

/// The body as text; `None` if it is too large. The limit applies to the decompressed size.
async fn read_body(mut response: reqwest::Response) -> Result<Option<String>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(String::from_utf8_lossy(&body).into_owned()))
}

fn unreachable(error: &reqwest::Error) -> ProbeOutcome {
    ProbeOutcome::Unreachable(root_cause(error))
}

#[cfg(test)]
mod tests;
