//! What it means to create, change and delete an object: the API server's rules around every stored
//! state.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::defaults;
use super::failure::Failure;
use super::kinds::Kind;
use super::managed;
use super::metadata::{field, finalizers};
use super::rules;
use super::store::{Key, Store};

/// Which half of an object a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but `status` (where that is written through a path of its own).
    Main,
    /// `status` alone.
    Status,
}

/// What a deletion asks for.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) preconditions: Preconditions,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) dry_run: Vec<String>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// What became of a deletion.
#[derive(Clone, Debug)]
pub(crate) enum Deleted {
    /// The object is gone.
    Gone(Arc<Value>),
    /// It is marked and waits for its finalizers or its grace period.
    Marked(Arc<Value>),
}

/// As the API server writes times: whole seconds.
pub(crate) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Store {
    /// Creates an object; `dry_run` answers what would be stored.
    pub(crate) fn create(
        &mut self,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
        now: Timestamp,
        dry_run: bool,
    ) -> Result<Arc<Value>, Failure> {
        take_identity(kind, namespace, &mut object)?;
        if !field(&object, "resourceVersion").is_empty() {
            return Err(Failure::internal(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if field(&object, "name").is_empty() && !field(&object, "generateName").is_empty() {
            let name = format!("{}{}", field(&object, "generateName"), self.suffix());
            object["metadata"]["name"] = name.into();
        }
        let name = field(&object, "name").to_owned();
        if name.is_empty() {
            return Err(Failure::invalid(
                kind,
                "",
                "metadata.name: Required value: name or generateName is required",
            ));
        }
        if kind.status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
            fields.extend(defaults::first_status(kind).map(|status| ("status".to_owned(), status)));
        }
        let metadata = metadata_of(&mut object);
        for not_the_clients in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "managedFields",
        ] {
            metadata.remove(not_the_clients);
        }
        metadata.insert("creationTimestamp".into(), seconds(now).into());
        let applied = self.applied(kind, &object);
        defaults::fill(kind, &mut object);
        rules::check(kind, &object, None)?;
        managed::record(kind, None, &mut object, applied.as_ref(), &self.writer);
        let key = Key::new(kind, namespace, &name);
        if self.get(&key).is_some() {
            return Err(Failure::already_exists(kind, &name));
        }
        let uid = self.uid();
        let metadata = metadata_of(&mut object);
        metadata.insert("uid".into(), uid.into());
        if kind.generation {
            metadata.insert("generation".into(), 1.into());
        }
        if dry_run {
            return Ok(Arc::new(object));
        }
        if kind.plural == "customresourcedefinitions" {
            self.establish(&mut object);
        }
        Ok(self.put(key, object))
    }

    /// Replaces one part of an object.
    pub(crate) fn update(
        &mut self,
        kind: &Kind,
        key: &Key,
        mut object: Value,
        part: Part,
        dry_run: bool,
    ) -> Result<Arc<Value>, Failure> {
        let name = key.name.as_str();
        let current = Arc::clone(
            self.get(key)
                .ok_or_else(|| Failure::not_found(kind, name))?,
        );
        take_identity(kind, &key.namespace, &mut object)?;
        if field(&object, "name") != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                field(&object, "name"),
            )));
        }
        check_basis(kind, key, &current, &object, self.writer.patches)?;
        let applied = self.applied(kind, &object);
        let mut next = match part {
            Part::Main => main_part(kind, &current, object),
            Part::Status => {
                let mut next = Value::clone(&current);
                next["status"] = object["status"].take();
                next
            }
        };
        if part == Part::Main {
            defaults::fill(kind, &mut next);
            rules::check(kind, &next, Some(&current))?;
            if kind.generation && differs_beside_metadata_and_status(&current, &next) {
                next["metadata"]["generation"] = (generation(&current) + 1).into();
            }
        }
        next["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
        managed::record(
            kind,
            Some(&current),
            &mut next,
            applied.as_ref(),
            &self.writer,
        );
        if next == *current || dry_run {
            return Ok(Arc::new(next));
        }
        if is_ready_to_go(&next) {
            self.forget(key);
            return Ok(Arc::new(next));
        }
        if kind.plural == "customresourcedefinitions" {
            self.establish(&mut next);
        }
        Ok(self.put(key.clone(), next))
    }

    /// The configuration that is applied server-side, for the record of who owns what.
    fn applied(&mut self, kind: &Kind, object: &Value) -> Option<Value> {
        let sent = self.applied_configuration.take();
        (managed::is_tracked(kind) && self.writer.applies)
            .then(|| sent.unwrap_or_else(|| object.clone()))
    }

    /// Deletes an object, at once or once its finalizers and its grace period permit.
    pub(crate) fn delete(
        &mut self,
        kind: &Kind,
        key: &Key,
        options: &DeleteOptions,
        now: Timestamp,
    ) -> Result<Deleted, Failure> {
        let name = key.name.as_str();
        let current = Arc::clone(
            self.get(key)
                .ok_or_else(|| Failure::not_found(kind, name))?,
        );
        for (what, field_name, wanted) in [
            ("UID", "uid", &options.preconditions.uid),
            (
                "ResourceVersion",
                "resourceVersion",
                &options.preconditions.resource_version,
            ),
        ] {
            let found = field(&current, field_name);
            if let Some(wanted) = wanted
                && wanted != found
            {
                return Err(Failure::precondition(kind, name, what, wanted, found));
            }
        }
        let finalizer = match options.propagation_policy.as_deref() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let mut next = Value::clone(&current);
        if let Some(finalizer) = finalizer {
            let list = metadata_of(&mut next)
                .entry("finalizers")
                .or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut()
                && !list.contains(&finalizer.into())
            {
                list.push(finalizer.into());
            }
        }
        let grace = grace_seconds(kind, &current, options);
        let waits = grace > 0 || !finalizers(&next).is_empty();
        if options.dry_run.iter().any(|run| run == "All") {
            return Ok(if waits {
                Deleted::Marked(current)
            } else {
                Deleted::Gone(current)
            });
        }
        if !waits {
            return self
                .forget(key)
                .map(Deleted::Gone)
                .ok_or_else(|| Failure::not_found(kind, name));
        }
        let is_marked = !field(&current, "deletionTimestamp").is_empty();
        let same_grace = current["metadata"]["deletionGracePeriodSeconds"].as_i64() <= Some(grace);
        if is_marked && same_grace && finalizer.is_none() {
            return Ok(Deleted::Marked(current));
        }
        let gone_at = now
            .checked_add(jiff::SignedDuration::from_secs(grace))
            .unwrap_or(now);
        let metadata = metadata_of(&mut next);
        metadata.insert("deletionTimestamp".into(), seconds(gone_at).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if kind.generation && !is_marked {
            metadata.insert("generation".into(), (generation(&current) + 1).into());
        }
        Ok(Deleted::Marked(self.put(key.clone(), next)))
    }

    /// Removes an object; with a CustomResourceDefinition its kind and all objects of it go too.
    fn forget(&mut self, key: &Key) -> Option<Arc<Value>> {
        let gone = self.remove(key)?;
        if key.resource == "customresourcedefinitions.apiextensions.k8s.io" {
            for kind in Kind::from_definition(&gone) {
                let resource = kind.resource();
                self.remove_all(&resource);
                self.kinds.retain(|known| known.resource() != resource);
            }
        }
        Some(gone)
    }

    fn establish(&mut self, definition: &mut Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (
            text(&definition["spec"]["group"]),
            text(&definition["spec"]["names"]["plural"]),
        );
        // Versions that are served no longer go.
        self.kinds
            .retain(|known| known.group != group || known.plural != plural);
        self.kinds.extend(Kind::from_definition(definition));
        let condition =
            |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason});
        let conditions = json!([
            condition("NamesAccepted", "NoConflicts"),
            condition("Established", "InitialNamesAccepted")
        ]);
        definition["status"] =
            json!({"conditions": conditions, "acceptedNames": definition["spec"]["names"].clone()});
    }
}

