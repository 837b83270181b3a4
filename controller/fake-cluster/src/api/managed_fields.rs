//! Field ownership (`metadata.managedFields`), tracked for Rollouts only. The controller uses it to
//! distinguish a defaulted field from a declared one. Lists are owned as a whole.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::kinds::ServedKind;

/// The field manager of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldManager {
    pub(crate) manager: String,
    /// Server-side apply instead of an update.
    pub(crate) is_apply: bool,
    pub(crate) subresource: String,
    /// Whether the request is a patch.
    pub(crate) is_patch: bool,
}

impl FieldManager {
    fn is_same_entry(&self, other: &Self) -> bool {
        (&self.manager, self.is_apply, &self.subresource)
            == (&other.manager, other.is_apply, &other.subresource)
    }
}

type FieldPath = Vec<String>;

pub(crate) fn is_tracked(kind: &ServedKind) -> bool {
    kind.plural == "rollouts"
}

/// Updates `metadata.managedFields` after a write. `applied` is the configuration of a server-side
/// apply, before defaulting.
pub(crate) fn record(
    kind: &ServedKind,
    current: Option<&Value>,
    next: &mut Value,
    applied: Option<&Value>,
    field_manager: &FieldManager,
) {
    if !is_tracked(kind) {
        return;
    }
    let after = leaves(next);
    let value = |object: &Value, path: &FieldPath| object.pointer(&pointer(path)).cloned();
    let changed: BTreeSet<FieldPath> = after
        .iter()
        .filter(|path| current.is_none_or(|current| value(current, path) != value(next, path)))
        .cloned()
        .collect();
    let mut entries: Vec<(FieldManager, BTreeSet<FieldPath>)> =
        current.map(owners).unwrap_or_default();
    for (_, owned) in &mut entries {
        owned.retain(|path| after.contains(path) && !changed.contains(path));
    }
    let own = match applied {
        Some(applied) => leaves(applied),
        None => {
            let kept = entries
                .iter()
                .find(|(known, _)| known.is_same_entry(field_manager))
                .map(|(_, owned)| owned.clone());
            kept.unwrap_or_default()
                .into_iter()
                .chain(changed)
                .collect()
        }
    };
    // A write through `scale` is not tracked if the field had no owner or if the value is 0, which
    // a Scale object omits.
    let replicas = vec!["spec".to_owned(), "replicas".to_owned()];
    let untracked = field_manager.subresource == "scale"
        && (next["spec"]["replicas"] == 0
            || !current
                .map(owners)
                .unwrap_or_default()
                .iter()
                .any(|(_, owned)| owned.contains(&replicas)));
    if !untracked {
        match entries
            .iter_mut()
            .find(|(known, _)| known.is_same_entry(field_manager))
        {
            Some((_, owned)) => *owned = own,
            None => entries.push((field_manager.clone(), own)),
        }
    }
    entries.retain(|(_, owned)| !owned.is_empty());
    let api_version = next["apiVersion"].clone();
    next["metadata"]["managedFields"] = entries
        .iter()
        .map(|(field_manager, owned)| entry(field_manager, owned, &api_version))
        .collect();
}

/// Removes the fields that this manager applied before and no longer applies, unless another
/// manager owns them too.
pub(crate) fn without_dropped(
    current: &Value,
    applied: &Value,
    field_manager: &FieldManager,
) -> Value {
    let entries = owners(current);
    let owned = entries
        .iter()
        .filter(|(known, _)| known.is_same_entry(field_manager))
        .flat_map(|(_, owned)| owned);
    let remaining = leaves(applied);
    let mut next = current.clone();
    for path in owned.filter(|path| !remaining.contains(*path)) {
        let shared = entries
            .iter()
            .any(|(known, owned)| !known.is_same_entry(field_manager) && owned.contains(path));
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

fn entry(field_manager: &FieldManager, owned: &BTreeSet<FieldPath>, api_version: &Value) -> Value {
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
        "manager": field_manager.manager, "operation": if field_manager.is_apply { "Apply" } else { "Update" },
        "apiVersion": api_version, "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    if !field_manager.subresource.is_empty() {
        entry["subresource"] = field_manager.subresource.as_str().into();
    }
    entry
}

fn owners(object: &Value) -> Vec<(FieldManager, BTreeSet<FieldPath>)> {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries
        .map(|entry| {
            let field_manager = FieldManager {
                manager: text(&entry["manager"]),
                is_apply: entry["operation"] == "Apply",
                subresource: text(&entry["subresource"]),
                is_patch: false,
            };
            let mut owned = BTreeSet::new();
            collect(&entry["fieldsV1"], &mut Vec::new(), &mut owned, |key| {
                key.strip_prefix("f:").map(str::to_owned)
            });
            (field_manager, owned)
        })
        .collect()
}

/// The paths of all fields that can have an owner. Fields that the API server maintains have none.
fn leaves(object: &Value) -> BTreeSet<FieldPath> {
    let mut paths = BTreeSet::new();
    collect(object, &mut Vec::new(), &mut paths, |key| {
        Some(key.to_owned())
    });
    let is_server_field = |path: &FieldPath| match path
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
    paths.retain(|path| !is_server_field(path));
    paths
}

fn collect(
    value: &Value,
    at: &mut FieldPath,
    into: &mut BTreeSet<FieldPath>,
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
