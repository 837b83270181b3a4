//! The four kinds of patch.

use serde_json::Value;

use super::failure::Failure;
use super::kinds::Kind;

/// How a patch is to be read, by the content type of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386. Strategic merge patches are read in the same way: lists are replaced, not merged
    /// by key.
    Merge,
    /// Server-side apply, read as a merge that also creates: nobody owns fields here, so none is
    /// taken away.
    Apply,
}

impl PatchKind {
    pub(crate) fn of(content_type: &str, kind: &Kind) -> Result<Self, Failure> {
        const OF_CUSTOM_KINDS: [&str; 3] = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ];
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            // Custom kinds have no strategy.
            "application/strategic-merge-patch+json" if !kind.custom => Ok(Self::Merge),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ if kind.custom => Err(Failure::unsupported_media_type(&OF_CUSTOM_KINDS)),
            _ => Err(Failure::unsupported_patch()),
        }
    }
}

/// The object after the patch.
pub(crate) fn patched(how: PatchKind, current: &Value, body: &[u8]) -> Result<Value, Failure> {
    let mut next = current.clone();
    if how == PatchKind::Json {
        let patch: json_patch::Patch = serde_json::from_slice(body)
            .map_err(|problem| Failure::bad_request(format!("error decoding patch: {problem}")))?;
        return match json_patch::patch(&mut next, &patch) {
            Ok(()) => Ok(next),
            Err(_) => Err(Failure::patch_does_not_apply()),
        };
    }
    json_patch::merge(&mut next, &parse_body(body)?);
    Ok(next)
}

/// A body that is JSON or, for server-side apply, YAML.
pub(crate) fn parse_body(body: &[u8]) -> Result<Value, Failure> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text =
        std::str::from_utf8(body).map_err(|problem| Failure::bad_request(problem.to_string()))?;
    serde_saphyr::from_str(text).map_err(|problem| Failure::bad_request(problem.to_string()))
}
