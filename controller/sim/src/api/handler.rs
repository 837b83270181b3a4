//! Requests about objects, but for watches.

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Kind;
use super::metadata::field;
use super::patch::{PatchKind, parse_body, patched};
use super::path::{Call, Target};
use super::selector::Selector;
use super::store::{Key, Store};
use super::write::{DeleteOptions, Deleted, Part};

/// A code and a body.
pub(crate) type Answer = Result<(u16, Value), Failure>;

/// Carries out one request.
pub(crate) fn handle(store: &mut Store, call: &Call, target: &Target, body: &[u8], now: Timestamp) -> Answer {
    let Some(kind) = store.kind(&target.group, &target.version, &target.plural).cloned() else {
        return Err(Failure::no_such_resource());
    };
    let request = Request { call, kind, target, body, now };
    match (call.method.clone(), target.name.as_deref(), target.subresource.as_deref()) {
        (Method::GET, None, None) => request.list(store),
        (Method::GET, Some(name), None | Some("status")) => request.get(store, name),
        (Method::POST, None, None) => request.create(store),
        (Method::PUT, Some(name), None) => request.replace(store, name, Part::Main),
        (Method::PUT, Some(name), Some("status")) => request.replace(store, name, request.status_part()?),
        (Method::PATCH, Some(name), None) => request.patch(store, name, Part::Main),
        (Method::PATCH, Some(name), Some("status")) => request.patch(store, name, request.status_part()?),
        (Method::DELETE, Some(name), None) => request.delete(store, name),
        (Method::DELETE, None, None) => request.delete_all(store),
        (method, Some(name), Some("scale")) if request.kind.scale => request.scale(store, &method, name),
        (_, Some(_), Some(_)) => Err(Failure::no_such_resource()),
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
        Key::new(&self.kind, self.target.namespace.as_deref().unwrap_or_default(), name)
    }

    fn status_part(&self) -> Result<Part, Failure> {
        if self.kind.status { Ok(Part::Status) } else { Err(Failure::no_such_resource()) }
    }

    fn answer(&self, code: u16, object: &Value) -> (u16, Value) {
        (code, if self.call.wants_metadata_only() { metadata_only(object) } else { object.clone() })
    }

    fn get(&self, store: &Store, name: &str) -> Answer {
        let object = store.get(&self.key(name)).ok_or_else(|| Failure::not_found(&self.kind, name))?;
        Ok(self.answer(200, object))
    }

    fn list(&self, store: &Store) -> Answer {
        let selector = Selector::parse(self.call.query("labelSelector"), self.call.query("fieldSelector"))?;
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
        let items: Vec<Value> = page.iter().map(|(_, object)| self.list_item(object)).collect();
        let (kind, api_version) = if self.call.wants_metadata_only() {
            ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
        } else {
            (format!("{}List", self.kind.kind), self.kind.api_version())
        };
        Ok((200, json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items})))
    }

    /// The version that a list is of, and the key after which its next page starts. Pages come from what is stored now,
    /// not from a snapshot, under the version of the first page.
    fn page_start(&self, store: &Store) -> Result<(String, Option<Key>), Failure> {
        let token = self.call.query("continue");
        if token.is_empty() {
            return Ok((store.version().to_string(), None));
        }
        let mut parts = token.splitn(3, ':');
        let (Some(version), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Failure::bad_request("continue key is not valid"));
        };
        let number: u64 = version.parse().map_err(|_| Failure::bad_request("continue key is not valid"))?;
        if number < store.oldest() {
            return Err(Failure::expired(number, store.oldest()));
        }
        Ok((version.to_owned(), Some(Key::new(&self.kind, namespace, name))))
    }

    /// Items of built-in kinds do not name their kind; those of custom ones do.
    fn list_item(&self, object: &Value) -> Value {
        if self.call.wants_metadata_only() {
            return metadata_only(object);
        }
        let mut item = object.clone();
        if !self.kind.custom
            && let Some(fields) = item.as_object_mut()
        {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        item
    }

    fn create(&self, store: &mut Store) -> Answer {
        let object = parse_body(self.body)?;
        let own = field(&object, "namespace").to_owned();
        let namespace = self.target.namespace.clone().unwrap_or(own);
        let created = store.create(&self.kind, &namespace, object, self.now, self.call.is_dry_run())?;
        Ok(self.answer(201, &created))
    }

    fn replace(&self, store: &mut Store, name: &str, part: Part) -> Answer {
        let object = parse_body(self.body)?;
        let updated = store.update(&self.kind, &self.key(name), object, part, self.call.is_dry_run())?;
        Ok(self.answer(200, &updated))
    }

    fn patch(&self, store: &mut Store, name: &str, part: Part) -> Answer {
        let how = PatchKind::of(&self.call.content_type)?;
        if how == PatchKind::Apply && self.call.query("fieldManager").is_empty() {
            return Err(Failure::no_field_manager());
        }
        let key = self.key(name);
        let Some(current) = store.get(&key).cloned() else {
            if how == PatchKind::Apply && part == Part::Main {
                let mut object = parse_body(self.body)?;
                object["metadata"]["name"] = name.into();
                let created = store.create(&self.kind, &key.namespace, object, self.now, self.call.is_dry_run())?;
                return Ok(self.answer(201, &created));
            }
            return Err(Failure::not_found(&self.kind, name));
        };
        let next = patched(&self.kind, name, how, &current, self.body)?;
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
                Ok((200, if self.kind.plural == "pods" { Value::clone(&object) } else { status }))
            }
        }
    }

    fn delete_all(&self, store: &mut Store) -> Answer {
        let options = self.delete_options()?;
        let selector = Selector::parse(self.call.query("labelSelector"), self.call.query("fieldSelector"))?;
        let listed = self.list(store)?;
        let resource = self.kind.resource();
        let objects = store.list(&resource, self.target.namespace.as_deref());
        let chosen: Vec<Key> =
            objects.filter(|(_, object)| selector.matches(object)).map(|(key, _)| key.clone()).collect();
        for key in chosen {
            store.delete(&self.kind, &key, &options, self.now)?;
        }
        Ok(listed)
    }

    fn delete_options(&self) -> Result<DeleteOptions, Failure> {
        let mut options: DeleteOptions = match self.body {
            [] => DeleteOptions::default(),
            body => serde_json::from_slice(body).map_err(|problem| Failure::bad_request(problem.to_string()))?,
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
        let current = store.get(&key).cloned().ok_or_else(|| Failure::not_found(&self.kind, name))?;
        let next = match *method {
            Method::GET => return Ok((200, scale_of(&current))),
            Method::PUT => parse_body(self.body)?,
            Method::PATCH => {
                patched(&self.kind, name, PatchKind::of(&self.call.content_type)?, &scale_of(&current), self.body)?
            }
            _ => return Err(Failure::method_not_allowed()),
        };
        let mut object = Value::clone(&current);
        object["spec"]["replicas"] = next["spec"]["replicas"].clone();
        let sent = field(&next, "resourceVersion");
        if !sent.is_empty() {
            object["metadata"]["resourceVersion"] = sent.into();
        }
        let updated = store.update(&self.kind, &key, object, Part::Main, self.call.is_dry_run())?;
        Ok((200, scale_of(&updated)))
    }
}

fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let selector = object["status"]["selector"].as_str().map_or_else(
        || {
            let labels = object["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
            let pairs = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            pairs.collect::<Vec<_>>().join(",")
        },
        ToOwned::to_owned,
    );
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector},
    })
}

/// An object without anything but its metadata.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
