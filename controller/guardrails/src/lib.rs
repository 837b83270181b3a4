//! Evaluates the guardrails of a RolloutPolicy over what is known about a revision.
//!
//! [`evaluate`] takes the guardrails, the exceptions of the Rollout, the [`Facts`] and the time, and
//! returns what was found. It has no clock and no IO, so that the controller, `kubectl serin lint`
//! and `kubectl serin audit` share it. A fact that is not known is a finding, never a silent pass.

#![warn(missing_docs)]

mod evaluation;
pub mod facts;
mod guardrails;
mod image;
mod image_glob;
mod label_selector;
pub mod registry;
mod signature_key;
mod template;
mod validation;

pub use evaluation::{Evaluation, evaluate};
pub use facts::{Fact, Facts};
pub use image::registry_digest;
pub use signature_key::{InvalidPublicKey, PublicKey};
pub use validation::{InvalidOption, invalid_options};
