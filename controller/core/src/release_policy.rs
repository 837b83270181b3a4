//! The policies of a release are fixed when the release begins: an edit of a RolloutPolicy counts
//! from the next release.

use serde::{Deserialize, Serialize};

use crate::release_analysis::AnalysisDocument;
use crate::text::Name;

/// A RolloutPolicy under which a release began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReleasePolicy {
    /// Name of the RolloutPolicy.
    pub name: Name,
    /// Whether the next release does not start if the policy does not exist any more. Defaults to
    /// false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Defaults of the policy for the strategy and the deadlines, as they were when the release
    /// began. Unset if there are none, and after the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schemars",
        schemars(schema_with = "crate::schema::any_object")
    )]
    pub defaults: Option<AnalysisDocument>,
}
