//! Takes over the pods of a Deployment without a restart, and gives them back.
//!
//! The Rollout becomes the controller of the ReplicaSet that serves. The order of the writes keeps
//! every pod: the Deployment is paused, and only when its controller has seen that, its ReplicaSet
//! gets another controller, in one write. The pods get the labels of the Rollout, and only when the
//! controllers of Kubernetes have seen these labels, a Service selects them. Each step follows from
//! what is observed, so that a new controller continues wherever the last one stopped.

use crate::command::{Command, CommandOutcome};
use crate::context::{Context, Transition};
use crate::converge::bindings;
use crate::effect::Effect;
use crate::hold::{Hold, HoldCode};
use crate::observed::{Observed, ReplicaSetView, WorkloadView};
use crate::plan::{Adoption, DeploymentScaleDown, Plan, Takeover};
use crate::state::{AdoptedWorkload, Phase, Stage, State, WorkloadPhase};
use crate::units::Revision;

/// Whether the Rollout does not manage the pods yet, or no longer: it waits for a takeover, or
/// gives the pods back. Nothing is released meanwhile.
///
/// `view` is the Deployment of the plan, if it names one.
pub fn is_takeover_pending(plan: &Plan, state: &State, view: Option<&WorkloadView>) -> bool {
    match phase(state) {
        Some(WorkloadPhase::TakenOver) => false,
        Some(_) => true,
        None => {
            let is_new = state.stable_revision.is_none() && state.current_revision.is_none();
            let in_place = plan.workload.adoption().is_some_and(is_in_place);
            let exists = view.is_some_and(WorkloadView::exists);
            is_new && in_place && exists
        }
    }
}

/// Whether releases may start.
pub(crate) fn is_settled(cx: &Context<'_>, state: &State) -> bool {
    !is_takeover_pending(cx.plan, state, cx.observed.workload.as_ref())
}

fn is_in_place(adoption: &Adoption) -> bool {
    adoption.takeover == Takeover::InPlace
}

fn phase(state: &State) -> Option<WorkloadPhase> {
    state.workload.as_ref().map(|workload| workload.phase)
}

impl WorkloadView {
    /// Whether there is anything to take over.
    fn exists(&self) -> bool {
        self.deployment.is_some() || self.replica_set.is_some()
    }
}

impl ReplicaSetView {
    /// Whether the controllers of Kubernetes have seen the labels of the template on every pod, so
    /// that a selector of these labels selects them all.
    pub(crate) fn has_confirmed_labels(&self) -> bool {
        self.unlabelled == 0 && !self.is_stale
    }
}

/// Advances a takeover or a return as far as the observation allows.
pub(crate) fn advance(cx: &Context<'_>, transition: &mut Transition) {
    let Some(view) = &cx.observed.workload else {
        return;
    };
    match phase(&transition.state) {
        None => {
            let is_pending = !is_settled(cx, &transition.state);
            // A Rollout that was deleted without its pods finds a ReplicaSet that is its own.
            let has_set = view.replica_set.is_some() || serving_set(cx.observed).is_some();
            if is_pending && view.hold.is_none() && has_set {
                let message = format!("taking over the pods of Deployment {}", view.name);
                transition.normal("TakeoverStarted", message);
                enter(cx, transition, view, WorkloadPhase::TakingOver);
            }
        }
        Some(WorkloadPhase::TakingOver) => finish_takeover(cx, transition, view),
        Some(WorkloadPhase::GivingBack) => {
            let is_complete = give_back_of(cx, &transition.state)
                .is_some_and(|give_back| give_back_effects(&give_back).is_none());
            if is_complete {
                let message = format!("the pods belong to Deployment {} again", view.name);
                transition.normal("WorkloadGivenBack", message);
                enter(cx, transition, view, WorkloadPhase::GivenBack);
            }
        }
        Some(WorkloadPhase::TakenOver | WorkloadPhase::GivenBack) => {}
    }
}

fn enter(cx: &Context<'_>, transition: &mut Transition, view: &WorkloadView, phase: WorkloadPhase) {
    transition.state.workload = Some(AdoptedWorkload {
        deployment: view.name.clone(),
        phase,
        since: cx.now,
    });
}

