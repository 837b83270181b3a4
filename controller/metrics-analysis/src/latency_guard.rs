//! The latency guard of an objective: compares every bucket of its histogram, not only the one of
//! the threshold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serin_analysis::counters::{CounterConfig, RoundBuilder};
use serin_analysis::decision::LatencyGuardInput;
use serin_analysis::latency::{EdgeHistory, LatencyGuard, LatencyGuardState};
use serin_analysis::objective::RoundContext;
use serin_analysis::{Arm, ObjectiveConfig, SampleBatch};
use serin_crds::analysis::{GuardAction, ObjectiveSpec};

use crate::counter_selectors::CounterSelectors;
use crate::objective_analysis::ObjectiveAnalysis;
use crate::prometheus::Answer;
use crate::sample_reader::{SampleReader, edges_of};
use crate::server_side_aggregation::{ServerSideAggregation, known_buckets};
use crate::target_deduplicator::TargetDeduplicator;

/// The latency guard of one objective and its evidence.
#[derive(Debug)]
pub(crate) struct ObjectiveLatencyGuard {
    pub(crate) state: LatencyGuardState,
    guard: LatencyGuard,
    pub(crate) action: GuardAction,
}

/// State of the objective before the current samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PriorEvidence {
    /// End of the last round, in milliseconds since the epoch.
    pub round_at_ms: i64,
    /// Overdispersion factor of the evidence.
    pub k: f64,
}

impl ObjectiveLatencyGuard {
    /// Creates the guard of a spec and continues from the `stored` state. `None` if the spec has no
    /// guard.
    pub(crate) fn new(
        spec: &ObjectiveSpec,
        config: &ObjectiveConfig,
        began_ms: i64,
        stored: Option<LatencyGuardState>,
    ) -> Option<Self> {
        let action = spec.latency.as_ref()?.guard?;
        let state = stored
            .filter(LatencyGuardState::is_compatible)
            .unwrap_or_default();
        let guard =
            LatencyGuard::resume(config.evidence.clone(), config.counters, began_ms, &state);
        Some(Self {
            state,
            guard,
            action,
        })
    }

    /// Evaluates the answers to the queries of all requests and of all buckets.
    pub(crate) fn observe(
        &mut self,
        counters: &CounterSelectors,
        answers: [&Answer; 2],
        (pods_created_at, began_ms): (&BTreeMap<String, Timestamp>, i64),
        (settled_ms, now_ms): (i64, i64),
        (before, context): (PriorEvidence, &RoundContext),
    ) {
        let edges = self.compared_edges(counters, answers[1], before);
        let readings =
            SampleReader::for_edges(counters, answers, &edges, pods_created_at, began_ms);
        let samples: Vec<_> = readings.iter().map(SampleReader::samples).collect();
        let batches: Vec<_> = readings
            .iter()
            .zip(&samples)
            .map(|(reading, samples)| SampleBatch {
                samples,
                source_created_ms: &reading.source_created_ms,
                settled_ms,
                now_ms,
            })
            .collect();
        self.guard.observe(&mut self.state, &batches, context);
    }

    /// Learns from the samples before the release, which began at `to_ms`, how slow requests
    /// cluster in stable's pods.
    pub(crate) fn learn(
        &mut self,
        counters: &CounterSelectors,
        answers: [&Answer; 2],
        (from_ms, to_ms): (i64, i64),
    ) {
        let edges = edges_of(counters, known_buckets(answers[1]), &[Arm::Stable]);
        let no_times = BTreeMap::new();
        let readings = SampleReader::for_edges(counters, answers, &edges, &no_times, from_ms);
        let history = edges.iter().zip(&readings).map(|(seconds, reading)| {
            let batch = SampleBatch {
                samples: &reading.samples(),
                source_created_ms: &reading.source_created_ms,
                settled_ms: to_ms,
                now_ms: to_ms,
            };
            let ticks = RoundBuilder::resume(self.guard.counters(), from_ms, from_ms)
                .add_samples(&batch)
                .ticks;
            EdgeHistory::from_ticks(*seconds, &ticks)
        });
        self.state.learn(history.collect());
    }

    /// Learns from the aggregated answers before the release.
    pub(crate) fn learn_aggregates(
        &mut self,
        counters: &CounterSelectors,
        sums: ServerSideAggregation,
        answers: [&Answer; 2],
    ) {
        let edges = edges_of(counters, known_buckets(answers[1]), &[Arm::Stable]);
        let rounds = sums.rounds_of_edges(counters, answers, &edges);
        let history = edges
            .iter()
            .zip(&rounds)
            .map(|(seconds, rounds)| EdgeHistory::from_ticks(*seconds, &rounds.ticks));
        self.state.learn(history.collect());
    }

