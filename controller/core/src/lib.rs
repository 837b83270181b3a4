//! The pure planner of Serin.
//!
//! [`decide()`] takes the plan (what the user asked for, validated), what was observed (including
//! the position persisted in status) and the time, and answers with the new position, the desired
//! states to make true, when to look again, and why. It has no clock, no randomness and no IO, so
//! that every behaviour is a plain test.

#![warn(missing_docs)]

pub mod backoff;
pub mod command;
pub mod effect;
pub mod lease;
pub mod observed;
pub mod plan;
pub mod replicas;
pub mod state;
pub mod units;

mod abort;
mod blockers;
mod commands;
mod context;
mod decide;
mod freeze;
mod growth;
mod progress;
mod promotion;
mod replica_ratio;
mod route;
mod route_state;
mod scale;
mod services;
mod spec_change;
mod status_message;
mod step_down;
mod steps;
mod target;
mod timers;

pub use decide::decide;
