//! When the pods of the past were created.
//!
//! What the question tells comes first, then what kube-state-metrics has recorded. Of any other pod
//! that appears on the record it is known only that it was not there before.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::GAP_SCRAPES;
use super::tape::Tape;
use crate::matcher::{either, pods_of, quoted};
use crate::prometheus::{Answer, Poller, QueryError, Server};
use crate::request::JudgeRequest;
use crate::selector::Counters;

/// The metric of kube-state-metrics that tells when a pod was created, in seconds since the epoch.
pub(super) const POD_CREATED: &str = "kube_pod_created";

/// A pod that kube-state-metrics told of so shortly before is there: it is scraped every minute at
/// the least.
const THERE_MS: i64 = 120_000;

/// The creation of each pod, as far as it is known.
pub(super) struct Births {
    told: BTreeMap<String, Timestamp>,
    recorded: BTreeMap<String, Timestamp>,
    /// The pods to ask for; nothing where no ReplicaSet is named.
    selector: Option<String>,
}

impl Births {
    pub(super) fn of(request: &JudgeRequest) -> Self {
        let named = |set: &&String| !set.is_empty();
        let stable = request
            .stable_replica_set
            .as_ref()
            .filter(named)
            .map(|set| pods_of(set));
        let canary = Some(&request.canary_replica_set)
            .filter(named)
            .map(|set| pods_of(set));
        let pods = match (canary, stable) {
            (Some(canary), Some(stable)) => Some(either(&canary, &stable)),
            (one, other) => one.or(other),
        };
        let namespace = quoted(&request.rollout.namespace);
        let selector = pods.map(|pods| {
            format!(
                "{POD_CREATED}{{namespace={namespace},pod=~{}}}",
                quoted(&pods)
            )
        });
        Self {
            told: request.pods_created_at.clone(),
            recorded: BTreeMap::new(),
            selector,
        }
    }

    /// Reads what is on record between two moments, in milliseconds since the epoch.
    ///
    /// # Errors
    /// That the server is in trouble, or the answer too large. A server that refuses the question
    /// just does not tell.
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

    /// The pods that were there at a moment, with their creation as far as it is known: those that
    /// are on the tapes then, or that kube-state-metrics knew of, and those of which the question
    /// tells. An earlier attempt's pods say nothing of this one's age.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) async fn at(
        &mut self,
        poller: &Poller,
        server: &Server,
        tapes: &[(&Tape, &Counters)],
        (at_ms, interval_ms): (i64, i64),
    ) -> Result<BTreeMap<String, Timestamp>, QueryError> {
        let recorded = self
            .created(poller, server, (at_ms.saturating_sub(THERE_MS), at_ms))
            .await?;
        let since_ms = at_ms.saturating_sub(interval_ms.saturating_mul(GAP_SCRAPES));
        let scraped: BTreeSet<String> = tapes
            .iter()
            .flat_map(|(tape, counters)| tape.pods(counters, since_ms, at_ms))
            .collect();
        let mut births = self.all(tapes.iter().map(|(tape, _)| *tape), interval_ms);
        let is_there = |pod: &String| {
            scraped.contains(pod) || recorded.contains_key(pod) || self.told.contains_key(pod)
        };
        births.retain(|pod, _| is_there(pod));
        Ok(births)
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
        match poller.ask_once(server, &query, Some(to_ms)).await {
            Ok(answer) => Ok(created(&answer).collect()),
            Err(error) if error.concerns_server() || matches!(error, QueryError::TooLarge(_)) => {
                Err(error)
            }
            Err(error) => {
                tracing::warn!(%error, "when pods were created is not known from {POD_CREATED}");
                self.selector = None;
                Ok(BTreeMap::new())
            }
        }
    }

    /// All that is known; of pods that only appear on the tapes it is taken to be one scrape
    /// before.
    pub(super) fn all<'a>(
        &self,
        tapes: impl IntoIterator<Item = &'a Tape>,
        interval_ms: i64,
    ) -> BTreeMap<String, Timestamp> {
        let mut births: BTreeMap<_, _> = tapes
            .into_iter()
            .flat_map(|tape| tape.births(interval_ms))
            .collect();
        births.extend(
            self.recorded
                .iter()
                .chain(&self.told)
                .map(|(pod, at)| (pod.clone(), *at)),
        );
        births
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
    fn only_the_pods_of_both_sides_are_asked_for() {
        let asked = |request: &JudgeRequest| Births::of(request).selector;
        let both = asked(&request()).unwrap();
        assert!(
            both.contains(r#"namespace="shop""#) && both.contains("aaa") && both.contains("bbb"),
            "{both}"
        );
        let unnamed = JudgeRequest {
            stable_replica_set: None,
            canary_replica_set: String::new(),
            ..request()
        };
        assert_eq!(
            asked(&unnamed),
            None,
            "of a gateway's record pods are not known by name"
        );
    }

    #[test]
    fn a_time_that_is_none_is_left_out() {
        let of = |pod: &str, value: f64| Series {
            labels: [("pod".to_owned(), pod.to_owned())].into(),
            samples: vec![(0, value)],
        };
        let answer = vec![
            of("a", 1_772_366_400.5),
            of("b", f64::NAN),
            of("c", 1e300),
            of("d", f64::INFINITY),
        ];
        let created: Vec<_> = created(&answer).collect();
        assert_eq!(
            created,
            [("a".to_owned(), "2026-03-01T12:00:00.5Z".parse().unwrap())]
        );
    }
}
