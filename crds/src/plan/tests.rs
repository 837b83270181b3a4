use std::time::Duration;

use serde_json::{Value, json};
use serin_core::plan::{Amount, CanaryScale, EvidencePace, Pace, Plan, Step};
use serin_core::units::Weight;

use super::*;

/// A Rollout without a router or analysis, with `change` merged into its spec.
fn spec(change: Value) -> RolloutSpec {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "shop"}},
        "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "shop", "image": "shop:v1"}]}},
        "strategy": {"canary": {}},
    });
    merge(&mut spec, change);
    serde_json::from_value(spec).unwrap()
}

/// A Rollout with a router and an analysis.
fn routed(change: Value) -> RolloutSpec {
    let mut full = json!({
        "strategy": {"canary": {"trafficRouting": {"gatewayAPI": {"httpRoute": "shop"}}}},
        "analysis": {"objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}]},
    });
    merge(&mut full, change);
    spec(full)
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn plan(spec: &RolloutSpec) -> Plan {
    spec.plan("shop").unwrap()
}

/// Paths of the invalid fields.
fn invalid_paths(spec: &RolloutSpec) -> Vec<String> {
    let errors = spec.plan("shop").unwrap_err();
    errors.iter().map(|error| error.path.clone()).collect()
}

#[test]
fn defaults_match_the_documentation() {
    let plan = plan(&routed(json!({})));
    let canary = plan.canary();
    let routing = plan.routing().unwrap();
    assert_eq!(
        (
            plan.replicas,
            plan.revision_history_limit,
            plan.rollback_window,
            plan.paused
        ),
        (1, 10, 0, false)
    );
    assert_eq!(plan.progress_deadline, Duration::from_mins(10));
    assert_eq!(
        (canary.max_surge, canary.max_unavailable),
        (Amount::Percent(25), Amount::Percent(25))
    );
    assert_eq!(canary.scale_down_delay, Duration::from_secs(30));
    assert_eq!(canary.abort_scale_down_delay, Duration::from_secs(30));
    assert_eq!(
        (canary.dynamic_stable_scale, canary.pod_restart_limit),
        (false, 2)
    );
    assert_eq!(
        (
            routing.stable_service().as_str(),
            routing.canary_service().as_str()
        ),
        ("shop", "shop-canary")
    );
    assert_eq!(
        (routing.settle, routing.unverified_after),
        (Duration::from_secs(2), Duration::from_secs(10))
    );
    assert_eq!(
        canary.analysis.as_ref().unwrap().max_duration,
        Duration::from_hours(1)
    );
    let pace = EvidencePace {
        first_weight: Weight::percent(5),
        max_weight: Weight::percent(50),
    };
    assert_eq!(canary.pace, Pace::Evidence(pace));
}

#[test]
fn without_router_or_analysis_there_are_no_steps() {
    assert_eq!(plan(&spec(json!({}))).canary().pace, Pace::Steps(vec![]));
    assert_eq!(plan(&spec(json!({}))).routing(), None);
    let steps_win = routed(json!({"strategy": {"canary": {"steps": []}}}));
    assert_eq!(plan(&steps_win).canary().pace, Pace::Steps(vec![]));
}

#[test]
fn without_router_both_services_or_none_are_named() {
    let services = |services: serde_json::Value| spec(json!({"strategy": {"canary": services}}));
    let both = json!({"stableService": "shop-stable", "canaryService": "shop-preview"});
    let planned = plan(&services(both.clone()));
    let bound = planned.services().unwrap();
    assert_eq!(bound.stable_service(), "shop-stable");
    assert_eq!(bound.canary_service(), "shop-preview");
    assert!(planned.routing().is_none() && bound.routes.is_empty());
    assert_eq!(services(both).routing("shop").as_ref(), Some(bound));
    for (set, missing) in [
        ("stableService", "canaryService"),
        ("canaryService", "stableService"),
    ] {
        let error = services(json!({set: "shop"}))
            .plan("shop")
            .unwrap_err()
            .to_string();
        let field = format!("spec.strategy.canary.{missing}: Required value");
        assert!(
            error.contains(&field) && error.contains(&format!("remove {set}")),
            "{error}"
        );
    }
    assert_eq!(plan(&spec(json!({}))).services(), None);
}

#[test]
fn steps_are_converted() {
    let steps = json!([
        {"setCanaryScale": {"replicas": 2}},
        {"setWeight": 0.125},
        {"pause": {"duration": 10}},
        {"pause": {"duration": "10"}},
        {"pause": {"duration": "1h30m"}},
        {"pause": {}},
        {"setCanaryScale": {"matchTrafficWeight": true}},
        {"analysis": {}},
        {"analysis": {"duration": "5m"}},
    ]);
    let plan = plan(&routed(json!({"strategy": {"canary": {"steps": steps}}})));
    let wait = |seconds| Step::Pause(Some(Duration::from_secs(seconds)));
    let expected = [
        Step::SetCanaryScale(CanaryScale::Replicas(2)),
        Step::SetWeight(Weight::from_thousandths(125)),
        wait(10),
        wait(10),
        wait(5_400),
        Step::Pause(None),
        Step::SetCanaryScale(CanaryScale::MatchTrafficWeight),
        Step::Analysis(None),
        Step::Analysis(Some(Duration::from_mins(5))),
    ];
    assert_eq!(plan.steps(), expected);
}

/// Asserts that each change of a valid Rollout makes exactly this field invalid.
fn assert_invalid_paths<const N: usize>(table: [(Value, String); N]) {
    for (change, path) in table {
        assert_eq!(invalid_paths(&routed(change.clone())), [path], "{change}");
    }
}

#[test]
fn each_invalid_field_of_the_spec_is_reported() {
    assert_invalid_paths([
        (json!({"replicas": -1}), "spec.replicas".to_owned()),
        (
            json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
            "spec.progressDeadlineSeconds".into(),
        ),
        (
            json!({"selector": {"matchLabels": {"app": "other"}}}),
            "spec.template.metadata.labels[app]".into(),
        ),
        (
            json!({"selector": {"matchLabels": {"tier": "web"}}}),
            "spec.template.metadata.labels[tier]".into(),
        ),
        (
            json!({"selector": {"matchLabels": null}}),
            "spec.selector".into(),
        ),
        (
            json!({"template": {"metadata": {"labels": {"serin.dev/revision": "x"}}}}),
            "spec.template.metadata.labels[serin.dev/revision]".into(),
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]}}),
            "spec.selector.matchExpressions[0]".into(),
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["x"]}]}}),
            "spec.selector.matchExpressions[0].values".into(),
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "app", "operator": "Is"}]}}),
            "spec.selector.matchExpressions[0].operator".into(),
        ),
    ]);
}

