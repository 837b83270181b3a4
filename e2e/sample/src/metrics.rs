//! The metrics of the service. Probes and scrapes are not counted.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::sessions::EndedSessions;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds, from well below to well above the duration of a request.
const BUCKETS_SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: u16,
    version: String,
}

/// The counters of one version.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    succeeded: Counter,
    failed: Counter,
    duration: Histogram,
    sessions: Counter,
    sessions_with_error: Counter,
}

impl Metrics {
    /// Registers the series. Both status codes exist from the start: if a counter first appears
    /// with its first error, `increase()` does not see that error.
    pub fn new(version: &str) -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<VersionLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(BUCKETS_SECONDS)
        });
        let code = |code| {
            requests.get_or_create_owned(&RequestLabels {
                code,
                version: version.to_owned(),
            })
        };
        let (succeeded, failed) = (code(200), code(500));
        let duration = durations.get_or_create_owned(&VersionLabel {
            version: version.to_owned(),
        });
        let mut registry = Registry::default();
        registry.register(
            "http_requests",
            "Requests answered by the service",
            requests,
        );
        registry.register(
            "http_request_duration_seconds",
            "How long the service took to answer",
            durations,
        );
        let (sessions, sessions_with_error) = (Counter::default(), Counter::default());
        registry.register(
            "sessions",
            "Sessions that have ended",
            Counter::clone(&sessions),
        );
        registry.register(
            "sessions_with_error",
            "Sessions that have ended and had a failed request",
            Counter::clone(&sessions_with_error),
        );
        Self {
            registry,
            succeeded,
            failed,
            duration,
            sessions,
            sessions_with_error,
        }
    }

    /// Counts one response.
    pub fn count(&self, ok: bool, took: Duration) {
        if ok { &self.succeeded } else { &self.failed }.inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts sessions that have ended.
    pub fn count_sessions(&self, ended: EndedSessions) {
        self.sessions.inc_by(ended.all);
        self.sessions_with_error.inc_by(ended.with_error);
    }

    /// The metrics in the `OpenMetrics` text format.
    ///
    /// # Errors
    /// None in practice: writing to a `String` does not fail.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_series_exist_before_the_first_request() {
        let text = Metrics::new("v1").text().unwrap();
        assert!(
            text.contains("http_requests_total{code=\"200\",version=\"v1\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("http_requests_total{code=\"500\",version=\"v1\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("http_request_duration_seconds_count{version=\"v1\"} 0\n"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn answers_are_counted_by_code_and_by_duration() {
        let metrics = Metrics::new("v2");
        metrics.count(true, Duration::from_millis(3));
        metrics.count(true, Duration::from_millis(300));
        metrics.count(false, Duration::from_millis(3));
        let text = metrics.text().unwrap();
        for line in [
            "http_requests_total{code=\"200\",version=\"v2\"} 2\n",
            "http_requests_total{code=\"500\",version=\"v2\"} 1\n",
            "http_request_duration_seconds_bucket{le=\"0.005\",version=\"v2\"} 2\n",
            "http_request_duration_seconds_bucket{le=\"0.5\",version=\"v2\"} 3\n",
            "http_request_duration_seconds_count{version=\"v2\"} 3\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
