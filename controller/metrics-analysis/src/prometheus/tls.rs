//! TLS options.

use std::fmt;
use std::sync::Arc;

use reqwest::{Certificate, ClientBuilder, Identity};
use sha2::{Digest, Sha256};

use super::error::root_cause;

/// Trusted CAs and client certificate of a connection. Defaults to the system trust store and no
/// client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The trusted CAs, in place of the system trust store.
    authorities: Option<Pem>,
    /// Client certificate and its key.
    identity: Option<Pem>,
}

/// Certificates or keys in PEM format. Compared by digest and never printed.
#[derive(Clone)]
struct Pem {
    text: Arc<[u8]>,
    digest: [u8; 32],
}

/// Why TLS options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA bundle contains no certificate.
    #[error("it contains no certificate in PEM format (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// The certificate or key cannot be used.
    #[error("{}", root_cause(.0))]
    Unusable(#[from] reqwest::Error),
}

impl Pem {
    fn new(text: Vec<u8>) -> Self {
        Self {
            digest: Sha256::digest(&text).into(),
            text: text.into(),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem(..)")
    }
}

impl PartialEq for Pem {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Pem {}

impl std::hash::Hash for Pem {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl Tls {
    /// Trusts these CAs (PEM, one or more) instead of the system trust store.
    ///
    /// # Errors
    /// The text contains no valid certificate.
    pub fn with_ca_bundle(self, pem: &[u8]) -> Result<Self, TlsError> {
        let authorities = Some(Pem::new(pem.to_vec()));
        let checked = Self {
            authorities: authorities.clone(),
            identity: None,
        };
        checked.validate()?;
        Ok(Self {
            authorities,
            ..self
        })
    }

    /// Uses this client certificate (PEM, including intermediate certificates) and its key.
    ///
    /// # Errors
    /// The certificate or key is invalid, or they do not match.
    pub fn with_client_certificate(self, certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let identity = Some(Pem::new([certificate, b"\n", key].concat()));
        let checked = Self {
            authorities: None,
            identity: identity.clone(),
        };
        checked.validate()?;
        Ok(Self { identity, ..self })
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that a client can be built. The system trust store is irrelevant for this check.
    fn validate(&self) -> Result<(), TlsError> {
        self.apply_to(reqwest::Client::builder().tls_certs_only([]))?
            .build()?;
        Ok(())
    }

    /// Applies the options to the builder of an HTTP client.
    pub(super) fn apply_to(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, TlsError> {
        if let Some(Pem { text, .. }) = &self.authorities {
            let authorities =
                Certificate::from_pem_bundle(text).map_err(|_| TlsError::NoCertificate)?;
            if authorities.is_empty() {
                return Err(TlsError::NoCertificate);
            }
            builder = builder.tls_certs_only(authorities);
        }
        if let Some(Pem { text, .. }) = &self.identity {
            builder = builder.identity(Identity::from_pem(text)?);
        }
        Ok(builder)
    }
}
