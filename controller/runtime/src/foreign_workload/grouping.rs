//! Groups the pods of another controller by ReplicaSet. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::Resource;
use serin_core::observation::{ObservedWorkload, PodGroup, ServiceRevisions};
use serin_core::text::Name;
use serin_core::units::Revision;
use serin_crds::Rollout;
use serin_crds::names::{ARGO_TEMPLATE_HASH_LABEL, POD_TEMPLATE_HASH_LABEL};

use super::{ForeignObjects, Selector};
use crate::cluster_cache::{
    CachedPod, CachedReplicaSet, ControllerRef, PodObject, ReplicaSetObject,
};

/// The annotations with the number of a revision. A template that is used again gets a new number.
pub(super) const REVISION_ANNOTATIONS: [&str; 2] = [
    "deployment.kubernetes.io/revision",
    "rollout.argoproj.io/revision",
];

/// A ReplicaSet of another controller.
struct ForeignSet {
    set: CachedReplicaSet,
    revision: Revision,
    /// The number of its revision.
    number: u64,
}

/// Groups pods by ReplicaSet, the newest ReplicaSet first.
///
/// # Errors
/// Why the pods cannot be observed, with the fix.
pub(super) fn group(
    sets: Vec<ReplicaSetObject>,
    pods: Vec<PodObject>,
    services: Option<&[Selector; 2]>,
) -> Result<ForeignObjects, String> {
    let mut sets: Vec<ForeignSet> = sets.into_iter().filter_map(foreign_set).collect();
    sets.sort_by_key(|set| Reverse((set.number, set.set.created_at)));
    make_distinct(&mut sets);
    let revision_of = |owner: Option<&str>| {
        let mut owners = sets.iter();
        let set = owners.find(|set| Some(set.set.identity.uid.as_str()) == owner)?;
        Some(set.revision.clone())
    };
    let labels: Vec<_> = pods.iter().map(|pod| pod.metadata.labels.clone()).collect();
    let pods: Vec<CachedPod> = pods.into_iter().map(CachedPod::from).collect();
    let active = || pods.iter().zip(&labels).filter(|(pod, _)| pod.active);
    let mut counts: BTreeMap<Revision, (u32, Timestamp)> = BTreeMap::new();
    for (pod, _) in active() {
        if let Some(revision) = revision_of(pod.owner_uid.as_deref()) {
            let (count, since) = counts.entry(revision).or_insert((0, pod.created_at));
            *count += 1;
            *since = pod.created_at.min(*since);
        }
    }
    let services = services.map(|selectors| {
        let [stable, canary] = selectors.each_ref().map(|selector| {
            let selected = active().filter(|(_, labels)| matches(selector, labels.as_ref()));
            most_common(selected.filter_map(|(pod, _)| revision_of(pod.owner_uid.as_deref())))
        });
        ServiceRevisions { stable, canary }
    });
    let owner = owner_of(&sets, &counts, services.is_some())?;
    let groups = sets.iter().filter_map(|set| {
        let (pods, since) = counts.get(&set.revision)?;
        Some(PodGroup {
            revision: set.revision.clone(),
            pods: *pods,
            since: *since,
        })
    });
    let workload = ObservedWorkload {
        controller: owner,
        replica_sets: groups.collect(),
        services,
    };
    let of_set = |pod: &CachedPod| revision_of(pod.owner_uid.as_deref()).is_some();
    let pods = pods.iter().filter(|pod| of_set(pod)).cloned().map(Arc::new);
    Ok(ForeignObjects {
        workload,
        pods: pods.collect(),
        replica_sets: sets
            .into_iter()
            .map(|set| (set.revision, Arc::new(set.set)))
            .collect(),
    })
}

/// `None` if nobody controls the ReplicaSet.
fn foreign_set(set: ReplicaSetObject) -> Option<ForeignSet> {
    let label = |name: &str| set.metadata.labels.as_ref()?.get(name).cloned();
    let annotation = |name: &str| set.metadata.annotations.as_ref()?.get(name)?.parse().ok();
    let hash = label(POD_TEMPLATE_HASH_LABEL).or_else(|| label(ARGO_TEMPLATE_HASH_LABEL));
    let name = || set.metadata.name.clone().unwrap_or_default();
    let revision = Revision::new(hash.unwrap_or_else(name));
    let mut numbers = REVISION_ANNOTATIONS.into_iter();
    let number = numbers.find_map(annotation).unwrap_or(0);
    let set = CachedReplicaSet::from(set);
    set.owner.is_some().then_some(ForeignSet {
        set,
        revision,
        number,
    })
}

/// Two controllers can have ReplicaSets with the same hash: the later ones get their names instead.
fn make_distinct(sets: &mut [ForeignSet]) {
    for index in 1..sets.len() {
        let (before, rest) = sets.split_at_mut(index);
        let set = &mut rest[0];
        if before.iter().any(|other| other.revision == set.revision) {
            set.revision = Revision::new(set.set.identity.key.name.clone());
        }
    }
}

fn matches(selector: &Selector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let mut required = selector.iter();
    required.all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
}

