//! The pure planner of Serin.
//!
//! [`decide()`] takes the plan (what the user asked for, validated), what was observed (including
//! the position persisted in status) and the time, and answers with the new position, the desired
//! states to make true, when to look again, and why. It has no clock, no randomness and no IO, so
//! that every behaviour is a plain test.

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
mod approximate;
mod cap;
mod commands;
mod decide;
mod draft;
mod freeze;
mod goal;
mod growth;
mod progress;
mod promotion;
mod release;
mod route;
mod router;
mod scale;
mod services;
mod steps;
mod timers;
mod waiting;
mod words;

pub use decide::decide;
