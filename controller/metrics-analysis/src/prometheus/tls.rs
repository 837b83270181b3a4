//! What a TLS connection is made with.

use std::fmt;
use std::sync::Arc;

use reqwest::{Certificate, ClientBuilder, Identity};
use sha2::{Digest, Sha256};

use super::error::innermost;

/// Whom a connection trusts, and what it shows; by default the machine's authorities, and nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The only authorities that count.
    authorities: Option<Pem>,
    /// A certificate and its key, to be shown.
    identity: Option<Pem>,
}

/// Certificates and keys as text; compared by its digest, and never shown.
#[derive(Clone)]
struct Pem {
    text: Arc<[u8]>,
    digest: [u8; 32],
}

/// Why no connection can be made with what was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authorities are no certificates.
    #[error("no certificate in PEM (-----BEGIN CERTIFICATE-----) is in it")]
    NoCertificate,
    /// They cannot be used.
    #[error("{}", innermost(.0))]
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
    /// The same, with these authorities (PEM, one or more) in place of the machine's.
    ///
    /// # Errors
    /// They are none.
    pub fn with_authorities(self, pem: &[u8]) -> Result<Self, TlsError> {
        let authorities = Some(Pem::new(pem.to_vec()));
        let checked = Self {
            authorities: authorities.clone(),
            identity: None,
        };
        checked.check()?;
        Ok(Self {
            authorities,
            ..self
        })
    }

    /// The same, showing this certificate (PEM, with those between it and its authority) by this
    /// key.
    ///
    /// # Errors
    /// They are none, or do not belong together.
    pub fn with_identity(self, certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let identity = Some(Pem::new([certificate, b"\n", key].concat()));
        let checked = Self {
            authorities: None,
            identity: identity.clone(),
        };
        checked.check()?;
        Ok(Self { identity, ..self })
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a client can be built; without any authorities of the machine, which are no matter
    /// here.
    fn check(&self) -> Result<(), TlsError> {
        self.applied(reqwest::Client::builder().tls_certs_only([]))?
            .build()?;
        Ok(())
    }

    /// A client that is built makes its connections so.
    pub(super) fn applied(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, TlsError> {
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
