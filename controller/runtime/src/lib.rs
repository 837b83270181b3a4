//! All input and output of Serin: watches, reconciliation, status, Events, Prometheus queries,
//! leader election, metrics and HTTP.
//!
//! This crate is a thin shell around the pure crates. A reconcile collects the cached objects,
//! calls [`serin_core::decide`], writes the new state to `.status`, and then executes the effects.

pub mod analysis;
pub mod analyzer;
pub mod client;
pub mod clock;
pub mod cluster_cache;
pub mod config;
pub mod controller;
pub mod effects;
pub mod election;
pub mod events;
pub mod http;
pub mod local_state;
pub mod observe;
pub mod reconcile;
pub mod replicas_source;
pub mod revision;
pub mod run;
pub mod status;
pub mod telemetry;
pub mod uninstall;
