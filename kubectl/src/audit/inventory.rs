//! What is known of a cluster or of manifests: workloads, policies, and what the guardrails look at.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use serin_crds::RolloutPolicySpec;
use serin_crds::guardrails::Guardrails;
use serin_crds::names::GROUP;
use serin_guardrails::facts::{
    Fact, Facts, NamespaceFacts, POD_ANNOTATIONS, PodFacts, RunningContainer, Source,
};
use serin_policy::{PolicyInput, combine_guardrails, matches, sort_by_precedence};

use super::workload::{Workload, group_of, is_same_namespace, remove_replaced, strings, text};
use crate::documents::Documents;
use crate::namespace_labels;

/// A RolloutPolicy, or why its spec cannot be read.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Its spec.
    pub spec: Result<RolloutPolicySpec, String>,
}

impl Policy {
    /// The policy of an object, if it is one.
    pub fn from_object(object: &Value) -> Option<Self> {
        let is_policy = object["kind"] == "RolloutPolicy" && group_of(object) == GROUP;
        is_policy.then(|| Self {
            name: text(object, "name").to_owned(),
            spec: serde_json::from_value(object["spec"].clone()).map_err(|error| error.to_string()),
        })
    }
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Workloads, in their order.
    pub workloads: Vec<Workload>,
    /// Policies.
    pub policies: Vec<Policy>,
    /// Namespaces by name.
    pub namespaces: Fact<BTreeMap<String, NamespaceFacts>>,
    /// Objects by source, of all namespaces.
    pub objects: BTreeMap<Source, Fact<Vec<Value>>>,
    /// Pods of all namespaces.
    pub pods: Fact<Vec<Value>>,
}

impl Inventory {
    /// What manifests contain. A kind of which they contain no object is not known: the cluster may
    /// have some.
    pub fn from_documents(documents: &Documents, policies: Vec<Policy>) -> Self {
        let objects: Vec<&Value> = documents.objects.iter().map(|one| &one.object).collect();
        let mut inventory = Self {
            policies,
            ..Self::default()
        };
        let own = objects
            .iter()
            .filter_map(|object| Policy::from_object(object));
        inventory.policies.extend(own);
        inventory.workloads = objects
            .iter()
            .filter_map(|object| Workload::from_object(object, &objects))
            .collect();
        remove_replaced(&mut inventory.workloads);
        for source in Source::ALL {
            let Some((group, _, plural)) = source.resource() else {
                continue;
            };
            let of_kind = objects.iter().filter(|object| {
                group_of(object) == group
                    && object["kind"]
                        .as_str()
                        .is_some_and(|kind| plural_of(kind) == plural)
            });
            let found: Vec<Value> = of_kind.map(|object| (*object).clone()).collect();
            if !found.is_empty() {
                inventory.objects.insert(*source, Fact::Known(found));
            }
        }
        inventory.add_namespaces(documents);
        inventory.complete_groups();
        inventory
    }

    /// Adds the namespaces that manifests contain.
    pub fn add_namespaces(&mut self, documents: &Documents) {
        let objects = documents.objects.iter().map(|one| &one.object);
        let mut namespaces: BTreeMap<String, NamespaceFacts> = objects
            .filter(|object| object["kind"] == "Namespace" && group_of(object).is_empty())
            .map(|object| (text(object, "name").to_owned(), namespace_of(object)))
            .collect();
        if let Fact::Known(known) = &mut self.namespaces {
            known.append(&mut namespaces);
        } else if !namespaces.is_empty() {
            self.namespaces = Fact::Known(namespaces);
        }
    }

    /// Of the kinds that a guardrail accepts, those that the manifests do not contain do not exist if
    /// they contain another one.
    fn complete_groups(&mut self) {
        use serin_core::guardrail::GuardrailKind;
        for kind in GuardrailKind::ALL {
            let sources = || {
                let sources = Source::for_guardrail(*kind).iter();
                sources.filter(|source| source.resource().is_some() && **source != Source::Services)
            };
            if sources().any(|source| self.objects.contains_key(source)) {
                for source in sources() {
                    self.objects.entry(*source).or_insert(Fact::NotServed);
                }
            }
        }
    }

