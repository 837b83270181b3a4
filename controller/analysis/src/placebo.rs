//! Placebo releases: the rule on stable's own pods in past hours, as if each of them in turn were the
//! canary. All of them run the same version, so whatever the rule finds is a false alarm.
//!
//! Where the bound holds, a placebo release is rolled back with probability at most `alpha`, whatever
//! happened in the hours before it. So the number of hours with a false alarm is at most binomial,
//! and [`Placebo::refutation`] is the significance of a test of the bound itself. With sufficient
//! hours, [`calibrate`] finds a temper with which the bound holds if the hour of the release is like
//! them.

mod calibration;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::counts::{Counts, PodCounts, Tick};
use crate::evidence::{Bets, Evidence, TickContext};
use crate::format::{percent, thousands};

pub use self::calibration::{CalibrationTarget, calibrate, calibration_hours};

/// Usual length of a placebo release, in milliseconds.
pub const HOUR_MS: i64 = 3_600_000;
/// Maximum number of hours, which bounds the cost.
pub const MAX_HOURS: usize = 336;
/// At most this many pods take the part of the canary in an hour.
const MAX_PODS: usize = 16;
/// A placebo needs at least this many pods, so that the others can be compared with each other.
const MIN_PODS: usize = 3;
/// Length of the history before the hour before a release, as before a real release, in milliseconds.
const COARSE_SPAN_MS: i64 = 23 * HOUR_MS;
/// The history before the hour before a release is added up in steps of at least this length, as
/// before a real release, in milliseconds.
const COARSE_STEP_MS: i64 = 300_000;
/// Significance at which the bound counts as refuted.
const REFUTED: f64 = 0.01;

/// The placebo releases of one hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaceboHour {
    /// Start in milliseconds since the epoch.
    pub began_ms: i64,
    /// End in milliseconds since the epoch.
    pub ended_ms: i64,
    /// Number of placebo releases: pods (or groups of pods) that were the canary, one after the other.
    pub pods: u32,
    /// Number of them that the rule would have rolled back.
    pub rolled_back: u32,
    /// `ln E`: the strongest evidence against one of them.
    pub ln_e: f64,
    /// Identity of that pod, or of the first one of the group, see [`crate::PodId::or_position`].
    pub pod: u64,
}

/// What an analysis keeps of placebo releases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaceboSummary {
    /// Number of hours.
    pub hours: u32,
    /// Number of hours in which at least one pod would have been rolled back.
    pub hours_with_rollback: u32,
    /// Whether so many would be rare if the bound held.
    pub refutes_bound: bool,
}

/// The placebo releases of several hours, in order of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placebo {
    /// Maximum probability of a false rollback that the rule promises.
    pub alpha: f64,
    /// The hours. Hours without sufficient data are omitted.
    pub hours: Vec<PlaceboHour>,
}

/// The rule that is applied to placebo releases.
#[derive(Debug, Clone, Copy)]
pub struct PlaceboRule<'a> {
    /// The bets.
    pub bets: &'a Bets,
    /// Maximum probability of a false rollback that the rule promises.
    pub alpha: f64,
    /// Share of the pods that are the canary together, from 0 to 1. At least one pod is.
    pub canary_share: f64,
}

/// Applies the rule to each of stable's pods in turn, in each period of `hour_ms` before the end of
/// `ticks`, which are in order of time. The first period is history only. With less than two of them,
/// the first half is the history and the second half the release.
pub fn placebo(ticks: &[Tick], hour_ms: i64, rule: &PlaceboRule<'_>) -> Placebo {
    let mut result = Placebo {
        alpha: rule.alpha,
        hours: Vec::new(),
    };
    let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else {
        return result;
    };
    let span_ms = last.at_ms.saturating_sub(first.started_ms);
    let hour_ms = hour_ms.clamp(1, (span_ms / 2).max(1));
    let hours = usize::try_from(span_ms / hour_ms).unwrap_or(0);
    for ago in (0..hours.saturating_sub(1).min(MAX_HOURS)).rev() {
        let ago_ms = hour_ms.saturating_mul(i64::try_from(ago).unwrap_or(i64::MAX));
        let ended_ms = last.at_ms.saturating_sub(ago_ms);
        let began_ms = ended_ms.saturating_sub(hour_ms);
        let before_ms = began_ms.saturating_sub(hour_ms);
        let index = |at_ms: i64| ticks.partition_point(|tick| tick.started_ms < at_ms);
        let (day, last_hour, begin) = (
            index(before_ms.saturating_sub(COARSE_SPAN_MS)),
            index(before_ms),
            index(began_ms),
        );
        let within = &ticks[begin..];
        let hour = Hour {
            long_ago: &ticks[day..last_hour],
            before: &ticks[last_hour..begin],
            within: &within[..within.partition_point(|tick| tick.at_ms <= ended_ms)],
        };
        result.hours.extend(
            hour.releases(rule)
                .filter(|hour| hour.pods > 0)
                .map(|hour| PlaceboHour {
                    began_ms,
                    ended_ms,
                    ..hour
                }),
        );
    }
    result
}

