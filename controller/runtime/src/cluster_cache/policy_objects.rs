//! RolloutPolicies and AnalysisTemplates as they are cached.

use std::fmt::Display;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serin_core::release_analysis::AnalysisDocument;
use serin_core::release_policy::ReleasePolicy;
use serin_core::text::Message;
use serin_crds::policy::FailurePolicy;
use serin_crds::{
    AnalysisTemplate, AnalysisTemplateSpec, RolloutPolicy, RolloutPolicySpec, RolloutPolicyStatus,
};
use serin_policy::{Labels, PolicyInput, kept_defaults, matches};

use super::objects::{CachedObject, Identity};

/// A RolloutPolicy whose spec may be invalid.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = RolloutPolicy)]
pub struct RolloutPolicyObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
}

/// An AnalysisTemplate whose spec may be invalid.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = AnalysisTemplate)]
pub struct AnalysisTemplateObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

/// The cached fields of a RolloutPolicy.
#[derive(Clone, Debug)]
pub struct CachedPolicy {
    pub identity: Identity,
    /// `metadata.generation`.
    pub generation: i64,
    /// Its precedence.
    pub precedence: i32,
    /// What happens if it cannot be applied.
    pub failure_policy: FailurePolicy,
    /// The Rollouts that it applies to. Selectors that cannot be read match everything.
    pub selectors: Selectors,
    /// Its spec, or why it cannot be read.
    pub spec: Result<Box<RolloutPolicySpec>, String>,
    /// Names of the AnalysisTemplates that its definitions refer to.
    pub templates: Vec<String>,
    /// What a release records of it. Its defaults are shared by all Rollouts.
    pub release_record: ReleasePolicy,
    /// Size of these defaults in bytes of JSON.
    pub kept_bytes: usize,
    /// Its status.
    pub status: RolloutPolicyStatus,
}

/// The selectors of a RolloutPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selectors {
    /// Selects namespaces. `None` for all.
    pub namespaces: Option<LabelSelector>,
    /// Selects Rollouts. `None` for all.
    pub rollouts: Option<LabelSelector>,
}

impl Selectors {
    /// Whether a Rollout with these labels in a namespace with these labels is selected.
    pub fn matches(&self, namespace_labels: &Labels, rollout_labels: &Labels) -> bool {
        matches(
            self.namespaces.as_ref(),
            self.rollouts.as_ref(),
            namespace_labels,
            rollout_labels,
        )
    }
}

impl CachedPolicy {
    /// The policy for its resolution.
    pub fn as_input(&self) -> PolicyInput<'_> {
        PolicyInput {
            name: &self.identity.key.name,
            precedence: self.precedence,
            failure_policy: self.failure_policy,
            spec: self.spec.as_deref().map_err(String::as_str),
            kept_bytes: self.kept_bytes,
        }
    }
}

impl From<RolloutPolicyObject> for CachedPolicy {
    fn from(object: RolloutPolicyObject) -> Self {
        let RolloutPolicyObject {
            metadata,
            spec,
            status,
        } = object;
        let field = |name: &str| spec.get(name).cloned().unwrap_or_default();
        let selector = |name: &str| serde_json::from_value(field(name)).unwrap_or_default();
        let precedence = field("precedence").as_i64();
        let selectors = Selectors {
            namespaces: selector("namespaceSelector"),
            rollouts: selector("rolloutSelector"),
        };
        let mut templates = Vec::new();
        collect_templates(&spec, &mut templates);
        let failure_policy: FailurePolicy =
            serde_json::from_value(field("failurePolicy")).unwrap_or_default();
        let spec = read_spec::<RolloutPolicySpec, _>(&spec).map(Box::new);
        let identity = Identity::from(&metadata);
        let defaults = spec.as_ref().ok().and_then(|spec| kept_defaults(spec));
        Self {
            kept_bytes: defaults.as_ref().map_or(0, |kept| kept.to_string().len()),
            release_record: ReleasePolicy {
                name: identity.key.name.as_str().into(),
                required: failure_policy == FailurePolicy::Fail,
                defaults: defaults.map(AnalysisDocument::from),
            },
            generation: metadata.generation.unwrap_or_default(),
            precedence: precedence
                .and_then(|precedence| i32::try_from(precedence).ok())
                .unwrap_or_default(),
            failure_policy,
            selectors,
            templates,
            spec,
            status: serde_json::from_value(status).unwrap_or_default(),
            identity,
        }
    }
}

