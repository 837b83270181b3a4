//! What the policies of a Rollout contribute, beside its effective spec.

use std::sync::{Arc, LazyLock};

use serin_core::hold::HoldCode;
use serin_core::release_analysis::AnalysisDocument;
use serin_core::release_policy::ReleasePolicy;
use serin_crds::guardrails::Guardrails;
use serin_policy::GuardrailOrigins;

/// What the policies of a Rollout contribute, beside its effective spec.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyView {
    /// Identifies the effective spec within this process. Equal specs have equal versions.
    pub version: u64,
    /// Why no release may begin. `None` if one may.
    pub problem: Option<PolicyProblem>,
    /// The policies that apply to the next release, or that applied when the release in progress
    /// began.
    pub policies: Vec<ReleasePolicy>,
    /// The guardrails: those of the policies as they are now, or during a release those of its
    /// start and the current ones that apply to releases in progress.
    pub guardrails: Arc<Guardrails>,
    /// The guardrails that a release that begins keeps. `None` if they are too large for its
    /// status.
    pub guardrails_of_release: Option<AnalysisDocument>,
    /// The policy of each guardrail.
    pub guardrail_origins: GuardrailOrigins,
}

/// Guardrails in shared memory. Most Rollouts have none, or the same as others.
pub fn shared_guardrails(guardrails: Guardrails) -> Arc<Guardrails> {
    static EMPTY: LazyLock<Arc<Guardrails>> = LazyLock::new(Arc::default);
    if guardrails == **EMPTY {
        return Arc::clone(&EMPTY);
    }
    Arc::new(guardrails)
}

/// Why the policies of a Rollout cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The code of the hold.
    pub code: HoldCode,
    /// The object, the field, the problem and the fix.
    pub message: String,
}
