//! The usable part of the spec.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serin_core::observed::ReplicasSource;
use serin_core::plan::Plan;
use serin_core::replicas::effective;
use serin_core::state::State;
use serin_crds::RolloutSpec;
use serin_crds::plan::plan_hash;

use crate::cluster_cache::RolloutObject;
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
    /// The hash of the plan. `None` if it is not the plan of the spec.
    pub hash: Option<String>,
    /// Why the spec is invalid.
    pub problem: Option<String>,
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
        match &planned.plan {
            Ok(plan) => {
                let mut plan = plan.clone();
                let spec_replicas = plan.replicas;
                plan.replicas = effective(spec_replicas, rollout.replicas_source, state, now);
                let hash = if plan.replicas == spec_replicas {
                    planned.plan_hash.clone()
                } else {
                    plan_hash(&plan)
                };
                Self {
                    spec: Some(spec),
                    plan: Some(plan),
                    spec_replicas,
                    replicas_source: rollout.replicas_source,
                    hash: Some(hash),
                    problem: None,
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
            hash: None,
            problem: Some(problem),
            recheck_after: None,
            planned: None,
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
