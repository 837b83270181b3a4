//! The status of RolloutPolicies: the number of Rollouts that each applies to, and its problems.
//!
//! It is written rarely: at once only if the spec or its problems have changed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use serin_core::text::{Message, Name};
use serin_crds::names::FIELD_MANAGER;
use serin_crds::policy::PolicyProblem;
use serin_crds::{RolloutPolicy, RolloutPolicyStatus, api_status};
use serin_policy::validate;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cluster_cache::CachedPolicy;
use crate::cluster_cache::policies::count_matches;
use crate::reconcile::Context;

/// Interval at which the status is compared with what is true.
const INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which the status of a policy may be written only because of the number of Rollouts.
const COUNT_INTERVAL: Duration = Duration::from_secs(300);
/// Maximum time for one write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of problems in a status.
const MAX_PROBLEMS: usize = 8;
/// Maximum number of writes in one interval.
const MAX_WRITES: usize = 20;

/// The problems of each policy by name, for these versions of all policies.
#[derive(Default)]
struct Validation {
    versions: u64,
    problems: HashMap<String, Vec<PolicyProblem>>,
}

/// Keeps the status of all RolloutPolicies current while this process leads. Never returns.
pub async fn keep_policy_status(context: Arc<Context>) {
    context.cache.wait_until_synced().await;
    let mut validation = Validation::default();
    let mut written_at: HashMap<String, Instant> = HashMap::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let leadership = context.ownership.changes();
    loop {
        ticks.tick().await;
        let policies = context.cache.policies.policies.all();
        written_at.retain(|name, _| {
            let is_same = |policy: &Arc<CachedPolicy>| policy.identity.key.name == *name;
            policies.iter().any(is_same)
        });
        validation = validated(validation, &policies).await;
        let invalid = policies
            .iter()
            .filter(|policy| !validation.problems_of(policy).is_empty())
            .count();
        context
            .metrics
            .set_policies(policies.len() - invalid, invalid);
        let leads = *leadership.borrow();
        // Without the labels of the namespaces, it is not known which Rollouts match.
        if policies.is_empty() || !leads || context.cache.policies.awaits_namespaces() {
            continue;
        }
        let counts = count_matches(&context.cache);
        let mut writes = 0;
        for policy in policies {
            let name = &policy.identity.key.name;
            let count = counts.get(name).copied().unwrap_or_default();
            let next = status(&policy, count, validation.problems_of(&policy), &context);
            let was_counted = written_at
                .get(name)
                .is_some_and(|at| at.elapsed() < COUNT_INTERVAL);
            if !is_due(&policy.status, &next, was_counted) || writes >= MAX_WRITES {
                continue;
            }
            writes += 1;
            written_at.insert(name.clone(), Instant::now());
            context.metrics.record_api_write("RolloutPolicy", "patch");
            if let Err(error) = write(&context, &policy, &next).await {
                tracing::warn!(policy = %name, %error, "failed to write the status of a RolloutPolicy");
            }
        }
    }
}

impl Validation {
    fn problems_of(&self, policy: &CachedPolicy) -> &[PolicyProblem] {
        let problems = self.problems.get(&policy.identity.key.name);
        problems.map_or(&[], Vec::as_slice)
    }
}

/// Validates the policies, unless these versions were validated already. Policies contain PromQL
/// and CEL, so this happens outside of the worker threads.
async fn validated(before: Validation, policies: &[Arc<CachedPolicy>]) -> Validation {
    let mut sorted = policies.to_vec();
    sorted.sort_by(|one, other| one.identity.key.name.cmp(&other.identity.key.name));
    let mut hasher = DefaultHasher::new();
    for policy in &sorted {
        (&policy.identity.uid, policy.generation).hash(&mut hasher);
    }
    let versions = hasher.finish();
    if before.versions == versions {
        return before;
    }
    let problems = tokio::task::spawn_blocking(move || problems_of(&sorted)).await;
    Validation {
        versions,
        // The task fails only if the runtime shuts down, or if it panics. The problem then shows in
        // the Rollouts, which have their own plans.
        problems: problems.unwrap_or(before.problems),
    }
}

