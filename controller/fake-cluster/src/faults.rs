//! Injected request failures and the request log.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::ApiRequest;

/// Makes one or more matching requests fail.
///
/// ```
/// use serin_fake_cluster::Fault;
/// // The second patch of the route `checkout` fails with a conflict.
/// let fault = Fault::on("patch", "httproutes").named("checkout").skip_first(1).status(409);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    verb: String,
    plural: String,
    name: Option<String>,
    subresource: Option<String>,
    client: Option<String>,
    larger_than: usize,
    skip_remaining: usize,
    times: usize,
    effect: FaultEffect,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultEffect {
    /// The server responds with this code and stores nothing.
    Status(u16),
    /// The request never arrives and never gets a response.
    Hangs,
    /// The server processes the request, but the response is lost.
    LosesResponse,
    /// The connection is refused.
    Refused,
    /// The request arrives later by this duration.
    Delayed(Duration),
}

impl Fault {
    /// Matches requests with this verb (as in RBAC: get, list, watch, create, update, patch,
    /// delete) and this plural resource name (`httproutes`). `*` matches everything. By default
    /// only the first matching request fails, with status 500.
    pub fn on(verb: &str, plural: &str) -> Self {
        Self {
            verb: verb.into(),
            plural: plural.into(),
            name: None,
            subresource: None,
            client: None,
            larger_than: 0,
            skip_remaining: 0,
            times: 1,
            effect: FaultEffect::Status(500),
        }
    }

    /// Matches only requests for the object with this name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self {
            name: Some(name.into()),
            ..self
        }
    }

    /// Matches only requests to this subresource, for example `status`.
    #[must_use]
    pub fn subresource(self, subresource: &str) -> Self {
        Self {
            subresource: Some(subresource.into()),
            ..self
        }
    }

    /// Matches only requests from this client.
    #[must_use]
    pub fn from_client(self, client: &str) -> Self {
        Self {
            client: Some(client.into()),
            ..self
        }
    }

    /// Matches only requests whose body has more than this number of bytes.
    #[must_use]
    pub fn larger_than(self, bytes: usize) -> Self {
        Self {
            larger_than: bytes,
            ..self
        }
    }

    /// Lets the given number of matching requests succeed first.
    #[must_use]
    pub fn skip_first(self, requests: usize) -> Self {
        Self {
            skip_remaining: requests,
            ..self
        }
    }

    /// Number of matching requests that fail. Defaults to 1.
    #[must_use]
    pub fn times(self, requests: usize) -> Self {
        Self {
            times: requests,
            ..self
        }
    }

    /// Every matching request fails.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// The server responds with this code and stores nothing.
    #[must_use]
    pub fn status(self, code: u16) -> Self {
        Self {
            effect: FaultEffect::Status(code),
            ..self
        }
    }

    /// The request never arrives and never gets a response.
    #[must_use]
    pub fn hangs(self) -> Self {
        Self {
            effect: FaultEffect::Hangs,
            ..self
        }
    }

    /// The server processes the request, but the response is lost.
    #[must_use]
    pub fn loses_response(self) -> Self {
        Self {
            effect: FaultEffect::LosesResponse,
            ..self
        }
    }

    /// The connection is refused.
    #[must_use]
    pub fn refuse_connection(self) -> Self {
        Self {
            effect: FaultEffect::Refused,
            ..self
        }
    }

    /// The request arrives later by `delay`.
    #[must_use]
    pub fn delayed(self, delay: Duration) -> Self {
        Self {
            effect: FaultEffect::Delayed(delay),
            ..self
        }
    }

    fn matches(&self, request: &ApiRequest, body: &[u8], client: &str) -> bool {
        let Some((resource_path, verb)) = request.resource_path.as_ref().zip(request.verb()) else {
            return false;
        };
        let matches_pattern = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        let matches_optional = |expected: &Option<String>, value: Option<&str>| {
            expected.is_none() || expected.as_deref() == value
        };
        matches_pattern(&self.verb, verb)
            && matches_pattern(&self.plural, &resource_path.plural)
            && matches_optional(&self.name, resource_path.name.as_deref())
            && matches_optional(&self.subresource, resource_path.subresource.as_deref())
            && matches_optional(&self.client, Some(client))
            && (self.larger_than == 0 || body.len() > self.larger_than)
    }

    /// The effect of the first active fault that matches a request. Every fault counts the requests
    /// that it matches.
    pub(crate) fn next_effect(
        faults: &mut [Self],
        request: &ApiRequest,
        body: &[u8],
        client: &str,
    ) -> Option<FaultEffect> {
        let mut effect = None;
        for fault in faults
            .iter_mut()
            .filter(|fault| fault.matches(request, body, client))
        {
            if fault.skip_remaining > 0 {
                fault.skip_remaining -= 1;
            } else if fault.times > 0 && effect.is_none() {
                fault.times -= usize::from(fault.times != usize::MAX);
                effect = Some(fault.effect);
            }
        }
        effect
    }
}

/// A request in the log of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// When it arrived.
    pub at: Timestamp,
    /// The client.
    pub client: String,
    /// RBAC verb: get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// The API group, empty for the core group.
    pub group: String,
    /// The plural of the kind, for example `httproutes`.
    pub plural: String,
    /// The subresource, if any.
    pub subresource: Option<String>,
    /// `namespace/name`. A part that the path does not contain is empty.
    pub object: String,
    /// Whether the request was a dry run.
    pub dry_run: bool,
    /// HTTP status code of the response; 0 if a fault prevented a response.
    pub code: u16,
}

impl RequestRecord {
    pub(crate) fn new(request: &ApiRequest, client: &str, at: Timestamp) -> Option<Self> {
        let resource_path = request.resource_path.as_ref()?;
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        Some(Self {
            at,
            client: client.into(),
            verb: request.verb()?,
            group: resource_path.group.clone(),
            plural: resource_path.plural.clone(),
            subresource: resource_path.subresource.clone(),
            object: format!(
                "{}/{}",
                part(&resource_path.namespace),
                part(&resource_path.name)
            ),
            dry_run: request.is_dry_run(),
            code: 0,
        })
    }

    /// Whether the request could have changed a stored object.
    pub fn is_write(&self) -> bool {
        !self.dry_run && !matches!(self.verb, "get" | "list" | "watch")
    }
}