    /// Evaluates the aggregated answers to the queries of all requests and of all buckets.
    pub(crate) fn observe_aggregates(
        &mut self,
        counters: &CounterSelectors,
        sums: ServerSideAggregation,
        answers: [&Answer; 2],
        (before, context): (PriorEvidence, &RoundContext),
    ) {
        let edges = self.compared_edges(counters, answers[1], before);
        let rounds = sums.rounds_of_edges(counters, answers, &edges);
        self.guard.observe_rounds(&mut self.state, rounds, context);
    }

    /// The compared bucket bounds in seconds. They are fixed by the first answer that has common
    /// bounds on both sides.
    fn compared_edges(
        &mut self,
        counters: &CounterSelectors,
        buckets: &Answer,
        before: PriorEvidence,
    ) -> Vec<f64> {
        if self.state.edges.is_empty() {
            let both = [Arm::Canary, Arm::Stable];
            let edges = edges_of(counters, known_buckets(buckets), &both);
            self.guard
                .set_edges(&mut self.state, &edges, before.round_at_ms, before.k);
        }
        self.state.edges.iter().map(|edge| edge.seconds).collect()
    }

    /// Sets the scrape interval for subsequent observations.
    pub(crate) fn set_counters(&mut self, counters: CounterConfig) {
        self.guard.set_counters(counters);
    }

    /// The view that the decision uses.
    pub(crate) fn view(&self) -> LatencyGuardInput<'_> {
        LatencyGuardInput {
            state: &self.state,
            rolls_back: self.action == GuardAction::RollBack,
        }
    }
}

