//! The revisions, their ReplicaSets and pods.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;
use serin_crds::names::REVISION_LABEL;
use serin_crds::status::RolloutStatus;

use super::pods::{PodReport, pod};
use crate::facts::Facts;

/// The objects of all revisions.
pub struct Seen<'a> {
    /// The ReplicaSets.
    pub replica_sets: &'a [ReplicaSet],
    /// The pods.
    pub pods: &'a [Pod],
}

/// What a revision is to the Rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// It is being released.
    Canary,
    /// It was given up, and the spec still asks for it.
    Aborted,
    /// Production stands on it.
    Stable,
    /// It is the first one, on its way to become stable.
    First,
    /// Neither.
    Old,
}

/// One revision.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionReport {
    /// The revision.
    pub revision: String,
    /// What it is to the Rollout.
    pub role: Role,
    /// Its share of the traffic in percent, as last seen in effect, or as asked for while a change
    /// is on its way.
    pub weight_percent: Option<f64>,
    /// When its pods may go, once no traffic can reach them.
    pub draining_until: Option<Timestamp>,
    /// Its ReplicaSet, where there is one.
    pub replica_set: Option<ReplicaSetReport>,
    /// Its pods, by name.
    pub pods: Vec<PodReport>,
}

/// One ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSetReport {
    /// Its name.
    pub name: String,
    /// How many pods it shall have.
    pub desired: i32,
    /// How many of them are available.
    pub available: i32,
    /// When it was created.
    pub created_at: Option<Timestamp>,
}

/// The revisions that matter now, and how many others are kept without pods.
pub fn revisions(
    facts: &Facts,
    status: &RolloutStatus,
    seen: &Seen<'_>,
    now: Timestamp,
) -> (Vec<RevisionReport>, usize) {
    let mut by_name: BTreeMap<String, RevisionReport> = BTreeMap::new();
    let of = |labels: &BTreeMap<String, String>| labels.get(REVISION_LABEL).cloned();
    let named = facts.current.iter().chain(&facts.stable).cloned();
    let carried = seen.replica_sets.iter().filter_map(|set| of(set.labels()));
    for revision in named.chain(carried) {
        let report = RevisionReport {
            role: role(&revision, facts),
            weight_percent: weight(&revision, facts),
            draining_until: draining(&revision, status, now),
            replica_set: None,
            pods: Vec::new(),
            revision: revision.clone(),
        };
        by_name.entry(revision).or_insert(report);
    }
    for set in seen.replica_sets {
        if let Some(report) = of(set.labels()).and_then(|revision| by_name.get_mut(&revision)) {
            report.replica_set = Some(replica_set(set));
        }
    }
    for object in seen.pods {
        if let Some(report) = of(object.labels()).and_then(|revision| by_name.get_mut(&revision)) {
            report.pods.push(pod(object));
        }
    }
    let (mut shown, kept): (Vec<_>, Vec<_>) = by_name.into_values().partition(|report| {
        let wanted = report
            .replica_set
            .as_ref()
            .is_some_and(|set| set.desired > 0);
        report.role != Role::Old || wanted || !report.pods.is_empty()
    });
    shown.sort_by(|left, right| {
        left.role
            .cmp(&right.role)
            .then_with(|| left.revision.cmp(&right.revision))
    });
    for report in &mut shown {
        report
            .pods
            .sort_by(|left, right| left.name.cmp(&right.name));
    }
    (shown, kept.len())
}

fn role(revision: &str, facts: &Facts) -> Role {
    let is = |other: &Option<String>| other.as_deref() == Some(revision);
    if is(&facts.stable) {
        Role::Stable
    } else if is(&facts.aborted) && is(&facts.current) {
        Role::Aborted
    } else if is(&facts.current) {
        if facts.stable.is_some() {
            Role::Canary
        } else {
            Role::First
        }
    } else {
        Role::Old
    }
}

fn weight(revision: &str, facts: &Facts) -> Option<f64> {
    let canary = facts.verified.or(facts.asked)?;
    match role(revision, facts) {
        Role::Canary | Role::Aborted => Some(canary),
        // Rounded to the resolution of a weight, so that no 79.99999 is shown.
        Role::Stable if facts.current != facts.stable => {
            Some(((100.0 - canary) * 1_000.0).round() / 1_000.0)
        }
        Role::Stable => Some(100.0),
        Role::First | Role::Old => None,
    }
}

fn draining(revision: &str, status: &RolloutStatus, now: Timestamp) -> Option<Timestamp> {
    status
        .draining
        .iter()
        .find(|drain| drain.revision == revision && drain.until > now)
        .map(|drain| drain.until)
}

fn replica_set(set: &ReplicaSet) -> ReplicaSetReport {
    ReplicaSetReport {
        name: set.name_any(),
        desired: set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1),
        available: set
            .status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0),
        created_at: set.creation_timestamp().map(|time| time.0),
    }
}
