//! Requests about objects, but for watches.

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Kind;
use super::managed;
use super::metadata::field;
use super::patch::{PatchKind, parse_body, patched};
use super::path::{Call, Target};
use super::selector::Selector;
use super::store::{Key, Store};
use super::write::{DeleteOptions, Deleted, Part};

/// A code and a body.
pub(crate) type Answer = Result<(u16, Value), Failure>;

/// Carries out one request.
pub(crate) fn handle(
    store: &mut Store,
    call: &Call,
    target: &Target,
    body: &[u8],
    now: Timestamp,
) -> Answer {
    let kind = store.served(target)?.clone();
    if !call.accepts_json() {
        return Err(Failure::not_acceptable(kind.custom));
    }
    let request = Request {
        call,
        kind,
        target,
        body,
        now,
    };
    match (
        call.method.clone(),
        target.name.as_deref(),
        target.subresource.as_deref(),
    ) {
        (Method::GET, None, None) => request.list(store),
        (Method::GET, Some(name), None) => request.get(store, name),
        (Method::GET, Some(name), Some("status")) if request.kind.status => {
            request.get(store, name)
        }
        (Method::POST, None, None) => request.create(store),
        // The name in the path is not looked at.
        (Method::POST, Some(_), None) if request.kind.custom => request.create(store),
        (Method::PUT, Some(name), None) => request.replace(store, name, Part::Main),
        (Method::PUT, Some(name), Some("status")) => {
            request.replace(store, name, request.status_part(name)?)
        }
        (Method::PATCH, Some(name), None) => request.patch(store, name, Part::Main),
        (Method::PATCH, Some(name), Some("status")) => {
            request.patch(store, name, request.status_part(name)?)
        }
        (Method::DELETE, Some(name), None) => request.delete(store, name),
        (Method::DELETE, None, None) => request.delete_all(store),
        (method, Some(name), Some("scale")) if request.kind.scale => {
            request.scale(store, &method, name)
        }
        (method, Some(name), Some(part)) => Err(request.no_such_part(&method, name, part)),
        (Method::PUT | Method::PATCH, None, _) if request.kind.custom => {
            Err(Failure::bad_request("name must be provided"))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

struct Request<'r> {
    call: &'r Call,
    kind: Kind,
    target: &'r Target,
    body: &'r [u8],
    now: Timestamp,
}

impl Request<'_> {
    fn key(&self, name: &str) -> Key {
        Key::new(
            &self.kind,
            self.target.namespace.as_deref().unwrap_or_default(),
            name,
        )
    }

    fn status_part(&self, name: &str) -> Result<Part, Failure> {
        if self.kind.status {
            Ok(Part::Status)
        } else {
            Err(self.no_such_part(&self.call.method, name, "status"))
        }
    }

    /// A path below an object that its kind does not have, or a method that does not fit it. Of a
    /// custom kind the API server answers as if the object did not exist.
    fn no_such_part(&self, method: &Method, name: &str, part: &str) -> Failure {
        let exists = (part == "status" && self.kind.status) || (part == "scale" && self.kind.scale);
        match (self.kind.custom, exists) {
            (true, true) => {
                let verb = if *method == Method::POST {
                    "create"
                } else {
                    self.call.verb().unwrap_or_default()
                };
                Failure::verb_not_supported(&self.kind, verb)
            }
            (true, false) => Failure::not_found(&self.kind, name),
            (false, true) => Failure::method_not_allowed(),
            (false, false) => Failure::no_such_resource(),
        }
    }

    /// The object as this version of its kind shows it.
    fn shown(&self, object: &Value) -> Value {
        shown(&self.kind, object)
    }

    fn answer(&self, code: u16, object: &Value) -> (u16, Value) {
        (
            code,
            if self.call.wants_metadata_only() {
                metadata_only(object)
            } else {
                self.shown(object)
            },
        )
    }

    fn get(&self, store: &Store, name: &str) -> Answer {
        let object = store
            .get(&self.key(name))
            .ok_or_else(|| Failure::not_found(&self.kind, name))?;
        Ok(self.answer(200, object))
    }

    fn list(&self, store: &Store) -> Answer {
        let selector = Selector::parse(
            self.call.query("labelSelector"),
            self.call.query("fieldSelector"),
        )?;
        let at_least = self.call.query("resourceVersion");
        if !at_least.is_empty() {
            let at_least: u64 = at_least.parse().map_err(|_| {
                let problem =
                    format!("Invalid value: {at_least:?}: strconv.ParseUint: parsing {at_least:?}: invalid syntax");
                Failure::bad_request(format!("invalid resource version: resourceVersion: {problem}"))
            })?;
            if at_least > store.version() {
                return Err(Failure::from_the_future(at_least, store.version()));
            }
        }
        let limit = self.call.query("limit").parse().unwrap_or(usize::MAX);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let (version, after) = self.page_start(store)?;
        let resource = self.kind.resource();
        let objects = store.list(&resource, self.target.namespace.as_deref());
        let mut matching = objects
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .filter(|(_, object)| selector.matches(object));
        let page: Vec<(&Key, &Arc<Value>)> = matching.by_ref().take(limit).collect();
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
        let (kind, api_version) = if self.call.wants_metadata_only() {
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

    /// The version that a list is of, and the key after which its next page starts. Pages come from
    /// what is stored now, not from a snapshot, under the version of the first page.
    fn page_start(&self, store: &Store) -> Result<(String, Option<Key>), Failure> {
        let token = self.call.query("continue");
        if token.is_empty() {
            return Ok((store.version().to_string(), None));
        }
        let mut parts = token.splitn(3, ':');
        let (Some(version), Some(namespace), Some(name)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::bad_request("continue key is not valid"));
        };
        let number: u64 = version
            .parse()
            .map_err(|_| Failure::bad_request("continue key is not valid"))?;
        if number < store.oldest() {
            return Err(Failure::expired_page());
        }
        Ok((
            version.to_owned(),
            Some(Key::new(&self.kind, namespace, name)),
        ))
    }

    /// Items of built-in kinds do not name their kind; those of custom ones do.
    fn list_item(&self, object: &Value) -> Value {
        if self.call.wants_metadata_only() {
            return metadata_only(object);
        }
        let mut item = self.shown(object);
        if !self.kind.custom
            && let Some(fields) = item.as_object_mut()
        {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        item
    }

    /// The object that a create or an update sends.
    fn sent_object(&self) -> Result<Value, Failure> {
        const TYPES: [&str; 3] = [
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ];
        let sent = self
            .call
            .content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if !sent.is_empty() && !TYPES.contains(&sent) {
            return Err(Failure::unsupported_media_type(&TYPES));
        }
        let object = parse_body(self.body)?;
        if !object.is_object() || (self.kind.custom && !object["kind"].is_string()) {
            let kind = &self.kind.kind;
            return Err(Failure::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind})"
            )));
        }
        Ok(object)
    }

    fn create(&self, store: &mut Store) -> Answer {
        if self.kind.namespaced && self.target.namespace.is_none() {
            let custom = self.kind.custom;
            return Err(if custom {
                Failure::no_such_path()
            } else {
                Failure::method_not_allowed()
            });
        }
        let object = self.sent_object()?;
        let own = field(&object, "namespace").to_owned();
        let namespace = self.target.namespace.clone().unwrap_or(own);
        let created = store.create(
            &self.kind,
            &namespace,
            object,
            self.now,
            self.call.is_dry_run(),
        )?;
        Ok(self.answer(201, &created))
    }

    fn replace(&self, store: &mut Store, name: &str, part: Part) -> Answer {
        let object = self.sent_object()?;
        let updated = store.update(
            &self.kind,
            &self.key(name),
            object,
            part,
            self.call.is_dry_run(),
        )?;
        Ok(self.answer(200, &updated))
    }

    fn patch(&self, store: &mut Store, name: &str, part: Part) -> Answer {
        let how = PatchKind::of(&self.call.content_type, &self.kind)?;
        if how == PatchKind::Apply && self.call.query("fieldManager").is_empty() {
            return Err(Failure::no_field_manager());
        }
        let key = self.key(name);
        let Some(current) = store.get(&key).cloned() else {
            if how == PatchKind::Apply && part == Part::Main {
                let mut object = parse_body(self.body)?;
                object["metadata"]["name"] = name.into();
                let created = store.create(
                    &self.kind,
                    &key.namespace,
                    object,
                    self.now,
                    self.call.is_dry_run(),
                )?;
                return Ok(self.answer(201, &created));
            }
            return Err(Failure::not_found(&self.kind, name));
        };
        let mut current = Value::clone(&current);
        if how == PatchKind::Apply && part == Part::Main && managed::is_tracked(&self.kind) {
            let mut applied = parse_body(self.body)?;
            applied["metadata"]["name"] = name.into();
            current = managed::without_dropped(&current, &applied, &store.writer);
            store.applied_configuration = Some(applied);
        }
        let next = patched(how, &self.shown(&current), self.body)?;
        let updated = store.update(&self.kind, &key, next, part, self.call.is_dry_run())?;
        Ok(self.answer(200, &updated))
    }

    fn delete(&self, store: &mut Store, name: &str) -> Answer {
        let options = self.delete_options()?;
        match store.delete(&self.kind, &self.key(name), &options, self.now)? {
            Deleted::Marked(object) => Ok(self.answer(200, &object)),
            Deleted::Gone(object) => {
                let details = json!({"name": name, "group": self.kind.group, "kind": self.kind.plural, "uid": object["metadata"]["uid"]});
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
                // Pods come back as they were last.
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

    fn delete_all(&self, store: &mut Store) -> Answer {
        let options = self.delete_options()?;
        let selector = Selector::parse(
            self.call.query("labelSelector"),
            self.call.query("fieldSelector"),
        )?;
        let listed = self.list(store)?;
        let resource = self.kind.resource();
        let objects = store.list(&resource, self.target.namespace.as_deref());
        let chosen: Vec<Key> = objects
            .filter(|(_, object)| selector.matches(object))
            .map(|(key, _)| key.clone())
            .collect();
        for key in chosen {
            store.delete(&self.kind, &key, &options, self.now)?;
        }
        Ok(listed)
    }

    fn delete_options(&self) -> Result<DeleteOptions, Failure> {
        let mut options: DeleteOptions = match self.body {
            [] => DeleteOptions::default(),
            body => serde_json::from_slice(body).map_err(|problem| {
                Failure::internal(format!(
                    "couldn't get version/kind; json parse error: {problem}"
                ))
            })?,
        };
        if self.call.is_dry_run() {
            options.dry_run.push("All".into());
        }
        if !self.call.query("propagationPolicy").is_empty() {
            options.propagation_policy = Some(self.call.query("propagationPolicy").into());
        }
        Ok(options)
    }

    fn scale(&self, store: &mut Store, method: &Method, name: &str) -> Answer {
        let key = self.key(name);
        let current = store
            .get(&key)
            .cloned()
            .ok_or_else(|| Failure::not_found(&self.kind, name))?;
        let next = match *method {
            Method::GET => return Ok((200, self.scale_of(&current)?)),
            Method::PUT => {
                let sent = self.sent_object()?;
                if sent["kind"] != "Scale" {
                    return Err(Failure::bad_request(
                        "no kind is registered for the type v1.Scale in scheme",
                    ));
                }
                sent
            }
            Method::PATCH => {
                let how = PatchKind::of(&self.call.content_type, &self.kind)?;
                patched(how, &self.scale_of(&current)?, self.body)?
            }
            _ => return Err(self.no_such_part(method, name, "scale")),
        };
        let named = field(&next, "name");
        if named != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({name})"
            )));
        }
        // What a Scale leaves out is 0.
        let replicas = match &next["spec"]["replicas"] {
            Value::Null => 0,
            replicas => replicas.as_i64().ok_or_else(|| {
                Failure::invalid(
                    &self.kind,
                    "",
                    "patch: Invalid value: replicas is not a number",
                )
            })?,
        };
        if replicas < 0 {
            let problem = "spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0";
            return Err(Failure::invalid(&self.kind, name, problem).also_at(".spec.replicas"));
        }
        let mut object = Value::clone(&current);
        set_at(
            &mut object,
            &self.kind.scale_paths.spec_replicas,
            replicas.into(),
        );
        let sent = field(&next, "resourceVersion");
        if !sent.is_empty() {
            object["metadata"]["resourceVersion"] = sent.into();
        }
        let updated = store.update(&self.kind, &key, object, Part::Main, self.call.is_dry_run())?;
        Ok((200, self.scale_of(&updated)?))
    }

    fn scale_of(&self, object: &Value) -> Result<Value, Failure> {
        let metadata = &object["metadata"];
        let paths = &self.kind.scale_paths;
        let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
        let spec = match count(&paths.spec_replicas) {
            Some(replicas) => replicas,
            None if self.kind.custom => {
                let path = paths.spec_replicas.replace('/', ".");
                return Err(Failure::internal_error(&format!(
                    "the spec replicas field {path:?} does not exist"
                )));
            }
            None => 0,
        };
        let selector = if self.kind.custom {
            let reported = paths
                .selector
                .as_ref()
                .and_then(|pointer| object.pointer(pointer));
            reported
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        } else {
            let labels = object["spec"]["selector"]["matchLabels"]
                .as_object()
                .into_iter()
                .flatten();
            let pairs =
                labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            pairs.collect::<Vec<_>>().join(",")
        };
        let mut scale = json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
            },
            "spec": {}, "status": {"replicas": count(&paths.status_replicas).unwrap_or(0)},
        });
        // Both are left out where they are empty.
        if spec != 0 {
            scale["spec"]["replicas"] = spec.into();
        }
        if !selector.is_empty() {
            scale["status"]["selector"] = selector.into();
        }
        Ok(scale)
    }
}

fn set_at(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for key in pointer.split('/').filter(|key| !key.is_empty()) {
        at = &mut at[key];
    }
    *at = value;
}

/// The object as a version of its kind shows it: versions of custom kinds differ in their name
/// only.
pub(crate) fn shown(kind: &Kind, object: &Value) -> Value {
    let mut object = object.clone();
    if kind.custom {
        object["apiVersion"] = kind.api_version().into();
    }
    object
}

/// An object without anything but its metadata.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
