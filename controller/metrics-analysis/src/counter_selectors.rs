//! The series of an objective: which ones are read, and how they are assigned to canary and stable.

use std::collections::BTreeMap;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, VectorSelector};
use regex::Regex;
use serin_analysis::{Arm, CounterKind};
use serin_crds::analysis::{CountersSpec, Indicator, LatencySpec, ObjectiveSpec, VariantsSpec};
use serin_crds::literals::parse_duration;

use crate::histogram::{EDGE_LABEL, Histogram, bucket_selector, with_edge, with_native};
use crate::indicator::IndicatorCounters;
use crate::matcher::{alternation, pod_name_base, pod_name_pattern};
use serin_core::hold::HoldCode;

use crate::prometheus::{Labels, QueryError};
use crate::request::AnalysisRequest;

/// Why the analysis is not possible until someone changes the configuration or Prometheus recovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnalysisError {
    /// What holds the release.
    pub code: HoldCode,
    /// Message for operators.
    pub message: String,
}

impl AnalysisError {
    pub(crate) fn invalid_spec(message: String) -> Self {
        Self {
            code: HoldCode::InvalidSpec,
            message,
        }
    }

    /// No Prometheus address is configured.
    pub fn no_address() -> Self {
        let message = "No Prometheus address is configured: set spec.analysis.prometheus.address, \
            or configure a default for the controller.";
        Self {
            code: HoldCode::NotConfigured,
            message: message.to_owned(),
        }
    }

    fn invalid_query(objective: &str, field: &str, message: impl std::fmt::Display) -> Self {
        Self {
            code: HoldCode::InvalidQuery,
            message: format!("spec.analysis.objectives[{objective}].{field}: {message}"),
        }
    }

    pub(crate) fn missing_edge(objective: &str, message: &str) -> Self {
        let message = format!("spec.analysis.objectives[{objective}].latency.threshold: {message}");
        Self {
            code: HoldCode::NoSuchBucket,
            message,
        }
    }

    pub(crate) fn too_large(objective: &str, size: &str) -> Self {
        let message = format!(
            "The metrics of {objective} cannot be read. Even if Prometheus adds them up by scrape \
             target, the answer is too large: {size}. Use the counters of the gateway or the mesh, \
             which has fewer scrape targets, or restrict the selector."
        );
        Self {
            code: HoldCode::TooLarge,
            message,
        }
    }

    pub(crate) fn ambiguous_series(objective: &str, why: &str) -> Self {
        let message =
            format!("The metrics of {objective} cannot be assigned to canary and stable: {why}.");
        Self {
            code: HoldCode::AmbiguousSeries,
            message,
        }
    }

    pub(crate) fn from_query_error(objective: &str, error: &QueryError) -> Self {
        Self {
            code: error.code(),
            message: error.describe(&format!("The metrics of {objective} cannot be read")),
        }
    }
}

/// The two counters of an objective, and how their series are assigned to canary and stable.
#[derive(Clone, Debug)]
pub struct CounterSelectors {
    /// Series selector of all requests of the service, across all versions.
    pub total: String,
    /// Series selector of the bad requests; with a latency objective, of the requests that were
    /// fast enough.
    pub errors: String,
    /// Like `total`, restricted to canary and stable.
    pub total_of_sides: String,
    /// Like `errors`, restricted to canary and stable.
    pub errors_of_sides: String,
    /// The same two selectors for server-side aggregation. For a histogram they cover the classic
    /// form only, because a native histogram is a single series.
    pub(crate) summable: [String; 2],
    pub(crate) summable_buckets: Option<String>,
    /// Whether the selector of errors is known to be correct because it is built in.
    pub verified: bool,
    /// Histogram of a latency objective.
    pub histogram: Option<Histogram>,
    /// All buckets of both sides, if a latency guard compares them.
    pub(crate) buckets: Option<String>,
    sides: SideMatcher,
    /// Labels that the scrape adds.
    pub(crate) exporter: ExporterLabels,
    /// The same counters for each way in which Prometheus may have renamed their labels. Empty if
    /// there is only one.
    layouts: Vec<Self>,
    /// Index of the layout in use.
    layout: usize,
}

/// Assigns a series to canary or stable.
#[derive(Clone, Debug)]
struct SideMatcher {
    label: String,
    canary: Regex,
    stable: Regex,
    by_pod: bool,
    /// Pods by owner. Only set if the name of a ReplicaSet is too long to be part of its pod names.
    pods: Option<BTreeMap<String, Arm>>,
    /// Values that may belong to the Rollout or to something else, and the reason.
    unclear: Option<(Regex, String)>,
}

