//! A short form of a report: a table for people, JSON for programs.

use std::{fmt, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::{
    outcome::{OutcomeCounts, RoutingFailure},
    record::FailureDetail,
    report::{EndReason, LatencySummary, LoadReport, ReportView},
};

/// Number of routing failures that the table lists with details.
const DETAILS_SHOWN: usize = 5;

/// A report without its records. `Display` formats it as a table.
#[derive(Clone, Debug, Serialize)]
pub struct LoadSummary {
    /// Target URL.
    pub url: String,
    /// Wall-clock time of the start.
    pub started_at: Timestamp,
    /// Time from the start to the report.
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    pub elapsed: Duration,
    /// Why the load ended. `None` while it runs.
    pub ended_by: Option<EndReason>,
    /// Requests sent.
    pub sent: u64,
    /// Requests that were not sent because too many were in flight.
    pub overruns: u64,
    /// Requests sent more than 10 ms after they were due.
    pub late: u64,
    /// Longest delay from due to sent.
    #[serde(rename = "max_lateness_ms", serialize_with = "milliseconds")]
    pub max_lateness: Duration,
    /// All versions.
    #[serde(flatten)]
    pub total: VersionSummary,
    /// One entry per version.
    pub versions: Vec<VersionSummary>,
    /// The first routing failures.
    pub failures: Vec<FailureDetail>,
}

/// The requests that one version answered.
#[derive(Clone, Debug, Serialize)]
pub struct VersionSummary {
    /// `x-version`. `None` in the total.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Requests by outcome.
    pub counts: OutcomeCounts,
    /// `None` if there are no requests.
    pub latency: Option<LatencySummary>,
}

impl VersionSummary {
    fn from_view(version: Option<&str>, view: ReportView<'_>) -> Self {
        Self {
            version: version.map(str::to_owned),
            counts: view.counts(),
            latency: view.latency(),
        }
    }
}

impl LoadReport {
    /// The report without its records.
    pub fn summary(&self) -> LoadSummary {
        let versions = self.versions.iter().flatten();
        let mut versions: Vec<_> = versions
            .map(|version| VersionSummary::from_view(Some(version), self.all().of_version(version)))
            .collect();
        versions.sort_by(|a, b| a.version.cmp(&b.version));
        LoadSummary {
            url: self.url.clone(),
            started_at: self.started_at,
            elapsed: self.elapsed,
            ended_by: self.ended_by,
            sent: self.sent,
            overruns: self.overruns,
            late: self.late,
            max_lateness: self.max_lateness,
            total: VersionSummary::from_view(None, self.all()),
            versions,
            failures: self.details.clone(),
        }
    }

    /// Whether every request was sent and none was lost in routing.
    pub fn has_no_losses(&self) -> bool {
        self.overruns == 0 && self.all().counts().routing_failures() == 0
    }
}

impl fmt::Display for LoadSummary {
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
        } in self.failures.iter().take(DETAILS_SHOWN)
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
    let milliseconds = |pick: fn(&LatencySummary) -> Duration| {
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
impl Serialize for LatencySummary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut latency = serializer.serialize_struct("LatencySummary", 5)?;
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
        let mut fields = serializer.serialize_struct("FailureDetail", 4)?;
        fields.serialize_field("at_ms", &in_milliseconds(*at))?;
        fields.serialize_field("failure", failure)?;
        fields.serialize_field("version", version)?;
        fields.serialize_field("detail", detail)?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outcome::RequestOutcome, report::tests::report};

    fn sample() -> LoadReport {
        let lost = RequestOutcome::Routing(RoutingFailure::BadGateway502);
        let mut report = report(&[
            (0, 1, Some("v2"), RequestOutcome::Ok),
            (10, 2, Some("v1"), RequestOutcome::Ok),
            (20, 4, Some("v1"), RequestOutcome::ServiceError),
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
    fn the_table_has_one_row_per_version() {
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
    fn overruns_and_late_requests_are_reported() {
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
    fn the_json_has_all_fields() {
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
    fn a_report_without_losses_has_no_overruns_and_no_failures() {
        let clean = report(&[
            (0, 1, Some("v1"), RequestOutcome::Ok),
            (1, 1, Some("v1"), RequestOutcome::ServiceError),
        ]);
        assert!(clean.has_no_losses());
        assert!(
            !LoadReport {
                overruns: 1,
                ..clean
            }
            .has_no_losses()
        );
        assert!(!sample().has_no_losses());
    }
}
