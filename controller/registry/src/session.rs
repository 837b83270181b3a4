//! The requests about one image: authorization, redirects and limits.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::challenge::Challenge;
use crate::error::{RegistryError, shortened};
use crate::repository::{digest_text, is_digest};
use crate::{Connections, Target};

/// Maximum time for one request with its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of requests about one image.
const MAX_REQUESTS: u32 = 96;
/// Maximum number of redirects of one request.
const MAX_REDIRECTS: u32 = 3;
/// Maximum size of the answer of a server for tokens.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// Header with the digest of the content.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Media types that an answer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// The manifest of an image or of an index of images.
    Manifest,
    /// An index of referrers.
    Index,
    /// Any content.
    Blob,
}

impl Accept {
    const fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Manifest => {
                "application/vnd.oci.image.index.v1+json, \
                 application/vnd.docker.distribution.manifest.list.v2+json, \
                 application/vnd.oci.image.manifest.v1+json, \
                 application/vnd.docker.distribution.manifest.v2+json"
            }
            Self::Index => "application/vnd.oci.image.index.v1+json",
            Self::Blob => "*/*",
        })
    }
}

/// The requests about one image.
pub(crate) struct Session<'a> {
    connections: &'a Connections,
    target: &'a Target,
    /// URL of the repository, with a slash at its end.
    base: Url,
    authorization: Option<HeaderValue>,
    requests: u32,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Session<'a> {
    /// Begins with an anonymous request.
    ///
    /// # Errors
    /// The name of the registry is not a host.
    pub fn new(connections: &'a Connections, target: &'a Target) -> Result<Self, RegistryError> {
        let scheme = if target.is_plain_http {
            "http"
        } else {
            "https"
        };
        let (host, path) = (target.repository.api_host(), target.repository.path());
        let base = Url::parse(&format!("{scheme}://{host}/v2/{path}/"));
        let base = base.map_err(|_| {
            let name = format!("{}/{path}", target.repository.registry());
            crate::InvalidImage::Name(shortened(&name))
        })?;
        Ok(Self {
            connections,
            target,
            base,
            authorization: None,
            requests: 0,
        })
    }

    /// Requests a path of the repository. The answer has a status of success.
    ///
    /// # Errors
    /// As [`crate::Registry::digest`].
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        accept: Accept,
    ) -> Result<Response, RegistryError> {
        let url = self
            .base
            .join(path)
            .map_err(|_| RegistryError::Unusable("a path is not one of a URL".to_owned()))?;
        let answer = self.follow(&method, url.clone(), accept).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || self.authorization.is_some() {
            return checked(answer);
        }
        self.authorize(answer.headers()).await?;
        checked(self.follow(&method, url, accept).await?)
    }

    /// The body of a path of the repository.
    ///
    /// # Errors
    /// As [`Self::send`], or the body has more than `limit` bytes.
    pub async fn read(
        &mut self,
        path: &str,
        accept: Accept,
        limit: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        body(self.send(Method::GET, path, accept).await?, limit).await
    }

    /// The digest of the body of a path of the repository, which is not kept.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn hash(
        &mut self,
        path: &str,
        accept: Accept,
        limit: usize,
    ) -> Result<String, RegistryError> {
        let mut answer = self.send(Method::GET, path, accept).await?;
        let (mut hasher, mut length) = (Sha256::new(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(RegistryError::from_request)? {
            length += chunk.len();
            if length > limit {
                return Err(RegistryError::TooLarge { limit });
            }
            hasher.update(&chunk);
        }
        Ok(digest_text(&hasher.finalize()))
    }

    /// Sends a request and follows its redirects.
    async fn follow(
        &mut self,
        method: &Method,
        mut url: Url,
        accept: Accept,
    ) -> Result<Response, RegistryError> {
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(method, &url)?.header(ACCEPT, accept.header());
            // Only the registry itself may see what authorizes for it.
            let authorization = self.authorization.clone();
            let request = match authorization.filter(|_| self.is_own(&url)) {
                Some(value) => request.header(AUTHORIZATION, value),
                None => request,
            };
            let answer = request.send().await.map_err(RegistryError::from_request)?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let location = answer.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| {
                RegistryError::Unusable("it is a redirect without a location".to_owned())
            })?;
        }
        let problem = format!("it has more than {MAX_REDIRECTS} redirects");
        Err(RegistryError::Unusable(problem))
    }

    /// A request to an address that may be connected to. Another host than the registry's must use
    /// HTTPS, and is never trusted: the registry has named it.
    fn request(&mut self, method: &Method, url: &Url) -> Result<RequestBuilder, RegistryError> {
        self.requests += 1;
        if self.requests > MAX_REQUESTS {
            let problem = format!("more than {MAX_REQUESTS} requests would be needed");
            return Err(RegistryError::Unusable(problem));
        }
        let is_own = self.is_own(url);
        if !is_own && url.scheme() != "https" {
            let address = shortened(&url.origin().ascii_serialization());
            return Err(RegistryError::AddressRefused(format!(
                "the registry refers to {address}, which does not use https"
            )));
        }
        let is_trusted = is_own && self.target.is_trusted;
        let client = if is_trusted {
            &self.connections.trusted
        } else {
            if let Some(reason) = (self.connections.check)(url.as_str()) {
                let host = shortened(url.host_str().unwrap_or_default());
                return Err(RegistryError::AddressRefused(format!(
                    "its host {host} is {reason}, which images must not lead to"
                )));
            }
            &self.connections.restricted
        };
        let request = client.request(method.clone(), url.clone());
        Ok(request.timeout(REQUEST_TIMEOUT))
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Meets the challenge of the registry.
    async fn authorize(&mut self, headers: &HeaderMap) -> Result<(), RegistryError> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let mut challenges = challenges.filter_map(|value| Challenge::parse(value.to_str().ok()?));
        let denied = RegistryError::Denied { status: 401 };
        match challenges.next() {
            None => Err(denied),
            Some(Challenge::Basic) => {
                let credentials = self.target.credentials.as_ref().ok_or(denied)?;
                let pair = format!("{}:{}", credentials.username, credentials.password);
                self.authorization = Some(secret("Basic", &STANDARD.encode(pair))?);
                Ok(())
            }
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.fetch_token(&realm, service.as_deref()).await?;
                self.authorization = Some(secret("Bearer", &token)?);
                Ok(())
            }
        }
    }

    /// A token for pulling from the repository, whatever the registry has demanded one for.
    async fn fetch_token(
        &mut self,
        realm: &str,
        service: Option<&str>,
    ) -> Result<String, RegistryError> {
        let mut url = Url::parse(realm).map_err(|_| {
            let problem = format!("its server for tokens {:?} is not a URL", shortened(realm));
            RegistryError::Unusable(problem)
        })?;
        let scope = format!("repository:{}:pull", self.target.repository.path());
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", &scope);
        let mut request = self.request(&Method::GET, &url)?;
        if let Some(credentials) = &self.target.credentials {
            request = request.basic_auth(&credentials.username, Some(&credentials.password));
        }
        let answer = request.send().await.map_err(RegistryError::from_request)?;
        let body = body(checked(answer)?, MAX_TOKEN_BYTES).await?;
        let unusable = || RegistryError::Unusable("it contains no token".to_owned());
        let token: Token = serde_json::from_slice(&body).map_err(|_| unusable())?;
        let token = token.token.or(token.access_token);
        token.filter(|token| !token.is_empty()).ok_or_else(unusable)
    }
}

