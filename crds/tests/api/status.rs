//! The planner state survives a round trip through the status and the API server.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serin_core::command::{CommandOutcome, CommandResult};
use serin_core::gate::{Gate, GateCondition, GateExpiry, ObjectGate, ObjectScope};
use serin_core::hold::{Hold, HoldCode};
use serin_core::managed_route::{
    HeaderMatch, ManagedAction, ManagedRoute, RequestMatch, StringMatch,
};
use serin_core::observation::{
    HypotheticalDecision, HypotheticalResult, Observation, ObservedRelease,
};
use serin_core::plan::{
    Amount, Analysis, ArmBinding, BakePlan, Canary, CanaryScale, EvidencePace, Exposure, Pace,
    Plan, Requirements, RouteKind, RouteRef, Routing, Step, Strategy as Rollout, Workload,
};
use serin_core::release_analysis::{AnalysisDocument, ReleaseAnalysis};
use serin_core::release_policy::ReleasePolicy;
use serin_core::state::{
    Abort, AbortCause, ActivePlan, AdoptedWorkload, Bake, Drain, FreezeOverride, HandledCommand,
    Pause, PauseReason, Phase, Progress, ReleaseRecord, ReleaseResult, ReplicasKept,
    SCHEMA_VERSION, Stage, State, StepPosition, Weights, WorkloadPhase,
};
use serin_core::text::{Message, UserName};
use serin_core::units::{Revision, Weight};
use serin_crds::RolloutStatus;
use serin_crds::status::PersistedStatus;

use crate::admission;

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 %µ\"\\\\]{0,12}"
}

fn revision() -> impl Strategy<Value = Revision> {
    "[a-z0-9]{5,10}".prop_map(Revision::new)
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000_i64, 0..1_000_000_000_i32)
        .prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap())
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![
        (0..=100_u32).prop_map(Weight::percent),
        (0..=100_000_u32).prop_map(Weight::from_thousandths)
    ]
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..10_000_000_u64).prop_map(Duration::from_millis)
}

fn amount() -> impl Strategy<Value = Amount> {
    prop_oneof![
        any::<u32>().prop_map(Amount::Pods),
        (0..=100_u32).prop_map(Amount::Percent)
    ]
}

fn scale() -> impl Strategy<Value = CanaryScale> {
    prop_oneof![
        Just(CanaryScale::MatchTrafficWeight),
        any::<u32>().prop_map(CanaryScale::Replicas),
        weight().prop_map(CanaryScale::Weight),
    ]
}

