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
    /// Deployment that the Rollout replaces: the one that has its template, or the one that it
    /// adopts. `None` if there is none.
    pub replaced_deployment: Option<String>,
}

impl Workload {
    /// The workload of an object, if it is one. `objects` are searched for its Deployment.
    pub fn from_object(object: &Value, objects: &[&Value]) -> Option<Self> {
        let kind = if is_deployment(object) {
            "Deployment"
        } else if object["kind"] == "Rollout" && group_of(object) == GROUP {
            "Rollout"
        } else {
            return None;
        };
        let namespace = text(object, "namespace").to_owned();
        let spec = &object["spec"];
        let of_rollout = |name: &Value| {
            let name = name.as_str().filter(|_| kind == "Rollout");
            name.map(ToOwned::to_owned)
        };
        let reference = of_rollout(&spec["workloadRef"]["name"]);
        let replaced = reference
            .clone()
            .or_else(|| of_rollout(&spec["adopt"]["deployment"]));
        let found = replaced
            .as_ref()
            .and_then(|name| find_deployment(objects, name, &namespace));
        let template = match (&reference, found) {
            (None, _) => Ok(spec["template"].clone()),
            (Some(_), Some(deployment)) => Ok(deployment["spec"]["template"].clone()),
            (Some(name), None) => Err(name.clone()),
        };
        let exceptions = spec["guardrailExceptions"].clone();
        Some(Self {
            kind,
            name: text(object, "name").to_owned(),
            labels: strings(&object["metadata"]["labels"]),
            replicas: replicas(object, found),
            template,
            exceptions: serde_json::from_value(exceptions).unwrap_or_default(),
            deployment: reference,
            replaced_deployment: replaced,
            namespace,
        })
    }

    /// Kind, namespace and name.
    pub fn label(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Removes the Deployments that a Rollout replaces: their pods are those of the Rollout.
pub fn remove_replaced(workloads: &mut Vec<Workload>) {
    let replaced: Vec<(String, String)> = workloads
        .iter()
        .filter_map(|one| Some((one.namespace.clone(), one.replaced_deployment.clone()?)))
        .collect();
    let is_replaced = |workload: &Workload| {
        let mut replaced = replaced.iter();
        replaced.any(|(namespace, name)| {
            *name == workload.name && is_same_namespace(namespace, &workload.namespace)
        })
    };
    workloads.retain(|workload| workload.kind != "Deployment" || !is_replaced(workload));
}

fn is_deployment(object: &Value) -> bool {
    object["kind"] == "Deployment" && group_of(object) == "apps"
}

/// The Deployment with this name: in this namespace, or else in one that may be the same.
fn find_deployment<'a>(objects: &[&'a Value], name: &str, namespace: &str) -> Option<&'a Value> {
    let is_named = |object: &&Value| is_deployment(object) && text(object, "name") == name;
    let named: Vec<&Value> = objects.iter().copied().filter(is_named).collect();
    let is_here = |object: &&&Value| text(object, "namespace") == namespace;
    let may_be_here = |object: &&&Value| is_same_namespace(text(object, "namespace"), namespace);
    let found = named.iter().find(is_here);
    found.or_else(|| named.iter().find(may_be_here)).copied()
}

