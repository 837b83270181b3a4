//! The revisions of a Rollout: its ReplicaSets, with the outcomes of their releases from the status.

use jiff::Timestamp;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value};
use serin_crds::names::{POD_TEMPLATE_HASH_LABEL, REVISION_LABEL, ROLLOUT_LABEL};
use serin_crds::{anti_affinity, side_metadata};

use crate::connect::{Connection, send_exact};
use crate::exit::{CliError, Exit};
use crate::resources::owned_by_selector;

/// Labels that the controller adds to a template.
const ADDED_LABELS: [&str; 3] = [ROLLOUT_LABEL, REVISION_LABEL, POD_TEMPLATE_HASH_LABEL];

/// A revision whose ReplicaSet exists.
///
/// Its texts are those of the cluster, and must be made printable before they are printed.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionEntry {
    /// The name of the revision.
    pub revision: String,
    /// When its ReplicaSet was created.
    pub created_at: Option<Timestamp>,
    /// The number of pods that its ReplicaSet should have.
    pub pods: i64,
    /// The pod template, without what the controller adds.
    pub template: Value,
    /// How its latest release ended, for example `Promoted`. `None` if it is not in the status.
    pub result: Option<String>,
}

impl RevisionEntry {
    /// The images of its containers, in order.
    pub fn images(&self) -> Vec<&str> {
        let containers = self.template["spec"]["containers"].as_array();
        let images = containers.into_iter().flatten();
        images
            .filter_map(|container| container["image"].as_str())
            .collect()
    }
}

/// Reads the revisions of a Rollout, the newest first.
///
/// # Errors
/// The ReplicaSets cannot be read.
pub async fn read(
    connection: &Connection,
    rollout: &DynamicObject,
) -> Result<Vec<RevisionEntry>, CliError> {
    let kind = GroupVersionKind::gvk("apps", "v1", "ReplicaSet");
    let resource = ApiResource::from_gvk_with_plural(&kind, "replicasets");
    let client = connection.client.clone();
    let api: Api<DynamicObject> = Api::namespaced_with(client, &connection.namespace, &resource);
    let mine = ListParams::default().labels(&owned_by_selector(&rollout.name_any()));
    let sets = send_exact("list ReplicaSets", api.list(&mine)).await?;
    let is_owned = |set: &DynamicObject| {
        let mut owners = set.owner_references().iter();
        owners.any(|owner| Some(&owner.uid) == rollout.metadata.uid.as_ref())
    };
    let sets = sets.items.into_iter().filter(is_owned);
    let status = &rollout.data["status"];
    let mut entries: Vec<_> = sets.filter_map(|set| entry(&set, status)).collect();
    entries.sort_by(|one, other| {
        let order = other.created_at.cmp(&one.created_at);
        order.then_with(|| one.revision.cmp(&other.revision))
    });
    Ok(entries)
}

fn entry(set: &DynamicObject, status: &Value) -> Option<RevisionEntry> {
    let revision = set.labels().get(REVISION_LABEL)?.clone();
    let history = status["history"].as_array().into_iter().flatten();
    let mut releases = history.filter(|release| release["revision"] == revision.as_str());
    let last = releases.next_back();
    Some(RevisionEntry {
        created_at: set.creation_timestamp().map(|created| created.0),
        pods: set.data["spec"]["replicas"].as_i64().unwrap_or(0),
        template: without_additions(set.data["spec"]["template"].clone()),
        result: last
            .and_then(|release| release["result"].as_str())
            .map(ToOwned::to_owned),
        revision,
    })
}

fn without_additions(mut template: Value) -> Value {
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|label, _| !ADDED_LABELS.contains(&label.as_str()));
        }
    }
    anti_affinity::remove(&mut template);
    side_metadata::remove(&mut template);
    template
}

/// Finds the revision with this name, or with a name that begins like this.
///
/// # Errors
/// No revision or more than one has such a name.
pub fn find<'a>(entries: &'a [RevisionEntry], wanted: &str) -> Result<&'a RevisionEntry, CliError> {
    let is_exact = |entry: &&RevisionEntry| entry.revision == wanted;
    if let Some(entry) = entries.iter().find(is_exact) {
        return Ok(entry);
    }
    let begins = |entry: &&RevisionEntry| entry.revision.starts_with(wanted);
    let matching: Vec<_> = entries.iter().filter(begins).collect();
    match matching.as_slice() {
        [entry] => Ok(entry),
        [] => Err(no_such_revision(entries, wanted)),
        several => {
            let names: Vec<&str> = several
                .iter()
                .map(|entry| entry.revision.as_str())
                .collect();
            let problem = format!("{wanted} is the beginning of several revisions");
            Err(CliError::new(Exit::Usage, problem).hint(names.join(", ")))
        }
    }
}

fn no_such_revision(entries: &[RevisionEntry], wanted: &str) -> CliError {
    let names: Vec<&str> = entries
        .iter()
        .map(|entry| entry.revision.as_str())
        .collect();
    let error = CliError::new(Exit::Usage, format!("there is no revision {wanted}"));
    error
        .hint(format!("The revisions are: {}.", names.join(", ")))
        .hint("Older ones were deleted; spec.revisionHistoryLimit says how many are kept.")
}

/// The template as YAML with sorted keys.
pub fn template_yaml(template: &Value) -> String {
    serde_saphyr::to_string(&sorted(template)).unwrap_or_default()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            let fields = keys
                .into_iter()
                .map(|key| (key.clone(), sorted(&fields[key])));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        leaf => leaf.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(names: &[&str]) -> Vec<RevisionEntry> {
        let entry = |name: &&str| RevisionEntry {
            revision: (*name).to_owned(),
            created_at: None,
            pods: 0,
            template: json!({}),
            result: None,
        };
        names.iter().map(entry).collect()
    }

    #[test]
    fn a_revision_is_found_by_its_name_or_the_beginning_of_it() {
        let entries = named(&["abc", "abcd", "xyz"]);
        assert_eq!(find(&entries, "abc").unwrap().revision, "abc");
        assert_eq!(find(&entries, "x").unwrap().revision, "xyz");
        let several = find(&entries, "ab").unwrap_err();
        assert_eq!(
            (several.exit, several.hints),
            (Exit::Usage, vec!["abc, abcd".to_owned()])
        );
        let none = find(&entries, "q").unwrap_err();
        assert_eq!(none.message, "there is no revision q");
    }

    #[test]
    fn the_labels_of_the_controller_are_not_part_of_the_template() {
        let set: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "shop-abc", "labels": {"serin.dev/revision": "abc"}},
            "spec": {"replicas": 2, "template": {
                "metadata": {"creationTimestamp": null, "labels": {"app": "shop",
                    "serin.dev/rollout": "shop", "serin.dev/revision": "abc",
                    "pod-template-hash": "abc"}},
                "spec": {"containers": [{"name": "app", "image": "shop:1"}]}}},
        }))
        .unwrap();
        let status = json!({"history": [
            {"revision": "abc", "result": "Aborted"},
            {"revision": "xyz", "result": "Promoted"},
            {"revision": "abc", "result": "Promoted"},
        ]});
        let entry = entry(&set, &status).unwrap();
        assert_eq!(
            entry.template,
            json!({"metadata": {"labels": {"app": "shop"}},
                "spec": {"containers": [{"name": "app", "image": "shop:1"}]}})
        );
        assert_eq!(entry.images(), ["shop:1"]);
        assert_eq!(entry.result.as_deref(), Some("Promoted"));
    }
}
