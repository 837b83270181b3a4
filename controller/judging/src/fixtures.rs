//! What several tests begin with, here and in the runtime.

use std::collections::BTreeMap;

use serin_core::units::{Revision, Weight};
use serin_crds::analysis::{AnalysisSpec, Indicator, ObjectiveSpec, PrometheusSpec};

use crate::{JudgeRequest, Phase, RolloutName};

/// A release of `shop/checkout` from revision `aaa` to `bbb`, by Traefik's counters, scraped once a second.
pub fn request() -> JudgeRequest {
    let objective = ObjectiveSpec {
        name: "availability".to_owned(),
        objective: 99.9,
        window: None,
        indicator: Some(Indicator::Traefik),
        counters: None,
        latency: None,
    };
    let analysis = AnalysisSpec {
        prometheus: Some(PrometheusSpec { scrape_interval: Some("1s".to_owned()), ..PrometheusSpec::default() }),
        objectives: vec![objective],
        checks: Vec::new(),
        watch_after_promotion: None,
        rollback: None,
        budget: None,
        on_no_data: None,
        warm_up: None,
        longest: None,
    };
    JudgeRequest {
        rollout: RolloutName { namespace: "shop".to_owned(), name: "checkout".to_owned() },
        uid: "1".to_owned(),
        revision: Revision::new("bbb"),
        analysis,
        stable_service: Some("checkout".to_owned()),
        canary_service: Some("checkout-canary".to_owned()),
        stable_replica_set: Some("checkout-aaa".to_owned()),
        canary_replica_set: "checkout-bbb".to_owned(),
        pods_created_at: BTreeMap::new(),
        weight: Weight::percent(20),
        pace: None,
        proven_at: None,
        phase: Phase::Release,
        freeze_lifted: false,
        previous_ended_at: None,
        resume_from: None,
    }
}
