//! The `scale` subresource.

use http::Method;
use serde_json::{Value, json};

use super::error::ApiError;
use super::handler::{HandlerResult, RequestHandler};
use super::metadata::metadata_str;
use super::mutation::ObjectPart;
use super::patch::{PatchFormat, apply_patch};
use super::store::ObjectStore;

impl RequestHandler<'_> {
    pub(super) fn scale(
        &self,
        store: &mut ObjectStore,
        method: &Method,
        name: &str,
    ) -> HandlerResult {
        let key = self.key(name);
        let current = store
            .get(&key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(&self.kind, name))?;
        let next = match *method {
            Method::GET => return Ok((200, self.scale_object(&current)?)),
            Method::PUT => {
                let sent = self.request_object()?;
                if sent["kind"] != "Scale" {
                    return Err(ApiError::bad_request(
                        "no kind is registered for the type v1.Scale in scheme",
                    ));
                }
                sent
            }
            Method::PATCH => {
                let format =
                    PatchFormat::from_content_type(&self.request.content_type, &self.kind)?;
                apply_patch(format, &self.scale_object(&current)?, self.body)?
            }
            _ => return Err(self.unknown_subresource(method, name, "scale")),
        };
        let named = metadata_str(&next, "name");
        if named != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({name})"
            )));
        }
        // A missing `replicas` in a Scale means 0.
        let replicas = match &next["spec"]["replicas"] {
            Value::Null => 0,
            replicas => replicas.as_i64().ok_or_else(|| {
                ApiError::invalid(
                    &self.kind,
                    "",
                    "patch: Invalid value: replicas is not a number",
                )
            })?,
        };
        if replicas < 0 {
            let problem = "spec.replicas: Invalid value: -1: spec.replicas in body should be \
                greater than or equal to 0";
            return Err(
                ApiError::invalid(&self.kind, name, problem).with_cause_at(".spec.replicas")
            );
        }
        let mut object = Value::clone(&current);
        set_pointer(
            &mut object,
            &self.kind.scale_paths.spec_replicas,
            replicas.into(),
        );
        let sent = metadata_str(&next, "resourceVersion");
        if !sent.is_empty() {
            object["metadata"]["resourceVersion"] = sent.into();
        }
        let updated = store.update(
            &self.kind,
            &key,
            object,
            ObjectPart::Main,
            self.request.is_dry_run(),
        )?;
        Ok((200, self.scale_object(&updated)?))
    }

    fn scale_object(&self, object: &Value) -> Result<Value, ApiError> {
        let metadata = &object["metadata"];
        let paths = &self.kind.scale_paths;
        let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
        let spec = match count(&paths.spec_replicas) {
            Some(replicas) => replicas,
            None if self.kind.custom => {
                let path = paths.spec_replicas.replace('/', ".");
                return Err(ApiError::internal_error(&format!(
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
        // Zero and empty values are omitted.
        if spec != 0 {
            scale["spec"]["replicas"] = spec.into();
        }
        if !selector.is_empty() {
            scale["status"]["selector"] = selector.into();
        }
        Ok(scale)
    }
}

fn set_pointer(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for key in pointer.split('/').filter(|key| !key.is_empty()) {
        at = &mut at[key];
    }
    *at = value;
}
