//! Takeover of a Deployment's pods and their return: the order of the effects.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use jiff::Timestamp;
use serin_core::command::{Command, CommandResult, Verb};
use serin_core::decide;
use serin_core::effect::{Decision, Effect};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::{
    AdoptableReplicaSet, DeploymentView, Observed, ReplicaSetView, WorkloadView,
};
use serin_core::plan::{Adoption, Plan, Takeover, Workload};
use serin_core::state::{AdoptedWorkload, Stage, WorkloadPhase};
use serin_core::units::Revision;
use world::*;

fn adopting_plan() -> Plan {
    Plan {
        workload: Workload::Adopted(Adoption {
            deployment: "shop".to_owned(),
            reads_template: true,
            takeover: Takeover::InPlace,
        }),
        ..plan(4, Vec::new())
    }
}

fn running_deployment() -> DeploymentView {
    DeploymentView {
        paused: false,
        is_observed: true,
        replicas: 4,
        updated: 4,
        pods: 4,
    }
}

fn workload(deployment: Option<DeploymentView>) -> WorkloadView {
    WorkloadView {
        name: "shop".to_owned(),
        deployment,
        replica_set: Some(AdoptableReplicaSet {
            name: "shop-abc".to_owned(),
            revision: Revision::new("abc"),
        }),
        idle_replica_sets: Vec::new(),
        hold: None,
        return_problem: None,
    }
}

fn observed(view: WorkloadView) -> Observed {
    Observed {
        plan_hash: Some("hash".to_owned()),
        workload: Some(view),
        spec_replicas: 4,
        ..Observed::default()
    }
}

fn taking_over(view: WorkloadView) -> Observed {
    let mut observed = observed(view);
    observed.state.workload = Some(AdoptedWorkload {
        deployment: "shop".to_owned(),
        phase: WorkloadPhase::TakingOver,
        since: Timestamp::UNIX_EPOCH,
    });
    observed
}

fn own_set(unlabelled: u32, is_stale: bool) -> ReplicaSetView {
    ReplicaSetView {
        name: "shop-abc".to_owned(),
        desired: 4,
        current: 4 - unlabelled,
        available: 4 - unlabelled,
        unlabelled,
        is_stale,
        ..ReplicaSetView::default()
    }
}

fn decision(observed: &Observed) -> Decision {
    decide(&adopting_plan(), observed, Timestamp::UNIX_EPOCH).unwrap()
}

#[test]
fn a_replica_set_changes_its_controller_only_after_the_pause_was_seen() {
    let begun = decision(&observed(workload(Some(running_deployment()))));
    let pause = Effect::PauseDeployment {
        name: "shop".to_owned(),
    };
    let taking = begun.state.workload.as_ref().map(|taken| taken.phase);
    assert_eq!(taking, Some(WorkloadPhase::TakingOver));
    assert_eq!(begun.effects, [pause]);
    let mut deployment = running_deployment();
    deployment.paused = true;
    deployment.is_observed = false;
    let unseen = decision(&taking_over(workload(Some(deployment.clone()))));
    assert_eq!(unseen.effects, []);
    deployment.is_observed = true;
    let take = [Effect::TakeReplicaSet {
        revision: Revision::new("abc"),
        name: "shop-abc".to_owned(),
    }];
    let seen = decision(&taking_over(workload(Some(deployment))));
    assert_eq!(seen.effects, take);
    // Nobody can act on the ReplicaSet of a Deployment that is gone.
    let gone = decision(&taking_over(workload(None)));
    assert_eq!(gone.effects, take);
}

#[test]
fn the_replica_set_that_serves_is_taken_last() {
    let mut deployment = running_deployment();
    deployment.paused = true;
    let mut view = workload(Some(deployment));
    view.idle_replica_sets = vec![AdoptableReplicaSet {
        name: "shop-old".to_owned(),
        revision: Revision::new("old"),
    }];
    let taken = |view: &WorkloadView| {
        let effects = decision(&taking_over(view.clone())).effects;
        let names = effects.into_iter().map(|effect| match effect {
            Effect::TakeReplicaSet { name, .. } => name,
            other => format!("{other:?}"),
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(taken(&view), ["shop-old"]);
    view.idle_replica_sets.clear();
    assert_eq!(taken(&view), ["shop-abc"]);
}

#[test]
fn the_revision_is_stable_once_all_of_its_pods_are_known_to_have_their_labels() {
    let mut deployment = running_deployment();
    deployment.paused = true;
    let mut view = workload(Some(deployment));
    view.replica_set = None;
    for (unlabelled, is_stale, is_stable) in [(2, false, false), (0, true, false), (0, false, true)]
    {
        let mut observed = taking_over(view.clone());
        let set = own_set(unlabelled, is_stale);
        observed.replica_sets.insert(Revision::new("abc"), set);
        let decision = decision(&observed);
        let has_labels = |effect: &Effect| matches!(effect, Effect::LabelPods { .. });
        assert_eq!(decision.effects.iter().any(has_labels), unlabelled > 0);
        let creates = |effect: &Effect| matches!(effect, Effect::CreateReplicaSet { .. });
        assert!(!decision.effects.iter().any(creates));
        assert_eq!(decision.state.stage == Stage::Stable, is_stable);
        let stable = decision.state.stable_revision;
        assert_eq!(stable.is_some(), is_stable, "{unlabelled} {is_stale}");
    }
}

#[test]
fn a_deployment_that_cannot_be_taken_over_is_not_paused() {
    let mut view = workload(Some(running_deployment()));
    view.hold = Some(Hold::new(HoldCode::WorkloadAutoscaled, "scaled by web"));
    let decision = decision(&observed(view));
    assert_eq!(decision.effects, []);
    assert_eq!(decision.state.workload, None);
    assert_eq!(decision.state.message.to_string(), "scaled by web");
    assert_eq!(decision.state.holds[0].code, HoldCode::WorkloadAutoscaled);
}

#[test]
fn pods_that_would_be_replaced_are_not_given_back() {
    let mut view = workload(Some(running_deployment()));
    view.replica_set = None;
    view.return_problem = Some("another template".into());
    let mut observed = observed(view);
    observed.state.stage = Stage::Stable;
    observed.state.stable_revision = Some(Revision::new("abc"));
    observed.state.current_revision = Some(Revision::new("abc"));
    observed
        .replica_sets
        .insert(Revision::new("abc"), own_set(0, false));
    observed.commands = vec![Command {
        uid: "1".to_owned(),
        name: "back".to_owned(),
        verb: Verb::GiveBack,
        required_revision: None,
        required_step: None,
        adopt_analysis: false,
        reason: None,
        requested_by: None,
        created_at: Timestamp::UNIX_EPOCH,
        authorization: serin_core::command::Authorization::Verified,
    }];
    let refused = decision(&observed);
    let outcome = refused.state.commands[0].outcome.clone();
    assert_eq!(outcome.result, CommandResult::Refused);
    assert_eq!(outcome.message.to_string(), "another template");
    assert_eq!(refused.state.workload, None);
}
