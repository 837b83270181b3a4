//! Validation of `spec.analysis.baseline`.

use super::problem::Problems;
use crate::analysis::AnalysisSpec;
use crate::rollout::RolloutSpec;

const PATH: &str = "spec.analysis.baseline";
const MAX_PODS: i32 = 1_000;

/// Maximum number of baseline pods. `None` if the canary is compared with all stable pods.
pub(super) fn baseline_pods(
    spec: &RolloutSpec,
    analysis: &AnalysisSpec,
    problems: &mut Problems,
) -> Option<u32> {
    let baseline = analysis.baseline.as_ref()?;
    let replicas = baseline.replicas;
    if !(1..=MAX_PODS).contains(&replicas) {
        problems.invalid(
            format!("{PATH}.replicas"),
            &replicas,
            "it must be from 1 to 1000",
            "use as many as the canary has pods, for example 2",
        );
    }
    let canary = spec.strategy.as_canary();
    let obstacle = if spec.strategy.blue_green.is_some() {
        Some((
            "with blue/green the two sides never have traffic at the same time",
            "remove baseline, or replace spec.strategy.blueGreen with canary",
        ))
    } else if canary.traffic_routing.is_none() {
        Some((
            "without a router the number of pods sets the traffic split",
            "add spec.strategy.canary.trafficRouting, or remove baseline",
        ))
    } else if canary.dynamic_stable_scale == Some(true) {
        Some((
            "with dynamicStableScale stable shrinks, and its youngest pods end first",
            "remove spec.strategy.canary.dynamicStableScale, or remove baseline",
        ))
    } else if spec.observes() {
        Some((
            "with spec.mode Observe no pods are created",
            "remove baseline",
        ))
    } else {
        None
    };
    if let Some((problem, fix)) = obstacle {
        problems.invalid(PATH, baseline, problem, fix);
    }
    let objectives = analysis.objectives.iter().enumerate();
    for (index, objective) in objectives.filter(|(_, objective)| !objective.distinguishes_pods()) {
        let path = format!("spec.analysis.objectives[{index}]");
        let problem = "it does not distinguish pods, and the baseline pods are behind the same \
                       Service as all other stable pods";
        let fix = "use the indicator pod, or counters with variants.podLabel, or remove \
                   spec.analysis.baseline";
        match (&objective.indicator, &objective.counters) {
            (Some(indicator), _) => {
                problems.invalid(format!("{path}.indicator"), indicator, problem, fix);
            }
            (None, counters) => {
                let variants = counters.as_ref().map(|counters| &counters.variants);
                problems.invalid(format!("{path}.counters.variants"), &variants, problem, fix);
            }
        }
    }
    u32::try_from(replicas).ok()
}