/// Labels of a series that come from the scrape, as far as known.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExporterLabels {
    /// Labels with the namespace and the name of the pod that exposes the metrics, if each pod is
    /// one process.
    pub(crate) pod: Option<[&'static str; 2]>,
    /// Whether the labels of the exporter itself are known, so that it cannot use the usual labels
    /// of a scrape target.
    pub(crate) is_known: bool,
}

/// Maximum number of pods per release that are remembered by name.
const MAX_PODS: usize = 20_000;

impl CounterSelectors {
    /// Creates and validates the selectors of an objective.
    ///
    /// # Errors
    /// The field that is not a series selector, or the requirement of the indicator that is not
    /// met.
    pub fn new(
        objective: &ObjectiveSpec,
        request: &AnalysisRequest,
    ) -> Result<Self, AnalysisError> {
        match (objective.indicator, &objective.counters) {
            (Some(indicator), None) => Self::from_indicator(indicator, objective, request),
            (None, Some(counters)) => Self::from_spec(objective, counters, request),
            _ => Err(AnalysisError::invalid_spec(format!(
                "spec.analysis.objectives[{}]: write either indicator or counters",
                objective.name
            ))),
        }
    }

    fn from_indicator(
        indicator: Indicator,
        objective: &ObjectiveSpec,
        request: &AnalysisRequest,
    ) -> Result<Self, AnalysisError> {
        let analysis_error =
            |message: String| AnalysisError::invalid_query(&objective.name, "indicator", message);
        let layouts = IndicatorCounters::layouts(indicator, request).map_err(analysis_error)?;
        let layouts = layouts
            .into_iter()
            .map(|layout| Self::from_layout(layout, objective, request));
        let layouts = layouts.collect::<Result<Vec<_>, _>>()?;
        let first = layouts
            .first()
            .cloned()
            .ok_or_else(|| analysis_error("it has no counters".to_owned()))?;
        Ok(if layouts.len() > 1 {
            Self { layouts, ..first }
        } else {
            first
        })
    }

    fn from_layout(
        layout: IndicatorCounters,
        objective: &ObjectiveSpec,
        request: &AnalysisRequest,
    ) -> Result<Self, AnalysisError> {
        let analysis_error =
            |message: String| AnalysisError::invalid_query(&objective.name, "indicator", message);
        let IndicatorCounters {
            requests,
            service,
            sides,
            bad,
            durations,
            label,
            canary,
            stable,
            ambiguous: unclear,
            by_pod,
            exporter,
        } = layout;
        let unclear = unclear
            .map(|(pattern, why)| Ok((anchored_regex(&pattern)?, why)))
            .transpose()
            .map_err(analysis_error)?;
        let side_matcher = SideMatcher {
            label: label.to_owned(),
            canary: anchored_regex(&canary).map_err(analysis_error)?,
            stable: anchored_regex(&stable).map_err(analysis_error)?,
            by_pod,
            pods: pods_by_owner(by_pod, request),
            unclear,
        };
        let exporter = ExporterLabels {
            pod: exporter,
            is_known: true,
        };
        if let Some(latency) = &objective.latency {
            let count = |matchers: &str| {
                parse_selector(&format!("{durations}_count{{{matchers}}}")).map_err(analysis_error)
            };
            return Ok(Self {
                exporter,
                ..Self::from_histogram(
                    objective,
                    latency,
                    &count(&service)?,
                    &count(&sides)?,
                    side_matcher,
                )?
            });
        }
        let [total_of_sides, errors_of_sides] = [
            format!("{requests}{{{sides}}}"),
            format!("{requests}{{{sides},{bad}}}"),
        ];
        Ok(Self {
            total: format!("{requests}{{{service}}}"),
            errors: format!("{requests}{{{service},{bad}}}"),
            summable: [total_of_sides.clone(), errors_of_sides.clone()],
            summable_buckets: None,
            total_of_sides,
            errors_of_sides,
            verified: true,
            histogram: None,
            buckets: None,
            sides: side_matcher,
            exporter,
            layouts: Vec::new(),
            layout: 0,
        })
    }

