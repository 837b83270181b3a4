//! A store of facts about one kind, indexed by the Rollout that they belong to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::Key;
use super::facts::Fact;

/// Facts about one kind.
///
/// A newer state of an object is never replaced by an older one: what this process has written
/// itself is put in at once ([`Cache::put`]) and stays until the watch has caught up, so that no
/// decision is made on a state from before.
pub struct Cache<F> {
    inner: RwLock<Inner<F>>,
    synced: watch::Sender<bool>,
}

struct Inner<F> {
    facts: HashMap<Key, Entry<F>>,
    by_rollout: HashMap<Key, BTreeSet<String>>,
    /// What a list that is under way has brought so far.
    listing: Option<HashMap<Key, Arc<F>>>,
}

struct Entry<F> {
    fact: Arc<F>,
    /// It was put in after a write of our own, and no watch has confirmed it yet.
    unconfirmed: bool,
}

impl<F> Default for Cache<F> {
    fn default() -> Self {
        let inner = Inner {
            facts: HashMap::new(),
            by_rollout: HashMap::new(),
            listing: None,
        };
        Self {
            inner: RwLock::new(inner),
            synced: watch::Sender::new(false),
        }
    }
}

impl<F: Fact> Cache<F> {
    /// The fact about one object.
    pub fn get(&self, key: &Key) -> Option<Arc<F>> {
        self.read()
            .facts
            .get(key)
            .map(|entry| Arc::clone(&entry.fact))
    }

    /// The facts about the objects of one Rollout, by name.
    pub fn of_rollout(&self, rollout: &Key) -> Vec<Arc<F>> {
        let inner = self.read();
        let Some(names) = inner.by_rollout.get(rollout) else {
            return Vec::new();
        };
        let facts = names
            .iter()
            .filter_map(|name| inner.facts.get(&Key::new(&rollout.namespace, name)));
        facts.map(|entry| Arc::clone(&entry.fact)).collect()
    }

    /// All facts.
    pub fn all(&self) -> Vec<Arc<F>> {
        self.read()
            .facts
            .values()
            .map(|entry| Arc::clone(&entry.fact))
            .collect()
    }

    /// Takes in what a write or a read of our own has answered.
    pub fn put(&self, fact: F) -> Arc<F> {
        let fact = Arc::new(fact);
        self.write().insert(Arc::clone(&fact), true);
        fact
    }

    /// Takes in what a watch says; true where it is news.
    pub fn apply(&self, fact: F) -> bool {
        self.write().insert(Arc::new(fact), false)
    }

    /// Forgets an object that is gone.
    pub fn remove(&self, key: &Key) {
        self.write().remove(key);
    }

    /// A list begins: what it brings is gathered until [`Cache::listed`].
    pub fn begin_listing(&self) {
        self.write().listing = Some(HashMap::new());
    }

    /// A list brings an object.
    pub fn list(&self, fact: F) {
        let mut inner = self.write();
        let key = fact.identity().key.clone();
        inner
            .listing
            .get_or_insert_default()
            .insert(key, Arc::new(fact));
    }

    /// A list is complete: what it did not bring is gone, and is answered.
    pub fn listed(&self) -> Vec<Arc<F>> {
        let gone = {
            let mut inner = self.write();
            let listed = inner.listing.take().unwrap_or_default();
            let is_gone = |(key, entry): (&Key, &Entry<F>)| {
                (!entry.unconfirmed && !listed.contains_key(key)).then(|| key.clone())
            };
            let gone: Vec<Key> = inner.facts.iter().filter_map(is_gone).collect();
            let gone = gone
                .into_iter()
                .filter_map(|key| inner.remove(&key))
                .collect();
            for fact in listed.into_values() {
                inner.insert(fact, false);
            }
            gone
        };
        self.synced.send_replace(true);
        gone
    }

    /// Forgets everything, also what this process has just written: the cluster does not serve this
    /// kind. Counts as listed. Returns what was forgotten.
    pub fn clear(&self) -> Vec<Arc<F>> {
        let facts = {
            let mut inner = self.write();
            inner.listing = None;
            inner.by_rollout.clear();
            std::mem::take(&mut inner.facts)
        };
        self.synced.send_replace(true);
        facts.into_values().map(|entry| entry.fact).collect()
    }

