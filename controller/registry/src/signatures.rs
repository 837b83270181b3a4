//! Signatures that are stored next to an image, in the three places where cosign writes them:
//!
//! - the tag `sha256-DIGEST.sig`, whose layers are payloads in the format of "simple signing";
//! - referrers (OCI 1.1) with the same layers;
//! - referrers with a sigstore bundle, which cosign 3 writes by default: an in-toto statement in a
//!   DSSE envelope.
//!
//! Only what is about the digest is returned. An attestation is not a signature of the image, even
//! if the same key has signed it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::RegistryError;
use crate::repository::is_digest;
use crate::session::{Accept, Session};

/// Maximum number of signatures of an image that are read.
pub(crate) const MAX_SIGNATURES: usize = 32;
/// Maximum number of referrers that are read.
const MAX_REFERRERS: usize = 16;
/// Maximum size of all that was signed.
const MAX_SIGNED_BYTES: usize = 512 << 10;
/// Maximum size of a manifest or an index.
const MAX_MANIFEST_BYTES: usize = 256 << 10;
/// Maximum number of signatures in a bundle.
const MAX_BUNDLE_SIGNATURES: usize = 4;
/// Maximum size of a payload.
const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// Maximum size of a bundle.
const MAX_BUNDLE_BYTES: usize = 256 << 10;
/// Maximum length of a signature in base64. One with RSA-8192 has 1,368 characters.
const MAX_SIGNATURE_TEXT: usize = 2 << 10;

const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIMPLE_SIGNING_ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const BUNDLE_PREFIX: &str = "application/vnd.dev.sigstore.bundle";
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const SIGNATURE_TYPE: &str = "cosign container image signature";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// What was signed about an image, and the signature. It has not been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSignature {
    /// The bytes that were signed.
    pub signed: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

/// The signatures of an image.
///
/// # Errors
/// As [`crate::Registry::signatures`].
pub(crate) async fn find(
    mut session: Session<'_>,
    digest: &str,
) -> Result<Vec<StoredSignature>, RegistryError> {
    let tag = digest.replacen(':', "-", 1);
    let mut found = Vec::new();
    let path = format!("manifests/{tag}.sig");
    add_simple_signatures(&mut session, &path, digest, &mut found).await?;
    let of_artifact = |descriptor: &Descriptor| {
        descriptor.artifact_type == SIMPLE_SIGNING_ARTIFACT
            || descriptor.artifact_type.starts_with(BUNDLE_PREFIX)
    };
    let referrers = referrers(&mut session, digest, &tag).await?;
    let referrers = referrers.into_iter().filter(of_artifact);
    for referrer in referrers.take(MAX_REFERRERS) {
        if !is_digest(&referrer.digest) {
            continue;
        }
        let path = format!("manifests/{}", referrer.digest);
        if referrer.artifact_type == SIMPLE_SIGNING_ARTIFACT {
            add_simple_signatures(&mut session, &path, digest, &mut found).await?;
        } else {
            add_bundles(&mut session, &path, digest, &mut found).await?;
        }
    }
    found.truncate(MAX_SIGNATURES);
    Ok(found)
}

/// The referrers of an image. None if the registry keeps no list of them.
async fn referrers(
    session: &mut Session<'_>,
    digest: &str,
    tag: &str,
) -> Result<Vec<Descriptor>, RegistryError> {
    let path = format!("referrers/{digest}");
    let listed: Result<Index, RegistryError> = json(session, &path, Accept::Index).await;
    match listed {
        Ok(index) => return Ok(index.manifests),
        // What a registry without the API answers differs.
        Err(
            RegistryError::NotFound
            | RegistryError::Denied { .. }
            | RegistryError::Unusable(_)
            | RegistryError::Status {
                status: 400 | 405 | 406 | 415 | 501,
            },
        ) => {}
        Err(error) => return Err(error),
    }
    // Clients then write the list to a tag.
    let path = format!("manifests/{tag}");
    let listed: Option<Index> = optional(json(session, &path, Accept::Index).await)?;
    Ok(listed.map(|index| index.manifests).unwrap_or_default())
}

/// Adds the signatures whose payloads are the layers of a manifest.
async fn add_simple_signatures(
    session: &mut Session<'_>,
    path: &str,
    digest: &str,
    found: &mut Vec<StoredSignature>,
) -> Result<(), RegistryError> {
    let manifest: Option<Manifest> = optional(json(session, path, Accept::Manifest).await)?;
    let layers = manifest.into_iter().flat_map(|manifest| manifest.layers);
    for layer in layers.filter(|layer| layer.media_type == SIMPLE_SIGNING) {
        let text = layer.annotations.get(SIGNATURE_ANNOTATION);
        let Some(signature) = text.and_then(|text| decoded_signature(text)) else {
            continue;
        };
        if is_full(found) {
            break;
        }
        let payload = blob(session, &layer, MAX_PAYLOAD_BYTES).await?;
        let Some(signed) = payload.filter(|payload| is_about(payload, digest)) else {
            continue;
        };
        found.push(StoredSignature { signed, signature });
    }
    Ok(())
}

/// Adds the signatures in the bundles that are the layers of a manifest.
async fn add_bundles(
    session: &mut Session<'_>,
    path: &str,
    digest: &str,
    found: &mut Vec<StoredSignature>,
) -> Result<(), RegistryError> {
    let manifest: Option<Manifest> = optional(json(session, path, Accept::Manifest).await)?;
    let layers = manifest.into_iter().flat_map(|manifest| manifest.layers);
    let bundles = layers.filter(|layer| layer.media_type.starts_with(BUNDLE_PREFIX));
    for layer in bundles {
        if is_full(found) {
            break;
        }
        if let Some(bundle) = blob(session, &layer, MAX_BUNDLE_BYTES).await? {
            found.extend(signatures_of_bundle(&bundle, digest));
        }
    }
    Ok(())
}