fn problems_of(policies: &[Arc<CachedPolicy>]) -> HashMap<String, Vec<PolicyProblem>> {
    let inputs: Vec<_> = policies.iter().map(|policy| policy.as_input()).collect();
    let problems = policies.iter().map(|policy| {
        let name = &policy.identity.key.name;
        let found = match &policy.spec {
            Err(problem) => vec![PolicyProblem {
                path: "spec".to_owned(),
                message: problem.clone(),
            }],
            Ok(_) => validate(name, &inputs)
                .into_iter()
                .take(MAX_PROBLEMS)
                .map(|problem| PolicyProblem {
                    path: Name::from(problem.path.as_str()).into(),
                    message: Message::from(problem.to_string()).into(),
                })
                .collect(),
        };
        (name.clone(), found)
    });
    problems.collect()
}

fn status(
    policy: &CachedPolicy,
    matched_rollouts: i32,
    problems: &[PolicyProblem],
    context: &Context,
) -> RolloutPolicyStatus {
    let (is_ready, reason, message) = match problems.first() {
        None => ("True", "Valid", String::new()),
        Some(problem) => ("False", "Invalid", problem.message.clone()),
    };
    let before = policy.status.conditions.iter();
    let before = before.filter(|condition| condition.type_ == "Ready");
    let since = before
        .filter(|condition| condition.status == is_ready)
        .map(|condition| condition.last_transition_time.clone())
        .next();
    RolloutPolicyStatus {
        observed_generation: policy.generation,
        matched_rollouts,
        problems: problems.to_vec(),
        conditions: vec![Condition {
            type_: "Ready".to_owned(),
            status: is_ready.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: Some(policy.generation),
            last_transition_time: since.unwrap_or_else(|| Time(context.clock.now())),
        }],
    }
}

/// Whether a status is written now. A new number of Rollouts alone is not urgent.
fn is_due(before: &RolloutPolicyStatus, next: &RolloutPolicyStatus, was_counted: bool) -> bool {
    let is_other = before.observed_generation != next.observed_generation
        || before.problems != next.problems
        || before.conditions.is_empty();
    is_other || (before.matched_rollouts != next.matched_rollouts && !was_counted)
}

async fn write(
    context: &Context,
    policy: &CachedPolicy,
    status: &RolloutPolicyStatus,
) -> Result<(), String> {
    let api: Api<RolloutPolicy> = Api::all(context.client.clone());
    let patch = json!({
        "metadata": {"uid": policy.identity.uid},
        "status": {
            "observedGeneration": status.observed_generation,
            "matchedRollouts": status.matched_rollouts,
            // An empty list would be left out, and the old one would stay.
            "problems": status.problems,
            "conditions": status.conditions,
        },
    });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let name = &policy.identity.key.name;
    let patch = Patch::Merge(&patch);
    match timeout(WRITE_TIMEOUT, api.patch_status(name, &params, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(response))) if api_status::is_missing_object(&response) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no response within {} s", WRITE_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_at_once_only_if_the_spec_or_its_problems_have_changed() {
        let written = RolloutPolicyStatus {
            observed_generation: 2,
            matched_rollouts: 7,
            conditions: vec![Condition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                reason: "Valid".to_owned(),
                message: String::new(),
                observed_generation: Some(2),
                last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            }],
            ..RolloutPolicyStatus::default()
        };
        assert!(!is_due(&written, &written, false));
        let counted = RolloutPolicyStatus {
            matched_rollouts: 8,
            ..written.clone()
        };
        assert!(is_due(&written, &counted, false));
        assert!(!is_due(&written, &counted, true));
        let edited = RolloutPolicyStatus {
            observed_generation: 3,
            ..counted.clone()
        };
        assert!(is_due(&written, &edited, true));
        assert!(is_due(&RolloutPolicyStatus::default(), &written, true));
    }
}
