//! Resolution of effective specs: precedence, defaults, references and problems.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

use proptest::prelude::*;
use serde_json::{Value, json};
use serin_crds::policy::FailurePolicy;
use serin_crds::{AnalysisTemplateSpec, RolloutPolicySpec, RolloutSpec};
use serin_policy::{
    AppliedPolicy, Defaults, Effective, Inputs, PolicyInput, ProblemKind, Source, Subject,
    TemplateInput, kept_defaults, resolve, validate,
};

fn rollout(canary: Value, analysis: Value) -> RolloutSpec {
    let mut spec = json!({
        "workloadRef": {"kind": "Deployment", "name": "shop"},
        "strategy": {"canary": canary},
    });
    if !analysis.is_null() {
        spec["analysis"] = analysis;
    }
    serde_json::from_value(spec).unwrap()
}

fn policy(spec: Value) -> RolloutPolicySpec {
    serde_json::from_value(spec).unwrap()
}

fn router() -> Value {
    json!({"trafficRouting": {"gatewayAPI": {"httpRoute": "shop"}}})
}

/// Resolves with policies and templates by name.
fn resolve_with(
    spec: &RolloutSpec,
    policies: &[(&str, RolloutPolicySpec)],
    templates: &[(&str, AnalysisTemplateSpec)],
) -> Effective {
    let inputs = Inputs {
        policies: policies
            .iter()
            .map(|(name, spec)| PolicyInput::new(name, spec))
            .collect(),
        templates: Ok(templates
            .iter()
            .map(|(name, spec)| TemplateInput {
                name,
                spec: Ok(spec),
            })
            .collect()),
    };
    let subject = Subject {
        namespace: "market",
        name: "shop",
        spec,
    };
    resolve(subject, &inputs, Defaults::Current)
}

fn problem_of(effective: &Effective) -> String {
    assert_eq!(effective.problems.len(), 1, "{:?}", effective.problems);
    effective.problems[0].to_string()
}

#[test]
fn the_rollout_comes_first_then_the_policies_by_precedence() {
    let spec = rollout(
        json!({"scaleDownDelaySeconds": 5}),
        json!({"warmUp": "10s", "objectives": [{"name": "a", "objective": 99.9, "indicator": "pod"}]}),
    );
    let low = policy(json!({"defaults": {
        "progressDeadlineSeconds": 300,
        "strategy": {"canary": {"scaleDownDelaySeconds": 60, "podRestartLimit": 5}},
        "analysis": {"warmUp": "5m", "maxDuration": "2h"},
    }}));
    let high = policy(json!({"precedence": 10, "defaults": {
        "strategy": {"canary": {"podRestartLimit": 3}},
        "analysis": {"budget": {"maxShareOfBudget": "1%"}},
    }}));
    let effective = resolve_with(&spec, &[("low", low), ("high", high)], &[]);
    assert_eq!(effective.problems, []);
    let canary = effective.spec.strategy.canary.as_ref().unwrap();
    assert_eq!(canary.scale_down_delay_seconds, Some(5));
    assert_eq!(canary.pod_restart_limit, Some(3));
    assert_eq!(effective.spec.progress_deadline_seconds, Some(300));
    let analysis = effective.spec.analysis.as_ref().unwrap();
    assert_eq!(analysis.warm_up.as_deref(), Some("10s"));
    assert_eq!(analysis.max_duration.as_deref(), Some("2h"));
    let origin = |path: &str| effective.origins[path].to_string();
    assert_eq!(
        origin("spec.strategy.canary.scaleDownDelaySeconds"),
        "Rollout"
    );
    assert_eq!(
        origin("spec.strategy.canary.podRestartLimit"),
        "RolloutPolicy high"
    );
    assert_eq!(origin("spec.analysis.maxDuration"), "RolloutPolicy low");
    assert_eq!(
        origin("spec.analysis.budget.maxShareOfBudget"),
        "RolloutPolicy high"
    );
    assert_eq!(effective.policies, ["high", "low"]);
}

