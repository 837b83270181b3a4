//! The whole controller against a cluster in memory, under paused time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod access;
mod commands;
mod deletion;
mod edits;
mod faults;
mod judged;
mod kinds;
mod releases;
mod services;
mod stage;
mod unusable;
mod writes;
