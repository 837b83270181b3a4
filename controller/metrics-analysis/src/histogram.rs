//! Latency objectives: determines the histogram bucket that counts the requests that were fast
//! enough.

use std::time::Duration;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::VectorSelector;
use serin_analysis::latency::{MissingEdge, find_edge};
use serin_crds::check::compile_regex;

/// Label of the upper bound of a bucket.
pub(crate) const EDGE_LABEL: &str = "le";

/// Label of the metric name.
const NAME_LABEL: &str = "__name__";

/// Longer lists of bucket bounds are omitted from messages.
const MAX_LISTED_EDGES: usize = 12;

/// A classic or native histogram and the latency threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Selector of all classic buckets, across all versions of the service.
    pub buckets: String,
    /// Selector of the native histogram of the same name, across all versions of the service.
    pub native: String,
    /// The threshold as written in the spec.
    threshold_text: String,
    /// The threshold in the unit of the histogram, which is the unit of its bucket bounds.
    threshold: f64,
    unit: &'static str,
    /// Length of the unit in seconds.
    unit_seconds: f64,
}

/// Suffixes of histogram names, the length of their unit in seconds, and its symbol. Envoy's
/// histogram is in milliseconds, which its name does not say.
const UNITS: [(&str, f64, &str); 3] = [
    ("_seconds", 1.0, "s"),
    ("_milliseconds", 1e-3, "ms"),
    ("envoy_cluster_upstream_rq_time", 1e-3, "ms"),
];

impl Histogram {
    /// Creates a histogram from its base name, without the suffix of its series.
    ///
    /// # Errors
    /// The name does not contain a unit.
    pub(crate) fn new(
        base: &str,
        buckets: &VectorSelector,
        written: &str,
        threshold: Duration,
    ) -> Result<Self, String> {
        let unit = UNITS
            .into_iter()
            .find(|(suffix, _, _)| base.ends_with(suffix));
        let Some((_, seconds, unit)) = unit else {
            return Err(format!(
                "the name {base} does not contain its unit: use a histogram whose name ends in \
                 _seconds or _milliseconds"
            ));
        };
        // Converted to whole microseconds first, so that 300 ms are exactly 0.3 s.
        #[expect(
            clippy::cast_precision_loss,
            reason = "an hour in microseconds is far below 2^53"
        )]
        let threshold = threshold.as_micros() as f64 / (1e6 * seconds).round();
        let native = VectorSelector {
            name: Some(base.to_owned()),
            ..buckets.clone()
        };
        Ok(Self {
            buckets: buckets.to_string(),
            native: native.to_string(),
            threshold_text: written.to_owned(),
            threshold,
            unit,
            unit_seconds: seconds,
        })
    }

    /// Upper bound of a bucket in seconds. `None` for the last bucket, which has none.
    pub(crate) fn edge_seconds(&self, label: &str) -> Option<f64> {
        let edge: f64 = label.parse().ok()?;
        edge.is_finite().then_some(edge * self.unit_seconds)
    }

    /// The threshold in the unit of the histogram, for PromQL.
    pub(crate) fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Whether the upper bound of this bucket equals the threshold.
    pub(crate) fn is_edge(&self, label: &str) -> bool {
        label
            .parse()
            .is_ok_and(|edge| find_edge(&[edge], self.threshold).is_ok())
    }

    /// A regular expression of the label values that exporters use for the threshold: `0.3`, `1` or
    /// `1.0`.
    pub(crate) fn edge_pattern(&self) -> String {
        let text = self.threshold.to_string();
        let zeros = if text.contains('.') {
            "0*"
        } else {
            "(?:[.]0+)?"
        };
        format!("{}{zeros}", regex::escape(&text))
    }

    /// Checks that one of these bucket bounds equals the threshold.
    ///
    /// # Errors
    /// The thresholds to use instead.
    pub fn check_edges(&self, edges: &[f64]) -> Result<(), String> {
        let Err(MissingEdge { below, above, .. }) = find_edge(edges, self.threshold) else {
            return Ok(());
        };
        let with_unit = |edge: f64| format!("{edge}{}", self.unit);
        let mut finite: Vec<f64> = edges
            .iter()
            .copied()
            .filter(|edge| edge.is_finite())
            .collect();
        finite.sort_by(f64::total_cmp);
        let choices: Vec<_> = [below, above]
            .into_iter()
            .flatten()
            .map(with_unit)
            .collect();
        let fix = if choices.is_empty() {
            "use another histogram".to_owned()
        } else {
            format!("use {}", choices.join(" or "))
        };
        let all = if finite.len() > MAX_LISTED_EDGES {
            String::new()
        } else {
            format!(
                " (its buckets end at {})",
                finite
                    .into_iter()
                    .map(with_unit)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        };
        Err(format!(
            "no bucket ends at {}, so that nothing counts what is slower: {fix}{all}",
            self.threshold_text
        ))
    }
}