/// The state that a change is based on must be the current one, where the change names it.
fn check_basis(
    kind: &Kind,
    key: &Key,
    current: &Value,
    sent: &Value,
    patches: bool,
) -> Result<(), Failure> {
    let name = key.name.as_str();
    let (sent_uid, uid) = (field(sent, "uid"), field(current, "uid"));
    if !sent_uid.is_empty() && sent_uid != uid {
        if patches {
            let problem = format!("metadata.uid: Invalid value: {sent_uid:?}: field is immutable");
            return Err(Failure::invalid(kind, name, &problem).twice());
        }
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{}/{}/{name}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {sent_uid}, UID in object meta: {uid}",
            kind.plural, key.namespace,
        );
        return Err(Failure::conflict(kind, name, &why));
    }
    match field(sent, "resourceVersion") {
        "" if kind.needs_resource_version() => Err(Failure::version_required(kind, name)),
        "" => Ok(()),
        based_on if based_on.parse::<u64>().is_err() => Err(Failure::internal(format!(
            "strconv.ParseUint: parsing {based_on:?}: invalid syntax"
        ))),
        based_on if based_on != field(current, "resourceVersion") => {
            Err(Failure::stale(kind, name))
        }
        _ => Ok(()),
    }
}

/// A pod that runs somewhere is given time to stop; everything else goes at once.
fn grace_seconds(kind: &Kind, current: &Value, options: &DeleteOptions) -> i64 {
    let runs = kind.plural == "pods" && current["spec"]["nodeName"].is_string();
    if !runs {
        return 0;
    }
    let own = current["spec"]["terminationGracePeriodSeconds"].as_i64();
    options.grace_period_seconds.or(own).unwrap_or(30)
}

