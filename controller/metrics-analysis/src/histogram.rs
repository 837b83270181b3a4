//! Latency objectives: which bucket of which histogram counts the requests that were fast enough.

use std::time::Duration;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::VectorSelector;
use serin_analysis::latency::{NoSuchEdge, edge_at};

/// The label of a bucket's upper edge.
pub(crate) const EDGE_LABEL: &str = "le";

/// The label of a series' name.
const NAME_LABEL: &str = "__name__";

/// Of a list of edges more than this says nothing to a person.
const MOST_TOLD: usize = 12;

/// A histogram, classic or native, and the threshold that its requests are held against.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The selector of all of its classic buckets, every version of the service.
    pub buckets: String,
    /// The selector of the native histogram of the same name, every version of the service.
    pub native: String,
    /// As it is written in the spec.
    written: String,
    /// The same in the histogram's unit, in which its edges are.
    threshold: f64,
    unit: &'static str,
    /// The seconds of that unit.
    seconds: f64,
}

/// The units that a histogram's name ends with, and the seconds of each.
const UNITS: [(&str, f64, &str); 2] = [("_seconds", 1.0, "s"), ("_milliseconds", 1e-3, "ms")];

impl Histogram {
    /// A threshold in the unit of a histogram, by its name without the suffix of its series.
    ///
    /// # Errors
    /// That the name says no unit.
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
                "{base} does not say its unit: use a histogram whose name ends in _seconds or _milliseconds"
            ));
        };
        // Whole microseconds first: 300 ms are 0.3 s, not the nearest product of doubles.
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
            written: written.to_owned(),
            threshold,
            unit,
            seconds,
        })
    }

    /// Where a bucket with this label ends, in seconds; nothing of the last one, which has no end.
    pub(crate) fn seconds(&self, label: &str) -> Option<f64> {
        let edge: f64 = label.parse().ok()?;
        edge.is_finite().then_some(edge * self.seconds)
    }

    /// The threshold as PromQL takes it, in the histogram's unit.
    pub(crate) fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Whether a bucket with this label ends at the threshold.
    pub(crate) fn is_edge(&self, label: &str) -> bool {
        label
            .parse()
            .is_ok_and(|edge| edge_at(&[edge], self.threshold).is_ok())
    }

    /// A regular expression of what exporters write for the threshold's edge: `0.3`, `1` or `1.0`.
    pub(crate) fn edge(&self) -> String {
        let text = self.threshold.to_string();
        let zeros = if text.contains('.') {
            "0*"
        } else {
            "(?:[.]0+)?"
        };
        format!("{}{zeros}", regex::escape(&text))
    }

    /// Whether a bucket ends at the threshold, among the edges that exist.
    ///
    /// # Errors
    /// What to choose instead.
    pub fn check(&self, edges: &[f64]) -> Result<(), String> {
        let Err(NoSuchEdge { below, above, .. }) = edge_at(edges, self.threshold) else {
            return Ok(());
        };
        let told = |edge: f64| format!("{edge}{}", self.unit);
        let mut finite: Vec<f64> = edges
            .iter()
            .copied()
            .filter(|edge| edge.is_finite())
            .collect();
        finite.sort_by(f64::total_cmp);
        let choices: Vec<_> = [below, above].into_iter().flatten().map(told).collect();
        let fix = if choices.is_empty() {
            "use another histogram".to_owned()
        } else {
            format!("use {}", choices.join(" or "))
        };
        let all = if finite.len() > MOST_TOLD {
            String::new()
        } else {
            format!(
                " (its buckets end at {})",
                finite.into_iter().map(told).collect::<Vec<_>>().join(", ")
            )
        };
        Err(format!(
            "no bucket ends at {}, so that nothing counts what is slower: {fix}{all}",
            self.written
        ))
    }
}

/// The selector of a histogram's buckets from that of its `_count`.
///
/// # Errors
/// That it is no such selector.
pub(crate) fn buckets_of(count: &VectorSelector) -> Result<(String, VectorSelector), String> {
    let base = count
        .name
        .as_deref()
        .and_then(|name| name.strip_suffix("_count"));
    let Some(base) = base else {
        return Err("with latency, total is the count of a histogram, for example http_server_request_duration_seconds_count{namespace=\"shop\"}".to_owned());
    };
    let mut buckets = count.clone();
    buckets.name = Some(format!("{base}_bucket"));
    Ok((base.to_owned(), buckets))
}

/// The selector, of the native histogram with the same labels as well. Which of the two there is,
/// or both, is the scrape's affair: they count the same.
pub(crate) fn or_native(base: &str, mut classic: VectorSelector) -> Result<VectorSelector, String> {
    let pattern = format!("{}|{base}", classic.name.take().unwrap_or_default());
    let regex = regex::Regex::new(&pattern).map_err(|error| error.to_string())?;
    classic
        .matchers
        .matchers
        .push(Matcher::new(MatchOp::Re(regex), NAME_LABEL, &pattern));
    Ok(classic)
}

/// The selector, of the buckets that end at an edge only.
pub(crate) fn at_edge(mut buckets: VectorSelector, edge: &str) -> Result<VectorSelector, String> {
    let regex = regex::Regex::new(edge).map_err(|error| error.to_string())?;
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
    fn a_threshold_is_told_in_the_unit_of_its_histogram() {
        assert_eq!(histogram("request_duration_seconds", 300).edge(), "0\\.30*");
        assert_eq!(
            histogram("request_duration_seconds", 1_000).edge(),
            "1(?:[.]0+)?"
        );
        assert_eq!(
            histogram("request_duration_milliseconds", 250).edge(),
            "250(?:[.]0+)?"
        );
        assert_eq!(
            histogram("request_duration_seconds", 25).edge(),
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
    fn a_threshold_between_two_edges_is_told_with_the_edges_that_exist() {
        let edges = [1.2, 0.1, 5.0, 0.3, f64::INFINITY];
        assert_eq!(
            histogram("request_duration_seconds", 300).check(&edges),
            Ok(())
        );
        assert_eq!(
            histogram("request_duration_seconds", 500)
                .check(&edges)
                .unwrap_err(),
            "no bucket ends at as written, so that nothing counts what is slower: use 0.3s or 1.2s (its buckets end at 0.1s, 0.3s, 1.2s, 5s)"
        );
        assert_eq!(
            histogram("request_duration_milliseconds", 250).check(&[100.0, 250.0]),
            Ok(())
        );
        let powers: Vec<f64> = (-10..=14).map(|power| 2_f64.powi(power)).collect();
        assert_eq!(
            histogram("request_duration_seconds", 300)
                .check(&powers)
                .unwrap_err(),
            "no bucket ends at as written, so that nothing counts what is slower: use 0.25s or 0.5s"
        );
    }
}