#[test]
fn objectives_of_a_policy_apply_in_addition_to_those_of_the_rollout() {
    let spec = rollout(
        router(),
        json!({"objectives": [
            {"name": "availability", "objective": 99.5, "indicator": "traefik"},
        ]}),
    );
    let shared = policy(json!({"defaults": {"analysis": {"objectives": [
        {"name": "availability", "objective": 99.9, "window": "7d", "indicator": "pod"},
        {"name": "latency", "objective": 99.0, "latency": {"threshold": "300ms"},
         "counters": {"total": "h_seconds_count{ns=\"{{rollout.namespace}}\"}"}},
    ]}}}));
    let effective = resolve_with(&spec, &[("platform", shared)], &[]);
    assert_eq!(effective.problems, []);
    let objectives = &effective.spec.analysis.as_ref().unwrap().objectives;
    assert_eq!(objectives.len(), 2);
    assert!((objectives[0].objective - 99.5).abs() < 1e-9);
    // An objective that is written out applies as a whole.
    assert_eq!(objectives[0].window, None);
    let total = &objectives[1].counters.as_ref().unwrap().total;
    assert_eq!(total, "h_seconds_count{ns=\"market\"}");
    assert!(effective.spec.plan("shop").is_ok());
}

#[test]
fn a_reference_takes_what_it_does_not_set_and_fills_in_parameters() {
    let spec = rollout(
        router(),
        json!({
            "objectives": [{"ref": "http-availability", "objective": 99.0,
                "parameters": [{"name": "job", "value": "shop-web"}]}],
            "checks": [{"ref": "queue", "analysisTemplate": "team",
                "parameters": [{"name": "limit", "value": "7"}]}],
        }),
    );
    let shared = policy(json!({
        "indicators": [{"name": "http", "parameters": [{"name": "job"}, {"name": "bad", "default": "5.."}],
            "counters": {"total": "requests_total{job=\"{{parameters.job}}\"}",
                "errors": "requests_total{job=\"{{parameters.job}}\",code=~\"{{parameters.bad}}\"}"}}],
        "objectives": [{"name": "http-availability", "objective": 99.9, "window": "7d",
            "parameters": [{"name": "job"}],
            "indicatorRef": {"name": "http", "parameters": [{"name": "job", "value": "{{parameters.job}}"}]}}],
    }));
    let team: AnalysisTemplateSpec = serde_json::from_value(json!({
        "checks": [
            {"name": "base", "query": "sum(queue{q={{args.q}}})", "args": [{"name": "q", "value": "in"}],
             "parameters": [{"name": "limit"}], "condition": "result[0] < {{parameters.limit}}.0"},
            {"name": "queue", "parameters": [{"name": "limit"}], "interval": "30s",
             "extends": {"name": "base", "analysisTemplate": "team",
                 "parameters": [{"name": "limit", "value": "{{parameters.limit}}"}]}},
        ],
    }))
    .unwrap();
    let effective = resolve_with(&spec, &[("platform", shared)], &[("team", team)]);
    assert_eq!(effective.problems, []);
    let analysis = serde_json::to_value(&effective.spec.analysis).unwrap();
    assert_eq!(
        analysis,
        json!({
            "objectives": [{"name": "http-availability", "objective": 99.0, "window": "7d",
                "counters": {"total": "requests_total{job=\"shop-web\"}",
                    "errors": "requests_total{job=\"shop-web\",code=~\"5..\"}"}}],
            "checks": [{"name": "queue", "query": "sum(queue{q={{args.q}}})",
                "args": [{"name": "q", "value": "in"}], "condition": "result[0] < 7.0",
                "interval": "30s"}],
        })
    );
    let origin = |path: &str| effective.origins[path].to_string();
    let objective = "spec.analysis.objectives[http-availability]";
    assert_eq!(origin(&format!("{objective}.objective")), "Rollout");
    assert_eq!(
        origin(&format!("{objective}.window")),
        "RolloutPolicy platform"
    );
    assert_eq!(
        origin("spec.analysis.checks[queue].condition"),
        "AnalysisTemplate team"
    );
    assert!(effective.spec.plan("shop").is_ok());
}

