//! The workloads that are audited: Rollouts and Deployments.

use std::collections::BTreeMap;

use serde_json::Value;
use serin_crds::guardrails::GuardrailException;
use serin_crds::names::GROUP;

/// A workload with its pod template.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Rollout or Deployment.
    pub kind: &'static str,
    /// Namespace. Empty if a manifest leaves it out.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Number of pods in steady state.
    pub replicas: u32,
    /// Pod template, or the name of the Deployment that has it and was not found.
    pub template: Result<Value, String>,
    /// Exceptions from guardrails.
    pub exceptions: Vec<GuardrailException>,
    /// Deployment that has the template. `None` if there is none.
    pub deployment: Option<String>,
}

impl Workload {
    /// The workload of an object, if it is one. `deployments` are searched for the template.
    pub fn from_object(object: &Value, deployments: &[&Value]) -> Option<Self> {
        let group = group_of(object);
        let kind = match object["kind"].as_str()? {
            "Rollout" if group == GROUP => "Rollout",
            "Deployment" if group == "apps" => "Deployment",
            _ => return None,
        };
        let namespace = text(object, "namespace").to_owned();
        let spec = &object["spec"];
        let reference = spec["workloadRef"]["name"]
            .as_str()
            .filter(|_| kind == "Rollout");
        let template = match reference {
            None => Ok(spec["template"].clone()),
            Some(name) => {
                let found = deployments.iter().find(|deployment| {
                    text(deployment, "name") == name
                        && is_same_namespace(text(deployment, "namespace"), &namespace)
                });
                found
                    .map(|deployment| deployment["spec"]["template"].clone())
                    .ok_or_else(|| name.to_owned())
            }
        };
        let exceptions = spec["guardrailExceptions"].clone();
        let replicas = spec["replicas"].as_u64().unwrap_or(1);
        Some(Self {
            kind,
            name: text(object, "name").to_owned(),
            labels: strings(&object["metadata"]["labels"]),
            replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
            template,
            exceptions: serde_json::from_value(exceptions).unwrap_or_default(),
            deployment: reference.map(ToOwned::to_owned),
            namespace,
        })
    }

    /// Kind, namespace and name.
    pub fn label(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The API group of an object. Empty for the core group.
pub fn group_of(object: &Value) -> &str {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    version.split_once('/').map_or("", |(group, _)| group)
}

/// Whether two objects may be in the same namespace. A manifest may leave it out.
pub fn is_same_namespace(one: &str, other: &str) -> bool {
    one == other || one.is_empty() || other.is_empty()
}

/// A field of the metadata of an object.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The fields of an object whose values are text.
pub fn strings(value: &Value) -> BTreeMap<String, String> {
    let fields = value.as_object().into_iter().flatten();
    fields
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_template_of_a_reference_is_that_of_its_deployment() {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "shop", "namespace": "market"},
            "spec": {"replicas": 3, "template": {"spec": {"containers": []}}},
        });
        let rollout = |name: &str| {
            json!({
                "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
                "metadata": {"name": "shop", "namespace": "market"},
                "spec": {"workloadRef": {"kind": "Deployment", "name": name}},
            })
        };
        let found = Workload::from_object(&rollout("shop"), &[&deployment]).unwrap();
        assert_eq!(found.template, Ok(deployment["spec"]["template"].clone()));
        let missing = Workload::from_object(&rollout("other"), &[&deployment]).unwrap();
        assert_eq!(missing.template, Err("other".to_owned()));
        let plain = Workload::from_object(&deployment, &[]).unwrap();
        assert_eq!((plain.kind, plain.replicas), ("Deployment", 3));
        assert_eq!(
            Workload::from_object(&json!({"kind": "Service"}), &[]),
            None
        );
        let foreign = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout"});
        assert_eq!(Workload::from_object(&foreign, &[]), None);
    }
}