#[test]
fn each_invalid_field_of_the_strategy_is_reported() {
    let canary = |canary: Value| json!({"strategy": {"canary": canary}});
    let at = "spec.strategy.canary";
    assert_invalid_paths([
        (
            canary(json!({"maxSurge": "a lot"})),
            format!("{at}.maxSurge"),
        ),
        (canary(json!({"maxSurge": "2"})), format!("{at}.maxSurge")),
        (
            canary(json!({"maxUnavailable": "101%"})),
            format!("{at}.maxUnavailable"),
        ),
        (
            canary(json!({"maxSurge": 0, "maxUnavailable": "0%"})),
            format!("{at}.maxUnavailable"),
        ),
        (
            canary(json!({"podRestartLimit": 0})),
            format!("{at}.podRestartLimit"),
        ),
        (
            canary(json!({"canaryService": "shop"})),
            format!("{at}.canaryService"),
        ),
        (
            canary(json!({"stableService": "Shop"})),
            format!("{at}.stableService"),
        ),
        (
            canary(json!({"trafficRouting": {"settle": "11m"}})),
            format!("{at}.trafficRouting.settle"),
        ),
        (
            canary(json!({"trafficRouting": {"gatewayAPI": {"httpRoute": "a b"}}})),
            format!("{at}.trafficRouting.gatewayAPI.httpRoute"),
        ),
        (
            canary(json!({"trafficRouting": {"gatewayAPI": {"httpRoutes": [{"name": "a"}]}}})),
            format!("{at}.trafficRouting.gatewayAPI.httpRoute"),
        ),
        (
            canary(
                json!({"trafficRouting": {"gatewayAPI": {"httpRoute": null, "httpRoutes": [{"name": "a"}, {"name": "a", "rule": "r"}]}}}),
            ),
            format!("{at}.trafficRouting.gatewayAPI.httpRoutes[1]"),
        ),
        (
            canary(json!({"pace": {"firstWeight": 60}})),
            format!("{at}.pace.firstWeight"),
        ),
        (
            canary(json!({"pace": {"maxWeight": 100}})),
            format!("{at}.pace.maxWeight"),
        ),
        (
            canary(json!({"pace": {}, "steps": []})),
            format!("{at}.pace"),
        ),
    ]);
}