fn gate() -> impl Strategy<Value = Gate> {
    let scope = prop_oneof![
        Just(ObjectScope::OwnNamespace),
        Just(ObjectScope::Cluster),
        text().prop_map(ObjectScope::Namespace),
    ];
    let object = (text(), text(), text(), scope, text());
    let object = object.prop_map(
        |(api_version, resource, name, scope, condition)| ObjectGate {
            api_version,
            resource,
            name,
            scope,
            condition,
        },
    );
    let waits_for = prop_oneof![
        Just(GateCondition::Approval),
        object.prop_map(GateCondition::Object)
    ];
    let on_expiry = prop_oneof![Just(GateExpiry::Abort), Just(GateExpiry::Hold)];
    (waits_for, option::of(duration()), on_expiry).prop_map(
        |(waits_for, expire_after, on_expiry)| Gate {
            waits_for,
            expire_after,
            on_expiry,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        weight().prop_map(Step::SetWeight),
        option::of(duration()).prop_map(Step::Pause),
        scale().prop_map(Step::SetCanaryScale),
        option::of(duration()).prop_map(Step::Analysis),
        requirements().prop_map(Step::Require),
        gate().prop_map(Step::Gate),
        managed_route().prop_map(Step::SetManagedRoute),
    ]
}

fn managed_route() -> impl Strategy<Value = ManagedRoute> {
    let value = || {
        prop_oneof![
            text().prop_map(StringMatch::Exact),
            text().prop_map(StringMatch::Prefix),
            text().prop_map(StringMatch::Regex),
        ]
    };
    let header = (text(), value()).prop_map(|(name, value)| HeaderMatch { name, value });
    let request = (option::of(text()), option::of(value()), vec(header, 0..3)).prop_map(
        |(method, path, headers)| RequestMatch {
            method,
            path,
            headers,
        },
    );
    let action = option::of(any::<u32>()).prop_map(|percent| match percent {
        None => ManagedAction::ToCanary,
        Some(percent) => ManagedAction::Mirror { percent },
    });
    (any::<u32>(), text(), action, vec(request, 0..3)).prop_map(
        |(precedence, name, action, matches)| ManagedRoute {
            precedence,
            name,
            action,
            matches,
        },
    )
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![
        vec(step(), 0..6).prop_map(Pace::Steps),
        (weight(), weight()).prop_map(|(first_weight, max_weight)| Pace::Evidence(EvidencePace {
            first_weight,
            max_weight
        })),
    ]
}

fn routing() -> impl Strategy<Value = Routing> {
    let kind = prop::sample::select(RouteKind::ALL.to_vec());
    let route = (kind, text(), option::of(text())).prop_map(|(kind, name, rule)| RouteRef {
        kind,
        name,
        rule,
    });
    (text(), text(), vec(route, 0..3), duration(), duration()).prop_map(
        |(stable, canary, routes, settle, unverified_after)| Routing {
            binding: ArmBinding::Services { stable, canary },
            routes,
            settle,
            unverified_after,
        },
    )
}

fn exposure() -> impl Strategy<Value = Exposure> {
    (option::of(routing()), any::<bool>()).prop_map(|(routing, is_switch)| match routing {
        None => Exposure::ReplicaRatio,
        Some(routing) if is_switch => Exposure::Switch(routing),
        Some(routing) => Exposure::Weighted(routing),
    })
}

prop_compose! {
    fn canary()(
        (max_surge, max_unavailable) in (amount(), amount()),
        (scale_down_delay, abort_scale_down_delay) in (duration(), duration()),
        dynamic_stable_scale in any::<bool>(),
        min_pods_per_replica_set in any::<u32>(),
        replica_progress_threshold in option::of(amount()),
        pace in pace(),
        analysis in option::of(analysis()),
        pod_restart_limit in any::<u32>(),
    ) -> Canary {
        Canary {
            max_surge, max_unavailable, scale_down_delay, abort_scale_down_delay, dynamic_stable_scale,
            min_pods_per_replica_set, replica_progress_threshold, pace, analysis,
            pod_restart_limit,
        }
    }
}

prop_compose! {
    fn plan()(
        replicas in any::<u32>(),
        progress_deadline in duration(),
        progress_deadline_abort in any::<bool>(),
        revision_history_limit in 0..1_000_usize,
        rollback_window in 0..1_000_usize,
        (paused, restart_at) in (any::<bool>(), option::of(time())),
        exposure in exposure(),
        canary in canary(),
        is_blue_green in any::<bool>(),
    ) -> Plan {
        let strategy = if is_blue_green { Rollout::BlueGreen(canary) } else { Rollout::Canary(canary) };
        Plan { replicas, progress_deadline, progress_deadline_abort, revision_history_limit, rollback_window, paused, restart_at, workload: Workload::Owned, exposure,
            strategy }
    }
}

fn hold() -> impl Strategy<Value = Hold> {
    let code = prop::sample::select(HoldCode::ALL);
    (code, text(), option::of(weight()), option::of(time())).prop_map(
        |(code, message, lower_to, since)| Hold {
            since,
            ..Hold::new(code, message).lowering_to(lower_to)
        },
    )
}

fn pause() -> impl Strategy<Value = Pause> {
    let reason = prop::sample::select(vec![
        PauseReason::Step,
        PauseReason::Command,
        PauseReason::Inconclusive,
    ]);
    (reason, time(), option::of(time())).prop_map(|(reason, since, until)| Pause {
        reason,
        since,
        until,
    })
}

fn abort() -> impl Strategy<Value = Abort> {
    let cause = prop::sample::select(AbortCause::ALL.to_vec());
    (revision(), time(), cause, option::of(text()), text()).prop_map(
        |(revision, at, cause, by, message)| Abort {
            revision,
            at,
            cause,
            by: by.map(UserName::from),
            message: message.into(),
        },
    )
}

fn freeze_override() -> impl Strategy<Value = FreezeOverride> {
    (revision(), time(), option::of(text()), text()).prop_map(|(revision, at, by, reason)| {
        FreezeOverride {
            revision,
            by: by.map(UserName::from),
            at,
            reason: reason.into(),
        }
    })
}

fn bake() -> impl Strategy<Value = Bake> {
    (time(), option::of(time())).prop_map(|(since, ended_at)| Bake { since, ended_at })
}

fn names() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set("[a-z]{1,5}", 0..3)
}

