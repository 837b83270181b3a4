//! The records as they come in, compactly.

use std::time::Duration;

use crate::{
    client::Seen,
    outcome::{Counts, Outcome, RoutingFailure},
};

/// Versions told apart at most; answers of any further one count as of no version.
const MOST_VERSIONS: usize = 256;

/// Routing failures whose story is kept.
const MOST_DETAILS: usize = 200;

/// An arrival sent later than this after it was due counts as late: the generator itself was held
/// up.
const LATE: Duration = Duration::from_millis(10);

/// One request that has come to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// When it was due, in microseconds since the start.
    pub(crate) at_us: u64,
    /// From then to its end, in microseconds; a request is bounded by its timeout, far below the 71
    /// minutes of a `u32`.
    pub(crate) latency_us: u32,
    /// Index into [`Recorder::versions`].
    pub(crate) version: u16,
    pub(crate) outcome: Outcome,
}

const _: () = assert!(
    size_of::<Record>() == 16,
    "an hour at 2,700 requests a second must fit"
);

/// The story of one routing failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureDetail {
    /// When the request was due, since the start.
    pub at: Duration,
    /// Its kind.
    pub failure: RoutingFailure,
    /// `x-version`, where the headers of an answer came before the failure.
    pub version: Option<String>,
    /// The client's error with all its causes, or the status.
    pub detail: String,
}

/// What one version has answered so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionSnapshot {
    /// `x-version`; none for answers without it and for requests without an answer.
    pub version: Option<String>,
    /// Its answers by outcome.
    pub counts: Counts,
    /// When the first request that it answered was due, since the start.
    pub first_at: Duration,
    /// When the last request that it answered was due, since the start.
    pub last_at: Duration,
}

/// The load as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Time since the start.
    pub elapsed: Duration,
    /// The present rate.
    pub rate_per_second: u32,
    /// Requests sent so far.
    pub sent: u64,
    /// Those among them that have no outcome yet.
    pub in_flight: u64,
    /// Arrivals that were not sent, for too many were in flight.
    pub overruns: u64,
    /// Outcomes of all versions together.
    pub counts: Counts,
    /// By version, in the order of their first answer.
    pub versions: Vec<VersionSnapshot>,
}

impl Snapshot {
    /// What a version has answered so far, if anything.
    pub fn version(&self, version: &str) -> Option<&VersionSnapshot> {
        self.versions
            .iter()
            .find(|seen| seen.version.as_deref() == Some(version))
    }
}

/// Gathers records and keeps the live counts beside them.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) records: Vec<Record>,
    pub(crate) versions: Vec<VersionSnapshot>,
    pub(crate) details: Vec<FailureDetail>,
    pub(crate) counts: Counts,
    pub(crate) sent: u64,
    pub(crate) overruns: u64,
    pub(crate) late: u64,
    pub(crate) max_lateness: Duration,
}

impl Recorder {
    /// Counts an arrival that is sent `lateness` after it was due.
    pub(crate) fn sent(&mut self, lateness: Duration) {
        self.sent += 1;
        self.late += u64::from(lateness > LATE);
        self.max_lateness = self.max_lateness.max(lateness);
    }

    /// Records the end of a request that was due at `at`.
    pub(crate) fn ended(&mut self, at: Duration, latency: Duration, seen: Seen) {
        if let (Outcome::Routing(failure), Some(detail)) = (seen.outcome, seen.detail)
            && self.details.len() < MOST_DETAILS
        {
            let version = seen.version.clone();
            self.details.push(FailureDetail {
                at,
                failure,
                version,
                detail,
            });
        }
        let version = self.version(seen.version, at);
        let known = &mut self.versions[usize::from(version)];
        known.counts.add(seen.outcome);
        known.first_at = known.first_at.min(at);
        known.last_at = known.last_at.max(at);
        self.counts.add(seen.outcome);
        self.records.push(Record {
            at_us: u64::try_from(at.as_micros()).unwrap_or(u64::MAX),
            latency_us: u32::try_from(latency.as_micros()).unwrap_or(u32::MAX),
            version,
            outcome: seen.outcome,
        });
    }

    /// The index of a version, added when it is new. A handful of versions: a scan is cheaper than
    /// a map.
    fn version(&mut self, version: Option<String>, at: Duration) -> u16 {
        let position = |version: &Option<String>| {
            self.versions
                .iter()
                .position(|known| known.version == *version)
        };
        if let Some(known) = position(&version) {
            return u16::try_from(known).unwrap_or(u16::MAX);
        }
        if version.is_some() && self.versions.len() >= MOST_VERSIONS {
            return self.version(None, at);
        }
        self.versions.push(VersionSnapshot {
            version,
            counts: Counts::default(),
            first_at: at,
            last_at: at,
        });
        u16::try_from(self.versions.len() - 1).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(outcome: Outcome, version: Option<&str>) -> Seen {
        let detail = matches!(outcome, Outcome::Routing(_)).then(|| "a story".to_owned());
        Seen {
            outcome,
            version: version.map(str::to_owned),
            detail,
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn live_counts_follow_the_records_whatever_their_order() {
        let mut recorder = Recorder::default();
        recorder.ended(5 * MS, MS, seen(Outcome::Ok, Some("v1")));
        recorder.ended(9 * MS, MS, seen(Outcome::ServiceError, Some("v2")));
        recorder.ended(2 * MS, 8 * MS, seen(Outcome::Ok, Some("v1")));
        recorder.ended(
            3 * MS,
            MS,
            seen(Outcome::Routing(RoutingFailure::Refused), None),
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
    fn versions_and_stories_are_bounded_and_counts_are_not() {
        let mut recorder = Recorder::default();
        for index in 0..1_000 {
            let outcome = Outcome::Routing(RoutingFailure::Reset);
            recorder.ended(MS, MS, seen(outcome, Some(&format!("v{index}"))));
        }
        assert!(
            recorder.versions.len() <= MOST_VERSIONS + 1,
            "{}",
            recorder.versions.len()
        );
        assert_eq!(recorder.details.len(), MOST_DETAILS);
        assert_eq!(recorder.counts.of(RoutingFailure::Reset), 1_000);
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
    fn lateness_is_the_generators_own() {
        let mut recorder = Recorder::default();
        recorder.sent(LATE);
        recorder.sent(LATE + MS);
        assert_eq!(
            (recorder.sent, recorder.late, recorder.max_lateness),
            (2, 1, LATE + MS)
        );
    }
}
