//! What became of a request, told apart by who is to blame.

use std::{error::Error, fmt, io};

use http::StatusCode;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A whole answer with a status of 2xx.
    Ok,
    /// Any other answer that carries `x-version`: the request reached the service, and the service
    /// failed it.
    ServiceError,
    /// The request never reached the service, or its answer never came back.
    Routing(RoutingFailure),
}

/// How the way to the service and back failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RoutingFailure {
    /// Nothing listens there (`ECONNREFUSED`).
    Refused,
    /// The connection was closed before the whole answer had come.
    Reset,
    /// 404 without `x-version`: the gateway knows no route.
    NotFound404,
    /// 500 without `x-version`: what the Gateway API prescribes for a route whose backend is
    /// invalid.
    InternalError500,
    /// 502 without `x-version`: the gateway could not reach the backend that it chose.
    BadGateway502,
    /// 503 without `x-version`: the gateway has no backend.
    Unavailable503,
    /// 504 without `x-version`: the backend did not answer the gateway in time.
    GatewayTimeout504,
    /// No whole answer within the load's own time.
    Timeout,
    /// Anything else; [`crate::Report::details`] tells of the first ones.
    Other,
}

impl RoutingFailure {
    /// All of them, in the order of their discriminants.
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

    /// A short name, the same in tables and in JSON.
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

    /// Which failure an error of the client is, from the whole chain of its causes.
    pub(crate) fn of_error(error: &(dyn Error + 'static)) -> Self {
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
            // The peer closed a connection between or within messages; where the system has a word
            // on it, it wins.
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

impl Outcome {
    /// What a whole answer means. `from_service` is whether it carries `x-version`.
    pub(crate) fn of_answer(status: StatusCode, from_service: bool) -> Self {
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

/// How many requests came to which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Outcome::Ok`].
    pub ok: u64,
    /// [`Outcome::ServiceError`].
    pub service_errors: u64,
    routing: [u64; RoutingFailure::ALL.len()],
}

impl Counts {
    /// How many failed on their way in this manner.
    pub fn of(&self, failure: RoutingFailure) -> u64 {
        self.routing[failure as usize]
    }

    /// How many failed on their way in any manner.
    pub fn routing_failures(&self) -> u64 {
        self.routing.iter().sum()
    }

    /// All requests that have come to an end.
    pub fn total(&self) -> u64 {
        self.ok + self.service_errors + self.routing_failures()
    }

    /// The routing failures that occurred, with their numbers.
    pub fn routing(&self) -> impl Iterator<Item = (RoutingFailure, u64)> {
        RoutingFailure::ALL
            .into_iter()
            .map(|failure| (failure, self.of(failure)))
            .filter(|(_, count)| *count > 0)
    }

    pub(crate) fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::ServiceError => self.service_errors += 1,
            Outcome::Routing(failure) => self.routing[failure as usize] += 1,
        }
    }
}

impl FromIterator<Outcome> for Counts {
    fn from_iter<I: IntoIterator<Item = Outcome>>(outcomes: I) -> Self {
        let mut counts = Self::default();
        outcomes.into_iter().for_each(|outcome| counts.add(outcome));
        counts
    }
}

/// `{"ok": 5, "service_errors": 1, "routing_failures": 2, "routing": {"502": 2}}`
impl Serialize for Counts {
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
    fn a_version_header_makes_an_error_the_services_own() {
        let of = |status, from_service| {
            Outcome::of_answer(StatusCode::from_u16(status).unwrap(), from_service)
        };
        for status in [200, 204] {
            assert_eq!(of(status, true), Outcome::Ok);
            assert_eq!(of(status, false), Outcome::Ok);
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
            assert_eq!(of(status, true), Outcome::ServiceError);
            assert_eq!(of(status, false), Outcome::Routing(failure));
        }
    }

    #[test]
    fn counts_add_up_and_tell_only_what_occurred() {
        let counts: Counts = [
            Outcome::Ok,
            Outcome::Ok,
            Outcome::ServiceError,
            Outcome::Routing(RoutingFailure::Reset),
            Outcome::Routing(RoutingFailure::BadGateway502),
            Outcome::Routing(RoutingFailure::BadGateway502),
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
    fn system_errors_are_told_apart() {
        let of = |kind| RoutingFailure::of_error(&io::Error::from(kind));
        assert_eq!(
            of(io::ErrorKind::ConnectionRefused),
            RoutingFailure::Refused
        );
        assert_eq!(of(io::ErrorKind::ConnectionReset), RoutingFailure::Reset);
        assert_eq!(of(io::ErrorKind::BrokenPipe), RoutingFailure::Reset);
        assert_eq!(of(io::ErrorKind::TimedOut), RoutingFailure::Timeout);
        assert_eq!(of(io::ErrorKind::AddrNotAvailable), RoutingFailure::Other);
    }
}
