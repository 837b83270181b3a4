//! A cache of objects of one kind, indexed by the Rollout that they belong to, or by other keys.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::Key;
use super::objects::CachedObject;

/// The objects of one kind.
///
/// An object is never replaced by an older version of itself. The results of our own writes are
/// inserted immediately ([`ObjectCache::put`]) and kept until the watch has caught up, so that no
/// decision uses an outdated object.
pub struct ObjectCache<F> {
    inner: RwLock<Inner<F>>,
    synced: watch::Sender<bool>,
}

struct Inner<F> {
    objects: HashMap<Key, Entry<F>>,
    /// The objects by their index keys, ordered by key.
    index: HashMap<Key, Vec<Arc<F>>>,
    /// The objects received so far by a list in progress.
    listing: Option<HashMap<Key, Arc<F>>>,
}

struct Entry<F> {
    cached: Arc<F>,
    /// The object was inserted after our own write or read, and the watch has not delivered it yet.
    unconfirmed: bool,
}

impl<F> Default for ObjectCache<F> {
    fn default() -> Self {
        let inner = Inner {
            objects: HashMap::new(),
            index: HashMap::new(),
            listing: None,
        };
        Self {
            inner: RwLock::new(inner),
            synced: watch::Sender::new(false),
        }
    }
}

impl<F: CachedObject> ObjectCache<F> {
    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<Arc<F>> {
        self.read()
            .objects
            .get(key)
            .map(|entry| Arc::clone(&entry.cached))
    }

    /// The objects of one Rollout, ordered by name.
    pub fn for_rollout(&self, rollout: &Key) -> Vec<Arc<F>> {
        self.indexed(std::slice::from_ref(rollout))
    }