/// Makes the revision that was taken over the stable one, once all of its pods have their labels.
fn finish_takeover(cx: &Context<'_>, transition: &mut Transition, view: &WorkloadView) {
    if view.replica_set.is_some() || !view.idle_replica_sets.is_empty() {
        return;
    }
    let Some((revision, set)) = serving_set(cx.observed) else {
        if !view.exists() {
            // Somebody deleted the Deployment with its pods.
            transition.state.workload = None;
        }
        return;
    };
    if set.has_confirmed_labels() {
        let revision = revision.clone();
        transition.normal(
            "TakenOver",
            format!(
                "the pods of Deployment {} are revision {revision} now; none was restarted",
                view.name
            ),
        );
        enter(cx, transition, view, WorkloadPhase::TakenOver);
        let message = format!("taken over from Deployment {}", view.name);
        inherit(cx, transition, revision, &message);
    }
}

/// The Rollout's ReplicaSet with the most available pods.
fn serving_set(observed: &Observed) -> Option<(&Revision, &ReplicaSetView)> {
    let sets = observed.replica_sets.iter();
    let active = sets.filter(|(_, set)| set.desired > 0 || set.current > 0);
    active.max_by_key(|(_, set)| (set.available, set.created_at))
}

/// Makes a revision stable whose pods serve already, without a release of its own.
fn inherit(cx: &Context<'_>, transition: &mut Transition, revision: Revision, message: &str) {
    transition.state.current_revision = Some(revision);
    transition.become_stable(cx.now, message);
}

/// Makes the revision stable whose pods a Rollout without a status finds: it was deleted without
/// its pods and created again. Otherwise a first deployment of another template would remove them.
pub(crate) fn inherit_orphans(cx: &Context<'_>, transition: &mut Transition) {
    let state = &transition.state;
    if state.stable_revision.is_some() || state.current_revision.is_some() {
        return;
    }
    let found = serving_set(cx.observed).filter(|(_, set)| set.available > 0);
    if let Some((revision, _)) = found {
        let revision = revision.clone();
        transition.normal(
            "OrphansAdopted",
            format!("revision {revision} serves already: it is the stable one"),
        );
        inherit(cx, transition, revision, "found serving");
    }
}

/// Everything about the Deployment that holds the Rollout.
pub(crate) fn hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    let view = cx.observed.workload.as_ref()?;
    let name = &view.name;
    let moving = |message: String| Some(Hold::new(HoldCode::WorkloadTakeover, message));
    match phase(state) {
        Some(WorkloadPhase::GivenBack) => {
            let message = format!("the pods were given back to Deployment {name}");
            Some(Hold::new(HoldCode::WorkloadGivenBack, message))
        }
        Some(WorkloadPhase::GivingBack) => {
            moving(format!("giving the pods back to Deployment {name}"))
        }
        Some(WorkloadPhase::TakingOver) => {
            moving(format!("taking over the pods of Deployment {name}"))
        }
        None if !is_settled(cx, state) => view
            .hold
            .clone()
            .or_else(|| moving(format!("waiting for the pods of Deployment {name}"))),
        Some(WorkloadPhase::TakenOver) | None => settled_hold(cx, state, view),
    }
}

fn settled_hold(cx: &Context<'_>, state: &State, view: &WorkloadView) -> Option<Hold> {
    let name = &view.name;
    let adoption = cx.plan.workload.adoption();
    let Some(deployment) = &view.deployment else {
        let message = format!("Deployment {name} does not exist; the last template stays in use");
        let is_template = adoption.is_some_and(|adoption| adoption.reads_template);
        return is_template.then(|| Hold::new(HoldCode::WorkloadMissing, message));
    };
    let is_taken = phase(state) == Some(WorkloadPhase::TakenOver);
    (is_taken && (!deployment.paused || deployment.pods > 0)).then(|| {
        let pods = deployment.pods;
        let message = format!("Deployment {name} was resumed and has {pods} pods of its own");
        Hold::new(HoldCode::WorkloadResumed, message)
    })
}

/// The phase and the message while the Rollout does not manage the pods.
pub(crate) fn describe(cx: &Context<'_>, state: &State) -> Option<(Phase, String)> {
    if is_settled(cx, state) {
        return None;
    }
    let hold = hold(cx, state)?;
    let phase = match hold.code {
        HoldCode::WorkloadTakeover | HoldCode::WorkloadProgressing => Phase::Progressing,
        HoldCode::WorkloadGivenBack => Phase::Paused,
        _ => Phase::Degraded,
    };
    Some((phase, hold.message.to_string()))
}