    /// The selectors of a latency objective, from the count of its histogram. They are unverified,
    /// because the bucket of the threshold may not exist.
    fn from_histogram(
        objective: &ObjectiveSpec,
        latency: &LatencySpec,
        total: &VectorSelector,
        total_of_sides: &VectorSelector,
        sides: SideMatcher,
    ) -> Result<Self, AnalysisError> {
        let analysis_error =
            |message: String| AnalysisError::invalid_query(&objective.name, "latency", message);
        let threshold = parse_duration(&latency.threshold).map_err(|error| {
            analysis_error(format!("threshold {:?}: {error}", latency.threshold))
        })?;
        let (base, buckets) = bucket_selector(total).map_err(analysis_error)?;
        let (_, buckets_of_sides) = bucket_selector(total_of_sides).map_err(analysis_error)?;
        let histogram = Histogram::new(&base, &buckets, &latency.threshold, threshold)
            .map_err(analysis_error)?;
        let edge = histogram.edge_pattern();
        let of_both_forms =
            |selector| with_native(&base, selector).and_then(|selector| to_valid_promql(&selector));
        let classic = with_edge(buckets_of_sides.clone(), &edge)
            .and_then(|selector| to_valid_promql(&selector));
        let summable = [
            to_valid_promql(total_of_sides).map_err(analysis_error)?,
            classic.map_err(analysis_error)?,
        ];
        let summable_buckets = latency
            .guard
            .map(|_| to_valid_promql(&buckets_of_sides))
            .transpose()
            .map_err(analysis_error)?;
        let all = latency.guard.map(|_| {
            with_native(&base, buckets_of_sides.clone()).and_then(|all| to_valid_promql(&all))
        });
        // The series of a native histogram have no `le` label.
        let good_of_sides =
            with_edge(buckets_of_sides, &format!("(?:{edge})?")).and_then(of_both_forms);
        Ok(Self {
            total: to_valid_promql(total).map_err(analysis_error)?,
            errors: with_edge(buckets, &edge)
                .and_then(|selector| to_valid_promql(&selector))
                .map_err(analysis_error)?,
            total_of_sides: of_both_forms(total_of_sides.clone()).map_err(analysis_error)?,
            errors_of_sides: good_of_sides.map_err(analysis_error)?,
            summable,
            summable_buckets,
            verified: false,
            histogram: Some(histogram),
            buckets: all.transpose().map_err(analysis_error)?,
            sides,
            exporter: ExporterLabels::default(),
            layouts: Vec::new(),
            layout: 0,
        })
    }

    fn from_spec(
        objective: &ObjectiveSpec,
        counters: &CountersSpec,
        request: &AnalysisRequest,
    ) -> Result<Self, AnalysisError> {
        let analysis_error = |field: &str, message: String| {
            AnalysisError::invalid_query(&objective.name, &format!("counters.{field}"), message)
        };
        let (label, canary, stable, by_pod) = side_labels(counters.variants.as_ref(), request)
            .map_err(|message| analysis_error("variants", message))?;
        let sides = SideMatcher {
            canary: anchored_regex(&canary)
                .map_err(|error| analysis_error("variants.canary", error))?,
            stable: anchored_regex(&stable)
                .map_err(|error| analysis_error("variants.stable", error))?,
            label,
            by_pod,
            pods: pods_by_owner(by_pod, request),
            unclear: None,
        };
        let both = alternation(&canary, &stable);
        let total =
            parse_selector(&counters.total).map_err(|error| analysis_error("total", error))?;
        let narrowed = |selector: &VectorSelector| {
            narrow(selector, &sides.label, &both).map_err(|error| analysis_error("variants", error))
        };
        let errors = match (&counters.errors, &objective.latency) {
            (Some(errors), None) => {
                parse_selector(errors).map_err(|error| analysis_error("errors", error))?
            }
            (None, Some(latency)) => {
                let total_of_sides = narrowed(&total)?;
                return Self::from_histogram(objective, latency, &total, &total_of_sides, sides);
            }
            (None, None) => {
                return Err(analysis_error(
                    "errors",
                    "write the selector of bad requests, or latency".to_owned(),
                ));
            }
            (Some(_), Some(_)) => {
                return Err(analysis_error(
                    "errors",
                    "latency already defines bad requests: keep one of the two".to_owned(),
                ));
            }
        };
        let total_of_sides = to_valid_promql(&narrowed(&total)?)
            .map_err(|error| analysis_error("variants", error))?;
        let errors_of_sides = to_valid_promql(&narrowed(&errors)?)
            .map_err(|error| analysis_error("variants", error))?;
        Ok(Self {
            summable: [total_of_sides.clone(), errors_of_sides.clone()],
            summable_buckets: None,
            total_of_sides,
            errors_of_sides,
            total: total.to_string(),
            errors: errors.to_string(),
            verified: false,
            histogram: None,
            buckets: None,
            sides,
            exporter: ExporterLabels::default(),
            layouts: Vec::new(),
            layout: 0,
        })
    }

