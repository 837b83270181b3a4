//! The Serin controller binary.

use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::Parser;
use serin_runtime::config::Config;

/// Minimum number of worker threads. At a CPU limit of 1, the default would be a single one, and a
/// reconcile that computes for long would stop the renewal of the Lease, `/healthz` and all other
/// reconciles.
const MIN_WORKERS: usize = 2;
/// Maximum time to wait at the exit for work in threads that cannot be stopped, such as the lookup
/// of a name.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    // The clients for the API server and Prometheus share this TLS provider. It must be installed
    // before either client is created.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        anyhow::bail!("another TLS provider is installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            available_parallelism()
                .map_or(MIN_WORKERS, NonZero::get)
                .max(MIN_WORKERS),
        )
        .enable_all()
        .build()?;
    // In a task of its own, not in this thread: it hands out the reconciles, and each would otherwise
    // wake this thread and then a worker.
    let controller = runtime.spawn(serin_runtime::run::run(config));
    let result = runtime.block_on(controller);
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    Ok(result??)
}
