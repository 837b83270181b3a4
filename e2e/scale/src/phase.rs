//! The phases and the size of the benchmark.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::product::Product;

/// A phase of the benchmark.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Create rollouts up to the number.
    #[default]
    Create,
    /// Do nothing for a minute.
    Idle,
    /// Update all rollouts at once.
    Update,
    /// Update a tenth of them at once.
    Partial,
    /// Update rollouts at a constant rate for a minute.
    Churn,
    /// Abort rollouts in quiet, then while all others are updated.
    AbortFlood,
    /// Kill and stop the leader of two controllers.
    Failover,
    /// Start the controller with the existing rollouts.
    Start,
}

impl Phase {
    /// All phases in the order in which they run.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Idle,
        Self::Update,
        Self::Partial,
        Self::Churn,
        Self::AbortFlood,
        Self::Failover,
        Self::Start,
    ];

    /// The name in options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Idle => "idle",
            Self::Update => "update",
            Self::Partial => "partial",
            Self::Churn => "churn",
            Self::AbortFlood => "abort-flood",
            Self::Failover => "failover",
            Self::Start => "start",
        }
    }

    /// Whether it runs with each number of rollouts. The others run with the largest one only.
    pub const fn runs_at_each_size(self) -> bool {
        matches!(self, Self::Create | Self::Update)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|phase| phase.name() == text);
        let names = Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| format!("unknown phase {text:?}: use {names}"))
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct ScaleOptions {
    /// The root of the checkout.
    pub checkout: PathBuf,
    /// The program of Serin's controller.
    pub controller: PathBuf,
    /// The products, each on a fresh control plane.
    pub products: Vec<Product>,
    /// Numbers of rollouts. Each adds to those that exist.
    pub rollouts: Vec<u32>,
    /// The phases. [`Phase::Create`] always runs.
    pub phases: Vec<Phase>,
    /// Number of aborts during an update.
    pub aborts: u32,
    /// Number of takeovers for each way in which the leader ends.
    pub takeovers: u32,
    /// Time after a phase for which writes still count to it.
    pub settle: Duration,
    /// Updates per second in [`Phase::Churn`].
    pub churn_per_second: u32,
    /// Time of [`Phase::Idle`] and [`Phase::Churn`].
    pub quiet_time: Duration,
    /// Maximum time for all products. The phases that do not fit are left out.
    pub max_duration: Duration,
    /// Keep the logs, including the audit log.
    pub keep: bool,
    /// Machine, compiler, commit and date, for the results.
    pub environment: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_parsed_by_their_names() {
        for phase in Phase::ALL {
            assert_eq!(phase.name().parse(), Ok(phase));
        }
        let error = "abort".parse::<Phase>().unwrap_err();
        assert!(error.contains("abort-flood"), "{error}");
    }
}
