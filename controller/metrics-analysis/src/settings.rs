//! Settings of an analysis: parsed values of the spec, with defaults.

use std::time::Duration;

use serin_analysis::budget::AllotmentShare;
use serin_analysis::claim::RoutedUnit;
use serin_analysis::config::Calibration;
use serin_analysis::counters::CounterConfig;
use serin_analysis::objective::Timing;
use serin_analysis::{AnalysisConfig, ObjectiveConfig};
use serin_core::plan::{Analysis, EvidencePace};
use serin_crds::analysis::{AnalysisSpec, ObjectiveSpec};
use serin_crds::comparison::CountedUnit;
use serin_crds::literals::{parse_duration, parse_percentage};

use crate::counter_selectors::AnalysisError;
use crate::prometheus::Server;

const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
const SLO_WINDOW: Duration = Duration::from_secs(30 * 86_400);
const MAX_DURATION: Duration = Duration::from_secs(3_600);
const STEP_DOWN_AFTER: Duration = Duration::from_secs(300);

/// Minimum and maximum period of polls.
const POLL_BOUNDS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Bounds of the delay after which the samples of a scrape count as visible on all targets. The
/// delay is a tenth of the scrape interval.
const SETTLE_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A side is stale after three missed scrapes plus this margin, in milliseconds.
const STALE_MARGIN_MS: i64 = 5_000;

/// Settings of all objectives of a release.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Prometheus server.
    pub server: Server,
    /// Configured scrape interval. It is replaced per objective by the interval of the samples.
    pub scrape_interval: Duration,
    /// Whether the spec sets the scrape interval.
    pub scrape_interval_is_set: bool,
    /// Parameters of the decision.
    pub analysis: AnalysisConfig,
    /// Share of the error budget that a release may spend.
    pub allotment_share: AllotmentShare,
    /// Maximum time without a decision.
    pub max_duration: Duration,
    /// Warm-up time of pods.
    pub warm_up: Duration,
    /// Duration of the analysis after promotion.
    pub bake_time: Duration,
    /// Whether the canary is compared with stable pods that started with it.
    pub has_baseline: bool,
}

/// Parses a text field of the spec. Invalid values are normally rejected by the API server and the
/// plan. Any remaining ones are reported here instead of being replaced with a default.
fn parse_field<T, E: std::fmt::Display>(
    field: &str,
    text: Option<&String>,
    parse: impl Fn(&str) -> Result<T, E>,
    default: T,
) -> Result<T, AnalysisError> {
    let Some(text) = text else { return Ok(default) };
    parse(text).map_err(|error| {
        AnalysisError::invalid_spec(format!("spec.analysis.{field} {text:?}: {error}"))
    })
}

impl Settings {
    /// Parses the settings of a spec, with `server` as the Prometheus to query.
    ///
    /// # Errors
    /// The invalid field.
    pub fn new(
        spec: &AnalysisSpec,
        pace: Option<&EvidencePace>,
        server: Server,
    ) -> Result<Self, AnalysisError> {
        let interval = spec
            .prometheus
            .as_ref()
            .and_then(|prometheus| prometheus.scrape_interval.as_ref());
        let scrape_interval = parse_field(
            "prometheus.scrapeInterval",
            interval,
            parse_duration,
            SCRAPE_INTERVAL,
        )?;
        let longest = parse_field(
            "maxDuration",
            spec.max_duration.as_ref(),
            parse_duration,
            MAX_DURATION,
        )?;
        let warm_up = parse_field(
            "warmUp",
            spec.warm_up.as_ref(),
            parse_duration,
            Analysis::DEFAULT_WARM_UP,
        )?;
        let watch = spec.bake_time.as_ref();
        let watch = parse_field("bakeTime", watch, parse_duration, Duration::ZERO)?;
        let budget = spec.budget.clone().unwrap_or_default();
        let usual = AllotmentShare::default();
        let share = AllotmentShare {
            of_total: parse_field(
                "budget.maxShareOfBudget",
                budget.max_share_of_budget.as_ref(),
                parse_percentage,
                usual.of_total,
            )?,
            of_remaining: parse_field(
                "budget.maxShareOfRemaining",
                budget.max_share_of_remaining.as_ref(),
                parse_percentage,
                usual.of_remaining,
            )?,
        };
        let step_down_after = spec
            .on_no_data
            .as_ref()
            .and_then(|on_no_data| on_no_data.step_down_after.as_ref());
        let step_down_after = parse_field(
            "onNoData.stepDownAfter",
            step_down_after,
            parse_duration,
            STEP_DOWN_AFTER,
        )?;
        let mut judge = AnalysisConfig {
            step_down_after_seconds: step_down_after.as_secs_f64(),
            // The planner limits the time without a decision.
            max_duration_seconds: f64::INFINITY,
            ..AnalysisConfig::default()
        };
        if let Some(alpha) = spec
            .rollback
            .as_ref()
            .and_then(|rollback| rollback.false_rollback_probability)
        {
            if !(alpha > 0.0 && alpha <= 0.1) {
                let message = format!(
                    "spec.analysis.rollback.falseRollbackProbability {alpha} must be above 0 and \
                     at most 0.1"
                );
                return Err(AnalysisError::invalid_spec(message));
            }
            judge.alpha = alpha;
        }
        if let Some(pace) = pace {
            judge.steps.first_weight = pace.first_weight.as_percent() / 100.0;
            judge.steps.max_weight = pace.max_weight.as_percent() / 100.0;
        }
        Ok(Self {
            server,
            scrape_interval,
            scrape_interval_is_set: interval.is_some(),
            analysis: judge,
            allotment_share: share,
            max_duration: longest,
            warm_up,
            bake_time: watch,
            has_baseline: spec.baseline.is_some(),
        })
    }

