//! Refusals in the API server's own words.

use serde_json::{Value, json};

use super::kinds::Kind;

/// A refusal, as a `Status` object.
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
}

impl Failure {
    fn about(code: u16, reason: &'static str, message: String, kind: &Kind, name: &str) -> Self {
        let details = json!({"name": name, "group": kind.group, "kind": kind.plural});
        Self { code, reason, message, details }
    }

    fn bare(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    /// 404: no such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.resource());
        Self::about(404, "NotFound", message, kind, name)
    }

    /// 404: no such resource.
    pub fn no_such_resource() -> Self {
        Self::bare(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409: the name is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource());
        Self::about(409, "AlreadyExists", message, kind, name)
    }

    /// 409: the object has changed since it was read, or is not the one that was meant.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Self::about(409, "Conflict", message, kind, name)
    }

    /// 409: the resourceVersion is not the current one.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// 422: the object breaks a rule; `problem` begins with the field.
    pub fn invalid(kind: &Kind, name: &str, problem: &str) -> Self {
        let qualified = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut failure =
            Self::about(422, "Invalid", format!("{qualified} {name:?} is invalid: {problem}"), kind, name);
        let (field, message) = problem.split_once(": ").unwrap_or(("", problem));
        failure.details["kind"] = kind.kind.as_str().into();
        failure.details["causes"] = json!([{"reason": "FieldValueInvalid", "message": message, "field": field}]);
        failure
    }

    /// 422: a JSON Patch whose `test` failed or whose path does not exist. The API server tells no more than this.
    pub fn patch_does_not_apply(kind: &Kind, name: &str) -> Self {
        let message = "the server rejected our request due to an error in our request".into();
        Self::about(422, "Invalid", message, kind, name)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::bare(400, "BadRequest", message)
    }

    /// 500: what the real server answers to some malformed requests, without a reason.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::bare(500, "", message)
    }

    /// 422: a server-side apply that does not say for whom.
    pub fn no_field_manager() -> Self {
        let message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        Self::bare(422, "Invalid", message)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::bare(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 415.
    pub fn unsupported_media_type(sent: &str) -> Self {
        Self::bare(415, "UnsupportedMediaType", format!("the body of the request was in an unknown format: {sent}"))
    }

    /// 410: what was asked for is too old to be known.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::bare(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// Whatever a fault plan asks for.
    pub fn with_code(code: u16) -> Self {
        let reason = match code {
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Self::bare(code, reason, "made to fail by the fault plan")
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
