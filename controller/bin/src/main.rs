//! The Serin controller binary.

use clap::Parser;
use serin_runtime::config::Config;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The clients for the API server and Prometheus share this TLS provider. It must be installed
    // before either client is created.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        anyhow::bail!("another TLS provider is installed already");
    }
    Ok(serin_runtime::run::run(Config::parse()).await?)
}
