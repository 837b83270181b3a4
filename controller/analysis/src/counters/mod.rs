//! Converts raw Prometheus counter samples to rounds of counts, as a function of the samples'
//! timestamps alone.
//!
//! `rate()` and `increase()` extrapolate to numbers that are not counts. They also lose the first
//! increment of a new series, which is exactly the first error of a new canary pod. Serin therefore
//! reads the raw samples and computes the increments of every series here.
//!
//! # Rounds
//! A *source* is a scrape target; all series of one of its scrapes share a timestamp. A *round*
//! (one [`Tick`]) closes
//! - at the timestamp by which every live source has delivered a scrape since the previous round (a
//!   source is live while its last scrape was less than 1.5 scrape intervals old when that round
//!   closed), or
//! - 1.5 scrape intervals after its first scrape, for the sources that missed theirs. A missed
//!   scrape does not lose requests: the source's next increment spans the gap.
//!
//! The rounds depend on timestamps only, never on when or in which batches the samples were read.
//! With one source, such as a gateway, every scrape is a round and closes immediately. With
//! several, a round waits until `settled_ms`, up to which all samples are assumed to be visible.
//!
//! # Persistent state
//! [`RoundBuilder`] keeps the last value of every series for [`CounterConfig::forget_ms`], in
//! memory only. The only value to persist is the time at which the last round closed. The rest is
//! rebuilt by reading the samples of the preceding `forget_ms` again, regardless of the number of
//! pods and the duration of the rollout. The stored value of a series at a round is by definition
//! its last sample within the preceding `forget_ms`, so the following rounds are identical to the
//! last bit. If a sample becomes visible only after its round has closed, the running process
//! counts it with the next round. A process that restarts at that time omits that increment, of
//! requests and errors alike.

mod series;
mod summed;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::Peekable;

use serde::{Deserialize, Serialize};

use crate::counts::{Counts, PodCounts, PodId, Tick};
use series::{Scrape, SeriesStore};

pub use summed::{SummedIncrement, rounds_from_sums};

/// The arm of the comparison to which a series belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Arm {
    /// The revision being released.
    Canary,
    /// The revision that serves the remaining traffic.
    Stable,
}

/// The requests that a series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CounterKind {
    /// All requests.
    Total,
    /// Bad requests: a subset of the requests of the same scrape.
    Errors,
    /// Good requests, such as those within a latency threshold. The remaining requests are bad. A
    /// series counts only in scrapes that also contain its `Total`, under the same `series` name.
    Good,
}

/// One raw sample of one objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    /// The scrape target, such as the name of a pod or the instance of a gateway.
    pub source: &'a str,
    /// The labels that distinguish the series from others of the same source, arm and kind.
    pub series: &'a str,
    /// The arm to which it belongs.
    pub arm: Arm,
    /// The requests that it counts.
    pub kind: CounterKind,
    /// The timestamp of its scrape, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The counter's value.
    pub value: f64,
}

/// The samples of one query.
#[derive(Debug, Clone, Copy)]
pub struct SampleBatch<'a> {
    /// The samples of all kinds since [`RoundBuilder::read_from_ms`], in any order. Earlier samples
    /// are ignored. Do not add the results of failed or partial queries.
    pub samples: &'a [Sample<'a>],
    /// Creation time of each source, such as a pod, in milliseconds since the epoch. The first
    /// sample of a source that was created after the start of the rollout, and less than
    /// `forget_ms` ago, counts from 0. The first sample of an unlisted source counts nothing.
    pub source_created_ms: &'a BTreeMap<String, i64>,
    /// Time up to which all samples are assumed to be visible: the current time less the scrape
    /// interval and a few seconds.
    pub settled_ms: i64,
    /// Current time. Samples more than five minutes later are rejected.
    pub now_ms: i64,
}

/// How samples become rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CounterConfig {
    /// Scrape interval of the sources.
    pub scrape_interval_ms: i64,
    /// Retention of the last value of a series.
    pub forget_ms: i64,
}

impl Default for CounterConfig {
    fn default() -> Self {
        Self {
            scrape_interval_ms: 15_000,
            forget_ms: 300_000,
        }
    }
}

/// Maximum clock skew between Prometheus and the controller.
const CLOCK_SKEW_MS: i64 = 300_000;

/// Largest valid counter value. A double this large can no longer represent increments.
const MAX_COUNT: f64 = 1e18;

/// The result of one batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rounds {
    /// The closed rounds, in order of time.
    pub ticks: Vec<Tick>,
    /// Time of the latest scrape of the canary in a closed round.
    pub canary_at_ms: Option<i64>,
    /// Time of the latest scrape of stable in a closed round.
    pub stable_at_ms: Option<i64>,
    /// When the latest round with requests to the canary closed.
    pub canary_requests_at_ms: Option<i64>,
    /// Whether the selector of errors (or of good requests) matched a stable series.
    pub selector_matched_stable: bool,
    /// Time of the latest sample that was ignored because it was NaN, negative or infinite.
    pub not_a_number_at_ms: Option<i64>,
    /// Number of samples ignored because their timestamps are in the future.
    pub future_samples: u64,
    /// Number of inconsistent increments (more errors than requests) that were limited.
    pub inconsistent_increments: u64,
}

