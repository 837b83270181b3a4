//! What the controller program can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use serin_core::lease::Timing;
use serin_crds::text::parse_duration;

use crate::judging::DefaultServer;
use crate::telemetry;

/// The Serin controller: ships every release as an experiment with a budget.
#[derive(Clone, Debug, Parser)]
#[command(name = "serin-controller", version)]
pub struct Config {
    /// What to do. Defaults to running the controller
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Look after the Rollouts of this namespace only; without it after those of all namespaces
    #[arg(long, env = "SERIN_NAMESPACE")]
    pub namespace: Option<String>,
    /// The Prometheus of Rollouts that name none, for example http://prometheus.monitoring:9090
    #[arg(long, env = "SERIN_PROMETHEUS_ADDRESS")]
    pub prometheus_address: Option<String>,
    /// A directory of headers for that Prometheus: each file's name is a header's, for example
    /// Authorization, and its content the value, as a mounted Secret has it; read again while it is
    /// in use
    #[arg(
        long,
        env = "SERIN_PROMETHEUS_HEADERS_DIR",
        requires = "prometheus_address"
    )]
    pub prometheus_headers_dir: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, env = "SERIN_METRICS_ADDRESS", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Act only while holding the Lease, so that several controllers can stand by
    #[arg(long, env = "SERIN_LEADER_ELECT", action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
    /// The Lease's namespace; without it the pod's own, or the kubeconfig's
    #[arg(long, env = "SERIN_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// The Lease's name
    #[arg(long, env = "SERIN_LEASE_NAME", default_value = "serin")]
    pub lease_name: String,
    /// How long a silent leader is waited for; it is renewed four times in this time
    #[arg(long, env = "SERIN_LEASE_DURATION", default_value = "4s", value_parser = lease_duration)]
    pub lease_duration: Duration,
    /// What this process calls itself: its pod's name
    #[arg(long, env = "POD_NAME", default_value = "serin-controller")]
    pub pod_name: String,
    /// How log lines are written
    #[arg(long, env = "SERIN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// What is logged, in the syntax of RUST_LOG; what the API client has to say is told by those
    /// who use it
    #[arg(long, env = "SERIN_LOG", default_value = "info,kube_client=off")]
    pub log_filter: String,
    /// How many Rollouts are reconciled at once
    #[arg(long, env = "SERIN_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// How long reconciles under way may take to end when the program is stopped
    #[arg(long, env = "SERIN_SHUTDOWN_GRACE", default_value = "8s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
}

/// What the program does besides running the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Restore the routes and Services that Rollouts have changed, remove the finalizers of the
    /// Rollouts, and exit. To be run after the controller has been deleted; waits until nobody
    /// holds its Lease. Rollouts and pods stay
    ReleaseFinalizers,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line
    Json,
    /// Coloured text
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
    /// The Prometheus of Rollouts that name none.
    pub fn default_server(&self) -> Option<DefaultServer> {
        let address = self.prometheus_address.clone()?;
        Some(DefaultServer {
            address,
            headers_dir: self.prometheus_headers_dir.clone(),
        })
    }

    /// The election's timing: a leader that cannot renew stops well before anybody else may take
    /// over.
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
    fn the_defaults_are_those_of_the_lease_rule() {
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
    fn what_cannot_work_is_refused() {
        assert!(parse(&["--concurrency", "0"]).is_err());
        assert!(
            parse(&["--prometheus-headers-dir", "/headers"]).is_err(),
            "headers are of a Prometheus"
        );
        assert!(parse(&["--lease-duration", "1s"]).is_err());
        assert!(parse(&["--lease-duration", "soon"]).is_err());
    }
}
