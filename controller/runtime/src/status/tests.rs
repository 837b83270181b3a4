use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::guardrail::GuardrailReport;
use serin_core::observed::{Programmed, RouteView};
use serin_core::plan::{RouteKind, RouteRef};
use serin_core::state::AbortCause;
use serin_core::state::{Abort, Phase, StepPosition};
use serin_core::units::{Revision, Weight};
use serin_crds::RolloutSpec;

use super::*;

fn plan() -> Plan {
    let spec: RolloutSpec = serde_json::from_value(serde_json::json!({
        "replicas": 4,
        "selector": {"matchLabels": {"app": "checkout"}},
        "template": {"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": [{"name": "app", "image": "a"}]}},
        "strategy": {"canary": {
            "trafficRouting": {"gatewayAPI": {"httpRoute": "checkout"}},
            "steps": [{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}],
        }},
    }))
    .unwrap();
    spec.plan("checkout").unwrap()
}

fn route(weight: u32) -> RouteView {
    RouteView {
        route: RouteRef {
            kind: RouteKind::HttpRoute,
            name: "checkout".into(),
            rule: None,
        },
        canary_weight: Ok(Weight::percent(weight)),
        managed_routes: Some(Vec::new()),
        written_since: at(0),
        programmed: Programmed::Since(at(0)),
        hold: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_750_000_000 + second).unwrap()
}

fn state() -> State {
    State {
        phase: Phase::Progressing,
        message: "step 1 of 3".into(),
        stable_revision: Some(Revision::new("one")),
        current_revision: Some(Revision::new("two")),
        stage: Stage::Progressing,
        step: Some(StepPosition {
            index: 0,
            started_at: at(0),
        }),
        ..State::default()
    }
}

fn observed(state: &State, routes: Vec<RouteView>) -> Observed {
    Observed {
        state: state.clone(),
        generation: 7,
        workload: None,
        observed_since: at(0),
        spec_problem: None,
        spec_problem_code: None,
        policies: Vec::new(),
        policy_guardrails: None,
        spec_replicas: 4,
        replicas_source: serin_core::observed::ReplicasSource::Declared,
        plan_hash: None,
        keeps_strategy: false,
        spec_analysis: None,
        target_revision: state.current_revision.clone(),
        replica_sets: std::collections::BTreeMap::new(),
        stable_service: None,
        canary_service: None,
        routes,
        assignment_unit: AssignmentUnit::Request,
        commands: Vec::new(),
        analysis: None,
        guardrails: GuardrailReport::default(),
        gate: None,
        incompatible_state: None,
        is_quarantined: false,
    }
}

struct Scene {
    plan: Plan,
    state: State,
    observed: Observed,
    counts: PodCounts,
    failing_effects: Option<String>,
    now: Timestamp,
}

impl Scene {
    fn new() -> Self {
        let state = state();
        let observed = observed(&state, vec![route(20)]);
        let counts = PodCounts {
            replicas: 5,
            updated: 1,
            ready: 5,
            available: 5,
        };
        Self {
            plan: plan(),
            state,
            observed,
            counts,
            failing_effects: None,
            now: at(1),
        }
    }

    fn status(&self, before: &RolloutStatus) -> RolloutStatus {
        let inputs = StatusInputs {
            state: &self.state,
            plan: &self.plan,
            observed: &self.observed,
            counts: self.counts,
            selector: Some("app=checkout".into()),
            evidence: Vec::new(),
            budgets: Vec::new(),
            checks: Vec::new(),
            evidence_summary: None,
            analysis: None,
            original_routes: Vec::new(),
            image_digests: Vec::new(),
            failing_effects: self.failing_effects.clone(),
            now: self.now,
        };
        status(inputs, before)
    }
}

