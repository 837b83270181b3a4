//! No input makes a status larger than its limit.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::command::{Authorization, Command, CommandOutcome, Verb};
use serin_core::decide;
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::{
    AnalysisReport, PodProblem, Programmed, ReplicaSetView, RouteView, ServiceView,
};
use serin_core::plan::{RouteKind, RouteRef};
use serin_core::state::{
    Abort, AbortCause, COMMANDS_LIMIT, Drain, FreezeOverride, HISTORY_LIMIT, HandledCommand,
    ReleaseRecord, ReleaseResult, StepPosition,
};
use serin_core::units::{Revision, Weight};
use serin_crds::RolloutSpec;
use serin_crds::analysis::GuardAction;
use serin_crds::status::{
    BudgetLevel, CHECKPOINT_BYTES, CheckOutcome, CountsStatus, IMAGE_DIGESTS_BYTES,
    LatencyGuardStatus, ORIGINAL_ROUTES_BYTES, PinnedImage, PlaceboStatus, STATUS_BYTES,
    image_digests as record_digests, serialized_bytes,
};

use super::*;

/// Maximum number of objectives and of checks, as the CRD limits them.
const OBJECTIVES: usize = 8;
const CHECKS: usize = 16;
/// Numbers with as many digits as JSON has.
const NUMBER: f64 = -1.234_567_890_123_456_7e-300;
const COUNTS: CountsStatus = CountsStatus {
    requests: NUMBER,
    errors: NUMBER,
};

fn plan() -> Plan {
    let spec: RolloutSpec = serde_json::from_value(serde_json::json!({
        "replicas": 4,
        "selector": {"matchLabels": {"app": "checkout"}},
        "template": {
            "metadata": {"labels": {"app": "checkout"}},
            "spec": {"containers": [{"name": "app", "image": "a"}]},
        },
        "strategy": {"canary": {
            "trafficRouting": {"gatewayAPI": {"httpRoute": "checkout"}},
            "steps": [{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}],
        }},
        "analysis": {
            "prometheus": {"address": "http://prometheus"},
            "objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}],
        },
    }))
    .unwrap();
    spec.plan("checkout").unwrap()
}

fn now() -> Timestamp {
    Timestamp::new(1_750_000_000, 123_456_789).unwrap()
}

/// A name of the maximum length.
fn name(number: usize) -> String {
    format!("{number:0>63}")
}

fn revision(number: usize) -> Revision {
    Revision::new(format!("{number:0>10}"))
}

fn command(number: usize, verb: Verb, text: &str) -> Command {
    Command {
        uid: format!("{number:0>36}"),
        name: format!("{number:0>253}"),
        verb,
        required_revision: number.is_multiple_of(3).then(|| Revision::new(text)),
        required_step: None,
        adopt_analysis: false,
        reason: Some(text.into()),
        requested_by: Some(text.into()),
        created_at: now(),
        authorization: if number.is_multiple_of(5) {
            Authorization::Missing(text.into())
        } else {
            Authorization::Unverified
        },
    }
}

fn state(stage: Stage, text: &str) -> State {
    let release = |number| ReleaseRecord {
        revision: revision(number),
        result: ReleaseResult::Superseded,
        at: now(),
        message: text.into(),
        replaced: Some(revision(number)),
    };
    let handled = |number| HandledCommand {
        uid: format!("{number:0>36}"),
        outcome: CommandOutcome::refused(text),
    };
    State {
        observed_generation: i64::MAX,
        message: text.into(),
        stable_revision: Some(revision(1)),
        current_revision: Some(revision(2)),
        stage,
        stage_since: Some(now()),
        release_started_at: Some(now()),
        step: (stage == Stage::Progressing).then(|| StepPosition {
            index: 1,
            started_at: now(),
        }),
        abort: (stage == Stage::Aborted).then(|| Abort {
            revision: revision(2),
            at: now(),
            cause: AbortCause::ProgressDeadline,
            by: Some(text.into()),
            message: text.into(),
        }),
        freeze_override: Some(FreezeOverride {
            revision: revision(2),
            by: Some(text.into()),
            at: now(),
            reason: text.into(),
        }),
        commands: (100..100 + 2 * COMMANDS_LIMIT).map(handled).collect(),
        history: (0..HISTORY_LIMIT).map(release).collect(),
        draining: vec![Drain {
            revision: revision(3),
            until: now(),
        }],
        ..State::default()
    }
}

