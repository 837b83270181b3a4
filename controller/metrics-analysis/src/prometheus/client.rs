//! HTTP client for one Prometheus server. Requests use `prometheus-http-query`; responses are
//! decoded with size limits.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serin_core::text::excerpt;

use super::address::{RefusedAddresses, literal_ip};
use super::answer::Answer;
use super::answer_guard::ServerGuard;
use super::dns::{NameCache, Resolver};
use super::envelope::{AnswerContent, BODY_COPIES, decode};
use super::error::{QueryError, root_cause, tls_query_error};
use super::lock;
use super::memory::Reservation;
use super::meter::AnswerLimits;
use super::required_matcher::RequiredMatcher;
use super::tls::Tls;
use crate::request::RolloutName;

/// Who chose the address of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddressTrust {
    /// The installer of the controller or the user of the command: every address is permitted.
    #[default]
    Trusted,
    /// A Rollout: [`RefusedAddresses`] are not connected, and no proxy is used.
    Restricted,
}

/// Address of a Prometheus server and its credentials, for the queries of one Rollout. Equal
/// servers share answers. Servers with the same host and port share limits.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// Base URL, for example `http://prometheus.monitoring:9090`. A path before `/api/v1` is kept.
    pub url: String,
    /// Headers of each request, for example `Authorization` or a tenant header.
    pub headers: Vec<(String, String)>,
    /// TLS options for HTTPS addresses.
    pub tls: Tls,
    /// Who chose the address.
    pub trust: AddressTrust,
    /// The label that every selected series must have. It is added to each query. `None` if the
    /// queries may read all series.
    pub required_matcher: Option<RequiredMatcher>,
    /// The Rollout whose limits apply to the queries. `None` if only the limits of the process and
    /// of the server apply.
    pub rollout: Option<RolloutName>,
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
            trust,
            required_matcher,
            rollout,
            unavailable: closed,
        } = self;
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let mut shown = f.debug_struct("Server");
        shown
            .field("url", url)
            .field("headers", &names)
            .field("tls", tls)
            .field("trust", trust)
            .field("required_matcher", required_matcher)
            .field("rollout", rollout)
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

/// HTTP connections to all servers. Connections to addresses that Rollouts chose are separate from
/// those to addresses of the installer, so that a Rollout cannot use a connection to an address
/// that is refused for it.
#[derive(Clone, Debug)]
pub struct HttpClient {
    trusted: reqwest::Client,
    restricted: reqwest::Client,
    names: NameCache,
    refused: Arc<RefusedAddresses>,
}

/// Connection settings of all clients.
fn builder(resolver: Resolver) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("serin/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(2))
        .pool_idle_timeout(Duration::from_secs(90))
        .redirect(reqwest::redirect::Policy::none());
    // A proxy would resolve the name, and could lead to any address.
    let builder = if resolver.refused.is_some() {
        builder.no_proxy()
    } else {
        builder
    };
    builder.dns_resolver(resolver)
}

