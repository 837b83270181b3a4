//! Whether the metrics of an objective can be used.

use std::collections::BTreeMap;

use serin_analysis::decision::Availability;

use super::ObjectiveAnalysis;
use crate::counter_selectors::AnalysisError;
use crate::histogram::EDGE_LABEL;
use crate::prometheus::{Answer, QueryError};

/// A failure to read the metrics of an objective.
#[derive(Clone, Debug)]
pub(crate) struct ReadFailure {
    pub(crate) since_ms: i64,
    pub(crate) error: QueryError,
}

/// Bucket bounds that all native histograms in an answer have in common. Empty if there is no
/// native histogram.
pub(super) fn native_edges(answer: &Answer) -> Vec<f64> {
    let mut edges: BTreeMap<&str, usize> = BTreeMap::new();
    let mut histograms = 0;
    for series in answer {
        match series.labels.get(EDGE_LABEL) {
            Some(edge) => *edges.entry(edge).or_default() += 1,
            // Only a native histogram returns its count together with its buckets.
            None => histograms += 1,
        }
    }
    let of_all = edges
        .into_iter()
        .filter(|(_, series)| histograms > 0 && *series >= histograms);
    of_all.filter_map(|(edge, _)| edge.parse().ok()).collect()
}

impl ObjectiveAnalysis {
    /// The error that no bucket ends at the threshold, once the buckets are known.
    pub(super) fn missing_edge(&self) -> Option<AnalysisError> {
        let histogram = self.counters.histogram.as_ref()?;
        let edges = [self.service.edges.as_slice(), &self.native_edges].concat();
        let message = histogram
            .check_edges(&edges)
            .err()
            .filter(|_| !edges.is_empty())?;
        Some(AnalysisError::missing_edge(&self.spec.name, &message))
    }

    /// Why the metrics cannot be used. A failure of the whole server is an error after `grace_ms`.
    pub(crate) fn error(&self, grace_ms: i64, now_ms: i64) -> Option<AnalysisError> {
        if let Some(analysis_error) = self.missing_edge() {
            return Some(analysis_error);
        }
        if let Some(why) = &self.ambiguity {
            return Some(AnalysisError::ambiguous_series(&self.spec.name, why));
        }
        let failing = self.read_failure.as_ref()?;
        if let (Some(_), QueryError::TooLarge(size)) = (self.aggregation, &failing.error) {
            return Some(AnalysisError::too_large(&self.spec.name, size));
        }
        let is_told =
            !failing.error.is_server_wide() || now_ms.saturating_sub(failing.since_ms) >= grace_ms;
        is_told.then(|| AnalysisError::from_query_error(&self.spec.name, &failing.error))
    }

    /// Whether the metrics can be read.
    pub(crate) fn availability(&self, grace_ms: i64, now_ms: i64) -> Availability {
        if self.missing_edge().is_some() || self.ambiguity.is_some() {
            return Availability::Unreachable {
                since_ms: self.state.evidence.began_ms,
            };
        }
        match &self.read_failure {
            Some(failing) if self.error(grace_ms, now_ms).is_some() => match failing.error {
                QueryError::Partial(_) => Availability::Partial {
                    since_ms: failing.since_ms,
                },
                _ => Availability::Unreachable {
                    since_ms: failing.since_ms,
                },
            },
            _ => Availability::Ok,
        }
    }
}
