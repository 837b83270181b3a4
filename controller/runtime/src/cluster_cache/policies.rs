//! RolloutPolicies, AnalysisTemplates and the labels of namespaces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serin_policy::Labels;
use tokio::sync::watch;

use super::optional_kinds::{ANALYSIS_TEMPLATE, Availability, KindState, ROLLOUT_POLICY};
use super::policy_objects::{CachedPolicy, CachedTemplate, Selectors};
use super::{ClusterCache, Key, ObjectCache, RolloutObject};

/// What policies are made of.
pub struct PolicyCaches {
    /// All RolloutPolicies, by name.
    pub policies: ObjectCache<CachedPolicy>,
    /// Whether the cluster serves RolloutPolicy.
    pub policy_kind: KindState,
    /// All AnalysisTemplates.
    pub templates: ObjectCache<CachedTemplate>,
    /// Whether the cluster serves AnalysisTemplate.
    pub template_kind: KindState,
    /// The labels of the namespaces, if a policy needs them.
    pub namespaces: NamespaceLabels,
    /// What has changed and not been handled yet.
    pub changes: PolicyChanges,
    namespaces_needed: watch::Sender<bool>,
}

impl Default for PolicyCaches {
    fn default() -> Self {
        Self {
            policies: ObjectCache::default(),
            policy_kind: KindState::new(ROLLOUT_POLICY),
            templates: ObjectCache::default(),
            template_kind: KindState::new(ANALYSIS_TEMPLATE),
            namespaces: NamespaceLabels::default(),
            changes: PolicyChanges::default(),
            namespaces_needed: watch::Sender::new(false),
        }
    }
}

/// The policies that match a Rollout.
#[derive(Debug, Default)]
pub struct MatchingPolicies {
    /// The policies, by name.
    pub policies: Vec<Arc<CachedPolicy>>,
    /// Why it is not known which policies match. `None` if it is.
    pub unknown: Option<&'static str>,
}

impl PolicyCaches {
    /// The policies that match a Rollout. If the labels of its namespace cannot be known, every
    /// policy that needs them matches.
    pub fn matching(&self, rollout: &RolloutObject) -> MatchingPolicies {
        let mut found = MatchingPolicies::default();
        if self.policy_kind.availability() == Availability::Forbidden {
            found.unknown = Some(
                "the controller may not list RolloutPolicies: update its ClusterRole with the chart \
                 of this version",
            );
        }
        let mut policies = self.policies.all();
        if policies.is_empty() {
            return found;
        }
        let namespace = rollout.metadata.namespace.as_deref().unwrap_or_default();
        let namespace_labels = self.namespaces.get(namespace);
        let none = Labels::new();
        let labels = rollout.metadata.labels.as_ref().unwrap_or(&none);
        policies.retain(
            |policy| match (&namespace_labels, &policy.selectors.namespaces) {
                (Some(of_namespace), _) => policy.selectors.matches(of_namespace, labels),
                (None, None) => policy.selectors.matches(&none, labels),
                (None, Some(_)) => {
                    found.unknown = Some(self.namespaces.why_unknown());
                    true
                }
            },
        );
        policies.sort_by(|one, other| one.identity.key.name.cmp(&other.identity.key.name));
        found.policies = policies;
        found
    }

    /// Whether a policy selects namespaces whose labels are still being listed.
    pub fn awaits_namespaces(&self) -> bool {
        self.needs_namespaces() && self.namespaces.is_pending()
    }

    /// Whether a policy selects namespaces.
    pub fn needs_namespaces(&self) -> bool {
        let policies = self.policies.all();
        policies
            .iter()
            .any(|policy| policy.selectors.namespaces.is_some())
    }

    /// Completes when a policy selects namespaces.
    pub async fn wait_until_namespaces_are_needed(&self) {
        self.policies.wait_until_synced().await;
        if self.needs_namespaces() {
            return;
        }
        // The sender is a field of `self`, so waiting cannot fail.
        let mut needed = self.namespaces_needed.subscribe();
        let _ = needed.wait_for(|needed| *needed).await;
    }

    /// Records a change of a policy: `after` as the watch delivers it. Called before the cache
    /// changes, unless the policy was deleted.
    pub fn record_policy(&self, after: &CachedPolicy) {
        if after.selectors.namespaces.is_some() {
            self.namespaces_needed.send_replace(true);
        }
        let before = self.policies.get(&after.identity.key);
        if let Some(before) = before {
            let is_same =
                before.identity.uid == after.identity.uid && before.generation == after.generation;
            if is_same {
                // Only its status or its metadata has changed.
                return;
            }
            self.changes.record(|changes| {
                changes.selectors.push(before.selectors.clone());
            });
        }
        self.changes.record(|changes| {
            changes.selectors.push(after.selectors.clone());
        });
    }

    /// Records a change of a template.
    pub fn record_template(&self, after: &CachedTemplate) {
        let before = self.templates.get(&after.identity.key);
        if before.is_some_and(|before| {
            before.identity.uid == after.identity.uid && before.generation == after.generation
        }) {
            return;
        }
        let namespace = after.identity.key.namespace.clone();
        self.changes.record(|changes| {
            changes.templates.insert(namespace);
        });
    }

    /// Number of entries.
    pub fn entry_count(&self) -> usize {
        self.policies.entry_count() + self.templates.entry_count() + self.namespaces.count()
    }
}

/// The labels of the namespaces. They are watched once a policy selects namespaces.
#[derive(Debug, Default)]
pub struct NamespaceLabels(RwLock<Listing>);

