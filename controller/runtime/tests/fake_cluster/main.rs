//! Integration tests of the whole controller on a fake cluster, under paused time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod analysis;
mod api_write_budget;
mod commands;
mod credentials;
mod degraded;
mod deletion;
mod faults;
mod fixtures;
mod harness;
mod missing_kinds;
mod releases;
mod schema_versions;
mod services;
mod spec_edits;
