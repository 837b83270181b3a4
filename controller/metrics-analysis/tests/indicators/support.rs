//! A Rollout, the series that Prometheus stores of an exporter, and how they are counted.

use std::collections::BTreeMap;

use promql_parser::parser::{self, Expr};
use serde_json::{Value, json};
use serin_analysis::Arm;
use serin_analysis::claim::RoutedUnit;
use serin_core::plan::RouteKind;
use serin_core::units::{Revision, Weight};
use serin_metrics_analysis::checks::AwaitedChecks;
use serin_metrics_analysis::counter_selectors::{AnalysisError, CounterSelectors};
use serin_metrics_analysis::prometheus::{Labels, Series};
use serin_metrics_analysis::routes::{
    RouteBackend, RouteParent, RouteRule, RouteRules, RouteScope,
};
use serin_metrics_analysis::target_deduplicator::TargetDeduplicator;
use serin_metrics_analysis::{AnalysisRequest, ReleasePhase, RolloutName};

/// A series as Prometheus stores it, and its value.
pub type StoredSeries = (Labels, f64);

/// Requests and bad requests of the canary, of stable, and of all versions together.
#[derive(Debug, PartialEq)]
pub struct RequestTotals {
    pub canary: (f64, f64),
    pub stable: (f64, f64),
    pub service: (f64, f64),
}

pub const EXPECTED_TOTALS: RequestTotals = RequestTotals {
    canary: (3000.0, 24.0),
    stable: (27_015.0, 14.0),
    service: (30_015.0, 38.0),
};

/// Converts exposition text to stored series, as Prometheus does. A line `# target: ...` sets the
/// labels that the scrape adds to the following lines. If a series already has such a label, it
/// becomes `exported_...`, unless the scrape honors the labels of its target.
pub fn scraped(text: &str, honor_labels: bool) -> Vec<StoredSeries> {
    let mut target = Labels::new();
    let mut stored = Vec::new();
    for line in text.lines() {
        if let Some(labels) = line.strip_prefix("# target: ") {
            target = labels_of(labels);
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap();
        let mut all = Labels::from([("__name__".to_owned(), name.to_owned())]);
        for (label, value) in labels_of(labels.strip_suffix('}').unwrap()) {
            let is_taken = target.contains_key(&label) && !honor_labels;
            // Prometheus stores no label without a value.
            if !value.is_empty() {
                all.insert(
                    if is_taken {
                        format!("exported_{label}")
                    } else {
                        label
                    },
                    value,
                );
            }
        }
        for (label, value) in &target {
            all.entry(label.clone()).or_insert_with(|| value.clone());
        }
        stored.push((all, value.parse().unwrap()));
    }
    assert!(!stored.is_empty());
    stored
}

/// Parses `a="b",c="d"`. No value of the fixtures contains a quote or an escape.
pub fn labels_of(text: &str) -> Labels {
    let pairs = text
        .split("\",")
        .map(|pair| pair.split_once("=\"").unwrap());
    pairs
        .map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect()
}

/// The series that a selector matches.
pub fn select<'a>(stored: &'a [StoredSeries], selector: &str) -> Vec<&'a StoredSeries> {
    let Ok(Expr::VectorSelector(selector)) = parser::parse(selector) else {
        panic!("no selector: {selector}")
    };
    let matches = |(labels, _): &&StoredSeries| {
        let name = selector
            .name
            .as_ref()
            .is_none_or(|name| labels["__name__"] == *name);
        let value = |label: &str| labels.get(label).map_or("", String::as_str);
        name && selector
            .matchers
            .matchers
            .iter()
            .all(|matcher| matcher.is_match(value(&matcher.name)))
    };
    stored.iter().filter(matches).collect()
}

/// A rule of a route behind the Gateway `gateway-system/local`, with these Services.
pub fn rule(namespace: &str, route: &str, index: usize, services: &[&str]) -> RouteRule {
    let backend = |service: &&str| RouteBackend {
        namespace: namespace.to_owned(),
        service: (*service).to_owned(),
        port: Some(80),
    };
    RouteRule {
        kind: RouteKind::HttpRoute,
        namespace: namespace.to_owned(),
        route: route.to_owned(),
        index: Some(index),
        name: None,
        parents: vec![RouteParent {
            is_listener_set: false,
            namespace: "gateway-system".into(),
            name: "local".into(),
        }],
        backends: services.iter().map(backend).collect(),
    }
}

