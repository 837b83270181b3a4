//! Maps pod templates to revisions.
//!
//! A revision is a name for the template as the API server stores it, so that two spellings of one
//! template have the same revision. A lookup costs requests to the API server: a dry run, whose
//! result is compared with the ReplicaSets that the watch has brought, and a look at the new name.
//! It is skipped for templates that are known, either by the annotation on a ReplicaSet or from the
//! cache.

mod pinned_images;
mod refusal;
pub mod request;
mod template;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use serin_core::units::Revision;
use serin_crds::names::{FIELD_MANAGER, POD_TEMPLATE_HASH_LABEL};
use serin_crds::{RolloutSpec, api_status};
use tokio::time::Instant;

use crate::cluster_cache::{CachedReplicaSet, Key, ObjectCache};

pub use pinned_images::{unpin, unpinned_containers};
pub use template::{TemplateDigest, template_hash, with_serin_labels};

/// Maximum time for a lookup. Urgent actions, such as an abort, wait for it.
const DRY_RUN_TIMEOUT: Duration = Duration::from_secs(3);
/// Time until a refused template is tried again, because an admission policy may have changed.
pub const REFUSAL_RECHECK_AFTER: Duration = Duration::from_secs(30);
/// Placeholder for the revision in a dry run.
const PROBE_REVISION: &str = "unknown";
/// Maximum number of names that are tried for a new revision.
const MAX_NAME_ATTEMPTS: usize = 8;
/// Maximum number of cached templates per Rollout.
const CACHE_LIMIT: usize = 32;

/// Known templates without a matching annotation on a ReplicaSet, and the last refusal by the API
/// server.
#[derive(Debug, Default)]
pub struct RevisionCache {
    known: HashMap<String, Revision>,
    refused: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    hash: String,
    message: String,
    at: Instant,
}

impl RevisionCache {
    /// Removes a revision whose ReplicaSet name turned out to be taken.
    pub fn forget(&mut self, revision: &Revision) {
        self.known.retain(|_, known| known != revision);
    }
}

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateRevision {
    /// The template has this revision.
    Known(Revision),
    /// The API server refuses the template, for this reason.
    Refused(String),
    /// The lookup failed. The next reconcile retries it.
    Unknown(String),
    /// The lookup waits until the pods of a Deployment have been taken over.
    Pending,
}

/// Looks up the revision of a spec's template, which has this [`template_hash`].
///
/// `replica_sets` are all cached ReplicaSets, and `owned` those of the Rollout.
pub async fn resolve(
    client: &Client,
    replica_sets: &ObjectCache<CachedReplicaSet>,
    rollout: &Key,
    spec: &RolloutSpec,
    hash: &str,
    owned: &BTreeMap<Revision, Arc<CachedReplicaSet>>,
    cache: &mut RevisionCache,
) -> TemplateRevision {
    let named = owned
        .iter()
        .filter(|(_, set)| set.template_hash.as_deref() == Some(hash));
    if let Some((revision, _)) = named.max_by_key(|(_, set)| set.created_at) {
        return TemplateRevision::Known(revision.clone());
    }
    if let Some(revision) = cache.known.get(hash) {
        return TemplateRevision::Known(revision.clone());
    }
    let refused = cache
        .refused
        .as_ref()
        .filter(|refusal| refusal.hash == hash && refusal.at.elapsed() < REFUSAL_RECHECK_AFTER);
    if let Some(refusal) = refused {
        return TemplateRevision::Refused(refusal.message.clone());
    }
    let existing = ExistingSets::new(&replica_sets.for_rollout(rollout), owned);
    match tokio::time::timeout(
        DRY_RUN_TIMEOUT,
        resolve_by_dry_run(client, rollout, spec, &existing),
    )
    .await
    {
        Ok(Ok(revision)) => {
            if cache.known.len() >= CACHE_LIMIT {
                cache.known.clear();
            }
            cache.known.insert(hash.to_owned(), revision.clone());
            TemplateRevision::Known(revision)
        }
        Ok(Err(DryRunError::Refused(message))) => {
            let message = refusal::explain(&message, spec);
            cache.refused = Some(Refusal {
                hash: hash.to_owned(),
                message: message.clone(),
                at: Instant::now(),
            });
            TemplateRevision::Refused(message)
        }
        Ok(Err(DryRunError::Failed(problem))) => {
            TemplateRevision::Unknown(format!("the dry run of the template failed: {problem}"))
        }
        Err(_) => TemplateRevision::Unknown(format!(
            "the dry run of the template timed out after {} s",
            DRY_RUN_TIMEOUT.as_secs()
        )),
    }
}

enum DryRunError {
    Refused(String),
    Failed(kube::Error),
}

impl From<kube::Error> for DryRunError {
    fn from(error: kube::Error) -> Self {
        match error {
            // Validation by the API server returns Invalid. Webhooks and policies may use any code.
            kube::Error::Api(status)
                if api_status::is_invalid(&status)
                    || api_status::is_bad_request(&status)
                    || api_status::is_denied_by_admission(&status) =>
            {
                Self::Refused(api_status::message(&status))
            }
            other => Self::Failed(other),
        }
    }
}

/// The ReplicaSets with the label of a Rollout.
struct ExistingSets {
    sets: Vec<ExistingSet>,
    /// The UIDs of those that the Rollout owns.
    owned: BTreeSet<String>,
}

struct ExistingSet {
    revision: Revision,
    is_owned: bool,
    template: Option<TemplateDigest>,
}

