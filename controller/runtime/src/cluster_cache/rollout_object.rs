//! A decoded Rollout. An invalid spec does not hide the status, and vice versa.

use std::sync::Arc;

use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use serin_core::observed::ReplicasSource;
use serin_core::state_reader::UnreadableField;
use serin_core::text::Message;
use serin_crds::plan::check_template_size;
use serin_crds::status::PersistedStatus;
use serin_crds::{Rollout, RolloutSpec, RolloutStatus};
use tokio::time::Instant;

use super::Key;
use super::policy_view::{PolicyProblem, PolicyView};
use crate::replicas_source::replicas_source;

/// A Rollout whose spec or status may be invalid. An abort must work even if the spec cannot be
/// decoded.
#[derive(Clone, Debug, Resource)]
#[resource(inherit = Rollout)]
pub struct RolloutObject {
    pub metadata: ObjectMeta,
    /// The spec, or why it cannot be decoded. It is shared with the objects that differ in other
    /// fields only.
    pub spec: Result<Arc<RolloutSpec>, String>,
    /// Identifies the template that was filled in from a Deployment. `None` if the template is the
    /// Rollout's own.
    pub template_version: Option<String>,
    /// What its policies contribute, once it was resolved. `None` if no policy concerns it.
    pub policy: Option<Arc<PolicyView>>,
    /// Who set `spec.replicas`, derived from `metadata.managedFields`.
    pub replicas_source: ReplicasSource,
    /// The status as far as it can be read. Empty if there is none yet.
    pub status: Arc<RolloutStatus>,
    /// Why the status cannot be understood completely: another version of the controller wrote it.
    pub incompatibility: Option<String>,
    /// The fields of the status that could not be read. They are written again.
    pub unreadable: Vec<UnreadableField>,
    /// When this process has received the object, or the template that was filled in from a
    /// Deployment.
    pub seen_at: Instant,
}

impl RolloutObject {
    /// Namespace and name.
    pub fn key(&self) -> Key {
        Key::new(
            self.metadata.namespace.as_deref().unwrap_or_default(),
            self.metadata.name.as_deref().unwrap_or_default(),
        )
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// `metadata.generation`.
    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> &str {
        self.metadata
            .resource_version
            .as_deref()
            .unwrap_or_default()
    }

    /// Whether it only observes the pods of another controller.
    pub fn observes(&self) -> bool {
        self.spec.as_ref().is_ok_and(|spec| spec.observes())
    }

    /// Identifies what its policies contribute. `None` if no policy concerns it.
    pub fn policy_version(&self) -> Option<u64> {
        self.policy.as_ref().map(|policy| policy.version)
    }

    /// Why its policies cannot be applied. `None` if they can.
    pub fn policy_problem(&self) -> Option<&PolicyProblem> {
        self.policy.as_ref()?.problem.as_ref()
    }

    /// Whether this is a later version of the same object.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let version = |rollout: &Self| rollout.resource_version().parse::<u64>().unwrap_or(0);
        self.metadata.uid == other.metadata.uid && version(self) > version(other)
    }

    /// Decodes a whole object from JSON.
    ///
    /// # Errors
    /// The metadata is invalid.
    pub fn from_json(object: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(object)
    }
}

/// Minimum size of a spec whose template may be too large, in bytes. A smaller one cannot exceed the
/// limits of what is kept in memory.
const CHECKED_SPEC_BYTES: usize = 32 * 1024;

#[derive(Deserialize)]
struct Raw {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<Box<RawValue>>,
    #[serde(default)]
    status: Option<Box<RawValue>>,
}

impl<'de> Deserialize<'de> for RolloutObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Raw {
            mut metadata,
            spec,
            status,
        } = Raw::deserialize(deserializer)?;
        if metadata.name.is_none() {
            return Err(de::Error::missing_field("metadata.name"));
        }
        let spec = spec.as_deref().map_or("null", RawValue::get);
        let replicas_source = replicas_source(&metadata, &only_replicas(spec));
        metadata.managed_fields = None;
        metadata.annotations = None;
        let PersistedStatus {
            status,
            incompatibility,
            unreadable,
        } = status
            .map(|status| RolloutStatus::read_text(status.get()))
            .unwrap_or_default();
        Ok(Self {
            metadata,
            spec: read_spec(spec),
            template_version: None,
            policy: None,
            replicas_source,
            status: Arc::new(status),
            incompatibility,
            unreadable,
            seen_at: Instant::now(),
        })
    }
}

/// The spec without all fields but `replicas`.
fn only_replicas(spec: &str) -> Value {
    #[derive(Default, Deserialize)]
    struct Replicas {
        #[serde(default)]
        replicas: Value,
    }
    let replicas: Replicas = serde_json::from_str(spec).unwrap_or_default();
    json!({"replicas": replicas.replicas})
}

/// Decodes a spec, or returns why it is invalid.
fn read_spec(text: &str) -> Result<Arc<RolloutSpec>, String> {
    // Most specs are small and valid, and are decoded without a tree of values.
    if text.len() < CHECKED_SPEC_BYTES
        && let Ok(spec) = serde_json::from_str(text)
    {
        return Ok(Arc::new(spec));
    }
    let spec: Value = serde_json::from_str(text).unwrap_or_default();
    // A large template is not kept: the controller has the Rollouts of all namespaces in memory.
    check_template_size(&spec).map_err(|problem| problem.to_string())?;
    let spec = serde_json::from_value(spec).map(Arc::new);
    spec.map_err(|problem| Message::from(format!("spec: {problem}")).into())
}

#[cfg(test)]
mod tests {
    use serin_core::state::Phase;
    use serin_core::units::Revision;

    use super::*;

    #[test]
    fn an_invalid_spec_does_not_hide_the_status() {
        let object = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {"replicas": "many"},
            "status": {"phase": "Paused"},
        });
        let rollout = RolloutObject::from_json(object).unwrap();
        let problem = rollout.spec.unwrap_err();
        assert!(problem.starts_with("spec: "), "{problem}");
        assert_eq!(rollout.status.state.phase, Phase::Paused);
    }

    #[test]
    fn a_template_that_is_too_large_is_reported_and_not_kept() {
        let object = json!({
            "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {"template": {"spec": {"containers": vec![0; 700_000]}}},
            "status": {"phase": "Paused"},
        });
        let rollout = RolloutObject::from_json(object).unwrap();
        let problem = rollout.spec.unwrap_err();
        assert!(
            problem.starts_with("spec.template: Invalid value"),
            "{problem}"
        );
        assert_eq!(rollout.status.state.phase, Phase::Paused);
        let object =
            json!({"metadata": {"name": "checkout"}, "spec": {"replicas": "9".repeat(100_000)}});
        let problem = RolloutObject::from_json(object).unwrap().spec.unwrap_err();
        assert!(
            problem.starts_with("spec: ") && problem.len() <= 1_024,
            "{}",
            problem.len()
        );
    }

    #[test]
    fn a_status_of_another_version_is_read_as_far_as_possible() {
        let object = json!({"metadata": {"name": "checkout"}, "spec": {},
            "status": {"phase": 3, "stage": "Previewing", "stableRevision": "v1"}});
        let rollout = RolloutObject::from_json(object).unwrap();
        assert_eq!(
            rollout.status.state.stable_revision,
            Some(Revision::new("v1"))
        );
        let problem = rollout.incompatibility.unwrap();
        assert!(
            problem.contains("status.phase") && problem.contains("Previewing"),
            "{problem}"
        );
    }
}