    /// Selectors of the individual series of both sides: all requests, bad or good requests, and
    /// all buckets if a latency guard compares them.
    pub(crate) fn selectors(&self) -> impl Iterator<Item = &String> {
        [&self.total_of_sides, &self.errors_of_sides]
            .into_iter()
            .chain(&self.buckets)
    }

    /// What the second selector counts: errors or good requests.
    pub fn kind(&self) -> CounterKind {
        if self.histogram.is_some() {
            CounterKind::Good
        } else {
            CounterKind::Errors
        }
    }

    /// Whether a series counts as this kind. The result for a native histogram contains all of its
    /// buckets.
    pub(crate) fn counts_as(&self, kind: CounterKind, labels: &Labels) -> bool {
        let edge = labels.get(EDGE_LABEL);
        match &self.histogram {
            None => true,
            Some(_) if kind == CounterKind::Total => edge.is_none(),
            Some(histogram) => edge.is_some_and(|edge| histogram.is_edge(edge)),
        }
    }

    /// The side that a series belongs to. `None` if it belongs to neither or to both.
    pub fn arm(&self, labels: &Labels) -> Option<Arm> {
        // As in PromQL, a missing label equals an empty one.
        let value = labels.get(&self.sides.label).map_or("", String::as_str);
        if let Some(pods) = &self.sides.pods {
            return pods.get(value).copied();
        }
        match (
            self.sides.canary.is_match(value),
            self.sides.stable.is_match(value),
        ) {
            (true, false) => Some(Arm::Canary),
            (false, true) => Some(Arm::Stable),
            _ => None,
        }
    }

    /// The pod of a series. `None` unless the sides are distinguished by pod.
    pub fn pod<'a>(&self, labels: &'a Labels) -> Option<&'a str> {
        let value = labels
            .get(&self.sides.label)
            .filter(|_| self.sides.by_pod)?;
        Some(value)
    }

    /// Explains why it is unknown whether a series belongs to the Rollout. `None` if it is known.
    pub fn ambiguity(&self, labels: &Labels) -> Option<&str> {
        let (pattern, why) = self.sides.unclear.as_ref()?;
        let value = labels.get(&self.sides.label).map_or("", String::as_str);
        (self.arm(labels).is_none() && pattern.is_match(value)).then_some(why.as_str())
    }

    pub(crate) fn record_pod_sides(&mut self, sides: &BTreeMap<String, Arm>) {
        let Some(pods) = &mut self.sides.pods else {
            return;
        };
        for (pod, arm) in sides {
            if pods.len() < MAX_PODS || pods.contains_key(pod) {
                pods.insert(pod.clone(), *arm);
            }
        }
    }

    /// One set of selectors for each way in which Prometheus may have renamed the labels.
    pub fn layouts(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self)
            .filter(|this| this.layouts.is_empty())
            .chain(&self.layouts)
    }

    /// Switches to a layout that has series. The current layout stays as long as it has series,
    /// because two scrapes can rename labels differently.
    pub(crate) fn choose_layout(&mut self, found: &[bool]) {
        if found.get(self.layout).copied().unwrap_or(false) {
            return;
        }
        let Some(index) = found.iter().position(|found| *found) else {
            return;
        };
        let Some(mut chosen) = self.layouts.get(index).cloned() else {
            return;
        };
        chosen.sides.pods = self.sides.pods.take();
        chosen.layouts = std::mem::take(&mut self.layouts);
        chosen.layout = index;
        *self = chosen;
    }

    /// Labels that distinguish scrape targets, and the same labels with the label of the sides.
    pub(crate) fn source_labels(&self) -> (Vec<&str>, Vec<&str>) {
        let mut source = vec![
            "cluster",
            "instance",
            "job",
            "prometheus",
            "prometheus_replica",
            "replica",
        ];
        source.extend(self.exporter.pod.into_iter().flatten());
        source.retain(|label| *label != self.sides.label);
        let mut sides = source.clone();
        sides.push(&self.sides.label);
        (
            if self.sides.by_pod {
                sides.clone()
            } else {
                source
            },
            sides,
        )
    }

    /// PromQL for the increase of each series, deduplicated over all scrapes of one process as far
    /// as the usual scrape labels allow.
    pub(crate) fn deduplicated_increase(&self, selector: &str, seconds: u64) -> String {
        let mut scrape = vec!["job", "prometheus", "prometheus_replica", "replica"];
        if self.exporter.is_known {
            scrape.extend(["container", "endpoint", "node"]);
        }
        if self.is_scraped_service() {
            scrape.push("service");
        }
        if self.exporter.pod == Some(["namespace", "pod"]) {
            scrape.extend(["namespace", "pod"]);
        }
        format!(
            "max without ({}) (increase({selector}[{seconds}s]))",
            scrape.join(", ")
        )
    }

    /// Whether the label `service` names the scraped Service and is not a label of the exporter.
    pub(crate) fn is_scraped_service(&self) -> bool {
        self.exporter.is_known && !["service", "canary"].contains(&self.sides.label.as_str())
    }

    /// Whether the sides are distinguished by pod, which is required to estimate the dispersion of
    /// errors.
    pub fn distinguishes_pods(&self) -> bool {
        self.sides.by_pod
    }
}

