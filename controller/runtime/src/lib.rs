//! All input and output of Serin: watches, reconciliation, status, Events, Prometheus queries,
//! leader election, metrics and HTTP.
//!
//! This crate is a thin shell around the pure crates. A reconcile collects the cached objects,
//! calls [`serin_core::decide`], writes the new state to `.status`, and then executes the effects.

pub mod admission_policy;
pub mod analysis;
pub mod analyzer;
pub mod answer_journal;
pub mod client;
pub mod clock;
pub mod cluster_cache;
pub mod config;
pub mod controller;
pub mod dispatcher;
pub mod effects;
pub mod election;
pub mod events;
pub mod foreign_workload;
mod gate;
pub mod guardrails;
pub mod http;
pub mod image_registry;
pub mod journal;
pub mod local_state;
pub mod memory_need;
pub mod mount_failures;
pub mod namespace_slots;
pub mod observe;
pub mod ownership;
pub mod planner;
mod policy_status;
pub mod probes;
pub mod queue;
pub mod reconcile;
pub mod reference;
pub mod replicas_source;
mod request_rate;
pub mod revision;
pub mod run;
pub mod scope;
pub mod slot_limit;
pub mod state_sizes;
pub mod status;
pub mod telemetry;
mod timed_write;
mod token_bucket;
pub mod unbound_services;
pub mod uninstall;
pub mod verdict_server;
pub mod watchdog;
pub mod workload;
mod write_latency;
