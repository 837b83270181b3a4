//! Test fixtures for this crate and the runtime.

use std::collections::BTreeMap;

use serin_analysis::claim::RoutedUnit;
use serin_core::plan::RouteKind;
use serin_core::units::{Revision, Weight};
use serin_crds::analysis::{AnalysisSpec, Indicator, ObjectiveSpec, PrometheusSpec};

use crate::checks::AwaitedChecks;
use crate::routes::{RouteBackend, RouteParent, RouteRule, RouteRules, RouteScope};
use crate::{AnalysisRequest, ReleasePhase, RolloutName};

/// The first rule of a route behind the Gateway `infra/public`, to one Service on port 80.
pub fn split_rule(namespace: &str, route: &str, service: &str) -> RouteRule {
    let [namespace, service] = [namespace, service].map(ToOwned::to_owned);
    RouteRule {
        kind: RouteKind::HttpRoute,
        namespace: namespace.clone(),
        route: route.to_owned(),
        index: Some(0),
        name: None,
        parents: vec![RouteParent {
            is_listener_set: false,
            namespace: "infra".to_owned(),
            name: "public".to_owned(),
        }],
        backends: vec![RouteBackend {
            namespace,
            service,
            port: Some(80),
        }],
    }
}

/// A release of `shop/checkout` from revision `aaa` to `bbb`, analyzed with Traefik's counters at a
/// scrape interval of one second.
pub fn request() -> AnalysisRequest {
    let objective = ObjectiveSpec {
        name: "availability".to_owned(),
        objective: 99.9,
        indicator: Some(Indicator::Traefik),
        ..ObjectiveSpec::default()
    };
    let analysis = AnalysisSpec {
        prometheus: Some(PrometheusSpec {
            scrape_interval: Some("1s".to_owned()),
            ..PrometheusSpec::default()
        }),
        objectives: vec![objective],
        checks: Vec::new(),
        bake_time: None,
        rollback: None,
        budget: None,
        on_no_data: None,
        warm_up: None,
        baseline: None,
        max_duration: None,
    };
    AnalysisRequest {
        rollout: RolloutName {
            namespace: "shop".to_owned(),
            name: "checkout".to_owned(),
        },
        uid: "1".to_owned(),
        revision: Revision::new("bbb"),
        analysis,
        stable_service: Some("checkout".to_owned()),
        canary_service: Some("checkout-canary".to_owned()),
        rules: RouteRules {
            split: vec![split_rule("shop", "checkout", "checkout")],
            others: Vec::new(),
            scope: RouteScope::AllNamespaces,
        },
        stable_replica_set: Some("checkout-aaa".to_owned()),
        canary_replica_set: "checkout-bbb".to_owned(),
        pod_sides: BTreeMap::new(),
        pods_created_at: BTreeMap::new(),
        pod_nodes: BTreeMap::new(),
        baseline_since: None,
        compared_stable: 1.0,
        routed_unit: RoutedUnit::Request,
        weight: Weight::percent(20),
        pace: None,
        is_blue_green: false,
        evidence_required_at: None,
        phase: ReleasePhase::Release,
        awaited_checks: AwaitedChecks::default(),
        freeze_lifted: false,
        previous_ended_at: None,
        resume_from: None,
        placebos: BTreeMap::new(),
    }
}
