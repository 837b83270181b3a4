//! Patch formats.

use serde_json::Value;

use super::error::ApiError;
use super::kinds::ServedKind;

/// The format of a patch, from the content type of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchFormat {
    /// RFC 6902.
    Json,
    /// RFC 7386. Also used for strategic merge patches: lists are replaced, not merged by key.
    Merge,
    /// Server-side apply, implemented as a merge that can create the object. Only for kinds with
    /// tracked field ownership does it remove fields.
    Apply,
}

impl PatchFormat {
    pub(crate) fn from_content_type(
        content_type: &str,
        kind: &ServedKind,
    ) -> Result<Self, ApiError> {
        const CUSTOM_KIND_FORMATS: [&str; 3] = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ];
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            // Custom kinds do not support strategic merge patches.
            "application/strategic-merge-patch+json" if !kind.custom => Ok(Self::Merge),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ if kind.custom => Err(ApiError::unsupported_media_type(&CUSTOM_KIND_FORMATS)),
            _ => Err(ApiError::unsupported_patch()),
        }
    }
}

/// Applies a patch and returns the result.
pub(crate) fn apply_patch(
    format: PatchFormat,
    current: &Value,
    body: &[u8],
) -> Result<Value, ApiError> {
    let mut next = current.clone();
    if format == PatchFormat::Json {
        let patch: json_patch::Patch = serde_json::from_slice(body)
            .map_err(|problem| ApiError::bad_request(format!("error decoding patch: {problem}")))?;
        return match json_patch::patch(&mut next, &patch) {
            Ok(()) => Ok(next),
            Err(_) => Err(ApiError::patch_does_not_apply()),
        };
    }
    json_patch::merge(&mut next, &parse_body(body)?);
    Ok(next)
}

/// Parses a body as JSON or YAML.
pub(crate) fn parse_body(body: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text =
        std::str::from_utf8(body).map_err(|problem| ApiError::bad_request(problem.to_string()))?;
    serde_saphyr::from_str(text).map_err(|problem| ApiError::bad_request(problem.to_string()))
}
