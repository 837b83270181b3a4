//! The tolerance of the latency guard on the time axis.
//!
//! Pods of the same code differ in speed by a few percent: another node, another neighbor. A
//! tolerance of 10 % on *how many* requests are slower does not allow for that. Where 7 % of the
//! requests take longer than 250 ms, a pod that is 10 % slower has 30 % more of them. The guard
//! therefore allows the canary to be slower by a factor in time, and derives from stable's own
//! distribution how many more requests beyond an edge that makes.
//!
//! A classic histogram does not count requests beyond `edge / 1.1`, so the number is interpolated
//! on double logarithmic scales, with the steeper of the two slopes beside the edge. If stable's
//! survival function is concave on these scales (log-normal, gamma, Weibull, exponential; a Pareto
//! is a straight line), the result is an upper bound of the true number. It is never larger than
//! the number beyond the next edge that is lower by the whole factor, which is a bound for every
//! distribution.

/// Factor by which the canary's durations may exceed stable's.
pub const TIME_TOLERANCE: f64 = 1.1;

/// Requests of stable, and those that took longer than an edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Beyond {
    /// The edge, in seconds.
    pub seconds: f64,
    /// All requests.
    pub requests: f64,
    /// Requests that took longer.
    pub slower: f64,
}

impl Beyond {
    /// The share of slower requests, from 0 to 1, both exclusive: half a request of either kind is
    /// added.
    fn share(&self) -> f64 {
        (self.slower + 0.5) / (self.requests + 1.0)
    }
}

/// Slope of the survival function between two edges on double logarithmic scales. Never negative.
fn slope(low: &Beyond, high: &Beyond) -> f64 {
    let steepness = (low.share() / high.share()).ln() / (high.seconds / low.seconds).ln();
    if steepness.is_finite() {
        steepness.max(0.0)
    } else {
        0.0
    }
}

/// The factor by which the share of requests beyond the edge at `index` grows if all durations grow
/// by [`TIME_TOLERANCE`]. At least `rho0`, the tolerance on counts, which is all that a histogram
/// with one edge permits. `edges` are in ascending order.
pub(super) fn relative_tolerance(edges: &[Beyond], index: usize, rho0: f64) -> f64 {
    let Some(edge) = edges.get(index).filter(|_| edges.len() > 1) else {
        return rho0;
    };
    let is_lower = |other: &&Beyond| other.seconds * TIME_TOLERANCE <= edge.seconds;
    let is_higher = |other: &&Beyond| other.seconds >= edge.seconds * TIME_TOLERANCE;
    let lower = edges.iter().rev().find(is_lower);
    let higher = edges.iter().find(is_higher);
    // All requests at most, if there is no lower edge.
    let bound = lower.map_or(1.0, Beyond::share) / edge.share();
    let interpolated = higher.map_or(f64::INFINITY, |higher| {
        let steepest = lower
            .map_or(0.0, |lower| slope(lower, edge))
            .max(slope(edge, higher));
        TIME_TOLERANCE.powf(steepest)
    });
    interpolated.min(bound).max(rho0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beyond(seconds: f64, slower: f64) -> Beyond {
        Beyond {
            seconds,
            requests: 1e9,
            slower: slower * 1e9,
        }
    }

    #[test]
    fn ten_percent_slower_is_about_thirty_percent_more_beyond_an_edge_in_the_tail() {
        let edges = [beyond(0.1, 0.64), beyond(0.25, 0.0712), beyond(0.5, 0.0022)];
        let tolerance = relative_tolerance(&edges, 1, 1.1);
        assert!((1.3..1.7).contains(&tolerance), "{tolerance}");
    }

    #[test]
    fn the_next_lower_edge_bounds_the_tolerance() {
        // Nearly all requests take between 0.5 s and 1 s, and none much longer.
        let edges = [beyond(0.1, 0.9), beyond(0.5, 0.89), beyond(1.0, 1e-9)];
        let bound = 0.9 / 0.89;
        assert_eq!(
            relative_tolerance(&edges, 1, 1.0),
            edges[0].share() / edges[1].share()
        );
        assert!((relative_tolerance(&edges, 1, 1.0) - bound).abs() < 1e-6);
        assert_eq!(relative_tolerance(&edges, 1, 1.1), 1.1, "never below rho0");
    }

    #[test]
    fn a_single_edge_has_the_tolerance_on_counts_only() {
        assert_eq!(relative_tolerance(&[beyond(0.3, 0.1)], 0, 1.1), 1.1);
        assert_eq!(relative_tolerance(&[], 0, 1.1), 1.1);
    }

    proptest! {
        /// Pareto and Weibull distributions are concave on double logarithmic scales.
        #[test]
        fn a_canary_slower_by_the_tolerance_is_within_it(
            shape in 0.3_f64..6.0, first in 0.02_f64..1.0, ratios in prop::collection::vec(1.02_f64..3.0, 1..12), is_pareto: bool,
        ) {
            let survival = |seconds: f64| if is_pareto {
                (0.01 / seconds).powf(shape).min(1.0)
            } else {
                (-(seconds / 0.5).powf(shape)).exp()
            };
            let mut seconds = first;
            let mut edges = vec![beyond(seconds, survival(seconds))];
            for ratio in ratios {
                seconds *= ratio;
                edges.push(beyond(seconds, survival(seconds)));
            }
            // Half a request is added everywhere, which is not negligible beyond these.
            edges.retain(|edge| edge.slower >= 1_000.0);
            prop_assume!(edges.len() > 1);
            for (index, edge) in edges.iter().enumerate() {
                let of_slower_canary = survival(edge.seconds / TIME_TOLERANCE);
                let allowed = relative_tolerance(&edges, index, 1.0) * edge.share();
                prop_assert!(of_slower_canary <= allowed * 1.01, "{index} of {edges:?}: {of_slower_canary} {allowed}");
            }
        }
    }
}