    /// Poll period while only the configured scrape interval is known.
    pub fn poll_period(&self) -> Duration {
        poll_period(self.scrape_interval)
    }

    /// Configured scrape interval in milliseconds, at least one.
    pub fn scrape_interval_ms(&self) -> i64 {
        millis(self.scrape_interval).max(1)
    }

    /// Configuration of one objective. `usual_rate` is the error rate of the service before this
    /// release, if it is known.
    pub fn objective(
        &self,
        spec: &ObjectiveSpec,
        usual_rate: Option<f64>,
        verified: bool,
    ) -> ObjectiveConfig {
        let interval_ms = self.scrape_interval_ms();
        let timing = timing(interval_ms, interval_ms);
        let mut config = ObjectiveConfig::new(&spec.name, spec.objective / 100.0, interval_ms);
        if let Some(rate) = usual_rate {
            config.evidence = config.evidence.with_history(rate);
        }
        config.evidence.calibration = spec.calibration.map(|calibration| Calibration {
            temper: calibration.temper,
            hours: u32::try_from(calibration.hours).unwrap_or(0),
        });
        config.evidence.clip = Some(-self.analysis.alpha.ln());
        config.evidence.warm_up_seconds = self.warm_up.as_secs_f64();
        config.evidence.restarts = serin_analysis::config::Restarts::EveryMinute {
            max_duration_seconds: self.max_duration.as_secs_f64().max(1.0),
        };
        config.settle_ms = timing.settle_ms;
        config.stale_after_ms = timing.stale_after_ms;
        config.counters = timing.counters;
        config.selector_verified = verified;
        config.counted_unit = match spec.counted_unit() {
            CountedUnit::Request => RoutedUnit::Request,
            CountedUnit::Client => RoutedUnit::Client,
            CountedUnit::Connection => RoutedUnit::Connection,
        };
        config
    }
}

/// Poll period: a quarter of the scrape interval, within bounds.
pub(crate) fn poll_period(scrape_interval: Duration) -> Duration {
    (scrape_interval / 4).clamp(POLL_BOUNDS.0, POLL_BOUNDS.1)
}

/// Timing parameters of a scrape interval. Staleness is based on `patient_ms`, which is longer
/// while the interval is unknown.
pub(crate) fn timing(interval_ms: i64, patient_ms: i64) -> Timing {
    let usual = CounterConfig::default();
    let (least, most) = (millis(SETTLE_BOUNDS.0), millis(SETTLE_BOUNDS.1));
    Timing {
        counters: CounterConfig {
            scrape_interval_ms: interval_ms,
            forget_ms: usual.forget_ms.max(interval_ms.saturating_mul(4)),
        },
        settle_ms: (interval_ms / 10).clamp(least, most),
        stale_after_ms: patient_ms.saturating_mul(3).saturating_add(STALE_MARGIN_MS),
    }
}

/// SLO window of an objective.
///
/// # Errors
/// The field is invalid.
pub fn slo_window(spec: &ObjectiveSpec) -> Result<Duration, AnalysisError> {
    let window = parse_field(
        &format!("objectives[{}].window", spec.name),
        spec.window.as_ref(),
        parse_duration,
        SLO_WINDOW,
    )?;
    Ok(window.max(Duration::from_secs(60)))
}

/// Converts a duration to whole milliseconds.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> AnalysisSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn missing_fields_have_defaults() {
        let spec = spec(
            json!({"objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}]}),
        );
        let settings = Settings::new(&spec, None, Server::with_url("http://prometheus")).unwrap();
        assert_eq!(settings.server, Server::with_url("http://prometheus"));
        assert_eq!(settings.poll_period(), Duration::from_millis(3_750));
        assert!((settings.analysis.alpha - 0.01).abs() < 1e-12);
        let config = settings.objective(&spec.objectives[0], None, true);
        assert!((config.evidence.budget_fraction - 0.001).abs() < 1e-12);
        assert_eq!(config.stale_after_ms, 50_000);
        assert_eq!(
            slo_window(&spec.objectives[0]).unwrap(),
            Duration::from_secs(2_592_000)
        );
    }

    #[test]
    fn fields_of_the_spec_are_used() {
        let spec = spec(json!({
            "prometheus": {"scrapeInterval": "1s"}, "maxDuration": "30m",
            "rollback": {"falseRollbackProbability": 0.05}, "budget": {"maxShareOfBudget": "1%", "maxShareOfRemaining": "10%"},
            "objectives": [{"name": "availability", "objective": 99.9, "window": "7d", "indicator": "traefik"}]
        }));
        let settings = Settings::new(&spec, None, Server::with_url("http://prometheus")).unwrap();
        assert_eq!(settings.poll_period(), Duration::from_millis(250));
        assert_eq!(
            settings.allotment_share,
            AllotmentShare {
                of_total: 0.01,
                of_remaining: 0.1
            }
        );
        let config = settings.objective(&spec.objectives[0], Some(0.0005), true);
        assert_eq!(config.evidence.plug_in, Some(0.0005));
        assert_eq!(config.evidence.clip, Some(20_f64.ln()));
    }

    #[test]
    fn an_invalid_field_is_named() {
        let spec = spec(json!({"maxDuration": "soon", "objectives": []}));
        let analysis_error =
            Settings::new(&spec, None, Server::with_url("http://prometheus")).unwrap_err();
        assert!(
            analysis_error
                .message
                .contains("spec.analysis.maxDuration \"soon\""),
            "{}",
            analysis_error.message
        );
    }
}