impl HttpClient {
    /// Creates a client that uses the system trust store. If there is none, only plain HTTP works.
    ///
    /// The TLS provider of the process must already be installed.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new() -> Result<Self, ClientError> {
        Self::with_refused_addresses(RefusedAddresses::default())
    }

    /// Like [`Self::new`], with the addresses that are refused for Rollouts.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn with_refused_addresses(refused: RefusedAddresses) -> Result<Self, ClientError> {
        let (names, refused) = (NameCache::system(), Arc::new(refused));
        let build = |refused: Option<&Arc<RefusedAddresses>>| {
            let resolver = Resolver {
                cache: names.clone(),
                refused: refused.cloned(),
            };
            match builder(resolver.clone()).build() {
                Ok(client) => Ok(client),
                Err(error) => {
                    tracing::warn!(%error, "no system certificates found; Prometheus can be queried by plain HTTP only");
                    builder(resolver).tls_certs_only([]).build()
                }
            }
        };
        Ok(Self {
            trusted: build(None)?,
            restricted: build(Some(&refused))?,
            names,
            refused,
        })
    }

    /// Returns the connections for these TLS options.
    ///
    /// # Errors
    /// [`QueryError::Untrusted`] if the options cannot be used.
    pub(super) fn connections(
        &self,
        tls: &Tls,
        trust: AddressTrust,
    ) -> Result<reqwest::Client, QueryError> {
        let refused = match trust {
            AddressTrust::Trusted => None,
            AddressTrust::Restricted => Some(self.refused.clone()),
        };
        if tls.is_default() {
            let is_restricted = refused.is_some();
            let client = if is_restricted {
                &self.restricted
            } else {
                &self.trusted
            };
            return Ok(client.clone());
        }
        let resolver = Resolver {
            cache: self.names.clone(),
            refused,
        };
        let client = tls
            .apply_to(builder(resolver))
            .and_then(|builder| Ok(builder.build()?));
        client.map_err(|error| QueryError::Untrusted(root_cause(&error)))
    }

    /// The connections with the system trust store, which follow no redirect.
    pub fn with_system_trust(&self, trust: AddressTrust) -> reqwest::Client {
        match trust {
            AddressTrust::Trusted => self.trusted.clone(),
            AddressTrust::Restricted => self.restricted.clone(),
        }
    }

    /// Why a URL whose host is an IP address must not be used for a Rollout. `None` if it may be, or
    /// if its host is a name, which is checked when it is resolved.
    pub fn refusal(&self, url: &str) -> Option<&'static str> {
        literal_ip(url).and_then(|ip| self.refused.ip_reason(ip))
    }

    /// Checks an address whose host is an IP address. Names are checked when they are resolved.
    pub(super) fn check_address(&self, server: &Server) -> Result<(), QueryError> {
        let reason = match server.trust {
            AddressTrust::Restricted => self.refusal(&server.url),
            AddressTrust::Trusted => None,
        };
        match reason {
            None => Ok(()),
            Some(reason) => Err(QueryError::Unreachable(format!(
                "the address {:?} is {reason}, which Rollouts must not query unless \
                 --prometheus-allowed-address of the controller permits it",
                excerpt(&server.url)
            ))),
        }
    }
}

