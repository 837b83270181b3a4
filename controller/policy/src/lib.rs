//! Resolves the effective spec of a Rollout from its own spec, the RolloutPolicies that match it
//! and the AnalysisTemplates that it names.
//!
//! A value of the Rollout comes first, then those of the policies in the order of their precedence.
//! References to objectives, checks and indicators are replaced by what they refer to. What cannot
//! be resolved is a [`Problem`] with field, value and fix. The crate has no clock and performs no
//! IO.
//!
//! ```
//! use serin_crds::{RolloutPolicySpec, RolloutSpec};
//! use serin_policy::{Defaults, Inputs, PolicyInput, Subject, resolve};
//!
//! let spec: RolloutSpec = serde_json::from_value(serde_json::json!({
//!     "workloadRef": {"kind": "Deployment", "name": "checkout"},
//!     "strategy": {"canary": {}},
//!     "analysis": {"objectives": [{"ref": "http-availability"}]},
//! }))?;
//! let policy: RolloutPolicySpec = serde_json::from_value(serde_json::json!({
//!     "defaults": {"progressDeadlineSeconds": 300},
//!     "objectives": [{"name": "http-availability", "objective": 99.9, "indicator": "pod"}],
//! }))?;
//! let subject = Subject { namespace: "shop", name: "checkout", spec: &spec };
//! let inputs = Inputs {
//!     policies: vec![PolicyInput::new("platform", &policy)],
//!     templates: Ok(Vec::new()),
//! };
//!
//! let effective = resolve(subject, &inputs, Defaults::Current);
//! assert!(effective.problems.is_empty());
//! assert_eq!(effective.spec.progress_deadline_seconds, Some(300));
//! let origin = &effective.origins["spec.analysis.objectives[http-availability].objective"];
//! assert_eq!(origin.to_string(), "RolloutPolicy platform");
//! # Ok::<(), serde_json::Error>(())
//! ```

#![warn(missing_docs)]

mod builtin;
mod catalog;
mod document;
mod guardrails;
mod merge;
mod resolve;
mod select;
mod source;
mod substitute;
mod validate;

pub use builtin::fill_in_builtin_defaults;
pub use catalog::TemplateInput;
pub use guardrails::{GuardrailOrigins, combine_guardrails};
pub use resolve::{
    AppliedPolicy, Defaults, Effective, Inputs, MAX_POLICIES, Subject, has_references,
    kept_defaults, resolve, template_names,
};
pub use select::{Labels, PolicyInput, matches, sort_by_precedence};
pub use source::{MAX_PROBLEMS, Origins, Problem, ProblemKind, Source};
pub use validate::validate;