#[test]
fn each_invalid_step_is_reported() {
    let canary = |canary: Value| json!({"strategy": {"canary": canary}});
    let step = |step: Value| json!({"strategy": {"canary": {"steps": [{"setWeight": 10}, step]}}});
    let at = "spec.strategy.canary";
    assert_invalid_paths([
        (step(json!({})), format!("{at}.steps[1]")),
        (
            step(json!({"setWeight": 20, "pause": {}})),
            format!("{at}.steps[1]"),
        ),
        (
            step(json!({"setWeight": 120})),
            format!("{at}.steps[1].setWeight"),
        ),
        (
            step(json!({"setWeight": 0.0001})),
            format!("{at}.steps[1].setWeight"),
        ),
        (
            step(json!({"pause": {"duration": "soon"}})),
            format!("{at}.steps[1].pause.duration"),
        ),
        (
            step(json!({"pause": {"duration": -5}})),
            format!("{at}.steps[1].pause.duration"),
        ),
        (
            step(json!({"pause": {"duration": "0s"}})),
            format!("{at}.steps[1].pause.duration"),
        ),
        (
            step(json!({"setCanaryScale": {"matchTrafficWeight": false}})),
            format!("{at}.steps[1].setCanaryScale"),
        ),
        (
            step(json!({"setCanaryScale": {"replicas": 0}})),
            format!("{at}.steps[1].setCanaryScale"),
        ),
        (
            canary(json!({"steps": [{"setCanaryScale": {"replicas": 0}}, {"setWeight": 5}]})),
            format!("{at}.steps[1].setWeight"),
        ),
        (
            canary(json!({"steps": [{"analysis": {}}]})),
            format!("{at}.steps[0].analysis"),
        ),
        (
            canary(json!({"steps": [{"setWeight": 100}, {"analysis": {}}]})),
            format!("{at}.steps[1].analysis"),
        ),
    ]);
}

#[test]
fn each_invalid_field_of_the_analysis_is_reported() {
    let analysis = |analysis: Value| json!({"analysis": analysis});
    assert_invalid_paths([
        (
            analysis(json!({"maxDuration": "0s"})),
            "spec.analysis.maxDuration".into(),
        ),
        (
            analysis(json!({"objectives": []})),
            "spec.analysis.objectives".into(),
        ),
        (
            analysis(json!({"prometheus": {"address": "prometheus:9090"}})),
            "spec.analysis.prometheus.address".into(),
        ),
        (
            analysis(json!({"prometheus": {"address": "http://me:secret@prometheus:9090"}})),
            "spec.analysis.prometheus.address".into(),
        ),
        (
            analysis(json!({"prometheus": {"scrapeInterval": "2h"}})),
            "spec.analysis.prometheus.scrapeInterval".into(),
        ),
        (
            analysis(json!({"rollback": {"falseRollbackProbability": 0.5}})),
            "spec.analysis.rollback.falseRollbackProbability".into(),
        ),
        (
            analysis(json!({"budget": {"maxShareOfBudget": "2"}})),
            "spec.analysis.budget.maxShareOfBudget".into(),
        ),
        (
            analysis(json!({"budget": {"maxShareOfRemaining": "0%"}})),
            "spec.analysis.budget.maxShareOfRemaining".into(),
        ),
    ]);
}

#[test]
fn an_analysis_that_does_not_fit_into_the_status_of_a_release_is_refused() {
    let checks = |count: usize| -> Vec<Value> {
        let check = |index: usize| {
            json!({
                "name": format!("check-{index}"), "query": "up", "condition": "result[0] > 0.0",
                "args": [{"name": "long", "value": "x".repeat(10_000)}],
            })
        };
        (0..count).map(check).collect()
    };
    let errors = |count: usize| {
        let errors = routed(json!({"analysis": {"checks": checks(count)}})).plan("shop");
        errors.map_or_else(|errors| errors.to_string(), |_| String::new())
    };
    assert!(!errors(12).contains("bytes of JSON"), "{}", errors(12));
    assert!(
        errors(14).contains(
            "spec.analysis: Invalid value: \"more than 131072 bytes of JSON\": it does not fit"
        ),
        "{}",
        errors(14)
    );
}

