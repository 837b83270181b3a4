//! Which revision a spec's template stands for.
//!
//! The revision is a name for the template as the API server stores it, so that two ways to write
//! one template are one revision. Asking the API server costs a request, so it is asked only about
//! texts that have not been met: a text is known by the annotation on a ReplicaSet that was made
//! from it, or from memory.

mod refusal;
mod template;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use serin_core::units::Revision;
use serin_crds::names::{FIELD_MANAGER, REVISION_LABEL, ROLLOUT_LABEL};
use serin_crds::{RolloutSpec, api_status};
use tokio::time::Instant;

use crate::world::{Key, ReplicaSetFact};

pub use template::{labelled, written_hash};

/// Longer than this the API server is not waited for: what must not wait for a template, such as an
/// abort, comes next.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// A refused template is asked about again after so long: a policy may have changed.
pub const ASK_AGAIN: Duration = Duration::from_secs(30);
/// What stands for the revision while the API server is asked about a template.
const ASKING: &str = "unknown";
/// How many names for a new revision are tried before one is used whose holder is in the way.
const NAMES_TRIED: usize = 8;
/// How many texts per Rollout are remembered.
const MEMORY_LIMIT: usize = 32;

/// What is remembered between reconciles: texts whose revision is known though no ReplicaSet's
/// annotation names them, and the API server's refusal of one.
#[derive(Debug, Default)]
pub struct Memory {
    known: HashMap<String, Revision>,
    refused: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    hash: String,
    message: String,
    at: Instant,
}

