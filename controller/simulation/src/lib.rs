//! How fast and how surely bad releases are found: the shipped rule beside those that other
//! controllers ship, simulated.
//!
//! [`run`] simulates whole rollouts, tick by tick, with binomial requests and errors, in several
//! [`world`]s, and decides them with the very code of `serin-analysis` that the controller runs.
//! [`markdown`] writes the tables, [`goals`] holds them against what is wanted, [`chart`] draws a
//! picture. The same options give the same numbers, whatever the number of threads: every rollout
//! has a seed of its own. [`simulate`] answers for one release under any configuration, [`odds`]
//! for one as its Rollout paces it, and [`rivals`] work on recorded ticks, too.

#![cfg_attr(
    test,
    expect(clippy::float_cmp, reason = "simulated figures repeat exactly")
)]

mod chart;
mod efficiency;
mod goals;
mod markdown;
pub mod odds;
mod outcome;
mod paced;
mod parallel;
mod report;
pub mod rivals;
pub mod world;

pub use chart::chart;
pub use efficiency::{Detection, Promotion};
pub use goals::{Goal, goals};
pub use markdown::markdown;
pub use outcome::{Decision, Summary};
pub use report::{Cell, Options, Report, run, simulate};
