//! The series of an objective: which ones are read, and how they are assigned to canary and stable.

mod error;
mod selector;
mod sides;

use promql_parser::parser::VectorSelector;
use serin_analysis::CounterKind;
use serin_crds::analysis::{CountersSpec, Indicator, LatencySpec, ObjectiveSpec};
use serin_crds::literals::parse_duration;

use crate::histogram::{EDGE_LABEL, Histogram, bucket_selector, with_edge, with_native};
use crate::indicator::IndicatorCounters;
use crate::matcher::alternation;
use crate::prometheus::Labels;
use crate::request::AnalysisRequest;
use selector::{anchored_regex, narrow, parse_selector, to_valid_promql};
use sides::{SideMatcher, pods_by_owner, side_labels};

pub use error::AnalysisError;

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
}

#[cfg(test)]
mod tests;
