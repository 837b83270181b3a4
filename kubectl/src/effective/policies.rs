//! RolloutPolicies and AnalysisTemplates of files or of a cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use serin_crds::names::GROUP;
use serin_crds::{AnalysisTemplateSpec, RolloutPolicySpec, RolloutSpec};
use serin_policy::{
    Defaults, Effective, Inputs, Labels, PolicyInput, Subject, TemplateInput, matches, resolve,
};

use crate::documents::{self, Documents};
use crate::exit::{CliError, Exit};
use crate::namespace_labels;

/// What the specs of Rollouts are resolved with.
#[derive(Debug, Default)]
pub struct PolicySet {
    policies: Vec<(String, Result<RolloutPolicySpec, String>)>,
    /// Templates with their namespace, if they have one.
    templates: Vec<(Option<String>, String, Result<AnalysisTemplateSpec, String>)>,
    /// Labels of the namespaces that are known.
    namespaces: BTreeMap<String, Labels>,
}

impl PolicySet {
    /// Reads files and folders.
    ///
    /// # Errors
    /// A file cannot be opened or is not YAML, or there is no policy and no template in them.
    pub fn read(paths: &[PathBuf]) -> Result<Self, CliError> {
        let documents = documents::read(paths)?;
        if let Some(problem) = documents.problems.first() {
            return Err(CliError::new(Exit::Usage, format!("--policy {problem}")));
        }
        let set = Self::of_documents(&documents);
        if set.is_empty() && !paths.is_empty() {
            let names: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            let message = format!(
                "--policy {}: contains no RolloutPolicy and no AnalysisTemplate",
                names.join(", ")
            );
            return Err(CliError::new(Exit::Usage, message));
        }
        Ok(set)
    }

    /// The policies, templates and namespaces of documents.
    pub fn of_documents(documents: &Documents) -> Self {
        let mut set = Self::default();
        for document in &documents.objects {
            set.add(&document.object);
        }
        set
    }

    /// Adds an object, if it is of one of the kinds.
    pub fn add(&mut self, object: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["apiVersion"]);
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let name = text(&object["metadata"]["name"]);
        match (group, object["kind"].as_str().unwrap_or_default()) {
            (GROUP, "RolloutPolicy") => {
                self.policies.push((name, read_spec(&object["spec"])));
            }
            (GROUP, "AnalysisTemplate") => {
                let namespace = object["metadata"]["namespace"].as_str();
                let namespace = namespace.map(ToOwned::to_owned);
                self.templates
                    .push((namespace, name, read_spec(&object["spec"])));
            }
            ("", "Namespace") => {
                let labels = object["metadata"]["labels"].clone();
                let labels = serde_json::from_value(labels).unwrap_or_default();
                self.namespaces.insert(name, labels);
            }
            _ => {}
        }
    }

    /// Adds the labels of a namespace.
    pub fn add_namespace(&mut self, name: &str, labels: Labels) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// Whether there is neither a policy nor a template.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.templates.is_empty()
    }

    /// The policies, each with its precedence.
    pub fn inputs(&self) -> Vec<PolicyInput<'_>> {
        self.policies.iter().map(input_of).collect()
    }

    /// The effective spec of a Rollout. A policy that selects namespaces applies if the labels of
    /// the namespace are not known.
    pub fn resolve(&self, rollout: &Value, spec: &RolloutSpec) -> Effective {
        let text = |field: &str| rollout["metadata"][field].as_str();
        let namespace = text("namespace");
        let labels = rollout["metadata"]["labels"].clone();
        let labels: Labels = serde_json::from_value(labels).unwrap_or_default();
        let of_namespace = namespace.and_then(|namespace| self.namespaces.get(namespace));
        let policies = self.policies.iter().filter(|(_, policy)| {
            let Ok(policy) = policy else { return true };
            let selector = policy.namespace_selector.as_ref();
            let name = namespace.unwrap_or_default();
            let (selector, of_namespace) =
                namespace_labels::applicable(selector, name, of_namespace);
            matches(
                selector,
                policy.rollout_selector.as_ref(),
                &of_namespace,
                &labels,
            )
        });
        let is_near =
            |of: &Option<String>| of.is_none() || namespace.is_none() || of.as_deref() == namespace;
        let templates = self.templates.iter().filter(|(of, _, _)| is_near(of));
        let inputs = Inputs {
            policies: policies.map(input_of).collect(),
            templates: Ok(templates
                .map(|(_, name, spec)| TemplateInput {
                    name,
                    spec: spec.as_ref().map_err(String::as_str),
                })
                .collect()),
        };
        let subject = Subject {
            namespace: namespace.unwrap_or("default"),
            name: text("name").unwrap_or_default(),
            spec,
        };
        resolve(subject, &inputs, Defaults::Current)
    }
}

fn input_of((name, spec): &(String, Result<RolloutPolicySpec, String>)) -> PolicyInput<'_> {
    match spec {
        Ok(spec) => PolicyInput::new(name, spec),
        Err(reason) => PolicyInput::unreadable(name, reason),
    }
}

fn read_spec<T: serde::de::DeserializeOwned>(spec: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(spec)
        .map_err(|error| format!("spec.{}: {}", error.path(), error.inner()))
}
