use super::*;
use crate::context::test_plan;
use crate::observed::{AnalysisReport, ReplicaSetView};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn group(revision: &str, pods: u32) -> PodGroup {
    PodGroup {
        revision: Revision::new(revision),
        pods,
        since: at(0),
    }
}

/// Without Services: the ReplicaSets with pods, the newest first.
fn by_age(groups: &[(&str, u32)]) -> ObservedWorkload {
    ObservedWorkload {
        controller: Some("Deployment/checkout".into()),
        replica_sets: groups
            .iter()
            .map(|(name, pods)| group(name, *pods))
            .collect(),
        services: None,
    }
}

/// With two Services.
fn by_services(stable: &str, canary: &str) -> ObservedWorkload {
    let revision = |name: &str| (!name.is_empty()).then(|| Revision::new(name));
    ObservedWorkload {
        services: Some(ServiceRevisions {
            stable: revision(stable),
            canary: revision(canary),
        }),
        ..by_age(&[(canary, 1), (stable, 3)])
    }
}

/// Stable and current revision, stage, and the results so far.
fn position(state: &State) -> String {
    let name =
        |revision: &Option<Revision>| revision.as_ref().map_or("-", Revision::as_str).to_owned();
    let results = state
        .history
        .iter()
        .map(|record| format!("{:?}", record.result));
    format!(
        "{} {} {:?} {}",
        name(&state.stable_revision),
        name(&state.current_revision),
        state.stage,
        results.collect::<Vec<_>>().join(",")
    )
}

/// Follows a sequence of observations, one every 10 seconds, and returns the positions.
fn positions(seen: &[ObservedWorkload]) -> Vec<String> {
    let mut state = State::default();
    let mut second = 0;
    let mut position_after = |seen: &ObservedWorkload| {
        second += 10;
        follow(&mut state, seen, at(second));
        position(&state)
    };
    seen.iter().map(&mut position_after).collect()
}

#[test]
fn a_rolling_update_is_a_release_from_the_first_new_pod_to_the_last_old_one() {
    assert_eq!(
        positions(&[
            by_age(&[("v1", 3)]),
            by_age(&[("v2", 1), ("v1", 3)]),
            by_age(&[("v2", 3), ("v1", 1)]),
            by_age(&[("v2", 3)]),
        ]),
        [
            "v1 v1 Stable ",
            "v1 v2 Progressing ",
            "v1 v2 Progressing ",
            "v2 v2 Stable Promoted",
        ]
    );
}

#[test]
fn an_undone_rolling_update_is_a_rollback() {
    // `kubectl rollout undo` makes the ReplicaSet of v1 the newest.
    assert_eq!(
        positions(&[
            by_age(&[("v1", 3)]),
            by_age(&[("v2", 1), ("v1", 3)]),
            by_age(&[("v1", 3), ("v2", 1)]),
            by_age(&[("v1", 3)]),
        ])[2..],
        ["v1 v2 Progressing ", "v1 v1 Stable Aborted"]
    );
}

#[test]
fn a_newer_revision_supersedes_the_release() {
    assert_eq!(
        positions(&[
            by_age(&[("v2", 1), ("v1", 3)]),
            by_age(&[("v3", 1), ("v2", 1), ("v1", 2)]),
            by_age(&[("v3", 3)]),
        ]),
        [
            "v1 v2 Progressing ",
            "v1 v3 Progressing Superseded",
            "v3 v3 Stable Superseded,Promoted",
        ]
    );
}

#[test]
fn the_services_of_a_canary_tell_the_revisions_apart() {
    // Argo Rollouts: both Services select the stable revision while there is no release.
    assert_eq!(
        positions(&[
            by_services("v1", "v1"),
            by_services("v1", "v2"),
            by_services("v1", "v1"),
            by_services("v1", "v2"),
            by_services("v2", "v2"),
        ]),
        [
            "v1 v1 Stable ",
            "v1 v2 Progressing ",
            "v1 v1 Stable Aborted",
            "v1 v2 Progressing Aborted",
            "v2 v2 Stable Aborted,Promoted",
        ]
    );
}

#[test]
fn pods_that_are_left_after_a_promotion_begin_no_release() {
    // Flagger: the primary pods get the template of the canary, and then the canary has no pods.
    assert_eq!(
        positions(&[
            by_services("p1", ""),
            by_services("p1", "c2"),
            by_services("p2", "c2"),
            by_services("p2", ""),
            by_services("p2", "c3"),
        ]),
        [
            "p1 p1 Stable ",
            "p1 c2 Progressing ",
            "p2 p2 Stable Promoted",
            "p2 p2 Stable Promoted",
            "p2 c3 Progressing Promoted",
        ]
    );
}

