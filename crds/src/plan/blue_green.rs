//! Validation of the blue/green strategy.

use std::time::Duration;

use serin_core::plan::{Canary, CanaryScale, Exposure, Pace, Requirements, Step};
use serin_core::units::Weight;

use super::canary;
use super::problem::Problems;
use super::values::non_negative;
use crate::rollout::RolloutSpec;
use crate::strategy::BlueGreenSpec;

const PATH: &str = "spec.strategy.blueGreen";

/// The names of the canary strategy in problems of the fields that both have, and those of
/// blue/green.
const RENAMED: [(&str, &str); 5] = [
    ("spec.strategy.canary", PATH),
    ("stableService", "activeService"),
    ("canaryService", "previewService"),
    ("the stable Service", "the active Service"),
    ("the canary Service", "the preview Service"),
];

/// How the traffic is switched.
pub(super) fn exposure(spec: &BlueGreenSpec, name: &str, problems: &mut Problems) -> Exposure {
    let mut own = Problems::default();
    let mut settings = spec.to_canary();
    let preview = settings.canary_service.take();
    settings.canary_service = Some(preview.unwrap_or_else(|| format!("{name}-preview")));
    let exposure = canary::exposure(&settings, name, &mut own);
    problems.append_renamed(own, &RENAMED);
    match exposure {
        Exposure::ReplicaRatioServices(services) => Exposure::Switch(services),
        exposure => exposure,
    }
}

/// The settings of a canary without weights, whose steps end when the switch is due.
pub(super) fn plan(
    spec: &RolloutSpec,
    blue_green: &BlueGreenSpec,
    is_routed: bool,
    problems: &mut Problems,
) -> Canary {
    let mut own = Problems::default();
    let mut plan = canary::canary(spec, is_routed, &mut own);
    problems.append_renamed(own, &RENAMED[..1]);
    let analysis = plan.analysis.as_ref();
    let checks = analysis.map(|analysis| analysis.checks.clone());
    let required = Requirements {
        checks: checks.unwrap_or_default(),
        ..Requirements::default()
    };
    let all_pods = Step::SetCanaryScale(CanaryScale::Weight(Weight::FULL));
    let preview = preview_pods(blue_green, problems);
    let mut steps = vec![preview.map_or(all_pods.clone(), |pods| {
        Step::SetCanaryScale(CanaryScale::Replicas(pods))
    })];
    if required != Requirements::default() {
        steps.push(Step::Require(required));
    }
    steps.extend(pause(blue_green, problems));
    if preview.is_some() {
        steps.push(all_pods);
    }
    plan.pace = Pace::Steps(steps);
    plan
}

fn preview_pods(spec: &BlueGreenSpec, problems: &mut Problems) -> Option<u32> {
    let path = format!("{PATH}.previewReplicaCount");
    let count = spec.preview_replica_count?;
    let pods = non_negative(&path, Some(count), 0, problems);
    if count == 0 {
        let problem = "a preview without pods cannot be tested";
        problems.invalid(path, &count, problem, "use 1 or more, or remove it");
    }
    Some(pods)
}

