//! Creation times of past pods.
//!
//! They come from the replay request first, and then from kube-state-metrics. For any other pod
//! that appears in the data, only an upper bound of its age is known.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serin_analysis::Arm;

use super::MAX_GAP_SCRAPES;
use super::sample_buffer::SampleBuffer;
use crate::counter_selectors::CounterSelectors;
use crate::matcher::{alternation, pod_name_pattern, quote};
use crate::prometheus::{Answer, Poller, QueryError, Server};
use crate::request::AnalysisRequest;

/// Metric of kube-state-metrics with the creation time of pods, in seconds since the epoch.
pub(super) const POD_CREATED: &str = "kube_pod_created";

/// A pod exists if kube-state-metrics reported it within this time, in milliseconds. It is usually
/// scraped at least every minute.
const PRESENCE_WINDOW_MS: i64 = 120_000;

/// Known creation times of pods.
pub(super) struct PodCreationTimes {
    requested: BTreeMap<String, Timestamp>,
    recorded: BTreeMap<String, Timestamp>,
    /// Selector of the pods. `None` if no ReplicaSet is named.
    selector: Option<String>,
}

impl PodCreationTimes {
    pub(super) fn new(request: &AnalysisRequest) -> Self {
        let named = |set: &&String| !set.is_empty();
        let stable = request
            .stable_replica_set
            .as_ref()
            .filter(named)
            .map(|set| pod_name_pattern(set));
        let canary = Some(&request.canary_replica_set)
            .filter(named)
            .map(|set| pod_name_pattern(set));
        let pods = match (canary, stable) {
            (Some(canary), Some(stable)) => Some(alternation(&canary, &stable)),
            (one, other) => one.or(other),
        };
        let namespace = quote(&request.rollout.namespace);
        let selector = pods.map(|pods| {
            format!(
                "{POD_CREATED}{{namespace={namespace},pod=~{}}}",
                quote(&pods)
            )
        });
        Self {
            requested: request.pods_created_at.clone(),
            recorded: BTreeMap::new(),
            selector,
        }
    }

    /// Reads the creation times that were recorded between two times, in milliseconds since the
    /// epoch.
    ///
    /// # Errors
    /// The server is unavailable or the answer is too large. A query that the server rejects is not
    /// an error.
    pub(super) async fn read(
        &mut self,
        poller: &Poller,
        server: &Server,
        (from_ms, to_ms): (i64, i64),
    ) -> Result<(), QueryError> {
        let found = self.created(poller, server, (from_ms, to_ms)).await?;
        self.recorded.extend(found);
        Ok(())
    }

    /// The pods that existed at a point in time, with their creation times as far as known: those
    /// in the buffers, those that kube-state-metrics reported, and those of the replay request. The
    /// pods of an earlier attempt are excluded.
    ///
    /// # Errors
    /// Like [`Self::read`].
    pub(super) async fn present_at(
        &mut self,
        poller: &Poller,
        server: &Server,
        buffers: &[(&SampleBuffer, &CounterSelectors)],
        (at_ms, interval_ms): (i64, i64),
    ) -> Result<BTreeMap<String, Timestamp>, QueryError> {
        let recorded = self
            .created(
                poller,
                server,
                (at_ms.saturating_sub(PRESENCE_WINDOW_MS), at_ms),
            )
            .await?;
        let since_ms = at_ms.saturating_sub(interval_ms.saturating_mul(MAX_GAP_SCRAPES));
        let scraped: BTreeSet<String> = buffers
            .iter()
            .flat_map(|(buffer, counters)| buffer.pods(counters, since_ms, at_ms))
            .collect();
        let mut created_at = self.all(buffers.iter().map(|(buffer, _)| *buffer), interval_ms);
        let is_there = |pod: &String| {
            scraped.contains(pod) || recorded.contains_key(pod) || self.requested.contains_key(pod)
        };
        created_at.retain(|pod, _| is_there(pod));
        Ok(created_at)
    }

    /// When the baseline pods of a release started that begins at `began_ms`: together with the first
    /// canary pod. `None` if no stable pod that `created_at` lists started with it.
    ///
    /// Pods that are known from their scrapes only may seem younger by a scrape interval.
    pub(super) fn baseline_start(
        buffers: &[(&SampleBuffer, &CounterSelectors)],
        created_at: &BTreeMap<String, Timestamp>,
        (began_ms, interval_ms): (i64, i64),
    ) -> Option<Timestamp> {
        let times = |side: Arm| {
            let pods = buffers
                .iter()
                .flat_map(move |(buffer, counters)| buffer.pods_of_side(counters, side));
            pods.filter_map(|pod| created_at.get(pod).map(|at| at.as_millisecond()))
        };
        let canary_ms = times(Arm::Canary).min()?;
        let since_ms = canary_ms.saturating_sub(interval_ms);
        let is_baseline = |at_ms: i64| (since_ms..=began_ms).contains(&at_ms);
        let has_baseline = times(Arm::Stable).any(is_baseline);
        has_baseline
            .then(|| Timestamp::from_millisecond(since_ms).ok())
            .flatten()
    }

