//! Command-line arguments of the controller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use serin_core::lease::{LEASE_BOUNDS, Timing, TimingError};
use serin_crds::literals::parse_duration;
use serin_metrics_analysis::prometheus::{AllowedAddress, is_label_name};

use crate::analysis::DefaultServer;
use crate::scope::{Scope, parse_selector};
use crate::telemetry;

/// The Serin controller: progressive delivery with error budgets for Kubernetes.
#[derive(Clone, Debug, Parser)]
#[command(name = "serin-controller", version)]
pub struct Config {
    /// Command to run. Runs the controller if no command is given
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Namespace to manage Rollouts in. Repeat it, or separate namespaces by commas. All namespaces
    /// if not set
    #[arg(
        long = "watch-namespaces",
        visible_alias = "namespace",
        env = "SERIN_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        value_parser = namespace_name,
        conflicts_with = "namespace_selector"
    )]
    pub watch_namespaces: Vec<String>,
    /// Label selector of the namespaces to manage Rollouts in, in the syntax of kubectl get -l. All
    /// namespaces are watched, and nothing is changed in those that do not match. A changed label
    /// counts at once
    #[arg(
        long,
        env = "SERIN_NAMESPACE_SELECTOR",
        value_name = "SELECTOR",
        value_parser = parse_selector
    )]
    pub namespace_selector: Option<String>,
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
    /// Address that Rollouts may set in spec.analysis.prometheus.address, for example
    /// https://mimir.example.com/prometheus. It allows every address that begins with it: without a
    /// port every port of the host, without a path every path. Repeat it, or separate addresses by
    /// commas. If not set, Rollouts may use every address, except loopback and link-local
    /// addresses, metadata services and the Kubernetes API server
    #[arg(
        long = "prometheus-allowed-address",
        env = "SERIN_PROMETHEUS_ALLOWED_ADDRESS",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub prometheus_allowed_addresses: Vec<AllowedAddress>,
    /// Limit every query to the default Prometheus to series whose label of this name is the
    /// namespace of the Rollout
    #[arg(
        long,
        env = "SERIN_PROMETHEUS_ENFORCE_NAMESPACE_LABEL",
        value_name = "LABEL",
        value_parser = label_name,
        requires = "prometheus_address"
    )]
    pub prometheus_enforce_namespace_label: Option<String>,
    /// Address below which the guardrails may ask image registries, with the registry and optionally
    /// the beginning of the repository, for example https://registry.example.com/team. Only a
    /// registry with http:// is asked without encryption. Repeat it, or separate addresses by commas.
    /// If not set, every registry may be asked by https, except at loopback and link-local addresses,
    /// metadata services and the Kubernetes API server
    #[arg(
        long = "registry-allowed-address",
        env = "SERIN_REGISTRY_ALLOWED_ADDRESS",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub registry_allowed_addresses: Vec<AllowedAddress>,
    /// Address that checks of Rollouts may send requests to, besides the Services of the namespace of
    /// the Rollout, for example http://flagger-loadtester.test. It allows every address that begins
    /// with it: without a port every port of the host, without a path every path. Repeat it, or
    /// separate addresses by commas
    #[arg(
        long = "check-allowed-address",
        env = "SERIN_CHECK_ALLOWED_ADDRESS",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub check_allowed_addresses: Vec<AllowedAddress>,
    /// Listen address for /metrics
    #[arg(long, env = "SERIN_METRICS_ADDRESS", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Listen address for /healthz and /readyz
    #[arg(long, env = "SERIN_HEALTH_ADDRESS", default_value = "0.0.0.0:8081")]
    pub health_address: SocketAddr,
    /// Listen address for verdicts on releases, over HTTP without encryption. Clients need a token
    /// for the audience serin.dev and the permission to get the Rollout. Verdicts are not served if
    /// not set
    #[arg(long, env = "SERIN_VERDICT_ADDRESS")]
    pub verdict_address: Option<SocketAddr>,
    /// Directory that survives a restart of the container, for example an emptyDir. The controller
    /// records there which Rollouts it tries for the first time. If the process dies, it
    /// quarantines them after the restart. If not set, a Rollout that ends the process does so
    /// again after each restart
    #[arg(long, env = "SERIN_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Time after which a process that cannot reconcile exits with code 70, so that the standby
    /// takes over. At least 2s. Use 0s to disable it
    #[arg(long, env = "SERIN_WATCHDOG_TIMEOUT", default_value = "10s", value_parser = watchdog_timeout)]
    pub watchdog_timeout: Duration,
    /// Enable leader election. Only the holder of the Lease acts, so that several replicas can run
    #[arg(long, env = "SERIN_LEADER_ELECT", action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
    /// Namespace of the Lease. Defaults to the namespace of the pod or of the kubeconfig
    #[arg(long, env = "SERIN_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of the Lease
    #[arg(long, env = "SERIN_LEASE_NAME", default_value = "serin")]
    pub lease_name: String,
    /// Lease duration, from 1s to 10m. After the death of the leader, a standby takes over within
    /// this time
    #[arg(long, env = "SERIN_LEASE_DURATION", default_value = "1500ms", value_parser = lease_duration)]
    pub lease_duration: Duration,
    /// Time after its last renewal at which a leader stops acting. Defaults to three quarters of the
    /// lease duration. The leader tolerates a response time of the API server of this time minus the
    /// renew interval
    #[arg(long, env = "SERIN_LEASE_RENEW_DEADLINE", value_parser = parse_duration)]
    pub lease_renew_deadline: Option<Duration>,
    /// Interval at which the leader renews the Lease. Defaults to a sixth of the lease duration, and
    /// is at most half of the renew deadline
    #[arg(long, env = "SERIN_LEASE_RENEW_INTERVAL", value_parser = parse_duration)]
    pub lease_renew_interval: Option<Duration>,
    /// Name of this process in Events and in the Lease, normally the pod name
    #[arg(long, env = "POD_NAME", default_value = "serin-controller")]
    pub pod_name: String,
    /// Log format
    #[arg(long, env = "SERIN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// Log filter in RUST_LOG syntax. The logs of the Kubernetes client are always off
    #[arg(long, env = "SERIN_LOG", default_value = "info")]
    pub log_filter: String,
    /// Name of the ValidatingAdmissionPolicy that verifies commands, and of its binding. Commands
    /// are refused while it is not in force. If not set, requesters are reported as unverified
    #[arg(long, env = "SERIN_ADMISSION_POLICY")]
    pub admission_policy: Option<String>,
    /// Maximum number of concurrent reconciles
    #[arg(long, env = "SERIN_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Maximum number of requests to the API server per second, except for the Lease. Unused
    /// requests of the last second can be sent at once. Delayed requests can time out, so use 0,
    /// which is no limit, or at least 10
    #[arg(long, env = "SERIN_MAX_REQUESTS_PER_SECOND", default_value_t = 0, value_parser = requests_per_second)]
    pub max_requests_per_second: u32,
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

    /// Whether the headers for the default Prometheus are sent without encryption.
    pub fn sends_headers_in_clear_text(&self) -> bool {
        let address = self.prometheus_address.as_deref().unwrap_or_default();
        let is_encrypted = address.to_ascii_lowercase().starts_with("https://");
        self.prometheus_headers_dir.is_some() && !is_encrypted
    }

    /// The namespaces to manage.
    pub fn scope(&self) -> Scope {
        match &self.namespace_selector {
            Some(selector) => Scope::Selected(selector.clone()),
            None if self.watch_namespaces.is_empty() => Scope::All,
            None => Scope::Namespaces(self.watch_namespaces.iter().cloned().collect()),
        }
    }

    /// The timing of the leader election. A leader that cannot renew stops acting before another
    /// candidate may take over.
    ///
    /// # Errors
    /// The values do not guarantee that.
    pub fn timing(&self) -> Result<Timing, TimingError> {
        let defaults = Timing::from_lease(self.lease_duration);
        let timing = Timing {
            renew_every: self.lease_renew_interval.unwrap_or(defaults.renew_every),
            fence_after: self.lease_renew_deadline.unwrap_or(defaults.fence_after),
            ..defaults
        };
        timing.validate().map(|()| timing)
    }
}