/// The wait before the switch. `None` if the switch follows at once.
fn pause(spec: &BlueGreenSpec, problems: &mut Problems) -> Option<Step> {
    let path = format!("{PATH}.autoPromotionSeconds");
    if let Some(seconds) = spec.auto_promotion_seconds {
        let duration = non_negative(&path, Some(seconds), 0, problems);
        if seconds == 0 {
            let fix = "use 1 or more, or remove it";
            problems.invalid(path, &seconds, "it would not wait", fix);
        }
        return Some(Step::Pause(Some(Duration::from_secs(duration.into()))));
    }
    (spec.auto_promotion_enabled == Some(false)).then_some(Step::Pause(None))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(blue_green: &Value, analysis: Option<Value>) -> RolloutSpec {
        let mut spec = json!({
            "replicas": 3,
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {
                "metadata": {"labels": {"app": "shop"}},
                "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]},
            },
            "strategy": {"blueGreen": blue_green},
        });
        if let Some(analysis) = analysis {
            spec["analysis"] = analysis;
        }
        serde_json::from_value(spec).unwrap()
    }

    fn steps(blue_green: &Value, analysis: Option<Value>) -> Vec<Step> {
        let plan = spec(blue_green, analysis).plan("shop").unwrap();
        assert!(plan.is_blue_green());
        plan.steps().to_vec()
    }

    fn all_pods() -> Step {
        Step::SetCanaryScale(CanaryScale::Weight(Weight::FULL))
    }

    #[test]
    fn without_a_router_the_active_service_is_switched() {
        let plan = spec(&json!({"activeService": "shop"}), None)
            .plan("shop")
            .unwrap();
        let Exposure::Switch(services) = &plan.exposure else {
            panic!("{:?}", plan.exposure);
        };
        assert_eq!(services.stable_service(), "shop");
        assert_eq!(services.canary_service(), "shop-preview");
        assert!(services.routes.is_empty() && plan.routing().is_none());
    }

    #[test]
    fn with_a_router_its_routes_are_switched() {
        let router = json!({"gatewayAPI": {"httpRoute": "shop"}});
        let blue_green =
            json!({"activeService": "a", "previewService": "b", "trafficRouting": router});
        let plan = spec(&blue_green, None).plan("shop").unwrap();
        let routing = plan.routing().unwrap();
        assert_eq!(
            (
                routing.stable_service().as_str(),
                routing.canary_service().as_str()
            ),
            ("a", "b")
        );
        assert_eq!(plan.steps(), [all_pods()]);
    }

    #[test]
    fn the_steps_end_when_the_switch_is_due() {
        let active = json!({"activeService": "shop"});
        assert_eq!(steps(&active, None), [all_pods()]);
        let manual = json!({"activeService": "shop", "autoPromotionEnabled": false, "previewReplicaCount": 1});
        let one = Step::SetCanaryScale(CanaryScale::Replicas(1));
        assert_eq!(steps(&manual, None), [one, Step::Pause(None), all_pods()]);
        let timed = json!({"activeService": "shop", "autoPromotionSeconds": 60});
        let minute = Step::Pause(Some(Duration::from_secs(60)));
        let check = json!({"name": "smoke", "query": "sum(up)", "condition": "result[0] > 0.0"});
        let checked = steps(&timed, Some(json!({"checks": [check]})));
        let required = Requirements {
            checks: ["smoke".to_owned()].into(),
            ..Requirements::default()
        };
        assert_eq!(checked, [all_pods(), Step::Require(required), minute]);
    }

    #[test]
    fn a_bake_after_the_switch_needs_no_router() {
        let objective = json!({"name": "a", "objective": 99.9, "indicator": "pod"});
        let analysis = json!({"objectives": [objective], "bakeTime": "10m"});
        let plan = spec(&json!({"activeService": "shop"}), Some(analysis))
            .plan("shop")
            .unwrap();
        assert_eq!(
            plan.bake().map(|bake| bake.duration),
            Some(Duration::from_mins(10))
        );
        assert_eq!(plan.steps(), [all_pods()], "objectives need traffic");
    }

    #[test]
    fn problems_name_the_fields_of_blue_green() {
        let problems = |blue_green: &Value, analysis: Option<Value>| {
            let problems = spec(blue_green, analysis).plan("shop").unwrap_err();
            problems.to_string()
        };
        let same = problems(&json!({"activeService": "a", "previewService": "a"}), None);
        assert!(same.contains("spec.strategy.blueGreen.previewService: Invalid value: \"a\": it is also the active Service"), "{same}");
        let empty = problems(
            &json!({"activeService": "a", "previewReplicaCount": 0, "autoPromotionSeconds": 0, "podRestartLimit": 0}),
            None,
        );
        for field in [
            "previewReplicaCount",
            "autoPromotionSeconds",
            "podRestartLimit",
        ] {
            assert!(
                empty.contains(&format!(
                    "spec.strategy.blueGreen.{field}: Invalid value: 0"
                )),
                "{empty}"
            );
        }
        let objective = json!({"name": "a", "objective": 99.9, "indicator": "traefik"});
        let routed = problems(
            &json!({"activeService": "a"}),
            Some(json!({"objectives": [objective]})),
        );
        assert!(
            routed.contains("add spec.strategy.blueGreen.trafficRouting"),
            "{routed}"
        );
    }

    #[test]
    fn exactly_one_strategy_is_required() {
        let mut neither = spec(&json!({"activeService": "shop"}), None);
        neither.strategy.blue_green = None;
        let problem = neither.plan("shop").unwrap_err().to_string();
        assert!(
            problem.starts_with("spec.strategy: Required value"),
            "{problem}"
        );
        let mut both = spec(&json!({"activeService": "shop"}), None);
        both.strategy.canary = Some(crate::strategy::CanarySpec::default());
        let problem = both.plan("shop").unwrap_err().to_string();
        assert!(
            problem.starts_with("spec.strategy.blueGreen: Invalid value"),
            "{problem}"
        );
    }
}