impl Rounds {
    /// Removes the rounds that began before `round_at_ms`, when the last round closed. Returns the
    /// time at which the last remaining round closed.
    pub(crate) fn retain_since(&mut self, mut round_at_ms: i64) -> i64 {
        self.ticks.retain(|tick| {
            let is_new = tick.started_ms >= round_at_ms;
            round_at_ms = if is_new { tick.at_ms } else { round_at_ms };
            is_new
        });
        round_at_ms
    }
}

/// Builds rounds from samples. See the module documentation.
#[derive(Debug, Clone)]
pub struct RoundBuilder {
    config: CounterConfig,
    began_ms: i64,
    round_at_ms: i64,
    /// Whether this process has closed a round. Until then, samples from before the round serve as
    /// the baseline.
    has_closed_round: bool,
    store: SeriesStore,
}

impl RoundBuilder {
    /// Resumes after the round that closed at `round_at_ms`. At the start of a rollout this is
    /// `began_ms`.
    pub fn resume(config: CounterConfig, began_ms: i64, round_at_ms: i64) -> Self {
        Self {
            config,
            began_ms,
            round_at_ms,
            has_closed_round: false,
            store: SeriesStore::default(),
        }
    }

    /// Changes the configuration, effective with the next batch, for example once the scrape
    /// interval is known from the samples. Closed rounds stay closed.
    pub fn set_config(&mut self, config: CounterConfig) {
        self.config = config;
    }

    /// When the last round closed. This is the only value to persist.
    pub fn round_at_ms(&self) -> i64 {
        self.round_at_ms
    }

    /// Start (exclusive) of the period of which the next batch must contain all samples.
    pub fn read_from_ms(&self) -> i64 {
        if self.has_closed_round {
            self.round_at_ms
        } else {
            self.round_at_ms.saturating_sub(self.config.forget_ms)
        }
    }

    fn round_timeout_ms(&self) -> i64 {
        self.config.scrape_interval_ms.saturating_mul(3) / 2
    }

    /// Adds samples and closes the rounds that they complete.
    pub fn add_samples(&mut self, batch: &SampleBatch<'_>) -> Rounds {
        let mut rounds = Rounds::default();
        let (baseline, fresh) = self.group_by_scrape(batch, &mut rounds);
        for ((at_ms, source), scrape) in &baseline {
            self.store.record_baseline(source, *at_ms, scrape);
        }
        let settled_ms = if self.has_one_source(&fresh) {
            i64::MAX
        } else {
            batch.settled_ms
        };
        let mut events = fresh.iter().peekable();
        while events.peek().is_some() {
            let Some((closed_ms, scrapes)) = self.next_round(&mut events, settled_ms) else {
                break;
            };
            self.close_round(closed_ms, &scrapes, batch.source_created_ms, &mut rounds);
        }
        rounds
    }

