//! An open-loop load generator that records every answer.
//!
//! A closed-loop client waits for an answer before it asks again, so that an outage of a second
//! costs it a handful of requests and its averages hide it ("coordinated omission"). Here requests
//! start when the schedule says, whatever became of those before, and every latency counts from the
//! scheduled start.
//!
//! Every answer becomes a record of 16 bytes: when, how long, which version (`x-version`), and the
//! [`Outcome`], which tells the service's own errors from requests that the routing lost. Nothing
//! is ever retried.
//!
//! ```no_run
//! # async fn example() -> Result<(), serin_load::StartError> {
//! use serin_load::{Load, Options};
//!
//! let load = Load::start(&Options { rate_per_second: 300, ..Options::new("http://127.0.0.1:8000/") })?;
//! let before = load.elapsed();
//! // ... move the traffic ...
//! let report = load.stop().await;
//! assert_eq!(report.between(before..).counts().routing_failures(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! # Bounds
//! Only loopback and private addresses are ever sent to (RFC 1918, RFC 4193): a slip of the URL
//! must not become an attack. Rate, duration, requests in flight and records have limits of their
//! own ([`limits`]).

mod client;
mod engine;
mod options;
mod outcome;
mod record;
mod report;
mod schedule;
mod summary;

pub use crate::{
    engine::{Load, LoadHandle},
    options::{Options, StartError, limits},
    outcome::{Counts, Outcome, RoutingFailure},
    record::{FailureDetail, Snapshot, VersionSnapshot},
    report::{Answer, EndedBy, Latency, Report, View},
    summary::{Summary, VersionSummary},
};