#[test]
fn references_that_cannot_be_resolved_are_problems_with_field_value_and_fix() {
    let shared = policy(json!({
        "objectives": [
            {"name": "good", "objective": 99.9, "indicator": "traefik", "parameters": [{"name": "job"}]},
            {"name": "incomplete", "window": "7d"},
            {"name": "one", "extends": {"name": "two"}},
            {"name": "two", "extends": {"name": "one"}},
            {"name": "unknown", "objective": 99.9, "counters": {"total": "a{b=\"{{parameters.none}}\"}"}},
        ],
    }));
    let cases = [
        (
            json!({"ref": "god"}),
            "have no objective with this name; use one of: good, incomplete",
        ),
        (
            json!({"ref": "good"}),
            "parameter job of good has no value and no default; add {name: job",
        ),
        (
            json!({"ref": "good", "parameters": [{"name": "jb", "value": "x"}]}),
            "good has no parameter with this name; use one of: job",
        ),
        (
            json!({"ref": "good", "parameters": [{"name": "job", "value": "a\"b"}]}),
            "has a quote",
        ),
        (
            json!({"ref": "incomplete"}),
            "neither the entry nor the definition",
        ),
        (
            json!({"ref": "one"}),
            "the definitions refer to each other: one, two, one",
        ),
        (
            json!({"ref": "unknown"}),
            "there is no parameter with this name; declare it",
        ),
        (
            json!({"ref": "good", "analysisTemplate": "team"}),
            "AnalysisTemplate team does not exist in namespace market; create it",
        ),
        (
            json!({"name": "a", "objective": 99.0, "indicatorRef": {"name": "http"}}),
            "have no indicator with this name",
        ),
    ];
    for (objective, expected) in cases {
        let spec = rollout(router(), json!({"objectives": [objective.clone()]}));
        let effective = resolve_with(&spec, &[("platform", shared.clone())], &[]);
        let problem = problem_of(&effective);
        assert!(problem.contains(expected), "{objective}: {problem}");
        assert!(problem.contains("objectives["), "{objective}: {problem}");
        // The spec stays as it was written, and has no plan.
        assert_eq!(effective.spec, spec);
        assert!(effective.spec.plan("shop").is_err());
    }
}

#[test]
fn a_policy_that_cannot_be_applied_fails_or_is_ignored_as_it_says() {
    let spec = rollout(router(), Value::Null);
    let broken = |failure_policy: FailurePolicy| {
        let broken = policy(json!({
            "defaults": {"progressDeadlineSeconds": 300, "analysis": {"objectives": [{"ref": "none"}]}},
        }));
        RolloutPolicySpec {
            failure_policy: Some(failure_policy),
            ..broken
        }
    };
    let other = policy(json!({"defaults": {"strategy": {"canary": {"podRestartLimit": 9}}}}));
    let both = |failure_policy| [("broken", broken(failure_policy)), ("other", other.clone())];
    let failed = resolve_with(&spec, &both(FailurePolicy::Fail), &[]);
    let problem = problem_of(&failed);
    assert!(
        problem.starts_with("RolloutPolicy broken: spec.defaults.analysis.objectives[none].ref"),
        "{problem}"
    );
    let ignored = resolve_with(&spec, &both(FailurePolicy::Ignore), &[]);
    assert_eq!(ignored.problems, []);
    assert_eq!(ignored.ignored.len(), 1);
    assert_eq!(ignored.spec.progress_deadline_seconds, None);
    let canary = ignored.spec.strategy.canary.as_ref().unwrap();
    assert_eq!(canary.pod_restart_limit, Some(9));
    // The same for a policy that cannot be read.
    let unreadable = |failure_policy| PolicyInput {
        failure_policy,
        ..PolicyInput::unreadable("unreadable", "spec.precedence: invalid type")
    };
    for (failure_policy, problems) in [(FailurePolicy::Fail, 1), (FailurePolicy::Ignore, 0)] {
        let inputs = Inputs {
            policies: vec![unreadable(failure_policy)],
            templates: Ok(Vec::new()),
        };
        let subject = Subject {
            namespace: "market",
            name: "shop",
            spec: &spec,
        };
        let effective = resolve(subject, &inputs, Defaults::Current);
        assert_eq!(effective.problems.len(), problems);
        assert_eq!(effective.ignored.len(), 1 - problems);
    }
}

