//! Classification of failed requests to the Kubernetes API.
//!
//! Not every error response is a complete `Status`. The API server responds to a path of an unknown
//! group with the plain text `404 page not found`, and API Priority and Fairness responds with 429
//! in plain text. Proxies respond with HTML, and aggregated API servers may omit `reason` or
//! `details`. The predicates of [`kube::core::Status`] check only `reason`. The functions in this
//! module follow client-go: a known reason decides, otherwise the HTTP code decides.

use kube::core::Status;
use kube::core::response::reason;

/// Maximum number of characters that [`message`] quotes from a response that is not a `Status`, for
/// example an HTML page.
const MAX_QUOTED_CHARS: usize = 200;

/// The reasons that Kubernetes defines, except the empty one.
const KNOWN_REASONS: [&str; 18] = [
    reason::UNAUTHORIZED,
    reason::FORBIDDEN,
    reason::NOT_FOUND,
    reason::ALREADY_EXISTS,
    reason::CONFLICT,
    reason::GONE,
    reason::INVALID,
    reason::SERVER_TIMEOUT,
    reason::TIMEOUT,
    reason::TOO_MANY_REQUESTS,
    reason::BAD_REQUEST,
    reason::METHOD_NOT_ALLOWED,
    reason::NOT_ACCEPTABLE,
    reason::REQUEST_ENTITY_TOO_LARGE,
    reason::UNSUPPORTED_MEDIA_TYPE,
    reason::INTERNAL_ERROR,
    reason::EXPIRED,
    reason::SERVICE_UNAVAILABLE,
];

/// Whether the API server does not serve the resource: its CRD is missing, its group is unknown, or
/// its version is no longer served. A 404 for a single object is not a missing kind.
pub fn is_missing_kind(status: &Status) -> bool {
    has_reason_or_code(status, reason::NOT_FOUND, 404) && object_name(status).is_empty()
}

/// Whether the API server serves the resource and the object does not exist. A 404 without the name
/// of the object, for example from a proxy, is not a missing object.
pub fn is_missing_object(status: &Status) -> bool {
    has_reason_or_code(status, reason::NOT_FOUND, 404) && !object_name(status).is_empty()
}

/// Whether the object was changed after it was read, or a precondition on it failed.
pub fn is_conflict(status: &Status) -> bool {
    has_reason_or_code(status, reason::CONFLICT, 409)
}

/// Whether an object with this name already exists.
pub fn is_already_exists(status: &Status) -> bool {
    status.reason == reason::ALREADY_EXISTS
}

/// Whether the client lacks permission for the request.
pub fn is_forbidden(status: &Status) -> bool {
    has_reason_or_code(status, reason::FORBIDDEN, 403)
}

/// Whether the credentials are missing or invalid.
pub fn is_unauthorized(status: &Status) -> bool {
    has_reason_or_code(status, reason::UNAUTHORIZED, 401)
}

/// Whether the object is invalid, or a JSON Patch cannot be applied to it.
pub fn is_invalid(status: &Status) -> bool {
    has_reason_or_code(status, reason::INVALID, 422)
}

/// Whether the request itself is malformed.
pub fn is_bad_request(status: &Status) -> bool {
    has_reason_or_code(status, reason::BAD_REQUEST, 400)
}

/// Whether an admission webhook or policy denied the request. Both choose the code freely, so the
/// message text is compared.
pub fn is_denied_by_admission(status: &Status) -> bool {
    let contains = |text: &str| status.message.contains(text);
    contains("denied the request")
        || contains("denied request")
        || (is_forbidden(status) && contains("denied"))
}

/// Whether the request or the object is too large to be stored. The API server reports its own limit
/// as `RequestEntityTooLarge`, and that of etcd or of the connection to it as an error with a text.
pub fn is_too_large(status: &Status) -> bool {
    const TEXTS: [&str; 4] = [
        "request is too large",
        "ResourceExhausted",
        "message larger than max",
        "exceeds the maximum",
    ];
    has_reason_or_code(status, reason::REQUEST_ENTITY_TOO_LARGE, 413)
        || TEXTS.iter().any(|text| status.message.contains(text))
}