/// The ticks of one hour and of its history.
struct Hour<'a> {
    long_ago: &'a [Tick],
    before: &'a [Tick],
    within: &'a [Tick],
}

impl Hour<'_> {
    /// The placebo releases of all pods. `None` without sufficient data.
    fn releases(&self, rule: &PlaceboRule<'_>) -> Option<PlaceboHour> {
        let first = self.within.first()?;
        let pods = self.old_pods();
        if pods.len() < MIN_PODS {
            return None;
        }
        let size = group_size(pods.len(), rule.canary_share);
        let level = coarse_level(first);
        let coarse = added_up(self.long_ago, level);
        let mut result = PlaceboHour::default();
        for (position, first_pod) in pods.iter().enumerate().take(MAX_PODS) {
            let group = pods.iter().cycle().skip(position).take(size);
            let canary: BTreeSet<u64> = group.copied().collect();
            let without = |ticks: &[Tick]| -> Vec<Tick> {
                ticks
                    .iter()
                    .map(|tick| with_canary(tick, &canary))
                    .collect()
            };
            let mut evidence = Evidence::new(rule.bets, first.started_ms);
            evidence.learn_coarse_dispersion(&without(&coarse), level);
            evidence.learn_dispersion(&without(self.before));
            let mut strongest = 0.0_f64;
            for tick in self.within {
                let tick = with_canary(tick, &canary);
                evidence.add(rule.bets, &tick, &TickContext::default());
                strongest = strongest.max(evidence.ln_e(rule.bets));
            }
            result.pods += 1;
            result.rolled_back += u32::from(strongest >= -rule.alpha.ln());
            if result.pods == 1 || strongest > result.ln_e {
                result.ln_e = strongest;
                result.pod = *first_pod;
            }
        }
        Some(result)
    }

    /// The pods that served before the hour and in it. Pods in their warm-up may fail more often.
    fn old_pods(&self) -> Vec<u64> {
        let serving = |ticks: &[Tick]| -> BTreeSet<u64> {
            let pods = ticks.iter().flat_map(|tick| {
                let pods = tick.stable_pods.iter().enumerate();
                let serving = pods.filter(|(_, pod)| pod.requests > 0.0);
                serving.map(|(position, pod)| pod.pod.or_position(position))
            });
            pods.collect()
        };
        let old = serving(self.before);
        serving(self.within)
            .into_iter()
            .filter(|pod| old.contains(pod))
            .collect()
    }
}

/// Number of the pods that are the canary together. At least two others remain.
fn group_size(pods: usize, share: f64) -> usize {
    let most = pods.saturating_sub(2).max(1);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of pods is far below 2^53"
    )]
    let is_within = |size: &usize| *size as f64 <= share * pods as f64 + 0.5;
    (1..=most).rev().find(is_within).unwrap_or(1)
}

/// The power of two of ticks whose sums are steps of some minutes.
fn coarse_level(tick: &Tick) -> usize {
    let mut step_ms = tick.at_ms.saturating_sub(tick.started_ms).max(1);
    let mut level = 0;
    while step_ms < COARSE_STEP_MS {
        step_ms *= 2;
        level += 1;
    }
    level
}

/// Sums of `2^level` successive ticks, by pod.
fn added_up(ticks: &[Tick], level: usize) -> Vec<Tick> {
    let sum = |ticks: &[Tick]| {
        let mut pods: BTreeMap<u64, PodCounts> = BTreeMap::new();
        for tick in ticks {
            for (position, pod) in tick.stable_pods.iter().enumerate() {
                let sum = pods
                    .entry(pod.pod.or_position(position))
                    .or_insert(PodCounts {
                        pod: pod.pod,
                        ..PodCounts::default()
                    });
                sum.requests += pod.requests;
                sum.errors += pod.errors;
            }
        }
        Tick {
            started_ms: ticks.first().map_or(0, |tick| tick.started_ms),
            at_ms: ticks.last().map_or(0, |tick| tick.at_ms),
            stable_pods: pods.into_values().collect(),
            ..Tick::default()
        }
    };
    ticks.chunks(1 << level.min(20)).map(sum).collect()
}

