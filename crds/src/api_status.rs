//! What a failed request to the Kubernetes API means.
//!
//! Not every error answer is a complete `Status`. An API server answers a path of an unknown group
//! with the plain text `404 page not found`, priority and fairness answer 429 in plain text,
//! proxies answer with HTML, and aggregated API servers may leave out `reason` or `details`. The
//! predicates of [`kube::core::Status`] look only at `reason`; these follow client-go: a known
//! reason decides, and without one the HTTP code does.

use kube::core::Status;
use kube::core::response::reason;

/// Longest part of an answer that is not a `Status` (for example an HTML page) that a message
/// repeats.
const LONGEST_QUOTE: usize = 200;

/// The reasons that Kubernetes itself uses, except the empty one.
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
/// the version is no longer served. A 404 about a single object is not one.
pub fn is_missing_kind(status: &Status) -> bool {
    has(status, reason::NOT_FOUND, 404) && object_name(status).is_empty()
}

/// Whether the API server serves the resource and says that this object does not exist. A 404
/// without the object's name, for example from a proxy, proves nothing about the object.
pub fn is_missing_object(status: &Status) -> bool {
    has(status, reason::NOT_FOUND, 404) && !object_name(status).is_empty()
}

/// Whether the object has changed since it was read, or is not the one that was meant.
pub fn is_conflict(status: &Status) -> bool {
    has(status, reason::CONFLICT, 409)
}

/// Whether an object of that name already exists.
pub fn is_already_exists(status: &Status) -> bool {
    status.reason == reason::ALREADY_EXISTS
}

/// Whether the request is not permitted.
pub fn is_forbidden(status: &Status) -> bool {
    has(status, reason::FORBIDDEN, 403)
}

/// Whether the credentials are missing or not accepted.
pub fn is_unauthorized(status: &Status) -> bool {
    has(status, reason::UNAUTHORIZED, 401)
}

/// Whether the object breaks a rule, or a JSON Patch does not apply to it.
pub fn is_invalid(status: &Status) -> bool {
    has(status, reason::INVALID, 422)
}

/// Whether the request itself is malformed.
pub fn is_bad_request(status: &Status) -> bool {
    has(status, reason::BAD_REQUEST, 400)
}

/// Whether an admission webhook or policy refused the request. Both choose the code freely, so only
/// the text tells.
pub fn is_denied_by_admission(status: &Status) -> bool {
    let says = |words: &str| status.message.contains(words);
    says("denied the request") || says("denied request") || (is_forbidden(status) && says("denied"))
}

/// The message for people: never empty, on one line, and bounded.
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
        "an error answer without a code".to_owned()
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
    let cut = text.char_indices().nth(LONGEST_QUOTE).map(|(at, _)| at);
    cut.map_or_else(
        || format!("{code}: {text}"),
        |at| format!("{code}: {}...", &text[..at]),
    )
}

fn has(status: &Status, reason: &str, code: u16) -> bool {
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

    /// As kube reports an answer that is not JSON.
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
        // An aggregated API server that leaves the reason out.
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
            "a known reason is more than its code"
        );
        assert!(!is_conflict(&status(
            json!({"code": 500, "reason": "InternalError"})
        )));
    }

    #[test]
    fn a_message_is_never_empty_nor_a_whole_page() {
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
            "an error answer without a code"
        );
        let page = format!("<html>\n<body>{}</body>", "ä".repeat(5_000));
        assert!(message(&plain_text(502, &page)).chars().count() < 230);
    }
}
