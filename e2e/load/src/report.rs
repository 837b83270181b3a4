//! The report of a load and queries on its records.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    outcome::{OutcomeCounts, RequestOutcome, RoutingFailure},
    record::{FailureDetail, Record},
};

/// Why no more requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The caller stopped it.
    Stopped,
    /// The duration is over.
    Duration,
    /// The maximum number of records is reached ([`crate::limits::RECORDS`]).
    Records,
}

/// One completed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestResult<'a> {
    /// When it was due, since the start. Not when it was sent or completed.
    pub at: Duration,
    /// Time from due to completion, with microsecond resolution.
    pub latency: Duration,
    /// `x-version`, if a response had it.
    pub version: Option<&'a str>,
    /// Its outcome.
    pub outcome: RequestOutcome,
}

impl RequestResult<'_> {
    /// When it was completed, since the start.
    pub fn ended_at(&self) -> Duration {
        self.at + self.latency
    }
}

/// Latency percentiles by nearest rank. They are exact to the microsecond because every latency is
/// recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencySummary {
    /// The median.
    pub p50: Duration,
    /// The 90th percentile.
    pub p90: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The 99.9th percentile.
    pub p999: Duration,
    /// The maximum.
    pub max: Duration,
}

impl LatencySummary {
    fn from_microseconds(mut microseconds: Vec<u32>) -> Option<Self> {
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

/// All results of a load.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Target URL.
    pub url: String,
    /// Wall-clock time of the start.
    pub started_at: Timestamp,
    /// Time from the start to this report.
    pub elapsed: Duration,
    /// Why the load ended. `None` while it runs.
    pub ended_by: Option<EndReason>,
    /// Requests sent.
    pub sent: u64,
    /// Requests that were not sent because too many were in flight. If not 0, the load was lower
    /// than configured.
    pub overruns: u64,
    /// Requests that were sent more than 10 ms after they were due. If not 0, this machine was too
    /// busy to keep the schedule.
    pub late: u64,
    /// Longest delay from due to sent.
    pub max_lateness: Duration,
    /// Details of the first 200 routing failures.
    pub details: Vec<FailureDetail>,
    pub(crate) versions: Vec<Option<String>>,
    /// Sorted by due time.
    pub(crate) records: Vec<Record>,
}

impl LoadReport {
    /// All requests.
    pub fn all(&self) -> ReportView<'_> {
        self.between(..)
    }

    /// The requests that were due within a time span since the start, such as `before..after` from
    /// [`crate::LoadHandle::elapsed`].
    pub fn between(&self, span: impl RangeBounds<Duration>) -> ReportView<'_> {
        let at = |record: &Record| Duration::from_micros(record.at_us);
        // Records have microsecond resolution, so the bounds are truncated to it as well.
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
        ReportView {
            report: self,
            records: self.records.get(from..to).unwrap_or_default(),
            version: None,
        }
    }

    /// Converts a time since the start to wall-clock time.
    pub fn wall_clock(&self, at: Duration) -> Timestamp {
        self.started_at.checked_add(at).unwrap_or(Timestamp::MAX)
    }

    /// Converts a wall-clock time to the time since the start. 0 if it is before the start. If the
    /// wall clock was stepped meanwhile, the result is off by the step.
    pub fn since_start(&self, time: Timestamp) -> Duration {
        Duration::try_from(time.duration_since(self.started_at)).unwrap_or_default()
    }

    fn request_result(&self, record: &Record) -> RequestResult<'_> {
        RequestResult {
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

/// A subset of the requests of a report.
#[derive(Clone, Copy, Debug)]
pub struct ReportView<'a> {
    report: &'a LoadReport,
    records: &'a [Record],
    /// If set, only requests that this version answered.
    version: Option<&'a str>,
}

impl<'a> ReportView<'a> {
    /// Only the requests that this version answered.
    #[must_use]
    pub fn of_version(self, version: &'a str) -> Self {
        Self {
            version: Some(version),
            ..self
        }
    }

