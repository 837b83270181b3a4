//! The statistics of Serin: from counters to evidence to a verdict, and error budgets.
//!
//! Data flow of one release:
//!
//! 1. [`counters`] turns raw Prometheus samples into [`Tick`]s: exact counts of requests and errors
//!    of the canary and of stable, as a function of the samples' timestamps alone.
//! 2. [`evidence`] multiplies each tick into test martingales: against "the canary is as good as
//!    stable" ([`eprocess`]), against "the canary is worse by the margin" ([`promotion`]), and into
//!    the error budget spent ([`budget`]).
//! 3. [`decision`] evaluates the decision table and [`explain`] describes the verdict in counts.
//!
//! This crate reads no clock, performs no IO and draws no random numbers. Replaying the same
//! samples therefore always gives the same verdict. All state that must survive a restart is in one
//! small serializable value, [`ObjectiveState`].
//!
//! Proven: if the counts are independent Bernoulli (or Poisson) trials given the past, the rollback
//! process is a supermartingale under the null hypothesis. By Ville's inequality it then rolls back
//! a good release with probability at most `alpha`, at any number of evaluations. The share bets
//! ([`share`]), a part of it, need less: each error within a scrape is the canary's with at most its
//! share as the probability, however errors cluster. Heuristic: the overdispersion factor `k`
//! ([`multi_scale`]), which is estimated from data if the trials are not independent. [`claim`] states
//! which of these a release can rely on.

#![warn(missing_docs)]
#![cfg_attr(
    test,
    expect(clippy::float_cmp, reason = "tests compare doubles that must be exact")
)]

pub mod arm_dispersion;
pub mod bake;
pub mod bernoulli;
pub mod bet;
pub mod budget;
pub mod claim;
pub mod confidence;
pub mod config;
pub mod counters;
pub mod counts;
pub mod decision;
pub mod eprocess;
pub mod evidence;
pub mod explain;
pub mod feasibility;
mod format;
#[cfg(test)]
mod golden;
pub mod latency;
pub mod line_evaluator;
pub mod multi_scale;
mod numeric;
pub mod objective;
pub mod overdispersion;
pub mod placebo;
pub mod pods;
pub mod promotion;
pub mod service_guard;
pub mod share;
pub mod step_size;
pub mod strata;
pub mod verdict;

pub use config::{ConfigError, EvidenceConfig};
pub use counters::{Arm, CounterKind, Sample, SampleBatch};
pub use counts::{Counts, PodCounts, PodId, Tick};
pub use decision::{AnalysisConfig, Evaluation, RolloutContext, Verdict, evaluate};
pub use evidence::Evidence;
pub use objective::{Objective, ObjectiveConfig, ObjectiveState, RoundReport};
