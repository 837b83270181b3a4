//! What several tests begin with.

use std::collections::BTreeMap;

use serde_json::json;
use serin_core::units::{Revision, Weight};

use crate::{JudgeRequest, Phase, RolloutName};

/// A release of `shop/checkout` from revision `aaa` to `bbb`, by Traefik's counters.
pub(crate) fn request() -> JudgeRequest {
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}],
    });
    JudgeRequest {
        rollout: RolloutName { namespace: "shop".into(), name: "checkout".into() },
        uid: "1".into(),
        revision: Revision::new("bbb"),
        analysis: serde_json::from_value(analysis).unwrap(),
        stable_service: Some("checkout".into()),
        canary_service: Some("checkout-canary".into()),
        stable_replica_set: Some("checkout-aaa".into()),
        canary_replica_set: "checkout-bbb".into(),
        pods_created_at: BTreeMap::new(),
        weight: Weight::percent(20),
        pace: None,
        proven_at: None,
        phase: Phase::Release,
        freeze_lifted: false,
        resume_from: None,
    }
}
