//! Compact records of requests, and live counts.

use std::time::Duration;

use crate::{
    client::Exchange,
    outcome::{OutcomeCounts, RequestOutcome, RoutingFailure},
};

/// Maximum number of versions. Responses of further versions count as without a version.
const MAX_VERSIONS: usize = 256;

/// Maximum number of routing failures with details.
const MAX_DETAILS: usize = 200;

/// A request that is sent later than this after it was due counts as late: the generator itself was
/// delayed.
const LATE_THRESHOLD: Duration = Duration::from_millis(10);

/// One completed request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// When it was due, in microseconds since the start.
    pub(crate) at_us: u64,
    /// Time from due to completion, in microseconds. The timeout keeps it far below the 71 minutes
    /// of a `u32`.
    pub(crate) latency_us: u32,
    /// Index into [`Recorder::versions`].
    pub(crate) version: u16,
    pub(crate) outcome: RequestOutcome,
}

const _: () = assert!(
    size_of::<Record>() == 16,
    "one hour at 2,700 requests per second must fit in memory"
);

/// Details of one routing failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureDetail {
    /// When the request was due, since the start.
    pub at: Duration,
    /// The kind of failure.
    pub failure: RoutingFailure,
    /// `x-version`, if response headers arrived before the failure.
    pub version: Option<String>,
    /// The client's error with all its causes, or the status.
    pub detail: String,
}

/// The requests that one version has answered so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionSnapshot {
    /// `x-version`. `None` for responses without it and for requests without a response.
    pub version: Option<String>,
    /// Its requests by outcome.
    pub counts: OutcomeCounts,
    /// When the first request that it answered was due, since the start.
    pub first_at: Duration,
    /// When the last request that it answered was due, since the start.
    pub last_at: Duration,
}

/// The current state of the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSnapshot {
    /// Time since the start.
    pub elapsed: Duration,
    /// Current rate.
    pub rate_per_second: u32,
    /// Requests sent so far.
    pub sent: u64,
    /// Sent requests without an outcome yet.
    pub in_flight: u64,
    /// Requests that were not sent because too many were in flight.
    pub overruns: u64,
    /// Outcomes of all versions.
    pub counts: OutcomeCounts,
    /// Outcomes by version, in the order of the first response.
    pub versions: Vec<VersionSnapshot>,
}

impl LoadSnapshot {
    /// The requests that a version has answered so far. `None` if it has not answered any.
    pub fn version(&self, version: &str) -> Option<&VersionSnapshot> {
        self.versions
            .iter()
            .find(|seen| seen.version.as_deref() == Some(version))
    }
}

/// Collects records and live counts.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) records: Vec<Record>,
    pub(crate) versions: Vec<VersionSnapshot>,
    pub(crate) details: Vec<FailureDetail>,
    pub(crate) counts: OutcomeCounts,
    pub(crate) sent: u64,
    pub(crate) overruns: u64,
    pub(crate) late: u64,
    pub(crate) max_lateness: Duration,
}

impl Recorder {
    /// Counts a request that is sent `lateness` after it was due.
    pub(crate) fn record_sent(&mut self, lateness: Duration) {
        self.sent += 1;
        self.late += u64::from(lateness > LATE_THRESHOLD);
        self.max_lateness = self.max_lateness.max(lateness);
    }

    /// Records the end of a request that was due at `at`.
    pub(crate) fn record_end(&mut self, at: Duration, latency: Duration, exchange: Exchange) {
        if let (RequestOutcome::Routing(failure), Some(detail)) =
            (exchange.outcome, exchange.detail)
            && self.details.len() < MAX_DETAILS
        {
            let version = exchange.version.clone();
            self.details.push(FailureDetail {
                at,
                failure,
                version,
                detail,
            });
        }
        let version = self.version(exchange.version, at);
        let known = &mut self.versions[usize::from(version)];
        known.counts.add(exchange.outcome);
        known.first_at = known.first_at.min(at);
        known.last_at = known.last_at.max(at);
        self.counts.add(exchange.outcome);
        self.records.push(Record {
            at_us: u64::try_from(at.as_micros()).unwrap_or(u64::MAX),
            latency_us: u32::try_from(latency.as_micros()).unwrap_or(u32::MAX),
            version,
            outcome: exchange.outcome,
        });
    }

    /// The index of a version, which is added if it is new. A scan is cheaper than a map for a few
    /// versions.
    fn version(&mut self, version: Option<String>, at: Duration) -> u16 {
        let position = |version: &Option<String>| {
            self.versions
                .iter()
                .position(|known| known.version == *version)
        };
        if let Some(known) = position(&version) {
            return u16::try_from(known).unwrap_or(u16::MAX);
        }
        if version.is_some() && self.versions.len() >= MAX_VERSIONS {
            return self.version(None, at);
        }
        self.versions.push(VersionSnapshot {
            version,
            counts: OutcomeCounts::default(),
            first_at: at,
            last_at: at,
        });
        u16::try_from(self.versions.len() - 1).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(outcome: RequestOutcome, version: Option<&str>) -> Exchange {
        let detail = matches!(outcome, RequestOutcome::Routing(_)).then(|| "details".to_owned());
        Exchange {
            outcome,
            version: version.map(str::to_owned),
            detail,
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn live_counts_do_not_depend_on_the_order_of_records() {
        let mut recorder = Recorder::default();
        recorder.record_end(5 * MS, MS, exchange(RequestOutcome::Ok, Some("v1")));
        recorder.record_end(
            9 * MS,
            MS,
            exchange(RequestOutcome::ServiceError, Some("v2")),
        );
        recorder.record_end(2 * MS, 8 * MS, exchange(RequestOutcome::Ok, Some("v1")));
        recorder.record_end(
            3 * MS,
            MS,
            exchange(RequestOutcome::Routing(RoutingFailure::Refused), None),
        );
        let v1 = &recorder.versions[0];
        assert_eq!((v1.version.as_deref(), v1.counts.ok), (Some("v1"), 2));
        assert_eq!((v1.first_at, v1.last_at), (2 * MS, 5 * MS));
        assert_eq!(recorder.versions[1].counts.service_errors, 1);
        assert_eq!(recorder.versions[2].version, None);
        assert_eq!(recorder.counts.total(), 4);
        assert_eq!(recorder.records.len(), 4);
        assert_eq!(recorder.details[0].failure, RoutingFailure::Refused);
    }

    #[test]
    fn versions_and_details_are_bounded_and_counts_are_not() {
        let mut recorder = Recorder::default();
        for index in 0..1_000 {
            let outcome = RequestOutcome::Routing(RoutingFailure::Reset);
            recorder.record_end(MS, MS, exchange(outcome, Some(&format!("v{index}"))));
        }
        assert!(
            recorder.versions.len() <= MAX_VERSIONS + 1,
            "{}",
            recorder.versions.len()
        );
        assert_eq!(recorder.details.len(), MAX_DETAILS);
        assert_eq!(
            recorder.counts.failures_of_kind(RoutingFailure::Reset),
            1_000
        );
        assert_eq!(
            recorder
                .versions
                .iter()
                .map(|version| version.counts.total())
                .sum::<u64>(),
            1_000
        );
    }

    #[test]
    fn lateness_is_counted_when_a_request_is_sent() {
        let mut recorder = Recorder::default();
        recorder.record_sent(LATE_THRESHOLD);
        recorder.record_sent(LATE_THRESHOLD + MS);
        assert_eq!(
            (recorder.sent, recorder.late, recorder.max_lateness),
            (2, 1, LATE_THRESHOLD + MS)
        );
    }
}
