//! The records, and the questions one asks of them.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    outcome::{Counts, Outcome, RoutingFailure},
    record::{FailureDetail, Record},
};

/// Why no more requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The caller stopped it.
    Stopped,
    /// Its duration is over.
    Duration,
    /// It has as many records as it may keep ([`crate::limits::RECORDS`]).
    Records,
}

/// One request and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// When it was due (not when it was sent, nor when it ended), since the start.
    pub at: Duration,
    /// From when it was due to its end, to the microsecond.
    pub latency: Duration,
    /// `x-version`, where an answer carried it.
    pub version: Option<&'a str>,
    /// What became of it.
    pub outcome: Outcome,
}

impl Answer<'_> {
    /// When it ended, since the start.
    pub fn ended(&self) -> Duration {
        self.at + self.latency
    }
}

/// Latencies by nearest rank, exact to the microsecond: every one is on record, so no histogram
/// need approximate them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The median.
    pub p50: Duration,
    /// 90 % are not above it.
    pub p90: Duration,
    /// 99 % are not above it.
    pub p99: Duration,
    /// 99.9 % are not above it.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl Latency {
    fn of(mut microseconds: Vec<u32>) -> Option<Self> {
        microseconds.sort_unstable();
        let max = *microseconds.last()?;
        let at = |per_mille: usize| {
            let rank = (microseconds.len() * per_mille).div_ceil(1_000);
            let value = microseconds
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or(max);
            Duration::from_micros(value.into())
        };
        Some(Self {
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: at(1_000),
        })
    }
}

/// All that a load has seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where it went.
    pub url: String,
    /// The wall clock's time of the start.
    pub started_at: Timestamp,
    /// From the start to this report.
    pub elapsed: Duration,
    /// Why it ended; none while it runs.
    pub ended_by: Option<EndedBy>,
    /// Requests sent.
    pub sent: u64,
    /// Arrivals that were not sent, for too many were in flight. Not 0: the load was not what it
    /// was meant to be.
    pub overruns: u64,
    /// Requests that were sent more than 10 ms after they were due: this machine was too busy to
    /// keep the schedule.
    pub late: u64,
    /// The longest time from due to sent.
    pub max_lateness: Duration,
    /// The stories of the first 200 routing failures to end.
    pub details: Vec<FailureDetail>,
    pub(crate) versions: Vec<Option<String>>,
    /// By the time they were due.
    pub(crate) records: Vec<Record>,
}

impl Report {
    /// All requests.
    pub fn all(&self) -> View<'_> {
        self.between(..)
    }

    /// The requests that were due in a span of time since the start, such as `before..after` by
    /// [`crate::LoadHandle::elapsed`].
    pub fn between(&self, span: impl RangeBounds<Duration>) -> View<'_> {
        let at = |record: &Record| Duration::from_micros(record.at_us);
        // Records keep whole microseconds, so the bounds must too: what is due now is not before
        // now.
        let bound = |time: &Duration| {
            Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
        };
        let before = |time: &Duration| {
            self.records
                .partition_point(|record| at(record) < bound(time))
        };
        let through = |time: &Duration| {
            self.records
                .partition_point(|record| at(record) <= bound(time))
        };
        let from = match span.start_bound() {
            Bound::Included(time) => before(time),
            Bound::Excluded(time) => through(time),
            Bound::Unbounded => 0,
        };
        let to = match span.end_bound() {
            Bound::Included(time) => through(time),
            Bound::Excluded(time) => before(time),
            Bound::Unbounded => self.records.len(),
        };
        View {
            report: self,
            records: self.records.get(from..to).unwrap_or_default(),
            version: None,
        }
    }

    /// The wall clock's time of a time since the start.
    pub fn wall_clock(&self, at: Duration) -> Timestamp {
        self.started_at.checked_add(at).unwrap_or(Timestamp::MAX)
    }

    /// The time since the start of a time of the wall clock; 0 for one before the start. A wall
    /// clock that was stepped meanwhile makes this wrong by the step.
    pub fn since_start(&self, time: Timestamp) -> Duration {
        Duration::try_from(time.duration_since(self.started_at)).unwrap_or_default()
    }

    fn answer(&self, record: &Record) -> Answer<'_> {
        Answer {
            at: Duration::from_micros(record.at_us),
            latency: Duration::from_micros(record.latency_us.into()),
            version: self
                .versions
                .get(usize::from(record.version))
                .and_then(Option::as_deref),
            outcome: record.outcome,
        }
    }
}

/// Some of the requests of a report.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    report: &'a Report,
    records: &'a [Record],
    /// Only those answered by this version.
    version: Option<&'a str>,
}

impl<'a> View<'a> {
    /// Only the requests that this version answered.
    #[must_use]
    pub fn of_version(self, version: &'a str) -> Self {
        Self {
            version: Some(version),
            ..self
        }
    }