fn release_analysis() -> impl Strategy<Value = ReleaseAnalysis> {
    (
        prop::num::f64::NORMAL,
        analysis(),
        any::<u32>(),
        any::<bool>(),
    )
        .prop_map(
            |(objective, plan, pod_restart_limit, edited)| ReleaseAnalysis {
                spec: AnalysisDocument::from(
                    serde_json::json!({"objective": objective, "whole": 99.0}),
                ),
                plan,
                pod_restart_limit,
                edited,
            },
        )
}

fn document() -> impl Strategy<Value = AnalysisDocument> {
    prop::num::f64::NORMAL
        .prop_map(|number| AnalysisDocument::from(serde_json::json!({"a": {"b": number}})))
}

fn release_policy() -> impl Strategy<Value = ReleasePolicy> {
    ("[a-z]{1,8}", any::<bool>(), option::of(document())).prop_map(|(name, required, defaults)| {
        ReleasePolicy {
            name: name.into(),
            required,
            defaults,
        }
    })
}

fn requirements() -> impl Strategy<Value = Requirements> {
    (names(), names()).prop_map(|(objectives, checks)| Requirements { objectives, checks })
}

fn analysis() -> impl Strategy<Value = Analysis> {
    let bake = (duration(), names()).prop_map(|(duration, checks)| BakePlan { duration, checks });
    let baseline_pods = option::of(1..100_u32);
    (
        duration(),
        duration(),
        names(),
        names(),
        option::of(bake),
        baseline_pods,
    )
        .prop_map(
            |(max_duration, warm_up, checks, checks_before_traffic, bake, baseline_pods)| {
                Analysis {
                    max_duration,
                    warm_up,
                    checks,
                    checks_before_traffic,
                    bake,
                    baseline_pods,
                }
            },
        )
}

fn command() -> impl Strategy<Value = HandledCommand> {
    let result = prop::sample::select(vec![CommandResult::Done, CommandResult::Refused]);
    (text(), result, text()).prop_map(|(uid, result, message)| HandledCommand {
        uid,
        outcome: CommandOutcome {
            result,
            message: message.into(),
        },
    })
}

fn release() -> impl Strategy<Value = ReleaseRecord> {
    let result = prop::sample::select(vec![
        ReleaseResult::Promoted,
        ReleaseResult::Aborted,
        ReleaseResult::Superseded,
    ]);
    let parts = (revision(), result, time(), text(), option::of(revision()));
    parts.prop_map(|(revision, result, at, message, replaced)| ReleaseRecord {
        revision,
        result,
        at,
        message: message.into(),
        replaced,
    })
}

fn progress() -> impl Strategy<Value = Progress> {
    (time(), option::of(any::<i64>()), option::of(time())).prop_map(
        |(at, reached, complete_since)| Progress {
            at,
            reached,
            complete_since,
        },
    )
}

fn replicas_kept() -> impl Strategy<Value = ReplicasKept> {
    (0..1_000_u32, option::of(time())).prop_map(|(count, until)| ReplicasKept { count, until })
}

fn hypothetical_decision() -> impl Strategy<Value = HypotheticalDecision> {
    let result = prop::sample::select(vec![
        HypotheticalResult::Promoted,
        HypotheticalResult::RolledBack,
    ]);
    let cause = option::of(prop::sample::select(AbortCause::ALL.to_vec()));
    (result, time(), cause, text()).prop_map(|(result, at, cause, message)| HypotheticalDecision {
        result,
        at,
        cause,
        message: message.into(),
    })
}

fn observation() -> impl Strategy<Value = Observation> {
    let release = (
        revision(),
        time(),
        option::of(time()),
        option::of(Just(ReleaseResult::Promoted)),
        option::of(hypothetical_decision()),
    );
    let release =
        release.prop_map(
            |(revision, started_at, ended_at, result, would_have)| ObservedRelease {
                revision,
                started_at,
                ended_at,
                result,
                would_have,
            },
        );
    (option::of(text()), option::of(release)).prop_map(|(workload, release)| Observation {
        workload: workload.map(Into::into),
        release,
    })
}

fn workload() -> impl Strategy<Value = AdoptedWorkload> {
    let phase = prop::sample::select(vec![
        WorkloadPhase::TakingOver,
        WorkloadPhase::TakenOver,
        WorkloadPhase::GivingBack,
        WorkloadPhase::GivenBack,
    ]);
    ("[a-z]{1,9}", phase, time()).prop_map(|(deployment, phase, since)| AdoptedWorkload {
        deployment,
        phase,
        since,
    })
}