    /// Groups the samples by scrape: the baseline, and those after the last round.
    fn group_by_scrape<'a>(
        &self,
        batch: &SampleBatch<'a>,
        rounds: &mut Rounds,
    ) -> (Scrapes<'a>, Scrapes<'a>) {
        let (mut baseline, mut fresh) = (Scrapes::new(), Scrapes::new());
        let latest = batch.now_ms.saturating_add(CLOCK_SKEW_MS);
        for sample in batch.samples {
            if sample.at_ms > latest {
                rounds.future_samples += 1;
                continue;
            }
            if !(0.0..=MAX_COUNT).contains(&sample.value) {
                rounds.not_a_number_at_ms = rounds.not_a_number_at_ms.max(Some(sample.at_ms));
                continue;
            }
            if sample.kind != CounterKind::Total && sample.arm == Arm::Stable {
                rounds.selector_matched_stable = true;
            }
            let scrapes = if sample.at_ms > self.round_at_ms {
                &mut fresh
            } else if sample.at_ms > self.read_from_ms() {
                &mut baseline
            } else {
                continue;
            };
            scrapes
                .entry((sample.at_ms, sample.source))
                .or_default()
                .insert(sample);
        }
        // A scrape with errors but without requests is deferred to the source's next scrape.
        baseline.retain(|_, scrape| scrape.has_total());
        fresh.retain(|_, scrape| scrape.has_total());
        (baseline, fresh)
    }

    /// Whether there is only one source. Its scrapes become visible in order, so no waiting is
    /// needed.
    fn has_one_source(&self, fresh: &Scrapes<'_>) -> bool {
        let mut sources: BTreeSet<&str> = fresh.keys().map(|(_, source)| *source).collect();
        sources.extend(
            self.store
                .live_since(self.round_at_ms.saturating_sub(self.round_timeout_ms())),
        );
        sources.len() == 1
    }

    /// The time at which the next round closes, and its scrapes. `None` if it does not close yet.
    fn next_round<'s, 'a>(
        &self,
        events: &mut Events<'s, 'a>,
        settled_ms: i64,
    ) -> Option<(i64, Vec<Event<'s, 'a>>)> {
        let mut pending: BTreeSet<&str> = self
            .store
            .live_since(self.round_at_ms.saturating_sub(self.round_timeout_ms()))
            .collect();
        let mut scrapes = Vec::new();
        let mut deadline_ms = i64::MAX;
        while let Some(((at_ms, _), _)) = events.peek() {
            let at_ms = *at_ms;
            if scrapes.is_empty() {
                deadline_ms = at_ms.saturating_add(self.round_timeout_ms());
            }
            if at_ms > deadline_ms || at_ms > settled_ms {
                break;
            }
            // Scrapes with the same timestamp belong to the same round, so that a round is complete
            // up to the time at which it closes.
            while let Some(((_, source), scrape)) =
                events.next_if(|((next_ms, _), _)| *next_ms == at_ms)
            {
                pending.remove(*source);
                scrapes.push((at_ms, *source, scrape));
            }
            if pending.is_empty() {
                return Some((at_ms, scrapes));
            }
        }
        (!scrapes.is_empty() && deadline_ms <= settled_ms).then_some((deadline_ms, scrapes))
    }

    fn close_round(
        &mut self,
        closed_ms: i64,
        scrapes: &[Event<'_, '_>],
        source_created_ms: &BTreeMap<String, i64>,
        rounds: &mut Rounds,
    ) {
        let mut counts = Counts::default();
        let mut stable_pods: BTreeMap<&str, PodCounts> = BTreeMap::new();
        let mut canary_pods: BTreeMap<&str, PodCounts> = BTreeMap::new();
        let mut counts_since_ms = self.round_at_ms;
        let oldest_ms = |at_ms: i64| at_ms.saturating_sub(self.config.forget_ms);
        for (at_ms, source, scrape) in scrapes {
            let expired_ms = oldest_ms(*at_ms);
            let is_new_source = source_created_ms
                .get(*source)
                .is_some_and(|created_ms| *created_ms >= self.began_ms && *created_ms > expired_ms);
            let last_scrape_ms = self.store.last_scrape_ms(source);
            counts_since_ms = counts_since_ms.min(
                last_scrape_ms
                    .filter(|last_ms| *last_ms > expired_ms)
                    .unwrap_or(counts_since_ms),
            );
            let increment =
                self.store
                    .count_scrape(source, *at_ms, scrape, expired_ms, is_new_source);
            rounds.inconsistent_increments += increment.inconsistent;
            counts.add(&increment.counts);
            if scrape.has_total_of(Arm::Canary) {
                rounds.canary_at_ms = rounds.canary_at_ms.max(Some(*at_ms));
            }
            if scrape.has_total_of(Arm::Stable) {
                rounds.stable_at_ms = rounds.stable_at_ms.max(Some(*at_ms));
                let pod = stable_pods.entry(source).or_default();
                pod.requests += increment.counts.stable_requests;
                pod.errors += increment.counts.stable_errors;
            }
            if scrape.has_total_of(Arm::Canary) && !scrape.has_total_of(Arm::Stable) {
                let pod = canary_pods.entry(source).or_default();
                pod.requests += increment.counts.canary_requests;
                pod.errors += increment.counts.canary_errors;
            }
        }
        if counts.canary_requests > 0.0 {
            rounds.canary_requests_at_ms = rounds.canary_requests_at_ms.max(Some(closed_ms));
        }
        // A single source that counts for all pods does not show how the pods differ.
        let stable_pods = if stable_pods.len() > 1 {
            named_pods(stable_pods)
        } else {
            Vec::new()
        };
        rounds.ticks.push(Tick {
            started_ms: self.round_at_ms,
            at_ms: closed_ms,
            counts,
            stable_pods,
            canary_pods: named_pods(canary_pods),
            counts_since_ms: (counts_since_ms < self.round_at_ms).then_some(counts_since_ms),
        });
        self.round_at_ms = closed_ms;
        self.has_closed_round = true;
        self.store.expire(oldest_ms(closed_ms));
    }
}

/// The counts with the identities of their pods.
fn named_pods(pods: BTreeMap<&str, PodCounts>) -> Vec<PodCounts> {
    let named = |(source, counts): (&str, PodCounts)| PodCounts {
        pod: PodId::from_name(source),
        ..counts
    };
    pods.into_iter().map(named).collect()
}

/// Scrapes by timestamp and source.
type Scrapes<'a> = BTreeMap<(i64, &'a str), Scrape<'a>>;
/// Iterator over scrapes in order of time.
type Events<'s, 'a> = Peekable<btree_map::Iter<'s, (i64, &'a str), Scrape<'a>>>;
/// Timestamp, source and content of one scrape.
type Event<'s, 'a> = (i64, &'a str, &'s Scrape<'a>);

#[cfg(test)]
mod tests;
