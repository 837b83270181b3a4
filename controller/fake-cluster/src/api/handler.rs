//! Handles requests for objects, except watches.

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::error::ApiError;
use super::kinds::ServedKind;
use super::managed_fields;
use super::metadata::metadata_str;
use super::mutation::{DeleteOptions, Deletion, ObjectPart};
use super::patch::{PatchFormat, apply_patch, parse_body};
use super::request::{ApiRequest, ResourcePath};
use super::selector::Selector;
use super::store::{ObjectKey, ObjectStore};

/// Status code and body.
pub(crate) type HandlerResult = Result<(u16, Value), ApiError>;

/// Handles one request.
pub(crate) fn handle(
    store: &mut ObjectStore,
    request: &ApiRequest,
    resource_path: &ResourcePath,
    body: &[u8],
    now: Timestamp,
) -> HandlerResult {
    let kind = store.kind_at(resource_path)?.clone();
    if !request.accepts_json() {
        return Err(ApiError::not_acceptable(kind.custom));
    }
    let handler = RequestHandler {
        request,
        kind,
        resource_path,
        body,
        now,
    };
    match (
        request.method.clone(),
        resource_path.name.as_deref(),
        resource_path.subresource.as_deref(),
    ) {
        (Method::GET, None, None) => handler.list(store),
        (Method::GET, Some(name), None) => handler.get(store, name),
        (Method::GET, Some(name), Some("status")) if handler.kind.status => {
            handler.get(store, name)
        }
        (Method::POST, None, None) => handler.create(store),
        // The API server ignores the name in the path.
        (Method::POST, Some(_), None) if handler.kind.custom => handler.create(store),
        (Method::PUT, Some(name), None) => handler.replace(store, name, ObjectPart::Main),
        (Method::PUT, Some(name), Some("status")) => {
            handler.replace(store, name, handler.status_subresource(name)?)
        }
        (Method::PATCH, Some(name), None) => handler.patch(store, name, ObjectPart::Main),
        (Method::PATCH, Some(name), Some("status")) => {
            handler.patch(store, name, handler.status_subresource(name)?)
        }
        (Method::DELETE, Some(name), None) => handler.delete(store, name),
        (Method::POST, Some(name), Some("eviction")) if handler.kind.plural == "pods" => {
            handler.evict(store, name)
        }
        (Method::DELETE, None, None) => handler.delete_all(store),
        (method, Some(name), Some("scale")) if handler.kind.scale => {
            handler.scale(store, &method, name)
        }
        (method, Some(name), Some(part)) => Err(handler.unknown_subresource(&method, name, part)),
        (Method::PUT | Method::PATCH, None, _) if handler.kind.custom => {
            Err(ApiError::bad_request("name must be provided"))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

pub(super) struct RequestHandler<'r> {
    pub(super) request: &'r ApiRequest,
    pub(super) kind: ServedKind,
    pub(super) resource_path: &'r ResourcePath,
    pub(super) body: &'r [u8],
    now: Timestamp,
}

impl RequestHandler<'_> {
    pub(super) fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::new(
            &self.kind,
            self.resource_path.namespace.as_deref().unwrap_or_default(),
            name,
        )
    }

    fn status_subresource(&self, name: &str) -> Result<ObjectPart, ApiError> {
        if self.kind.status {
            Ok(ObjectPart::Status)
        } else {
            Err(self.unknown_subresource(&self.request.method, name, "status"))
        }
    }

    /// The error for a subresource that the kind does not have, or for a method that the
    /// subresource does not support. For a custom kind the API server responds as if the object did
    /// not exist.
    pub(super) fn unknown_subresource(&self, method: &Method, name: &str, part: &str) -> ApiError {
        let exists = (part == "status" && self.kind.status) || (part == "scale" && self.kind.scale);
        match (self.kind.custom, exists) {
            (true, true) => {
                let verb = if *method == Method::POST {
                    "create"
                } else {
                    self.request.verb().unwrap_or_default()
                };
                ApiError::verb_not_supported(&self.kind, verb)
            }
            (true, false) => ApiError::not_found(&self.kind, name),
            (false, true) => ApiError::method_not_allowed(),
            (false, false) => ApiError::no_such_resource(),
        }
    }

    /// The object in the requested API version.
    fn in_served_version(&self, object: &Value) -> Value {
        in_served_version(&self.kind, object)
    }

    fn respond(&self, code: u16, object: &Value) -> (u16, Value) {
        (
            code,
            if self.request.wants_metadata_only() {
                metadata_only(object)
            } else {
                self.in_served_version(object)
            },
        )
    }

    fn get(&self, store: &ObjectStore, name: &str) -> HandlerResult {
        let object = store
            .get(&self.key(name))
            .ok_or_else(|| ApiError::not_found(&self.kind, name))?;
        Ok(self.respond(200, object))
    }

    fn list(&self, store: &ObjectStore) -> HandlerResult {
        let selector = Selector::parse(
            self.request.query("labelSelector"),
            self.request.query("fieldSelector"),
        )?;
        let at_least = self.request.query("resourceVersion");
        if !at_least.is_empty() {
            let at_least: u64 = at_least.parse().map_err(|_| {
                let problem = format!(
                    "Invalid value: {at_least:?}: strconv.ParseUint: parsing {at_least:?}: \
                        invalid syntax"
                );
                ApiError::bad_request(format!(
                    "invalid resource version: resourceVersion: \
                    {problem}"
                ))
            })?;
            if at_least > store.version() {
                return Err(ApiError::resource_version_too_large(
                    at_least,
                    store.version(),
                ));
            }
        }
        let limit = self.request.query("limit").parse().unwrap_or(usize::MAX);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let (version, after) = self.page_start(store)?;
        let resource = self.kind.resource();
        let objects = store.list(&resource, self.resource_path.namespace.as_deref());
        let mut matching = objects
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .filter(|(_, object)| selector.matches(object));
        let page: Vec<(&ObjectKey, &Arc<Value>)> = matching.by_ref().take(limit).collect();
        let remaining = matching.count();
        let mut metadata = json!({"resourceVersion": version});
        if let Some((last, _)) = page.last()
            && remaining > 0
        {
            metadata["continue"] = format!("{version}:{}:{}", last.namespace, last.name).into();
            metadata["remainingItemCount"] = remaining.into();
        }
        let items: Vec<Value> = page
            .iter()
            .map(|(_, object)| self.list_item(object))
            .collect();
        let (kind, api_version) = if self.request.wants_metadata_only() {
            (
                "PartialObjectMetadataList".to_owned(),
                "meta.k8s.io/v1".to_owned(),
            )
        } else {
            (format!("{}List", self.kind.kind), self.kind.api_version())
        };
        Ok((
            200,
            json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}),
        ))
    }

    /// The resource version of a list and the key after which the page starts. Pages contain the
    /// current objects, not a snapshot, but report the version of the first page.
    fn page_start(&self, store: &ObjectStore) -> Result<(String, Option<ObjectKey>), ApiError> {
        let token = self.request.query("continue");
        if token.is_empty() {
            return Ok((store.version().to_string(), None));
        }
        let mut parts = token.splitn(3, ':');
        let (Some(version), Some(namespace), Some(name)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(ApiError::bad_request("continue key is not valid"));
        };
        let number: u64 = version
            .parse()
            .map_err(|_| ApiError::bad_request("continue key is not valid"))?;
        if number < store.oldest_version() {
            return Err(ApiError::expired_page());
        }
        Ok((
            version.to_owned(),
            Some(ObjectKey::new(&self.kind, namespace, name)),
        ))
    }

    /// A list item. Items of built-in kinds have no `kind` and `apiVersion`.
    fn list_item(&self, object: &Value) -> Value {
        if self.request.wants_metadata_only() {
            return metadata_only(object);
        }
        let mut item = self.in_served_version(object);
        if !self.kind.custom
            && let Some(fields) = item.as_object_mut()
        {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        item
    }

    /// The object in the body of a create or update request.
    pub(super) fn request_object(&self) -> Result<Value, ApiError> {
        const TYPES: [&str; 3] = [
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ];
        let sent = self
            .request
            .content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if !sent.is_empty() && !TYPES.contains(&sent) {
            return Err(ApiError::unsupported_media_type(&TYPES));
        }
        let object = parse_body(self.body)?;
        if !object.is_object() || (self.kind.custom && !object["kind"].is_string()) {
            let kind = &self.kind.kind;
            return Err(ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind})"
            )));
        }
        Ok(object)
    }

    fn create(&self, store: &mut ObjectStore) -> HandlerResult {
        if self.kind.namespaced && self.resource_path.namespace.is_none() {
            let custom = self.kind.custom;
            return Err(if custom {
                ApiError::no_such_path()
            } else {
                ApiError::method_not_allowed()
            });
        }
        let object = self.request_object()?;
        let own = metadata_str(&object, "namespace").to_owned();
        let namespace = self.resource_path.namespace.clone().unwrap_or(own);
        let created = store.create(
            &self.kind,
            &namespace,
            object,
            self.now,
            self.request.is_dry_run(),
        )?;
        Ok(self.respond(201, &created))
    }

    fn replace(&self, store: &mut ObjectStore, name: &str, part: ObjectPart) -> HandlerResult {
        let object = self.request_object()?;
        let updated = store.update(
            &self.kind,
            &self.key(name),
            object,
            part,
            self.request.is_dry_run(),
        )?;
        Ok(self.respond(200, &updated))
    }

    fn patch(&self, store: &mut ObjectStore, name: &str, part: ObjectPart) -> HandlerResult {
        let format = PatchFormat::from_content_type(&self.request.content_type, &self.kind)?;
        if format == PatchFormat::Apply && self.request.query("fieldManager").is_empty() {
            return Err(ApiError::no_field_manager());
        }
        let key = self.key(name);
        let Some(current) = store.get(&key).cloned() else {
            if format == PatchFormat::Apply && part == ObjectPart::Main {
                let mut object = parse_body(self.body)?;
                object["metadata"]["name"] = name.into();
                let created = store.create(
                    &self.kind,
                    &key.namespace,
                    object,
                    self.now,
                    self.request.is_dry_run(),
                )?;
                return Ok(self.respond(201, &created));
            }
            return Err(ApiError::not_found(&self.kind, name));
        };
        let mut current = Value::clone(&current);
        if format == PatchFormat::Apply
            && part == ObjectPart::Main
            && managed_fields::is_tracked(&self.kind)
        {
            let mut applied = parse_body(self.body)?;
            applied["metadata"]["name"] = name.into();
            current = managed_fields::without_dropped(&current, &applied, &store.field_manager);
            store.applied_configuration = Some(applied);
        }
        let next = apply_patch(format, &self.in_served_version(&current), self.body)?;
        let updated = store.update(&self.kind, &key, next, part, self.request.is_dry_run())?;
        Ok(self.respond(200, &updated))
    }

    fn delete(&self, store: &mut ObjectStore, name: &str) -> HandlerResult {
        let options = self.delete_options()?;
        match store.delete(&self.kind, &self.key(name), &options, self.now)? {
            Deletion::Pending(object) => Ok(self.respond(200, &object)),
            Deletion::Removed(object) => {
                let details = json!({"name": name, "group": self.kind.group, "kind": self.kind.plural, "uid": object["metadata"]["uid"]});
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
                // For pods the response is the last state of the pod.
                Ok((
                    200,
                    if self.kind.plural == "pods" {
                        Value::clone(&object)
                    } else {
                        status
                    },
                ))
            }
        }
    }

    /// Deletes a pod. There are no disruption budgets; a test injects the refusal.
    fn evict(&self, store: &mut ObjectStore, name: &str) -> HandlerResult {
        let options = DeleteOptions::default();
        store.delete(&self.kind, &self.key(name), &options, self.now)?;
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
        Ok((201, status))
    }

    fn delete_all(&self, store: &mut ObjectStore) -> HandlerResult {
        let options = self.delete_options()?;
        let selector = Selector::parse(
            self.request.query("labelSelector"),
            self.request.query("fieldSelector"),
        )?;
        let listed = self.list(store)?;
        let resource = self.kind.resource();
        let objects = store.list(&resource, self.resource_path.namespace.as_deref());
        let chosen: Vec<ObjectKey> = objects
            .filter(|(_, object)| selector.matches(object))
            .map(|(key, _)| key.clone())
            .collect();
        for key in chosen {
            store.delete(&self.kind, &key, &options, self.now)?;
        }
        Ok(listed)
    }

    fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        let mut options: DeleteOptions = match self.body {
            [] => DeleteOptions::default(),
            body => serde_json::from_slice(body).map_err(|problem| {
                ApiError::internal(format!(
                    "couldn't get version/kind; json parse error: {problem}"
                ))
            })?,
        };
        if self.request.is_dry_run() {
            options.dry_run.push("All".into());
        }
        if !self.request.query("propagationPolicy").is_empty() {
            options.propagation_policy = Some(self.request.query("propagationPolicy").into());
        }
        Ok(options)
    }
}

/// The object in an API version. Versions of a custom kind differ only in `apiVersion`.
pub(crate) fn in_served_version(kind: &ServedKind, object: &Value) -> Value {
    let mut object = object.clone();
    if kind.custom {
        object["apiVersion"] = kind.api_version().into();
    }
    object
}

/// Only the metadata of an object.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