    /// The guardrails of a workload: those of the policies that match it. `None` if no policy that
    /// matches has any.
    pub fn guardrails_of(&self, workload: &Workload) -> Option<Guardrails> {
        let known = self.namespaces.known().ok();
        let namespace = known.and_then(|namespaces| namespaces.get(&workload.namespace));
        let labels = namespace.map(|namespace| &namespace.labels);
        let applies = |policy: &&Policy| {
            let Ok(spec) = &policy.spec else { return true };
            let selector = spec.namespace_selector.as_ref();
            let (of_namespace, labels) =
                namespace_labels::applicable(selector, &workload.namespace, labels);
            matches(
                of_namespace,
                spec.rollout_selector.as_ref(),
                &labels,
                &workload.labels,
            )
        };
        let mut inputs: Vec<PolicyInput<'_>> =
            self.policies.iter().filter(applies).map(input_of).collect();
        sort_by_precedence(&mut inputs);
        let (guardrails, _) = combine_guardrails(&inputs);
        (guardrails != Guardrails::default()).then_some(guardrails)
    }

    /// What is known about a workload.
    pub fn facts_of(&self, workload: &Workload) -> Facts {
        let namespace = match &self.namespaces {
            Fact::Known(namespaces) => namespaces
                .get(&workload.namespace)
                .map_or(Fact::NotAsked, |found| Fact::Known(found.clone())),
            other => unknown(other),
        };
        let objects = self.objects.iter().map(|(source, fact)| {
            let fact = match fact {
                Fact::Known(objects) => Fact::Known(of_namespace(*source, objects, workload)),
                other => other.clone(),
            };
            (*source, fact)
        });
        let mut related = vec![("Deployment".to_owned(), workload.name.clone())];
        related.extend(
            workload
                .deployment
                .clone()
                .map(|name| ("Deployment".to_owned(), name)),
        );
        Facts {
            namespace_name: workload.namespace.clone(),
            rollout_name: workload.name.clone(),
            rollout_labels: workload.labels.clone(),
            replicas: workload.replicas,
            template: workload.template.clone().unwrap_or_default(),
            related_objects: related,
            namespace,
            pods: self.pods_of(workload),
            objects: objects.collect(),
            ..Facts::default()
        }
    }

    /// The pods that have the labels of the template.
    fn pods_of(&self, workload: &Workload) -> Fact<Vec<PodFacts>> {
        let pods = match &self.pods {
            Fact::Known(pods) => pods,
            other => return unknown(other),
        };
        let template = workload.template.clone().unwrap_or_default();
        let wanted = strings(&template["metadata"]["labels"]);
        let is_one = |pod: &&Value| {
            let labels = strings(&pod["metadata"]["labels"]);
            text(pod, "namespace") == workload.namespace
                && !wanted.is_empty()
                && wanted
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value))
        };
        Fact::Known(pods.iter().filter(is_one).map(pod_facts).collect())
    }
}

fn input_of(policy: &Policy) -> PolicyInput<'_> {
    match &policy.spec {
        Ok(spec) => PolicyInput::new(&policy.name, spec),
        Err(reason) => PolicyInput::unreadable(&policy.name, reason),
    }
}

/// The labels and annotations of a Namespace.
pub fn namespace_of(object: &Value) -> NamespaceFacts {
    NamespaceFacts {
        labels: strings(&object["metadata"]["labels"]),
        annotations: strings(&object["metadata"]["annotations"]),
    }
}

/// What a pod runs.
fn pod_facts(pod: &Value) -> PodFacts {
    let mut annotations = strings(&pod["metadata"]["annotations"]);
    annotations.retain(|key, _| POD_ANNOTATIONS.contains(&key.as_str()));
    let of_containers = |field: &str| {
        let statuses = pod["status"][field].as_array().cloned().unwrap_or_default();
        let running = statuses.into_iter().map(|status| RunningContainer {
            name: status["name"].as_str().unwrap_or_default().to_owned(),
            image_id: status["imageID"].as_str().unwrap_or_default().to_owned(),
        });
        running.collect::<Vec<_>>()
    };
    PodFacts {
        name: text(pod, "name").to_owned(),
        annotations,
        containers: [
            of_containers("containerStatuses"),
            of_containers("initContainerStatuses"),
        ]
        .concat(),
    }
}

