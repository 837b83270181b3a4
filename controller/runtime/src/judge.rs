//! The seam between reconciling and judging: a reconcile says what to judge and reads the latest
//! judgement, and never waits.

use serin_core::units::Revision;
use serin_metrics_analysis::{JudgeRequest, Look};

use crate::judging::Judges;

/// Judges releases by their metrics.
pub trait Judge: Send + Sync {
    /// Judges this release from now on, or goes on as before.
    fn watch(&self, request: JudgeRequest);
    /// Judges this Rollout no more.
    fn forget(&self, uid: &str);
    /// What the metrics say of this revision right now.
    fn look(&self, uid: &str, revision: &Revision) -> Look;
}

impl Judge for Judges {
    fn watch(&self, request: JudgeRequest) {
        Self::watch(self, request);
    }

    fn forget(&self, uid: &str) {
        Self::forget(self, uid);
    }

    fn look(&self, uid: &str, revision: &Revision) -> Look {
        Self::look(self, uid, revision)
    }
}