fn observed(state: State, text: &str) -> Observed {
    let set = |number: usize| {
        let set = ReplicaSetView {
            name: format!("{number:0>253}"),
            desired: 4,
            current: 4,
            available: 4,
            problem: Some(PodProblem {
                code: HoldCode::ImagePullFailed,
                object: text.to_owned(),
                detail: text.to_owned(),
                since: None,
            }),
            ..ReplicaSetView::default()
        };
        (revision(number), set)
    };
    let hold = |code: &HoldCode| Hold::new(*code, text).lowering_to(Some(Weight::ZERO));
    let service = ServiceView {
        exists: true,
        selects: Some(revision(1)),
        hold: Some(Hold::new(HoldCode::Contested, text)),
        ..ServiceView::default()
    };
    Observed {
        target_revision: state.current_revision.clone(),
        state,
        generation: i64::MAX,
        spec_problem: Some(text.to_owned()),
        replica_sets: (1..200).map(set).collect::<BTreeMap<_, _>>(),
        stable_service: Some(service.clone()),
        canary_service: Some(service),
        routes: vec![RouteView {
            route: RouteRef {
                kind: RouteKind::HttpRoute,
                name: "checkout".into(),
                rule: None,
            },
            canary_weight: Err(text.to_owned()),
            managed_routes: Some(Vec::new()),
            written_since: now(),
            programmed: Programmed::Pending(text.to_owned()),
            hold: Some(Hold::new(HoldCode::Contested, text)),
        }],
        assignment_unit: AssignmentUnit::Connection {
            why: text.to_owned(),
        },
        commands: [Verb::Promote, Verb::Override, Verb::Pause, Verb::Abort]
            .iter()
            .cycle()
            .take(60)
            .enumerate()
            .map(|(number, verb)| command(number, *verb, text))
            .collect(),
        analysis: Some(AnalysisReport {
            holds: HoldCode::ALL.iter().map(hold).collect(),
            message: text.into(),
            ..AnalysisReport::default()
        }),
        ..Observed::default()
    }
}

fn evidence(number: usize, text: &str) -> EvidenceStatus {
    EvidenceStatus {
        objective: name(number),
        canary: COUNTS,
        stable: COUNTS,
        excess: Some(NUMBER),
        lower: Some(NUMBER),
        upper: Some(NUMBER),
        e_value: Some(NUMBER),
        threshold: Some(NUMBER),
        assumption: Some(text.into()),
        assumption_broken: true,
        budget_allotment: Some(NUMBER),
        budget_spent: Some(NUMBER),
        note: Some(text.into()),
        latency_guard: Some(LatencyGuardStatus {
            e_value: Some(NUMBER),
            threshold: Some(NUMBER),
            action: GuardAction::RollBack,
            edges: i32::MAX,
            edge: Some("123456789.123456s".into()),
            canary: COUNTS,
            stable: COUNTS,
            message: Some(text.into()),
        }),
        message: Some(text.into()),
    }
}

fn budget(number: usize, text: &str) -> BudgetStatus {
    BudgetStatus {
        objective: name(number),
        state: BudgetLevel::Healthy,
        total: NUMBER,
        remaining: NUMBER,
        allotment: NUMBER,
        at: Some(now()),
        message: Some(text.into()),
        infeasible: Some(text.into()),
        placebo: Some(PlaceboStatus {
            at: Some(now()),
            hours: i32::MAX,
            hours_with_rollback: i32::MAX,
            refutes_bound: true,
            settings: "0123456789abcdef".into(),
        }),
    }
}

fn check(number: usize, text: &str) -> CheckStatus {
    CheckStatus {
        name: name(number),
        result: CheckOutcome::Inconclusive,
        failures: i32::MAX,
        failure_limit: i32::MAX,
        dry_run: true,
        at: Some(now()),
        message: Some(text.into()),
    }
}

fn original_routes() -> Vec<OriginalRoute> {
    let route = OriginalRoute {
        kind: "HTTPRoute".into(),
        name: String::new(),
        backends: String::new(),
        stable_service: None,
        canary_service: None,
    };
    let rest = ORIGINAL_ROUTES_BYTES - serialized_bytes(&route);
    vec![OriginalRoute {
        backends: "x".repeat(rest),
        ..route
    }]
}

/// As many digests as are recorded.
fn image_digests() -> Vec<PinnedRevision> {
    let mut records = Vec::new();
    for number in 0..30 {
        let image = PinnedImage {
            image: "x".repeat(638),
            digest: "y".repeat(71),
        };
        let added = PinnedRevision {
            revision: revision(number),
            images: vec![image],
        };
        records = record_digests(&records, Some(added), |_| true);
    }
    records
}

fn status_of(stage: Stage, text: &str) -> RolloutStatus {
    let plan = plan();
    let observed = observed(state(stage, text), text);
    let decision = decide(&plan, &observed, now()).unwrap();
    let inputs = StatusInputs {
        state: &decision.state,
        plan: &plan,
        observed: &observed,
        counts: PodCounts {
            replicas: u32::MAX,
            updated: u32::MAX,
            ready: u32::MAX,
            available: u32::MAX,
        },
        selector: Some("x".repeat(SELECTOR_BYTES)),
        evidence: (0..OBJECTIVES)
            .map(|number| evidence(number, text))
            .collect(),
        budgets: (0..OBJECTIVES).map(|number| budget(number, text)).collect(),
        checks: (0..CHECKS).map(|number| check(number, text)).collect(),
        evidence_summary: Some(text.to_owned()),
        analysis: Some(AnalysisStatus {
            revision: revision(2).to_string(),
            started_at: now(),
            checkpoint: Value::String("x".repeat(CHECKPOINT_BYTES - 2)),
        }),
        original_routes: original_routes(),
        image_digests: image_digests(),
        failing_effects: Some(text.to_owned()),
        now: now(),
    };
    status(inputs, &RolloutStatus::default())
}