    /// The objects with one of these index keys ([`CachedObject::index_keys`]), each once, ordered by
    /// namespace and name.
    pub fn indexed(&self, index_keys: &[Key]) -> Vec<Arc<F>> {
        let inner = self.read();
        let found = index_keys.iter().filter_map(|key| inner.index.get(key));
        let mut objects: Vec<Arc<F>> = found.flatten().cloned().collect();
        if index_keys.len() > 1 {
            objects.sort_by(|one, other| one.identity().key.cmp(&other.identity().key));
            objects.dedup_by(|one, other| one.identity().key == other.identity().key);
        }
        objects
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<F>> {
        self.read()
            .objects
            .values()
            .map(|entry| Arc::clone(&entry.cached))
            .collect()
    }

    /// Inserts the result of our own write or read.
    pub fn put(&self, cached: F) -> Arc<F> {
        let cached = Arc::new(cached);
        self.write().insert(Arc::clone(&cached), true);
        cached
    }

    /// Inserts an object from the watch. Returns true if it is newer than the cached one.
    pub fn apply(&self, cached: F) -> bool {
        self.write().insert(Arc::new(cached), false)
    }

    /// Removes a deleted object.
    pub fn remove(&self, key: &Key) {
        self.write().remove(key);
    }

    /// Starts a list. Its objects are collected until [`ObjectCache::finish_listing`].
    pub fn begin_listing(&self) {
        self.write().listing = Some(HashMap::new());
    }

    /// Adds an object to the list in progress.
    pub fn add_listed(&self, cached: F) {
        let mut inner = self.write();
        let key = cached.identity().key.clone();
        inner
            .listing
            .get_or_insert_default()
            .insert(key, Arc::new(cached));
    }

    /// Completes the list. Removes and returns the objects that were not in it.
    pub fn finish_listing(&self) -> Vec<Arc<F>> {
        let gone = {
            let mut inner = self.write();
            let listed = inner.listing.take().unwrap_or_default();
            let is_gone = |(key, entry): (&Key, &Entry<F>)| {
                (!entry.unconfirmed && !listed.contains_key(key)).then(|| key.clone())
            };
            let gone: Vec<Key> = inner.objects.iter().filter_map(is_gone).collect();
            let gone = gone
                .into_iter()
                .filter_map(|key| inner.remove(&key))
                .collect();
            for cached in listed.into_values() {
                inner.insert(cached, false);
            }
            gone
        };
        self.synced.send_replace(true);
        gone
    }

    /// Removes and returns the objects of a namespace whose names are not in a list of it.
    pub fn retain_listed(&self, namespace: &str, names: &HashSet<String>) -> Vec<Arc<F>> {
        let mut inner = self.write();
        let is_gone = |(key, entry): (&Key, &Entry<F>)| {
            let is_listed = key.namespace != namespace || names.contains(&key.name);
            (!entry.unconfirmed && !is_listed).then(|| key.clone())
        };
        let gone: Vec<Key> = inner.objects.iter().filter_map(is_gone).collect();
        gone.into_iter()
            .filter_map(|key| inner.remove(&key))
            .collect()
    }

    /// Removes all objects, including the results of our own writes, because the cluster does not
    /// serve this kind. Counts as listed. Returns the removed objects.
    pub fn clear(&self) -> Vec<Arc<F>> {
        let objects = {
            let mut inner = self.write();
            inner.listing = None;
            inner.index.clear();
            std::mem::take(&mut inner.objects)
        };
        self.synced.send_replace(true);
        objects.into_values().map(|entry| entry.cached).collect()
    }

    /// Number of cached objects, or of index keys if there are more of these.
    pub fn entry_count(&self) -> usize {
        let inner = self.read();
        inner.objects.len().max(inner.index.len())
    }

    /// Whether the kind has been listed once.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the kind has been listed once.
    pub async fn wait_until_synced(&self) {
        // The sender is a field of `self`, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner<F>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<F>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: CachedObject> Inner<F> {
    fn insert(&mut self, cached: Arc<F>, unconfirmed: bool) -> bool {
        let key = cached.identity().key.clone();
        if let Some(before) = self.objects.get_mut(&key) {
            let (old, new) = (before.cached.identity(), cached.identity());
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
        for index_key in cached.index_keys() {
            let objects = self.index.entry(index_key).or_default();
            let at = objects.partition_point(|other| other.identity().key < key);
            // An object may name one index key twice.
            if objects
                .get(at)
                .is_none_or(|other| other.identity().key != key)
            {
                objects.reserve_exact(1);
                objects.insert(at, Arc::clone(&cached));
            }
        }
        self.objects.insert(
            key,
            Entry {
                cached,
                unconfirmed,
            },
        );
        true
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<F>> {
        let cached = self.objects.remove(key)?.cached;
        for index_key in cached.index_keys() {
            if let Some(objects) = self.index.get_mut(&index_key) {
                objects.retain(|object| object.identity().key != *key);
                if objects.is_empty() {
                    self.index.remove(&index_key);
                }
            }
        }
        Some(cached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_cache::{CachedReplicaSet, Identity};

    fn set(name: &str, version: u64, desired: u32) -> CachedReplicaSet {
        let identity = Identity {
            key: Key::new("shop", name),
            uid: format!("uid-{name}"),
            resource_version: version.to_string(),
        };
        CachedReplicaSet {
            identity,
            rollout: "checkout".into(),
            desired,
            ..CachedReplicaSet::default()
        }
    }

    fn desired(cache: &ObjectCache<CachedReplicaSet>) -> Vec<(String, u32)> {
        let objects = cache.for_rollout(&Key::new("shop", "checkout"));
        objects
            .iter()
            .map(|cached| (cached.identity.key.name.clone(), cached.desired))
            .collect()
    }

    #[test]
    fn an_older_event_does_not_replace_our_own_write() {
        let cache = ObjectCache::default();
        cache.put(set("a", 7, 5));
        assert!(!cache.apply(set("a", 6, 1)));
        assert_eq!(desired(&cache), [("a".into(), 5)]);
        assert!(cache.apply(set("a", 8, 2)));
        assert_eq!(desired(&cache), [("a".into(), 2)]);
    }

    #[test]
    fn a_list_removes_missing_objects_except_our_recent_writes() {
        let cache = ObjectCache::default();
        cache.apply(set("gone", 1, 1));
        cache.put(set("fresh", 9, 1));
        cache.begin_listing();
        cache.add_listed(set("listed", 3, 3));
        assert!(!cache.is_synced());
        let gone = cache.finish_listing();
        assert_eq!(gone.len(), 1);
        assert!(cache.is_synced());
        assert_eq!(desired(&cache), [("fresh".into(), 1), ("listed".into(), 3)]);
    }

    #[test]
    fn a_list_of_one_namespace_removes_missing_objects_there() {
        let cache = ObjectCache::default();
        cache.apply(set("gone", 1, 1));
        cache.apply(set("listed", 2, 2));
        cache.put(set("fresh", 9, 1));
        let names = HashSet::from(["listed".to_owned()]);
        assert_eq!(cache.retain_listed("pay", &names).len(), 0);
        assert_eq!(cache.retain_listed("shop", &names).len(), 1);
        assert_eq!(desired(&cache), [("fresh".into(), 1), ("listed".into(), 2)]);
    }

    #[test]
    fn clearing_removes_all_objects_including_recent_writes() {
        let cache = ObjectCache::default();
        cache.apply(set("old", 1, 1));
        cache.put(set("fresh", 9, 1));
        assert_eq!(cache.clear().len(), 2);
        assert!(cache.is_synced());
        assert_eq!(desired(&cache), []);
    }

    #[test]
    fn a_new_object_with_the_same_name_replaces_the_old_one() {
        let cache = ObjectCache::default();
        cache.apply(set("a", 9, 1));
        let mut other = set("a", 3, 4);
        other.identity.uid = "another".into();
        assert!(cache.apply(other));
        assert_eq!(desired(&cache), [("a".into(), 4)]);
    }

    #[test]
    fn an_object_that_is_gone_leaves_nothing_in_the_index() {
        let cache = ObjectCache::default();
        cache.apply(set("a", 1, 1));
        let mut moved = set("a", 2, 1);
        moved.rollout = "tracking".into();
        cache.apply(moved);
        assert_eq!(desired(&cache), []);
        cache.remove(&Key::new("shop", "a"));
        assert!(cache.read().index.is_empty());
    }
}
