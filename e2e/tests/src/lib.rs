//! What must be seen on a real cluster: the harness, the demo, the cases and the long counts.
//!
//! Everything here goes through the real API server, real pods, the real gateway and the real
//! Prometheus. Each case works in a namespace of its own and removes it; the cluster is the local
//! one, or the one that KUBECONFIG names.

pub mod cases;
pub mod controller;
pub mod demo;
pub mod env;
pub mod interrupt;
pub mod journal;
pub mod manifests;
pub mod prometheus;
pub mod shop;
pub mod soak;
pub mod traffic;
pub mod verdicts;

/// Chooses the TLS provider for all clients of this process, where none has been chosen yet.
pub fn install_tls_provider() {
    // The one error is that a provider is installed already, which is all that is asked for.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