fn stage() -> impl Strategy<Value = Stage> {
    prop::sample::select(vec![
        Stage::FirstDeploy,
        Stage::Progressing,
        Stage::Promoting,
        Stage::Aborted,
        Stage::Stable,
    ])
}

/// A text of one repeated character: with escapes in JSON, with four bytes, a control character.
fn foreign_text() -> impl Strategy<Value = String> {
    let unit = prop::sample::select(vec!["a", "\"", "\\", "\u{1f600}", "\u{1b}", "ä\""]);
    (unit, 0..20_000_usize).prop_map(|(unit, count)| unit.repeat(count))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_input_makes_a_status_larger_than_64_kib(stage in stage(), text in foreign_text()) {
        let status = status_of(stage, &text);
        let plan = status.state.plan.as_ref().map_or(0, serialized_bytes);
        let analysis = status.analysis.as_ref().map_or(0, serialized_bytes);
        let digests = serialized_bytes(&status.image_digests);
        prop_assert!(digests <= IMAGE_DIGESTS_BYTES, "{digests} bytes");
        let bytes = serialized_bytes(&status) - plan - analysis - digests;
        prop_assert!(bytes <= STATUS_BYTES, "{stage:?}: {bytes} bytes");
        prop_assert!(analysis <= CHECKPOINT_BYTES + 256, "{analysis} bytes");
        // What an abort needs is still there.
        prop_assert_eq!(status.original_routes, original_routes());
        prop_assert!(status.state.stable_revision.is_some());
    }

    #[test]
    fn a_minimal_status_has_the_position_and_at_most_32_kib(
        stage in stage(), text in foreign_text(),
    ) {
        let full = status_of(stage, &text);
        let minimal = full.minimal();
        let bytes = serialized_bytes(&minimal);
        prop_assert!(bytes <= 32 << 10, "{stage:?}: {bytes} bytes");
        let (before, after) = (&full.state, &minimal.state);
        prop_assert_eq!(&before.stage, &after.stage);
        prop_assert_eq!(&before.stable_revision, &after.stable_revision);
        prop_assert_eq!(&before.current_revision, &after.current_revision);
        prop_assert_eq!(&before.weights, &after.weights);
        prop_assert_eq!(&before.draining, &after.draining);
        prop_assert_eq!(&before.plan, &after.plan);
        let cause = |state: &State| state.abort.as_ref().map(|abort| abort.cause);
        prop_assert_eq!(cause(before), cause(after));
        prop_assert_eq!(full.original_routes, minimal.original_routes);
        prop_assert_eq!((minimal.evidence.len(), minimal.checks.len()), (0, 0));
        prop_assert_eq!(minimal.analysis, None);
    }
}

#[test]
fn messages_of_usual_length_are_not_shortened() {
    let text = "The canary failed 31 of 1,000 requests; stable failed 9 of 9,000. ".repeat(3);
    let status = status_of(Stage::Progressing, text.trim());
    let evidence = status.evidence[0].message.as_ref().unwrap();
    assert_eq!(evidence, text.trim());
    assert_eq!(status.checks[15].message.as_ref().unwrap(), text.trim());
}

#[test]
fn longer_messages_are_shortened_equally() {
    let status = status_of(Stage::Progressing, &"x".repeat(2_000));
    let mut lengths = status
        .checks
        .iter()
        .map(|check| check.message.as_ref().unwrap().len());
    assert!(lengths.all(|length| length == 256));
    let evidence = &status.evidence[7];
    for message in [&evidence.note, &evidence.assumption] {
        let message = message.as_ref().unwrap();
        assert!(message.len() == 256 && message.ends_with("xxx..."));
    }
}

#[test]
fn a_selector_that_is_too_long_is_left_out() {
    let selector = |values: usize| {
        let values: Vec<String> = (0..values).map(|value| format!("{value:0>63}")).collect();
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchExpressions": [{"key": "tier", "operator": "In", "values": values}],
        }))
        .unwrap();
        selector_string(&selector)
    };
    assert!(selector(16).is_some());
    assert_eq!(selector(64), None);
}

#[test]
fn the_drains_are_limited_and_the_others_keep_their_pods() {
    let plan = plan();
    let mut state = state(Stage::Stable, "");
    state.current_revision = state.stable_revision.clone();
    state.draining = Vec::new();
    let mut observed = observed(state, "");
    observed.commands = Vec::new();
    observed.spec_problem = None;
    for route in &mut observed.routes {
        (route.canary_weight, route.hold) = (Ok(Weight::ZERO), None);
        route.programmed = Programmed::Since(now() - Duration::from_secs(3_600));
    }
    let decision = decide(&plan, &observed, now()).unwrap();
    let draining = &decision.state.draining;
    assert_eq!(draining.len(), serin_core::state::DRAINS_LIMIT);
}
