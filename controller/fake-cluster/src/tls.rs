//! An authority that one test trusts, and sockets that speak TLS by its certificates.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Signs certificates. The process' TLS provider must have been installed before it is used.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, both as PEM.
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Connections that are encrypted; those that fail to be are passed over.
pub struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    accepted: Arc<AtomicUsize>,
}

impl Authority {
    /// One that nobody else trusts.
    ///
    /// # Errors
    /// No key or certificate could be made.
    pub fn new() -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Its own certificate, as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for 127.0.0.1, of a server or a client.
    ///
    /// # Errors
    /// It could not be made.
    pub fn certify(&self) -> io::Result<Certified> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        params
            .subject_alt_names
            .push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(io::Error::other)?
            .pem();
        Ok(Certified {
            certificate,
            key: key.serialize_pem(),
        })
    }

    /// A socket on a free port of 127.0.0.1; where it is `mutual`, clients show a certificate of
    /// the same authority.
    ///
    /// # Errors
    /// The socket or its certificate could not be made.
    pub async fn listen(&self, mutual: bool) -> io::Result<TlsListener> {
        let Certified { certificate, key } = self.certify()?;
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(io::Error::other)?;
        let config = ServerConfig::builder();
        let config = if mutual {
            let mut roots = RootCertStore::empty();
            let root =
                CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(io::Error::other)?;
            roots.add(root).map_err(io::Error::other)?;
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                .build()
                .map_err(io::Error::other)?;
            config.with_client_cert_verifier(verifier)
        } else {
            config.with_no_client_auth()
        };
        let config = config
            .with_single_cert(vec![certificate], key)
            .map_err(io::Error::other)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(TlsListener {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            accepted: Arc::default(),
        })
    }
}

impl TlsListener {
    /// `https://127.0.0.1:` and its port.
    ///
    /// # Errors
    /// The socket has none.
    pub fn url(&self) -> io::Result<String> {
        Ok(format!("https://{}", self.listener.local_addr()?))
    }

    /// Counts the connections that were encrypted.
    pub fn accepted(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.accepted)
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else {
                continue;
            };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
