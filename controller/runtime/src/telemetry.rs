//! Logs and metrics of the controller.
//!
//! Metric names follow the Prometheus conventions: the prefix `serin_`, base units, and `_total`
//! for counters. Every label has a small, fixed set of values. No label contains an object name, so
//! the number of series does not depend on the number of Rollouts.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serin_core::guardrail::Finding;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::queue::Lane;

/// The log target of the Kubernetes client.
const CLIENT_TARGET: &str = "kube_client";

/// Format of the log on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line, for log collectors.
    #[default]
    Json,
    /// Colored text, for a terminal.
    Human,
}

/// Errors that prevent the setup of logging.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log filter is invalid.
    #[error("invalid log filter {filter:?}: {source}")]
    Filter {
        /// The filter.
        filter: String,
        /// The parse error.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was already set up in this process.
    #[error("logging is already set up: {0}")]
    Installed(String),
}

/// Sets up logging to stderr. `filter` uses the syntax of `RUST_LOG`, for example
/// `info,serin_runtime=debug`. The logs of the Kubernetes client are always off: it logs whole
/// response bodies that it cannot decode, and a body may be a Secret.
///
/// # Errors
/// The filter is invalid, or logging was already set up.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let subscriber = subscriber(format, filter, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| LogError::Installed(error.to_string()))
}

/// A subscriber that writes log lines.
fn subscriber(
    format: LogFormat,
    filter: &str,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(writer);
    let no_client = filter_fn(|metadata| !metadata.target().starts_with(CLIENT_TARGET));
    Ok(match format {
        LogFormat::Json => {
            let json = builder.json().flatten_event(true);
            let json = json.with_current_span(true).with_span_list(false);
            Box::new(json.finish().with(no_client))
        }
        LogFormat::Human => Box::new(builder.with_target(false).finish().with(no_client)),
    })
}

/// Result of a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconcileResult {
    /// All effects succeeded.
    Done,
    /// A write conflicted (HTTP 409). The reconcile is retried soon.
    Conflict,
    /// A request failed. The reconcile is retried with backoff.
    Failed,
    /// The reconcile panicked. The Rollout is quarantined.
    Panicked,
}

impl ReconcileResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    verb: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EffectLabel {
    effect: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnalysisLabels {
    report: &'static str,
    cause: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GuardrailLabels {
    guardrail: &'static str,
    effect: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabel {
    error: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LaneLabel {
    lane: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// From 1 ms to 16 s, each bucket 4 times the previous one.
const SECONDS_BUCKETS: [f64; 8] = [0.001, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0, 16.0];

fn seconds_histogram() -> Histogram {
    Histogram::new(SECONDS_BUCKETS)
}

/// The metrics of one controller process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<ResultLabel, Counter>,
    reconcile_seconds: Histogram,
    api_writes: Family<WriteLabels, Counter>,
    effect_failures: Family<EffectLabel, Counter>,
    events_dropped: Counter,
    weight_changes: Counter,
    quarantined: Gauge,
    queue_waiting: Family<LaneLabel, Gauge>,
    policies: Family<PolicyLabel, Gauge>,
    policy_resolutions: Counter,
    guardrail_findings: Family<GuardrailLabels, Counter>,
    rollouts: Gauge,
    memory_needed_bytes: Gauge,
    memory_limit_bytes: Gauge,
    leader: Gauge,
    admission_policy_in_force: Gauge,
    analysis_changes: Family<AnalysisLabels, Counter>,
    active_analyses: Gauge,
    evidence_age_seconds: Gauge<f64, AtomicU64>,
    query_seconds: Histogram,
    query_errors: Family<ErrorLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates and registers all metrics.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("serin")),
            reconciles: Family::default(),
            reconcile_seconds: seconds_histogram(),
            api_writes: Family::default(),
            effect_failures: Family::default(),
            events_dropped: Counter::default(),
            weight_changes: Counter::default(),
            quarantined: Gauge::default(),
            queue_waiting: Family::default(),
            policies: Family::default(),
            policy_resolutions: Counter::default(),
            guardrail_findings: Family::default(),
            rollouts: Gauge::default(),
            memory_needed_bytes: Gauge::default(),
            memory_limit_bytes: Gauge::default(),
            leader: Gauge::default(),
            admission_policy_in_force: Gauge::default(),
            analysis_changes: Family::default(),
            active_analyses: Gauge::default(),
            evidence_age_seconds: Gauge::default(),
            query_seconds: seconds_histogram(),
            query_errors: Family::default(),
        };
        metrics.with_registry(|registry| {
            metrics.register_reconcile(registry);
            metrics.register_analysis(registry);
        });
        metrics
    }

    /// The registry is only appended to or read, so a poisoned lock does not mean inconsistent
    /// data.
    fn with_registry<R>(&self, act: impl FnOnce(&mut Registry) -> R) -> R {
        let mut registry = self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut registry)
    }

