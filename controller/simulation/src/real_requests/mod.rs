//! A/A and A/B tests on the requests of a log.
//!
//! Only the arm of each request is drawn, so it is known exactly whether the canary equals stable.
//! The requests keep the order and the clusters of the original service, unlike those of a
//! simulated one. The first half of the log is the history, the second half is the release.

mod cells;
mod fixed_weight_rule;
mod log_placebo;
mod markdown;
mod split;

pub use cells::{
    AaCell, AbCell, ModeResult, NamedLog, RealReport, RealRequestsOptions, SCRAPE_SECONDS, WEIGHTS,
    run,
};
pub use fixed_weight_rule::{BoundClaim, CountingMode, shipped_evidence};
pub use log_placebo::{LogPlacebo, LogPlaceboOptions, log_placebo};
pub use markdown::markdown;
pub use split::{STABLE_PODS, SplitUnit};
