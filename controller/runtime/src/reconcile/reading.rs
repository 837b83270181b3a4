//! What a Rollout asks for, as far as it can be used.

use serin_core::plan::Plan;
use serin_core::state::State;
use serin_crds::RolloutSpec;
use serin_crds::plan::plan_hash;

use crate::world::RolloutObject;

/// The spec as far as it can be used.
pub(super) struct Reading<'a> {
    pub spec: Option<&'a RolloutSpec>,
    /// The spec's plan, or else the plan in force.
    pub plan: Option<Plan>,
    /// The hash of the spec's plan, where that is the one.
    pub hash: Option<String>,
    /// Why the spec cannot be used.
    pub problem: Option<String>,
}

impl<'a> Reading<'a> {
    pub(super) fn of(rollout: &'a RolloutObject, state: &State) -> Self {
        let in_force = || state.plan.as_ref().map(|plan| plan.spec.clone());
        let name = rollout.metadata.name.as_deref().unwrap_or_default();
        match &rollout.spec {
            Err(problem) => Self { spec: None, plan: in_force(), hash: None, problem: Some(problem.clone()) },
            Ok(spec) => match spec.plan(name) {
                Ok(plan) => Self { spec: Some(spec), hash: Some(plan_hash(&plan)), plan: Some(plan), problem: None },
                Err(problem) => {
                    Self { spec: Some(spec), plan: in_force(), hash: None, problem: Some(problem.to_string()) }
                }
            },
        }
    }
}