#[derive(Debug, Default)]
struct Listing {
    labels: HashMap<String, Arc<Labels>>,
    is_listed: bool,
    is_forbidden: bool,
}

impl NamespaceLabels {
    /// The labels of a namespace. `None` if they are not known.
    pub fn get(&self, namespace: &str) -> Option<Arc<Labels>> {
        let listing = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let labels = listing.labels.get(namespace).cloned();
        labels.filter(|_| listing.is_listed)
    }

    /// Whether the namespaces have not been listed, and may be.
    pub fn is_pending(&self) -> bool {
        let listing = self.0.read().unwrap_or_else(PoisonError::into_inner);
        !listing.is_listed && !listing.is_forbidden
    }

    fn why_unknown(&self) -> &'static str {
        let listing = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if listing.is_forbidden {
            "the controller may not list namespaces, whose labels a policy selects: update its \
             ClusterRole with the chart of this version"
        } else {
            "the labels of the namespace, which a policy selects, are not known yet: wait"
        }
    }

    fn count(&self) -> usize {
        let listing = self.0.read().unwrap_or_else(PoisonError::into_inner);
        listing.labels.len()
    }

    /// Replaces all labels by those of a list. Returns whether something has changed.
    pub fn replace(&self, labels: HashMap<String, Arc<Labels>>) -> bool {
        let mut listing = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = !listing.is_listed || listing.labels != labels;
        *listing = Listing {
            labels,
            is_listed: true,
            is_forbidden: false,
        };
        changed
    }

    /// Sets the labels of one namespace. Returns whether they have changed.
    pub fn set(&self, namespace: &str, labels: Option<Labels>) -> bool {
        let mut listing = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = match labels {
            Some(labels) => {
                let same = listing
                    .labels
                    .get(namespace)
                    .map(|before| **before == labels);
                listing
                    .labels
                    .insert(namespace.to_owned(), Arc::new(labels));
                return same != Some(true);
            }
            None => listing.labels.remove(namespace),
        };
        before.is_some()
    }

    /// Records that the namespaces may not be listed. What was listed before stays. Returns whether
    /// this was not known.
    pub fn forbid(&self) -> bool {
        let mut listing = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_news = !listing.is_forbidden;
        listing.is_forbidden = true;
        is_news && !listing.is_listed
    }
}

/// What has changed since the last call of [`PolicyChanges::take`].
#[derive(Debug, Default)]
pub struct PolicyChanges {
    pending: Mutex<Changes>,
    version: watch::Sender<u64>,
}

/// Changes that concern several Rollouts.
#[derive(Debug, Default)]
pub struct Changes {
    /// Every Rollout is concerned.
    pub all: bool,
    /// Selectors of changed policies, before and after the change.
    pub selectors: Vec<Selectors>,
    /// Namespaces whose templates have changed.
    pub templates: BTreeSet<String>,
    /// Namespaces whose labels have changed.
    pub namespaces: BTreeSet<String>,
}

/// Number of selectors from which on every Rollout counts as concerned.
const MAX_SELECTORS: usize = 256;

impl PolicyChanges {
    /// Records a change.
    pub fn record(&self, change: impl FnOnce(&mut Changes)) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pending);
        if pending.selectors.len() > MAX_SELECTORS {
            pending.all = true;
            pending.selectors.clear();
        }
        drop(pending);
        self.version
            .send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Announces every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Takes the changes.
    pub fn take(&self) -> Changes {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut pending)
    }
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.all
            && self.selectors.is_empty()
            && self.templates.is_empty()
            && self.namespaces.is_empty()
    }

    /// Whether a Rollout is concerned.
    fn concerns(&self, rollout: &RolloutObject, caches: &PolicyCaches) -> bool {
        let namespace = rollout.metadata.namespace.as_deref().unwrap_or_default();
        if self.all || self.namespaces.contains(namespace) {
            return true;
        }
        if self.templates.contains(namespace) {
            // A policy may refer to a template, too.
            return true;
        }
        let none = Labels::new();
        let labels = rollout.metadata.labels.as_ref().unwrap_or(&none);
        let of_namespace = caches.namespaces.get(namespace);
        self.selectors.iter().any(|selectors| match &of_namespace {
            Some(of_namespace) => selectors.matches(of_namespace, labels),
            None => Selectors {
                namespaces: None,
                ..selectors.clone()
            }
            .matches(&none, labels),
        })
    }

    /// The Rollouts that are concerned.
    pub fn rollouts(&self, cluster: &ClusterCache) -> BTreeSet<Key> {
        let rollouts = cluster.rollouts.state();
        let concerned = rollouts
            .iter()
            .filter(|rollout| self.concerns(rollout, &cluster.policies));
        concerned.map(|rollout| rollout.key()).collect()
    }
}

/// Number of Rollouts that each policy matches, by name.
pub fn count_matches(cluster: &ClusterCache) -> BTreeMap<String, i32> {
    let mut counts: BTreeMap<String, i32> = cluster
        .policies
        .policies
        .all()
        .iter()
        .map(|policy| (policy.identity.key.name.clone(), 0))
        .collect();
    if counts.is_empty() {
        return counts;
    }
    for rollout in cluster.rollouts.state() {
        for policy in cluster.policies.matching(&rollout).policies {
            if let Some(count) = counts.get_mut(&policy.identity.key.name) {
                *count = count.saturating_add(1);
            }
        }
    }
    counts
}
