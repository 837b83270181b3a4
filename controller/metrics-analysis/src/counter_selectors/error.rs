//! Why the analysis of an objective is not possible.

use serin_core::hold::HoldCode;

use crate::prometheus::QueryError;

/// Why the analysis is not possible until someone changes the configuration or Prometheus recovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnalysisError {
    /// What holds the release.
    pub code: HoldCode,
    /// Message for operators.
    pub message: String,
}

impl AnalysisError {
    pub(crate) fn invalid_spec(message: String) -> Self {
        Self {
            code: HoldCode::InvalidSpec,
            message,
        }
    }

    /// No Prometheus address is configured.
    pub fn no_address() -> Self {
        let message = "No Prometheus address is configured: set spec.analysis.prometheus.address, \
            or configure a default for the controller.";
        Self {
            code: HoldCode::NotConfigured,
            message: message.to_owned(),
        }
    }

    pub(super) fn invalid_query(
        objective: &str,
        field: &str,
        message: impl std::fmt::Display,
    ) -> Self {
        Self {
            code: HoldCode::InvalidQuery,
            message: format!("spec.analysis.objectives[{objective}].{field}: {message}"),
        }
    }

    pub(crate) fn missing_edge(objective: &str, message: &str) -> Self {
        let message = format!("spec.analysis.objectives[{objective}].latency.threshold: {message}");
        Self {
            code: HoldCode::NoSuchBucket,
            message,
        }
    }

    pub(crate) fn too_large(objective: &str, size: &str) -> Self {
        let message = format!(
            "The metrics of {objective} cannot be read. Even if Prometheus adds them up by scrape \
             target, the answer is too large: {size}. Use the counters of the gateway or the mesh, \
             which has fewer scrape targets, or restrict the selector."
        );
        Self {
            code: HoldCode::TooLarge,
            message,
        }
    }

    pub(crate) fn ambiguous_series(objective: &str, why: &str) -> Self {
        let message =
            format!("The metrics of {objective} cannot be assigned to canary and stable: {why}.");
        Self {
            code: HoldCode::AmbiguousSeries,
            message,
        }
    }

    pub(crate) fn from_query_error(objective: &str, error: &QueryError) -> Self {
        Self {
            code: error.code(),
            message: error.describe(&format!("The metrics of {objective} cannot be read")),
        }
    }
}
