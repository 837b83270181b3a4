//! The usable part of the spec.

use jiff::Timestamp;
use serin_core::observed::ReplicasSource;
use serin_core::plan::Plan;
use serin_core::replicas::effective;
use serin_core::state::State;
use serin_crds::RolloutSpec;
use serin_crds::plan::plan_hash;

use crate::cluster_cache::RolloutObject;

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
}

impl<'a> SpecView<'a> {
    pub(super) fn from_rollout(rollout: &'a RolloutObject, state: &State, now: Timestamp) -> Self {
        let name = rollout.metadata.name.as_deref().unwrap_or_default();
        let (spec, plan) = match &rollout.spec {
            Err(problem) => (None, Err(problem.clone())),
            Ok(spec) => (
                Some(&**spec),
                spec.plan(name).map_err(|problem| problem.to_string()),
            ),
        };
        let replicas_source = rollout.replicas_source;
        match plan {
            Ok(mut plan) => {
                let spec_replicas = plan.replicas;
                plan.replicas = effective(spec_replicas, replicas_source, state, now);
                let hash = Some(plan_hash(&plan));
                Self {
                    spec,
                    plan: Some(plan),
                    spec_replicas,
                    replicas_source,
                    hash,
                    problem: None,
                }
            }
            Err(problem) => {
                let plan = state.plan.as_ref().map(|plan| plan.spec.clone());
                let spec_replicas = plan.as_ref().map_or(0, |plan| plan.replicas);
                Self {
                    spec,
                    plan,
                    spec_replicas,
                    replicas_source,
                    hash: None,
                    problem: Some(problem),
                }
            }
        }
    }
}
