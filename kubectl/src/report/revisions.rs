//! Revisions with their ReplicaSets and pods.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;
use serin_core::state::Drain;
use serin_crds::names::REVISION_LABEL;

use super::pods::{PodReport, pod};
use crate::rollout_summary::RolloutSummary;
use crate::traffic_share::TrafficShare;

/// The objects of all revisions.
pub struct RevisionResources<'a> {
    /// The ReplicaSets.
    pub replica_sets: &'a [ReplicaSet],
    /// The pods.
    pub pods: &'a [Pod],
}

/// Role of a revision in the Rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Being released.
    Canary,
    /// Being released by blue/green.
    Preview,
    /// Aborted, but still the revision of the spec.
    Aborted,
    /// Stable.
    Stable,
    /// The first revision, not yet stable.
    First,
    /// Any other revision.
    Old,
}

/// One revision.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionReport {
    /// The revision.
    pub revision: String,
    /// Its role.
    pub role: Role,
    /// Its share of the traffic.
    #[serde(flatten)]
    pub traffic: Option<TrafficShare>,
    /// Time until which its pods are kept because traffic may still reach them.
    pub draining_until: Option<Timestamp>,
    /// Its ReplicaSet, if it exists.
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
    /// Desired number of pods.
    pub desired: i32,
    /// Available pods.
    pub available: i32,
    /// When it was created.
    pub created_at: Option<Timestamp>,
}

/// The revisions to show, and the number of older revisions without pods.
pub fn revisions(
    summary: &RolloutSummary,
    canary: Option<TrafficShare>,
    drains: &[Drain],
    objects: &RevisionResources<'_>,
    now: Timestamp,
) -> (Vec<RevisionReport>, usize) {
    let mut by_name: BTreeMap<String, RevisionReport> = BTreeMap::new();
    let revision_label = |labels: &BTreeMap<String, String>| labels.get(REVISION_LABEL).cloned();
    let named = summary
        .current_revision
        .iter()
        .chain(&summary.stable_revision)
        .cloned();
    let carried = objects
        .replica_sets
        .iter()
        .filter_map(|set| revision_label(set.labels()));
    for revision in named.chain(carried) {
        let report = RevisionReport {
            role: role(&revision, summary),
            traffic: traffic(&revision, summary, canary),
            draining_until: draining(&revision, drains, now),
            replica_set: None,
            pods: Vec::new(),
            revision: revision.clone(),
        };
        by_name.entry(revision).or_insert(report);
    }
    for set in objects.replica_sets {
        if let Some(report) =
            revision_label(set.labels()).and_then(|revision| by_name.get_mut(&revision))
        {
            report.replica_set = Some(replica_set(set));
        }
    }
    for object in objects.pods {
        if let Some(report) =
            revision_label(object.labels()).and_then(|revision| by_name.get_mut(&revision))
        {
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

fn role(revision: &str, summary: &RolloutSummary) -> Role {
    let is = |other: &Option<String>| other.as_deref() == Some(revision);
    if is(&summary.stable_revision) {
        Role::Stable
    } else if is(&summary.aborted_revision) && is(&summary.current_revision) {
        Role::Aborted
    } else if is(&summary.current_revision) {
        if summary.stable_revision.is_some() && summary.is_blue_green {
            Role::Preview
        } else if summary.stable_revision.is_some() {
            Role::Canary
        } else {
            Role::First
        }
    } else {
        Role::Old
    }
}

fn traffic(
    revision: &str,
    summary: &RolloutSummary,
    canary: Option<TrafficShare>,
) -> Option<TrafficShare> {
    match role(revision, summary) {
        Role::Canary | Role::Preview | Role::Aborted => canary,
        Role::Stable if summary.current_revision != summary.stable_revision => {
            canary.map(TrafficShare::complement)
        }
        Role::Stable => Some(TrafficShare {
            in_effect: Some(100.0),
            desired: 100.0,
        }),
        Role::First | Role::Old => None,
    }
}

/// Number of available pods of a revision. 0 if it has no ReplicaSet.
pub fn available_pods(replica_sets: &[ReplicaSet], revision: &str) -> i32 {
    let is_revision =
        |set: &&ReplicaSet| set.labels().get(REVISION_LABEL).map(String::as_str) == Some(revision);
    let set = replica_sets.iter().find(is_revision);
    set.map_or(0, |set| replica_set(set).available)
}

fn draining(revision: &str, drains: &[Drain], now: Timestamp) -> Option<Timestamp> {
    drains
        .iter()
        .find(|drain| drain.revision.as_str() == revision && drain.until > now)
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