    async fn created(
        &mut self,
        poller: &Poller,
        server: &Server,
        (from_ms, to_ms): (i64, i64),
    ) -> Result<BTreeMap<String, Timestamp>, QueryError> {
        let Some(selector) = &self.selector else {
            return Ok(BTreeMap::new());
        };
        let range_seconds = (to_ms.saturating_sub(from_ms).max(0) + 999) / 1_000 + 1;
        let query = format!("max by (pod) (max_over_time({selector}[{range_seconds}s]))");
        match poller.query_once(server, &query, Some(to_ms)).await {
            Ok(answer) => Ok(created(&answer).collect()),
            Err(error) if error.is_server_wide() || matches!(error, QueryError::TooLarge(_)) => {
                Err(error)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read pod creation times from {POD_CREATED}");
                self.selector = None;
                Ok(BTreeMap::new())
            }
        }
    }

    /// All known creation times. Pods that only appear in the buffers count as created one scrape
    /// earlier.
    pub(super) fn all<'a>(
        &self,
        buffers: impl IntoIterator<Item = &'a SampleBuffer>,
        interval_ms: i64,
    ) -> BTreeMap<String, Timestamp> {
        let mut created_at: BTreeMap<_, _> = buffers
            .into_iter()
            .flat_map(|buffer| buffer.creation_times(interval_ms))
            .collect();
        created_at.extend(
            self.recorded
                .iter()
                .chain(&self.requested)
                .map(|(pod, at)| (pod.clone(), *at)),
        );
        created_at
    }
}

fn created(answer: &Answer) -> impl Iterator<Item = (String, Timestamp)> {
    answer.iter().filter_map(|series| {
        let (_, seconds) = series.samples.last()?;
        let since_epoch = SignedDuration::try_from_secs_f64(*seconds).ok()?;
        Some((
            series.labels.get("pod")?.clone(),
            Timestamp::from_duration(since_epoch).ok()?,
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::request;
    use crate::prometheus::Series;

    #[test]
    fn only_the_pods_of_both_sides_are_queried() {
        let selector = |request: &AnalysisRequest| PodCreationTimes::new(request).selector;
        let both = selector(&request()).unwrap();
        assert!(
            both.contains(r#"namespace="shop""#) && both.contains("aaa") && both.contains("bbb"),
            "{both}"
        );
        let unnamed = AnalysisRequest {
            stable_replica_set: None,
            canary_replica_set: String::new(),
            ..request()
        };
        assert_eq!(
            selector(&unnamed),
            None,
            "a gateway's series do not name the pods"
        );
    }

    /// Counters by pod, and the samples of these pods: each with the second of its first scrape.
    fn buffer(pods: &[(&str, i64)]) -> (SampleBuffer, CounterSelectors) {
        let objective = serde_json::json!({"name": "availability", "objective": 99.9,
            "counters": {"total": "requests_total", "errors": "requests_total{code=\"500\"}"}});
        let objective = serde_json::from_value(objective).unwrap();
        let counters = CounterSelectors::new(&objective, &request()).unwrap();
        let series = pods.iter().map(|(pod, from)| Series {
            labels: [("__name__", "requests_total"), ("pod", pod)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            samples: (*from..=from + 60)
                .map(|second| (1_000 * second, 1.0))
                .collect(),
        });
        let mut buffer = SampleBuffer::default();
        buffer.append(&counters, vec![series.collect()], 15_000);
        (buffer, counters)
    }

    fn baseline_start(pods: &[(&str, i64)], began: i64) -> Option<i64> {
        let (buffer, counters) = buffer(pods);
        let created_at = pods.iter().map(|(pod, second)| {
            let created_at = Timestamp::from_second(*second).unwrap();
            ((*pod).to_owned(), created_at)
        });
        let created_at = created_at.collect();
        let start = (1_000 * began, 15_000);
        let since = PodCreationTimes::baseline_start(&[(&buffer, &counters)], &created_at, start);
        since.map(Timestamp::as_second)
    }

    #[test]
    fn the_baseline_starts_with_the_first_canary_pod() {
        let old = ("checkout-aaa-x7k2p", 100);
        let young = ("checkout-aaa-q9w4z", 1_003);
        let canary = ("checkout-bbb-m3n5v", 1_000);
        let later = ("checkout-aaa-b6c8d", 1_500);
        assert_eq!(baseline_start(&[old, young, canary], 1_100), Some(985));
        assert_eq!(
            baseline_start(&[old, canary, later], 1_100),
            None,
            "a pod that starts during the release is no baseline by itself"
        );
        assert_eq!(baseline_start(&[old, young], 1_100), None, "no canary pod");
    }

    #[test]
    fn invalid_times_are_skipped() {
        let pod_series = |pod: &str, value: f64| Series {
            labels: [("pod".to_owned(), pod.to_owned())].into(),
            samples: vec![(0, value)],
        };
        let answer = vec![
            pod_series("a", 1_772_366_400.5),
            pod_series("b", f64::NAN),
            pod_series("c", 1e300),
            pod_series("d", f64::INFINITY),
        ];
        let created: Vec<_> = created(&answer).collect();
        assert_eq!(
            created,
            [("a".to_owned(), "2026-03-01T12:00:00.5Z".parse().unwrap())]
        );
    }
}
