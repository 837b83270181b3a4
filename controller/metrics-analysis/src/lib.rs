//! From what Prometheus has counted to what a planner, a status and people read.
//!
//! The way of an objective through this crate: [`selector`] says which series are read and which
//! side each counts for, [`prometheus`] asks for them ([`access`]: with which headers and
//! certificates), [`reading`] turns the answers into samples, [`release`] hands those to the
//! statistics of `serin_analysis` and keeps their state, [`telling`] says what came out. Whatever
//! asks at its own pace stands outside: the controller polls for the releases under way, [`replay`]
//! reads the past.
//!
//! Only [`prometheus`], [`history`], [`service`] and [`replay`] do IO; nothing here knows
//! Kubernetes' API.

pub mod access;
pub mod budget;
pub mod checkpoint;
pub mod checks;
mod fingerprint;
mod guarded;
pub mod histogram;
pub mod history;
mod indicator;
pub mod judged;
mod matcher;
pub mod prometheus;
pub mod reading;
pub mod release;
pub mod replay;
mod request;
pub mod routes;
mod scrape_interval;
pub mod selector;
pub mod service;
pub mod settings;
mod sums;
pub mod targets;
pub mod telling;
mod traefik;
mod watch;

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;

pub use matcher::is_pod_name_of;
pub use request::{JudgeRequest, Look, Phase, RolloutName};
