//! The usable part of the spec.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serin_core::hold::HoldCode;
use serin_core::observed::ReplicasSource;
use serin_core::plan::Plan;
use serin_core::replicas::effective;
use serin_core::spec_change::keep_strategy;
use serin_core::state::{ActivePlan, State};
use serin_crds::RolloutSpec;
use serin_crds::plan::plan_hash;

use crate::cluster_cache::{PolicyProblem, RolloutObject};
use crate::journal::Attempt;
use crate::planner::{self, PlanCache, PlannedSpec, Planner};

/// Where the plan of a spec comes from.
pub(super) struct PlanSource<'a> {
    pub planner: &'a Planner,
    /// The plan of the generation, once it is made.
    pub cache: &'a mut PlanCache,
    /// The record of the first attempt of the generation, if this is one.
    pub attempt: Option<&'a Attempt>,
}

/// The spec, with the plan that applies.
pub(super) struct SpecView<'a> {
    pub spec: Option<&'a RolloutSpec>,
    /// The plan of the spec with the effective replica count, or else the active plan.
    pub plan: Option<Plan>,
    /// `spec.replicas` as stored.
    pub spec_replicas: u32,
    /// Who set `spec.replicas`.
    pub replicas_source: ReplicasSource,
    /// Whether the release in progress keeps its strategy although the spec has another one.
    pub keeps_strategy: bool,
    /// The hash of the plan. `None` if it is not the plan of the spec.
    pub hash: Option<String>,
    /// Why the spec is invalid.
    pub problem: Option<String>,
    /// Why the policies of the Rollout let no release begin. A release in progress, and a Rollout
    /// without one, continue.
    pub policy_problem: Option<PolicyProblem>,
    /// The code of the hold for `problem`. `None` for an invalid spec.
    pub problem_code: Option<HoldCode>,
    /// Time until the spec is checked again. `None` if only a changed spec is different.
    pub recheck_after: Option<Duration>,
    planned: Option<Arc<PlannedSpec>>,
}

impl<'a> SpecView<'a> {
    /// The view of a spec under a state.
    pub(super) async fn load(
        rollout: &'a Arc<RolloutObject>,
        source: PlanSource<'_>,
        state: &State,
        now: Timestamp,
    ) -> Self {
        let spec = match &rollout.spec {
            Err(problem) => return Self::from_active_plan(rollout, problem.clone(), state),
            Ok(spec) => &**spec,
        };
        let planned = source
            .planner
            .plan(rollout, source.cache, source.attempt)
            .await;
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                return Self {
                    recheck_after: Some(planner::RETRY_AFTER),
                    ..Self::from_active_plan(rollout, error.to_string(), state)
                };
            }
        };
        if let Some(problem) = rollout.policy_problem()
            && let Some(active) = &state.plan
        {
            return Self::under_policy_problem(rollout, problem, active, planned, state, now);
        }
        match &planned.plan {
            Ok(plan) => {
                let mut plan = plan.clone();
                let spec_replicas = plan.replicas;
                plan.replicas = effective(spec_replicas, rollout.replicas_source, state, now);
                let keeps_strategy = keep_strategy(&mut plan, state, now);
                let hash = if plan.replicas == spec_replicas && !keeps_strategy {
                    planned.plan_hash.clone()
                } else {
                    plan_hash(&plan)
                };
                Self {
                    spec: Some(spec),
                    plan: Some(plan),
                    spec_replicas,
                    replicas_source: rollout.replicas_source,
                    keeps_strategy,
                    hash: Some(hash),
                    problem: None,
                    policy_problem: None,
                    problem_code: None,
                    recheck_after: None,
                    planned: Some(planned),
                }
            }
            Err(problem) => Self::from_active_plan(rollout, problem.clone(), state),
        }
    }

    /// The view of a spec that has no plan. The active plan stays active.
    pub(super) fn from_active_plan(
        rollout: &'a RolloutObject,
        problem: String,
        state: &State,
    ) -> Self {
        let spec = rollout.spec.as_deref().ok();
        let plan = state.plan.as_ref().map(|plan| plan.spec.clone());
        Self {
            spec,
            spec_replicas: plan.as_ref().map_or(0, |plan| plan.replicas),
            plan,
            replicas_source: rollout.replicas_source,
            keeps_strategy: false,
            hash: None,
            problem: Some(problem),
            policy_problem: None,
            problem_code: rollout.policy_problem().map(|problem| problem.code),
            recheck_after: None,
            planned: None,
        }
    }

    /// The view of a Rollout whose policies cannot be applied. The active plan stays active, with the
    /// number of pods of the spec: a policy must not prevent a service from being scaled.
    fn under_policy_problem(
        rollout: &'a RolloutObject,
        problem: &PolicyProblem,
        active: &ActivePlan,
        planned: Arc<PlannedSpec>,
        state: &State,
        now: Timestamp,
    ) -> Self {
        let spec = rollout.spec.as_deref().ok();
        let written = spec.map_or(Some(0), |spec| spec.replicas);
        let spec_replicas = u32::try_from(written.unwrap_or(1)).unwrap_or(active.spec.replicas);
        let mut plan = active.spec.clone();
        plan.replicas = effective(spec_replicas, rollout.replicas_source, state, now);
        plan.paused = spec.and_then(|spec| spec.paused).unwrap_or(false);
        Self {
            spec,
            spec_replicas,
            replicas_source: rollout.replicas_source,
            keeps_strategy: false,
            hash: Some(plan_hash(&plan)),
            plan: Some(plan),
            problem: None,
            policy_problem: Some(problem.clone()),
            problem_code: None,
            recheck_after: None,
            planned: Some(planned),
        }
    }

    /// Lets no release begin because of the policies, if they cannot be applied.
    pub(super) fn hold_by_policy(&mut self) {
        if let Some(problem) = self.policy_problem.take() {
            self.problem = Some(problem.message);
            self.problem_code = Some(problem.code);
            self.hash = None;
        }
    }

    /// The spec with the hash of its template, or why it is invalid.
    pub(super) fn template(&self) -> Result<(&'a RolloutSpec, &str), String> {
        match (self.spec, &self.planned, &self.problem) {
            (Some(spec), Some(planned), None) => Ok((spec, &planned.template_hash)),
            (_, _, problem) => Err(problem.clone().unwrap_or_default()),
        }
    }
}