impl Memory {
    /// Forgets which template a revision stands for: its name has turned out to be taken.
    pub fn forget(&mut self, revision: &Revision) {
        self.known.retain(|_, known| known != revision);
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The template stands for this revision.
    Revision(Revision),
    /// The API server refuses the template, for this reason.
    Refused(String),
    /// It cannot be told now; the next reconcile asks again.
    Unknown(String),
}

/// Asks for the revision of a spec's template.
pub async fn resolve(
    client: &Client,
    rollout: &Key,
    spec: &RolloutSpec,
    owned: &BTreeMap<Revision, Arc<ReplicaSetFact>>,
    memory: &mut Memory,
) -> Target {
    let hash = written_hash(spec);
    let named = owned
        .iter()
        .filter(|(_, set)| set.template_hash.as_deref() == Some(&hash));
    if let Some((revision, _)) = named.max_by_key(|(_, set)| set.created_at) {
        return Target::Revision(revision.clone());
    }
    if let Some(revision) = memory.known.get(&hash) {
        return Target::Revision(revision.clone());
    }
    let refused = memory
        .refused
        .as_ref()
        .filter(|refusal| refusal.hash == hash && refusal.at.elapsed() < ASK_AGAIN);
    if let Some(refusal) = refused {
        return Target::Refused(refusal.message.clone());
    }
    let owners: BTreeSet<&str> = owned
        .values()
        .map(|set| set.identity.uid.as_str())
        .collect();
    match tokio::time::timeout(ASK_TIMEOUT, ask(client, rollout, spec, &owners)).await {
        Ok(Ok(revision)) => {
            if memory.known.len() >= MEMORY_LIMIT {
                memory.known.clear();
            }
            memory.known.insert(hash, revision.clone());
            Target::Revision(revision)
        }
        Ok(Err(Problem::Refused(message))) => {
            let message = refusal::told(&message, spec);
            memory.refused = Some(Refusal {
                hash,
                message: message.clone(),
                at: Instant::now(),
            });
            Target::Refused(message)
        }
        Ok(Err(Problem::Failed(problem))) => Target::Unknown(format!(
            "the API server could not be asked about the template: {problem}"
        )),
        Err(_) => Target::Unknown(format!(
            "the API server did not answer about the template within {} s",
            ASK_TIMEOUT.as_secs()
        )),
    }
}

enum Problem {
    Refused(String),
    Failed(kube::Error),
}

impl From<kube::Error> for Problem {
    fn from(error: kube::Error) -> Self {
        match error {
            // Invalid: the API server's own validation. A webhook or a policy refuses with whatever
            // code it likes.
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

/// Asks the API server what it would store, and compares that with what it has stored.
async fn ask(
    client: &Client,
    rollout: &Key,
    spec: &RolloutSpec,
    owned: &BTreeSet<&str>,
) -> Result<Revision, Problem> {
    let api: Api<DynamicObject> = Api::namespaced_with(
        client.clone(),
        &rollout.namespace,
        &ApiResource::erase::<ReplicaSet>(&()),
    );
    let dry_run = PostParams {
        dry_run: true,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    };
    let answer = api.create(&dry_run, &probe(rollout, spec)).await?;
    let stored = template::bare(
        answer
            .data
            .pointer("/spec/template")
            .unwrap_or(&Value::Null),
    );
    let labels = format!("{ROLLOUT_LABEL}={}", rollout.name);
    let existing = api.list(&ListParams::default().labels(&labels)).await?;
    let existing: Vec<(String, bool, Value)> = existing
        .items
        .into_iter()
        .filter_map(|set| {
            let revision = set.metadata.labels.as_ref()?.get(REVISION_LABEL)?.clone();
            let ours = owned.contains(set.metadata.uid.as_deref()?);
            Some((
                revision,
                ours,
                template::bare(set.data.pointer("/spec/template")?),
            ))
        })
        .collect();
    // An object without our labels may stand in the way as well.
    let mut taken = BTreeSet::new();
    for _ in 0..NAMES_TRIED {
        let revision = choose(&stored, &existing, &taken);
        let name = format!("{}-{revision}", rollout.name);
        let holder = api.get_metadata_opt(&name).await?;
        let is_free = holder.is_none_or(|holder| {
            holder
                .metadata
                .uid
                .is_some_and(|uid| owned.contains(uid.as_str()))
        });
        if is_free {
            return Ok(revision);
        }
        taken.insert(revision.as_str().to_owned());
    }
    Ok(choose(&stored, &existing, &taken))
}

/// The revision of an existing ReplicaSet of ours with this template, or a name that none has and
/// that is not `taken`.
fn choose(
    stored: &Value,
    existing: &[(String, bool, Value)],
    taken: &BTreeSet<String>,
) -> Revision {
    if let Some((revision, ..)) = existing
        .iter()
        .find(|(_, ours, template)| *ours && template == stored)
    {
        return Revision::new(revision);
    }
    let taken: BTreeSet<&str> = existing
        .iter()
        .map(|(revision, ..)| revision.as_str())
        .chain(taken.iter().map(String::as_str))
        .collect();
    let names = (0_u32..).map(|collisions| template::revision_of(stored, collisions));
    let mut free = names.filter(|revision| !taken.contains(revision.as_str()));
    // There are more names than ReplicaSets.
    free.next()
        .unwrap_or_else(|| template::revision_of(stored, 0))
}

/// A ReplicaSet to ask about, never stored.
fn probe(rollout: &Key, spec: &RolloutSpec) -> DynamicObject {
    let mut probe = DynamicObject::new("", &ApiResource::erase::<ReplicaSet>(&()));
    probe.metadata.name = None;
    probe.metadata.generate_name = Some(format!("{}-", rollout.name));
    probe.metadata.namespace = Some(rollout.namespace.clone());
    probe.data = json!({"spec": {
        "replicas": 0,
        "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
        "selector": selector(spec, ASKING),
        "template": labelled(spec, &rollout.name, ASKING),
    }});
    probe
}

/// The selector of a revision's ReplicaSet: the user's, and the revision.
pub fn selector(spec: &RolloutSpec, revision: &str) -> Value {
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(REVISION_LABEL.to_owned(), revision.to_owned());
    serde_json::to_value(selector).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_template_is_one_revision_and_a_collision_is_survived() {
        let one = json!({"spec": {"containers": [{"name": "one"}]}});
        let two = json!({"spec": {"containers": [{"name": "two"}]}});
        let free = BTreeSet::new();
        let name = template::revision_of(&one, 0).as_str().to_owned();
        assert_eq!(
            choose(&one, &[("old".into(), true, one.clone())], &free),
            Revision::new("old")
        );
        assert_eq!(choose(&one, &[], &free), Revision::new(name.clone()));
        // A different template stands under the name already.
        assert_eq!(
            choose(&one, &[(name.clone(), true, two)], &free),
            template::revision_of(&one, 1)
        );
        // An equal template that belongs to somebody else is not ours.
        assert_ne!(
            choose(&one, &[(name.clone(), false, one.clone())], &free),
            template::revision_of(&one, 0)
        );
        // An object without our labels has the name.
        assert_eq!(
            choose(&one, &[], &[name].into()),
            template::revision_of(&one, 1)
        );
    }
}
