//! Refusals in the API server's own words.

use serde_json::{Value, json};

use super::kinds::Kind;
use super::path::Call;

/// A refusal, as a `Status` object or as plain text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Failure {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, for example `Conflict`.
    pub reason: &'static str,
    /// What people read.
    pub message: String,
    details: Value,
    /// The body is the message as plain text, and no `Status`.
    pub(crate) is_plain_text: bool,
    /// The `Retry-After` header, in seconds.
    pub(crate) retry_after: Option<u32>,
}

impl Failure {
    fn about(code: u16, reason: &'static str, message: String, kind: &Kind, name: &str) -> Self {
        Self::of_resource(code, reason, message, &kind.group, &kind.plural, name)
    }

    fn of_resource(
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
            ..Self::bare(code, reason, message)
        }
    }

    fn bare(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
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

    /// What client-go's generic errors look like: `details` is there, and empty.
    fn generic(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            details: json!({}),
            ..Self::bare(code, reason, message)
        }
    }

    fn plain_text(code: u16, text: &str) -> Self {
        Self {
            is_plain_text: true,
            ..Self::bare(code, "", text)
        }
    }

    /// 404: no such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.resource());
        Self::about(404, "NotFound", message, kind, name)
    }

    /// 404: no such resource in a built-in group.
    pub fn no_such_resource() -> Self {
        Self::generic(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 404: a path that nobody serves, for example of a group, a version or a kind that no
    /// CustomResourceDefinition declares. It is plain text.
    pub fn no_such_path() -> Self {
        Self::plain_text(404, "404 page not found\n")
    }

    /// 409: the name is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource());
        Self::about(409, "AlreadyExists", message, kind, name)
    }

    /// 409: the object has changed since it was read, or is not the one that was meant.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            kind.resource()
        );
        Self::about(409, "Conflict", message, kind, name)
    }

    /// 409: the object on the URL is not the one that the precondition of a deletion means.
    pub(crate) fn precondition(
        kind: &Kind,
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
            "Operation cannot be fulfilled on {qualified} {name:?}: the {what} in the precondition ({wanted}) does not match \
             the {what} in record ({found}). The object might have been {hint}"
        );
        Self::of_resource(409, "Conflict", message, &kind.group, &kind.kind, name)
    }

    /// 422: an update that does not say which state it is based on.
    pub(crate) fn version_required(kind: &Kind, name: &str) -> Self {
        let mut failure = Self::invalid(
            kind,
            name,
            "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
        );
        failure.details["kind"] = kind.plural.as_str().into();
        failure
    }

    /// The same with every cause twice, as two validations in a row report it.
    pub(crate) fn twice(mut self) -> Self {
        if let Some(causes) = self.details["causes"].as_array_mut() {
            let again = causes.clone();
            causes.extend(again);
        }
        self
    }

    /// The same with another cause, of the same reason, at another field.
    pub(crate) fn also_at(mut self, field: &str) -> Self {
        if let Some(causes) = self.details["causes"].as_array_mut()
            && let Some(mut another) = causes.last().cloned()
        {
            another["field"] = field.into();
            causes.push(another);
        }
        self
    }

    /// 409: the resourceVersion is not the current one.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// 422: the object breaks a rule; `problem` begins with the field.
    pub fn invalid(kind: &Kind, name: &str, problem: &str) -> Self {
        let qualified = if kind.group.is_empty() {
            kind.kind.clone()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let mut failure = Self::about(
            422,
            "Invalid",
            format!("{qualified} {name:?} is invalid: {problem}"),
            kind,
            name,
        );
        let (field, message) = problem.split_once(": ").unwrap_or(("", problem));
        failure.details["kind"] = kind.kind.as_str().into();
        failure.details["causes"] =
            json!([{"reason": cause_of(message), "message": message, "field": field}]);
        failure
    }

    /// 422: a JSON Patch whose `test` failed or whose path does not exist. The API server tells no
    /// more than this.
    pub fn patch_does_not_apply() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::generic(422, "Invalid", message)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::bare(400, "BadRequest", message)
    }

    /// 500: what the real server answers to some malformed requests, without a reason.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::bare(500, "", message)
    }

    /// 500: what the API server reports of its own troubles.
    pub fn internal_error(what: &str) -> Self {
        let details = json!({"causes": [{"message": what}]});
        Self {
            details,
            ..Self::bare(
                500,
                "InternalError",
                format!("Internal error occurred: {what}"),
            )
        }
    }

    /// 422: a server-side apply that does not say for whom.
    pub fn no_field_manager() -> Self {
        let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        let cause = json!({
            "reason": "FieldValueRequired", "message": "Required value: is required for apply patch",
            "field": "fieldManager",
        });
        let details = json!({"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause]});
        Self {
            details,
            ..Self::bare(422, "Invalid", message)
        }
    }

    /// 405, of a built-in kind.
    pub fn method_not_allowed() -> Self {
        Self::generic(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 405, of a custom kind.
    pub fn verb_not_supported(kind: &Kind, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {:?}",
            kind.resource()
        );
        Self::about(405, "MethodNotAllowed", message, kind, "")
    }

    /// 406: the client takes no JSON. Built-in and custom kinds word it differently.
    pub fn not_acceptable(custom: bool) -> Self {
        let types = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        if custom {
            return Self::bare(
                406,
                "NotAcceptable",
                format!("only the following media types are accepted: {types}"),
            );
        }
        let message = format!("406: Not Acceptable\n\nAvailable representations: {types}");
        Self::generic(406, "NotAcceptable", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::bare(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::bare(415, "UnsupportedMediaType", message)
    }

    /// 415, of a patch of a built-in kind.
    pub fn unsupported_patch() -> Self {
        Self::generic(415, "UnsupportedMediaType", "415: Unsupported Media Type")
    }

    /// 410: what a watch asked for is too old to be known.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::bare(
            410,
            "Expired",
            format!("too old resource version: {asked} ({oldest})"),
        )
    }

    /// 410: the page that a list continues with is too old to be known.
    pub fn expired_page() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                       new list without the continue parameter, or use the continue token in this response to retrieve \
                       the remainder of the results. Continuing with the provided token results in an inconsistent list \
                       - objects that were created, modified, or deleted between the time the first chunk was returned \
                       and now may show up in the list.";
        Self::bare(410, "Expired", message)
    }

    /// 504: a list asked for a state that is still to come.
    pub fn from_the_future(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let cause =
            json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        let details = json!({"causes": [cause], "retryAfterSeconds": 1});
        Self {
            details,
            retry_after: Some(1),
            ..Self::bare(504, "Timeout", message)
        }
    }

    /// What the real server answers with this code to this request of this client.
    pub(crate) fn planned(code: u16, call: &Call, who: &str) -> Self {
        let Some(target) = call.target.as_ref() else {
            return Self::bare(code, "", "made to fail by the fault plan");
        };
        let name = target.name.as_deref().unwrap_or_default();
        let about = |reason, message: String| {
            Self::of_resource(code, reason, message, &target.group, &target.plural, name)
        };
        let quoted = if name.is_empty() {
            target.resource()
        } else {
            format!("{} {name:?}", target.resource())
        };
        match code {
            401 => Self::bare(code, "Unauthorized", "Unauthorized"),
            403 => {
                let sub = target
                    .subresource
                    .as_ref()
                    .map(|sub| format!("/{sub}"))
                    .unwrap_or_default();
                let place = target.namespace.as_ref().map_or_else(
                    || "at the cluster scope".to_owned(),
                    |namespace| format!("in the namespace {namespace:?}"),
                );
                about(
                    "Forbidden",
                    format!(
                        "{quoted} is forbidden: User {who:?} cannot {} resource \"{}{sub}\" in API group {:?} {place}",
                        call.verb().unwrap_or_default(),
                        target.plural,
                        target.group,
                    ),
                )
            }
            404 if name.is_empty() => Self::no_such_path(),
            404 => about("NotFound", format!("{quoted} not found")),
            409 => about(
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {quoted}: the object has been modified; please apply your changes \
                     to the latest version and try again"
                ),
            ),
            422 => about(
                "Invalid",
                format!("{quoted} is invalid: made to fail by the fault plan"),
            ),
            // Priority and fairness answer in plain text.
            429 => Self {
                retry_after: Some(1),
                ..Self::plain_text(code, "Too many requests, please try again later.\n")
            },
            // What the aggregator and load balancers answer.
            502 | 503 => Self::plain_text(code, "service unavailable\n"),
            504 => Self::bare(
                code,
                "Timeout",
                "Timeout: request did not complete within requested timeout",
            ),
            _ => Self::bare(code, "", "etcdserver: request timed out"),
        }
    }

    /// As the API server sends it.
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

/// The machine-readable cause, by the words that Kubernetes' validation begins with.
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
        .find(|(words, _)| message.starts_with(words));
    known.map_or("FieldValueInvalid", |(_, cause)| cause)
}
