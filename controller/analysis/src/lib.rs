//! The pure statistics of Serin: counters to evidence to verdict, error budgets.
//!
//! The way of a release through this crate:
//!
//! 1. [`counters`] turns raw Prometheus samples into [`Tick`]s: exact counts of requests and errors
//!    of the canary and of stable, as a function of the samples' timestamps alone.
//! 2. [`evidence`] multiplies each tick into test martingales: against "the canary is as good as
//!    stable" ([`eprocess`]), against "the canary is worse by the margin" ([`promotion`]), and into
//!    the error budget spent ([`budget`]).
//! 3. [`judge`] reads the decision table, [`explain`] tells the verdict in counts.
//!
//! Nothing in here has a clock, does IO or draws a random number, so that replaying the same
//! samples always gives the same verdict, and everything that must survive a restart is in one
//! small serialisable value, [`ObjectiveState`].
//!
//! What is a theorem here: with counts that are independent Bernoulli (or Poisson) trials given the
//! past, the rollback process is a supermartingale under the null hypothesis, so by Ville's
//! inequality a good release is rolled back by it with probability at most `alpha`, however often
//! one looks. What is a heuristic: the overdispersion factor `k` estimated from data, where the
//! trials are not independent.

#![warn(missing_docs)]
#![cfg_attr(
    test,
    expect(clippy::float_cmp, reason = "tests compare doubles that must be exact")
)]

pub mod bernoulli;
pub mod bet;
pub mod budget;
pub mod confidence;
pub mod config;
pub mod counters;
pub mod counts;
pub mod eprocess;
pub mod evaluate;
pub mod evidence;
pub mod explain;
pub mod feasibility;
#[cfg(test)]
mod golden;
pub mod guard;
pub mod judge;
pub mod latency;
mod numeric;
pub mod objective;
pub mod overdispersion;
pub mod promotion;
pub mod step_size;
pub mod verdict;
pub mod watch;

pub use config::{ConfigError, EvidenceConfig};
pub use counters::{Arm, Feed, Kind, Sample};
pub use counts::{Counts, PodCounts, Tick};
pub use evidence::Evidence;
pub use judge::{Context, JudgeConfig, Judgement, Verdict, judge};
pub use objective::{Objective, ObjectiveConfig, ObjectiveState, RoundReport};
