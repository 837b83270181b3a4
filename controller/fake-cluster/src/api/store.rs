//! What is stored, and the log of how it came about.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::failure::Failure;
use super::kinds::Kind;
use super::managed::Writer;
use super::path::Target;

/// A real cluster never starts from 0, which has a meaning of its own in requests.
const FIRST_VERSION: u64 = 100;
/// How many changes a watch can look back over.
const LOG_LIMIT: usize = 50_000;
/// The API server's own alphabet for generated names: no vowels, no digits that look like letters.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Where an object is kept. Lists come in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(kind: &Kind, namespace: &str, name: &str) -> Self {
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
    pub(crate) key: Key,
    /// As it was; none: it was created.
    pub(crate) before: Option<Arc<Value>>,
    /// As it is; of a deleted object, as it was last.
    pub(crate) object: Arc<Value>,
    pub(crate) deleted: bool,
}

/// All objects of the cluster.
pub(crate) struct Store {
    pub(crate) kinds: Vec<Kind>,
    objects: BTreeMap<Key, Arc<Value>>,
    version: u64,
    log: VecDeque<Change>,
    /// Changes up to here are forgotten.
    forgotten: u64,
    pub(crate) random: SmallRng,
    /// For whom the request under way writes.
    pub(crate) writer: Writer,
    /// What is applied server-side by the request under way.
    pub(crate) applied_configuration: Option<Value>,
}

impl Store {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            kinds: Kind::all(),
            objects: BTreeMap::new(),
            version: FIRST_VERSION,
            log: VecDeque::new(),
            // Nobody has watched before the beginning.
            forgotten: FIRST_VERSION,
            random: SmallRng::seed_from_u64(seed),
            writer: Writer::default(),
            applied_configuration: None,
        }
    }

    /// The version of the newest change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The oldest version from which a watch can start.
    pub(crate) fn oldest(&self) -> u64 {
        self.forgotten
    }

    pub(crate) fn kind(&self, group: &str, version: &str, plural: &str) -> Option<&Kind> {
        self.kinds
            .iter()
            .find(|k| k.group == group && k.version == version && k.plural == plural)
    }

    /// The kind that a path names.
    pub(crate) fn served(&self, target: &Target) -> Result<&Kind, Failure> {
        let unknown = || {
            if Kind::is_built_in(&target.group) {
                Failure::no_such_resource()
            } else {
                Failure::no_such_path()
            }
        };
        self.kind(&target.group, &target.version, &target.plural)
            .ok_or_else(unknown)
    }

    /// Changes which versions of a custom kind are served, as a change of its
    /// CustomResourceDefinition does. Without any, the kind and its objects are gone.
    pub(crate) fn serve(&mut self, plural: &str, versions: &[&str]) {
        let known = self
            .kinds
            .iter()
            .find(|kind| kind.plural == plural)
            .cloned();
        let Some(known) =
            known.or_else(|| Kind::all().into_iter().find(|kind| kind.plural == plural))
        else {
            return;
        };
        self.kinds.retain(|kind| kind.plural != plural);
        self.kinds.extend(versions.iter().map(|version| Kind {
            version: (*version).to_owned(),
            ..known.clone()
        }));
        if versions.is_empty() {
            self.remove_all(&known.resource());
        }
    }

    /// Removes every object of a resource.
    pub(crate) fn remove_all(&mut self, resource: &str) {
        let keys: Vec<Key> = self
            .list(resource, None)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.remove(&key);
        }
    }

    pub(crate) fn kind_of(&self, object: &Value) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.is_of(object))
    }

    pub(crate) fn kind_of_resource(&self, resource: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.resource() == resource)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The objects of one resource, of one namespace or of all, in order.
    pub(crate) fn list<'s>(
        &'s self,
        resource: &'s str,
        namespace: Option<&'s str>,
    ) -> impl Iterator<Item = (&'s Key, &'s Arc<Value>)> + use<'s> {
        let from = Key {
            resource: resource.into(),
            namespace: namespace.unwrap_or_default().into(),
            name: String::new(),
        };
        let ours = move |key: &Key| {
            key.resource == resource && namespace.is_none_or(|wanted| key.namespace == wanted)
        };
        self.objects
            .range(from..)
            .take_while(move |(key, _)| ours(key))
    }

    /// Every object there is.
    pub(crate) fn everything(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// What happened after `version`, oldest first.
    pub(crate) fn changes_after(&self, version: u64) -> impl Iterator<Item = &Change> {
        let start = self.log.partition_point(|change| change.version <= version);
        self.log.range(start..)
    }

    /// Stores an object under a new version.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.remember(Change {
            version: self.version,
            key,
            before,
            object: Arc::clone(&object),
            deleted: false,
        });
        object
    }

    /// Forgets an object for good. Its last state gets the version of its deletion, as in a real
    /// cluster.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.version += 1;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(last);
        self.remember(Change {
            version: self.version,
            key: key.clone(),
            before: Some(before),
            object: Arc::clone(&object),
            deleted: true,
        });
        Some(object)
    }

    fn remember(&mut self, change: Change) {
        self.log.push_back(change);
        if self.log.len() > LOG_LIMIT
            && let Some(oldest) = self.log.pop_front()
        {
            self.forgotten = oldest.version;
        }
    }

    /// Forgets the log, as etcd's compaction does: a watch from before now has to start over.
    pub(crate) fn compact(&mut self) {
        self.forgotten = self.version;
        self.log.clear();
    }

    /// Five characters as the API server appends to a `generateName`.
    pub(crate) fn suffix(&mut self) -> String {
        let letter =
            |_| char::from(NAME_ALPHABET[self.random.random_range(0..NAME_ALPHABET.len())]);
        (0..5).map(letter).collect()
    }

    /// A UID in the form of a random UUID.
    pub(crate) fn uid(&mut self) -> String {
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