#[test]
fn defaults_that_do_not_fit_are_left_out() {
    let shared = policy(json!({"defaults": {
        "strategy": {"canary": {"pace": {"maxWeight": 30}, "trafficRouting": {"settle": "5s"}}},
        "analysis": {"bakeTime": "10m", "prometheus": {
            "address": "https://prometheus.example", "scrapeInterval": "30s",
            "headersFrom": {"secretRef": {"name": "token"}},
        }},
    }}));
    let objective = json!({"name": "a", "objective": 99.9, "indicator": "pod"});
    let plain = rollout(json!({}), json!({"objectives": [objective]}));
    let effective = resolve_with(&plain, &[("platform", shared.clone())], &[]);
    assert_eq!(effective.spec.strategy, plain.strategy);
    assert_eq!(effective.spec.analysis.as_ref().unwrap().bake_time, None);
    assert!(effective.spec.plan("shop").is_ok());
    // Steps exclude a pace, and the credentials of one address are not sent to another.
    let mut canary = router();
    canary["steps"] = json!([{"setWeight": 10}]);
    let own = json!({"objectives": [objective], "prometheus": {"address": "http://mine:9090"}});
    let subject = rollout(canary, own);
    let effective = resolve_with(&subject, &[("platform", shared.clone())], &[]);
    let canary = effective.spec.strategy.canary.as_ref().unwrap();
    assert_eq!(canary.pace, None);
    let router = canary.traffic_routing.as_ref().unwrap();
    assert_eq!(router.settle.as_deref(), Some("5s"));
    let analysis = effective.spec.analysis.as_ref().unwrap();
    let prometheus = analysis.prometheus.as_ref().unwrap();
    assert_eq!(prometheus.headers_from, None);
    assert_eq!(prometheus.scrape_interval.as_deref(), Some("30s"));
    // Settings alone make no analysis.
    let without = rollout(json!({}), Value::Null);
    let effective = resolve_with(&without, &[("platform", shared)], &[]);
    assert_eq!(effective.spec, without);
    assert!(
        !effective
            .origins
            .keys()
            .any(|path| path.starts_with("spec.analysis"))
    );
}

#[test]
fn a_release_in_progress_keeps_the_defaults_that_it_began_with() {
    let spec = rollout(router(), Value::Null);
    let shared = |limit: i32, deadline: i32| {
        policy(json!({"defaults": {
            "progressDeadlineSeconds": deadline,
            "strategy": {"canary": {"podRestartLimit": limit}},
            "analysis": {"objectives": [{"name": "a", "objective": 99.9, "indicator": "traefik"}]},
        }}))
    };
    let before = resolve_with(&spec, &[("platform", shared(3, 300))], &[]);
    let edited = shared(7, 900);
    let inputs = Inputs {
        policies: vec![PolicyInput::new("platform", &edited)],
        templates: Ok(Vec::new()),
    };
    let subject = Subject {
        namespace: "market",
        name: "shop",
        spec: &spec,
    };
    let of_release = |policies: &[AppliedPolicy], has_analysis| {
        resolve(
            subject,
            &inputs,
            Defaults::OfRelease {
                policies,
                has_analysis,
            },
        )
    };
    let began_with = recorded(&before, &[("platform", shared(3, 300))]);
    let during = of_release(&began_with, true);
    assert_eq!(during.spec, before.spec);
    // A policy that matches later gives nothing to a release that began without it.
    let without = of_release(&[], false);
    assert_eq!(without.spec, spec);
}