/// Whether no more signatures are read.
fn is_full(found: &[StoredSignature]) -> bool {
    let bytes: usize = found.iter().map(|one| one.signed.len()).sum();
    found.len() >= MAX_SIGNATURES || bytes >= MAX_SIGNED_BYTES
}

/// A blob of the repository. `None` if the registry does not have it.
async fn blob(
    session: &mut Session<'_>,
    descriptor: &Descriptor,
    limit: usize,
) -> Result<Option<Vec<u8>>, RegistryError> {
    if !is_digest(&descriptor.digest) {
        return Ok(None);
    }
    let path = format!("blobs/{}", descriptor.digest);
    optional(session.read(&path, Accept::Blob, limit).await)
}

async fn json<T: DeserializeOwned>(
    session: &mut Session<'_>,
    path: &str,
    accept: Accept,
) -> Result<T, RegistryError> {
    let body = session.read(path, accept, MAX_MANIFEST_BYTES).await?;
    serde_json::from_slice(&body)
        .map_err(|_| RegistryError::Unusable("it is not a manifest".to_owned()))
}

/// What was read. `None` if the registry does not have it.
fn optional<T>(read: Result<T, RegistryError>) -> Result<Option<T>, RegistryError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(RegistryError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a payload of simple signing is about the image.
fn is_about(payload: &[u8], digest: &str) -> bool {
    let payload: Result<Payload, _> = serde_json::from_slice(payload);
    payload.is_ok_and(|payload| {
        payload.critical.kind == SIGNATURE_TYPE && payload.critical.image.digest == digest
    })
}

/// The signatures in a bundle about the image. None if it is about something else.
fn signatures_of_bundle(bundle: &[u8], digest: &str) -> Vec<StoredSignature> {
    let Ok(Bundle { dsse_envelope }) = serde_json::from_slice(bundle) else {
        return Vec::new();
    };
    let Ok(payload) = STANDARD.decode(&dsse_envelope.payload) else {
        return Vec::new();
    };
    let statement: Result<Statement, _> = serde_json::from_slice(&payload);
    let is_about = statement.is_ok_and(|statement| {
        let is_subject =
            |subject: &Subject| subject.digest.get("sha256").map(String::as_str) == hex(digest);
        statement.predicate_type == SIGN_PREDICATE && statement.subject.iter().any(is_subject)
    });
    if !is_about || dsse_envelope.payload_type != IN_TOTO {
        return Vec::new();
    }
    let signed = pre_authentication_encoding(&dsse_envelope.payload_type, &payload);
    let signatures = dsse_envelope.signatures.iter().take(MAX_BUNDLE_SIGNATURES);
    let signatures = signatures.filter_map(|one| decoded_signature(&one.sig));
    signatures
        .map(|signature| StoredSignature {
            signed: signed.clone(),
            signature,
        })
        .collect()
}

/// What the signature of a DSSE envelope is about.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let (type_length, length) = (payload_type.len(), payload.len());
    let mut encoded = format!("DSSEv1 {type_length} {payload_type} {length} ").into_bytes();
    encoded.extend_from_slice(payload);
    encoded
}

/// The hexadecimal digits of a digest.
fn hex(digest: &str) -> Option<&str> {
    digest.strip_prefix("sha256:")
}

fn decoded_signature(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    (text.len() <= MAX_SIGNATURE_TEXT)
        .then(|| STANDARD.decode(text).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn bundle(predicate: &str, digest: &str, payload_type: &str) -> Vec<u8> {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "", "digest": {"sha256": hex(digest)}}],
            "predicateType": predicate,
            "predicate": {},
        });
        let payload = STANDARD.encode(statement.to_string());
        let envelope = json!({
            "payload": payload, "payloadType": payload_type,
            "signatures": [{"sig": STANDARD.encode("s"), "keyid": ""}],
        });
        json!({"mediaType": BUNDLE_PREFIX, "dsseEnvelope": envelope})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn a_bundle_counts_only_as_a_signature_of_this_image() {
        let other = DIGEST.replace('a', "b");
        let found = signatures_of_bundle(&bundle(SIGN_PREDICATE, DIGEST, IN_TOTO), DIGEST);
        assert_eq!(found[0].signature, b"s");
        let begin = b"DSSEv1 28 application/vnd.in-toto+json ";
        assert!(found[0].signed.starts_with(begin), "{found:?}");
        for refused in [
            bundle("https://slsa.dev/provenance/v1", DIGEST, IN_TOTO),
            bundle(SIGN_PREDICATE, &other, IN_TOTO),
            bundle(SIGN_PREDICATE, DIGEST, "text/plain"),
            b"{}".to_vec(),
        ] {
            assert_eq!(signatures_of_bundle(&refused, DIGEST), []);
        }
    }

    #[test]
    fn a_payload_counts_only_for_the_digest_in_it() {
        let payload = |digest: &str, kind: &str| {
            let image = json!({"docker-manifest-digest": digest});
            let critical = json!({"identity": {}, "image": image, "type": kind});
            json!({"critical": critical, "optional": null})
                .to_string()
                .into_bytes()
        };
        assert!(is_about(&payload(DIGEST, SIGNATURE_TYPE), DIGEST));
        assert!(!is_about(&payload("sha256:12", SIGNATURE_TYPE), DIGEST));
        assert!(!is_about(&payload(DIGEST, "another type"), DIGEST));
        assert!(!is_about(b"nonsense", DIGEST));
    }
}