#[test]
fn a_workload_without_pods_keeps_its_revision() {
    assert_eq!(
        positions(&[
            by_age(&[]),
            by_age(&[("v1", 3)]),
            by_age(&[]),
            by_age(&[("v1", 1)])
        ]),
        [
            "- - Stable ",
            "v1 v1 Stable ",
            "v1 v1 Stable ",
            "v1 v1 Stable "
        ]
    );
}

#[test]
fn the_share_of_the_canary_is_that_of_its_pods() {
    let mut state = State::default();
    follow(&mut state, &by_age(&[("v2", 1), ("v1", 3)]), at(1));
    assert_eq!(state.weights.desired, Weight::percent(25));
    follow(&mut state, &by_age(&[("v2", 3)]), at(2));
    assert_eq!(state.weights.desired, Weight::ZERO);
}

fn releasing() -> State {
    let mut state = State::default();
    follow(&mut state, &by_age(&[("v2", 1), ("v1", 3)]), at(1));
    state
}

fn record(state: &mut State, report: AnalysisReport, second: i64) -> Vec<Reason> {
    let observed = Observed {
        state: state.clone(),
        analysis: Some(report),
        ..Observed::default()
    };
    record_decision(state, &observed, &test_plan(), at(second))
}

fn decision(state: &State) -> Option<HypotheticalDecision> {
    state.observation.clone()?.release?.would_have
}

#[test]
fn the_first_decision_counts() {
    let mut state = releasing();
    assert_eq!(
        record(&mut state, AnalysisReport::undecided("early", at(1)), 2),
        []
    );
    assert_eq!(decision(&state), None);
    let breach = AnalysisReport::breached(AbortCause::Evidence, "canary fails more often");
    let reasons = record(&mut state, breach, 3);
    assert_eq!(reasons[0].code, "WouldRollBack");
    let sufficient = AnalysisReport {
        ready_to_promote: true,
        ..AnalysisReport::undecided("as good as stable", at(1))
    };
    assert_eq!(record(&mut state, sufficient, 4), []);
    let decision = decision(&state).unwrap();
    assert_eq!(decision.result, HypotheticalResult::RolledBack);
    assert_eq!(
        (decision.cause, decision.at),
        (Some(AbortCause::Evidence), at(3))
    );
    let message = "Observing Deployment/checkout: v2 is being released. Serin would have rolled \
                   it back at 1970-01-01T00:00:03Z: canary fails more often";
    assert_eq!(state.message, message);
}

#[test]
fn sufficient_evidence_would_have_promoted_the_release() {
    let mut state = releasing();
    let sufficient = AnalysisReport {
        ready_to_promote: true,
        ..AnalysisReport::undecided("as good as stable", at(1))
    };
    let reasons = record(&mut state, sufficient, 4);
    assert_eq!(reasons[0].code, "WouldPromote");
    follow(&mut state, &by_age(&[("v2", 3)]), at(9));
    let kept = decision(&state).unwrap();
    assert_eq!(
        (kept.result, kept.at),
        (HypotheticalResult::Promoted, at(4))
    );
    assert!(state.history[0].message.contains("would have promoted it"));
}

#[test]
fn a_crash_loop_would_have_rolled_the_release_back() {
    let mut state = releasing();
    let canary = ReplicaSetView {
        name: "checkout-v2".to_owned(),
        crash: Some("CrashLoopBackOff".to_owned()),
        ..ReplicaSetView::default()
    };
    let observed = Observed {
        state: state.clone(),
        replica_sets: [(Revision::new("v2"), canary)].into(),
        ..Observed::default()
    };
    record_decision(&mut state, &observed, &test_plan(), at(5));
    assert_eq!(decision(&state).unwrap().cause, Some(AbortCause::PodCrash));
}

#[test]
fn a_release_that_was_decided_is_not_decided_again_after_its_end() {
    let mut state = releasing();
    follow(&mut state, &by_age(&[("v1", 3)]), at(6));
    let breach = AnalysisReport::breached(AbortCause::Evidence, "late");
    assert_eq!(record(&mut state, breach, 7), []);
    assert_eq!(decision(&state), None);
    assert!(
        state
            .message
            .contains("was rolled back. Serin would not have decided yet")
    );
}
