//! Integration tests of the whole controller on a fake cluster, under paused time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod admission_policy;
mod analysis;
mod api_write_budget;
mod autoscaling;
mod baseline;
mod blue_green;
mod checks_and_gates;
mod churn;
mod commands;
mod crash;
mod credentials;
mod degraded;
mod deletion;
mod edited_analysis;
mod faults;
mod fixtures;
mod gitops;
mod guardrail_lists;
mod guardrails;
mod harness;
mod kill_proof;
mod managed_routes;
mod missing_kinds;
mod mount_failures;
mod observe_mode;
mod ownership;
mod permissions;
mod policies;
mod registries;
mod releases;
mod restart;
mod routers;
mod schema_versions;
mod scope;
mod services;
mod side_metadata;
mod situations;
mod spec_edits;
mod status_size;
mod takeover;
mod unread_metrics;
mod upgrades;
