//! The admission policy that verifies commands: whether it is in force.
//!
//! The API server evaluates the policy when a RolloutCommand is created. The controller cannot see
//! from a command whether that happened, so it looks up the policy and its binding, and refuses the
//! commands that were created without them.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::{
    NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client};
use serin_core::command::{Authorization, Command};
use serin_core::commands::over_pending_limit;
use serin_crds::api_status;
use serin_crds::names::GROUP;
use tokio::time::{sleep, timeout};

use crate::cluster_cache::{CachedCommand, ClusterCache, Key};
use crate::dispatcher::Dispatcher;
use crate::queue::Lane;
use crate::telemetry::Metrics;

/// Interval between two lookups.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(15);
/// Time until the first lookup is repeated if it fails. Commands wait for its result.
const FIRST_LOOKUP_RETRY: Duration = Duration::from_secs(2);
/// Maximum time for one lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from the creation of a policy until every API server enforces it.
const PROPAGATION: SignedDuration = SignedDuration::from_secs(5);

/// Whether the admission policy for commands is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PolicyStatus {
    /// The installation uses no policy. Commands are carried out, and their requesters are reported
    /// as unverified.
    #[default]
    NotConfigured,
    /// The policy has not been looked up yet. Commands wait.
    Unknown,
    /// The policy is in force.
    InForce {
        /// When the policy or its binding was created, whichever was later, by the clock of the API
        /// server.
        since: Timestamp,
    },
    /// The policy is not in force, for this reason. Commands are refused.
    Missing(String),
}

impl PolicyStatus {
    /// Whether the permission for a command that was created at this time was verified. `None` if
    /// that is not known yet.
    pub fn authorization(&self, created_at: Timestamp) -> Option<Authorization> {
        match self {
            Self::NotConfigured => Some(Authorization::Unverified),
            Self::Unknown => None,
            Self::InForce { since } if created_at.duration_since(*since) >= PROPAGATION => {
                Some(Authorization::Verified)
            }
            Self::InForce { .. } => Some(Authorization::Missing(
                "created before the admission policy for commands took effect: create it again"
                    .into(),
            )),
            Self::Missing(why) => Some(Authorization::Missing(
                format!(
                    "commands are refused because their admission policy is not in force: {why}. \
                     Restore it with `helm upgrade`"
                )
                .into(),
            )),
        }
    }

    /// Whether a command that was created at this time may be carried out.
    pub fn permits(&self, created_at: Timestamp) -> bool {
        matches!(
            self.authorization(created_at),
            Some(Authorization::Verified | Authorization::Unverified)
        )
    }
}

/// The commands of one Rollout to decide on: those without an outcome and within the limit of
/// pending commands. Empty while it is not known whether the policy is in force. `commands` are all
/// commands of the Rollout, oldest first.
pub fn pending_commands(commands: &[Arc<CachedCommand>], policy: &PolicyStatus) -> Vec<Command> {
    let submissions = commands
        .iter()
        .map(|cached| (&cached.command, cached.finished_at));
    let pending = |(cached, is_over): (&Arc<CachedCommand>, bool)| {
        if is_over || cached.finished_at.is_some() {
            return None;
        }
        Some(Command {
            authorization: policy.authorization(cached.created_at)?,
            ..cached.command.clone()
        })
    };
    commands
        .iter()
        .zip(over_pending_limit(submissions))
        .filter_map(pending)
        .collect()
}

