//! Asking Prometheus: a client that bounds what it takes in and names what went wrong, and a poller that asks every
//! question once however many want the answer.

mod client;
mod envelope;
#[cfg(test)]
mod fuzz;
mod poller;
#[cfg(test)]
mod tests;

pub use client::{ClientError, HttpClient, Noted, QueryError, Server};
pub use envelope::{Answer, Labels, Series};
pub use poller::{Asked, Limits, Poll, Poller, next_answer};
