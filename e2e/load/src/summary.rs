//! A report told briefly: as a table for people, as JSON for programs.

use std::{fmt, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::{
    outcome::{Counts, RoutingFailure},
    record::FailureDetail,
    report::{EndedBy, Latency, Report, View},
};

/// Routing failures whose stories the table tells.
const STORIES_SHOWN: usize = 5;

/// A report without its records. `Display` makes a table of it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Where the load went.
    pub url: String,
    /// The wall clock's time of the start.
    pub started_at: Timestamp,
    /// From the start to the report.
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    pub elapsed: Duration,
    /// Why it ended; none while it runs.
    pub ended_by: Option<EndedBy>,
    /// Requests sent.
    pub sent: u64,
    /// Arrivals not sent, for too many were in flight.
    pub overruns: u64,
    /// Requests sent more than 10 ms after they were due.
    pub late: u64,
    /// The longest time from due to sent.
    #[serde(rename = "max_lateness_ms", serialize_with = "milliseconds")]
    pub max_lateness: Duration,
    /// All versions together.
    #[serde(flatten)]
    pub total: VersionSummary,
    /// Each version, and answers without one.
    pub versions: Vec<VersionSummary>,
    /// The first routing failures.
    pub failures: Vec<FailureDetail>,
}

/// The requests that one version answered.
#[derive(Clone, Debug, Serialize)]
pub struct VersionSummary {
    /// `x-version`; none in the total, for answers without it, and for requests without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// By outcome.
    pub counts: Counts,
    /// None where there are no requests.
    pub latency: Option<Latency>,
}

impl VersionSummary {
    fn of(version: Option<&str>, view: View<'_>) -> Self {
        Self {
            version: version.map(str::to_owned),
            counts: view.counts(),
            latency: view.latency(),
        }
    }
}

impl Report {
    /// The report without its records.
    pub fn summary(&self) -> Summary {
        let versions = self.versions.iter().flatten();
        let mut versions: Vec<_> = versions
            .map(|version| VersionSummary::of(Some(version), self.all().of_version(version)))
            .collect();
        versions.sort_by(|a, b| a.version.cmp(&b.version));
        Summary {
            url: self.url.clone(),
            started_at: self.started_at,
            elapsed: self.elapsed,
            ended_by: self.ended_by,
            sent: self.sent,
            overruns: self.overruns,
            late: self.late,
            max_lateness: self.max_lateness,
            total: VersionSummary::of(None, self.all()),
            versions,
            failures: self.details.clone(),
        }
    }

    /// Whether every arrival was sent and none failed on its way.
    pub fn lost_nothing(&self) -> bool {
        self.overruns == 0 && self.all().counts().routing_failures() == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "version",
            "ok",
            "own errors",
            "routing failures",
            "p50 ms",
            "p99 ms",
            "max ms",
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for version in &self.versions {
            table.add_row(row(version.version.as_deref().unwrap_or_default(), version));
        }
        table.add_row(row("all", &self.total));
        writeln!(f, "{}", table.trim_fmt())?;
        let seconds = self.elapsed.as_secs_f64();
        writeln!(
            f,
            "{} requests in {seconds:.1} s to {}",
            self.sent, self.url
        )?;
        for (failure, count) in self.total.counts.routing() {
            writeln!(f, "  {count} x {failure}")?;
        }
        for FailureDetail {
            at,
            failure,
            detail,
            ..
        } in self.failures.iter().take(STORIES_SHOWN)
        {
            writeln!(f, "  at {:.3} s: {failure}: {detail}", at.as_secs_f64())?;
        }
        if self.overruns > 0 {
            writeln!(
                f,
                "{} arrivals were NOT sent: too many requests were in flight",
                self.overruns
            )?;
        }
        if self.late > 0 {
            let worst = self.max_lateness.as_millis();
            writeln!(
                f,
                "{} requests were sent late, by up to {worst} ms: this machine is too busy",
                self.late
            )?;
        }
        Ok(())
    }
}

