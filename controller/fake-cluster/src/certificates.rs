//! A certificate authority for tests and for the local cluster.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate authority.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its private key, both as PEM.
pub struct CertificateAndKey {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// A key pair without a certificate, both keys as PEM.
pub struct KeyPairPem {
    /// The private key.
    pub private: String,
    /// The public key.
    pub public: String,
}

/// What a certificate contains.
#[derive(Clone, Debug, Default)]
pub struct CertificateRequest {
    /// Common name of the subject.
    pub common_name: String,
    /// Organization of the subject. Kubernetes reads the groups of a client from it.
    pub organization: Option<String>,
    /// DNS names of the server.
    pub dns_names: Vec<String>,
    /// IP addresses of the server.
    pub addresses: Vec<IpAddr>,
    /// What the certificate may be used for. `None` for any use.
    pub usage: Option<CertificateUsage>,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateUsage {
    /// To identify a server.
    Server,
    /// To identify a client.
    Client,
}

impl CertificateAuthority {
    /// Creates a self-signed certificate authority.
    ///
    /// # Errors
    /// The key or the certificate could not be generated.
    pub fn new() -> io::Result<Self> {
        Self::with_name("serin-test-authority")
    }

    /// Creates a self-signed certificate authority with a name.
    ///
    /// # Errors
    /// The key or the certificate could not be generated.
    pub fn with_name(common_name: &str) -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// The CA certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// The key or the certificate could not be generated, or a DNS name is not valid.
    pub fn issue(&self, request: CertificateRequest) -> io::Result<CertificateAndKey> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::new(request.dns_names).map_err(io::Error::other)?;
        let addresses = request.addresses.into_iter().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, request.common_name);
        if let Some(organization) = request.organization {
            name.push(DnType::OrganizationName, organization);
        }
        let usage = request.usage.map(|usage| match usage {
            CertificateUsage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            CertificateUsage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        });
        params.extended_key_usages = usage.into_iter().collect();
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(io::Error::other)?
            .pem();
        Ok(CertificateAndKey {
            certificate,
            key: key.serialize_pem(),
        })
    }

    /// Issues a certificate for a server or client on 127.0.0.1.
    ///
    /// # Errors
    /// The key or the certificate could not be generated.
    pub fn issue_certificate(&self) -> io::Result<CertificateAndKey> {
        self.issue(CertificateRequest {
            common_name: "localhost".to_owned(),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            ..CertificateRequest::default()
        })
    }
}

impl KeyPairPem {
    /// Generates a key pair.
    ///
    /// # Errors
    /// The key could not be generated.
    pub fn generate() -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        Ok(Self {
            private: key.serialize_pem(),
            public: key.public_key_pem(),
        })
    }
}