/// Converts the selector of a histogram's `_count` to the selector of its buckets.
///
/// # Errors
/// It is not the selector of a `_count`.
pub(crate) fn bucket_selector(count: &VectorSelector) -> Result<(String, VectorSelector), String> {
    let base = count
        .name
        .as_deref()
        .and_then(|name| name.strip_suffix("_count"));
    let Some(base) = base else {
        return Err(
            "with latency, total is the count of a histogram, for example \
            http_server_request_duration_seconds_count{namespace=\"shop\"}"
                .to_owned(),
        );
    };
    let mut buckets = count.clone();
    buckets.name = Some(format!("{base}_bucket"));
    Ok((base.to_owned(), buckets))
}

/// Extends a selector to the native histogram with the same labels. The scrape configuration
/// determines which forms exist. Both count the same requests.
pub(crate) fn with_native(
    base: &str,
    mut classic: VectorSelector,
) -> Result<VectorSelector, String> {
    let pattern = format!("{}|{base}", classic.name.take().unwrap_or_default());
    let regex = compile_regex(&pattern)?;
    classic
        .matchers
        .matchers
        .push(Matcher::new(MatchOp::Re(regex), NAME_LABEL, &pattern));
    Ok(classic)
}

/// Restricts a selector to the buckets with this bound.
pub(crate) fn with_edge(mut buckets: VectorSelector, edge: &str) -> Result<VectorSelector, String> {
    let regex = compile_regex(edge)?;
    buckets
        .matchers
        .matchers
        .push(Matcher::new(MatchOp::Re(regex), EDGE_LABEL, edge));
    Ok(buckets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(base: &str, threshold_ms: u64) -> Histogram {
        Histogram::new(
            base,
            &VectorSelector::default(),
            "as written",
            Duration::from_millis(threshold_ms),
        )
        .unwrap()
    }

    #[test]
    fn a_threshold_is_converted_to_the_unit_of_its_histogram() {
        assert_eq!(
            histogram("request_duration_seconds", 300).edge_pattern(),
            "0\\.30*"
        );
        assert_eq!(
            histogram("request_duration_seconds", 1_000).edge_pattern(),
            "1(?:[.]0+)?"
        );
        assert_eq!(
            histogram("request_duration_milliseconds", 250).edge_pattern(),
            "250(?:[.]0+)?"
        );
        assert_eq!(
            histogram("request_duration_seconds", 25).edge_pattern(),
            "0\\.0250*"
        );
        assert!(
            Histogram::new(
                "request_time",
                &VectorSelector::default(),
                "1s",
                Duration::from_secs(1)
            )
            .unwrap_err()
            .contains("unit")
        );
    }

    #[test]
    fn a_threshold_between_two_bounds_is_rejected_with_the_existing_bounds() {
        let edges = [1.2, 0.1, 5.0, 0.3, f64::INFINITY];
        assert_eq!(
            histogram("request_duration_seconds", 300).check_edges(&edges),
            Ok(())
        );
        assert_eq!(
            histogram("request_duration_seconds", 500)
                .check_edges(&edges)
                .unwrap_err(),
            "no bucket ends at as written, so that nothing counts what is slower: use 0.3s or 1.2s \
             (its buckets end at 0.1s, 0.3s, 1.2s, 5s)"
        );
        assert_eq!(
            histogram("request_duration_milliseconds", 250).check_edges(&[100.0, 250.0]),
            Ok(())
        );
        let powers: Vec<f64> = (-10..=14).map(|power| 2_f64.powi(power)).collect();
        assert_eq!(
            histogram("request_duration_seconds", 300)
                .check_edges(&powers)
                .unwrap_err(),
            "no bucket ends at as written, so that nothing counts what is slower: use 0.25s or 0.5s"
        );
    }
}
