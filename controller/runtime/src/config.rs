//! Command-line arguments of the controller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use serin_core::lease::Timing;
use serin_crds::literals::parse_duration;

use crate::analysis::DefaultServer;
use crate::telemetry;

/// The Serin controller: progressive delivery with error budgets for Kubernetes.
#[derive(Clone, Debug, Parser)]
#[command(name = "serin-controller", version)]
pub struct Config {
    /// Command to run. Runs the controller if no command is given
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Namespace to manage Rollouts in. All namespaces if not set
    #[arg(long, env = "SERIN_NAMESPACE")]
    pub namespace: Option<String>,
    /// Prometheus URL for Rollouts that specify none, for example http://prometheus.monitoring:9090
    #[arg(long, env = "SERIN_PROMETHEUS_ADDRESS")]
    pub prometheus_address: Option<String>,
    /// Directory with HTTP headers for that Prometheus, in the layout of a mounted Secret: each
    /// file name is a header name, for example Authorization, and the file content is the header
    /// value. The files are reread periodically
    #[arg(
        long,
        env = "SERIN_PROMETHEUS_HEADERS_DIR",
        requires = "prometheus_address"
    )]
    pub prometheus_headers_dir: Option<PathBuf>,
    /// Listen address for /metrics, /healthz and /readyz
    #[arg(long, env = "SERIN_METRICS_ADDRESS", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Enable leader election. Only the holder of the Lease acts, so that several replicas can run
    #[arg(long, env = "SERIN_LEADER_ELECT", action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
    /// Namespace of the Lease. Defaults to the namespace of the pod or of the kubeconfig
    #[arg(long, env = "SERIN_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of the Lease
    #[arg(long, env = "SERIN_LEASE_NAME", default_value = "serin")]
    pub lease_name: String,
    /// Lease duration, from 2s to 10m. The leader renews every quarter of it
    #[arg(long, env = "SERIN_LEASE_DURATION", default_value = "4s", value_parser = lease_duration)]
    pub lease_duration: Duration,
    /// Name of this process in Events and in the Lease, normally the pod name
    #[arg(long, env = "POD_NAME", default_value = "serin-controller")]
    pub pod_name: String,
    /// Log format
    #[arg(long, env = "SERIN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// Log filter in RUST_LOG syntax. Client logs are disabled by default
    #[arg(long, env = "SERIN_LOG", default_value = "info,kube_client=off")]
    pub log_filter: String,
    /// Maximum number of concurrent reconciles
    #[arg(long, env = "SERIN_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Maximum time for running reconciles to finish at shutdown
    #[arg(long, env = "SERIN_SHUTDOWN_GRACE", default_value = "8s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
}

/// Commands besides running the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Restore the routes and Services that Rollouts have changed, remove the finalizers of the
    /// Rollouts, and exit. Run this after you delete the controller. It waits until the Lease is
    /// free. Rollouts and pods are kept
    ReleaseFinalizers,
}

/// Log format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line
    Json,
    /// Colored text
    Human,
}

impl From<LogFormat> for telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Human => Self::Human,
        }
    }
}

impl Config {
    /// The Prometheus for Rollouts that specify none.
    pub fn default_server(&self) -> Option<DefaultServer> {
        let address = self.prometheus_address.clone()?;
        Some(DefaultServer {
            address,
            headers_dir: self.prometheus_headers_dir.clone(),
        })
    }

    /// The timing of the leader election. A leader that cannot renew stops acting well before
    /// another candidate may take over.
    pub fn timing(&self) -> Timing {
        let lease = self.lease_duration;
        Timing {
            lease,
            renew_every: lease / 4,
            fence_after: lease * 5 / 8,
        }
    }
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_secs(2)..=Duration::from_secs(600);
    if bounds.contains(&duration) {
        Ok(duration)
    } else {
        Err("use 2s to 10m".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from([&["serin-controller"], arguments].concat())
    }

    #[test]
    fn the_default_timing_equals_the_core_default() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.timing(), Timing::default());
        assert!(config.leader_elect);
        assert!(!parse(&["--leader-elect=false"]).unwrap().leader_elect);
        assert!(parse(&["--leader-elect"]).unwrap().leader_elect);
    }

    #[test]
    fn the_controller_runs_unless_a_command_is_given() {
        assert_eq!(parse(&["--namespace", "shop"]).unwrap().command, None);
        let config = parse(&[
            "--lease-name=serin",
            "--leader-elect=true",
            "release-finalizers",
        ])
        .unwrap();
        assert_eq!(config.command, Some(Command::ReleaseFinalizers));
        assert!(parse(&["release"]).is_err());
    }

    #[test]
    fn invalid_arguments_are_refused() {
        assert!(parse(&["--concurrency", "0"]).is_err());
        assert!(
            parse(&["--prometheus-headers-dir", "/headers"]).is_err(),
            "headers require a Prometheus address"
        );
        assert!(parse(&["--lease-duration", "1s"]).is_err());
        assert!(parse(&["--lease-duration", "soon"]).is_err());
    }
}