fn condition(status: &RolloutStatus, type_: &str) -> (String, String) {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_);
    let condition = condition.unwrap_or_else(|| panic!("no condition {type_}"));
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn a_release_in_progress_is_reported() {
    let status = Scene::new().status(&RolloutStatus::default());
    let summary = status.summary.clone().unwrap();
    assert_eq!(
        (summary.step.as_deref(), summary.weight.as_deref()),
        (Some("1/3"), Some("20 %"))
    );
    assert_eq!(
        condition(&status, "Available"),
        ("True".into(), "MinimumReplicasAvailable".into())
    );
    assert_eq!(
        condition(&status, "Progressing"),
        ("True".into(), "Progressing".into())
    );
    assert_eq!(
        condition(&status, "Reconciling"),
        ("True".into(), "Progressing".into())
    );
    assert_eq!(
        condition(&status, "RouteReady"),
        ("True".into(), "Programmed".into())
    );
    assert_eq!(
        condition(&status, "Ready"),
        ("False".into(), "Progressing".into())
    );
    assert_eq!(
        condition(&status, "InvalidSpec"),
        ("False".into(), "Valid".into())
    );
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.type_ != "MetricsReady"),
        "no analysis is configured"
    );
    assert_eq!(status.state, state());
}

#[test]
fn an_abort_is_reported_with_its_cause() {
    let mut scene = Scene::new();
    scene.state.stage = Stage::Aborted;
    scene.state.phase = Phase::Degraded;
    scene.state.abort = Some(Abort {
        revision: Revision::new("two"),
        at: at(1),
        cause: AbortCause::Evidence,
        by: None,
        message: "31 of 1,000 requests failed".into(),
    });
    let status = scene.status(&RolloutStatus::default());
    assert_eq!(
        condition(&status, "Progressing"),
        ("False".into(), "Evidence".into())
    );
    assert_eq!(
        condition(&status, "Stalled"),
        ("True".into(), "Evidence".into())
    );
}

#[test]
fn transition_times_change_only_with_the_status() {
    let mut scene = Scene::new();
    let first = scene.status(&RolloutStatus::default());
    scene.now = at(60);
    scene.state.message = "another sentence".into();
    let second = scene.status(&first);
    let time = |status: &RolloutStatus, type_: &str| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
            .map(|condition| condition.last_transition_time.0)
    };
    assert_eq!(time(&first, "Ready"), time(&second, "Ready"));
    scene.observed.routes = vec![RouteView {
        programmed: Programmed::Pending("not yet".into()),
        ..route(20)
    }];
    let third = scene.status(&second);
    assert_eq!(time(&third, "RouteReady"), Some(at(60)));
    assert_eq!(time(&third, "Ready"), time(&first, "Ready"));
}

#[test]
fn the_urgency_depends_on_what_has_changed() {
    let mut scene = Scene::new();
    let before = scene.status(&RolloutStatus::default());
    assert_eq!(urgency(&before, &scene.status(&before)), Urgency::Never);

    scene.state.message = "the same in other words".into();
    assert_eq!(
        urgency(&before, &scene.status(&before)),
        Urgency::Eventually
    );

    scene.counts.replicas = 6;
    assert_eq!(
        urgency(&before, &scene.status(&before)),
        Urgency::WhenStable
    );

    scene.state.step = Some(StepPosition {
        index: 1,
        started_at: at(1),
    });
    assert_eq!(urgency(&before, &scene.status(&before)), Urgency::Now);

    let mut routes_recorded = before.clone();
    routes_recorded.original_routes = vec![OriginalRoute {
        kind: "HTTPRoute".into(),
        name: "checkout".into(),
        backends: "{}".into(),
        stable_service: None,
        canary_service: None,
    }];
    assert_eq!(urgency(&before, &routes_recorded), Urgency::Now);

    let mut digests_recorded = before.clone();
    digests_recorded.image_digests = vec![PinnedRevision {
        revision: Revision::new("v2"),
        images: Vec::new(),
    }];
    assert_eq!(urgency(&before, &digests_recorded), Urgency::Now);
}

#[test]
fn the_start_of_an_analysis_is_written_immediately_and_its_progress_later() {
    let scene = Scene::new();
    let before = scene.status(&RolloutStatus::default());
    let mut begun = before.clone();
    begun.analysis = Some(AnalysisStatus {
        revision: "two".into(),
        started_at: at(1),
        checkpoint: serde_json::json!({}),
    });
    assert_eq!(urgency(&before, &begun), Urgency::Now);
    let mut further = begun.clone();
    further.analysis = Some(AnalysisStatus {
        revision: "two".into(),
        started_at: at(1),
        checkpoint: serde_json::json!({"n": 1}),
    });
    assert_eq!(urgency(&begun, &further), Urgency::Eventually);
}