#[test]
fn each_invalid_field_of_an_objective_is_reported() {
    let objective = |change: Value| {
        let mut objective = json!({"name": "a", "objective": 99, "indicator": "traefik"});
        merge(&mut objective, change);
        json!({"analysis": {"objectives": [objective]}})
    };
    let counters = |counters: Value| json!({"analysis": {"objectives": [{"name": "a", "objective": 99, "counters": counters}]}});
    assert_invalid_paths([
        (
            objective(json!({"objective": 100})),
            "spec.analysis.objectives[0].objective".into(),
        ),
        (
            objective(json!({"objective": 0})),
            "spec.analysis.objectives[0].objective".into(),
        ),
        (
            objective(json!({"window": "30"})),
            "spec.analysis.objectives[0].window".into(),
        ),
        (
            objective(json!({"indicator": null})),
            "spec.analysis.objectives[0].indicator".into(),
        ),
        (
            counters(json!({"total": "rate(a[1m])", "errors": "b"})),
            "spec.analysis.objectives[0].counters.total".into(),
        ),
        (
            counters(json!({"total": "a", "errors": "b{c=\"d\"}[5m]"})),
            "spec.analysis.objectives[0].counters.errors".into(),
        ),
        (
            counters(json!({"total": "a", "errors": "a"})),
            "spec.analysis.objectives[0].counters.errors".into(),
        ),
        (
            counters(json!({"total": "a", "errors": "b", "variants": {"label": "v"}})),
            "spec.analysis.objectives[0].counters.variants".into(),
        ),
        (
            counters(json!({"total": "a", "errors": "b", "variants": {"podLabel": "a-b"}})),
            "spec.analysis.objectives[0].counters.variants.podLabel".into(),
        ),
        (
            counters(json!({"total": "a"})),
            "spec.analysis.objectives[0].counters.errors".into(),
        ),
        (
            objective(json!({"latency": {"threshold": "2h"}})),
            "spec.analysis.objectives[0].latency.threshold".into(),
        ),
        (
            objective(
                json!({"latency": {"threshold": "1s"}, "indicator": null, "counters": {"total": "a"}}),
            ),
            "spec.analysis.objectives[0].counters.total".into(),
        ),
        (
            objective(json!({
                "latency": {"threshold": "1s"}, "indicator": null,
                "counters": {"total": "a_seconds_count{b=\"c\"}", "errors": "b"},
            })),
            "spec.analysis.objectives[0].counters.errors".into(),
        ),
    ]);
}

fn with_baseline(objective: Value, canary: Value) -> RolloutSpec {
    routed(json!({
        "analysis": {"baseline": {"replicas": 2}, "objectives": [objective]},
        "strategy": {"canary": canary},
    }))
}

#[test]
fn a_baseline_needs_series_that_distinguish_pods() {
    let counters = |variants: Value| json!({"name": "a", "objective": 99, "counters": {"total": "a", "errors": "b", "variants": variants}});
    let pod = json!({"name": "a", "objective": 99, "indicator": "pod"});
    let by_label = json!({"label": "app", "canary": "a", "stable": "b"});
    for accepted in [
        pod,
        counters(Value::Null),
        counters(json!({"podLabel": "kubernetes_pod"})),
    ] {
        let spec = with_baseline(accepted, json!({}));
        let analysis = plan(&spec).canary().analysis.clone().unwrap();
        assert_eq!(analysis.baseline_pods, Some(2));
    }
    for (refused, path) in [
        (
            json!({"name": "a", "objective": 99, "indicator": "traefik"}),
            "indicator",
        ),
        (counters(by_label), "counters.variants"),
    ] {
        let errors = with_baseline(refused, json!({}))
            .plan("shop")
            .unwrap_err()
            .to_string();
        let expected = format!("spec.analysis.objectives[0].{path}: Invalid value: ");
        assert!(
            errors.starts_with(&expected)
                && errors.contains("does not distinguish pods")
                && errors.contains("use the indicator pod"),
            "{errors}"
        );
    }
}

