//! Prometheus queries: a client with size limits and descriptive errors, and a poller that shares
//! equal queries.

mod answer;
mod client;
mod envelope;
mod error;
#[cfg(test)]
mod fuzz;
mod native;
mod poller;
#[cfg(test)]
mod tests;
mod tls;

pub use answer::{Answer, Labels, Series, newest_ms};
pub use client::{ClientError, HttpClient, QueryObserver, Server};
pub use error::QueryError;
pub use poller::{Limits, PollResult, PollSpec, Poller, next_answer};
pub use tls::{Tls, TlsError};

/// Decodes a response body.
#[cfg(test)]
pub(crate) fn decode_body(body: &[u8]) -> Answer {
    envelope::decode(body, usize::MAX).unwrap()
}
