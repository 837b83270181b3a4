//! The interface between reconciles and the metrics analysis. A reconcile submits a request and
//! reads the latest snapshot. It never waits for a query.

use serin_core::units::Revision;
use serin_metrics_analysis::{AnalysisRequest, AnalysisSnapshot};

use crate::analysis::AnalysisManager;

/// Analyzes the metrics of releases in the background.
pub trait Analyzer: Send + Sync {
    /// Starts the analysis of this release, or updates the running one.
    fn start_or_update(&self, request: AnalysisRequest);
    /// Stops the analysis of this Rollout.
    fn stop(&self, uid: &str);
    /// The latest analysis of this revision.
    fn snapshot(&self, uid: &str, revision: &Revision) -> AnalysisSnapshot;
}

impl Analyzer for AnalysisManager {
    fn start_or_update(&self, request: AnalysisRequest) {
        Self::start_or_update(self, request);
    }

    fn stop(&self, uid: &str) {
        Self::stop(self, uid);
    }

    fn snapshot(&self, uid: &str, revision: &Revision) -> AnalysisSnapshot {
        Self::snapshot(self, uid, revision)
    }
}