impl ObjectiveAnalysis {
    /// Lets the guard learn from the answers to the queries of the time before the release, from
    /// and to these times in milliseconds since the epoch.
    pub(crate) fn learn_guard_history(&mut self, answers: &[Answer], times: (i64, i64)) {
        let sums = self.aggregation();
        let Some(guard) = &mut self.guard else {
            return;
        };
        match (sums, answers) {
            (Some(sums), [total, _, _, buckets, ..]) => {
                guard.learn_aggregates(&self.counters, sums, [total, buckets]);
            }
            (None, [total, _, buckets, ..]) => {
                // Series that cannot be assigned before the release cannot be assigned during it
                // either, and are reported then.
                if let Ok([total, buckets]) =
                    TargetDeduplicator::default().deduplicate(&self.counters, [total, buckets])
                {
                    guard.learn(&self.counters, [&total, &buckets], times);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::request;
    use crate::prometheus::Series;

    fn objective() -> ObjectiveSpec {
        serde_json::from_value(
            json!({"name": "latency", "objective": 99, "latency": {"threshold": "1s", "guard": "Hold"},
            "counters": {"total": "duration_milliseconds_count"}}),
        )
        .unwrap()
    }

    fn series(pod: &str, le: Option<&str>, samples: &[(i64, f64)]) -> Series {
        let name = if le.is_some() {
            "duration_milliseconds_bucket"
        } else {
            "duration_milliseconds_count"
        };
        let labels = [
            ("__name__", Some(name)),
            ("pod", Some(pod)),
            ("instance", Some(pod)),
            ("le", le),
        ];
        let labels = labels
            .iter()
            .filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
        Series {
            labels: labels.collect(),
            samples: samples.to_vec(),
        }
    }

    const CANARY: &str = "checkout-bbb-11111";
    const STABLE: &str = "checkout-aaa-11111";

    /// The canary receives 100 requests per second and stable 300. 40 % of the canary's requests
    /// and 10 % of stable's took longer than 100 ms.
    fn answers(scrapes: u32, edges_of_canary: &[&str]) -> [Answer; 2] {
        let series = |pod: &str, le: Option<&str>, rate: f64| {
            let samples: Vec<_> = (0..scrapes)
                .map(|scrape| (i64::from(scrape) * 1_000, f64::from(scrape) * rate))
                .collect();
            series(pod, le, &samples)
        };
        let total = vec![series(CANARY, None, 100.0), series(STABLE, None, 300.0)];
        let mut buckets: Vec<Series> = edges_of_canary
            .iter()
            .map(|le| {
                series(
                    CANARY,
                    Some(le),
                    if le.parse() == Ok(100.0) { 60.0 } else { 100.0 },
                )
            })
            .collect();
        for le in ["100", "1000.0", "+Inf"] {
            buckets.push(series(
                STABLE,
                Some(le),
                if le == "100" { 270.0 } else { 300.0 },
            ));
        }
        [total, buckets]
    }

    /// Observes answers after the round that ended at `round_at_ms`.
    fn observe(guarded: &mut ObjectiveLatencyGuard, answers: [Answer; 2], round_at_ms: i64) {
        let counters = CounterSelectors::new(&objective(), &request()).unwrap();
        let context = RoundContext {
            warm_up_ends_ms: 0,
            weight_changed_at_ms: 0,
            canary_pods: Vec::new(),
        };
        let before = PriorEvidence {
            round_at_ms,
            k: 1.0,
        };
        guarded.observe(
            &counters,
            answers.each_ref(),
            (&BTreeMap::new(), 0),
            (i64::MAX, 100_000),
            (before, &context),
        );
    }

    fn observed(scrapes: u32, edges_of_canary: &[&str]) -> ObjectiveLatencyGuard {
        let config = ObjectiveConfig::new("latency", 0.99, 1_000);
        let mut guarded = ObjectiveLatencyGuard::new(&objective(), &config, 0, None).unwrap();
        observe(&mut guarded, answers(scrapes, edges_of_canary), 0);
        guarded
    }

    #[test]
    fn bounds_are_compared_in_seconds() {
        let guarded = observed(30, &["100.0", "100", "1000", "5000", "+Inf"]);
        let edges: Vec<f64> = guarded
            .state
            .edges
            .iter()
            .map(|edge| edge.seconds)
            .collect();
        assert_eq!(edges, [0.1, 1.0], "5 s is an edge of the canary alone");
        let evidence = guarded.view().state.evidence(false);
        let worst = evidence.worst.unwrap();
        assert!(
            (worst.seconds - 0.1).abs() < 1e-12 && evidence.ln_e > 100_f64.ln(),
            "{evidence:?}"
        );
        assert_eq!(
            worst.counts,
            serin_analysis::Counts::new(2_900.0, 1_160.0, 8_700.0, 870.0)
        );
        assert_eq!(guarded.state.compared_at_ms, Some(29_000));
    }

    #[test]
    fn histograms_without_common_bounds_are_not_compared() {
        let guarded = observed(30, &["250", "+Inf"]);
        assert_eq!(
            (guarded.state.edges.len(), guarded.state.compared_at_ms),
            (0, None)
        );
        assert_eq!(
            observed(30, &[]).state.edges.len(),
            0,
            "nor one that the canary does not have"
        );
    }

    #[test]
    fn the_hour_before_the_release_sets_the_rates_of_its_first_scrape() {
        let counters = CounterSelectors::new(&objective(), &request()).unwrap();
        let config = ObjectiveConfig::new("latency", 0.99, 1_000);
        let mut learned = ObjectiveLatencyGuard::new(&objective(), &config, 29_000, None).unwrap();
        let other = "checkout-aaa-22222";
        let mut history = answers(30, &[]);
        let second: Vec<_> = history
            .iter()
            .map(|answer| {
                let of_stable = |series: &&Series| series.labels["pod"] == STABLE;
                let mut second: Vec<Series> = answer.iter().filter(of_stable).cloned().collect();
                for series in &mut second {
                    series.labels.insert("pod".to_owned(), other.to_owned());
                    series
                        .labels
                        .insert("instance".to_owned(), other.to_owned());
                }
                second
            })
            .collect();
        for (answer, second) in history.iter_mut().zip(second) {
            answer.extend(second);
        }
        learned.learn(&counters, history.each_ref(), (0, 29_000));
        assert!(learned.state.ln_e().abs() < f64::EPSILON);
        let stored = serde_json::to_string(&learned.state).unwrap();
        assert!(stored.contains("\"history\""), "{stored}");
        let mut fresh = ObjectiveLatencyGuard::new(&objective(), &config, 29_000, None).unwrap();
        for guarded in [&mut learned, &mut fresh] {
            observe(guarded, answers(31, &["100", "1000"]), 29_000);
            assert_eq!(guarded.state.edges.len(), 2);
        }
        assert!(
            learned.state.ln_e() > fresh.state.ln_e() + 0.5,
            "{} {}",
            learned.state.ln_e(),
            fresh.state.ln_e()
        );
        assert!(
            !serde_json::to_string(&learned.state)
                .unwrap()
                .contains("\"history\"")
        );
    }

    #[test]
    fn a_bound_that_disappears_adds_no_more_evidence() {
        let mut guarded = observed(10, &["100", "1000"]);
        observe(&mut guarded, answers(30, &["1000"]), 9_000);
        let [gone, kept] = [0, 1].map(|index| guarded.state.edges[index].totals.canary_requests);
        assert_eq!((gone, kept), (900.0, 2_900.0));
    }
}