/// The object as it will be: what the client may write from the new one, the rest from the current
/// one.
fn main_part(kind: &Kind, current: &Value, mut next: Value) -> Value {
    if kind.status
        && let Some(fields) = next.as_object_mut()
    {
        fields.remove("status");
        if let Some(status) = current.get("status") {
            fields.insert("status".into(), status.clone());
        }
    }
    let metadata = metadata_of(&mut next);
    for servers_own in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "managedFields",
    ] {
        match current["metadata"].get(servers_own) {
            Some(value) => metadata.insert(servers_own.into(), value.clone()),
            None => metadata.remove(servers_own),
        };
    }
    next
}

/// The type and the namespace must fit the request; what is missing is filled in.
fn take_identity(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), Failure> {
    let Some(fields) = object.as_object_mut() else {
        return Err(Failure::bad_request(
            "the body of the request is not an object",
        ));
    };
    let expected = [
        ("apiVersion", kind.api_version()),
        ("kind", kind.kind.clone()),
    ];
    for (name, expected) in expected {
        let sent = fields
            .entry(name)
            .or_insert_with(|| expected.clone().into());
        if sent.as_str() != Some(&expected) {
            return Err(Failure::bad_request(format!(
                "the {name} in the data ({sent}) does not match the expected {name} ({expected})"
            )));
        }
    }
    let metadata = metadata_of(object);
    if kind.namespaced {
        let sent = metadata
            .entry("namespace")
            .or_insert_with(|| namespace.into());
        if sent.as_str() != Some(namespace) {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    } else {
        metadata.remove("namespace");
    }
    Ok(())
}

fn metadata_of(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(metadata) => metadata,
        _ => unreachable!("made an object just above"),
    }
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

fn is_ready_to_go(object: &Value) -> bool {
    !field(object, "deletionTimestamp").is_empty()
        && finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
}

fn differs_beside_metadata_and_status(one: &Value, other: &Value) -> bool {
    let rest = |object: &Value| {
        let mut fields = object.as_object().cloned().unwrap_or_default();
        fields.remove("metadata");
        fields.remove("status");
        fields
    };
    rest(one) != rest(other)
}