#[test]
fn a_baseline_needs_a_router_and_a_stable_side_that_does_not_shrink() {
    let pod = json!({"name": "a", "objective": 99, "indicator": "pod"});
    for (canary, problem) in [
        (json!({"trafficRouting": null}), "without a router"),
        (json!({"dynamicStableScale": true}), "dynamicStableScale"),
    ] {
        let errors = with_baseline(pod.clone(), canary)
            .plan("shop")
            .unwrap_err()
            .to_string();
        assert!(
            errors.starts_with("spec.analysis.baseline: Invalid value: {\"replicas\":2}: ")
                && errors.contains(problem)
                && errors.contains("remove baseline"),
            "{errors}"
        );
    }
    let mut none = with_baseline(pod, json!({}));
    let baseline = none.analysis.as_mut().unwrap().baseline.as_mut().unwrap();
    baseline.replicas = 0;
    assert_eq!(invalid_paths(&none), ["spec.analysis.baseline.replicas"]);
}

fn calibrated(objective: Value, analysis: Value) -> RolloutSpec {
    let mut calibrated = json!({"name": "a", "objective": 99, "indicator": "pod",
        "calibration": {"temper": 2.5, "hours": 99}});
    merge(&mut calibrated, objective);
    let mut change = json!({"analysis": {"objectives": [calibrated]}});
    merge(&mut change["analysis"], analysis);
    routed(change)
}

#[test]
fn a_calibration_needs_as_many_hours_as_its_bound() {
    let is_valid = |objective, analysis| calibrated(objective, analysis).plan("shop").is_ok();
    assert!(is_valid(json!({}), json!({})));
    let calibration = |temper, hours| json!({"calibration": {"temper": temper, "hours": hours}});
    let at = "spec.analysis.objectives[0].calibration";
    let few = calibrated(calibration(2.5, 98), json!({}));
    assert_eq!(invalid_paths(&few), [format!("{at}.hours")]);
    let errors = few.plan("shop").unwrap_err().to_string();
    assert!(
        errors.contains("at least 99 placebo hours") && errors.contains("--hours 99"),
        "{errors}"
    );
    let likely = json!({"rollback": {"falseRollbackProbability": 0.05}});
    assert!(is_valid(calibration(2.5, 19), likely));
    let cold = calibrated(calibration(0.5, 99), json!({}));
    assert_eq!(invalid_paths(&cold), [format!("{at}.temper")]);
}

#[test]
fn a_calibration_excludes_what_placebo_releases_do_not_have() {
    let at = "spec.analysis.objectives[0].calibration";
    for (objective, analysis) in [
        (json!({"indicator": "traefik"}), json!({})),
        (json!({"endpointLabel": "route"}), json!({})),
        (json!({}), json!({"baseline": {"replicas": 1}})),
    ] {
        let spec = calibrated(objective.clone(), analysis);
        assert_eq!(invalid_paths(&spec), [at], "{objective}");
    }
}

#[test]
fn a_latency_objective_counts_requests() {
    let spec = routed(json!({"analysis": {"objectives": [{
        "name": "a", "objective": 99, "latency": {"threshold": "1s"},
        "counters": {"total": "http_request_duration_seconds_count", "unit": "Client"},
    }]}}));
    assert_eq!(
        invalid_paths(&spec),
        ["spec.analysis.objectives[0].counters.unit"]
    );
}

#[test]
fn objectives_whose_state_may_not_fit_into_the_status_are_refused() {
    let spec = |with_endpoints: usize| {
        let objective = |index: usize| {
            let mut objective = json!({
                "name": format!("latency-{index}"), "objective": 99, "indicator": "pod",
                "latency": {"threshold": "1s", "guard": "Hold"},
            });
            if index < with_endpoints {
                objective["endpointLabel"] = json!("route");
            }
            objective
        };
        let objectives: Vec<_> = (0..8).map(objective).collect();
        routed(json!({"analysis": {"objectives": objectives}}))
    };
    assert!(spec(2).plan("shop").is_ok());
    assert_eq!(
        spec(3).plan("shop").unwrap_err().to_string(),
        "spec.analysis.objectives: Invalid value: \"8 objectives, 8 with latency.guard, 3 with \
         endpointLabel\": their state can have 266 KiB, more than the 256 KiB that fit into the \
         status; use fewer objectives, or remove endpointLabel or latency.guard from some of them"
    );
}