/// The pods by owner, if the ReplicaSet name is truncated in pod names. `None` otherwise.
fn pods_by_owner(by_pod: bool, request: &AnalysisRequest) -> Option<BTreeMap<String, Arm>> {
    let sets = [
        Some(&request.canary_replica_set),
        request.stable_replica_set.as_ref(),
    ];
    let is_cut = sets.into_iter().flatten().any(|set| pod_name_base(set).1);
    (by_pod && is_cut).then(|| request.pod_sides.clone())
}

/// The label that distinguishes the sides, the patterns of canary and stable, and whether the label
/// names pods.
fn side_labels(
    variants: Option<&VariantsSpec>,
    request: &AnalysisRequest,
) -> Result<(String, String, String, bool), String> {
    let pod_label = match variants {
        None => None,
        Some(VariantsSpec {
            pod_label,
            label: None,
            canary: None,
            stable: None,
        }) => pod_label.clone(),
        Some(VariantsSpec {
            pod_label: None,
            label: Some(label),
            canary: Some(canary),
            stable: Some(stable),
        }) => {
            return Ok((label.clone(), canary.clone(), stable.clone(), false));
        }
        Some(_) => return Err("write either podLabel, or label with canary and stable".to_owned()),
    };
    let Some(stable) = &request.stable_replica_set else {
        return Err("there is no stable revision to compare with".to_owned());
    };
    let label = pod_label.unwrap_or_else(|| "pod".to_owned());
    Ok((
        label,
        pod_name_pattern(&request.canary_replica_set),
        pod_name_pattern(stable),
        true,
    ))
}

/// Compiles a regular expression that is anchored at both ends, as in PromQL.
fn anchored_regex(pattern: &str) -> Result<Regex, String> {
    // Compiled without the group first: an unbalanced group must not become valid.
    Regex::new(pattern).map_err(|error| error.to_string())?;
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())
}

/// Parses a plain series selector. Functions, ranges and offsets are rejected, because Serin reads
/// raw samples at times that it chooses.
fn parse_selector(text: &str) -> Result<VectorSelector, String> {
    let selector = match parser::parse(text) {
        Ok(Expr::VectorSelector(selector)) => selector,
        Ok(Expr::MatrixSelector(_)) => {
            return Err("leave out the range in brackets: the raw counter is read".to_owned());
        }
        Ok(Expr::Call(_) | Expr::Aggregate(_)) => {
            return Err("write the counter itself, without rate(), increase() or sum()".to_owned());
        }
        Ok(_) => {
            return Err(
                "write a series selector such as http_requests_total{job=\"shop\"}".to_owned(),
            );
        }
        Err(error) => return Err(format!("not PromQL: {error}")),
    };
    if selector.offset.is_some() || selector.at.is_some() {
        return Err(
            "leave out offset and @: the counter is read at times that Serin chooses".to_owned(),
        );
    }
    if !selector.matchers.or_matchers.is_empty() {
        return Err(
            "write the alternatives as one regular expression: `or` between matchers is not \
             supported"
                .to_owned(),
        );
    }
    Ok(selector)
}

/// Restricts a selector to series whose label matches.
fn narrow(selector: &VectorSelector, label: &str, pattern: &str) -> Result<VectorSelector, String> {
    let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
    let mut narrowed = selector.clone();
    narrowed
        .matchers
        .matchers
        .push(Matcher::new(MatchOp::Re(regex), label, pattern));
    Ok(narrowed)
}

/// Converts a selector to PromQL and parses it again, so that a quoting error never reaches the
/// server.
fn to_valid_promql(selector: &VectorSelector) -> Result<String, String> {
    let text = selector.to_string();
    parser::parse(&text).map_err(|error| format!("{text}: {error}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests;