/// Looks up the policy and its binding, both named `name`, again and again. Never returns.
pub(crate) async fn monitor(
    name: String,
    client: Client,
    cache: Arc<ClusterCache>,
    metrics: Arc<Metrics>,
    dispatcher: Arc<Dispatcher>,
) {
    loop {
        let found = timeout(LOOKUP_TIMEOUT, look_up(&client, &name)).await;
        match found {
            Ok(Ok(status)) => {
                if cache.command_policy.send_replace(status.clone()) != status {
                    report(&name, &status, &metrics);
                    trigger_pending(&cache, &dispatcher);
                }
            }
            // The last known status stays: without an API server, no commands are created either.
            Ok(Err(error)) => {
                tracing::warn!(policy = %name, %error, "admission policy lookup failed");
            }
            Err(_) => tracing::warn!(policy = %name, "admission policy lookup timed out"),
        }
        let is_known = *cache.command_policy.borrow() != PolicyStatus::Unknown;
        sleep(if is_known {
            LOOKUP_INTERVAL
        } else {
            FIRST_LOOKUP_RETRY
        })
        .await;
    }
}

fn report(name: &str, status: &PolicyStatus, metrics: &Metrics) {
    let is_in_force = matches!(status, PolicyStatus::InForce { .. });
    metrics.set_admission_policy_in_force(is_in_force);
    match status {
        PolicyStatus::Missing(why) => {
            tracing::error!(policy = %name, %why, "admission policy is not in force; refusing commands");
        }
        _ => tracing::info!(policy = %name, "admission policy is in force"),
    }
}

/// Triggers the Rollouts whose commands may have waited for the lookup.
fn trigger_pending(cache: &ClusterCache, dispatcher: &Dispatcher) {
    let commands = cache.commands.all();
    let pending = commands
        .iter()
        .filter(|cached| cached.finished_at.is_none());
    let rollouts: std::collections::BTreeSet<Key> = pending
        .map(|cached| Key::new(&cached.identity.key.namespace, &cached.rollout))
        .collect();
    for rollout in rollouts {
        dispatcher.enqueue(&rollout, Lane::Urgent);
    }
}

async fn look_up(client: &Client, name: &str) -> kube::Result<PolicyStatus> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let found = async {
        let policy = policies.get_opt(name).await?;
        Ok((policy, bindings.get_opt(name).await?))
    };
    match found.await {
        Ok((policy, binding)) => Ok(assess(name, policy.as_ref(), binding.as_ref())
            .map_or_else(PolicyStatus::Missing, |since| PolicyStatus::InForce {
                since,
            })),
        Err(kube::Error::Api(status)) if api_status::is_forbidden(&status) => {
            Ok(PolicyStatus::Missing(format!(
                "the controller is not allowed to read it: {}",
                api_status::message(&status)
            )))
        }
        Err(error) => Err(error),
    }
}

/// Since when the policy is in force, or why it is not.
fn assess(
    name: &str,
    policy: Option<&ValidatingAdmissionPolicy>,
    binding: Option<&ValidatingAdmissionPolicyBinding>,
) -> Result<Timestamp, String> {
    let policy =
        policy.ok_or_else(|| format!("ValidatingAdmissionPolicy {name} does not exist"))?;
    let binding =
        binding.ok_or_else(|| format!("ValidatingAdmissionPolicyBinding {name} does not exist"))?;
    let is_bound = binding.spec.as_ref().is_some_and(|spec| {
        let mut actions = spec.validation_actions.iter().flatten();
        spec.policy_name.as_deref() == Some(name) && actions.any(|action| action == "Deny")
    });
    if !is_bound {
        return Err(format!(
            "ValidatingAdmissionPolicyBinding {name} does not deny what the policy forbids"
        ));
    }
    let spec = policy.spec.as_ref();
    let fails_closed = spec.is_some_and(|spec| {
        spec.failure_policy
            .as_deref()
            .is_none_or(|policy| policy == "Fail")
    });
    let constraints = spec.and_then(|spec| spec.match_constraints.as_ref());
    let mut rules = constraints
        .and_then(|constraints| constraints.resource_rules.as_ref())
        .into_iter()
        .flatten();
    let validations = spec.and_then(|spec| spec.validations.as_ref());
    let checks_commands = rules.any(covers_commands)
        && validations.is_some_and(|validations| !validations.is_empty());
    if !fails_closed || !checks_commands {
        return Err(format!(
            "ValidatingAdmissionPolicy {name} does not check the creation of RolloutCommands"
        ));
    }
    Ok(created_at(&policy.metadata).max(created_at(&binding.metadata)))
}

