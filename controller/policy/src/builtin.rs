//! The built-in defaults, for display: what the plan uses for fields that are still unset.

use serde_json::{Value, json};
use serin_crds::RolloutSpec;

use crate::document::{CHECKS, Fields, OBJECTIVES, document_of, entry_name, object, spec_with};
use crate::merge::{fill, put_entries, remove_unfitting, take_entries};
use crate::source::{Origins, Source};

/// Fills the built-in defaults of the strategy, the analysis and the deadlines into an effective
/// spec, and records them in `origins`. The plan of the result is that of the spec.
///
/// # Errors
/// The spec has a value of another type than the defaults, which no valid spec has.
pub fn fill_in_builtin_defaults(
    spec: &RolloutSpec,
    origins: &mut Origins,
) -> Result<RolloutSpec, serde_json::Error> {
    let mut document = document_of(spec);
    let mut defaults = object(defaults_for(spec));
    remove_unfitting(&mut defaults, &document);
    let objectives = take_entries(&mut document, OBJECTIVES);
    let checks = take_entries(&mut document, CHECKS);
    fill(&mut document, &defaults, "spec", &Source::BuiltIn, origins);
    let objectives = fill_each(OBJECTIVES, objectives, json!({"window": "30d"}), origins);
    put_entries(&mut document, OBJECTIVES, objectives);
    let of_checks = json!({
        "interval": "1m", "initialDelay": "0s", "failureLimit": 0, "phase": "release",
        "dryRun": false,
    });
    let checks = fill_each(CHECKS, checks, of_checks, origins);
    put_entries(&mut document, CHECKS, checks);
    spec_with(spec, document)
}

fn fill_each(
    list: &str,
    mut entries: Vec<Fields>,
    defaults: Value,
    origins: &mut Origins,
) -> Vec<Fields> {
    let defaults = object(defaults);
    for entry in &mut entries {
        let path = format!("spec.analysis.{list}[{}]", entry_name(entry));
        fill(entry, &defaults, &path, &Source::BuiltIn, origins);
    }
    entries
}

fn defaults_for(spec: &RolloutSpec) -> Value {
    let mut canary = json!({
        "scaleDownDelaySeconds": 30, "abortScaleDownDelaySeconds": 30, "podRestartLimit": 2,
        "dynamicStableScale": false, "trafficRouting": {"settle": "2s"},
    });
    let is_blue_green = spec.strategy.blue_green.is_some();
    let is_routed = spec.strategy.as_canary().traffic_routing.is_some();
    if !is_routed {
        canary["maxSurge"] = "25%".into();
        canary["maxUnavailable"] = "25%".into();
    }
    let analysis = spec.analysis.as_ref();
    if is_routed && analysis.is_some_and(|analysis| !analysis.objectives.is_empty()) {
        canary["pace"] = json!({"firstWeight": 5.0, "maxWeight": 50.0});
    }
    let strategy = if is_blue_green {
        json!({"blueGreen": {
            "autoPromotionEnabled": true, "scaleDownDelaySeconds": 30,
            "abortScaleDownDelaySeconds": 30, "podRestartLimit": 2, "maxUnavailable": "25%",
            "trafficRouting": {"settle": "2s"},
        }})
    } else {
        json!({"canary": canary})
    };
    let mut defaults = json!({
        "progressDeadlineSeconds": 600,
        "strategy": strategy,
    });
    if analysis.is_some() {
        defaults["analysis"] = json!({
            "maxDuration": "60m", "warmUp": "60s",
            "rollback": {"falseRollbackProbability": 0.01},
            "budget": {"maxShareOfBudget": "2%", "maxShareOfRemaining": "20%"},
            "onNoData": {"stepDownAfter": "5m"},
        });
    }
    defaults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_with_the_builtin_defaults_is_that_of_the_spec() {
        let router = json!({"trafficRouting": {"gatewayAPI": {"httpRoute": "shop"}}});
        let objective = json!({"name": "a", "objective": 99.9, "indicator": "pod"});
        let check = json!({"name": "c", "query": "sum(errors)", "condition": "result[0] < 1.0"});
        let steps = json!({"steps": [{"setWeight": 20}]});
        let cases = [
            (json!({}), Value::Null),
            (steps.clone(), json!({"checks": [check]})),
            (router.clone(), json!({"objectives": [objective]})),
            (router, Value::Null),
        ];
        let of_canary = cases.map(|(canary, analysis)| (json!({"canary": canary}), analysis));
        let blue_green = |router: Value| {
            let mut spec = json!({"activeService": "shop"});
            spec["trafficRouting"] = router;
            json!({"blueGreen": spec})
        };
        let gateway = json!({"gatewayAPI": {"httpRoute": "shop"}});
        let of_blue_green = [
            (blue_green(Value::Null), Value::Null),
            (blue_green(gateway), Value::Null),
        ];
        for (strategy, analysis) in of_canary.into_iter().chain(of_blue_green) {
            let mut spec = json!({
                "workloadRef": {"kind": "Deployment", "name": "shop"},
                "strategy": strategy,
            });
            if !analysis.is_null() {
                spec["analysis"] = analysis;
            }
            let spec: RolloutSpec = serde_json::from_value(spec).unwrap();
            let mut origins = Origins::new();
            let filled = fill_in_builtin_defaults(&spec, &mut origins).unwrap();
            assert_eq!(filled.plan("shop").unwrap(), spec.plan("shop").unwrap());
            assert_eq!(origins["spec.progressDeadlineSeconds"], Source::BuiltIn);
            // Nothing is filled in twice.
            assert_eq!(
                fill_in_builtin_defaults(&filled, &mut origins).unwrap(),
                filled
            );
        }
    }
}