prop_compose! {
    fn state()(
        (observed_generation, message) in (any::<i64>(), text().prop_map(Message::from)),
        phase in prop::sample::select(vec![Phase::Progressing, Phase::Paused, Phase::Degraded, Phase::Healthy]),
        stage in prop::sample::select(vec![Stage::FirstDeploy, Stage::Progressing, Stage::Promoting, Stage::Aborted, Stage::Stable]),
        (stable_revision, current_revision) in (option::of(revision()), option::of(revision())),
        plan in option::of((text(), plan()).prop_map(|(hash, spec)| ActivePlan { hash, spec })).boxed(),
        (stage_since, restarting, restarted_at, bake) in
            (option::of(time()), any::<bool>(), option::of(time()), option::of(bake())),
        (release_started_at, progress) in (option::of(time()), option::of(progress())).boxed(),
        (growing_since, replicas_scaled, replicas_kept, baseline_since) in
            (option::of(time()), any::<bool>(), option::of(replicas_kept()), option::of(time())).boxed(),
        step in option::of((0..100_usize, time()).prop_map(|(index, started_at)| StepPosition { index, started_at })),
        weights in (weight(), option::of(weight()), option::of(time()), option::of(0..1_000_u32), option::of(weight()))
            .prop_map(|(desired, verified, since, pods, cap)| Weights { desired, verified, since, pods, cap }),
        (pause, abort, freeze_override, release_analysis) in
            (option::of(pause()), option::of(abort()), option::of(freeze_override()), option::of(release_analysis())).boxed(),
        (release_policies, release_guardrails) in
            (vec(release_policy(), 0..3), option::of(document())).boxed(),
        draining in vec((revision(), time()).prop_map(|(revision, until)| Drain { revision, until }), 0..3),
        commands in vec(command(), 0..3).boxed(),
        (history, workload, observation) in
            (vec(release(), 0..3), option::of(workload()), option::of(observation())).boxed(),
        holds in vec(hold(), 0..3).boxed(),
    ) -> State {
        State {
            schema_version: SCHEMA_VERSION, holds, observed_generation, phase, message, stable_revision, current_revision, plan, release_analysis, release_policies, release_guardrails, stage, stage_since, release_started_at, progress,
            growing_since, replicas_scaled, replicas_kept, step, restarting, restarted_at, weights, pause, abort, bake, baseline_since, freeze_override, draining, workload, observation, commands, history,
            ..State::default()
        }
    }
}

/// The status as the API server returns it.
fn stored(status: &RolloutStatus) -> PersistedStatus {
    let schema = admission::schema_of("Rollout");
    let value = admission::stored(
        &schema["properties"]["status"],
        serde_json::to_value(status).unwrap(),
    );
    RolloutStatus::read(serde_json::from_str(&value.to_string()).unwrap())
}

proptest! {
    #[test]
    fn a_state_survives_a_round_trip_through_the_status(state in state()) {
        let status = RolloutStatus { state, ..RolloutStatus::default() };
        let read = stored(&status);
        prop_assert_eq!(&read, &PersistedStatus { status, ..PersistedStatus::default() });
    }
}

proptest! {
    // Each case compiles every validation rule again.
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_api_server_accepts_every_state(state in state()) {
        let status = RolloutStatus { state, ..RolloutStatus::default() };
        let object = serde_json::json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "shop"}},
                "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "shop"}]}},
                "strategy": {"canary": {}},
            },
            "status": status,
        });
        prop_assert_eq!(admission::refusals(&object, None), Vec::<String>::new());
    }
}

#[test]
fn an_empty_status_gives_the_default_state() {
    let read = RolloutStatus::read(serde_json::json!({}));
    assert_eq!(read, PersistedStatus::default());
    assert_eq!(read.status.state, State::default());
}

#[test]
fn a_status_of_another_version_is_read_field_by_field() {
    let read = RolloutStatus::read(serde_json::json!({
        "schemaVersion": 2, "stage": "Previewing", "stableRevision": "v1",
        "conditions": "of another type", "readyReplicas": 3,
    }));
    assert_eq!(read.status.state.stable_revision, Some(Revision::new("v1")));
    assert_eq!(read.status.ready_replicas, 3);
    let problem = read.incompatibility.unwrap();
    assert!(
        problem.contains("schemaVersion is 2") && problem.contains("Previewing"),
        "{problem}"
    );
    assert!(!problem.contains("conditions"), "they are written again");
    assert!(
        read.unreadable
            .iter()
            .any(|unreadable| unreadable.field == "conditions"),
        "{:?}",
        read.unreadable
    );
}
