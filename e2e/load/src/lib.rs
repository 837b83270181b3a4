//! An open-loop load generator that records every request.
//!
//! A closed-loop client waits for a response before it sends the next request. An outage of a
//! second then affects only a few requests, and averages hide it ("coordinated omission"). This
//! generator sends requests on a fixed schedule, independently of earlier ones, and measures every
//! latency from the scheduled start.
//!
//! Every request becomes a record of 16 bytes: its due time, latency, version (`x-version`) and
//! [`RequestOutcome`], which distinguishes errors of the service from requests that were lost in
//! routing. Nothing is retried.
//!
//! ```no_run
//! # async fn example() -> Result<(), serin_load::StartError> {
//! use serin_load::{Load, LoadOptions};
//!
//! let load = Load::start(&LoadOptions {
//!     rate_per_second: 300,
//!     ..LoadOptions::new("http://127.0.0.1:8000/")
//! })?;
//! let before = load.elapsed();
//! // ... shift traffic ...
//! let report = load.stop().await;
//! assert_eq!(report.between(before..).counts().routing_failures(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! # Bounds
//! Requests go to loopback and private addresses only (RFC 1918, RFC 4193): a typo in the URL must
//! not become an attack. Rate, duration, requests in flight and records are limited too
//! ([`limits`]).

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
    options::{LoadOptions, StartError, limits},
    outcome::{OutcomeCounts, RequestOutcome, RoutingFailure},
    record::{FailureDetail, LoadSnapshot, VersionSnapshot},
    report::{EndReason, LatencySummary, LoadReport, ReportView, RequestResult},
    summary::{LoadSummary, VersionSummary},
};
