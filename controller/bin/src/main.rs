//! The Serin controller program.

use clap::Parser;
use serin_runtime::config::Config;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // One TLS provider for the API server's and the Prometheus client, before either is made.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        anyhow::bail!("another TLS provider is installed already");
    }
    Ok(serin_runtime::run::run(Config::parse()).await?)
}