pub fn request() -> AnalysisRequest {
    AnalysisRequest {
        rollout: RolloutName {
            namespace: "shop".into(),
            name: "checkout".into(),
        },
        uid: "1".into(),
        revision: Revision::new("bbb"),
        analysis: serde_json::from_value(json!({"objectives": []})).unwrap(),
        stable_service: Some("checkout".into()),
        canary_service: Some("checkout-canary".into()),
        rules: RouteRules {
            split: vec![rule(
                "shop",
                "checkout",
                0,
                &["checkout", "checkout-canary"],
            )],
            others: Vec::new(),
            scope: RouteScope::AllNamespaces,
        },
        pod_sides: BTreeMap::new(),
        stable_replica_set: Some("checkout-aaa".into()),
        canary_replica_set: "checkout-bbb".into(),
        pods_created_at: BTreeMap::new(),
        pod_nodes: BTreeMap::new(),
        baseline_since: None,
        compared_stable: 1.0,
        routed_unit: RoutedUnit::Request,
        weight: Weight::percent(10),
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

pub fn counters(objective: Value) -> Result<CounterSelectors, AnalysisError> {
    counters_of(&request(), objective)
}

pub fn counters_of(
    request: &AnalysisRequest,
    objective: Value,
) -> Result<CounterSelectors, AnalysisError> {
    let mut written = json!({"name": "availability", "objective": 99.9});
    written
        .as_object_mut()
        .unwrap()
        .extend(objective.as_object().unwrap().clone());
    CounterSelectors::new(&serde_json::from_value(written).unwrap(), request)
}

/// A set of labels.
pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
        .collect()
}

pub fn indicator(name: &str) -> CounterSelectors {
    counters(json!({"indicator": name})).unwrap()
}

pub fn sum<'a>(series: impl IntoIterator<Item = &'a StoredSeries>) -> f64 {
    series.into_iter().map(|(_, value)| value).sum()
}

/// The counts of an objective's four selectors. For a histogram, requests outside the bucket are
/// bad.
pub fn request_totals(counters: &CounterSelectors, stored: &[StoredSeries]) -> RequestTotals {
    let side_series = |selector: &str, arm: Arm| {
        sum(select(stored, selector)
            .into_iter()
            .filter(|(labels, _)| counters.arm(labels) == Some(arm)))
    };
    let bad = |total: f64, second: f64| {
        if counters.histogram.is_some() {
            total - second
        } else {
            second
        }
    };
    let arm = |arm: Arm| {
        let total = side_series(&counters.total_of_sides, arm);
        (
            total,
            bad(total, side_series(&counters.errors_of_sides, arm)),
        )
    };
    let total = sum(select(stored, &counters.total));
    let service = (total, bad(total, sum(select(stored, &counters.errors))));
    RequestTotals {
        canary: arm(Arm::Canary),
        stable: arm(Arm::Stable),
        service,
    }
}

/// The label layouts of an indicator that match any series.
pub fn layouts_in(counters: &CounterSelectors, stored: &[StoredSeries]) -> Vec<CounterSelectors> {
    let is_found = |layout: &&CounterSelectors| !select(stored, &layout.total_of_sides).is_empty();
    counters.layouts().filter(is_found).cloned().collect()
}

/// The deduplicated series.
pub fn sides_only(counters: &CounterSelectors, stored: &[StoredSeries]) -> Vec<StoredSeries> {
    let series = |(labels, value): &StoredSeries| Series {
        labels: labels.clone(),
        samples: vec![(0, *value)],
    };
    let answer = select(stored, &counters.total_of_sides)
        .into_iter()
        .map(series)
        .collect();
    let [deduplicated] = TargetDeduplicator::default()
        .deduplicate(counters, [&answer])
        .unwrap();
    deduplicated
        .iter()
        .map(|series| (series.labels.clone(), series.samples[0].1))
        .collect()
}