/// The value of a header that authorizes. It is left out of debug output.
fn secret(scheme: &str, value: &str) -> Result<HeaderValue, RegistryError> {
    let value = HeaderValue::from_str(&format!("{scheme} {value}"));
    let mut value =
        value.map_err(|_| RegistryError::Unusable("its token is not a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The answer, if its status is one of success.
fn checked(answer: Response) -> Result<Response, RegistryError> {
    let status = answer.status();
    match status {
        _ if status.is_success() => Ok(answer),
        StatusCode::NOT_FOUND => Err(RegistryError::NotFound),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError::Denied {
            status: status.as_u16(),
        }),
        _ => Err(RegistryError::Status {
            status: status.as_u16(),
        }),
    }
}

/// The body of an answer, read up to a limit.
async fn body(mut answer: Response, limit: usize) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(RegistryError::from_request)? {
        if body.len() + chunk.len() > limit {
            return Err(RegistryError::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The digest in the headers of an answer. `None` if there is none.
///
/// # Errors
/// It is not a digest with SHA-256.
pub(crate) fn content_digest(answer: &Response) -> Result<Option<String>, RegistryError> {
    let Some(value) = answer.headers().get(CONTENT_DIGEST) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if is_digest(text) {
        return Ok(Some(text.to_owned()));
    }
    let problem = format!("its digest {:?} is not one with SHA-256", shortened(text));
    Err(RegistryError::Unusable(problem))
}
