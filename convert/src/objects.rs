//! The objects of one conversion, and how they refer to each other.

use serde_json::{Value, json};

use crate::note::Translation;
use crate::{Conversion, NoteLevel, Options, Outcome};

/// Kind, namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectId {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`, if set.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectId {
    /// The identity of an object.
    pub fn new(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: object["metadata"]["namespace"]
                .as_str()
                .map(ToOwned::to_owned),
            name: text(&object["metadata"]["name"]),
        }
    }

    /// API group and kind. The group of the core API is empty.
    pub fn group_and_kind(&self) -> (&str, &str) {
        let group = self
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        (group, &self.kind)
    }
}

/// Whether [`crate::convert`] replaces objects of this kind, or needs them as input.
pub fn is_convertible(object: &Value) -> bool {
    let id = ObjectId::new(object);
    matches!(
        id.group_and_kind(),
        (
            "argoproj.io",
            "Rollout" | "AnalysisTemplate" | "ClusterAnalysisTemplate"
        ) | ("flagger.app", "Canary" | "MetricTemplate")
            | ("rollouts.kruise.io", "Rollout")
            | ("apps", "Deployment")
    )
}

/// All objects, with the options.
pub(crate) struct Objects<'a> {
    all: &'a [Value],
    pub options: &'a Options,
}

impl<'a> Objects<'a> {
    pub fn new(all: &'a [Value], options: &'a Options) -> Self {
        Self { all, options }
    }

    /// The object with this group, kind and name, as seen from `namespace`. An object without a
    /// namespace is in the same one.
    pub fn find(
        &self,
        (group, kind): (&str, &str),
        namespace: Option<&str>,
        name: &str,
    ) -> Option<&'a Value> {
        self.of_kind(group, kind)
            .find(|object| object["metadata"]["name"] == name && is_in(object, namespace))
    }

    pub fn of_kind(&self, group: &str, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.all.iter().filter(move |object| {
            object["kind"] == kind && ObjectId::new(object).group_and_kind().0 == group
        })
    }

    pub fn deployment(&self, namespace: Option<&str>, name: &str) -> Option<&'a Value> {
        self.find(("apps", "Deployment"), namespace, name)
    }

    pub fn service(&self, namespace: Option<&str>, name: &str) -> Option<&'a Value> {
        self.find(("", "Service"), namespace, name)
    }

    /// The Services that select pods with these labels.
    pub fn services_selecting(&self, namespace: Option<&str>, labels: &Value) -> Vec<&'a Value> {
        let selects = |service: &&Value| {
            let selector = service["spec"]["selector"].as_object();
            selector.is_some_and(|selector| {
                !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
            })
        };
        self.of_kind("", "Service")
            .filter(|service| is_in(service, namespace))
            .filter(selects)
            .collect()
    }

    /// Whether a Rollout or Canary of a source refers to this Deployment.
    pub fn is_referenced_deployment(&self, deployment: &Value) -> bool {
        self.referrer_of(deployment).is_some()
    }

    /// The Rollout or Canary that refers to a Deployment.
    fn referrer_of(&self, deployment: &Value) -> Option<&'a Value> {
        let name = &deployment["metadata"]["name"];
        let namespace = deployment["metadata"]["namespace"].as_str();
        self.all.iter().find(|object| {
            let reference = match ObjectId::new(object).group_and_kind() {
                ("argoproj.io" | "serin.dev", "Rollout") => &object["spec"]["workloadRef"],
                ("flagger.app", "Canary") => &object["spec"]["targetRef"],
                ("rollouts.kruise.io", "Rollout") => kruise_reference(object),
                _ => return false,
            };
            reference["kind"] == "Deployment"
                && reference["name"] == *name
                && is_in(object, namespace)
        })
    }

    /// The Ingresses in a namespace that have a Service as a backend.
    pub fn ingresses_with_backend(&self, namespace: Option<&str>, service: &str) -> Vec<&'a Value> {
        self.of_kind("networking.k8s.io", "Ingress")
            .filter(|ingress| is_in(ingress, namespace))
            .filter(|ingress| ingress_backends(ingress).contains(&service))
            .collect()
    }

    /// Whether an HTTPRoute takes the place of this Ingress: a Gateway was given, and a converted
    /// Rollout sends traffic to one of its backends.
    pub fn is_replaced_ingress(&self, index: usize) -> bool {
        let Some(ingress) = self
            .all
            .get(index)
            .filter(|_| self.options.gateway.is_some())
        else {
            return false;
        };
        let namespace = ingress["metadata"]["namespace"].as_str();
        let backends = ingress_backends(ingress);
        self.all.iter().any(|object| {
            is_in(object, namespace) && crate::backends::claims_any(self, object, &backends)
        })
    }

    pub fn http_route_with_backend(
        &self,
        namespace: Option<&str>,
        service: &str,
    ) -> Option<&'a Value> {
        let routes = self.of_kind("gateway.networking.k8s.io", "HTTPRoute");
        routes
            .filter(|route| is_in(route, namespace))
            .find(|route| {
                let rules = route["spec"]["rules"].as_array().into_iter().flatten();
                let mut backends = rules
                    .filter_map(|rule| rule["backendRefs"].as_array())
                    .flatten();
                backends.any(|backend| backend["name"] == service)
            })
    }
}

