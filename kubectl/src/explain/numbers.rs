//! The numbers behind the evidence, from the position that the controller keeps in the status.

use serin_analysis::EvidenceConfig;
use serin_analysis::evidence::Bets;
use serin_analysis::judge::{JudgeConfig, ObjectiveEvidence};
use serin_core::plan::{EvidencePace, Pace, Plan};
use serin_crds::analysis::AnalysisSpec;
use serin_crds::status::RolloutStatus;
use serin_metrics_analysis::checkpoint::Checkpoint;
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::settings::Settings;

/// Stands where a spec names no Prometheus: nothing is asked here.
const NOBODY: &str = "http://nobody.invalid";

/// One objective in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// The evidence, as the judge sees it.
    pub told: ObjectiveEvidence,
    /// What it is gathered with.
    pub config: EvidenceConfig,
    /// The decision's thresholds.
    pub judge: JudgeConfig,
    /// How errors cluster on stable's pods, where that is measured.
    pub phi: Option<f64>,
    /// Scrapes so far.
    pub scrapes: u64,
    /// When the last one was, in milliseconds since the epoch.
    pub last_scrape_ms: i64,
    /// Requests per second of both sides since the release began to get traffic.
    pub requests_per_second: f64,
}

/// The objectives in numbers, in the spec's order; nothing where nothing is stored yet.
///
/// # Errors
/// Why what is stored cannot be read.
pub fn numbers(
    analysis: &AnalysisSpec,
    plan: Option<&Plan>,
    status: &RolloutStatus,
) -> Result<Vec<Numbers>, String> {
    let Some(stored) = status
        .analysis
        .as_ref()
        .filter(|stored| stored.checkpoint != serde_json::json!({}))
    else {
        return Ok(Vec::new());
    };
    let checkpoint: Checkpoint =
        serde_json::from_value(stored.checkpoint.clone()).map_err(|error| {
            format!(
                "the stored evidence (is this plugin older or newer than the controller?): {error}"
            )
        })?;
    let settings = Settings::new(analysis, pace(plan), Server::at(NOBODY))
        .map_err(|trouble| trouble.message)?;
    let weight = f64::from(checkpoint.weight_thousandths) / 100_000.0;
    let mut all = Vec::new();
    for spec in &analysis.objectives {
        let Some(of) = checkpoint.objectives.get(&spec.name) else {
            continue;
        };
        let config = settings.objective(spec, of.usual_rate, false).evidence;
        let bets = Bets::new(config.clone())
            .map_err(|error| format!("objective {}: {error}", spec.name))?;
        let evidence = &of.state.evidence;
        if !evidence.fits(&bets) {
            return Err(format!(
                "objective {} was edited since the evidence was gathered",
                spec.name
            ));
        }
        let told = ObjectiveEvidence::of(&spec.name, &bets, evidence, &settings.judge, weight);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a span of milliseconds is far below 2^53"
        )]
        let seconds = of.state.round_at_ms.saturating_sub(evidence.began_ms) as f64 / 1_000.0;
        all.push(Numbers {
            told,
            config,
            judge: settings.judge,
            phi: evidence.phi(),
            scrapes: evidence.ticks,
            last_scrape_ms: of.state.round_at_ms,
            requests_per_second: if seconds > 0.0 {
                evidence.totals.requests() / seconds
            } else {
                0.0
            },
        });
    }
    Ok(all)
}

fn pace(plan: Option<&Plan>) -> Option<&EvidencePace> {
    match &plan?.canary().pace {
        Pace::Evidence(pace) => Some(pace),
        Pace::Steps(_) => None,
    }
}
