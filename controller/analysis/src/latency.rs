//! Latency objectives: the bad event is "slower than the threshold".
//!
//! Of a histogram the bucket that ends at the threshold counts the good requests ([`crate::Kind::Good`]) and `_count` all of them
//! ([`crate::Kind::Total`]), under one series name; bad are the others.

use serde::{Deserialize, Serialize};

use crate::bernoulli::{ODDS_RATIOS, bernoulli};
use crate::config::Restarts;
use crate::counts::{Counts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::numeric::log_sum_exp;

/// The threshold is not an edge of a bucket, so that nothing counts what is slower than it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("no bucket ends at {threshold} s: choose {}", choices(.below.as_ref(), .above.as_ref()))]
pub struct NoSuchEdge {
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

/// How close an edge must be to the threshold: labels are decimal texts of doubles.
const SAME_EDGE: f64 = 1e-9;

/// The edge of a classic histogram that is the threshold. `edges` are the values of the label `le`, in seconds.
///
/// # Errors
/// [`NoSuchEdge`] with the closest edges, where the threshold is between two of them.
pub fn edge_at(edges: &[f64], threshold: f64) -> Result<f64, NoSuchEdge> {
    let finite = || edges.iter().copied().filter(|edge| edge.is_finite());
    finite().find(|edge| (edge - threshold).abs() <= SAME_EDGE * threshold.abs()).ok_or_else(|| NoSuchEdge {
        threshold,
        below: finite().filter(|edge| *edge < threshold).max_by(f64::total_cmp),
        above: finite().filter(|edge| *edge > threshold).min_by(f64::total_cmp),
    })
}

/// A secondary guard over the whole distribution: the mean of one Bernoulli e-process for each bucket edge.
///
/// A mean of e-processes is one, whatever their dependence, so it passes `1/alpha` with probability at most
/// `alpha` while the canary is not slower than stable at any edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencyGuard {
    began_ms: i64,
    ticks: u64,
    funding: Funding,
    edges: Vec<EdgeProcess>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EdgeProcess {
    mixture: Mixture,
    /// Both arms so far, from which the next tick's bets take stable's rate.
    totals: Counts,
}

/// Rates that bets are made at stay inside of this.
const LEAST_RATE: f64 = 1e-4;

impl LatencyGuard {
    /// No evidence yet, for this many bucket edges.
    pub fn new(began_ms: i64, edges: usize) -> Self {
        let edge = EdgeProcess { mixture: Mixture::new(ODDS_RATIOS.len()), totals: Counts::default() };
        Self { began_ms, ticks: 0, funding: Funding::default(), edges: vec![edge; edges] }
    }

    /// Takes one tick in: for each edge, requests and those slower than it. A warm tick counts for nothing but the rates.
    pub fn add(
        &mut self,
        tick: &Tick,
        slower: &[Counts],
        restarts: &Restarts,
        rho0: f64,
        warm_up_seconds: f64,
        clip: f64,
    ) {
        self.ticks += 1;
        let elapsed = elapsed_seconds(self.began_ms, tick);
        let warm = elapsed < warm_up_seconds;
        let omega = self.funding.due(restarts, self.ticks, elapsed, warm, warm_up_seconds);
        for (edge, counts) in self.edges.iter_mut().zip(slower) {
            edge.mixture.fund(omega);
            if let Some(rate) = edge.totals.stable_rate().filter(|_| !warm) {
                let rate = rate.clamp(LEAST_RATE, 1.0 - LEAST_RATE);
                edge.mixture.multiply(ODDS_RATIOS.iter().map(|psi| bernoulli(counts, rate, *psi, rho0).at_zero), clip);
            }
            edge.totals.add(counts);
        }
    }

    /// `ln` of the mean e-value.
    pub fn ln_e(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of buckets is far below 2^53")]
        let edges = self.edges.len().max(1) as f64;
        #[expect(clippy::cast_precision_loss, reason = "there are six odds ratios")]
        let ln_weights = [-(ODDS_RATIOS.len() as f64).ln(); ODDS_RATIOS.len()];
        if self.edges.is_empty() {
            return 0.0;
        }
        log_sum_exp(self.edges.iter().map(|edge| edge.mixture.ln_value(&ln_weights))) - edges.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_between_two_edges_is_refused_with_both() {
        let edges = [0.1, 0.25, 0.5, f64::INFINITY];
        assert_eq!(edge_at(&edges, 0.25), Ok(0.25));
        assert_eq!(edge_at(&edges, 0.3).unwrap_err().to_string(), "no bucket ends at 0.3 s: choose 0.25 or 0.5");
        assert_eq!(edge_at(&edges, 2.0).unwrap_err().to_string(), "no bucket ends at 2 s: choose 0.5");
        assert_eq!(
            edge_at(&[], 2.0).unwrap_err().to_string(),
            "no bucket ends at 2 s: choose another metric: it has no buckets"
        );
    }

    fn guard(slower: [Counts; 2]) -> f64 {
        let mut guard = LatencyGuard::new(0, 2);
        let restarts = Restarts::EveryMinute { longest_seconds: 3600.0 };
        for index in 0..20 {
            let tick = Tick { started_ms: index * 15_000, at_ms: (index + 1) * 15_000, ..Tick::default() };
            guard.add(&tick, &slower, &restarts, 1.1, 60.0, 100_f64.ln());
        }
        guard.ln_e()
    }

    #[test]
    fn the_guard_sees_one_slower_bucket_and_no_alike_ones() {
        let alike = Counts::new(100.0, 30.0, 900.0, 270.0);
        let slower = Counts::new(100.0, 45.0, 900.0, 270.0);
        assert!(guard([alike, slower]) > 100_f64.ln());
        assert!(guard([alike, alike]) < 0.0);
        assert_eq!(LatencyGuard::new(0, 0).ln_e(), 0.0);
    }
}
