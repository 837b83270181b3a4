//! Statistics of each objective, computed from the checkpoint in the status.

use serin_analysis::EvidenceConfig;
use serin_analysis::config::Calibration;
use serin_analysis::decision::{AnalysisConfig, ObjectiveEvidence};
use serin_analysis::evidence::Bets;
use serin_analysis::explain::thousands;
use serin_core::plan::{EvidencePace, Pace, Plan};
use serin_crds::analysis::AnalysisSpec;
use serin_crds::status::RolloutStatus;
use serin_metrics_analysis::checkpoint::Checkpoint;
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::settings::Settings;

/// Placeholder for a missing Prometheus address; no query is sent.
const UNUSED_PROMETHEUS: &str = "http://unused.invalid";

/// Statistics of one objective.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveNumbers {
    /// The evidence.
    pub evidence: ObjectiveEvidence,
    /// Configuration of the evidence.
    pub config: EvidenceConfig,
    /// Thresholds of the decision.
    pub judge: AnalysisConfig,
    /// Overdispersion of errors on stable's pods, if measured.
    pub phi: Option<f64>,
    /// Number of scrapes.
    pub scrapes: u64,
    /// Time of the last scrape, in milliseconds since the epoch.
    pub last_scrape_ms: i64,
    /// Requests per second of both sides since the canary's first request.
    pub requests_per_second: f64,
}

/// The statistics of each objective, in the order of the spec. Empty if nothing is stored yet.
///
/// # Errors
/// Fails if the checkpoint does not match the spec or this version of the plugin.
pub fn objective_numbers(
    analysis: &AnalysisSpec,
    plan: Option<&Plan>,
    status: &RolloutStatus,
) -> Result<Vec<ObjectiveNumbers>, String> {
    let Some(stored) = status
        .analysis
        .as_ref()
        .filter(|stored| stored.checkpoint != serde_json::json!({}))
    else {
        return Ok(Vec::new());
    };
    let checkpoint: Checkpoint =
        serde_json::from_value(stored.checkpoint.clone()).map_err(|error| {
            format!("the stored evidence (plugin and controller versions may differ): {error}")
        })?;
    let settings = Settings::new(analysis, pace(plan), Server::with_url(UNUSED_PROMETHEUS))
        .map_err(|error| error.message)?;
    let weight = f64::from(checkpoint.weight_thousandths) / 100_000.0;
    let mut all = Vec::new();
    for spec in &analysis.objectives {
        let Some(objective) = checkpoint.objectives.get(&spec.name) else {
            continue;
        };
        let config = settings
            .objective(spec, objective.usual_rate, false)
            .evidence;
        let bets = Bets::new(config.clone())
            .map_err(|error| format!("objective {}: {error}", spec.name))?;
        let evidence = &objective.state.evidence;
        if !evidence.is_compatible(&bets) {
            return Err(format!(
                "objective {} has changed since the evidence was collected",
                spec.name
            ));
        }
        let statistics = ObjectiveEvidence::from_evidence(
            &spec.name,
            &bets,
            evidence,
            &settings.analysis,
            weight,
        );
        #[expect(
            clippy::cast_precision_loss,
            reason = "a span of milliseconds is far below 2^53"
        )]
        let seconds = objective
            .state
            .round_at_ms
            .saturating_sub(evidence.began_ms) as f64
            / 1_000.0;
        all.push(ObjectiveNumbers {
            evidence: statistics,
            config,
            judge: settings.analysis,
            phi: evidence.phi(),
            scrapes: evidence.ticks,
            last_scrape_ms: objective.state.round_at_ms,
            requests_per_second: if seconds > 0.0 {
                evidence.totals.requests() / seconds
            } else {
                0.0
            },
        });
    }
    Ok(all)
}

/// How much the evidence allows for clusters of errors.
pub(super) fn temper_text(config: &EvidenceConfig, k: f64, phi: Option<f64>) -> String {
    let two_decimals = |value: f64| (value * 100.0).round() / 100.0;
    if let Some(Calibration { temper, hours }) = config.calibration {
        return format!(
            "{temper} (calibrated with {hours} placebo hours); k = {} for the promotion",
            thousands(two_decimals(k))
        );
    }
    phi.map_or_else(
        || {
            format!(
                "k = {} (phi is not measured: the gateway counts all pods together)",
                thousands(k)
            )
        },
        |phi| {
            format!(
                "k = {} (phi = {} within a scrape)",
                thousands(two_decimals(k)),
                two_decimals(phi)
            )
        },
    )
}

fn pace(plan: Option<&Plan>) -> Option<&EvidencePace> {
    match &plan?.canary().pace {
        Pace::Evidence(pace) => Some(pace),
        Pace::Steps(_) => None,
    }
}