/// Called after each query with its duration and, if it failed, the cause.
pub type QueryObserver = Arc<dyn Fn(Duration, Option<&'static str>) + Send + Sync>;

/// Number of limited queries that are remembered. The queries of polls repeat.
const REMEMBERED_QUERIES: usize = 64;

/// A body above this size is decoded on another thread, so that it does not delay other tasks.
const DECODED_INLINE_BYTES: usize = 128 << 10;

/// Client of one server.
#[derive(Clone)]
pub(super) struct Client {
    inner: prometheus_http_query::Client,
    headers: HeaderMap,
    limits: AnswerLimits,
    observer: QueryObserver,
    guard: Option<ServerGuard>,
    required: Option<RequiredMatcher>,
    /// Queries with the required matcher, by the query without it.
    limited_queries: Arc<Mutex<HashMap<String, Arc<str>>>>,
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
        http: reqwest::Client,
        server: &Server,
        limits: AnswerLimits,
        observer: QueryObserver,
        guard: Option<ServerGuard>,
    ) -> Result<Self, QueryError> {
        if let Some(why) = &server.unavailable {
            return Err(why.clone());
        }
        let not_an_address = |why: &str| {
            QueryError::Unreachable(format!("the address {:?} {why}", excerpt(&server.url)))
        };
        if !server.url.starts_with("http://") && !server.url.starts_with("https://") {
            return Err(not_an_address("must begin with http:// or https://"));
        }
        let inner = prometheus_http_query::Client::from(http, &server.url)
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
            limits,
            observer,
            guard,
            required: server.required_matcher.clone(),
            limited_queries: Arc::default(),
        })
    }

    /// Sends an instant query. It is evaluated at `at_ms` (milliseconds since the epoch) or, if
    /// that is `None`, at the current time of the server, so that clocks need not agree. The memory
    /// of the answer is charged to `memory`.
    ///
    /// # Errors
    /// The cause of the failure. Returns within `limit`.
    pub async fn query(
        &self,
        query: &str,
        at_ms: Option<i64>,
        content: AnswerContent,
        limit: Duration,
        memory: Reservation,
    ) -> Result<(Answer, Reservation), QueryError> {
        let query = self.limited_query(query)?;
        let began = Instant::now();
        let sending = self.send(&query, at_ms, content, limit, memory);
        let answer = tokio::time::timeout(limit, sending)
            .await
            .unwrap_or_else(|_| {
                Err(QueryError::Timeout(format!(
                    "no answer within {} s",
                    limit.as_secs_f64()
                )))
            });
        (self.observer)(
            began.elapsed(),
            answer.as_ref().err().map(|error| error.code().as_str()),
        );
        answer
    }

    /// The query with the required matcher in each selector.
    fn limited_query(&self, query: &str) -> Result<Arc<str>, QueryError> {
        let Some(required) = &self.required else {
            return Ok(query.into());
        };
        if let Some(known) = lock(&self.limited_queries).get(query) {
            return Ok(known.clone());
        }
        let limited: Arc<str> = required.apply(query)?.into();
        let mut known = lock(&self.limited_queries);
        if known.len() >= REMEMBERED_QUERIES {
            known.clear();
        }
        known.insert(query.to_owned(), limited.clone());
        Ok(limited)
    }

    async fn send(
        &self,
        query: &str,
        at_ms: Option<i64>,
        content: AnswerContent,
        limit: Duration,
        mut memory: Reservation,
    ) -> Result<(Answer, Reservation), QueryError> {
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
        let body = self.body(response, &mut memory).await?;
        let record = self.begin_decoding(body.len())?;
        let answer = decode_body(body, content, self.limits, memory, record).await;
        match answer {
            // If a proxy returns an error page, its status is more helpful than the decoding error.
            Err(QueryError::Malformed(_)) | Ok(_) if !status.is_success() => Err(
                QueryError::Unreachable(format!("it responded with {status}")),
            ),
            answer => answer,
        }
    }

    /// Records that an answer of this size is being decoded, if it is large and the server has a
    /// guard.
    pub(super) fn begin_decoding(
        &self,
        bytes: usize,
    ) -> Result<Option<Box<dyn Any + Send>>, QueryError> {
        let guard = self.guard.as_ref();
        let guard = guard.filter(|_| bytes > DECODED_INLINE_BYTES);
        guard.map(ServerGuard::begin).transpose()
    }

    /// Reads the body up to the size limit. The limit applies to the decompressed size.
    async fn body(
        &self,
        mut response: reqwest::Response,
        memory: &mut Reservation,
    ) -> Result<Vec<u8>, QueryError> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| connection_error(&error))?
        {
            let length = body.len() + chunk.len();
            memory.record_received(chunk.len());
            if length > self.limits.bytes {
                return Err(QueryError::TooLarge(format!(
                    "more than {} bytes",
                    self.limits.bytes
                )));
            }
            memory.grow_to(length.saturating_mul(BODY_COPIES))?;
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

async fn decode_body(
    body: Vec<u8>,
    content: AnswerContent,
    limits: AnswerLimits,
    mut memory: Reservation,
    record: Option<Box<dyn Any + Send>>,
) -> Result<(Answer, Reservation), QueryError> {
    let is_small = body.len() <= DECODED_INLINE_BYTES;
    let decoding = move || {
        let answer = decode(&body, content, limits, &mut memory);
        drop(record);
        Ok((answer?, memory))
    };
    if is_small {
        return decoding();
    }
    let ended = tokio::task::spawn_blocking(decoding).await;
    ended.unwrap_or_else(|_| Err(QueryError::Malformed("the decoder failed".to_owned())))
}

fn connection_error(error: &(dyn std::error::Error + 'static)) -> QueryError {
    tls_query_error(error).unwrap_or_else(|| QueryError::Unreachable(root_cause(error)))
}