#[test]
fn the_pod_indicator_needs_no_router_and_latency_needs_no_errors() {
    let analysis =
        |objective: Value| spec(json!({"analysis": {"objectives": [objective]}})).plan("shop");
    assert!(analysis(json!({"name": "a", "objective": 99, "indicator": "pod"})).is_ok());
    let latency = json!({"threshold": "300ms"});
    assert!(
        analysis(json!({"name": "a", "objective": 99, "indicator": "pod", "latency": latency}))
            .is_ok()
    );
    let counters = json!({"total": "http_request_duration_seconds_count{app=\"shop\"}"});
    assert!(
        analysis(json!({"name": "a", "objective": 99, "counters": counters, "latency": latency}))
            .is_ok()
    );
}

#[test]
fn fields_that_need_a_router_or_an_analysis_are_rejected_without_one() {
    let at = "spec.strategy.canary";
    let table = [
        (
            json!({"strategy": {"canary": {"stableService": "a"}}}),
            vec![format!("{at}.canaryService")],
        ),
        (
            json!({"strategy": {"canary": {"dynamicStableScale": true}}}),
            vec![format!("{at}.dynamicStableScale")],
        ),
        (
            json!({"strategy": {"canary": {"minPodsPerReplicaSet": 2}}}),
            vec![format!("{at}.minPodsPerReplicaSet")],
        ),
        (
            json!({"strategy": {"canary": {"pace": {}}}}),
            vec!["spec.analysis".to_owned(), format!("{at}.trafficRouting")],
        ),
        (
            json!({"strategy": {"canary": {"steps": [{"setWeight": 5}, {"analysis": {}}]}}}),
            vec!["spec.analysis".to_owned()],
        ),
        (
            json!({"strategy": {"canary": {"steps": [{"setCanaryScale": {"weight": 10}}]}}}),
            vec![format!("{at}.steps[0].setCanaryScale")],
        ),
        (
            json!({"analysis": {"objectives": [{"name": "a", "objective": 99, "indicator": "traefik"}]}}),
            vec!["spec.analysis.objectives[0].indicator".to_owned()],
        ),
    ];
    for (change, paths) in table {
        assert_eq!(invalid_paths(&spec(change.clone())), paths, "{change}");
    }
}

#[test]
fn a_limit_of_what_a_release_waits_for_is_a_number_of_pods_above_zero() {
    let canary =
        |field: &str, value: &Value| routed(json!({"strategy": {"canary": {field: value}}}));
    for value in [
        json!(0),
        json!("0%"),
        json!("101%"),
        json!(-1),
        json!("5"),
        json!("5.5%"),
    ] {
        assert_eq!(
            invalid_paths(&canary("replicaProgressThreshold", &value)),
            ["spec.strategy.canary.replicaProgressThreshold"],
            "{value}"
        );
    }
    for value in [json!(0), json!(-2)] {
        assert_eq!(
            invalid_paths(&canary("minPodsPerReplicaSet", &value)),
            ["spec.strategy.canary.minPodsPerReplicaSet"],
            "{value}"
        );
    }
    let plan_of = |field: &str, value: &Value| canary(field, value).plan("shop").unwrap();
    let none = routed(json!({})).plan("shop").unwrap();
    assert_eq!(plan_of("replicaProgressThreshold", &json!("100%")), none);
    assert_eq!(plan_of("minPodsPerReplicaSet", &json!(1)), none);
    assert_eq!(
        plan_of("replicaProgressThreshold", &json!("95%"))
            .canary()
            .replica_progress_threshold,
        Some(Amount::Percent(95))
    );
    assert_eq!(
        plan_of("minPodsPerReplicaSet", &json!(2))
            .canary()
            .min_pods_per_replica_set,
        2
    );
}