    /// The requests, sorted by due time.
    pub fn requests(self) -> impl DoubleEndedIterator<Item = RequestResult<'a>> {
        let requests = self
            .records
            .iter()
            .map(move |record| self.report.request_result(record));
        requests.filter(move |request| self.version.is_none() || request.version == self.version)
    }

    /// Number of requests by outcome.
    pub fn counts(self) -> OutcomeCounts {
        self.requests().map(|request| request.outcome).collect()
    }

    /// Number of requests by version and outcome. The key `None` stands for no `x-version`.
    pub fn counts_by_version(self) -> BTreeMap<Option<&'a str>, OutcomeCounts> {
        let mut counts = BTreeMap::<_, OutcomeCounts>::new();
        for request in self.requests() {
            counts
                .entry(request.version)
                .or_default()
                .add(request.outcome);
        }
        counts
    }

    /// The requests that were lost in routing.
    pub fn routing_failures(
        self,
    ) -> impl DoubleEndedIterator<Item = (RequestResult<'a>, RoutingFailure)> {
        self.requests().filter_map(|request| match request.outcome {
            RequestOutcome::Routing(failure) => Some((request, failure)),
            RequestOutcome::Ok | RequestOutcome::ServiceError => None,
        })
    }

    /// The request that was due last.
    pub fn last(self) -> Option<RequestResult<'a>> {
        self.requests().next_back()
    }

    /// The latency percentiles of all requests, including failures. `None` if there are no
    /// requests.
    pub fn latency(self) -> Option<LatencySummary> {
        let microseconds = |request: RequestResult<'_>| {
            u32::try_from(request.latency.as_micros()).unwrap_or(u32::MAX)
        };
        LatencySummary::from_microseconds(self.requests().map(microseconds).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A report of `(due, latency, version, outcome)` in milliseconds.
    pub(crate) fn report(records: &[(u64, u32, Option<&str>, RequestOutcome)]) -> LoadReport {
        let versions = vec![None, Some("v1".to_owned()), Some("v2".to_owned())];
        let index = |version: Option<&str>| {
            versions
                .iter()
                .position(|known| known.as_deref() == version)
                .unwrap()
        };
        LoadReport {
            url: "http://127.0.0.1:8000/".to_owned(),
            started_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            elapsed: Duration::from_secs(10),
            ended_by: Some(EndReason::Duration),
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

    const RESET: RequestOutcome = RequestOutcome::Routing(RoutingFailure::Reset);

    fn switch() -> LoadReport {
        report(&[
            (0, 1, Some("v1"), RequestOutcome::Ok),
            (10, 2, Some("v2"), RequestOutcome::ServiceError),
            (20, 3, Some("v1"), RequestOutcome::Ok),
            (30, 4, None, RESET),
            (40, 500, Some("v2"), RequestOutcome::Ok),
            (50, 6, Some("v1"), RequestOutcome::Ok),
        ])
    }

    #[test]
    fn a_span_honors_its_bounds() {
        let report = switch();
        let due = |span: ReportView<'_>| {
            span.requests()
                .map(|request| request.at.as_millis())
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
    fn counts_and_the_last_request_are_per_version() {
        let report = switch();
        let v2 = report.all().of_version("v2");
        assert_eq!((v2.counts().ok, v2.counts().service_errors), (1, 1));
        let last = v2.last().unwrap();
        assert_eq!((last.at, last.ended_at()), (40 * MS, 540 * MS));
        assert!(report.all().of_version("v3").last().is_none());
        let by_version = report.all().counts_by_version();
        assert_eq!(by_version[&Some("v1")].ok, 3);
        assert_eq!(by_version[&None].routing_failures(), 1);
    }

    #[test]
    fn routing_failures_have_a_time_and_a_kind() {
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
    fn wall_clock_and_load_time_convert_both_ways() {
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
        let latency = LatencySummary::from_microseconds((1..=1_000).rev().collect()).unwrap();
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
        let one = LatencySummary::from_microseconds(vec![7]).unwrap();
        assert_eq!(
            (one.p50, one.max),
            (Duration::from_micros(7), Duration::from_micros(7))
        );
        assert_eq!(LatencySummary::from_microseconds(Vec::new()), None);
    }
}