impl CachedObject for CachedPolicy {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn rollout(&self) -> Option<&str> {
        None
    }
}

/// The cached fields of an AnalysisTemplate. Its spec is kept as text: it is read only to resolve a
/// Rollout that names it.
#[derive(Clone, Debug)]
pub struct CachedTemplate {
    pub identity: Identity,
    /// `metadata.generation`.
    pub generation: i64,
    /// Names of the AnalysisTemplates that its definitions refer to.
    pub templates: Vec<String>,
    spec: Arc<str>,
}

impl CachedTemplate {
    /// Its spec.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn spec(&self) -> Result<AnalysisTemplateSpec, String> {
        read_spec(&mut serde_json::Deserializer::from_str(&self.spec))
    }
}

impl From<AnalysisTemplateObject> for CachedTemplate {
    fn from(object: AnalysisTemplateObject) -> Self {
        let AnalysisTemplateObject { metadata, spec } = object;
        let mut templates = Vec::new();
        collect_templates(&spec, &mut templates);
        Self {
            generation: metadata.generation.unwrap_or_default(),
            templates,
            spec: spec.to_string().into(),
            identity: Identity::from(&metadata),
        }
    }
}

impl CachedObject for CachedTemplate {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn rollout(&self) -> Option<&str> {
        None
    }
}

/// Reads a spec. An error names the field.
fn read_spec<'de, T: Deserialize<'de>, D: Deserializer<'de>>(spec: D) -> Result<T, String>
where
    D::Error: Display,
{
    serde_path_to_error::deserialize(spec).map_err(|problem| {
        let path = problem.path().to_string();
        Message::from(format!("spec.{path}: {}", problem.inner())).into()
    })
}

/// The names in the fields `analysisTemplate` of a spec, which the API server bounds in depth.
fn collect_templates(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                match inner {
                    Value::String(template) if name == "analysisTemplate" => {
                        if !names.contains(template) {
                            names.push(template.clone());
                        }
                    }
                    _ => collect_templates(inner, names),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_templates(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: Value) -> CachedPolicy {
        let metadata = json!({"name": "platform", "uid": "1", "generation": 3});
        let object: RolloutPolicyObject =
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        object.into()
    }

    #[test]
    fn a_policy_that_cannot_be_read_keeps_its_selectors_and_its_failure_policy() {
        let cached = policy(json!({
            "rolloutSelector": {"matchLabels": {"tier": "web"}}, "failurePolicy": "Ignore",
            "precedence": 7, "defaults": {"progressDeadlineSeconds": "soon"},
        }));
        let problem = cached.spec.unwrap_err();
        assert!(
            problem.starts_with("spec.defaults.progressDeadlineSeconds: invalid type"),
            "{problem}"
        );
        assert_eq!(cached.failure_policy, FailurePolicy::Ignore);
        assert_eq!(cached.precedence, 7);
        let labels = Labels::from([("tier".to_owned(), "web".to_owned())]);
        assert!(cached.selectors.matches(&Labels::new(), &labels));
        assert!(!cached.selectors.matches(&Labels::new(), &Labels::new()));
        // What is not readable at all matches everything, and fails.
        let cached = policy(json!({"rolloutSelector": 7}));
        assert!(cached.selectors.matches(&Labels::new(), &Labels::new()));
        assert_eq!(cached.failure_policy, FailurePolicy::Fail);
        assert!(cached.spec.is_err());
    }

    #[test]
    fn the_templates_that_definitions_refer_to_are_known() {
        let cached = policy(json!({"objectives": [
            {"name": "a", "extends": {"name": "b", "analysisTemplate": "team"}},
            {"name": "c", "indicatorRef": {"name": "d", "analysisTemplate": "team"}},
        ]}));
        assert_eq!(cached.templates, ["team"]);
    }
}
