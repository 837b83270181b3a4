//! The Kubernetes API of Serin: the resources Rollout, RolloutCommand, RolloutPolicy and
//! AnalysisTemplate.
//!
//! The CustomResourceDefinitions in `crds/yaml` are generated from these types.
//! [`rollout::RolloutSpec::plan`] validates a spec and converts it into a
//! [`serin_core::plan::Plan`], or reports every invalid field.

#![warn(missing_docs)]
#![expect(
    clippy::doc_markdown,
    reason = "`kubectl explain` prints these docs as plain text, so names have no backticks"
)]

pub mod analysis;
pub mod analysis_template;
pub mod anti_affinity;
pub mod api_status;
pub mod check;
pub mod command;
pub mod comparison;
mod crd;
pub mod expression;
pub mod gate;
pub mod guardrails;
pub mod http_check;
pub mod job_check;
pub mod literals;
pub mod managed_routes;
pub mod names;
pub mod plan;
mod pod_spec;
pub mod policy;
pub mod policy_defaults;
pub mod rollout;
mod rules;
pub mod side_metadata;
pub mod status;
pub mod strategy;
pub mod traffic_routing;
pub mod verdict;
pub mod workload;

pub use analysis_template::{AnalysisTemplate, AnalysisTemplateSpec};
pub use command::{RolloutCommand, RolloutCommandSpec, RolloutCommandStatus};
pub use crd::crds;
pub use pod_spec::PodSpecText;
pub use policy::{RolloutPolicy, RolloutPolicySpec, RolloutPolicyStatus};
pub use rollout::{Rollout, RolloutSpec};
pub use status::RolloutStatus;
