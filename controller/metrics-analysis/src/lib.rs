//! Metrics analysis: queries Prometheus and reports evidence to the planner, to the status and to
//! operators.
//!
//! Data flow for one objective: [`counter_selectors`] defines the series and their assignment to
//! canary and stable. [`prometheus`] queries them, with the headers and certificates of
//! [`credentials`]. [`sample_reader`] converts the answers to samples. [`release_analysis`] passes
//! the samples to the statistics of `serin_analysis` and keeps their state. [`report`] converts the
//! result for the planner and the status. Scheduling is the caller's responsibility: the controller
//! polls for active releases, and [`replay`] reads the past.
//!
//! Only [`prometheus`], [`http_probe`], [`backfill`], [`service_slo`], [`replay`], [`placebo`] and [`idle_placebo`]
//! perform IO. This crate does not use the Kubernetes API.

pub mod backfill;
mod bake;
mod baseline;
pub mod budget;
pub mod checkpoint;
pub mod checks;
mod coarse_history;
pub mod counter_selectors;
pub mod credentials;
mod endpoints;
mod fingerprint;
pub mod histogram;
pub mod http_probe;
pub mod idle_placebo;
mod indicator;
mod latency_guard;
mod matcher;
pub mod objective_analysis;
mod outlier_pods;
pub mod placebo;
pub mod preview;
pub mod prometheus;
pub mod release_analysis;
pub mod replay;
pub mod report;
mod request;
pub mod routes;
pub mod sample_reader;
mod scrape_interval;
mod server_side_aggregation;
pub mod service_slo;
pub mod settings;
pub mod target_deduplicator;
mod traefik;

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;

pub use matcher::is_pod_name_of;
pub use request::{AnalysisRequest, AnalysisSnapshot, ReleasePhase, RolloutName};
