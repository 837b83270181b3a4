//! Logs, spans and the metrics of the controller itself.
//!
//! Metric names follow the Prometheus conventions: the prefix `serin_`, base units, `_total` for
//! counters. Every label has a small, fixed set of values; no label ever carries an object's name,
//! so that a fleet of a thousand Rollouts costs as many series as one.

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
use tracing_subscriber::EnvFilter;

/// How log lines are written to stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for collectors.
    #[default]
    Json,
    /// Coloured text, for a person at a terminal.
    Human,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} cannot be read: {source}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else in this process has set up logging before.
    #[error("logging is set up already: {0}")]
    Installed(String),
}

/// Sends logs to stderr from now on, filtered by `filter` (the syntax of `RUST_LOG`, for example
/// `info,serin_runtime=debug`).
///
/// # Errors
/// Where the filter cannot be read, or logging was set up before.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
        LogFormat::Human => builder.with_target(false).try_init(),
    }
    .map_err(|error| LogError::Installed(error.to_string()))
}

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconcileResult {
    /// Everything that was to be done is done.
    Done,
    /// Something was written over in the meantime (HTTP 409); it is tried again at once.
    Conflict,
    /// Something failed; it is tried again later.
    Failed,
    /// The reconcile panicked; the object is quarantined.
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
struct JudgementLabels {
    judgement: &'static str,
    cause: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabel {
    error: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// From 1 ms to 16 s in steps of 4.
const SECONDS_BUCKETS: [f64; 8] = [0.001, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0, 16.0];

fn seconds_histogram() -> Histogram {
    Histogram::new(SECONDS_BUCKETS)
}

/// The metrics of one controller process; shared by everything that has something to count.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<ResultLabel, Counter>,
    reconcile_seconds: Histogram,
    api_writes: Family<WriteLabels, Counter>,
    effect_failures: Family<EffectLabel, Counter>,
    weight_changes: Counter,
    quarantined: Gauge,
    rollouts: Gauge,
    leader: Gauge,
    judgements: Family<JudgementLabels, Counter>,
    judging: Gauge,
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
    /// All at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("serin")),
            reconciles: Family::default(),
            reconcile_seconds: seconds_histogram(),
            api_writes: Family::default(),
            effect_failures: Family::default(),
            weight_changes: Counter::default(),
            quarantined: Gauge::default(),
            rollouts: Gauge::default(),
            leader: Gauge::default(),
            judgements: Family::default(),
            judging: Gauge::default(),
            evidence_age_seconds: Gauge::default(),
            query_seconds: seconds_histogram(),
            query_errors: Family::default(),
        };
        metrics.with_registry(|registry| {
            metrics.register_reconciling(registry);
            metrics.register_judging(registry);
        });
        metrics
    }

    /// The registry is only ever appended to or read, so that a panic elsewhere cannot leave it
    /// half written.
    fn with_registry<R>(&self, act: impl FnOnce(&mut Registry) -> R) -> R {
        let mut registry = self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut registry)
    }

    fn register_reconciling(&self, registry: &mut Registry) {
        registry.register(
            "build",
            "The running version",
            Info::new(BuildLabels {
                version: env!("CARGO_PKG_VERSION"),
            }),
        );
        registry.register(
            "reconciles",
            "Reconciles by how they ended",
            self.reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long one reconcile takes",
            self.reconcile_seconds.clone(),
        );
        registry.register(
            "api_writes",
            "Writes to the API server by kind and verb",
            self.api_writes.clone(),
        );
        registry.register(
            "effect_failures",
            "Effects that could not be carried out",
            self.effect_failures.clone(),
        );
        registry.register(
            "weight_changes",
            "Traffic weights written to routes",
            self.weight_changes.clone(),
        );
        registry.register(
            "quarantined",
            "Rollouts set aside because their reconcile panics or they cannot be read",
            self.quarantined.clone(),
        );
        registry.register("rollouts", "Rollouts in the cache", self.rollouts.clone());
        registry.register(
            "leader",
            "1 where this process holds the Lease",
            self.leader.clone(),
        );
    }

    fn register_judging(&self, registry: &mut Registry) {
        registry.register(
            "judgements",
            "Changes of what the metrics say of a release, by judgement and cause",
            self.judgements.clone(),
        );
        registry.register(
            "judging",
            "Releases that are being judged",
            self.judging.clone(),
        );
        registry.register(
            "evidence_age_seconds",
            "From the scrape of the newest sample to its being judged, of the release judged last",
            self.evidence_age_seconds.clone(),
        );
        registry.register(
            "prometheus_query_duration_seconds",
            "How long one Prometheus query takes",
            self.query_seconds.clone(),
        );
        registry.register(
            "prometheus_query_errors",
            "Prometheus queries that gave no usable answer, by what was wrong",
            self.query_errors.clone(),
        );
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// Where a metric cannot be written down, which no metric of ours should cause.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        self.with_registry(|registry| text::encode(&mut page, registry))?;
        Ok(page)
    }

    /// One reconcile ended.
    pub fn reconciled(&self, result: ReconcileResult, took: Duration) {
        self.reconciles
            .get_or_create(&ResultLabel {
                result: result.as_str(),
            })
            .inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// One write to the API server, for example kind `HTTPRoute` and verb `patch`.
    pub fn api_write(&self, kind: &'static str, verb: &'static str) {
        self.api_writes
            .get_or_create(&WriteLabels { kind, verb })
            .inc();
    }

    /// The writes of one kind and verb so far.
    pub fn api_writes(&self, kind: &'static str, verb: &'static str) -> u64 {
        self.api_writes
            .get_or_create(&WriteLabels { kind, verb })
            .get()
    }

    /// An effect could not be carried out; `effect` is its kind, for example `SetWeight`.
    pub fn effect_failed(&self, effect: &'static str) {
        self.effect_failures
            .get_or_create(&EffectLabel { effect })
            .inc();
    }

    /// A traffic weight was written to a route.
    pub fn weight_changed(&self) {
        self.weight_changes.inc();
    }

    /// So many Rollouts are set aside.
    pub fn set_quarantined(&self, count: usize) {
        self.quarantined
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many Rollouts are in the cache.
    pub fn set_rollouts(&self, count: usize) {
        self.rollouts.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether this process holds the Lease.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// What the metrics say of a release has changed to this; `cause` is one CamelCase word or
    /// empty.
    pub fn judged(&self, judgement: &'static str, cause: &str) {
        self.judgements
            .get_or_create(&JudgementLabels {
                judgement,
                cause: cause.to_owned(),
            })
            .inc();
    }

    /// So many releases are being judged.
    pub fn set_judging(&self, count: usize) {
        self.judging.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The newest sample was this old when it was judged.
    pub fn set_evidence_age(&self, age: Duration) {
        self.evidence_age_seconds.set(age.as_secs_f64());
    }

    /// One Prometheus query ended; `error` is the kind of trouble, for example `Timeout`.
    pub fn queried(&self, took: Duration, error: Option<&'static str>) {
        self.query_seconds.observe(took.as_secs_f64());
        if let Some(error) = error {
            self.query_errors.get_or_create(&ErrorLabel { error }).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_what_was_counted() {
        let metrics = Metrics::new();
        metrics.reconciled(ReconcileResult::Done, Duration::from_millis(3));
        metrics.api_write("HTTPRoute", "patch");
        metrics.judged("Hold", "NoData");
        metrics.queried(Duration::from_millis(20), Some("Timeout"));
        metrics.set_leader(true);
        let page = metrics.encode().unwrap();
        for line in [
            "serin_reconciles_total{result=\"done\"} 1",
            "serin_reconcile_duration_seconds_bucket{le=\"0.004\"} 1",
            "serin_api_writes_total{kind=\"HTTPRoute\",verb=\"patch\"} 1",
            "serin_judgements_total{judgement=\"Hold\",cause=\"NoData\"} 1",
            "serin_prometheus_query_errors_total{error=\"Timeout\"} 1",
            "serin_leader 1",
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

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        let error = init_logs(LogFormat::Json, "info,serin=loud").unwrap_err();
        assert!(matches!(error, LogError::Filter { .. }), "{error}");
    }
}
