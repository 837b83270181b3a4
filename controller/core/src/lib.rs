//! The pure planner of Serin.
//!
//! [`decide()`] takes the plan (the validated spec), the observation (including the state persisted
//! in status) and the time. It returns the new state, the desired states to apply, when to decide
//! again, and the reasons. It has no clock, no randomness and no IO, so that every behavior is a
//! plain test.

#![warn(missing_docs)]

pub mod assignment_unit;
pub mod backoff;
pub mod baseline;
pub mod blue_green;
pub mod command;
pub mod commands;
pub mod effect;
pub mod gate;
pub mod guardrail;
pub mod hold;
pub mod layer4_rule;
pub mod lease;
pub mod managed_route;
pub mod observation;
pub mod observed;
pub mod plan;
pub mod release_analysis;
pub mod release_policy;
pub mod replicas;
pub mod scale;
#[cfg(feature = "schemars")]
pub mod schema;
pub mod spec_change;
pub mod state;
pub mod state_reader;
pub mod text;
pub mod units;

mod abort;
mod context;
mod converge;
mod decide;
mod freeze_override;
mod growth;
mod guardrail_holds;
mod holds;
mod incompatible;
mod invariants;
mod progress;
mod promotion;
mod quarantine;
mod restart;
mod route_state;
mod status_message;
mod step_down;
mod steps;
mod target;
mod workload;

pub use decide::decide;
pub use invariants::InvariantViolation;
pub use steps::awaited_checks;
pub use workload::{GiveBack, give_back_effects, is_takeover_pending};
