//! The stored objects and the history of their changes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::error::ApiError;
use super::kinds::ServedKind;
use super::managed_fields::FieldManager;
use super::metadata::metadata_str;
use super::request::ResourcePath;

/// First resource version. 0 has a special meaning in requests.
const FIRST_VERSION: u64 = 100;
/// Maximum number of changes in the history.
const CHANGES_LIMIT: usize = 50_000;
/// The API server's alphabet for generated names: no vowels and no digits that resemble letters.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Identifies an object. Lists are in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl ObjectKey {
    pub(crate) fn new(kind: &ServedKind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.namespaced { namespace } else { "" };
        Self {
            resource: kind.resource(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) key: ObjectKey,
    /// State before the change. `None` if the object was created.
    pub(crate) before: Option<Arc<Value>>,
    /// State after the change, or the last state of a deleted object.
    pub(crate) object: Arc<Value>,
    pub(crate) deleted: bool,
}

impl Change {
    /// The object before and after the change.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Value> {
        let before = self.before.as_deref();
        before.into_iter().chain([&*self.object])
    }

    /// Whether the garbage collector may have to react.
    fn affects_ownership(&self) -> bool {
        let before = self.before.as_deref().unwrap_or(&Value::Null);
        let (before, after) = (&before["metadata"], &self.object["metadata"]);
        let changed = |field: &&str| before[*field] != after[*field];
        let fields = ["ownerReferences", "finalizers", "deletionTimestamp"];
        self.deleted || fields.iter().any(changed)
    }
}

/// What the garbage collector has to know of an object.
pub(crate) struct Ownership {
    pub(crate) uid: String,
    /// The UIDs of its owners.
    pub(crate) owners: Vec<String>,
    pub(crate) is_terminating: bool,
    finalizers: Vec<String>,
}

impl Ownership {
    /// `None` if the object has neither an owner nor a deletion timestamp.
    fn from_object(object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        let texts = |values: &Value, text: fn(&Value) -> &Value| {
            let values = values.as_array().into_iter().flatten();
            let texts = values.filter_map(|value| text(value).as_str().map(str::to_owned));
            texts.collect::<Vec<_>>()
        };
        let is_terminating = !metadata["deletionTimestamp"].is_null();
        let is_owned = !metadata["ownerReferences"].is_null();
        (is_owned || is_terminating).then(|| Self {
            uid: metadata["uid"].as_str().unwrap_or_default().to_owned(),
            owners: texts(&metadata["ownerReferences"], |owner| &owner["uid"]),
            is_terminating,
            finalizers: texts(&metadata["finalizers"], |finalizer| finalizer),
        })
    }

    /// Whether the deletion of the object waits for a finalizer.
    pub(crate) fn is_blocked_by(&self, finalizer: &str) -> bool {
        self.is_terminating && self.finalizers.iter().any(|held_by| held_by == finalizer)
    }
}

/// All objects of the cluster.
pub(crate) struct ObjectStore {
    pub(crate) kinds: Vec<ServedKind>,
    objects: BTreeMap<ObjectKey, Arc<Value>>,
    version: u64,
    changes: VecDeque<Change>,
    /// Changes up to this version were dropped.
    compacted_version: u64,
    /// The version of the newest change of each resource.
    resource_versions: HashMap<String, u64>,
    /// The version of the newest change that the garbage collector reacts to.
    ownership_version: u64,
    /// The objects with an owner or a deletion timestamp.
    collectable: BTreeMap<ObjectKey, Ownership>,
    uids: HashSet<String>,
    pub(crate) random: SmallRng,
    /// The field manager of the current request.
    pub(crate) field_manager: FieldManager,
    /// The configuration that the current request applies server-side.
    pub(crate) applied_configuration: Option<Value>,
}