#[test]
fn an_anti_affinity_is_required_or_preferred_with_a_weight() {
    let anti_affinity =
        |value: Value| routed(json!({"strategy": {"canary": {"antiAffinity": value}}}));
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {}});
    let preferred = |weight: i32| json!({"preferredDuringSchedulingIgnoredDuringExecution": {"weight": weight}});
    let at = "spec.strategy.canary.antiAffinity";
    let weight = format!("{at}.preferredDuringSchedulingIgnoredDuringExecution.weight");
    for valid in [required.clone(), preferred(1), preferred(100)] {
        assert!(anti_affinity(valid).plan("shop").is_ok());
    }
    let mut both = required.clone();
    merge(&mut both, preferred(5));
    for (invalid, path) in [
        (json!({}), at),
        (both, at),
        (preferred(0), weight.as_str()),
        (preferred(101), weight.as_str()),
    ] {
        assert_eq!(invalid_paths(&anti_affinity(invalid)), [path]);
    }
    let mut adopting = anti_affinity(required);
    adopting.adopt = serde_json::from_value(json!({"deployment": "shop"})).unwrap();
    assert_eq!(invalid_paths(&adopting), [at]);
}

#[test]
fn all_problems_are_reported_at_once_in_the_format_of_the_api_server() {
    let spec =
        spec(json!({"replicas": -1, "strategy": {"canary": {"steps": [{"setWeight": 120}]}}}));
    assert_eq!(
        spec.plan("shop").unwrap_err().to_string(),
        "[spec.replicas: Invalid value: -1: it must be greater than or equal to 0; use 0 or more, \
         spec.strategy.canary.steps[0].setWeight: Invalid value: 120.0: it is not a share of traffic; \
         use a percentage from 0 to 100 with at most three decimals]"
    );
}

#[test]
fn a_rollout_name_that_is_no_service_name_requires_explicit_names() {
    let errors = routed(json!({})).plan("shop.v2").unwrap_err().to_string();
    assert!(
        errors.contains("spec.strategy.canary.stableService: Required value"),
        "{errors}"
    );
    let named =
        json!({"strategy": {"canary": {"stableService": "shop", "canaryService": "shop-canary"}}});
    assert!(routed(named).plan("shop.v2").is_ok());
    let errors = spec(json!({}))
        .plan(&"x".repeat(64))
        .unwrap_err()
        .to_string();
    assert!(
        errors.starts_with("metadata.name: Invalid value"),
        "{errors}"
    );
}

#[test]
fn a_duplicate_objective_name_is_rejected() {
    let objective = json!({"name": "a", "objective": 99, "indicator": "traefik"});
    let spec = routed(json!({"analysis": {"objectives": [objective.clone(), objective]}}));
    assert_eq!(invalid_paths(&spec), ["spec.analysis.objectives[1].name"]);
}

#[test]
fn equal_plans_have_equal_hashes_after_the_api_server_has_stored_them() {
    let plan = plan(&routed(
        json!({"strategy": {"canary": {"steps": [{"setWeight": 20}, {"pause": {"duration": "5m"}}]}}}),
    ));
    // The API server writes 20.0 as 20.
    let stored = serde_json::to_string(&plan).unwrap().replace("20.0", "20");
    let read: Plan = serde_json::from_str(&stored).unwrap();
    assert_eq!(plan_hash(&read), plan_hash(&plan));
    // If this hash changes, an upgrade restarts the steps of every active release.
    assert_eq!(plan_hash(&plan), "332097516c");
    let other = Plan {
        replicas: 2,
        ..plan.clone()
    };
    assert_ne!(plan_hash(&other), plan_hash(&plan));
}

// argo-rollouts #3258: a check that starts when the release is already inconclusive would never be
// queried.
#[test]
fn an_initial_delay_ends_before_the_release_is_inconclusive() {
    let spec_with = |check: Value, max_duration: &str| {
        let mut written = json!({"name": "queue", "query": "1", "condition": "result[0] < 5"});
        merge(&mut written, check);
        routed(
            json!({"strategy": {"canary": {"steps": [{"setWeight": 20}, {"pause": {}}]}},
            "analysis": {"maxDuration": max_duration, "bakeTime": "10m", "checks": [written]}}),
        )
    };
    plan(&spec_with(json!({"initialDelay": "2m"}), "30m"));
    plan(&spec_with(
        json!({"initialDelay": "2h", "phase": "bake"}),
        "30m",
    ));
    let path = "spec.analysis.checks[0].initialDelay";
    assert_eq!(
        invalid_paths(&spec_with(json!({"initialDelay": "30m"}), "30m")),
        [path]
    );
    assert_eq!(
        invalid_paths(&spec_with(json!({"initialDelay": "2d"}), "3d")),
        [path]
    );
}