/// The tick with these of stable's pods as the canary.
fn with_canary(tick: &Tick, canary: &BTreeSet<u64>) -> Tick {
    let mut counts = Counts::default();
    let (mut canary_pods, mut stable_pods) = (Vec::<PodCounts>::new(), Vec::<PodCounts>::new());
    for (position, pod) in tick.stable_pods.iter().enumerate() {
        if canary.contains(&pod.pod.or_position(position)) {
            counts.canary_requests += pod.requests;
            counts.canary_errors += pod.errors;
            canary_pods.push(*pod);
        } else {
            counts.stable_requests += pod.requests;
            counts.stable_errors += pod.errors;
            stable_pods.push(*pod);
        }
    }
    Tick {
        started_ms: tick.started_ms,
        at_ms: tick.at_ms,
        counts,
        stable_pods,
        canary_pods,
        counts_since_ms: tick.counts_since_ms,
    }
}

impl Placebo {
    /// Number of placebo releases.
    pub fn releases(&self) -> u32 {
        self.hours.iter().map(|hour| hour.pods).sum()
    }

    /// Number of placebo releases that would have been rolled back.
    pub fn rolled_back(&self) -> u32 {
        self.hours.iter().map(|hour| hour.rolled_back).sum()
    }

    /// Number of hours in which at least one of them would have been.
    pub fn hours_with_rollback(&self) -> usize {
        self.hours
            .iter()
            .filter(|hour| hour.rolled_back > 0)
            .count()
    }

    /// The largest probability, if the bound holds, of this number of hours with a false alarm, or of
    /// more. In an hour with `P` placebo releases it is at most `P alpha`, whatever happened before.
    pub fn refutation(&self) -> f64 {
        // The probability of each number of hours. The last element also counts all larger ones.
        let mut numbers = vec![0.0; self.hours_with_rollback() + 1];
        numbers[0] = 1.0;
        let last = numbers.len() - 1;
        for hour in &self.hours {
            let chance = (f64::from(hour.pods) * self.alpha).min(1.0);
            for number in (0..=last).rev() {
                let stays = if number == last { 1.0 } else { 1.0 - chance };
                let comes = number.checked_sub(1).map_or(0.0, |fewer| numbers[fewer]);
                numbers[number] = numbers[number] * stays + comes * chance;
            }
        }
        numbers[last]
    }

    /// What an analysis keeps.
    pub fn summary(&self) -> PlaceboSummary {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        PlaceboSummary {
            hours: number(self.hours.len()),
            hours_with_rollback: number(self.hours_with_rollback()),
            refutes_bound: self.refutes_bound(),
        }
    }

    /// Whether the bound is refuted for this service: so many false alarms would be rare.
    pub fn refutes_bound(&self) -> bool {
        self.hours_with_rollback() > 0 && self.refutation() <= REFUTED
    }

    /// One or two sentences for operators.
    pub fn sentence(&self) -> String {
        let (releases, rolled_back) = (self.releases(), self.rolled_back());
        let hours = self.hours.len();
        if releases == 0 {
            return format!(
                "No placebo release: they need at least {MIN_PODS} stable pods that serve for two \
                 hours and are counted separately."
            );
        }
        let count = thousands(f64::from(releases));
        let span = if hours == 1 {
            "the last hour".to_owned()
        } else {
            format!("the last {hours} hours")
        };
        if rolled_back == 0 {
            return format!(
                "None of your own pods would have been rolled back in {span} ({count} placebo \
                 releases)."
            );
        }
        let span = if hours == 1 {
            span
        } else {
            format!("{} of {span}", self.hours_with_rollback())
        };
        let found = format!(
            "Your own pods would have been rolled back in {span} ({} of {count} placebo releases).",
            thousands(f64::from(rolled_back)),
        );
        let bound = format!("1 in {}", thousands((1.0 / self.alpha).round()));
        if self.refutes_bound() {
            format!(
                "{found} If the bound of {bound} held, so many hours would have \
                 a probability of at most {}. The bound does not hold for this service.",
                percent(self.refutation())
            )
        } else {
            format!("{found} That is compatible with a bound of {bound}.")
        }
    }
}

#[cfg(test)]
mod tests;
