//! Outcomes of requests: success, error of the service, or routing failure.

use std::{error::Error, fmt, io};

use http::StatusCode;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// Outcome of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    /// A complete response with a 2xx status.
    Ok,
    /// A complete response with another status and `x-version`: the request reached the service,
    /// and the service failed.
    ServiceError,
    /// The request did not reach the service, or the response did not arrive.
    Routing(RoutingFailure),
}

/// How a request was lost between the client and the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RoutingFailure {
    /// The connection was refused (`ECONNREFUSED`).
    Refused,
    /// The connection was closed before the response was complete.
    Reset,
    /// 404 without `x-version`: the gateway has no route.
    NotFound404,
    /// 500 without `x-version`: the Gateway API requires it for a route with an invalid backend.
    InternalError500,
    /// 502 without `x-version`: the gateway could not reach the selected backend.
    BadGateway502,
    /// 503 without `x-version`: the gateway has no available backend.
    Unavailable503,
    /// 504 without `x-version`: the backend did not respond to the gateway in time.
    GatewayTimeout504,
    /// No complete response within the timeout of the load.
    Timeout,
    /// Any other failure. [`crate::LoadReport::details`] has the details of the first ones.
    Other,
}

impl RoutingFailure {
    /// All failures, in the order of their discriminants.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::Reset,
        Self::NotFound404,
        Self::InternalError500,
        Self::BadGateway502,
        Self::Unavailable503,
        Self::GatewayTimeout504,
        Self::Timeout,
        Self::Other,
    ];

    /// The short name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::NotFound404 => "404",
            Self::InternalError500 => "500",
            Self::BadGateway502 => "502",
            Self::Unavailable503 => "503",
            Self::GatewayTimeout504 => "504",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }

    /// Classifies an error of the client by the chain of its causes.
    pub(crate) fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        let mut found = Self::Other;
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                match io.kind() {
                    io::ErrorKind::ConnectionRefused => return Self::Refused,
                    io::ErrorKind::TimedOut => return Self::Timeout,
                    io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::NotConnected
                    | io::ErrorKind::UnexpectedEof => return Self::Reset,
                    _ => {}
                }
            }
            // The peer closed the connection between or within messages. An I/O error further down
            // the chain is more specific.
            if let Some(hyper) = error.downcast_ref::<hyper::Error>()
                && (hyper.is_incomplete_message() || hyper.is_canceled() || hyper.is_closed())
            {
                found = Self::Reset;
            }
            cause = error.source();
        }
        found
    }
}

impl fmt::Display for RoutingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for RoutingFailure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl RequestOutcome {
    /// Classifies a complete response. `from_service` is true if it has `x-version`.
    pub(crate) fn from_response(status: StatusCode, from_service: bool) -> Self {
        if status.is_success() {
            return Self::Ok;
        }
        if from_service {
            return Self::ServiceError;
        }
        Self::Routing(match status.as_u16() {
            404 => RoutingFailure::NotFound404,
            500 => RoutingFailure::InternalError500,
            502 => RoutingFailure::BadGateway502,
            503 => RoutingFailure::Unavailable503,
            504 => RoutingFailure::GatewayTimeout504,
            _ => RoutingFailure::Other,
        })
    }
}

/// Number of requests by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    /// [`RequestOutcome::Ok`].
    pub ok: u64,
    /// [`RequestOutcome::ServiceError`].
    pub service_errors: u64,
    routing: [u64; RoutingFailure::ALL.len()],
}

impl OutcomeCounts {
    /// Number of routing failures of this kind.
    pub fn failures_of_kind(&self, failure: RoutingFailure) -> u64 {
        self.routing[failure as usize]
    }

    /// Number of routing failures of all kinds.
    pub fn routing_failures(&self) -> u64 {
        self.routing.iter().sum()
    }

    /// Number of completed requests.
    pub fn total(&self) -> u64 {
        self.ok + self.service_errors + self.routing_failures()
    }

