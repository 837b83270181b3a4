//! Error responses with the messages of the real API server.

use serde_json::{Value, json};

use super::kinds::ServedKind;
use super::request::ApiRequest;

/// An error response: a `Status` object or plain text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, for example `Conflict`.
    pub reason: &'static str,
    /// The human-readable message.
    pub message: String,
    details: Value,
    /// The body is plain text instead of a `Status`.
    pub(crate) is_plain_text: bool,
    /// The `Retry-After` header, in seconds.
    pub(crate) retry_after: Option<u32>,
}

impl ApiError {
    fn for_object(
        code: u16,
        reason: &'static str,
        message: String,
        kind: &ServedKind,
        name: &str,
    ) -> Self {
        Self::for_resource(code, reason, message, &kind.group, &kind.plural, name)
    }

    fn for_resource(
        code: u16,
        reason: &'static str,
        message: impl Into<String>,
        group: &str,
        plural: &str,
        name: &str,
    ) -> Self {
        let named = [("name", name), ("group", group), ("kind", plural)]
            .into_iter()
            .filter(|(_, text)| !text.is_empty());
        let details: serde_json::Map<String, Value> = named
            .map(|(key, text)| (key.to_owned(), Value::from(text)))
            .collect();
        Self {
            details: details.into(),
            ..Self::without_details(code, reason, message)
        }
    }