impl ExistingSets {
    fn new(
        labelled: &[Arc<CachedReplicaSet>],
        owned: &BTreeMap<Revision, Arc<CachedReplicaSet>>,
    ) -> Self {
        let owned: BTreeSet<String> = owned.values().map(|set| set.identity.uid.clone()).collect();
        let sets = labelled.iter().filter_map(|set| {
            Some(ExistingSet {
                revision: set.revision.clone()?,
                is_owned: owned.contains(&set.identity.uid),
                template: set.template,
            })
        });
        Self {
            sets: sets.collect(),
            owned,
        }
    }

    /// The revision of an owned ReplicaSet with this template, or a new name that is not in `taken`.
    fn choose_revision(&self, stored: &Value, taken: &BTreeSet<String>) -> Revision {
        let digest = Some(TemplateDigest::from_normalized(stored));
        let mut owned = self.sets.iter().filter(|set| set.is_owned);
        if let Some(equal) = owned.find(|set| set.template == digest) {
            return equal.revision.clone();
        }
        let is_taken = |revision: &Revision| {
            taken.contains(revision.as_str())
                || self.sets.iter().any(|set| set.revision == *revision)
        };
        let names = (0_u32..).map(|collisions| template::revision_name(stored, collisions));
        let mut free = names.filter(|revision| !is_taken(revision));
        // There are more names than ReplicaSets.
        free.next()
            .unwrap_or_else(|| template::revision_name(stored, 0))
    }
}

/// The template of a ReplicaSet that a dry run returns.
#[derive(Deserialize)]
struct DryRunResponse {
    #[serde(default)]
    spec: DryRunSpec,
}

#[derive(Default, Deserialize)]
struct DryRunSpec {
    #[serde(default)]
    template: Value,
}

/// Looks up how the API server would store the template, and compares it with the existing
/// ReplicaSets. These are not listed: the API server would visit every ReplicaSet of the namespace
/// for each new template. [`TemplateDigest`] says why the comparison is exact.
async fn resolve_by_dry_run(
    client: &Client,
    rollout: &Key,
    spec: &RolloutSpec,
    existing: &ExistingSets,
) -> Result<Revision, DryRunError> {
    let api: Api<DynamicObject> = Api::namespaced_with(
        client.clone(),
        &rollout.namespace,
        &ApiResource::erase::<ReplicaSet>(&()),
    );
    let dry_run = PostParams {
        dry_run: true,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    };
    let probe = probe(rollout, spec);
    let answer: DryRunResponse =
        request::create_replica_set(client, &rollout.namespace, &dry_run, &probe).await?;
    let stored = template::normalized(&answer.spec.template);
    // Names can also be taken by objects without our labels.
    let mut taken = BTreeSet::new();
    for _ in 0..MAX_NAME_ATTEMPTS {
        let revision = existing.choose_revision(&stored, &taken);
        let name = format!("{}-{revision}", rollout.name);
        let holder = api.get_metadata_opt(&name).await?;
        let is_free = holder.is_none_or(|holder| {
            holder
                .metadata
                .uid
                .is_some_and(|uid| existing.owned.contains(&uid))
        });
        if is_free {
            return Ok(revision);
        }
        taken.insert(revision.as_str().to_owned());
    }
    Ok(existing.choose_revision(&stored, &taken))
}

/// A ReplicaSet for a dry run.
pub fn probe(rollout: &Key, spec: &RolloutSpec) -> DynamicObject {
    let mut probe = DynamicObject::new("", &ApiResource::erase::<ReplicaSet>(&()));
    probe.metadata.name = None;
    probe.metadata.generate_name = Some(format!("{}-", rollout.name));
    probe.metadata.namespace = Some(rollout.namespace.clone());
    probe.data = json!({"spec": {
        "replicas": 0,
        "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
        "selector": selector(spec, PROBE_REVISION),
        "template": with_serin_labels(spec, &rollout.name, PROBE_REVISION, &[]),
    }});
    probe
}

/// The selector of a revision's ReplicaSet: the selector of the user plus the revision, under the
/// label that a Deployment uses. A Deployment can then take the ReplicaSet over: selectors are
/// immutable, and it recognizes a ReplicaSet whose template differs in this label alone.
pub fn selector(spec: &RolloutSpec, revision: &str) -> Value {
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(POD_TEMPLATE_HASH_LABEL.to_owned(), revision.to_owned());
    serde_json::to_value(selector).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ReplicaSets with their revision, whether the Rollout owns them, and their template.
    fn existing(sets: &[(&str, bool, &Value)]) -> ExistingSets {
        let sets = sets
            .iter()
            .map(|(revision, is_owned, template)| ExistingSet {
                revision: Revision::new(*revision),
                is_owned: *is_owned,
                template: Some(TemplateDigest::from_stored(template)),
            });
        ExistingSets {
            sets: sets.collect(),
            owned: BTreeSet::new(),
        }
    }

    #[test]
    fn equal_templates_share_a_revision_and_collisions_get_another_name() {
        let one = json!({"spec": {"containers": [{"name": "one"}]}});
        let two = json!({"spec": {"containers": [{"name": "two"}]}});
        let free = BTreeSet::new();
        let name = template::revision_name(&one, 0).as_str().to_owned();
        let choose = |sets: &[(&str, bool, &Value)], taken: &BTreeSet<String>| {
            existing(sets).choose_revision(&one, taken)
        };
        assert_eq!(choose(&[("old", true, &one)], &free), Revision::new("old"));
        assert_eq!(choose(&[], &free), Revision::new(name.clone()));
        // The name belongs to a different template.
        assert_eq!(
            choose(&[(&name, true, &two)], &free),
            template::revision_name(&one, 1)
        );
        // An equal template in somebody else's ReplicaSet does not count.
        assert_eq!(
            choose(&[(&name, false, &one)], &free),
            template::revision_name(&one, 1)
        );
        // The name is taken by an object without our labels.
        assert_eq!(
            choose(&[], &[name.clone()].into()),
            template::revision_name(&one, 1)
        );
    }
}