    fn register_reconcile(&self, registry: &mut Registry) {
        registry.register(
            "build",
            "Version of the controller",
            Info::new(BuildLabels {
                version: env!("CARGO_PKG_VERSION"),
            }),
        );
        registry.register(
            "reconciles",
            "Reconciles by result",
            self.reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Duration of one reconcile",
            self.reconcile_seconds.clone(),
        );
        registry.register(
            "api_writes",
            "Writes to the API server by kind and verb",
            self.api_writes.clone(),
        );
        registry.register(
            "effect_failures",
            "Failed effects by kind",
            self.effect_failures.clone(),
        );
        registry.register(
            "events_dropped",
            "Events that were not written because too many were waiting",
            self.events_dropped.clone(),
        );
        registry.register(
            "weight_changes",
            "Traffic weights written to routes",
            self.weight_changes.clone(),
        );
        registry.register(
            "quarantined",
            "Rollouts that are quarantined because their reconcile panicked or ended the process",
            self.quarantined.clone(),
        );
        registry.register(
            "queue_waiting",
            "Rollouts that wait to be reconciled, by lane",
            self.queue_waiting.clone(),
        );
        self.register_policies(registry);
        registry.register("rollouts", "Rollouts in the cache", self.rollouts.clone());
        self.register_memory(registry);
        registry.register(
            "leader",
            "1 if this process holds the Lease",
            self.leader.clone(),
        );
        registry.register(
            "admission_policy_in_force",
            "1 if the admission policy that verifies commands is in force, 0 if it is missing or \
             not configured",
            self.admission_policy_in_force.clone(),
        );
    }

    fn register_policies(&self, registry: &mut Registry) {
        registry.register(
            "policies",
            "RolloutPolicies by state: ready, or invalid if one of their fields cannot be used",
            self.policies.clone(),
        );
        registry.register(
            "policy_resolutions",
            "Effective specs that were resolved from policies and templates",
            self.policy_resolutions.clone(),
        );
        registry.register(
            "guardrail_findings",
            "Problems that guardrails found in revisions, by guardrail and effect: hold or report",
            self.guardrail_findings.clone(),
        );
    }

    fn register_memory(&self, registry: &mut Registry) {
        registry.register(
            "memory_needed_bytes",
            "Memory that the cached Rollouts and pods need, releases of all Rollouts at once \
             included",
            self.memory_needed_bytes.clone(),
        );
        registry.register(
            "memory_limit_bytes",
            "Memory limit of the container, 0 if it has none",
            self.memory_limit_bytes.clone(),
        );
    }

    fn register_analysis(&self, registry: &mut Registry) {
        registry.register(
            "analysis_reports",
            "Changes of the analysis report of a release, by report and cause",
            self.analysis_changes.clone(),
        );
        registry.register(
            "analyses_running",
            "Releases under analysis",
            self.active_analyses.clone(),
        );
        registry.register(
            "evidence_age_seconds",
            "Time from the scrape of the newest sample to its analysis, for the release analyzed \
             last",
            self.evidence_age_seconds.clone(),
        );
        registry.register(
            "prometheus_query_duration_seconds",
            "Duration of one Prometheus query",
            self.query_seconds.clone(),
        );
        registry.register(
            "prometheus_query_errors",
            "Failed Prometheus queries by error",
            self.query_errors.clone(),
        );
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// A metric cannot be formatted. Never returned for the metrics registered here.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        self.with_registry(|registry| text::encode(&mut page, registry))?;
        Ok(page)
    }