/// Observed with a real API server: every reconcile wrote the status again, because `setWeight:
/// 20.0` was returned as `20`.
#[test]
fn an_integer_returned_for_a_float_is_not_a_change() {
    let mut scene = Scene::new();
    let in_force = serin_core::state::ActivePlan {
        hash: "a".into(),
        spec: scene.plan.clone(),
    };
    scene.state.plan = Some(in_force);
    scene.observed.state = scene.state.clone();
    let mut written = scene.status(&RolloutStatus::default());
    written.analysis = Some(AnalysisStatus {
        revision: "two".into(),
        started_at: at(1),
        checkpoint: serde_json::json!({"requests": 20.0}),
    });
    let text = serde_json::to_string(&written).unwrap();
    assert!(text.contains("20.0"), "{text}");
    let back: RolloutStatus =
        serde_json::from_str(&text.replace("20.0", "20").replace("50.0", "50")).unwrap();
    assert_ne!(back, written, "the test would show nothing");
    assert_eq!(urgency(&back, &written), Urgency::Never);
}

#[test]
fn repeatedly_failing_effects_are_reported() {
    let mut scene = Scene::new();
    scene.failing_effects = Some("Service checkout: forbidden".into());
    let status = scene.status(&RolloutStatus::default());
    assert_eq!(
        condition(&status, "Reconciling"),
        ("True".into(), "EffectFailing".into())
    );
}

#[test]
fn a_selector_is_formatted_for_autoscalers() {
    let selector: LabelSelector = serde_json::from_value(serde_json::json!({
        "matchLabels": {"app": "checkout"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}],
    }))
    .unwrap();
    assert_eq!(
        selector_string(&selector).as_deref(),
        Some("app=checkout,tier in (a,b),!old")
    );
}

#[test]
fn the_selector_of_the_scale_subresource_selects_the_pods_with_load() {
    let selector: LabelSelector =
        serde_json::from_value(serde_json::json!({"matchLabels": {"app": "checkout"}})).unwrap();
    let revisions = |names: &[&str]| names.iter().copied().map(Revision::new).collect();
    assert_eq!(
        scale_selector(&selector, None).as_deref(),
        Some("app=checkout")
    );
    assert_eq!(
        scale_selector(&selector, Some(&revisions(&["one"]))).as_deref(),
        Some("app=checkout,serin.dev/revision in (one)")
    );
    assert_eq!(
        scale_selector(&selector, Some(&revisions(&["one", "two"]))).as_deref(),
        Some("app=checkout,serin.dev/revision in (one,two)")
    );
    let long = "x".repeat(SELECTOR_BYTES);
    assert_eq!(
        scale_selector(&selector, Some(&revisions(&[&long]))).as_deref(),
        Some("app=checkout"),
        "all pods, if the text would be too long"
    );
}

// An autoscaler must not measure stable alone while the canary receives requests.
#[test]
fn a_selector_of_more_pods_is_written_before_the_effects() {
    let all = Scene::new().status(&RolloutStatus::default());
    let with_selector = |selector: &str| RolloutStatus {
        selector: Some(selector.into()),
        ..all.clone()
    };
    let one = with_selector("app=checkout,serin.dev/revision in (one)");
    let other = with_selector("app=checkout,serin.dev/revision in (two)");
    assert_eq!(urgency(&one, &all), Urgency::Now);
    assert_eq!(urgency(&one, &other), Urgency::Now);
    assert_eq!(urgency(&all, &one), Urgency::WhenStable);
    assert_eq!(urgency(&all, &all), Urgency::Never);
}

#[test]
fn a_changed_condition_is_stable_until_it_is_written() {
    let condition = |seconds: i64| Condition {
        last_transition_time: Time(Timestamp::from_second(seconds).unwrap()),
        message: "no data".into(),
        observed_generation: None,
        reason: "NoData".into(),
        status: "False".into(),
        type_: "MetricsReady".into(),
    };
    let status_at = |seconds| {
        without_volatile_fields(&RolloutStatus {
            conditions: vec![condition(seconds)],
            ..RolloutStatus::default()
        })
    };
    assert_eq!(
        status_at(1),
        status_at(2),
        "or it would never have been so for long enough to be worth a write"
    );
}
