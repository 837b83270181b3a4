//! One Prometheus server: requests by prometheus-http-query, answers by the bounded envelope of our
//! own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::answer::Answer;
use super::envelope;
use super::error::{QueryError, bounded, innermost, tls_fault};
use super::tls::Tls;

/// Where a Prometheus is, and what it is asked with. Two that are equal share connections, limits
/// and answers.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// The base URL, for example `http://prometheus.monitoring:9090`; a path before `/api/v1` is
    /// kept.
    pub url: String,
    /// Headers sent with each request, for example `Authorization` or a tenant's name.
    pub headers: Vec<(String, String)>,
    /// How an https address is reached.
    pub tls: Tls,
    /// Why it cannot be asked, where what it is to be asked with is not known: every question is
    /// answered by this.
    pub closed: Option<QueryError>,
}

impl Server {
    /// A server without headers of its own, whose certificate the machine's authorities have
    /// signed.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for Server {
    /// Leaves out the headers' values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            headers,
            tls,
            closed,
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

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Http(#[from] reqwest::Error),
}

/// The connections of this process to all servers that are reached by the same TLS.
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
    /// Connections that trust the machine's certificates; where it has none, only plain HTTP can
    /// work.
    ///
    /// The process' TLS provider must have been installed before.
    ///
    /// # Errors
    /// Where the client cannot be built at all.
    pub fn new() -> Result<Self, ClientError> {
        let client = match builder().build() {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, "no certificates are found; Prometheus can be asked by plain HTTP only");
                builder().tls_certs_only([]).build()?
            }
        };
        Ok(Self(client))
    }

    /// Connections by this TLS; the same ones where it asks for nothing of its own.
    ///
    /// # Errors
    /// `UntrustedCertificate` where no connection can be made so.
    pub(super) fn by(&self, tls: &Tls) -> Result<Self, QueryError> {
        if tls.is_default() {
            return Ok(self.clone());
        }
        let client = tls
            .applied(builder())
            .and_then(|builder| Ok(builder.build()?));
        client
            .map(Self)
            .map_err(|error| QueryError::Untrusted(innermost(&error)))
    }
}

/// Is told of each query: how long it took, and the kind of trouble where it failed.
pub type Noted = Arc<dyn Fn(Duration, Option<&'static str>) + Send + Sync>;

/// The bounds of one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerBounds {
    pub bytes: usize,
    pub series: usize,
}

/// One server, ready to be asked.
#[derive(Clone)]
pub(super) struct Client {
    inner: prometheus_http_query::Client,
    headers: HeaderMap,
    bounds: AnswerBounds,
    noted: Noted,
}

impl fmt::Debug for Client {
    /// Leaves out the headers, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.inner.base_url().as_str())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client for this server.
    ///
    /// # Errors
    /// `Unreachable` where the address is not an http(s) URL or a header cannot be sent; why the
    /// server is closed, where it is.
    pub(super) fn new(
        http: &HttpClient,
        server: &Server,
        bounds: AnswerBounds,
        noted: Noted,
    ) -> Result<Self, QueryError> {
        if let Some(why) = &server.closed {
            return Err(why.clone());
        }
        let not_an_address = |why: &str| {
            QueryError::Unreachable(format!("the address {:?} {why}", bounded(&server.url)))
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

    /// Asks an instant query, evaluated at `at_ms` (milliseconds since the epoch), or without it at
    /// the server's own present, so that clocks need not agree.
    ///
    /// # Errors
    /// What went wrong, named; always within `limit`.
    pub async fn query(
        &self,
        query: &str,
        at_ms: Option<i64>,
        limit: Duration,
    ) -> Result<Answer, QueryError> {
        let began = Instant::now();
        let answer = tokio::time::timeout(limit, self.ask(query, at_ms, limit))
            .await
            .unwrap_or_else(|_| {
                Err(QueryError::Timeout(format!(
                    "no answer within {} s",
                    limit.as_secs_f64()
                )))
            });
        (self.noted)(began.elapsed(), answer.as_ref().err().map(QueryError::kind));
        answer
    }

    async fn ask(
        &self,
        query: &str,
        at_ms: Option<i64>,
        limit: Duration,
    ) -> Result<Answer, QueryError> {
        let millis = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let mut request = self.inner.query(query).timeout(millis);
        if let Some(at_ms) = at_ms {
            // The client's own `at` knows whole seconds only.
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
            .map_err(|error| unreachable_because(&error))?;
        let status = response.status();
        if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
            return Err(QueryError::Unauthorized(format!("it answers {status}")));
        }
        let body = self.body(response).await?;
        let answer = envelope::decode(&body, self.bounds.series);
        match answer {
            // A proxy's page beside an error status says less than the status.
            Err(QueryError::Malformed(_)) | Ok(_) if !status.is_success() => {
                Err(QueryError::Unreachable(format!("it answers {status}")))
            }
            answer => answer,
        }
    }

    /// Reads the body as far as the bound; what is compressed counts by its full size.
    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, QueryError> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| unreachable_because(&error))?
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

fn unreachable_because(error: &(dyn std::error::Error + 'static)) -> QueryError {
    tls_fault(error).unwrap_or_else(|| QueryError::Unreachable(innermost(error)))
}
