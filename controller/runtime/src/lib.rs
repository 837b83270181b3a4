//! The IO of Serin: watches, reconcile, status, events, Prometheus, election, metrics.
//!
//! Everything here is a thin shell around the pure crates: it looks at the world, asks the planner,
//! writes the new position to status first and then makes the effects true.

pub mod client;
pub mod clock;
pub mod config;
pub mod controller;
pub mod effects;
pub mod election;
pub mod events;
pub mod http;
pub mod judge;
pub mod judging;
pub mod memory;
pub mod observe;
pub mod reconcile;
pub mod replicas_source;
pub mod revision;
pub mod run;
pub mod status;
pub mod telemetry;
pub mod uninstall;
pub mod world;