/// Whether an object is in a namespace. Without a namespace it is in any.
pub(crate) fn is_in(object: &Value, namespace: Option<&str>) -> bool {
    let own = object["metadata"]["namespace"].as_str();
    own.is_none() || namespace.is_none() || own == namespace
}

/// The names of the Services that an Ingress sends requests to.
pub(crate) fn ingress_backends(ingress: &Value) -> Vec<&str> {
    let rules = ingress["spec"]["rules"].as_array().into_iter().flatten();
    let paths = rules
        .filter_map(|rule| rule["http"]["paths"].as_array())
        .flatten();
    let backends = paths.map(|path| &path["backend"]);
    backends
        .chain([&ingress["spec"]["defaultBackend"]])
        .filter_map(|backend| backend["service"]["name"].as_str())
        .collect()
}

/// The reference of an OpenKruise Rollout to its workload, in both of its API versions.
pub(crate) fn kruise_reference(object: &Value) -> &Value {
    let spec = &object["spec"];
    if spec["workloadRef"].is_object() {
        &spec["workloadRef"]
    } else {
        &spec["objectRef"]["workloadRef"]
    }
}

/// Lets an autoscaler of a converted workload scale the Rollout instead.
pub(crate) fn retarget_autoscaler(
    set: &Objects<'_>,
    source: ObjectId,
    object: &Value,
) -> Conversion {
    let target = &object["spec"]["scaleTargetRef"];
    let name = target["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str();
    let mut draft = Translation::default();
    let rollout = match target["kind"].as_str() {
        Some("Deployment") => set.deployment(namespace, name).and_then(|deployment| {
            let referrer = set.referrer_of(deployment).unwrap_or(deployment);
            referrer["metadata"]["name"].as_str()
        }),
        Some("Rollout") => set
            .find(("argoproj.io", "Rollout"), namespace, name)
            .and_then(|rollout| rollout["metadata"]["name"].as_str()),
        _ => None,
    };
    let Some(rollout) = rollout else {
        return Conversion {
            source,
            outcome: Outcome::Unchanged,
            outputs: Vec::new(),
            notes: Vec::new(),
        };
    };
    let mut scaled = object.clone();
    scaled["spec"]["scaleTargetRef"] =
        json!({"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "name": rollout});
    draft.outputs.push(scaled);
    draft.notes.kept(
        "spec.scaleTargetRef",
        format!("the autoscaler scales Rollout {rollout}, which scales the pods"),
    );
    draft.into_conversion(source)
}

/// Corrects results that depend on those of other objects: a template that no converted object uses
/// is not converted, and an autoscaler keeps its target if the Rollout was not converted.
pub(crate) fn mark_used(set: &Objects<'_>, results: &mut [Conversion]) {
    let converted: Vec<ObjectId> = results
        .iter()
        .filter(|result| !result.outputs.is_empty())
        .flat_map(|result| result.outputs.iter().map(ObjectId::new))
        .filter(|output| output.group_and_kind() == ("serin.dev", "Rollout"))
        .collect();
    for (index, result) in results.iter_mut().enumerate() {
        let is_autoscaler = result.source.kind == "HorizontalPodAutoscaler";
        let target = result
            .outputs
            .first()
            .map(|output| &output["spec"]["scaleTargetRef"]["name"]);
        if is_autoscaler
            && target.is_some_and(|target| converted.iter().all(|id| *target != *id.name))
        {
            result.outcome = Outcome::Unchanged;
            result.outputs.clear();
            result.notes.clear();
        }
        let used = match result.source.kind.as_str() {
            "AnalysisTemplate" | "ClusterAnalysisTemplate" | "MetricTemplate" => set
                .all
                .iter()
                .any(|object| mentions_template(object, &result.source.name)),
            _ => true,
        };
        if !used && set.all.get(index).is_some() {
            result.outcome = Outcome::NotConverted;
            result.notes.push(crate::Note {
                level: NoteLevel::NotYet,
                field: "kind".to_owned(),
                message: "no object in the input uses this template, and Serin has no shared templates yet".to_owned(),
                fix: "convert it together with the Rollouts or Canaries that use it".to_owned(),
            });
        }
    }
}

/// Whether an object refers to an analysis or metric template with this name.
fn mentions_template(object: &Value, name: &str) -> bool {
    match object {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            (key == "templateName" && value == name)
                || (key == "templateRef" && value["name"] == name)
                || mentions_template(value, name)
        }),
        Value::Array(items) => items.iter().any(|item| mentions_template(item, name)),
        _ => false,
    }
}
