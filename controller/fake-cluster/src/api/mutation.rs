//! Creates, updates and deletes objects by the rules of the API server.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::defaults;
use super::error::ApiError;
use super::kinds::ServedKind;
use super::managed_fields;
use super::metadata::{finalizers, metadata_str};
use super::store::{ObjectKey, ObjectStore};
use super::validation;

/// The part of an object that a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectPart {
    /// Everything except `status`, if the kind has a `status` subresource.
    Main,
    /// Only `status`.
    Status,
}

/// Options of a delete request.
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

/// Result of a delete request.
#[derive(Clone, Debug)]
pub(crate) enum Deletion {
    /// The object was removed.
    Removed(Arc<Value>),
    /// The object waits for its finalizers or its grace period.
    Pending(Arc<Value>),
}

/// Formats a time as the API server does, in whole seconds.
pub(crate) fn format_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl ObjectStore {
    /// Creates an object. With `dry_run`, returns the object without storing it.
    pub(crate) fn create(
        &mut self,
        kind: &ServedKind,
        namespace: &str,
        mut object: Value,
        now: Timestamp,
        dry_run: bool,
    ) -> Result<Arc<Value>, ApiError> {
        resolve_identity(kind, namespace, &mut object)?;
        if !metadata_str(&object, "resourceVersion").is_empty() {
            return Err(ApiError::internal(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if metadata_str(&object, "name").is_empty()
            && !metadata_str(&object, "generateName").is_empty()
        {
            let name = format!(
                "{}{}",
                metadata_str(&object, "generateName"),
                self.name_suffix()
            );
            object["metadata"]["name"] = name.into();
        }
        let name = metadata_str(&object, "name").to_owned();
        if name.is_empty() {
            return Err(ApiError::invalid(
                kind,
                "",
                "metadata.name: Required value: name or generateName is required",
            ));
        }
        if kind.status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
            fields
                .extend(defaults::initial_status(kind).map(|status| ("status".to_owned(), status)));
        }
        let metadata = metadata_of(&mut object);
        for server_field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "managedFields",
        ] {
            metadata.remove(server_field);
        }
        metadata.insert("creationTimestamp".into(), format_time(now).into());
        let applied = self.take_applied_configuration(kind, &object);
        defaults::apply_defaults(kind, &mut object);
        validation::validate(kind, &object, None)?;
        managed_fields::record(
            kind,
            None,
            &mut object,
            applied.as_ref(),
            &self.field_manager,
        );
        let key = ObjectKey::new(kind, namespace, &name);
        if self.get(&key).is_some() {
            return Err(ApiError::already_exists(kind, &name));
        }
        let uid = self.new_uid();
        let metadata = metadata_of(&mut object);
        metadata.insert("uid".into(), uid.into());
        if kind.generation {
            metadata.insert("generation".into(), 1.into());
        }
        if dry_run {
            return Ok(Arc::new(object));
        }
        if kind.plural == "customresourcedefinitions" {
            self.establish_definition(&mut object);
        }
        Ok(self.put(key, object))
    }

    /// Replaces one part of an object.
    pub(crate) fn update(
        &mut self,
        kind: &ServedKind,
        key: &ObjectKey,
        mut object: Value,
        part: ObjectPart,
        dry_run: bool,
    ) -> Result<Arc<Value>, ApiError> {
        let name = key.name.as_str();
        let current = Arc::clone(
            self.get(key)
                .ok_or_else(|| ApiError::not_found(kind, name))?,
        );
        resolve_identity(kind, &key.namespace, &mut object)?;
        if metadata_str(&object, "name") != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                metadata_str(&object, "name"),
            )));
        }
        check_preconditions(kind, key, &current, &object, self.field_manager.is_patch)?;
        let applied = self.take_applied_configuration(kind, &object);
        let mut next = match part {
            ObjectPart::Main => merge_writable_fields(kind, &current, object),
            ObjectPart::Status => {
                let mut next = Value::clone(&current);
                next["status"] = object["status"].take();
                next
            }
        };
        if part == ObjectPart::Main {
            defaults::apply_defaults(kind, &mut next);
            validation::validate(kind, &next, Some(&current))?;
            if kind.generation && spec_differs(&current, &next) {
                next["metadata"]["generation"] = (generation(&current) + 1).into();
            }
        }
        next["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
        managed_fields::record(
            kind,
            Some(&current),
            &mut next,
            applied.as_ref(),
            &self.field_manager,
        );
        if next == *current || dry_run {
            return Ok(Arc::new(next));
        }
        if can_be_removed(&next) {
            self.remove_with_kind(key);
            return Ok(Arc::new(next));
        }
        if kind.plural == "customresourcedefinitions" {
            self.establish_definition(&mut next);
        }
        Ok(self.put(key.clone(), next))
    }

    /// The configuration of a server-side apply, for field ownership.
    fn take_applied_configuration(&mut self, kind: &ServedKind, object: &Value) -> Option<Value> {
        let sent = self.applied_configuration.take();
        (managed_fields::is_tracked(kind) && self.field_manager.is_apply)
            .then(|| sent.unwrap_or_else(|| object.clone()))
    }

    /// Deletes an object, or marks it for deletion if it has finalizers or a grace period.
    pub(crate) fn delete(
        &mut self,
        kind: &ServedKind,
        key: &ObjectKey,
        options: &DeleteOptions,
        now: Timestamp,
    ) -> Result<Deletion, ApiError> {
        let name = key.name.as_str();
        let current = Arc::clone(
            self.get(key)
                .ok_or_else(|| ApiError::not_found(kind, name))?,
        );
        for (what, field_name, wanted) in [
            ("UID", "uid", &options.preconditions.uid),
            (
                "ResourceVersion",
                "resourceVersion",
                &options.preconditions.resource_version,
            ),
        ] {
            let found = metadata_str(&current, field_name);
            if let Some(wanted) = wanted
                && wanted != found
            {
                return Err(ApiError::precondition(kind, name, what, wanted, found));
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
                Deletion::Pending(current)
            } else {
                Deletion::Removed(current)
            });
        }
        if !waits {
            return self
                .remove_with_kind(key)
                .map(Deletion::Removed)
                .ok_or_else(|| ApiError::not_found(kind, name));
        }
        let is_terminating = !metadata_str(&current, "deletionTimestamp").is_empty();
        let same_grace = current["metadata"]["deletionGracePeriodSeconds"].as_i64() <= Some(grace);
        if is_terminating && same_grace && finalizer.is_none() {
            return Ok(Deletion::Pending(current));
        }
        let gone_at = now
            .checked_add(jiff::SignedDuration::from_secs(grace))
            .unwrap_or(now);
        let metadata = metadata_of(&mut next);
        metadata.insert("deletionTimestamp".into(), format_time(gone_at).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if kind.generation && !is_terminating {
            metadata.insert("generation".into(), (generation(&current) + 1).into());
        }
        Ok(Deletion::Pending(self.put(key.clone(), next)))
    }

    /// Removes an object. Removing a CustomResourceDefinition also removes its kind and all objects
    /// of that kind.
    fn remove_with_kind(&mut self, key: &ObjectKey) -> Option<Arc<Value>> {
        let removed = self.remove(key)?;
        if key.resource == "customresourcedefinitions.apiextensions.k8s.io" {
            for kind in ServedKind::from_definition(&removed) {
                let resource = kind.resource();
                self.remove_all(&resource);
                self.kinds.retain(|known| known.resource() != resource);
            }
        }
        Some(removed)
    }

    fn establish_definition(&mut self, definition: &mut Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (
            text(&definition["spec"]["group"]),
            text(&definition["spec"]["names"]["plural"]),
        );
        // Removes versions that are no longer served.
        self.kinds
            .retain(|known| known.group != group || known.plural != plural);
        self.kinds.extend(ServedKind::from_definition(definition));
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

/// Checks the UID and the resourceVersion of a change, if it contains them.
fn check_preconditions(
    kind: &ServedKind,
    key: &ObjectKey,
    current: &Value,
    sent: &Value,
    is_patch: bool,
) -> Result<(), ApiError> {
    let name = key.name.as_str();
    let (sent_uid, uid) = (metadata_str(sent, "uid"), metadata_str(current, "uid"));
    if !sent_uid.is_empty() && sent_uid != uid {
        if is_patch {
            let problem = format!("metadata.uid: Invalid value: {sent_uid:?}: field is immutable");
            return Err(ApiError::invalid(kind, name, &problem).with_duplicated_causes());
        }
        let why = format!(
            "StorageError: invalid object, Code: 4, ObjectKey: /registry/{}/{}/{name}, \
             ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: \
             {sent_uid}, UID in object meta: {uid}",
            kind.plural, key.namespace,
        );
        return Err(ApiError::conflict(kind, name, &why));
    }
    match metadata_str(sent, "resourceVersion") {
        "" if kind.needs_resource_version() => Err(ApiError::version_required(kind, name)),
        "" => Ok(()),
        based_on if based_on.parse::<u64>().is_err() => Err(ApiError::internal(format!(
            "strconv.ParseUint: parsing {based_on:?}: invalid syntax"
        ))),
        based_on if based_on != metadata_str(current, "resourceVersion") => {
            Err(ApiError::outdated_version(kind, name))
        }
        _ => Ok(()),
    }
}

/// The grace period of a deletion. It is 0 except for scheduled pods.
fn grace_seconds(kind: &ServedKind, current: &Value, options: &DeleteOptions) -> i64 {
    let is_scheduled = kind.plural == "pods" && current["spec"]["nodeName"].is_string();
    if !is_scheduled {
        return 0;
    }
    let default = current["spec"]["terminationGracePeriodSeconds"].as_i64();
    options.grace_period_seconds.or(default).unwrap_or(30)
}

/// Merges an update: fields that the client may write come from `next`, all others from `current`.
fn merge_writable_fields(kind: &ServedKind, current: &Value, mut next: Value) -> Value {
    if kind.status
        && let Some(fields) = next.as_object_mut()
    {
        fields.remove("status");
        if let Some(status) = current.get("status") {
            fields.insert("status".into(), status.clone());
        }
    }
    let metadata = metadata_of(&mut next);
    for server_field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "managedFields",
    ] {
        match current["metadata"].get(server_field) {
            Some(value) => metadata.insert(server_field.into(), value.clone()),
            None => metadata.remove(server_field),
        };
    }
    next
}

/// Fills in a missing type and namespace, and checks that they match the request.
fn resolve_identity(
    kind: &ServedKind,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    let Some(fields) = object.as_object_mut() else {
        return Err(ApiError::bad_request(
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
            return Err(ApiError::bad_request(format!(
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
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
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
        _ => unreachable!("initialized as an object above"),
    }
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

fn can_be_removed(object: &Value) -> bool {
    !metadata_str(object, "deletionTimestamp").is_empty()
        && finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
}

fn spec_differs(one: &Value, other: &Value) -> bool {
    let rest = |object: &Value| {
        let mut fields = object.as_object().cloned().unwrap_or_default();
        fields.remove("metadata");
        fields.remove("status");
        fields
    };
    rest(one) != rest(other)
}
