//! Who owns which field (`metadata.managedFields`), kept for Rollouts: the controller tells a
//! default from a declaration by it. Lists are owned as a whole.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::kinds::Kind;

/// For whom a request writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    /// Server-side apply, rather than an update.
    pub(crate) applies: bool,
    pub(crate) subresource: String,
    /// Whether it is a patch, rather than a whole object.
    pub(crate) patches: bool,
}

impl Writer {
    fn is_same_entry(&self, other: &Self) -> bool {
        (&self.manager, self.applies, &self.subresource)
            == (&other.manager, other.applies, &other.subresource)
    }
}

type Path = Vec<String>;

pub(crate) fn is_tracked(kind: &Kind) -> bool {
    kind.plural == "rollouts"
}

/// Records the owners of an object's fields after a write. `applied` is the configuration of a
/// server-side apply, before the API server filled anything in.
pub(crate) fn record(
    kind: &Kind,
    current: Option<&Value>,
    next: &mut Value,
    applied: Option<&Value>,
    writer: &Writer,
) {
    if !is_tracked(kind) {
        return;
    }
    let after = leaves(next);
    let value = |object: &Value, path: &Path| object.pointer(&pointer(path)).cloned();
    let changed: BTreeSet<Path> = after
        .iter()
        .filter(|path| current.is_none_or(|current| value(current, path) != value(next, path)))
        .cloned()
        .collect();
    let mut entries: Vec<(Writer, BTreeSet<Path>)> = current.map(owners).unwrap_or_default();
    for (_, owned) in &mut entries {
        owned.retain(|path| after.contains(path) && !changed.contains(path));
    }
    let own = match applied {
        Some(applied) => leaves(applied),
        None => {
            let kept = entries
                .iter()
                .find(|(known, _)| known.is_same_entry(writer))
                .map(|(_, owned)| owned.clone());
            kept.unwrap_or_default()
                .into_iter()
                .chain(changed)
                .collect()
        }
    };
    // A field that nobody owned is not tracked when `scale` writes it, nor is a 0, which the Scale
    // object leaves out.
    let replicas = vec!["spec".to_owned(), "replicas".to_owned()];
    let untracked = writer.subresource == "scale"
        && (next["spec"]["replicas"] == 0
            || !current
                .map(owners)
                .unwrap_or_default()
                .iter()
                .any(|(_, owned)| owned.contains(&replicas)));
    if !untracked {
        match entries
            .iter_mut()
            .find(|(known, _)| known.is_same_entry(writer))
        {
            Some((_, owned)) => *owned = own,
            None => entries.push((writer.clone(), own)),
        }
    }
    entries.retain(|(_, owned)| !owned.is_empty());
    let api_version = next["apiVersion"].clone();
    next["metadata"]["managedFields"] = entries
        .iter()
        .map(|(writer, owned)| entry(writer, owned, &api_version))
        .collect();
}

/// The object without the fields that this manager applied before and does not apply any more,
/// unless another manager owns them too.
pub(crate) fn without_dropped(current: &Value, applied: &Value, writer: &Writer) -> Value {
    let entries = owners(current);
    let mine = entries
        .iter()
        .filter(|(known, _)| known.is_same_entry(writer))
        .flat_map(|(_, owned)| owned);
    let still = leaves(applied);
    let mut next = current.clone();
    for path in mine.filter(|path| !still.contains(*path)) {
        let shared = entries
            .iter()
            .any(|(known, owned)| !known.is_same_entry(writer) && owned.contains(path));
        if shared {
            continue;
        }
        if let Some((last, parents)) = path.split_last()
            && let Some(Value::Object(fields)) = next.pointer_mut(&pointer(parents))
        {
            fields.remove(last);
        }
    }
    next
}

fn entry(writer: &Writer, owned: &BTreeSet<Path>, api_version: &Value) -> Value {
    let mut fields = Value::Object(Map::new());
    for path in owned {
        let mut at = &mut fields;
        for key in path {
            at = &mut at[format!("f:{key}")];
            if at.is_null() {
                *at = json!({});
            }
        }
    }
    let mut entry = json!({
        "manager": writer.manager, "operation": if writer.applies { "Apply" } else { "Update" },
        "apiVersion": api_version, "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    if !writer.subresource.is_empty() {
        entry["subresource"] = writer.subresource.as_str().into();
    }
    entry
}

fn owners(object: &Value) -> Vec<(Writer, BTreeSet<Path>)> {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries
        .map(|entry| {
            let writer = Writer {
                manager: text(&entry["manager"]),
                applies: entry["operation"] == "Apply",
                subresource: text(&entry["subresource"]),
                patches: false,
            };
            let mut owned = BTreeSet::new();
            collect(&entry["fieldsV1"], &mut Vec::new(), &mut owned, |key| {
                key.strip_prefix("f:").map(str::to_owned)
            });
            (writer, owned)
        })
        .collect()
}

/// The paths of the fields that are owned one by one; what the API server itself keeps is nobody's.
fn leaves(object: &Value) -> BTreeSet<Path> {
    let mut paths = BTreeSet::new();
    collect(object, &mut Vec::new(), &mut paths, |key| {
        Some(key.to_owned())
    });
    let servers_own = |path: &Path| match path
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["apiVersion" | "kind"] => true,
        ["metadata", field, ..] => !matches!(
            *field,
            "annotations" | "labels" | "finalizers" | "ownerReferences"
        ),
        _ => false,
    };
    paths.retain(|path| !servers_own(path));
    paths
}

fn collect(
    value: &Value,
    at: &mut Path,
    into: &mut BTreeSet<Path>,
    key_of: fn(&str) -> Option<String>,
) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, field) in fields {
                let Some(key) = key_of(key) else { continue };
                at.push(key);
                collect(field, at, into, key_of);
                at.pop();
            }
        }
        _ if at.is_empty() => {}
        _ => {
            into.insert(at.clone());
        }
    }
}

fn pointer(path: &[String]) -> String {
    let escaped = path
        .iter()
        .map(|key| key.replace('~', "~0").replace('/', "~1"));
    escaped.flat_map(|key| ["/".to_owned(), key]).collect()
}
