//! Public keys of the guardrail `imageSignature`.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use serin_crds::guardrails::SignatureKey;
use webpki::{RawPublicKeyEntity, ring};

/// How cosign signs: with SHA-256, and with SHA-384 for P-384.
const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 5] = [
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::ED25519,
    ring::RSA_PKCS1_2048_8192_SHA256,
];

/// A public key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublicKey {
    /// It is not PEM.
    #[error(
        "it is not a public key in PEM: it begins with -----BEGIN PUBLIC KEY-----, as in the file cosign.pub"
    )]
    NotPem,
    /// Its algorithm is not supported.
    #[error("its algorithm is not supported: use ECDSA with P-256 or P-384, RSA or Ed25519")]
    Unsupported,
}

/// A public key and its name in the guardrail.
#[derive(Clone, Debug)]
pub struct PublicKey {
    name: String,
    key: SubjectPublicKeyInfoDer<'static>,
}

impl PublicKey {
    /// Reads a key of the guardrail.
    ///
    /// # Errors
    /// The text is not a public key of a supported algorithm.
    pub fn parse(key: &SignatureKey) -> Result<Self, InvalidPublicKey> {
        let parsed = SubjectPublicKeyInfoDer::from_pem_slice(key.public_key.as_bytes());
        let parsed = Self {
            name: key.name.clone(),
            key: parsed.map_err(|_| InvalidPublicKey::NotPem)?,
        };
        let entity = RawPublicKeyEntity::try_from(&parsed.key);
        let entity = entity.map_err(|_| InvalidPublicKey::NotPem)?;
        let is_supported = ALGORITHMS.iter().any(|algorithm| {
            let checked = entity.verify_signature(*algorithm, b"", b"");
            matches!(checked, Err(webpki::Error::InvalidSignatureForPublicKey))
        });
        is_supported
            .then_some(parsed)
            .ok_or(InvalidPublicKey::Unsupported)
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the signature of the message was made with this key.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        RawPublicKeyEntity::try_from(&self.key).is_ok_and(|entity| {
            ALGORITHMS.iter().any(|algorithm| {
                entity
                    .verify_signature(*algorithm, message, signature)
                    .is_ok()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SigningKey,
    };

    use super::*;

    const MESSAGE: &[u8] = b"the payload";
    /// A key with 2,048 bits, and its signature (PKCS #1, SHA-256) of the message, made by OpenSSL.
    const RSA_KEY: &str = include_str!("testdata/rsa.pub");
    const RSA_SIGNATURE: &[u8] = include_bytes!("testdata/rsa.sig");

    fn key(pem: &str) -> Result<PublicKey, InvalidPublicKey> {
        PublicKey::parse(&SignatureKey {
            name: "release".to_owned(),
            public_key: pem.to_owned(),
            images: Vec::new(),
        })
    }

    #[test]
    fn a_signature_counts_for_its_key_and_its_message_only() {
        for algorithm in [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ED25519,
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let other = KeyPair::generate_for(algorithm).unwrap();
            let signature = pair.sign(MESSAGE).unwrap();
            let public = key(&pair.public_key_pem()).unwrap();
            assert!(public.has_signed(MESSAGE, &signature), "{algorithm:?}");
            assert!(!public.has_signed(b"another payload", &signature));
            assert!(!public.has_signed(MESSAGE, b""));
            let other = key(&other.public_key_pem()).unwrap();
            assert!(!other.has_signed(MESSAGE, &signature));
        }
    }

    #[test]
    fn a_signature_with_rsa_is_verified() {
        let public = key(RSA_KEY).unwrap();
        assert!(public.has_signed(MESSAGE, RSA_SIGNATURE));
        assert!(!public.has_signed(b"another payload", RSA_SIGNATURE));
    }

    #[test]
    fn what_is_not_a_public_key_is_refused() {
        let pair = KeyPair::generate().unwrap();
        let not_der = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        for text in ["", "cosign.pub", &pair.serialize_pem(), not_der] {
            assert_eq!(key(text).unwrap_err(), InvalidPublicKey::NotPem, "{text}");
        }
        // X25519 is for the exchange of keys.
        let x25519 = "-----BEGIN PUBLIC KEY-----\n\
                      MCowBQYDK2VuAyEAlgX9IUcNLj6cBWphq/7wtFu4onMbUVwefSKSypIOCT4=\n\
                      -----END PUBLIC KEY-----\n";
        assert_eq!(key(x25519).unwrap_err(), InvalidPublicKey::Unsupported);
    }
}
