//! TLS listeners for tests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificates::{CertificateAndKey, CertificateAuthority};

/// Accepts TLS connections. Connections with a failed handshake are dropped.
pub struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    accepted: Arc<AtomicUsize>,
}

impl CertificateAuthority {
    /// Listens on a free port of 127.0.0.1. If `mutual` is true, clients must present a certificate
    /// of this authority. The TLS provider of the process must be installed first.
    ///
    /// # Errors
    /// The socket could not be opened, or the certificate could not be issued.
    pub async fn listen(&self, mutual: bool) -> io::Result<TlsListener> {
        self.listen_on(Ipv4Addr::LOCALHOST, mutual).await
    }

    /// As [`Self::listen`], on a free port of this address.
    ///
    /// # Errors
    /// The socket could not be opened, or the certificate could not be issued.
    pub async fn listen_on(&self, address: Ipv4Addr, mutual: bool) -> io::Result<TlsListener> {
        let CertificateAndKey { certificate, key } = self.issue_certificate()?;
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(io::Error::other)?;
        let config = ServerConfig::builder();
        let config = if mutual {
            let mut roots = RootCertStore::empty();
            let root =
                CertificateDer::from_pem_slice(self.pem().as_bytes()).map_err(io::Error::other)?;
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
        let listener = TcpListener::bind((address, 0)).await?;
        Ok(TlsListener {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            accepted: Arc::default(),
        })
    }
}

impl TlsListener {
    /// The URL of the listener, for example `https://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// The local address cannot be determined.
    pub fn url(&self) -> io::Result<String> {
        Ok(format!("https://{}", self.listener.local_addr()?))
    }

    /// Number of connections with a successful handshake.
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