    /// The requests, by the time they were due.
    pub fn answers(self) -> impl DoubleEndedIterator<Item = Answer<'a>> {
        let answers = self
            .records
            .iter()
            .map(move |record| self.report.answer(record));
        answers.filter(move |answer| self.version.is_none() || answer.version == self.version)
    }

    /// How many came to which outcome.
    pub fn counts(self) -> Counts {
        self.answers().map(|answer| answer.outcome).collect()
    }

    /// The same by version; none stands for no `x-version`.
    pub fn counts_by_version(self) -> BTreeMap<Option<&'a str>, Counts> {
        let mut counts = BTreeMap::<_, Counts>::new();
        for answer in self.answers() {
            counts
                .entry(answer.version)
                .or_default()
                .add(answer.outcome);
        }
        counts
    }

    /// The requests that never reached the service or whose answers never came back.
    pub fn routing_failures(self) -> impl DoubleEndedIterator<Item = (Answer<'a>, RoutingFailure)> {
        self.answers().filter_map(|answer| match answer.outcome {
            Outcome::Routing(failure) => Some((answer, failure)),
            Outcome::Ok | Outcome::ServiceError => None,
        })
    }

    /// The request that was due last.
    pub fn last(self) -> Option<Answer<'a>> {
        self.answers().next_back()
    }

    /// The latencies of all its requests, failures too; none where there are none.
    pub fn latency(self) -> Option<Latency> {
        let microseconds =
            |answer: Answer<'_>| u32::try_from(answer.latency.as_micros()).unwrap_or(u32::MAX);
        Latency::of(self.answers().map(microseconds).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A report of `(due, latency, version, outcome)` in milliseconds.
    pub(crate) fn report(records: &[(u64, u32, Option<&str>, Outcome)]) -> Report {
        let versions = vec![None, Some("v1".to_owned()), Some("v2".to_owned())];
        let index = |version: Option<&str>| {
            versions
                .iter()
                .position(|known| known.as_deref() == version)
                .unwrap()
        };
        Report {
            url: "http://127.0.0.1:8000/".to_owned(),
            started_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            elapsed: Duration::from_secs(10),
            ended_by: Some(EndedBy::Duration),
            sent: records.len() as u64,
            overruns: 0,
            late: 0,
            max_lateness: MS,
            details: Vec::new(),
            records: records
                .iter()
                .map(|&(at, latency, version, outcome)| Record {
                    at_us: at * 1_000,
                    latency_us: latency * 1_000,
                    version: u16::try_from(index(version)).unwrap(),
                    outcome,
                })
                .collect(),
            versions,
        }
    }

    const RESET: Outcome = Outcome::Routing(RoutingFailure::Reset);

    fn switch() -> Report {
        report(&[
            (0, 1, Some("v1"), Outcome::Ok),
            (10, 2, Some("v2"), Outcome::ServiceError),
            (20, 3, Some("v1"), Outcome::Ok),
            (30, 4, None, RESET),
            (40, 500, Some("v2"), Outcome::Ok),
            (50, 6, Some("v1"), Outcome::Ok),
        ])
    }

    #[test]
    fn spans_follow_their_bounds() {
        let report = switch();
        let due = |span: View<'_>| {
            span.answers()
                .map(|answer| answer.at.as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(due(report.all()), [0, 10, 20, 30, 40, 50]);
        assert_eq!(due(report.between(10 * MS..30 * MS)), [10, 20]);
        assert_eq!(due(report.between(10 * MS..=30 * MS)), [10, 20, 30]);
        assert_eq!(due(report.between(45 * MS..)), [50]);
        assert_eq!(
            due(report.between((Bound::Excluded(40 * MS), Bound::Unbounded))),
            [50]
        );
        assert_eq!(
            due(report.between(10 * MS + Duration::from_nanos(1)..=20 * MS)),
            [10, 20]
        );
        // A reversed span is empty, not a panic.
        let reversed = report.between(30 * MS..10 * MS);
        assert!(due(reversed).is_empty());
    }

    #[test]
    fn a_version_has_its_own_counts_and_its_last_request() {
        let report = switch();
        let v2 = report.all().of_version("v2");
        assert_eq!((v2.counts().ok, v2.counts().service_errors), (1, 1));
        let last = v2.last().unwrap();
        assert_eq!((last.at, last.ended()), (40 * MS, 540 * MS));
        assert!(report.all().of_version("v3").last().is_none());
        let by_version = report.all().counts_by_version();
        assert_eq!(by_version[&Some("v1")].ok, 3);
        assert_eq!(by_version[&None].routing_failures(), 1);
    }

    #[test]
    fn routing_failures_come_with_time_and_kind() {
        let report = switch();
        let failures: Vec<_> = report.all().routing_failures().collect();
        assert_eq!(failures.len(), 1);
        assert_eq!(
            (failures[0].0.at, failures[0].1),
            (30 * MS, RoutingFailure::Reset)
        );
        assert_eq!(report.between(..30 * MS).counts().routing_failures(), 0);
    }

    #[test]
    fn wall_clock_and_start_agree() {
        let report = switch();
        let time = report.wall_clock(1_500 * MS);
        assert_eq!(time.to_string(), "2026-01-02T03:04:06.5Z");
        assert_eq!(report.since_start(time), 1_500 * MS);
        assert_eq!(
            report.since_start("2025-01-01T00:00:00Z".parse().unwrap()),
            Duration::ZERO
        );
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let latency = Latency::of((1..=1_000).rev().collect()).unwrap();
        let ranks = [
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.max,
        ];
        assert_eq!(
            ranks,
            [500, 900, 990, 999, 1_000].map(Duration::from_micros)
        );
        let one = Latency::of(vec![7]).unwrap();
        assert_eq!(
            (one.p50, one.max),
            (Duration::from_micros(7), Duration::from_micros(7))
        );
        assert_eq!(Latency::of(Vec::new()), None);
    }
}
