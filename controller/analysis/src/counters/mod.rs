//! Counters to counts: raw Prometheus samples to rounds, as a function of the samples' timestamps
//! alone.
//!
//! `rate()` and `increase()` extrapolate to numbers that are not counts and lose the first
//! increment of a new series, which is exactly the first error of a new canary pod. So the raw
//! samples are read, and every series' increments are taken here.
//!
//! # Rounds
//! A *source* is a scrape target; all series of one of its scrapes share a timestamp. A *round*
//! (one [`Tick`]) closes
//! - at the timestamp by which every live source has delivered a scrape since the round before (a
//!   source is live while its last scrape was less than 1.5 scrape intervals old when that round
//!   closed), or
//! - 1.5 scrape intervals after its first scrape, for the sources that missed theirs. A missed
//!   scrape heals by itself: the source's next increment spans the gap.
//!
//! Which rounds there are depends on timestamps only, never on when or in which portions the
//! samples were read. With one source, such as a gateway, every scrape is a round and closes as
//! soon as it is seen; with several, a round waits until `settled_ms`, before which all samples are
//! taken to be visible.
//!
//! # What is remembered, and what of it must be persisted
//! [`Counters`] remembers the last value of every series for [`CounterConfig::forget_ms`]; that is
//! in memory only. To be persisted there is one number: when the last round closed. The rest is
//! rebuilt by reading the samples of the `forget_ms` before it again, whatever the number of pods
//! and the length of the rollout: a series' memory at a round is by definition its last sample
//! within `forget_ms` before, so the rounds that follow are the same to the last bit. Where a
//! sample became visible only after its round had closed, the running process counts it with the
//! next one; a process that restarts just then leaves that one increment out, of requests and
//! errors alike.

mod series;
mod summed;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::Peekable;

use serde::{Deserialize, Serialize};

use crate::counts::{Counts, PodCounts, Tick};
use series::{Memory, Scrape};

pub use summed::{SummedIncrement, rounds_of_sums};

/// Which side of the rollout a series counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Arm {
    /// The revision being released.
    Canary,
    /// The revision that serves the rest.
    Stable,
}

/// What a series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Requests.
    Total,
    /// Bad requests: a subset of the requests of the same scrape.
    Errors,
    /// Good requests, such as those within a latency threshold: bad are the others. A series counts
    /// only in scrapes that have its `Total` too, under the same `series` name.
    Good,
}

/// One raw sample of one objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    /// The scrape target that the sample comes from, such as a pod's name or a gateway's instance.
    pub source: &'a str,
    /// What tells the series from others of its source, arm and kind: its labels.
    pub series: &'a str,
    /// Which side it counts for.
    pub arm: Arm,
    /// What it counts.
    pub kind: Kind,
    /// The timestamp of its scrape, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The counter's value.
    pub value: f64,
}

/// What one query brought.
#[derive(Debug, Clone, Copy)]
pub struct Feed<'a> {
    /// The samples since [`Counters::read_from_ms`], of all kinds, in any order; more than that
    /// does no harm. A query that failed or was partial is not fed.
    pub samples: &'a [Sample<'a>],
    /// When each source was born (a pod's creation), in milliseconds since the epoch. The first
    /// sight of a source that was born after the rollout began, and is still young, counts from 0;
    /// of one that is not listed, it counts nothing.
    pub births: &'a BTreeMap<String, i64>,
    /// Up to when all samples are taken to be visible: the clock less the scrape interval and some
    /// seconds.
    pub settled_ms: i64,
    /// The clock. Samples from more than five minutes after it are refused.
    pub now_ms: i64,
}

/// How samples become rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CounterConfig {
    /// How often the sources are scraped.
    pub scrape_interval_ms: i64,
    /// How long a series that is not seen is remembered.
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

/// How far the clocks of Prometheus and of the controller may differ.
const CLOCK_SKEW_MS: i64 = 300_000;

/// No counter gets here; a double this large no longer counts anything.
const HIGHEST_COUNT: f64 = 1e18;