fn namespace_name(text: &str) -> Result<String, String> {
    let is_permitted = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let is_edge_valid = !text.starts_with('-') && !text.ends_with('-');
    if (1..=63).contains(&text.len()) && text.bytes().all(is_permitted) && is_edge_valid {
        Ok(text.to_owned())
    } else {
        Err("use the name of a namespace, for example shop".to_owned())
    }
}

fn label_name(text: &str) -> Result<String, String> {
    if is_label_name(text) {
        Ok(text.to_owned())
    } else {
        Err("use the name of a label, for example namespace".to_owned())
    }
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    let (shortest, longest) = LEASE_BOUNDS;
    if (shortest..=longest).contains(&duration) {
        Ok(duration)
    } else {
        Err("use 1s to 10m".to_owned())
    }
}

fn requests_per_second(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(requests) if requests == 0 || requests >= 10 => Ok(requests),
        Ok(_) | Err(_) => Err("use 0, or a number of at least 10".to_owned()),
    }
}

fn watchdog_timeout(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration >= Duration::from_secs(2) {
        Ok(duration)
    } else {
        Err("use 0s, or at least 2s".to_owned())
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
        assert_eq!(config.timing(), Ok(Timing::default()));
        assert!(config.leader_elect);
        assert!(!parse(&["--leader-elect=false"]).unwrap().leader_elect);
        assert!(parse(&["--leader-elect"]).unwrap().leader_elect);
    }

    #[test]
    fn the_scope_is_a_list_of_namespaces_or_a_label_selector() {
        let scope = |arguments: &[&str]| parse(arguments).map(|config| config.scope());
        assert_eq!(scope(&[]).unwrap(), Scope::All);
        let listed = ["--watch-namespaces=shop,pay", "--watch-namespaces", "web"];
        let names = ["pay", "shop", "web"].map(str::to_owned);
        assert_eq!(scope(&listed).unwrap(), Scope::Namespaces(names.into()));
        assert_eq!(
            scope(&["--namespace-selector", "team in (a, b)"]).unwrap(),
            Scope::Selected("team in (a, b)".to_owned())
        );
        for invalid in [
            &["--watch-namespaces", "Shop"][..],
            &["--watch-namespaces="],
            &["--namespace-selector", "team in a"],
            &["--namespace", "shop", "--namespace-selector", "team=a"],
        ] {
            assert!(scope(invalid).is_err(), "{invalid:?}");
        }
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
        assert!(parse(&["--lease-duration", "999ms"]).is_err());
        assert!(parse(&["--lease-duration", "soon"]).is_err());
        assert!(parse(&["--watchdog-timeout", "1s"]).is_err());
        assert!(parse(&["--max-requests-per-second", "9"]).is_err());
        assert!(parse(&["--max-requests-per-second", "50"]).is_ok());
        assert!(parse(&["--watchdog-timeout", "0s"]).is_ok());
    }

    #[test]
    fn a_timing_that_is_not_safe_is_refused_at_start() {
        let timing = |arguments: &[&str]| parse(arguments).unwrap().timing();
        let long = timing(&["--lease-duration=15s", "--lease-renew-interval=2s"]).unwrap();
        assert_eq!(long.renew_every, Duration::from_secs(2));
        assert_eq!(long.fence_after, Duration::from_millis(11_250));
        let late = timing(&["--lease-duration=15s", "--lease-renew-deadline=15s"]);
        assert!(matches!(late, Err(TimingError::RenewDeadline { .. })));
        let rare = timing(&["--lease-renew-interval=1s"]);
        assert!(matches!(rare, Err(TimingError::RenewInterval { .. })));
    }

    #[test]
    fn allowed_addresses_are_repeated_or_separated_by_commas() {
        let config = parse(&[
            "--prometheus-allowed-address=https://a.example/p,http://b:9090",
            "--prometheus-allowed-address",
            "http://[::1]",
        ])
        .unwrap();
        let shown = config.prometheus_allowed_addresses.iter();
        let shown: Vec<String> = shown.map(ToString::to_string).collect();
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(config.prometheus_allowed_addresses[2].permits("http://[::1]:9090"));
        assert!(parse(&["--prometheus-allowed-address", "b:9090"]).is_err());
        let config = parse(&["--registry-allowed-address=https://a,http://b:5000/team"]).unwrap();
        assert_eq!(config.registry_allowed_addresses.len(), 2);
        let config = parse(&["--check-allowed-address=https://a/hooks,http://b:80"]).unwrap();
        assert_eq!(config.check_allowed_addresses.len(), 2);
        assert!(parse(&[]).unwrap().prometheus_allowed_addresses.is_empty());
    }

    #[test]
    fn the_enforced_label_is_a_label_of_the_default_prometheus() {
        let with_address = [
            "--prometheus-address",
            "http://p",
            "--prometheus-enforce-namespace-label",
        ];
        let label = |label| parse(&[&with_address[..], &[label]].concat());
        assert_eq!(
            label("namespace")
                .unwrap()
                .prometheus_enforce_namespace_label
                .as_deref(),
            Some("namespace")
        );
        assert!(label("a=b").is_err() && label("").is_err());
        assert!(parse(&["--prometheus-enforce-namespace-label", "namespace"]).is_err());
    }

    #[test]
    fn headers_without_encryption_are_noticed() {
        let headers = |address| {
            let arguments = [
                "--prometheus-address",
                address,
                "--prometheus-headers-dir",
                "/h",
            ];
            parse(&arguments).unwrap().sends_headers_in_clear_text()
        };
        assert!(headers("http://p") && !headers("https://p"));
        assert!(
            !parse(&["--prometheus-address", "http://p"])
                .unwrap()
                .sends_headers_in_clear_text()
        );
    }
}
