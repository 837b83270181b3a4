//! The Serin API: what users write and read.
//!
//! The CustomResourceDefinitions in `crds/yaml` are generated from these types.
//! [`rollout::RolloutSpec::plan`] turns a spec into the planner's validated
//! [`serin_core::plan::Plan`] or names every field that is wrong.

#![warn(missing_docs)]
#![expect(
    clippy::doc_markdown,
    reason = "the docs of the types are what `kubectl explain` prints, where names stand plain"
)]

pub mod analysis;
pub mod api_status;
pub mod check;
pub mod command;
mod crd;
pub mod names;
pub mod plan;
pub mod rollout;
mod rules;
pub mod status;
pub mod strategy;
pub mod text;

pub use command::{RolloutCommand, RolloutCommandSpec, RolloutCommandStatus};
pub use crd::crds;
pub use rollout::{Rollout, RolloutSpec};
pub use status::RolloutStatus;