/// What one feed came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rounds {
    /// The rounds that closed, in the order of time.
    pub ticks: Vec<Tick>,
    /// The newest scrape of each arm that is in a closed round.
    pub canary_at_ms: Option<i64>,
    /// Likewise for stable.
    pub stable_at_ms: Option<i64>,
    /// When the newest round with a request to the canary closed.
    pub canary_requests_at_ms: Option<i64>,
    /// Whether the selector of the errors (or of the good ones) matched a stable series.
    pub selector_matched_stable: bool,
    /// The newest sample that was not a number, negative or infinite, and so was left out.
    pub not_a_number_at_ms: Option<i64>,
    /// Samples left out because they were from the future.
    pub from_the_future: u64,
    /// Increments that could not be true (more errors than requests) and were cut.
    pub inconsistent: u64,
}

impl Rounds {
    /// Leaves out the rounds that began before `round_at_ms`, when the last one had closed; when
    /// the last one of these closed.
    pub(crate) fn retain_since(&mut self, mut round_at_ms: i64) -> i64 {
        self.ticks.retain(|tick| {
            let is_new = tick.started_ms >= round_at_ms;
            round_at_ms = if is_new { tick.at_ms } else { round_at_ms };
            is_new
        });
        round_at_ms
    }
}

/// The memory that turns samples into rounds; see the module's documentation.
#[derive(Debug, Clone)]
pub struct Counters {
    config: CounterConfig,
    began_ms: i64,
    round_at_ms: i64,
    /// Whether this process has closed a round: until then, samples from before the round are its
    /// baseline.
    primed: bool,
    memory: Memory,
}

impl Counters {
    /// Counters whose last round closed at `round_at_ms`; at the start of a rollout that is when
    /// the rollout began.
    pub fn resume(config: CounterConfig, began_ms: i64, round_at_ms: i64) -> Self {
        Self {
            config,
            began_ms,
            round_at_ms,
            primed: false,
            memory: Memory::default(),
        }
    }

    /// Uses another scrape interval from the next feed on, for example once it is known from the
    /// samples. Rounds that have closed stay closed.
    pub fn set_config(&mut self, config: CounterConfig) {
        self.config = config;
    }

    /// When the last round closed: the one thing to be persisted.
    pub fn round_at_ms(&self) -> i64 {
        self.round_at_ms
    }

    /// From when (exclusive) the next feed must have all samples.
    pub fn read_from_ms(&self) -> i64 {
        if self.primed {
            self.round_at_ms
        } else {
            self.round_at_ms.saturating_sub(self.config.forget_ms)
        }
    }

    fn patience_ms(&self) -> i64 {
        self.config.scrape_interval_ms.saturating_mul(3) / 2
    }

    /// Takes samples in and closes the rounds that they complete.
    pub fn feed(&mut self, feed: &Feed<'_>) -> Rounds {
        let mut rounds = Rounds::default();
        let (baseline, fresh) = self.sort(feed, &mut rounds);
        for ((at_ms, source), scrape) in &baseline {
            self.memory.set(source, *at_ms, scrape);
        }
        let settled_ms = if self.has_one_source(&fresh) {
            i64::MAX
        } else {
            feed.settled_ms
        };
        let mut events = fresh.iter().peekable();
        while events.peek().is_some() {
            let Some((closed_ms, open)) = self.next_round(&mut events, settled_ms) else {
                break;
            };
            self.close(closed_ms, &open, feed.births, &mut rounds);
        }
        rounds
    }