/// A message for users: never empty, on one line, and of limited length.
pub fn message(status: &Status) -> String {
    let text = status
        .message
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    if !text.is_empty() && (status.reason.is_empty() || is_known(&status.reason)) {
        return text;
    }
    let code = if status.code == 0 {
        "an error response without a code".to_owned()
    } else {
        format!("HTTP {}", status.code)
    };
    if text.is_empty() {
        return if status.reason.is_empty() {
            code
        } else {
            format!("{code} ({})", status.reason)
        };
    }
    let cut = text.char_indices().nth(MAX_QUOTED_CHARS).map(|(at, _)| at);
    cut.map_or_else(
        || format!("{code}: {text}"),
        |at| format!("{code}: {}...", &text[..at]),
    )
}

fn has_reason_or_code(status: &Status, reason: &str, code: u16) -> bool {
    status.reason == reason || (!is_known(&status.reason) && status.code == code)
}

fn is_known(reason: &str) -> bool {
    KNOWN_REASONS.contains(&reason)
}

fn object_name(status: &Status) -> &str {
    status.details.as_ref().map_or("", |details| &details.name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(body: serde_json::Value) -> Status {
        serde_json::from_value(body).unwrap()
    }

    /// A response that is not JSON, as kube reports it.
    fn plain_text(code: u16, text: &str) -> Status {
        Status::failure(text, "Failed to parse error data").with_code(code)
    }

    #[test]
    fn a_missing_kind_is_recognized_in_every_form_of_a_404() {
        // kube-apiserver, unknown group: `404 page not found` as text/plain.
        assert!(is_missing_kind(&plain_text(404, "404 page not found")));
        // kube-apiserver, unknown resource of a built-in group.
        let unknown = json!({"code": 404, "reason": "NotFound", "details": {},
            "message": "the server could not find the requested resource"});
        assert!(is_missing_kind(&status(unknown)));
        // An aggregated API server that omits the reason.
        assert!(is_missing_kind(&status(
            json!({"code": 404, "message": "no"})
        )));
        let object =
            status(json!({"code": 404, "reason": "NotFound", "details": {"name": "checkout"}}));
        assert!(!is_missing_kind(&object) && is_missing_object(&object));
        assert!(!is_missing_object(&plain_text(404, "404 page not found")));
    }

    #[test]
    fn without_a_known_reason_the_code_decides() {
        assert!(is_conflict(&plain_text(409, "conflict")));
        assert!(is_conflict(&status(json!({"code": 409}))));
        assert!(is_forbidden(&plain_text(403, "<html>forbidden</html>")));
        assert!(is_unauthorized(&plain_text(401, "Unauthorized")));
        assert!(is_invalid(&status(
            json!({"code": 422, "reason": "FromSomeWebhook"})
        )));
        let exists = status(json!({"code": 409, "reason": "AlreadyExists"}));
        assert!(
            is_already_exists(&exists) && !is_conflict(&exists),
            "a known reason takes precedence over the code"
        );
        assert!(!is_conflict(&status(
            json!({"code": 500, "reason": "InternalError"})
        )));
    }

    #[test]
    fn an_object_that_is_too_large_is_recognized_in_every_form() {
        let refused = |code: u16, reason: &str, message: &str| {
            is_too_large(&status(
                json!({"code": code, "reason": reason, "message": message}),
            ))
        };
        // kube-apiserver: the body exceeds its limit of 3 MiB.
        assert!(refused(
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728"
        ));
        // kube-apiserver: the object exceeds the limit of etcd, 1.5 MiB.
        assert!(refused(500, "", "etcdserver: request is too large"));
        // kube-apiserver: the object exceeds the limit of its connection to etcd, 2 MiB.
        assert!(refused(
            500,
            "",
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max \
             (2097652 vs. 2097152)"
        ));
        assert!(is_too_large(&plain_text(413, "<html>too large</html>")));
        assert!(!refused(422, "Invalid", "spec.replicas: Invalid value"));
        assert!(!refused(500, "InternalError", "no response"));
    }

    #[test]
    fn a_message_is_never_empty_and_has_a_limited_length() {
        assert_eq!(
            message(&status(
                json!({"code": 404, "reason": "NotFound", "message": "no such thing"})
            )),
            "no such thing"
        );
        assert_eq!(
            message(&plain_text(404, "404 page not found")),
            "HTTP 404: 404 page not found"
        );
        assert_eq!(
            message(&plain_text(503, "")),
            "HTTP 503 (Failed to parse error data)"
        );
        assert_eq!(
            message(&status(json!({"error": "from a proxy"}))),
            "an error response without a code"
        );
        let page = format!("<html>\n<body>{}</body>", "ä".repeat(5_000));
        assert!(message(&plain_text(502, &page)).chars().count() < 230);
    }
}