fn most_common(revisions: impl Iterator<Item = Revision>) -> Option<Revision> {
    let mut counts: BTreeMap<Revision, usize> = BTreeMap::new();
    for revision in revisions {
        *counts.entry(revision).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(revision, _)| revision)
}

/// The controller of the newest ReplicaSet with pods. `None` if there are no pods.
fn owner_of(
    sets: &[ForeignSet],
    counts: &BTreeMap<Revision, (u32, Timestamp)>,
    has_services: bool,
) -> Result<Option<Name>, String> {
    let with_pods = sets.iter().filter(|set| counts.contains_key(&set.revision));
    let mut owners: Vec<&ControllerRef> = Vec::new();
    for owner in with_pods.filter_map(|set| set.set.owner.as_ref()) {
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    let is_own = |owner: &&&ControllerRef| {
        owner.kind == Rollout::kind(&()) && owner.api_version == Rollout::api_version(&())
    };
    if let Some(own) = owners.iter().find(is_own) {
        return Err(format!(
            "spec.selector: Rollout {} of Serin manages these pods already; remove this Rollout",
            own.name
        ));
    }
    let names = owners
        .iter()
        .map(|owner| format!("{}/{}", owner.kind, owner.name));
    let names: Vec<String> = names.collect();
    if names.len() > 1 && !has_services {
        return Err(format!(
            "spec.selector: it selects pods of {}; use the selector of one of them, or set \
             spec.strategy.canary.stableService and canaryService",
            names.join(" and ")
        ));
    }
    Ok(names.first().map(|name| Name::from(name.as_str())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(name: &str, owner: Value, hash: &str, number: &str) -> ReplicaSetObject {
        let object = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("uid-{name}"),
                "labels": {"pod-template-hash": hash},
                "annotations": {"deployment.kubernetes.io/revision": number},
                "ownerReferences": [owner],
            },
            "spec": {"replicas": 1},
        });
        serde_json::from_value(object).unwrap()
    }

    fn deployment(name: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": name, "controller": true})
    }

    fn pod(name: &str, set: &str, labels: Value) -> PodObject {
        let object = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": labels,
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set,
                    "uid": format!("uid-{set}"), "controller": true}],
            },
            "status": {"phase": "Running"},
        });
        serde_json::from_value(object).unwrap()
    }

    fn revisions(objects: &ForeignObjects) -> Vec<&str> {
        let groups = objects.workload.replica_sets.iter();
        groups.map(|group| group.revision.as_str()).collect()
    }

    #[test]
    fn the_number_of_a_revision_decides_which_is_newest() {
        let sets = vec![
            set("a-1", deployment("a"), "h1", "3"),
            set("a-2", deployment("a"), "h2", "2"),
        ];
        let pods = vec![
            pod("x", "a-1", json!({})),
            pod("y", "a-2", json!({})),
            pod("z", "a-2", json!({})),
            pod("other", "b-1", json!({})),
        ];
        let objects = group(sets, pods, None).unwrap();
        assert_eq!(revisions(&objects), ["h1", "h2"]);
        assert_eq!(objects.workload.replica_sets[1].pods, 2);
        assert_eq!(objects.workload.controller, Some("Deployment/a".into()));
        assert_eq!(objects.pods.len(), 3, "only pods of these ReplicaSets");
    }

    #[test]
    fn services_select_the_revisions_of_several_controllers() {
        let sets = vec![
            set("app-1", deployment("app"), "h1", "2"),
            set("app-primary-1", deployment("app-primary"), "h2", "1"),
        ];
        let pods = || {
            vec![
                pod("x", "app-1", json!({"app": "app"})),
                pod("y", "app-primary-1", json!({"app": "app-primary"})),
            ]
        };
        let problem = group(sets.clone(), pods(), None).unwrap_err();
        assert!(
            problem.contains("Deployment/app and Deployment/app-primary"),
            "{problem}"
        );
        let selector = |app: &str| Selector::from([("app".to_owned(), app.to_owned())]);
        let services = [selector("app-primary"), selector("app")];
        let objects = group(sets, pods(), Some(&services)).unwrap();
        let seen = objects.workload.services.unwrap();
        assert_eq!(seen.stable, Some(Revision::new("h2")));
        assert_eq!(seen.canary, Some(Revision::new("h1")));
    }

    #[test]
    fn a_hash_that_is_used_twice_is_replaced_by_the_name() {
        let sets = vec![
            set("a-1", deployment("a"), "h1", "2"),
            set("b-1", deployment("b"), "h1", "1"),
        ];
        let pods = vec![pod("x", "a-1", json!({})), pod("y", "b-1", json!({}))];
        let services = [Selector::new(), Selector::new()];
        let objects = group(sets, pods, Some(&services)).unwrap();
        assert_eq!(revisions(&objects), ["h1", "b-1"]);
    }

    #[test]
    fn pods_of_a_rollout_of_serin_are_not_observed() {
        let owner = json!({"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "name": "a", "uid": "a", "controller": true});
        let sets = vec![set("a-1", owner, "h1", "1")];
        let pods = vec![pod("x", "a-1", json!({}))];
        let problem = group(sets, pods, None).unwrap_err();
        assert!(
            problem.contains("Rollout a of Serin manages these pods"),
            "{problem}"
        );
    }
}
