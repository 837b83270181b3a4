//! Overdispersion over several time scales: how much errors cluster within a scrape, and over
//! minutes and hours.
//!
//! Pearson's statistic of the errors over the stable pods ([`crate::overdispersion`]) sees only
//! clusters that fit into one scrape. Broken clients, pods on a slow node and long-lived connections
//! fail for minutes. The same statistic over blocks of 1, 2, 4, ... ticks and over the whole history
//! sees them. A scale counts only where its statistic is significant, so that independent errors
//! cost no power.
//!
//! The temper `k` that follows is a heuristic. Only the mean and the variance of the statistic
//! (`BlockStatistic`) are exact.

mod scale;
mod serial;
mod stored;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub(crate) use self::scale::chi_squared_quantile;
use self::scale::{BlockStatistic, Scale};
pub use self::serial::SerialDispersion;
use self::stored::StoredDispersion;
use crate::counts::PodCounts;

/// Pods beyond this number share a group. A group of pods has the same overdispersion as its pods,
/// so this costs precision but no correctness, and it bounds the state.
const MAX_GROUPS: usize = 16;
/// Number of scales: blocks of up to 4096 ticks, 17 hours at 15 s.
const MAX_LEVELS: usize = 13;
/// Number of the scales up to which clusters count as such, and not as differences of pods: 32
/// ticks, 8 minutes at 15 s.
const MINUTES_LEVELS: usize = 6;
/// Ratio of the tempers of long and short blocks from which clusters count as lasting.
const LASTING: f64 = 1.3;

/// Requests and errors by group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    requests: Vec<f64>,
    errors: Vec<f64>,
}

impl Block {
    fn add(&mut self, group: usize, requests: f64, errors: f64) {
        let length = self.requests.len().max(group + 1);
        self.requests.resize(length, 0.0);
        self.errors.resize(length, 0.0);
        self.requests[group] += requests;
        self.errors[group] += errors;
    }

    fn merge(&mut self, other: &Self) {
        let counts = other.requests.iter().zip(&other.errors);
        for (group, (requests, errors)) in counts.enumerate() {
            self.add(group, *requests, *errors);
        }
    }

    fn statistic(&self) -> Option<BlockStatistic> {
        let cells = self.requests.iter().zip(&self.errors);
        BlockStatistic::new(cells.map(|(requests, errors)| (*requests, *errors)))
    }
}

/// The overdispersion of the errors of stable's pods, by time scale. Serializable and bounded: at
/// most 16 groups of pods and 13 scales.
///
/// # Examples
///
/// ```
/// use serin_analysis::multi_scale::MultiScaleDispersion;
/// use serin_analysis::{PodCounts, Tick};
///
/// // One of two pods has all of the errors, one in each scrape.
/// let pod = |errors| PodCounts { requests: 500.0, errors, ..PodCounts::default() };
/// let ticks = vec![vec![pod(1.0), pod(0.0)]; 64];
/// let mut dispersion = MultiScaleDispersion::default();
/// dispersion.learn_history(ticks.iter().map(Vec::as_slice));
/// // A single scrape shows nothing, the whole history does.
/// assert_eq!(dispersion.phi(), Some(1.0));
/// assert!(dispersion.k() > 60.0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredDispersion", into = "StoredDispersion")]
pub struct MultiScaleDispersion {
    /// Identities of the pods that have a group of their own.
    pods: Vec<u32>,
    /// Scale `i` consists of blocks of `2^i` ticks.
    scales: Vec<Scale>,
    /// The whole history before the release, as one block.
    history: Scale,
    /// A block of `2^i` ticks that waits for the next one, so that both become a block of scale
    /// `i + 1`.
    waiting: Vec<Option<Block>>,
    /// Lower limit of `k`: what an earlier version had learned.
    least_k: Option<f64>,
    /// Number of stable pods in the latest tick.
    latest_pods: u32,
}

