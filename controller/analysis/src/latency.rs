//! Latency objectives: the bad event is "slower than the threshold".
//!
//! The histogram bucket that ends at the threshold counts the good requests
//! ([`crate::CounterKind::Good`]) and `_count` counts all requests ([`crate::CounterKind::Total`]),
//! under one series name. The remaining requests are bad.

mod edge;
mod guard;
mod tolerance;

pub use edge::{EdgeHistory, EdgeState};
pub use guard::{
    EdgeEvidence, GUARD_WEIGHT, LatencyGuard, LatencyGuardEvidence, LatencyGuardState, MAX_EDGES,
};
pub use tolerance::TIME_TOLERANCE;

/// No bucket ends at the threshold, so slower requests cannot be counted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("no bucket ends at {threshold} s: choose {}", choices(.below.as_ref(), .above.as_ref()))]
pub struct MissingEdge {
    /// The threshold, in seconds.
    pub threshold: f64,
    /// The closest edge below it.
    pub below: Option<f64>,
    /// The closest edge above it.
    pub above: Option<f64>,
}

fn choices(below: Option<&f64>, above: Option<&f64>) -> String {
    match (below, above) {
        (Some(below), Some(above)) => format!("{below} or {above}"),
        (Some(edge), None) | (None, Some(edge)) => edge.to_string(),
        (None, None) => "another metric: it has no buckets".to_owned(),
    }
}

/// Relative tolerance when comparing an edge with the threshold: labels are decimal texts of
/// doubles.
const SAME_EDGE: f64 = 1e-9;

/// Finds the bucket edge of a classic histogram at the threshold. `edges` are the values of the
/// label `le`, in seconds.
///
/// # Errors
/// [`MissingEdge`] with the closest edges if no bucket ends at the threshold.
pub fn find_edge(edges: &[f64], threshold: f64) -> Result<f64, MissingEdge> {
    let finite = || edges.iter().copied().filter(|edge| edge.is_finite());
    finite()
        .find(|edge| (edge - threshold).abs() <= SAME_EDGE * threshold.abs())
        .ok_or_else(|| MissingEdge {
            threshold,
            below: finite()
                .filter(|edge| *edge < threshold)
                .max_by(f64::total_cmp),
            above: finite()
                .filter(|edge| *edge > threshold)
                .min_by(f64::total_cmp),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_between_two_edges_is_refused_with_both() {
        let edges = [0.1, 0.25, 0.5, f64::INFINITY];
        assert_eq!(find_edge(&edges, 0.25), Ok(0.25));
        assert_eq!(
            find_edge(&edges, 0.3).unwrap_err().to_string(),
            "no bucket ends at 0.3 s: choose 0.25 or 0.5"
        );
        assert_eq!(
            find_edge(&edges, 2.0).unwrap_err().to_string(),
            "no bucket ends at 2 s: choose 0.5"
        );
        assert_eq!(
            find_edge(&[], 2.0).unwrap_err().to_string(),
            "no bucket ends at 2 s: choose another metric: it has no buckets"
        );
    }
}