impl ObjectStore {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            kinds: ServedKind::all(),
            objects: BTreeMap::new(),
            version: FIRST_VERSION,
            changes: VecDeque::new(),
            // There is no history before the first version.
            compacted_version: FIRST_VERSION,
            resource_versions: HashMap::new(),
            ownership_version: FIRST_VERSION,
            collectable: BTreeMap::new(),
            uids: HashSet::new(),
            random: SmallRng::seed_from_u64(seed),
            field_manager: FieldManager::default(),
            applied_configuration: None,
        }
    }

    /// The version of the newest change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The version of the newest change of any of these resources.
    pub(crate) fn newest_version_of(&self, resources: &[&str]) -> u64 {
        resources
            .iter()
            .filter_map(|resource| self.resource_versions.get(*resource))
            .fold(FIRST_VERSION, |newest, version| newest.max(*version))
    }

    /// The version of the newest deletion, or change of owners, finalizers or deletion timestamp.
    pub(crate) fn ownership_version(&self) -> u64 {
        self.ownership_version
    }

    /// The oldest version from which a watch can start.
    pub(crate) fn oldest_version(&self) -> u64 {
        self.compacted_version
    }

    pub(crate) fn kind(&self, group: &str, version: &str, plural: &str) -> Option<&ServedKind> {
        self.kinds
            .iter()
            .find(|k| k.group == group && k.version == version && k.plural == plural)
    }

    /// The kind at a resource path.
    pub(crate) fn kind_at(&self, resource_path: &ResourcePath) -> Result<&ServedKind, ApiError> {
        let unknown = || {
            if ServedKind::is_built_in(&resource_path.group) {
                ApiError::no_such_resource()
            } else {
                ApiError::no_such_path()
            }
        };
        self.kind(
            &resource_path.group,
            &resource_path.version,
            &resource_path.plural,
        )
        .ok_or_else(unknown)
    }

    /// Sets the served versions of a custom kind, as a change of its CustomResourceDefinition does.
    /// Without any version, the kind and its objects are removed.
    pub(crate) fn set_served_versions(&mut self, plural: &str, versions: &[&str]) {
        let known = self
            .kinds
            .iter()
            .find(|kind| kind.plural == plural)
            .cloned();
        let Some(known) = known.or_else(|| {
            ServedKind::all()
                .into_iter()
                .find(|kind| kind.plural == plural)
        }) else {
            return;
        };
        self.kinds.retain(|kind| kind.plural != plural);
        self.kinds.extend(versions.iter().map(|version| ServedKind {
            version: (*version).to_owned(),
            ..known.clone()
        }));
        if versions.is_empty() {
            self.remove_all(&known.resource());
        }
    }

    /// Removes every object of a resource.
    pub(crate) fn remove_all(&mut self, resource: &str) {
        let keys: Vec<ObjectKey> = self
            .list(resource, None)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.remove(&key);
        }
    }

    pub(crate) fn kind_of(&self, object: &Value) -> Option<&ServedKind> {
        self.kinds.iter().find(|kind| kind.matches(object))
    }

    pub(crate) fn kind_of_resource(&self, resource: &str) -> Option<&ServedKind> {
        self.kinds.iter().find(|kind| kind.resource() == resource)
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The objects of one resource in one namespace or in all, in order.
    pub(crate) fn list<'s>(
        &'s self,
        resource: &'s str,
        namespace: Option<&'s str>,
    ) -> impl Iterator<Item = (&'s ObjectKey, &'s Arc<Value>)> + use<'s> {
        let from = ObjectKey {
            resource: resource.into(),
            namespace: namespace.unwrap_or_default().into(),
            name: String::new(),
        };
        let in_scope = move |key: &ObjectKey| {
            key.resource == resource && namespace.is_none_or(|wanted| key.namespace == wanted)
        };
        self.objects
            .range(from..)
            .take_while(move |(key, _)| in_scope(key))
    }

    /// The objects with an owner or a deletion timestamp, in order.
    pub(crate) fn collectable(&self) -> impl Iterator<Item = (&ObjectKey, &Ownership)> {
        self.collectable.iter()
    }

    /// Whether an object with this UID exists.
    pub(crate) fn has_uid(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    /// The changes after `version`, oldest first.
    pub(crate) fn changes_after(&self, version: u64) -> impl Iterator<Item = &Change> {
        let start = self
            .changes
            .partition_point(|change| change.version <= version);
        self.changes.range(start..)
    }

    /// Stores an object under a new version.
    pub(crate) fn put(&mut self, key: ObjectKey, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.record_change(Change {
            version: self.version,
            key,
            before,
            object: Arc::clone(&object),
            deleted: false,
        });
        object
    }

    /// Removes an object. As in a real cluster, its last state gets the version of the deletion.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.version += 1;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(last);
        self.record_change(Change {
            version: self.version,
            key: key.clone(),
            before: Some(before),
            object: Arc::clone(&object),
            deleted: true,
        });
        Some(object)
    }

    fn record_change(&mut self, change: Change) {
        let affects_ownership = change.affects_ownership();
        if affects_ownership {
            self.ownership_version = change.version;
        }
        if affects_ownership || change.before.is_none() {
            self.index_ownership(&change);
        }
        match self.resource_versions.get_mut(&change.key.resource) {
            Some(version) => *version = change.version,
            None => {
                let resource = change.key.resource.clone();
                self.resource_versions.insert(resource, change.version);
            }
        }
        self.changes.push_back(change);
        if self.changes.len() > CHANGES_LIMIT
            && let Some(oldest) = self.changes.pop_front()
        {
            self.compacted_version = oldest.version;
        }
    }

    fn index_ownership(&mut self, change: &Change) {
        let uid = metadata_str(&change.object, "uid");
        if change.deleted {
            self.uids.remove(uid);
        } else {
            self.uids.insert(uid.to_owned());
        }
        match Ownership::from_object(&change.object).filter(|_| !change.deleted) {
            Some(ownership) => {
                self.collectable.insert(change.key.clone(), ownership);
            }
            None => {
                self.collectable.remove(&change.key);
            }
        }
    }

    /// Drops the history, as etcd's compaction does. A watch from an older version must restart.
    pub(crate) fn compact(&mut self) {
        self.compacted_version = self.version;
        self.changes.clear();
    }

    /// Drops all but the newest changes.
    pub(crate) fn trim_history(&mut self, changes: usize) {
        while self.changes.len() > changes
            && let Some(oldest) = self.changes.pop_front()
        {
            self.compacted_version = oldest.version;
        }
    }

    /// The five random characters that the API server appends to `generateName`.
    pub(crate) fn name_suffix(&mut self) -> String {
        let letter =
            |_| char::from(NAME_ALPHABET[self.random.random_range(0..NAME_ALPHABET.len())]);
        (0..5).map(letter).collect()
    }

    /// A random UID in the format of a version 4 UUID.
    pub(crate) fn new_uid(&mut self) -> String {
        let (high, low): (u64, u64) = (self.random.random(), self.random.random());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 48) & 0x3fff,
            low & 0xffff_ffff_ffff,
        )
    }
}