/// The number of pods of a workload in steady state. A Rollout whose manifest leaves it out keeps
/// that of the Deployment whose pods it takes over. The status says so in the end.
fn replicas(object: &Value, replaced: Option<&Value>) -> u32 {
    let spec = &object["spec"];
    let is_in_place = spec["workloadRef"]["takeover"] != "SecondFleet";
    let written = spec["replicas"].as_u64();
    let taken_over = replaced
        .filter(|_| is_in_place && written.is_none())
        .and_then(|deployment| deployment["spec"]["replicas"].as_u64());
    let kept = object["status"]["replicasKept"]["count"].as_u64();
    let count = written.unwrap_or(1).max(taken_over.unwrap_or(0));
    u32::try_from(count.max(kept.unwrap_or(0))).unwrap_or(u32::MAX)
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

    fn deployment(namespace: Option<&str>, replicas: u32) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "shop", "namespace": namespace},
            "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "shop"}}}},
        })
    }

    fn rollout(spec: &Value) -> Value {
        json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "shop", "namespace": "market"}, "spec": spec,
        })
    }

    #[test]
    fn only_a_deployment_has_the_template_although_other_objects_have_the_same_name() {
        let others = [
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "shop"}}),
            json!({"apiVersion": "example.com/v1", "kind": "Deployment", "metadata": {"name": "shop"}}),
        ];
        let deployment = deployment(None, 2);
        let rollout = rollout(&json!({"workloadRef": {"kind": "Deployment", "name": "shop"}}));
        let objects = [&others[0], &others[1], &deployment];
        let found = Workload::from_object(&rollout, &objects).unwrap();
        assert_eq!(found.template, Ok(deployment["spec"]["template"].clone()));
        let without = Workload::from_object(&rollout, &objects[..2]).unwrap();
        assert_eq!(without.template, Err("shop".to_owned()));
    }

    #[test]
    fn the_deployment_in_the_namespace_of_the_rollout_comes_first() {
        let rollout = rollout(&json!({"workloadRef": {"kind": "Deployment", "name": "shop"}}));
        let [elsewhere, anywhere, here] = [
            deployment(Some("other"), 4),
            deployment(None, 3),
            deployment(Some("market"), 2),
        ];
        for (objects, expected) in [
            (vec![&elsewhere, &anywhere, &here], Some(2)),
            (vec![&elsewhere, &anywhere], Some(3)),
            (vec![&elsewhere], None),
        ] {
            let found = Workload::from_object(&rollout, &objects).unwrap();
            assert_eq!(found.template.is_ok(), expected.is_some());
            assert_eq!(found.replicas, expected.unwrap_or(1));
        }
    }

    #[test]
    fn a_rollout_keeps_the_number_of_pods_that_it_takes_over_unless_it_names_another_one() {
        let deployment = deployment(Some("market"), 3);
        let reference = |takeover: &str| json!({"workloadRef": {"kind": "Deployment", "name": "shop", "takeover": takeover}});
        let mut named = reference("InPlace");
        named["replicas"] = json!(2);
        for (spec, expected) in [
            (json!({"adopt": {"deployment": "shop"}}), 3),
            (json!({"adopt": {"deployment": "other"}}), 1),
            (reference("InPlace"), 3),
            (reference("SecondFleet"), 1),
            (named, 2),
        ] {
            let found = Workload::from_object(&rollout(&spec), &[&deployment]).unwrap();
            assert_eq!(found.replicas, expected, "{spec}");
        }
        // The API server has filled in the default, and the status says what is kept.
        let mut stored = rollout(&json!({"replicas": 1, "adopt": {"deployment": "shop"}}));
        stored["status"] = json!({"replicasKept": {"count": 5}});
        let found = Workload::from_object(&stored, &[&deployment]).unwrap();
        assert_eq!(found.replicas, 5);
    }

    #[test]
    fn a_deployment_that_a_rollout_replaces_is_no_workload_of_its_own() {
        let deployments = [deployment(None, 2), deployment(Some("other"), 2)];
        for spec in [
            json!({"adopt": {"deployment": "shop"}}),
            json!({"workloadRef": {"kind": "Deployment", "name": "shop"}}),
        ] {
            let rollout = rollout(&spec);
            let objects = [&rollout, &deployments[0], &deployments[1]];
            let mut workloads: Vec<Workload> = objects
                .iter()
                .filter_map(|object| Workload::from_object(object, &objects))
                .collect();
            remove_replaced(&mut workloads);
            let labels: Vec<String> = workloads.iter().map(Workload::label).collect();
            assert_eq!(labels, ["Rollout market/shop", "Deployment other/shop"]);
        }
    }
}