    fn without_details(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            reason,
            message,
            details: Value::Null,
            is_plain_text: false,
            retry_after: None,
        }
    }

    /// An error like the generic errors of client-go, with empty `details`.
    fn generic(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            details: json!({}),
            ..Self::without_details(code, reason, message)
        }
    }

    fn plain_text(code: u16, text: &str) -> Self {
        Self {
            is_plain_text: true,
            ..Self::without_details(code, "", text)
        }
    }

    /// 404: the object does not exist.
    pub fn not_found(kind: &ServedKind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.resource());
        Self::for_object(404, "NotFound", message, kind, name)
    }

    /// 404: a built-in group does not have this resource.
    pub fn no_such_resource() -> Self {
        Self::generic(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 404: the path is unknown, for example because no CustomResourceDefinition declares the
    /// group, version or kind. The body is plain text.
    pub fn no_such_path() -> Self {
        Self::plain_text(404, "404 page not found\n")
    }

    /// 409: an object with this name exists.
    pub fn already_exists(kind: &ServedKind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource());
        Self::for_object(409, "AlreadyExists", message, kind, name)
    }

    /// 409: the object has changed since it was read, or has another UID.
    pub fn conflict(kind: &ServedKind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            kind.resource()
        );
        Self::for_object(409, "Conflict", message, kind, name)
    }

    /// 409: a precondition of a deletion does not hold.
    pub(crate) fn precondition(
        kind: &ServedKind,
        name: &str,
        what: &str,
        wanted: &str,
        found: &str,
    ) -> Self {
        let qualified = if kind.group.is_empty() {
            kind.kind.clone()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let hint = if what == "UID" {
            "deleted and then recreated"
        } else {
            "modified"
        };
        let message = format!(
            "Operation cannot be fulfilled on {qualified} {name:?}: the {what} in the precondition \
             ({wanted}) does not match the {what} in record ({found}). The object might have been \
             {hint}"
        );
        Self::for_resource(409, "Conflict", message, &kind.group, &kind.kind, name)
    }

    /// 422: an update without the required resourceVersion.
    pub(crate) fn version_required(kind: &ServedKind, name: &str) -> Self {
        let mut error = Self::invalid(
            kind,
            name,
            "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
        );
        error.details["kind"] = kind.plural.as_str().into();
        error
    }

    /// Duplicates every cause, as two consecutive validations do.
    pub(crate) fn with_duplicated_causes(mut self) -> Self {
        if let Some(causes) = self.details["causes"].as_array_mut() {
            let again = causes.clone();
            causes.extend(again);
        }
        self
    }

    /// Adds a cause with the same reason for another field.
    pub(crate) fn with_cause_at(mut self, field: &str) -> Self {
        if let Some(causes) = self.details["causes"].as_array_mut()
            && let Some(mut another) = causes.last().cloned()
        {
            another["field"] = field.into();
            causes.push(another);
        }
        self
    }

    /// 409: the resourceVersion is outdated.
    pub fn outdated_version(kind: &ServedKind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
            and try again";
        Self::conflict(kind, name, why)
    }

    /// 422: the object is invalid. `problem` starts with the field.
    pub fn invalid(kind: &ServedKind, name: &str, problem: &str) -> Self {
        let qualified = if kind.group.is_empty() {
            kind.kind.clone()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let mut error = Self::for_object(
            422,
            "Invalid",
            format!("{qualified} {name:?} is invalid: {problem}"),
            kind,
            name,
        );
        let (field, message) = problem.split_once(": ").unwrap_or(("", problem));
        error.details["kind"] = kind.kind.as_str().into();
        error.details["causes"] =
            json!([{"reason": cause_of(message), "message": message, "field": field}]);
        error
    }

    /// 422: a JSON Patch with a failed `test` or a missing path. The API server reports no details.
    pub fn patch_does_not_apply() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::generic(422, "Invalid", message)
    }

    /// 400: the request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::without_details(400, "BadRequest", message)
    }

    /// 500 without a reason: the response of the real server to some malformed requests.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::without_details(500, "", message)
    }

    /// 500: an internal error of the API server.
    pub fn internal_error(what: &str) -> Self {
        let details = json!({"causes": [{"message": what}]});
        Self {
            details,
            ..Self::without_details(
                500,
                "InternalError",
                format!("Internal error occurred: {what}"),
            )
        }
    }

    /// 422: a server-side apply without a field manager.
    pub fn no_field_manager() -> Self {
        let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is \
            required for apply patch";
        let cause = json!({
            "reason": "FieldValueRequired", "message": "Required value: is required for apply patch",
            "field": "fieldManager",
        });
        let details = json!({"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause]});
        Self {
            details,
            ..Self::without_details(422, "Invalid", message)
        }
    }

    /// 405 for a built-in kind.
    pub fn method_not_allowed() -> Self {
        Self::generic(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 405 for a custom kind.
    pub fn verb_not_supported(kind: &ServedKind, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {:?}",
            kind.resource()
        );
        Self::for_object(405, "MethodNotAllowed", message, kind, "")
    }

    /// 406: the client does not accept JSON. The message differs for built-in and custom kinds.
    pub fn not_acceptable(custom: bool) -> Self {
        let types = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        if custom {
            return Self::without_details(
                406,
                "NotAcceptable",
                format!("only the following media types are accepted: {types}"),
            );
        }
        let message = format!("406: Not Acceptable\n\nAvailable representations: {types}");
        Self::generic(406, "NotAcceptable", message)
    }

    /// 413: the request body is too large.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::without_details(413, "RequestEntityTooLarge", message)
    }

    /// 415: the content type is not supported.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::without_details(415, "UnsupportedMediaType", message)
    }

    /// 415 for a patch of a built-in kind.
    pub fn unsupported_patch() -> Self {
        Self::generic(415, "UnsupportedMediaType", "415: Unsupported Media Type")
    }

    /// 410: the requested version of a watch was compacted.
    pub fn expired(requested: u64, oldest: u64) -> Self {
        Self::without_details(
            410,
            "Expired",
            format!("too old resource version: {requested} ({oldest})"),
        )
    }

    /// 410: the version of a `continue` token was compacted.
    pub fn expired_page() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list \
            result. You can start a new list without the continue parameter, or use the continue \
            token in this response to retrieve the remainder of the results. Continuing with the \
            provided token results in an inconsistent list - objects that were created, modified, \
            or deleted between the time the first chunk was returned and now may show up in the \
            list.";
        Self::without_details(410, "Expired", message)
    }

    /// 504: the requested resourceVersion of a list does not exist yet.
    pub fn resource_version_too_large(requested: u64, current: u64) -> Self {
        let message =
            format!("Timeout: Too large resource version: {requested}, current: {current}");
        let cause =
            json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        let details = json!({"causes": [cause], "retryAfterSeconds": 1});
        Self {
            details,
            retry_after: Some(1),
            ..Self::without_details(504, "Timeout", message)
        }
    }

    /// The error of the real server with this code for this request.
    pub(crate) fn from_fault(code: u16, request: &ApiRequest, client: &str) -> Self {
        let Some(resource_path) = request.resource_path.as_ref() else {
            return Self::without_details(code, "", "injected fault");
        };
        let name = resource_path.name.as_deref().unwrap_or_default();
        let about = |reason, message: String| {
            Self::for_resource(
                code,
                reason,
                message,
                &resource_path.group,
                &resource_path.plural,
                name,
            )
        };
        let quoted = if name.is_empty() {
            resource_path.resource()
        } else {
            format!("{} {name:?}", resource_path.resource())
        };
        match code {
            401 => Self::without_details(code, "Unauthorized", "Unauthorized"),
            403 => {
                let sub = resource_path
                    .subresource
                    .as_ref()
                    .map(|sub| format!("/{sub}"))
                    .unwrap_or_default();
                let place = resource_path.namespace.as_ref().map_or_else(
                    || "at the cluster scope".to_owned(),
                    |namespace| format!("in the namespace {namespace:?}"),
                );
                about(
                    "Forbidden",
                    format!(
                        "{quoted} is forbidden: User {client:?} cannot {} resource \"{}{sub}\" in \
                         API group {:?} {place}",
                        request.verb().unwrap_or_default(),
                        resource_path.plural,
                        resource_path.group,
                    ),
                )
            }
            404 if name.is_empty() => Self::no_such_path(),
            404 => about("NotFound", format!("{quoted} not found")),
            409 => about(
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {quoted}: the object has been modified; \
                     please apply your changes to the latest version and try again"
                ),
            ),
            413 => Self::too_large(3 << 20),
            422 => about("Invalid", format!("{quoted} is invalid: injected fault")),
            // API priority and fairness responds in plain text.
            429 => Self {
                retry_after: Some(1),
                ..Self::plain_text(code, "Too many requests, please try again later.\n")
            },
            // The response of the aggregator and of load balancers.
            502 | 503 => Self::plain_text(code, "service unavailable\n"),
            504 => Self::without_details(
                code,
                "Timeout",
                "Timeout: request did not complete within requested timeout",
            ),
            _ => Self::without_details(code, "", "etcdserver: request timed out"),
        }
    }

    /// The `Status` object of this error.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// The machine-readable cause, derived from the start of a validation message.
fn cause_of(message: &str) -> &'static str {
    let causes = [
        ("Required value", "FieldValueRequired"),
        ("Forbidden", "FieldValueForbidden"),
        ("Too long", "FieldValueTooLong"),
        ("Unsupported value", "FieldValueNotSupported"),
        ("Duplicate value", "FieldValueDuplicate"),
    ];
    let known = causes
        .into_iter()
        .find(|(prefix, _)| message.starts_with(prefix));
    known.map_or("FieldValueInvalid", |(_, cause)| cause)
}
