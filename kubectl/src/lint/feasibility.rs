//! Objectives that a service's traffic cannot prove in time.

use serde_json::Value;
use serin_analysis::feasibility::FeasibilityInput;
use serin_core::baseline::compared_part_of_stable;
use serin_core::plan::{CanaryScale, Pace};
use serin_core::units::Weight;
use serin_crds::RolloutSpec;
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::settings::Settings;

use crate::cli::TrafficArgs;

/// Placeholder for a missing Prometheus address; no query is sent.
const UNUSED_PROMETHEUS: &str = "http://unused.invalid";

/// The weight at which a Rollout with steps is assumed to compare.
const DEFAULT_WEIGHT: Weight = Weight::percent(50);

/// A sentence for each objective of a valid Rollout that cannot be evaluated in time with the given
/// traffic. Empty if its traffic is not given.
pub fn infeasible_objectives(rollout: &Value, traffic: &TrafficArgs) -> Vec<String> {
    let name = rollout["metadata"]["name"].as_str().unwrap_or_default();
    let Some(rate) = traffic.rates.iter().find(|rate| rate.name == name) else {
        return Vec::new();
    };
    let Ok(spec) = serde_json::from_value::<RolloutSpec>(rollout["spec"].clone()) else {
        return Vec::new();
    };
    let (Ok(plan), Some(analysis)) = (spec.plan(name), spec.analysis.as_ref()) else {
        return Vec::new();
    };
    if plan.is_blue_green() {
        // Objectives are judged against the record of the service, which needs no traffic on a side.
        return Vec::new();
    }
    let pace = match &plan.canary().pace {
        Pace::Evidence(pace) => Some(pace),
        Pace::Steps(_) => None,
    };
    let settings = Settings::new(analysis, pace, Server::with_url(UNUSED_PROMETHEUS));
    let Ok(settings) = settings else {
        return Vec::new();
    };
    let max_weight = pace.map_or(DEFAULT_WEIGHT, |pace| pace.max_weight);
    let stable_rate = traffic.error_rate.map_or(0.0, |rate| rate.0);
    let usual_rate = traffic.error_rate.map(|rate| rate.0.clamp(1e-6, 0.99));
    let mut sentences = Vec::new();
    for objective in &analysis.objectives {
        let budget = 1.0 - objective.objective / 100.0;
        let evidence = settings.objective(objective, usual_rate, true).evidence;
        let input = FeasibilityInput {
            target: objective.objective / 100.0,
            margin_of_budget: evidence.delta1 / budget,
            stable_rate,
            requests_per_second: rate.per_second,
            max_weight: settings.analysis.steps.max_weight,
            compared_stable: compared_part_of_stable(
                &plan,
                CanaryScale::MatchTrafficWeight,
                max_weight,
            ),
            beta: settings.analysis.beta,
            max_duration_seconds: settings.max_duration.as_secs_f64(),
            allotment: None,
        };
        let message = input.slow_message();
        sentences.extend(message.map(|message| format!("objective {}: {message}", objective.name)));
    }
    sentences
}
