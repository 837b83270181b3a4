//! Simulations of the speed and reliability of rollbacks: Serin's rule compared with the rules of
//! other controllers.
//!
//! [`run`] simulates whole rollouts, tick by tick, with binomial requests and errors, under several
//! [`scenario::Conditions`]. It evaluates them with the same `serin-analysis` code as the
//! controller. [`markdown`] writes the tables, [`goals`] compares them with the goals, [`chart`]
//! draws a chart. Every rollout has its own seed, so the same options give the same numbers with
//! any number of threads. [`simulate`] simulates one release under any configuration,
//! [`release_simulation`] one that is paced by its Rollout. [`competing_rules`] also work on
//! recorded ticks. [`real_requests`] tests the rule on the requests of a [`request_log`],
//! and [`worlds`] simulates harsher services.

#![cfg_attr(
    test,
    expect(clippy::float_cmp, reason = "simulated figures repeat exactly")
)]

mod chart;
pub mod competing_rules;
mod efficiency;
mod goals;
mod markdown;
mod outcome;
mod parallel;
mod proportion;
pub mod real_requests;
pub mod release_simulation;
mod report;
pub mod request_log;
pub mod scenario;
mod shipped_rule;
pub mod worlds;

pub use chart::chart;
pub use efficiency::{Detection, Promotion};
pub use goals::{Goal, goals};
pub use markdown::markdown;
pub use outcome::{FinalDecision, OutcomeSummary};
pub use proportion::Proportion;
pub use report::{BenchmarkReport, SimulationOptions, TableCell, run, simulate};
