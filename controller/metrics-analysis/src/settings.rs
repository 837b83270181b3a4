//! The analysis of a spec as the judge uses it: units read, defaults filled in.

use std::time::Duration;

use serin_analysis::budget::AllotmentShare;
use serin_analysis::counters::CounterConfig;
use serin_analysis::objective::Timing;
use serin_analysis::{JudgeConfig, ObjectiveConfig};
use serin_core::plan::{Analysis, EvidencePace};
use serin_crds::analysis::{AnalysisSpec, ObjectiveSpec};
use serin_crds::text::{parse_duration, parse_percentage};

use crate::prometheus::Server;
use crate::selector::Trouble;

const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
const SLO_WINDOW: Duration = Duration::from_secs(30 * 86_400);
const LONGEST: Duration = Duration::from_secs(3_600);
const STEP_DOWN_AFTER: Duration = Duration::from_secs(300);

/// The fastest and the slowest that counters are polled.
const POLL_BOUNDS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How long after a scrape began its samples are taken to be visible, where several targets are
/// scraped: a tenth of the interval.
const SETTLE_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Three scrapes missed and so much on top make an arm stale.
const STALE_MARGIN_MS: i64 = 5_000;

/// The settings that all objectives of a release share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom to ask.
    pub server: Server,
    /// How often it scrapes according to the spec. What the samples show replaces it, objective by
    /// objective.
    pub scrape_interval: Duration,
    /// Whether the spec sets the scrape interval.
    pub scrape_interval_is_set: bool,
    /// The decision table's numbers.
    pub judge: JudgeConfig,
    /// How much of the error budget a release may spend.
    pub share: AllotmentShare,
    /// How long a release may stay undecided.
    pub longest: Duration,
    /// How long pods count as young.
    pub warm_up: Duration,
    /// How long a release with all of the traffic is watched.
    pub watch: Duration,
}

/// Reads one text of the spec. The API server and the plan have refused what is not valid before;
/// what has slipped through is named again instead of being replaced by a default.
fn read<T, E: std::fmt::Display>(
    field: &str,
    text: Option<&String>,
    parse: impl Fn(&str) -> Result<T, E>,
    default: T,
) -> Result<T, Trouble> {
    let Some(text) = text else { return Ok(default) };
    parse(text).map_err(|error| Trouble::spec(format!("spec.analysis.{field} {text:?}: {error}")))
}