/// The effects while the Rollout does not manage the pods. `None` if it does.
pub(crate) fn exclusive_effects(cx: &Context<'_>, state: &State) -> Option<Vec<Effect>> {
    if is_settled(cx, state) {
        return None;
    }
    let view = cx.observed.workload.as_ref();
    match phase(state) {
        Some(WorkloadPhase::TakingOver) => {
            Some(view.map_or_else(Vec::new, |view| takeover_effects(cx, view)))
        }
        // The pods of earlier revisions drain first: a Service of the user selects them, too.
        Some(WorkloadPhase::GivingBack) if has_other_pods(cx, state) => None,
        Some(WorkloadPhase::GivingBack) => {
            let give_back = give_back_of(cx, state);
            let effects = give_back.and_then(|give_back| give_back_effects(&give_back));
            Some(effects.unwrap_or_default())
        }
        Some(WorkloadPhase::TakenOver | WorkloadPhase::GivenBack) | None => Some(Vec::new()),
    }
}

fn takeover_effects(cx: &Context<'_>, view: &WorkloadView) -> Vec<Effect> {
    let mut effects = label_effects(cx);
    if view.replica_set.is_none() && view.idle_replica_sets.is_empty() {
        return effects;
    }
    match &view.deployment {
        Some(deployment) if !deployment.paused && view.hold.is_none() => {
            effects.push(Effect::PauseDeployment {
                name: view.name.clone(),
            });
        }
        Some(deployment) if !deployment.paused || !deployment.is_observed => {}
        Some(_) | None => effects.extend(take_effects(view)),
    }
    effects
}

/// The ReplicaSets to take next. Those without pods come first, and the one that serves only when
/// they are taken: a paused Deployment without an active ReplicaSet scales its newest one up.
fn take_effects(view: &WorkloadView) -> Vec<Effect> {
    let serving = view
        .replica_set
        .iter()
        .filter(|_| view.idle_replica_sets.is_empty());
    let sets = view.idle_replica_sets.iter().chain(serving);
    sets.map(|set| Effect::TakeReplicaSet {
        revision: set.revision.clone(),
        name: set.name.clone(),
    })
    .collect()
}

fn label_effects(cx: &Context<'_>) -> Vec<Effect> {
    let sets = cx.observed.replica_sets.iter();
    let unlabelled = sets.filter(|(_, set)| set.unlabelled > 0);
    unlabelled
        .map(|(revision, set)| Effect::LabelPods {
            revision: revision.clone(),
            name: set.name.clone(),
        })
        .collect()
}

/// The effects that keep a workload that was taken over, besides those of a release.
pub(crate) fn upkeep_effects(cx: &Context<'_>, state: &State) -> Vec<Effect> {
    let mut effects = label_effects(cx);
    let deployment = cx
        .observed
        .workload
        .as_ref()
        .and_then(|view| Some((&view.name, view.deployment.as_ref()?)));
    let Some((name, deployment)) = deployment else {
        return effects;
    };
    if phase(state) == Some(WorkloadPhase::TakenOver) && !deployment.paused {
        effects.push(Effect::PauseDeployment { name: name.clone() });
    }
    let takeover = cx
        .plan
        .workload
        .adoption()
        .map(|adoption| adoption.takeover);
    if let Some(Takeover::SecondFleet(mode)) = takeover {
        let replicas = second_fleet_target(cx, state, mode, deployment.replicas);
        if replicas < deployment.replicas {
            effects.push(Effect::ScaleDeployment {
                name: name.clone(),
                replicas,
            });
        }
    }
    effects
}

/// The replicas of a Deployment beside which the Rollout has pods of its own: no more are removed
/// than the Rollout has available pods that serve.
fn second_fleet_target(
    cx: &Context<'_>,
    state: &State,
    mode: DeploymentScaleDown,
    replicas: u32,
) -> u32 {
    let stable = state.stable_revision.as_ref();
    let revision = stable.or(state.current_revision.as_ref());
    let set = revision.and_then(|revision| cx.observed.replica_sets.get(revision));
    let available = set.map_or(0, |set| set.available);
    let has_services = cx.plan.services().is_some();
    let serves = !has_services || bindings::stable_serves(cx, stable);
    let is_complete = stable.is_some() && available >= cx.plan.replicas && serves;
    match mode {
        DeploymentScaleDown::Never => replicas,
        _ if is_complete => 0,
        DeploymentScaleDown::Progressively if !has_services => {
            replicas.min(cx.plan.replicas.saturating_sub(available))
        }
        DeploymentScaleDown::OnSuccess | DeploymentScaleDown::Progressively => replicas,
    }
}

/// What is observed of a workload that is given back.
#[derive(Clone, Copy, Debug)]
pub struct GiveBack<'a> {
    /// The Deployment.
    pub view: &'a WorkloadView,
    /// The revision to give back, and the name of its ReplicaSet while the Rollout controls it.
    pub replica_set: Option<(&'a Revision, &'a str)>,
    /// Whether the Services and routes are as their users wrote them.
    pub is_restored: bool,
}

