//! Asking Prometheus: a client that bounds what it takes in and names what went wrong, and a poller
//! that asks every question once however many want the answer.

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
pub use client::{ClientError, HttpClient, Noted, Server};
pub use error::QueryError;
pub use poller::{Asked, Limits, Poll, Poller, next_answer};
pub use tls::{Tls, TlsError};

/// The answer that a body of Prometheus' holds.
#[cfg(test)]
pub(crate) fn decoded(body: &[u8]) -> Answer {
    envelope::decode(body, usize::MAX).unwrap()
}
