//! Tests on a real cluster: the harness, the cases, the demo and the soak tests.
//!
//! All of them use a real API server, real pods, a real gateway and a real Prometheus. Each case
//! creates a namespace and removes it. The cluster is the one of KUBECONFIG, or the local cluster.

pub mod autoscaling;
pub mod case_log;
pub mod cases;
pub mod controller;
pub mod data_plane;
pub mod demo;
pub mod env;
pub mod external_autoscaling;
pub mod external_metrics;
pub mod gatekeeper;
pub mod guardrails;
pub mod interrupt;
pub mod manifests;
pub mod metrics_server;
pub mod objects;
pub mod peer_migration;
pub mod previous_version;
pub mod prometheus;
pub mod registry;
pub mod shop;
pub mod soak;
pub mod sticky;
pub mod traffic;
pub mod verdicts;

/// Installs the TLS provider for all clients of this process.
pub fn install_tls_provider() {
    // The only error is that a provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