/// The next effects of giving a workload back. `None` if it is complete.
pub fn give_back_effects(give_back: &GiveBack<'_>) -> Option<Vec<Effect>> {
    let view = give_back.view;
    let name = view.name.clone();
    let owned = give_back.replica_set;
    let Some(deployment) = &view.deployment else {
        let create = |(revision, _): (&Revision, &str)| {
            let revision = revision.clone();
            vec![Effect::CreateDeployment { name, revision }]
        };
        return owned.map(create);
    };
    match owned {
        Some(_) if !give_back.is_restored => Some(vec![Effect::RestoreObjects]),
        Some(_) if !deployment.paused => Some(vec![Effect::PauseDeployment { name }]),
        Some(_) if !deployment.is_observed => Some(Vec::new()),
        Some((revision, set)) => Some(vec![Effect::ReturnReplicaSet {
            revision: revision.clone(),
            name: set.to_owned(),
            deployment: name,
        }]),
        None if !deployment.paused => None,
        // The Deployment controller has recognized the ReplicaSet as its current one. Otherwise it
        // would replace the pods.
        None if deployment.is_observed && deployment.updated >= deployment.replicas => {
            Some(vec![Effect::ResumeDeployment { name }])
        }
        None => Some(Vec::new()),
    }
}

fn give_back_of<'a>(cx: &'a Context<'_>, state: &'a State) -> Option<GiveBack<'a>> {
    let stable = state.stable_revision.as_ref();
    let sets = &cx.observed.replica_sets;
    let service = cx.observed.stable_service.as_ref();
    Some(GiveBack {
        view: cx.observed.workload.as_ref()?,
        replica_set: stable
            .and_then(|revision| Some((revision, sets.get(revision)?.name.as_str()))),
        is_restored: service.is_none_or(|service| service.selects.is_none()),
    })
}

/// Whether a revision other than the stable one has pods.
fn has_other_pods(cx: &Context<'_>, state: &State) -> bool {
    let stable = state.stable_revision.as_ref();
    let mut sets = cx.observed.replica_sets.iter();
    sets.any(|(revision, set)| Some(revision) != stable && (set.desired > 0 || set.current > 0))
}

/// Carries out the command `giveBack`.
pub(crate) fn give_back(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
) -> CommandOutcome {
    let Some(view) = &cx.observed.workload else {
        return CommandOutcome::refused("the Deployment is not known yet: try again");
    };
    match phase(&transition.state) {
        Some(WorkloadPhase::GivingBack | WorkloadPhase::GivenBack) => {
            return CommandOutcome::done("the pods are given back already");
        }
        Some(WorkloadPhase::TakingOver) => {
            return CommandOutcome::refused("the takeover is not complete: wait for it");
        }
        Some(WorkloadPhase::TakenOver) | None => {}
    }
    if transition.state.stage != Stage::Stable {
        return CommandOutcome::refused(
            "the current revision is not stable: wait for the release, or abort it and declare the \
             stable revision again",
        );
    }
    let takeover = cx
        .plan
        .workload
        .adoption()
        .map(|adoption| adoption.takeover);
    if matches!(takeover, Some(Takeover::SecondFleet(_))) {
        return CommandOutcome::refused(
            "the Deployment has pods of its own: scale it up, then delete the Rollout",
        );
    }
    if let Some(problem) = &view.return_problem {
        return CommandOutcome::refused(problem.clone());
    }
    let message = format!(
        "command {} gives the pods back to Deployment {}",
        command.name, view.name
    );
    transition.normal("GiveBackStarted", message);
    enter(cx, transition, view, WorkloadPhase::GivingBack);
    CommandOutcome::done(format!(
        "the pods are given back to Deployment {}; none is restarted",
        view.name
    ))
}

/// Carries out `resume` for a workload that was given back. `None` if it was not.
pub(crate) fn take_again(cx: &Context<'_>, transition: &mut Transition) -> Option<CommandOutcome> {
    if phase(&transition.state) != Some(WorkloadPhase::GivenBack) {
        return None;
    }
    if cx.plan.workload.adoption().is_none() {
        return Some(CommandOutcome::refused(
            "the Rollout names no Deployment to take over: set spec.adopt or spec.workloadRef",
        ));
    }
    let state = &mut transition.state;
    state.workload = None;
    state.stable_revision = None;
    state.current_revision = None;
    transition.enter_stage(Stage::FirstDeploy, cx.now);
    Some(CommandOutcome::done("the pods are taken over again"))
}