    /// The kinds of routing failures that occurred, with their counts.
    pub fn routing(&self) -> impl Iterator<Item = (RoutingFailure, u64)> {
        RoutingFailure::ALL
            .into_iter()
            .map(|failure| (failure, self.failures_of_kind(failure)))
            .filter(|(_, count)| *count > 0)
    }

    pub(crate) fn add(&mut self, outcome: RequestOutcome) {
        match outcome {
            RequestOutcome::Ok => self.ok += 1,
            RequestOutcome::ServiceError => self.service_errors += 1,
            RequestOutcome::Routing(failure) => self.routing[failure as usize] += 1,
        }
    }
}

impl FromIterator<RequestOutcome> for OutcomeCounts {
    fn from_iter<I: IntoIterator<Item = RequestOutcome>>(outcomes: I) -> Self {
        let mut counts = Self::default();
        outcomes.into_iter().for_each(|outcome| counts.add(outcome));
        counts
    }
}

/// `{"ok": 5, "service_errors": 1, "routing_failures": 2, "routing": {"502": 2}}`
impl Serialize for OutcomeCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let by_kind: std::collections::BTreeMap<_, _> = self
            .routing()
            .map(|(failure, count)| (failure.name(), count))
            .collect();
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("ok", &self.ok)?;
        map.serialize_entry("service_errors", &self.service_errors)?;
        map.serialize_entry("routing_failures", &self.routing_failures())?;
        map.serialize_entry("routing", &by_kind)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_all() {
        for (index, failure) in RoutingFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, index);
        }
    }

    #[test]
    fn an_error_with_a_version_header_comes_from_the_service() {
        let from = |status, from_service| {
            RequestOutcome::from_response(StatusCode::from_u16(status).unwrap(), from_service)
        };
        for status in [200, 204] {
            assert_eq!(from(status, true), RequestOutcome::Ok);
            assert_eq!(from(status, false), RequestOutcome::Ok);
        }
        for (status, failure) in [
            (301, RoutingFailure::Other),
            (404, RoutingFailure::NotFound404),
            (429, RoutingFailure::Other),
            (500, RoutingFailure::InternalError500),
            (502, RoutingFailure::BadGateway502),
            (503, RoutingFailure::Unavailable503),
            (504, RoutingFailure::GatewayTimeout504),
        ] {
            assert_eq!(from(status, true), RequestOutcome::ServiceError);
            assert_eq!(from(status, false), RequestOutcome::Routing(failure));
        }
    }

    #[test]
    fn counts_add_up_and_list_only_failures_that_occurred() {
        let counts: OutcomeCounts = [
            RequestOutcome::Ok,
            RequestOutcome::Ok,
            RequestOutcome::ServiceError,
            RequestOutcome::Routing(RoutingFailure::Reset),
            RequestOutcome::Routing(RoutingFailure::BadGateway502),
            RequestOutcome::Routing(RoutingFailure::BadGateway502),
        ]
        .into_iter()
        .collect();
        assert_eq!((counts.total(), counts.routing_failures()), (6, 3));
        assert_eq!(
            serde_json::to_value(counts).unwrap(),
            serde_json::json!({"ok": 2, "service_errors": 1, "routing_failures": 3, "routing": {"reset": 1, "502": 2}})
        );
    }

    #[test]
    fn system_errors_are_distinguished() {
        let from = |kind| RoutingFailure::from_error(&io::Error::from(kind));
        assert_eq!(
            from(io::ErrorKind::ConnectionRefused),
            RoutingFailure::Refused
        );
        assert_eq!(from(io::ErrorKind::ConnectionReset), RoutingFailure::Reset);
        assert_eq!(from(io::ErrorKind::BrokenPipe), RoutingFailure::Reset);
        assert_eq!(from(io::ErrorKind::TimedOut), RoutingFailure::Timeout);
        assert_eq!(from(io::ErrorKind::AddrNotAvailable), RoutingFailure::Other);
    }
}