#[test]
fn a_policy_is_validated_on_its_own() {
    let good = policy(json!({
        "defaults": {"analysis": {"objectives": [{"ref": "a"}], "maxDuration": "2h"}},
        "objectives": [{"name": "a", "objective": 99.9, "indicator": "traefik"}],
    }));
    let bad = policy(json!({
        "defaults": {"analysis": {"maxDuration": "9000d", "objectives": [
            {"name": "b", "objective": 99.9, "indicator": "traefik"}]}},
        "checks": [{"name": "c", "extends": {"name": "missing"}}],
    }));
    let policies = [
        PolicyInput::new("good", &good),
        PolicyInput::new("bad", &bad),
    ];
    assert_eq!(validate("good", &policies), []);
    let problems = validate("bad", &policies);
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("no check with this name"), "{texts:?}");
    assert!(
        texts[1].contains("spec.defaults.analysis.maxDuration") && texts[1].contains("too long"),
        "{texts:?}"
    );
    assert_eq!(problems[1].kind, ProblemKind::Policy);
    assert_eq!(problems[1].source, Source::Policy("bad".to_owned()));
}

#[test]
fn parameters_that_are_forwarded_have_a_bounded_cost() {
    // Each definition doubles the value: without a limit, the last one had 2^7 times its length.
    let chain: Vec<Value> = (0..7)
        .map(|level| {
            let mut one = json!({
                "name": format!("c{level}"), "parameters": [{"name": "v"}],
            });
            if level == 0 {
                one["query"] = "sum(a{b=\"{{parameters.v}}\"})".into();
                one["condition"] = "result[0] > 0.0".into();
            } else {
                one["extends"] = json!({"name": format!("c{}", level - 1),
                    "parameters": [{"name": "v", "value": "{{parameters.v}}{{parameters.v}}"}]});
            }
            one
        })
        .collect();
    let shared = policy(json!({"checks": chain}));
    let analysis =
        json!({"checks": [{"ref": "c6", "parameters": [{"name": "v", "value": "0123456789"}]}]});
    let effective = resolve_with(&rollout(router(), analysis), &[("platform", shared)], &[]);
    assert!(problem_of(&effective).contains("longer than 253 bytes"));
}