    /// The samples by scrape: those that are a baseline only, and those after the last round.
    fn sort<'a>(&self, feed: &Feed<'a>, rounds: &mut Rounds) -> (Scrapes<'a>, Scrapes<'a>) {
        let (mut baseline, mut fresh) = (Scrapes::new(), Scrapes::new());
        let latest = feed.now_ms.saturating_add(CLOCK_SKEW_MS);
        for sample in feed.samples {
            if sample.at_ms > latest {
                rounds.from_the_future += 1;
                continue;
            }
            if !(0.0..=HIGHEST_COUNT).contains(&sample.value) {
                rounds.not_a_number_at_ms = rounds.not_a_number_at_ms.max(Some(sample.at_ms));
                continue;
            }
            if sample.kind != Kind::Total && sample.arm == Arm::Stable {
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
        // A numerator without its denominator waits for the source's next scrape.
        baseline.retain(|_, scrape| scrape.has_total());
        fresh.retain(|_, scrape| scrape.has_total());
        (baseline, fresh)
    }

    /// One source's scrapes become visible in their order: nothing is left to wait for.
    fn has_one_source(&self, fresh: &Scrapes<'_>) -> bool {
        let mut sources: BTreeSet<&str> = fresh.keys().map(|(_, source)| *source).collect();
        sources.extend(
            self.memory
                .live_since(self.round_at_ms.saturating_sub(self.patience_ms())),
        );
        sources.len() == 1
    }

    /// The scrapes of the next round and when it closes; nothing where it does not close yet.
    fn next_round<'s, 'a>(
        &self,
        events: &mut Events<'s, 'a>,
        settled_ms: i64,
    ) -> Option<(i64, Vec<Event<'s, 'a>>)> {
        let mut awaited: BTreeSet<&str> = self
            .memory
            .live_since(self.round_at_ms.saturating_sub(self.patience_ms()))
            .collect();
        let mut open = Vec::new();
        let mut deadline_ms = i64::MAX;
        while let Some(((at_ms, _), _)) = events.peek() {
            let at_ms = *at_ms;
            if open.is_empty() {
                deadline_ms = at_ms.saturating_add(self.patience_ms());
            }
            if at_ms > deadline_ms || at_ms > settled_ms {
                break;
            }
            // All scrapes of one millisecond go together, so that a round has everything up to when
            // it closes.
            while let Some(((_, source), scrape)) =
                events.next_if(|((next_ms, _), _)| *next_ms == at_ms)
            {
                awaited.remove(*source);
                open.push((at_ms, *source, scrape));
            }
            if awaited.is_empty() {
                return Some((at_ms, open));
            }
        }
        (!open.is_empty() && deadline_ms <= settled_ms).then_some((deadline_ms, open))
    }

    fn close(
        &mut self,
        closed_ms: i64,
        open: &[Event<'_, '_>],
        births: &BTreeMap<String, i64>,
        rounds: &mut Rounds,
    ) {
        let mut counts = Counts::default();
        let mut stable_pods: BTreeMap<&str, PodCounts> = BTreeMap::new();
        let oldest_ms = |at_ms: i64| at_ms.saturating_sub(self.config.forget_ms);
        for (at_ms, source, scrape) in open {
            let remembered_ms = oldest_ms(*at_ms);
            let born_here = births
                .get(*source)
                .is_some_and(|born| *born >= self.began_ms && *born > remembered_ms);
            let taken = self
                .memory
                .take(source, *at_ms, scrape, remembered_ms, born_here);
            rounds.inconsistent += taken.inconsistent;
            counts.add(&taken.counts);
            if scrape.has_total_of(Arm::Canary) {
                rounds.canary_at_ms = rounds.canary_at_ms.max(Some(*at_ms));
            }
            if scrape.has_total_of(Arm::Stable) {
                rounds.stable_at_ms = rounds.stable_at_ms.max(Some(*at_ms));
                let pod = stable_pods.entry(source).or_default();
                pod.requests += taken.counts.stable_requests;
                pod.errors += taken.counts.stable_errors;
            }
        }
        if counts.canary_requests > 0.0 {
            rounds.canary_requests_at_ms = rounds.canary_requests_at_ms.max(Some(closed_ms));
        }
        // One source that counts for all pods says nothing of how they differ.
        let stable_pods = if stable_pods.len() > 1 {
            stable_pods.into_values().collect()
        } else {
            Vec::new()
        };
        rounds.ticks.push(Tick {
            started_ms: self.round_at_ms,
            at_ms: closed_ms,
            counts,
            stable_pods,
        });
        self.round_at_ms = closed_ms;
        self.primed = true;
        self.memory.forget_before(oldest_ms(closed_ms));
    }
}

/// Scrapes by their time and source.
type Scrapes<'a> = BTreeMap<(i64, &'a str), Scrape<'a>>;
/// The same in the order of time.
type Events<'s, 'a> = Peekable<btree_map::Iter<'s, (i64, &'a str), Scrape<'a>>>;
/// One of them: when, of which source, what.
type Event<'s, 'a> = (i64, &'a str, &'s Scrape<'a>);

#[cfg(test)]
mod tests;
