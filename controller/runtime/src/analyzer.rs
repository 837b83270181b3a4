//! The interface between reconciles and the metrics analysis. A reconcile submits a request and
//! reads the latest snapshot. It never waits for a query.

use serin_core::units::Revision;
use serin_metrics_analysis::{AnalysisRequest, AnalysisSnapshot};

use crate::analysis::AnalysisManager;

/// Analyzes the metrics of releases in the background.
///
/// # Examples
///
/// An analyzer that never decides. A release that needs evidence waits.
///
/// ```
/// use jiff::Timestamp;
/// use serin_core::observed::ReportKind;
/// use serin_core::units::Revision;
/// use serin_metrics_analysis::{AnalysisRequest, AnalysisSnapshot};
/// use serin_runtime::analyzer::Analyzer;
///
/// struct Undecided;
///
/// impl Analyzer for Undecided {
///     fn start_or_update(&self, _request: AnalysisRequest) {}
///
///     fn stop(&self, _uid: &str) {}
///
///     fn snapshot(&self, _uid: &str, _revision: &Revision) -> AnalysisSnapshot {
///         AnalysisSnapshot::undecided("Nothing is measured.", Timestamp::UNIX_EPOCH)
///     }
/// }
///
/// let snapshot = Undecided.snapshot("2f1c", &Revision::new("5d4f8c7b9"));
/// assert_eq!(snapshot.report.kind(), ReportKind::Undecided);
/// ```
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
