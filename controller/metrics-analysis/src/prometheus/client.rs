//! HTTP client for one Prometheus server. Requests use `prometheus-http-query`; responses are
//! decoded with size limits.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::answer::Answer;
use super::envelope;
use super::error::{QueryError, root_cause, tls_query_error, truncated};
use super::tls::Tls;

/// Address of a Prometheus server and its credentials. Equal servers share connections, limits and
/// answers.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// Base URL, for example `http://prometheus.monitoring:9090`. A path before `/api/v1` is kept.
    pub url: String,
    /// Headers of each request, for example `Authorization` or a tenant header.
    pub headers: Vec<(String, String)>,
    /// TLS options for HTTPS addresses.
    pub tls: Tls,
    /// The error that every query returns while the credentials are unavailable. `None` if the
    /// server can be queried.
    pub unavailable: Option<QueryError>,
}

impl Server {
    /// A server without additional headers, whose certificate is verified with the system trust
    /// store.
    pub fn with_url(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for Server {
    /// Omits header values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            headers,
            tls,
            unavailable: closed,
        } = self;
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let mut shown = f.debug_struct("Server");
        shown
            .field("url", url)
            .field("headers", &names)
            .field("tls", tls)
            .field("closed", closed)
            .finish()
    }
}

/// Error when creating the HTTP client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Http(#[from] reqwest::Error),
}

/// HTTP connections to all servers with the same TLS options.
#[derive(Clone, Debug)]
pub struct HttpClient(reqwest::Client);

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("serin/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(2))
        .pool_idle_timeout(Duration::from_secs(90))
        .redirect(reqwest::redirect::Policy::none())
}

impl HttpClient {
    /// Creates a client that uses the system trust store. If there is none, only plain HTTP works.
    ///
    /// The TLS provider of the process must already be installed.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new() -> Result<Self, ClientError> {
        let client = match builder().build() {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, "no system certificates found; Prometheus can be queried by plain HTTP only");
                builder().tls_certs_only([]).build()?
            }
        };
        Ok(Self(client))
    }

    /// Returns a client with these TLS options, or this one if they are the default.
    ///
    /// # Errors
    /// [`QueryError::Untrusted`] if the options cannot be used.
    pub(super) fn with_tls(&self, tls: &Tls) -> Result<Self, QueryError> {
        if tls.is_default() {
            return Ok(self.clone());
        }
        let client = tls
            .apply_to(builder())
            .and_then(|builder| Ok(builder.build()?));
        client
            .map(Self)
            .map_err(|error| QueryError::Untrusted(root_cause(&error)))
    }
}

/// Called after each query with its duration and, if it failed, the cause.
pub type QueryObserver = Arc<dyn Fn(Duration, Option<&'static str>) + Send + Sync>;

/// Size limits of one response.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerLimits {
    pub bytes: usize,
    pub series: usize,
}

/// Client of one server.
#[derive(Clone)]
pub(super) struct Client {
    inner: prometheus_http_query::Client,
    headers: HeaderMap,
    bounds: AnswerLimits,
    noted: QueryObserver,
}

impl fmt::Debug for Client {
    /// Omits the headers, which may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.inner.base_url().as_str())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client for a server.
    ///
    /// # Errors
    /// [`QueryError::Unreachable`] if the address is not an HTTP(S) URL or a header is invalid;
    /// [`Server::unavailable`] if it is set.
    pub(super) fn new(
        http: &HttpClient,
        server: &Server,
        bounds: AnswerLimits,
        noted: QueryObserver,
    ) -> Result<Self, QueryError> {
        if let Some(why) = &server.unavailable {
            return Err(why.clone());
        }
        let not_an_address = |why: &str| {
            QueryError::Unreachable(format!("the address {:?} {why}", truncated(&server.url)))
        };
        if !server.url.starts_with("http://") && !server.url.starts_with("https://") {
            return Err(not_an_address("must begin with http:// or https://"));
        }
        let inner = prometheus_http_query::Client::from(http.0.clone(), &server.url)
            .map_err(|error| not_an_address(&format!("is not a URL: {error}")))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &server.headers {
            let name = reqwest::header::HeaderName::try_from(name.as_str());
            let value = reqwest::header::HeaderValue::from_str(value);
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return Err(QueryError::Unreachable(
                    "a header for it is not valid HTTP".to_owned(),
                ));
            };
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self {
            inner,
            headers,
            bounds,
            noted,
        })
    }

    /// Sends an instant query. It is evaluated at `at_ms` (milliseconds since the epoch) or, if
    /// that is `None`, at the current time of the server, so that clocks need not agree.
    ///
    /// # Errors
    /// The cause of the failure. Returns within `limit`.
    pub async fn query(
        &self,
        query: &str,
        at_ms: Option<i64>,
        limit: Duration,
    ) -> Result<Answer, QueryError> {
        let began = Instant::now();
        let answer = tokio::time::timeout(limit, self.send(query, at_ms, limit))
            .await
            .unwrap_or_else(|_| {
                Err(QueryError::Timeout(format!(
                    "no answer within {} s",
                    limit.as_secs_f64()
                )))
            });
        (self.noted)(
            began.elapsed(),
            answer.as_ref().err().map(|error| error.code().as_str()),
        );
        answer
    }

    async fn send(
        &self,
        query: &str,
        at_ms: Option<i64>,
        limit: Duration,
    ) -> Result<Answer, QueryError> {
        let millis = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let mut request = self.inner.query(query).timeout(millis);
        if let Some(at_ms) = at_ms {
            // The `at` method of the library only supports whole seconds.
            request = request.query(
                "time",
                format!("{}.{:03}", at_ms.div_euclid(1_000), at_ms.rem_euclid(1_000)),
            );
        }
        for (name, value) in &self.headers {
            request = request.header(name.clone(), value.clone());
        }
        let response = request
            .post_raw()
            .await
            .map_err(|error| connection_error(&error))?;
        let status = response.status();
        if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
            return Err(QueryError::Unauthorized(format!(
                "it responded with {status}"
            )));
        }
        let body = self.body(response).await?;
        let answer = envelope::decode(&body, self.bounds.series);
        match answer {
            // If a proxy returns an error page, its status is more helpful than the decoding error.
            Err(QueryError::Malformed(_)) | Ok(_) if !status.is_success() => Err(
                QueryError::Unreachable(format!("it responded with {status}")),
            ),
            answer => answer,
        }
    }

    /// Reads the body up to the size limit. The limit applies to the decompressed size.
    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, QueryError> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| connection_error(&error))?
        {
            if body.len() + chunk.len() > self.bounds.bytes {
                return Err(QueryError::TooLarge(format!(
                    "more than {} bytes",
                    self.bounds.bytes
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn connection_error(error: &(dyn std::error::Error + 'static)) -> QueryError {
    tls_query_error(error).unwrap_or_else(|| QueryError::Unreachable(root_cause(error)))
}