#[test]
fn the_example_is_a_complete_release_in_ten_lines() {
    let text = include_str!("../../../examples/policy.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let of_kind = |kind: &str| documents.iter().find(|one| one["kind"] == kind).unwrap();
    let platform = policy(of_kind("RolloutPolicy")["spec"].clone());
    let spec: RolloutSpec = serde_json::from_value(of_kind("Rollout")["spec"].clone()).unwrap();
    let effective = resolve_with(&spec, &[("platform", platform.clone())], &[]);
    assert_eq!(effective.problems, []);
    let plan = effective.spec.plan("checkout").unwrap();
    let canary = plan.canary();
    assert!(
        canary
            .analysis
            .as_ref()
            .is_some_and(|analysis| analysis.bake.is_some())
    );
    assert_eq!(
        validate("platform", &[PolicyInput::new("platform", &platform)]),
        []
    );
    let (_, rollout) = text.rsplit_once("---\n").unwrap();
    assert_eq!(rollout.lines().count(), 10, "{rollout}");
}

/// Defaults of any policy.
fn any_policy() -> impl Strategy<Value = RolloutPolicySpec> {
    let objective = prop::option::of((0..3_usize, prop::option::of(1..9_i32), any::<bool>()));
    let canary = (
        prop::option::of(1..100_i32),
        prop::option::of(0..100_i32),
        prop::option::of(any::<bool>()),
        0..3_u8,
    );
    let settings = (prop::option::of(1..50_u32), any::<bool>());
    (prop::option::of(-2..3_i32), canary, objective, settings).prop_map(
        |(precedence, (limit, delay, dynamic, pace), objective, (minutes, ignores))| {
            let mut canary = json!({});
            let mut set = |field: &str, value: Option<Value>| {
                if let Some(value) = value {
                    canary[field] = value;
                }
            };
            set("podRestartLimit", limit.map(Value::from));
            set("scaleDownDelaySeconds", delay.map(Value::from));
            set("dynamicStableScale", dynamic.map(Value::from));
            match pace {
                0 => set("steps", Some(json!([{"setWeight": 10}, {"pause": {}}]))),
                1 => set("pace", Some(json!({"maxWeight": 40.0}))),
                _ => {}
            }
            let mut analysis = json!({});
            if let Some(minutes) = minutes {
                analysis["maxDuration"] = format!("{minutes}m").into();
            }
            if let Some((name, window, by_reference)) = objective {
                let name = format!("o{name}");
                analysis["objectives"] = if by_reference {
                    json!([{"ref": name}])
                } else {
                    json!([{"name": name, "objective": 99.0, "indicator": "pod"}])
                };
                if let Some(days) = window {
                    analysis["objectives"][0]["window"] = format!("{days}d").into();
                }
            }
            let definitions: Vec<Value> = (0..3)
                .map(|name| json!({"name": format!("o{name}"), "objective": 99.9, "indicator": "pod"}))
                .collect();
            let mut spec = json!({
                "defaults": {"strategy": {"canary": canary}, "analysis": analysis},
                "objectives": definitions,
            });
            if let Some(precedence) = precedence {
                spec["precedence"] = precedence.into();
            }
            if ignores {
                spec["failurePolicy"] = "Ignore".into();
            }
            policy(spec)
        },
    )
}

fn any_rollout() -> impl Strategy<Value = RolloutSpec> {
    let objective = prop::option::of((0..4_usize, 0..3_u8));
    (
        any::<bool>(),
        0..3_u8,
        objective,
        prop::option::of(1..60_u32),
    )
        .prop_map(|(is_routed, pace, objective, warm_up)| {
            let mut canary = if is_routed { router() } else { json!({}) };
            if pace == 0 {
                canary["steps"] = json!([{"setWeight": 20}]);
            } else if pace == 1 && is_routed {
                canary["pace"] = json!({"firstWeight": 2.5});
            }
            let Some((name, kind)) = objective else {
                return rollout(canary, Value::Null);
            };
            let name = format!("o{name}");
            let objective = match kind {
                0 => json!({"ref": name}),
                1 => json!({"name": "own", "ref": name, "window": "2d"}),
                _ => json!({"name": name, "objective": 98.0, "indicator": "pod"}),
            };
            let mut analysis = json!({"objectives": [objective]});
            if let Some(seconds) = warm_up {
                analysis["warmUp"] = format!("{seconds}s").into();
            }
            rollout(canary, analysis)
        })
}

fn named(policies: Vec<RolloutPolicySpec>) -> Vec<(&'static str, RolloutPolicySpec)> {
    ["a", "b", "c", "d"].into_iter().zip(policies).collect()
}

proptest! {
    #[test]
    fn resolving_is_idempotent(
        spec in any_rollout(),
        policies in prop::collection::vec(any_policy(), 0..4),
    ) {
        let policies = named(policies);
        let once = resolve_with(&spec, &policies, &[]);
        prop_assume!(once.problems.is_empty());
        let twice = resolve_with(&once.spec, &policies, &[]);
        prop_assert_eq!(&twice.problems, &[]);
        prop_assert_eq!(&twice.spec, &once.spec);
    }

    #[test]
    fn a_rollout_without_a_policy_is_unchanged(spec in any_rollout()) {
        prop_assume!(!serin_policy::has_references(&spec));
        let effective = resolve_with(&spec, &[], &[]);
        prop_assert_eq!(&effective.problems, &[]);
        prop_assert_eq!(&effective.spec, &spec);
        prop_assert!(effective.origins.values().all(|source| *source == Source::Rollout));
    }

    #[test]
    fn the_order_of_the_policies_does_not_matter(
        spec in any_rollout(),
        policies in prop::collection::vec(any_policy(), 0..4),
    ) {
        let mut policies = named(policies);
        let one = resolve_with(&spec, &policies, &[]);
        policies.reverse();
        let other = resolve_with(&spec, &policies, &[]);
        prop_assert_eq!(&one.spec, &other.spec);
        prop_assert_eq!(&one.origins, &other.origins);
        prop_assert_eq!(&one.problems, &other.problems);
    }

    #[test]
    fn what_the_rollout_says_is_never_replaced(
        spec in any_rollout(),
        policies in prop::collection::vec(any_policy(), 0..4),
    ) {
        let effective = resolve_with(&spec, &named(policies), &[]);
        let written = serde_json::to_value(&spec.strategy).unwrap();
        let found = serde_json::to_value(&effective.spec.strategy).unwrap();
        prop_assert!(contains(&found, &written), "{found} {written}");
    }

    #[test]
    fn a_release_that_begins_and_the_next_look_at_it_have_the_same_spec(
        spec in any_rollout(),
        policies in prop::collection::vec(any_policy(), 0..4),
    ) {
        let policies = named(policies);
        let begun = resolve_with(&spec, &policies, &[]);
        prop_assume!(begun.problems.is_empty());
        let inputs = Inputs {
            policies: policies.iter().map(|(name, spec)| PolicyInput::new(name, spec)).collect(),
            templates: Ok(Vec::new()),
        };
        let subject = Subject { namespace: "market", name: "shop", spec: &spec };
        let recorded = recorded(&begun, &policies);
        let defaults = Defaults::OfRelease {
            policies: &recorded,
            has_analysis: begun.spec.analysis.is_some(),
        };
        let during = resolve(subject, &inputs, defaults);
        prop_assert_eq!(&during.spec, &begun.spec);
    }
}

/// What a release records of the policies that apply to it.
fn recorded(begun: &Effective, policies: &[(&str, RolloutPolicySpec)]) -> Vec<AppliedPolicy> {
    let of_name = |name: &String| {
        let (_, spec) = policies.iter().find(|(policy, _)| policy == name).unwrap();
        AppliedPolicy {
            name: name.clone(),
            failure_policy: spec.failure_policy.unwrap_or_default(),
            defaults: kept_defaults(spec),
        }
    };
    begun.policies.iter().map(of_name).collect()
}

/// Whether a value has all that another one has.
fn contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => part
            .iter()
            .all(|(name, part)| value.get(name).is_some_and(|value| contains(value, part))),
        _ => value == part,
    }
}