    /// Whether it has been listed once.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until it has been listed once.
    pub async fn synced(&self) {
        // The sender is a field of `self`, so that waiting cannot end early.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner<F>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<F>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Fact> Inner<F> {
    fn insert(&mut self, fact: Arc<F>, unconfirmed: bool) -> bool {
        let key = fact.identity().key.clone();
        if let Some(before) = self.facts.get_mut(&key) {
            let (old, new) = (before.fact.identity(), fact.identity());
            let same_object = old.uid == new.uid;
            if same_object && old.version() > new.version() && new.version() != 0 {
                return false;
            }
            if same_object && old.resource_version == new.resource_version {
                before.unconfirmed &= unconfirmed;
                return false;
            }
            self.remove(&key);
        }
        if let Some(rollout) = fact.rollout() {
            self.by_rollout
                .entry(Key::new(&key.namespace, rollout))
                .or_default()
                .insert(key.name.clone());
        }
        self.facts.insert(key, Entry { fact, unconfirmed });
        true
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<F>> {
        let fact = self.facts.remove(key)?.fact;
        if let Some(rollout) = fact.rollout() {
            let rollout = Key::new(&key.namespace, rollout);
            if let Some(names) = self.by_rollout.get_mut(&rollout) {
                names.remove(&key.name);
                if names.is_empty() {
                    self.by_rollout.remove(&rollout);
                }
            }
        }
        Some(fact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Identity, ReplicaSetFact};

    fn set(name: &str, version: u64, desired: u32) -> ReplicaSetFact {
        let identity = Identity {
            key: Key::new("shop", name),
            uid: format!("uid-{name}"),
            resource_version: version.to_string(),
        };
        ReplicaSetFact {
            identity,
            rollout: "checkout".into(),
            desired,
            ..ReplicaSetFact::default()
        }
    }

    fn desired(cache: &Cache<ReplicaSetFact>) -> Vec<(String, u32)> {
        let facts = cache.of_rollout(&Key::new("shop", "checkout"));
        facts
            .iter()
            .map(|fact| (fact.identity.key.name.clone(), fact.desired))
            .collect()
    }

    #[test]
    fn what_was_written_is_not_undone_by_an_older_event() {
        let cache = Cache::default();
        cache.put(set("a", 7, 5));
        assert!(!cache.apply(set("a", 6, 1)));
        assert_eq!(desired(&cache), [("a".into(), 5)]);
        assert!(cache.apply(set("a", 8, 2)));
        assert_eq!(desired(&cache), [("a".into(), 2)]);
    }

    #[test]
    fn a_list_takes_away_what_it_does_not_bring_but_for_our_own_fresh_writes() {
        let cache = Cache::default();
        cache.apply(set("gone", 1, 1));
        cache.put(set("fresh", 9, 1));
        cache.begin_listing();
        cache.list(set("listed", 3, 3));
        assert!(!cache.is_synced());
        let gone = cache.listed();
        assert_eq!(gone.len(), 1);
        assert!(cache.is_synced());
        assert_eq!(desired(&cache), [("fresh".into(), 1), ("listed".into(), 3)]);
    }

    #[test]
    fn a_kind_that_is_no_longer_served_leaves_nothing_behind_not_even_fresh_writes() {
        let cache = Cache::default();
        cache.apply(set("old", 1, 1));
        cache.put(set("fresh", 9, 1));
        assert_eq!(cache.clear().len(), 2);
        assert!(cache.is_synced());
        assert_eq!(desired(&cache), []);
    }

    #[test]
    fn another_object_of_the_same_name_replaces_the_first() {
        let cache = Cache::default();
        cache.apply(set("a", 9, 1));
        let mut other = set("a", 3, 4);
        other.identity.uid = "another".into();
        assert!(cache.apply(other));
        assert_eq!(desired(&cache), [("a".into(), 4)]);
    }
}