impl MultiScaleDispersion {
    /// Learns from the ticks before a release, in order of time: stable's pods in each of them. The
    /// ticks of the release begin new blocks.
    pub fn learn_history<'a>(&mut self, ticks: impl Iterator<Item = &'a [PodCounts]>) {
        self.learn(0, ticks);
    }

    /// Learns from history of which only sums over about `2^level` ticks are known.
    pub fn learn_coarse_history<'a>(
        &mut self,
        level: usize,
        ticks: impl Iterator<Item = &'a [PodCounts]>,
    ) {
        self.learn(level, ticks);
    }

    fn learn<'a>(&mut self, level: usize, ticks: impl Iterator<Item = &'a [PodCounts]>) {
        let mut whole = Block::default();
        for pods in ticks {
            let Some(block) = self.block(pods) else {
                continue;
            };
            whole.merge(&block);
            self.add_block(level, block);
        }
        if let Some(statistic) = whole.statistic() {
            self.history.add(&statistic);
        }
        self.waiting.clear();
    }

    /// Adds a tick of the release: stable's pods. Fewer than two pods are ignored.
    pub fn add(&mut self, pods: &[PodCounts]) {
        if let Some(block) = self.block(pods) {
            self.add_block(0, block);
        }
    }

    fn block(&mut self, pods: &[PodCounts]) -> Option<Block> {
        if pods.len() < 2 {
            return None;
        }
        self.latest_pods = u32::try_from(pods.len()).unwrap_or(u32::MAX);
        let mut block = Block::default();
        for (position, pod) in pods.iter().enumerate() {
            let group = self.group(pod.pod.or_position(position));
            block.add(group, pod.requests, pod.errors);
        }
        Some(block)
    }

    /// The group of a pod. The first pods have one of their own.
    fn group(&mut self, identity: u64) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "half of a hash; a JSON number holds 32 bits exactly"
        )]
        let identity = (identity ^ (identity >> 32)) as u32;
        if let Some(group) = self.pods.iter().position(|known| *known == identity) {
            return group;
        }
        if self.pods.len() < MAX_GROUPS {
            self.pods.push(identity);
            return self.pods.len() - 1;
        }
        identity as usize % MAX_GROUPS
    }

    fn add_block(&mut self, level: usize, mut block: Block) {
        for index in level..MAX_LEVELS {
            if self.scales.len() <= index {
                self.scales.resize(index + 1, Scale::default());
                self.waiting.resize(index + 1, None);
            }
            if self.waiting.len() <= index {
                self.waiting.resize(index + 1, None);
            }
            if let Some(statistic) = block.statistic() {
                self.scales[index].add(&statistic);
            }
            match self.waiting[index].take() {
                Some(earlier) => block.merge(&earlier),
                None => {
                    self.waiting[index] = Some(block);
                    return;
                }
            }
        }
    }

    /// `phi` within a scrape. `None` before the first error in a tick with two pods.
    pub fn phi(&self) -> Option<f64> {
        self.scales.first().and_then(Scale::phi)
    }

    /// The temper: the largest of all significant scales, at least 1.
    pub fn k(&self) -> f64 {
        let longer = self.scales.iter().skip(1).chain([&self.history]);
        longer.map(Scale::k).fold(
            self.k_of_scrapes().max(self.least_k.unwrap_or(1.0)),
            f64::max,
        )
    }

    fn k_of_scrapes(&self) -> f64 {
        self.scales.first().map_or(1.0, Scale::k_of_scrapes)
    }

    /// The temper beyond what clusters within a scrape explain: by how much clusters outlast a
    /// scrape. At least 1.
    pub fn serial_k(&self) -> f64 {
        let within = self.k_of_scrapes();
        (self.k() / within.max(self.least_k.unwrap_or(1.0))).max(1.0)
    }

    /// Whether clusters outlast a scrape.
    pub fn clusters_last(&self) -> bool {
        self.serial_k() > LASTING
    }

    /// Whether the pods of the history differ from each other over its whole duration, beyond what
    /// clusters of some minutes explain.
    pub fn pods_differ(&self) -> bool {
        let minutes = self
            .scales
            .iter()
            .take(MINUTES_LEVELS)
            .map(Scale::k)
            .fold(self.k_of_scrapes(), f64::max);
        self.history.is_significant_beyond(minutes)
    }

    /// Number of stable pods in the latest tick that distinguished them, or 0.
    pub fn latest_pods(&self) -> u32 {
        self.latest_pods
    }

    /// Errors from which `k` was learned, of all ticks. 0 if nothing is known.
    pub fn has_data(&self) -> bool {
        self.least_k.is_some() || self.scales.iter().any(Scale::has_data)
    }
}