    /// Records one reconcile.
    pub fn record_reconcile(&self, result: ReconcileResult, took: Duration) {
        self.reconciles
            .get_or_create(&ResultLabel {
                result: result.as_str(),
            })
            .inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// Records a write to the API server, for example kind `HTTPRoute` and verb `patch`.
    pub fn record_api_write(&self, kind: &'static str, verb: &'static str) {
        self.api_writes
            .get_or_create(&WriteLabels { kind, verb })
            .inc();
    }

    /// Number of writes with this kind and verb so far.
    pub fn api_writes(&self, kind: &'static str, verb: &'static str) -> u64 {
        self.api_writes
            .get_or_create(&WriteLabels { kind, verb })
            .get()
    }

    /// Records a failed effect. `effect` is its kind, for example `SetWeight`.
    pub fn record_effect_failure(&self, effect: &'static str) {
        self.effect_failures
            .get_or_create(&EffectLabel { effect })
            .inc();
    }

    /// Records that an Event was dropped because too many were waiting.
    pub fn record_event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Records that a traffic weight was written to a route.
    pub fn record_weight_change(&self) {
        self.weight_changes.inc();
    }

    /// Sets the number of quarantined Rollouts.
    pub fn set_quarantined(&self, count: usize) {
        self.quarantined
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the number of RolloutPolicies that are ready and of those that are invalid.
    pub fn set_policies(&self, ready: usize, invalid: usize) {
        for (state, count) in [("ready", ready), ("invalid", invalid)] {
            self.policies
                .get_or_create(&PolicyLabel { state })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Number of effective specs that were resolved.
    pub fn policy_resolutions(&self) -> u64 {
        self.policy_resolutions.get()
    }

    /// Counts the resolution of an effective spec.
    pub fn record_policy_resolution(&self) {
        self.policy_resolutions.inc();
    }

    /// Counts a problem that a guardrail found in a revision.
    pub fn record_guardrail_finding(&self, finding: &Finding) {
        let effect = if finding.is_holding() {
            "hold"
        } else {
            "report"
        };
        let guardrail = finding.guardrail.as_str();
        let labels = GuardrailLabels { guardrail, effect };
        self.guardrail_findings.get_or_create(&labels).inc();
    }

    /// Sets the number of Rollouts that wait in a lane of the queue.
    pub fn set_queue_waiting(&self, lane: Lane, count: usize) {
        let lane = lane.as_str();
        self.queue_waiting
            .get_or_create(&LaneLabel { lane })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the number of Rollouts in the cache.
    pub fn set_rollouts(&self, count: usize) {
        self.rollouts.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the memory that is needed, and the limit of the container, in bytes.
    pub fn set_memory(&self, needed: u64, limit: Option<u64>) {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory_needed_bytes.set(signed(needed));
        self.memory_limit_bytes.set(signed(limit.unwrap_or(0)));
    }

    /// Sets whether this process holds the Lease.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Sets whether the admission policy that verifies commands is in force.
    pub fn set_admission_policy_in_force(&self, in_force: bool) {
        self.admission_policy_in_force.set(i64::from(in_force));
    }

    /// Records that the analysis of a release has changed to this report. `cause` is in CamelCase,
    /// or empty.
    pub fn record_analysis_change(&self, report: &'static str, cause: &str) {
        self.analysis_changes
            .get_or_create(&AnalysisLabels {
                report,
                cause: cause.to_owned(),
            })
            .inc();
    }

    /// Sets the number of releases under analysis.
    pub fn set_active_analyses(&self, count: usize) {
        self.active_analyses
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the age that the newest sample had when it was analyzed.
    pub fn set_evidence_age(&self, age: Duration) {
        self.evidence_age_seconds.set(age.as_secs_f64());
    }

    /// Records one Prometheus query. `error` is the kind of error, for example `Timeout`.
    pub fn record_query(&self, took: Duration, error: Option<&'static str>) {
        self.query_seconds.observe(took.as_secs_f64());
        if let Some(error) = error {
            self.query_errors.get_or_create(&ErrorLabel { error }).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_page_contains_the_recorded_metrics() {
        let metrics = Metrics::new();
        metrics.record_reconcile(ReconcileResult::Done, Duration::from_millis(3));
        metrics.record_api_write("HTTPRoute", "patch");
        metrics.record_analysis_change("Hold", "NoData");
        metrics.record_query(Duration::from_millis(20), Some("Timeout"));
        metrics.record_event_dropped();
        metrics.set_leader(true);
        metrics.set_queue_waiting(Lane::Urgent, 2);
        let page = metrics.encode().unwrap();
        for line in [
            "serin_reconciles_total{result=\"done\"} 1",
            "serin_reconcile_duration_seconds_bucket{le=\"0.004\"} 1",
            "serin_api_writes_total{kind=\"HTTPRoute\",verb=\"patch\"} 1",
            "serin_analysis_reports_total{report=\"Hold\",cause=\"NoData\"} 1",
            "serin_prometheus_query_errors_total{error=\"Timeout\"} 1",
            "serin_leader 1",
            "serin_queue_waiting{lane=\"urgent\"} 2",
            "serin_events_dropped_total 1",
            concat!(
                "serin_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            assert!(page.contains(line), "{line} is missing from:\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_filter_enables_the_logs_of_the_kubernetes_client() {
        for format in [LogFormat::Json, LogFormat::Human] {
            for filter in [
                "info",
                "trace",
                "kube_client=trace",
                "kube_client::client=trace",
            ] {
                let log = Log::default();
                let writer = log.clone();
                let subscriber = subscriber(format, filter, move || writer.clone()).unwrap();
                tracing::subscriber::with_default(subscriber, || {
                    tracing::warn!(target: "kube_client::client", "body of a Secret");
                    tracing::warn!(target: "kube_client", "body of a Secret");
                    tracing::warn!("reconcile failed");
                });
                let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
                assert!(!text.contains("Secret"), "{filter}: {text}");
                let is_enabled = !filter.contains('=');
                assert_eq!(
                    text.contains("reconcile failed"),
                    is_enabled,
                    "{filter}: {text}"
                );
            }
        }
    }

    #[test]
    fn an_invalid_filter_is_refused() {
        let error = init_logs(LogFormat::Json, "info,serin=loud").unwrap_err();
        assert!(matches!(error, LogError::Filter { .. }), "{error}");
    }
}