/// The objects of a source that may concern a workload.
fn of_namespace(source: Source, objects: &[Value], workload: &Workload) -> Vec<Value> {
    if source.reaches_other_namespaces() {
        let monitors = objects.iter();
        return monitors
            .map(|monitor| with_namespace(monitor, &workload.namespace))
            .collect();
    }
    let is_here = |object: &&Value| {
        source.is_cluster_scoped()
            || is_same_namespace(text(object, "namespace"), &workload.namespace)
    };
    objects.iter().filter(is_here).cloned().collect()
}

/// A monitor, which may look into other namespaces than its own. If a manifest leaves a namespace
/// out, the monitor and the pods may be in the same one.
fn with_namespace(monitor: &Value, of_pods: &str) -> Value {
    let mut monitor = monitor.clone();
    let has_namespace = !text(&monitor, "namespace").is_empty();
    let mut set = |part: &str, field: &str, value: Value| {
        let part = monitor.get_mut(part).and_then(Value::as_object_mut);
        if let Some(part) = part {
            part.insert(field.to_owned(), value);
        }
    };
    if of_pods.is_empty() {
        set("spec", "namespaceSelector", json!({"any": true}));
    } else if !has_namespace {
        set("metadata", "namespace", of_pods.into());
    }
    monitor
}

fn unknown<T, U>(fact: &Fact<T>) -> Fact<U> {
    match fact {
        Fact::Known(_) | Fact::NotAsked => Fact::NotAsked,
        Fact::NotServed => Fact::NotServed,
        Fact::OtherVersion(versions) => Fact::OtherVersion(versions.clone()),
        Fact::Forbidden(why) => Fact::Forbidden(why.clone()),
        Fact::Failed(why) => Fact::Failed(why.clone()),
    }
}

/// The plural of a kind, as Kubernetes forms it.
fn plural_of(kind: &str) -> String {
    let kind = kind.to_lowercase();
    if let Some(stem) = kind.strip_suffix('y') {
        format!("{stem}ies")
    } else if kind.ends_with('s') {
        format!("{kind}es")
    } else {
        format!("{kind}s")
    }
}

#[cfg(test)]
mod tests {
    use serin_core::guardrail::GuardrailKind;

    use super::*;

    fn inventory(text: &str) -> Inventory {
        let mut documents = Documents::default();
        documents.parse(text, "f.yaml");
        assert!(documents.problems.is_empty(), "{:?}", documents.problems);
        Inventory::from_documents(&documents, Vec::new())
    }

    #[test]
    fn plurals_are_those_of_kubernetes() {
        for (kind, plural) in [
            ("NetworkPolicy", "networkpolicies"),
            ("SecretProviderClass", "secretproviderclasses"),
            ("LimitRange", "limitranges"),
        ] {
            assert_eq!(plural_of(kind), plural);
        }
    }

    #[test]
    fn a_kind_without_a_manifest_is_unknown_unless_a_similar_one_is_there() {
        let none = inventory("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n");
        assert_eq!(none.objects.get(&Source::NetworkPolicies), None);
        assert_eq!(none.objects.get(&Source::ServiceMonitors), None);
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\n";
        let one = inventory(policy);
        assert!(matches!(
            one.objects[&Source::NetworkPolicies],
            Fact::Known(_)
        ));
        assert_eq!(one.objects[&Source::CiliumPolicies], Fact::NotServed);
    }

    #[test]
    fn the_policies_that_match_a_workload_are_combined() {
        let inventory = inventory(
            "apiVersion: serin.dev/v1alpha1\nkind: RolloutPolicy\nmetadata: {name: a}\n\
             spec: {rolloutSelector: {matchLabels: {tier: web}}, precedence: 5,\n  \
             guardrails: {resources: {mode: \"Off\"}}}\n---\n\
             apiVersion: serin.dev/v1alpha1\nkind: RolloutPolicy\nmetadata: {name: b}\n\
             spec: {guardrails: {resources: {mode: Enforce}, probes: {mode: Warn}}}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {tier: web}}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: api}\n",
        );
        let on = |index: usize, kind| {
            let guardrails = inventory.guardrails_of(&inventory.workloads[index]);
            guardrails.unwrap().is_on(kind)
        };
        assert!(!on(0, GuardrailKind::Resources) && on(0, GuardrailKind::Probes));
        assert!(on(1, GuardrailKind::Resources));
    }
}
