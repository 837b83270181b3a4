//! The stored form of the overdispersion of stable's pods.

use serde::{Deserialize, Serialize};

use super::scale::Scale;
use super::{Block, MAX_LEVELS, MultiScaleDispersion};

/// The stored form. Earlier versions stored the two sums of [`crate::overdispersion`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StoredDispersion {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    numerator: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    denominator: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pods: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scales: Vec<Scale>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<Scale>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<Option<Block>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    least_k: Option<f64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    latest_pods: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde expects"
)]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl From<StoredDispersion> for MultiScaleDispersion {
    fn from(stored: StoredDispersion) -> Self {
        let of_earlier_version = match (stored.numerator, stored.denominator) {
            (Some(numerator), Some(denominator)) if denominator > 0.0 => {
                Some((numerator / denominator).max(1.0))
            }
            _ => None,
        };
        let mut dispersion = Self {
            pods: stored.pods,
            scales: stored.scales,
            history: stored.history.unwrap_or_default(),
            waiting: stored.waiting,
            least_k: stored.least_k.or(of_earlier_version),
            latest_pods: stored.latest_pods,
        };
        dispersion.scales.truncate(MAX_LEVELS);
        dispersion.waiting.truncate(MAX_LEVELS);
        dispersion
    }
}

impl From<MultiScaleDispersion> for StoredDispersion {
    fn from(dispersion: MultiScaleDispersion) -> Self {
        Self {
            numerator: None,
            denominator: None,
            pods: dispersion.pods,
            scales: dispersion.scales,
            history: Some(dispersion.history).filter(|history| *history != Scale::default()),
            waiting: dispersion.waiting,
            least_k: dispersion.least_k,
            latest_pods: dispersion.latest_pods,
        }
    }
}