fn covers_commands(rule: &NamedRuleWithOperations) -> bool {
    let contains = |list: &Option<Vec<String>>, wanted: &str| {
        let mut items = list.iter().flatten();
        items.any(|item| item == wanted || item == "*")
    };
    contains(&rule.api_groups, GROUP)
        && contains(&rule.operations, "CREATE")
        && contains(&rule.resources, "rolloutcommands")
        && rule.resource_names.as_ref().is_none_or(Vec::is_empty)
}

fn created_at(metadata: &ObjectMeta) -> Timestamp {
    let created = metadata.creation_timestamp.as_ref();
    created.map(|time| time.0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy() -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["serin.dev"], "apiVersions": ["*"], "operations": ["CREATE"],
                    "resources": ["rolloutcommands"],
                }]},
                "validations": [{"expression": "true"}],
            },
        })
    }

    fn binding() -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:09Z"},
            "spec": {"policyName": "p", "validationActions": ["Deny"]},
        })
    }

    fn assess_json(policy: &Value, binding: &Value) -> Result<Timestamp, String> {
        let policy = serde_json::from_value(policy.clone()).unwrap();
        let binding = serde_json::from_value(binding.clone()).unwrap();
        assess("p", Some(&policy), Some(&binding))
    }

    #[test]
    fn a_policy_is_in_force_since_it_and_its_binding_exist() {
        let since = assess_json(&policy(), &binding()).unwrap();
        assert_eq!(since.to_string(), "2026-01-01T00:00:09Z");
    }

    #[test]
    fn a_policy_that_denies_nothing_is_not_in_force() {
        for (pointer, value) in [
            ("/spec/failurePolicy", json!("Ignore")),
            ("/spec/validations", json!([])),
            (
                "/spec/matchConstraints/resourceRules/0/operations",
                json!(["DELETE"]),
            ),
            (
                "/spec/matchConstraints/resourceRules/0/resources",
                json!(["rollouts"]),
            ),
            (
                "/spec/matchConstraints/resourceRules/0/apiGroups",
                json!(["apps"]),
            ),
        ] {
            let mut weak = policy();
            *weak.pointer_mut(pointer).unwrap() = value;
            let problem = assess_json(&weak, &binding()).unwrap_err();
            assert!(problem.contains("does not check"), "{pointer}: {problem}");
        }
        for (pointer, value) in [
            ("/spec/policyName", json!("another")),
            ("/spec/validationActions", json!(["Audit"])),
        ] {
            let mut weak = binding();
            *weak.pointer_mut(pointer).unwrap() = value;
            let problem = assess_json(&policy(), &weak).unwrap_err();
            assert!(problem.contains("does not deny"), "{pointer}: {problem}");
        }
        let policy = serde_json::from_value(policy()).unwrap();
        let problem = assess("p", Some(&policy), None).unwrap_err();
        assert!(problem.contains("Binding p does not exist"), "{problem}");
        let problem = assess("p", None, None).unwrap_err();
        assert!(problem.contains("Policy p does not exist"), "{problem}");
    }

    #[test]
    fn only_commands_created_after_the_policy_took_effect_are_verified() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let in_force = PolicyStatus::InForce { since };
        let after = |seconds| since + SignedDuration::from_secs(seconds);
        assert!(in_force.permits(after(5)));
        assert!(!in_force.permits(after(4)));
        assert!(!in_force.permits(after(-60)));
        let missing = PolicyStatus::Missing("it was deleted".to_owned());
        assert!(!missing.permits(after(60)));
        assert_eq!(PolicyStatus::Unknown.authorization(since), None);
        assert_eq!(
            PolicyStatus::NotConfigured.authorization(since),
            Some(Authorization::Unverified)
        );
    }
}