impl Settings {
    /// Reads the settings of a spec; `server` is asked.
    ///
    /// # Errors
    /// The field that cannot be read.
    pub fn new(
        spec: &AnalysisSpec,
        pace: Option<&EvidencePace>,
        server: Server,
    ) -> Result<Self, Trouble> {
        let interval = spec
            .prometheus
            .as_ref()
            .and_then(|prometheus| prometheus.scrape_interval.as_ref());
        let scrape_interval = read(
            "prometheus.scrapeInterval",
            interval,
            parse_duration,
            SCRAPE_INTERVAL,
        )?;
        let longest = read(
            "longest",
            spec.max_duration.as_ref(),
            parse_duration,
            LONGEST,
        )?;
        let warm_up = read(
            "warmUp",
            spec.warm_up.as_ref(),
            parse_duration,
            Analysis::DEFAULT_WARM_UP,
        )?;
        let watch = spec.bake_time.as_ref();
        let watch = read("bakeTime", watch, parse_duration, Duration::ZERO)?;
        let budget = spec.budget.clone().unwrap_or_default();
        let usual = AllotmentShare::default();
        let share = AllotmentShare {
            of_total: read(
                "budget.share",
                budget.max_share_of_budget.as_ref(),
                parse_percentage,
                usual.of_total,
            )?,
            of_remaining: read(
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
        let step_down_after = read(
            "onNoData.stepDownAfter",
            step_down_after,
            parse_duration,
            STEP_DOWN_AFTER,
        )?;
        let mut judge = JudgeConfig {
            step_down_after_seconds: step_down_after.as_secs_f64(),
            // How long to wait for a decision is the planner's to say.
            longest_seconds: f64::INFINITY,
            ..JudgeConfig::default()
        };
        if let Some(alpha) = spec
            .rollback
            .as_ref()
            .and_then(|rollback| rollback.false_rollback_probability)
        {
            if !(alpha > 0.0 && alpha <= 0.1) {
                let message = format!(
                    "spec.analysis.rollback.falseRollbackProbability {alpha} must be above 0 and at most 0.1"
                );
                return Err(Trouble::spec(message));
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
            judge,
            share,
            longest,
            warm_up,
            watch,
        })
    }

    /// How often counters are polled while only the configured scrape interval is known.
    pub fn poll_period(&self) -> Duration {
        poll_period(self.scrape_interval)
    }

    /// The scrape interval in whole milliseconds, at least one.
    pub fn scrape_interval_ms(&self) -> i64 {
        millis(self.scrape_interval).max(1)
    }

    /// How one objective's evidence is gathered. `usual_rate` is how often the service failed
    /// before this release, where that is known.
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
        config.evidence.clip = Some(-self.judge.alpha.ln());
        config.evidence.restarts = serin_analysis::config::Restarts::EveryMinute {
            longest_seconds: self.longest.as_secs_f64().max(1.0),
        };
        config.settle_ms = timing.settle_ms;
        config.stale_after_ms = timing.stale_after_ms;
        config.counters = timing.counters;
        config.selector_verified = verified;
        config
    }
}

/// How often counters are polled: a quarter of the scrape interval, within bounds.
pub(crate) fn poll_period(scrape_interval: Duration) -> Duration {
    (scrape_interval / 4).clamp(POLL_BOUNDS.0, POLL_BOUNDS.1)
}

/// What follows from a scrape interval. Staleness is measured by `patient_ms`, which is longer
/// while the interval is not known yet.
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

/// The period that an objective covers.
///
/// # Errors
/// That it cannot be read.
pub fn slo_window(spec: &ObjectiveSpec) -> Result<Duration, Trouble> {
    let window = read(
        &format!("objectives[{}].window", spec.name),
        spec.window.as_ref(),
        parse_duration,
        SLO_WINDOW,
    )?;
    Ok(window.max(Duration::from_secs(60)))
}

/// Whole milliseconds.
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
    fn what_is_not_written_has_its_default() {
        let spec = spec(
            json!({"objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}]}),
        );
        let settings = Settings::new(&spec, None, Server::at("http://prometheus")).unwrap();
        assert_eq!(settings.server, Server::at("http://prometheus"));
        assert_eq!(settings.poll_period(), Duration::from_millis(3_750));
        assert!((settings.judge.alpha - 0.01).abs() < 1e-12);
        let config = settings.objective(&spec.objectives[0], None, true);
        assert!((config.evidence.budget_fraction - 0.001).abs() < 1e-12);
        assert_eq!(config.stale_after_ms, 50_000);
        assert_eq!(
            slo_window(&spec.objectives[0]).unwrap(),
            Duration::from_secs(2_592_000)
        );
    }

    #[test]
    fn what_is_written_is_taken() {
        let spec = spec(json!({
            "prometheus": {"scrapeInterval": "1s"}, "maxDuration": "30m",
            "rollback": {"falseRollbackProbability": 0.05}, "budget": {"maxShareOfBudget": "1%", "maxShareOfRemaining": "10%"},
            "objectives": [{"name": "availability", "objective": 99.9, "window": "7d", "indicator": "traefik"}]
        }));
        let settings = Settings::new(&spec, None, Server::at("http://prometheus")).unwrap();
        assert_eq!(settings.poll_period(), Duration::from_millis(250));
        assert_eq!(
            settings.share,
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
    fn what_cannot_be_read_is_named() {
        let spec = spec(json!({"maxDuration": "soon", "objectives": []}));
        let trouble = Settings::new(&spec, None, Server::at("http://prometheus")).unwrap_err();
        assert!(
            trouble
                .message
                .contains("spec.analysis.maxDuration \"soon\""),
            "{}",
            trouble.message
        );
    }
}
