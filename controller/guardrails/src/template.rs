//! Reads a pod template as JSON. Whatever is missing or of another type reads as absent.

use serde_json::{Map, Value};

/// Role of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerRole {
    /// It runs as long as the pod.
    Main,
    /// It ends before the others start.
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
}

/// A container of a pod template.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Container<'a> {
    pub role: ContainerRole,
    pub name: &'a str,
    pub json: &'a Value,
}

impl<'a> Container<'a> {
    /// The container as a finding names it.
    pub fn label(&self) -> String {
        let role = match self.role {
            ContainerRole::Main => "container",
            ContainerRole::Init => "init container",
            ContainerRole::Sidecar => "sidecar container",
        };
        format!("{role} {}", self.name)
    }

    /// The image as written. Empty if there is none.
    pub fn image(&self) -> &'a str {
        self.json["image"].as_str().unwrap_or_default()
    }

    /// Whether it runs as long as the pod.
    pub fn is_running(&self) -> bool {
        self.role != ContainerRole::Init
    }

    /// Whether it is one of the named ones.
    pub fn is_one_of(&self, names: &[String]) -> bool {
        names.iter().any(|name| name == self.name)
    }
}

/// A pod template.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Template<'a>(pub &'a Value);

impl<'a> Template<'a> {
    /// The pod spec.
    pub fn spec(self) -> &'a Value {
        &self.0["spec"]
    }

    /// All containers, those that serve first.
    pub fn containers(self) -> impl Iterator<Item = Container<'a>> {
        let main = items(&self.spec()["containers"]).map(|json| (ContainerRole::Main, json));
        let init = items(&self.spec()["initContainers"]).map(|json| {
            let is_sidecar = json["restartPolicy"] == "Always";
            let role = if is_sidecar {
                ContainerRole::Sidecar
            } else {
                ContainerRole::Init
            };
            (role, json)
        });
        main.chain(init).map(|(role, json)| Container {
            role,
            name: json["name"].as_str().unwrap_or_default(),
            json,
        })
    }

    /// A label of the pods.
    pub fn label(self, key: &str) -> Option<&'a str> {
        self.0["metadata"]["labels"][key].as_str()
    }

    /// An annotation of the pods.
    pub fn annotation(self, key: &str) -> Option<&'a str> {
        self.0["metadata"]["annotations"][key].as_str()
    }
}

/// The items of a list. None if it is something else.
pub(crate) fn items(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map_or([].iter(), |items| items.iter())
}

/// The fields of an object. `None` if it is something else.
pub(crate) fn fields(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

/// The name of an object.
pub(crate) fn object_name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The namespace of an object.
pub(crate) fn object_namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}
