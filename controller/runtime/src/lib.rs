//! The IO of Serin: watches, reconcile, status, events, Prometheus, election, metrics.
//!
//! Everything here is a thin shell around the pure crates: it looks at the world, asks the planner, writes the new
//! position to status first and then makes the effects true.

pub mod election;
pub mod http;
pub mod judging;
pub mod prometheus;
pub mod telemetry;