#[test]
fn blue_green_gets_the_defaults_of_blue_green_only() {
    let defaults = json!({"defaults": {
        "strategy": {
            "canary": {"podRestartLimit": 7, "steps": [{"setWeight": 10}]},
            "blueGreen": {"podRestartLimit": 3, "autoPromotionEnabled": false, "trafficRouting": {"settle": "5s"}},
        },
    }});
    let mut subject = rollout(json!({}), Value::Null);
    subject.strategy =
        serde_json::from_value(json!({"blueGreen": {"activeService": "shop"}})).unwrap();
    let effective = resolve_with(&subject, &[("platform", policy(defaults.clone()))], &[]);
    assert_eq!(effective.problems, []);
    let strategy = &effective.spec.strategy;
    assert_eq!(strategy.canary, None);
    let blue_green = strategy.blue_green.as_ref().unwrap();
    assert_eq!(blue_green.pod_restart_limit, Some(3));
    assert_eq!(blue_green.auto_promotion_enabled, Some(false));
    assert_eq!(blue_green.traffic_routing, None, "there is no router");
    let canary = resolve_with(
        &rollout(json!({}), Value::Null),
        &[("platform", policy(defaults))],
        &[],
    );
    assert_eq!(canary.spec.strategy.blue_green, None);
}