fn row(name: &str, version: &VersionSummary) -> [String; 7] {
    let VersionSummary {
        counts, latency, ..
    } = version;
    let milliseconds = |pick: fn(&Latency) -> Duration| {
        latency.as_ref().map_or_else(
            || "-".to_owned(),
            |latency| format!("{:.1}", in_milliseconds(pick(latency))),
        )
    };
    [
        name.to_owned(),
        counts.ok.to_string(),
        counts.service_errors.to_string(),
        counts.routing_failures().to_string(),
        milliseconds(|latency| latency.p50),
        milliseconds(|latency| latency.p99),
        milliseconds(|latency| latency.max),
    ]
}

fn in_milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(in_milliseconds(*duration))
}

/// `{"p50_ms": 1.5, ...}`
impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut latency = serializer.serialize_struct("Latency", 5)?;
        latency.serialize_field("p50_ms", &in_milliseconds(self.p50))?;
        latency.serialize_field("p90_ms", &in_milliseconds(self.p90))?;
        latency.serialize_field("p99_ms", &in_milliseconds(self.p99))?;
        latency.serialize_field("p999_ms", &in_milliseconds(self.p999))?;
        latency.serialize_field("max_ms", &in_milliseconds(self.max))?;
        latency.end()
    }
}

/// `{"at_ms": 1234.5, "failure": "502", "version": null, "detail": "..."}`
impl Serialize for FailureDetail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            at,
            failure,
            version,
            detail,
        } = self;
        let failure: &RoutingFailure = failure;
        let mut story = serializer.serialize_struct("FailureDetail", 4)?;
        story.serialize_field("at_ms", &in_milliseconds(*at))?;
        story.serialize_field("failure", failure)?;
        story.serialize_field("version", version)?;
        story.serialize_field("detail", detail)?;
        story.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outcome::Outcome, report::tests::report};

    fn sample() -> Report {
        let lost = Outcome::Routing(RoutingFailure::BadGateway502);
        let mut report = report(&[
            (0, 1, Some("v2"), Outcome::Ok),
            (10, 2, Some("v1"), Outcome::Ok),
            (20, 4, Some("v1"), Outcome::ServiceError),
            (30, 3, None, lost),
        ]);
        report.details = vec![FailureDetail {
            at: Duration::from_millis(30),
            failure: RoutingFailure::BadGateway502,
            version: None,
            detail: "answered 502 Bad Gateway without x-version".to_owned(),
        }];
        report
    }

    #[test]
    fn the_table_is_for_people() {
        let expected = "
 version  ok  own errors  routing failures  p50 ms  p99 ms  max ms
 v1        1           1                 0     2.0     4.0     4.0
 v2        1           0                 0     1.0     1.0     1.0
 all       2           1                 1     2.0     4.0     4.0
4 requests in 10.0 s to http://127.0.0.1:8000/
  1 x 502
  at 0.030 s: 502: answered 502 Bad Gateway without x-version
";
        assert_eq!(format!("\n{}", sample().summary()), expected);
    }

    #[test]
    fn what_spoils_a_measurement_is_told() {
        let mut report = sample();
        report.overruns = 3;
        report.late = 2;
        report.max_lateness = Duration::from_millis(40);
        let text = report.summary().to_string();
        assert!(text.contains("3 arrivals were NOT sent"), "{text}");
        assert!(
            text.contains("2 requests were sent late, by up to 40 ms"),
            "{text}"
        );
    }

    #[test]
    fn the_json_is_for_programs() {
        let json = serde_json::to_value(sample().summary()).unwrap();
        assert_eq!(json["started_at"], "2026-01-02T03:04:05Z");
        assert_eq!(json["ended_by"], "duration");
        assert_eq!(json["elapsed_ms"], 10_000.0);
        assert_eq!(json["counts"]["routing"], serde_json::json!({"502": 1}));
        assert_eq!(json["versions"][0]["version"], "v1");
        assert_eq!(json["versions"][0]["latency"]["p50_ms"], 2.0);
        assert_eq!(json["failures"][0]["failure"], "502");
        assert_eq!(json["failures"][0]["at_ms"], 30.0);
    }

    #[test]
    fn nothing_lost_means_every_arrival_was_sent_and_came_back() {
        let clean = report(&[
            (0, 1, Some("v1"), Outcome::Ok),
            (1, 1, Some("v1"), Outcome::ServiceError),
        ]);
        assert!(clean.lost_nothing());
        assert!(
            !Report {
                overruns: 1,
                ..clean
            }
            .lost_nothing()
        );
        assert!(!sample().lost_nothing());
    }
}
