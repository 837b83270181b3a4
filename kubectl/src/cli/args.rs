//! Arguments of the commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serin_crds::command::CommandVerb;

use crate::command::CommandRequest;
use crate::requests::access_log::{DurationUnit, LogFormat};
use crate::requests::status_ranges::StatusRanges;
use crate::values::{ErrorRate, StepWeight, TimeArg, address, duration, requests_per_second, seed};

/// Arguments of a command that is sent to the controller.
#[derive(Args, Clone, Debug)]
pub struct RequestArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Reason, stored with the command
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Apply only if this is the current revision [default: the current revision]
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Apply only at this step, counted from 1 as in `status` [default: the current step, for
    /// promote and skip-step]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    pub step: Option<u16>,
    /// Maximum time to wait for the outcome, for example 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Return as soon as the API server has accepted the command
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
}

/// `override`.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("reason", |reason| reason.required(true)))]
pub struct OverrideArgs {
    #[command(flatten)]
    request: RequestArgs,
    /// Apply the edited spec.analysis to the release in progress, instead of lifting a freeze
    #[arg(long)]
    adopt_analysis: bool,
}

/// `promote`.
#[derive(Args, Clone, Debug)]
pub struct PromoteArgs {
    #[command(flatten)]
    request: RequestArgs,
    /// Go to 100 % without the remaining steps
    #[arg(long)]
    full: bool,
    /// Do not ask for confirmation before --full skips steps
    #[arg(short, long)]
    yes: bool,
}

/// `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Keep the output up to date: live on a terminal, otherwise one line per change
    #[arg(short, long)]
    pub watch: bool,
    /// With --watch: exit when the release is healthy (exit code 0) or aborted (1)
    #[arg(long, requires = "watch")]
    pub until_done: bool,
    /// With --until-done: maximum time to wait, for example 30m
    #[arg(long, requires = "until_done", value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Machine-readable output format
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "watch")]
    pub output: Option<Format>,
}

/// `verdict`.
#[derive(Args, Clone, Debug)]
pub struct VerdictArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The revision, for example the pod-template-hash that a pipeline has deployed; without a
    /// verdict on it, the result is Undecided [default: the latest revision]
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Wait until there is a verdict
    #[arg(long)]
    pub wait: bool,
    /// With --wait: maximum time to wait, for example 30m
    #[arg(long, requires = "wait", value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Machine-readable output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// List the Rollouts of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// Authentication and TLS options for Prometheus.
#[derive(Args, Clone, Debug, Default)]
pub struct PrometheusAccessArgs {
    /// File with a bearer token for Prometheus
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub bearer_token_file: Option<PathBuf>,
    /// HTTP header for Prometheus, for example 'X-Scope-OrgID: shop'; repeatable
    #[arg(long = "header", value_name = "NAME: VALUE", requires = "prometheus", value_parser = header)]
    pub headers: Vec<HttpHeader>,
    /// File with HTTP headers for Prometheus, one per line; keeps a secret out of the process list
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub header_file: Option<PathBuf>,
    /// PEM file with the only certificate authorities to trust for Prometheus
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub ca_file: Option<PathBuf>,
}

/// An HTTP header sent to Prometheus.
#[derive(Clone)]
pub struct HttpHeader {
    /// Its name.
    pub name: String,
    /// Its value, possibly a secret.
    pub value: String,
}

impl std::fmt::Debug for HttpHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ..", self.name)
    }
}

/// Parses `NAME: VALUE`.
///
/// # Errors
/// The text is not an HTTP header.
pub fn header(text: &str) -> Result<HttpHeader, String> {
    let header = text.split_once(':').map(|(name, value)| HttpHeader {
        name: name.trim().into(),
        value: value.trim().into(),
    });
    let header = header.filter(|header| !header.name.is_empty() && !header.value.is_empty());
    header.ok_or_else(|| "not an HTTP header; write for example 'X-Scope-OrgID: shop'".to_owned())
}

/// `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Also show the statistics (E-value, bounds, tolerances) and the assumptions of the guarantees
    #[arg(long)]
    pub all: bool,
    /// Draw the evidence over time from the Prometheus at this address
    #[arg(long, value_name = "URL", value_parser = address)]
    pub prometheus: Option<String>,
    /// Authentication and TLS options for Prometheus.
    #[command(flatten)]
    pub access: PrometheusAccessArgs,
    /// Also write the chart to this SVG file
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub svg: Option<PathBuf>,
    /// Overwrite the SVG file if it exists
    #[arg(long, requires = "svg")]
    pub force: bool,
}

/// `simulate`.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// YAML file with the Rollout, or - for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// File or folder with RolloutPolicies, AnalysisTemplates and Namespaces, in addition to those in
    /// the file with the Rollout; repeatable
    #[arg(long = "policy", value_name = "FILE")]
    pub policies: Vec<PathBuf>,
    /// Requests per second of the whole service
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = requests_per_second)]
    pub rps: f64,
    /// Error rate of stable, for example 0.05%
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub error_rate: ErrorRate,
    /// Error rate of the canary, for example 0.5%
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub canary_error_rate: ErrorRate,
    /// The objective to simulate [default: the first]
    #[arg(long, value_name = "NAME")]
    pub objective: Option<String>,
    /// Time until a person promotes at a pause without a duration
    #[arg(long, value_name = "DURATION", default_value = "0s", allow_hyphen_values = true, value_parser = duration)]
    pub person_after: Duration,
    /// Number of releases to simulate
    #[arg(long, value_name = "NUMBER", default_value_t = 2_000, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub runs: u32,
    /// Random seed; the same seed gives the same result
    #[arg(long, value_name = "NUMBER", default_value_t = 1, allow_negative_numbers = true, value_parser = seed)]
    pub seed: u64,
    /// Also write the chart to a file.
    #[command(flatten)]
    pub svg: SvgArgs,
}

/// `replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// The Rollout in the cluster. Cannot be combined with -f
    #[arg(
        value_name = "NAME",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    pub name: Option<String>,
    /// YAML file with the Rollout, or - for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// File or folder with RolloutPolicies, AnalysisTemplates and Namespaces [default: those of the
    /// cluster, or of -f]; repeatable
    #[arg(long = "policy", value_name = "FILE")]
    pub policies: Vec<PathBuf>,
    /// Address of the Prometheus with the recorded metrics
    #[arg(long, value_name = "URL", value_parser = address)]
    pub prometheus: String,
    /// Authentication and TLS options for Prometheus.
    #[command(flatten)]
    pub access: PrometheusAccessArgs,
    /// Start of the record: 2026-03-01T10:00:00Z, or -2h
    #[arg(
        long,
        value_name = "TIME",
        allow_hyphen_values = true,
        required_unless_present = "releases"
    )]
    pub from: Option<TimeArg>,
    /// End of the record: 2026-03-01T12:00:00Z, or -1h
    #[arg(
        long,
        value_name = "TIME",
        default_value = "now",
        allow_hyphen_values = true
    )]
    pub to: TimeArg,
    /// File with the times of each release, one per line: {"name": "v7", "from": "...", "to":
    /// "..."}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
    pub releases: Option<PathBuf>,
    /// Time without canary requests after which a release is over
    #[arg(long, value_name = "DURATION", default_value = "10m", allow_hyphen_values = true, value_parser = duration)]
    pub quiet: Duration,
    /// Stable side: its Service, or its value of the variant label [default: from the Rollout]
    #[arg(long, value_name = "VALUE")]
    pub stable: Option<String>,
    /// Canary side: its Service, or its value of the variant label [default: from the Rollout]
    #[arg(long, value_name = "VALUE")]
    pub canary: Option<String>,
    /// Name of stable's ReplicaSet at that time. Required if pods distinguish the sides; also used
    /// to determine pod ages
    #[arg(long, value_name = "NAME")]
    pub stable_pods: Option<String>,
    /// Name of the canary's ReplicaSet at that time
    #[arg(long, value_name = "NAME")]
    pub canary_pods: Option<String>,
    /// Canary weights by time since its first request: 0s=5,10m=20,20m=50 [default: measured from
    /// the requests]
    #[arg(long, value_name = "TIME=PERCENT", value_delimiter = ',')]
    pub step_weights: Vec<StepWeight>,
    /// Show every release in full if there are several
    #[arg(long)]
    pub all: bool,
    /// Machine-readable output format
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "all")]
    pub output: Option<Format>,
    /// Also write the chart of the last release to a file.
    #[command(flatten)]
    pub svg: SvgArgs,
}

/// `placebo`.
#[derive(Args, Clone, Debug)]
pub struct PlaceboArgs {
    /// The Rollout in the cluster. Cannot be combined with -f or --data
    #[arg(
        value_name = "NAME",
        required_unless_present_any = ["file", "data"],
        conflicts_with_all = ["file", "data"]
    )]
    pub name: Option<String>,
    /// YAML file with the Rollout, or - for standard input
    #[arg(
        short = 'f',
        long = "file",
        value_name = "FILE",
        conflicts_with = "data"
    )]
    pub file: Option<PathBuf>,
    /// File or folder with RolloutPolicies, AnalysisTemplates and Namespaces [default: those of the
    /// cluster, or of -f]; repeatable
    #[arg(long = "policy", value_name = "FILE", conflicts_with = "data")]
    pub policies: Vec<PathBuf>,
    /// Address of the Prometheus with the recorded metrics
    #[arg(
        long,
        value_name = "URL",
        value_parser = address,
        required_unless_present = "data",
        conflicts_with = "data"
    )]
    pub prometheus: Option<String>,
    /// Authentication and TLS options for Prometheus.
    #[command(flatten)]
    pub access: PrometheusAccessArgs,
    /// Number of hours. The hour before them is read as well, as history
    #[arg(long, value_name = "NUMBER", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=336), conflicts_with = "data")]
    pub hours: u32,
    /// Percentage of the pods that are the canary together, such as the largest weight before the
    /// promotion [default: one pod]
    #[arg(long, value_name = "PERCENT", conflicts_with = "data", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub weight: Option<u32>,
    /// End of the last hour: 2026-03-01T12:00:00Z, or -1h
    #[arg(
        long,
        value_name = "TIME",
        default_value = "now",
        allow_hyphen_values = true,
        conflicts_with = "data"
    )]
    pub to: TimeArg,
    /// Name of stable's ReplicaSet in these hours [default: that of the Rollout in the cluster]
    #[arg(long, value_name = "NAME", conflicts_with = "data")]
    pub stable_pods: Option<String>,
    /// Log of requests instead of Prometheus, .csv or .csv.gz, see `requests convert`
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// With --data: the objective in percent, for example 99.9 [default: the log has used half of
    /// its error budget]
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["name", "file"])]
    pub objective: Option<f64>,
    /// With --data: scrape interval in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, conflicts_with_all = ["name", "file"], value_parser = clap::value_parser!(u32).range(1..=600))]
    pub scrape_seconds: u32,
    /// With --data: number of times that the requests are assigned to pods
    #[arg(long, value_name = "NUMBER", default_value_t = 100, conflicts_with_all = ["name", "file"], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub draws: u32,
    /// With --data: random seed; the same seed gives the same result
    #[arg(long, value_name = "NUMBER", default_value_t = 1, conflicts_with_all = ["name", "file"], value_parser = seed)]
    pub seed: u64,
    /// Machine-readable output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `requests`.
#[derive(Clone, Debug, Subcommand)]
pub enum RequestsTask {
    /// Convert access logs to a request log: time, client and route as numbers, and whether the
    /// request is bad. Addresses and paths are replaced at once; nothing is sent anywhere
    Convert(Box<ConvertArgs>),
}

/// `requests convert`.
#[derive(Args, Clone, Debug)]
pub struct ConvertArgs {
    /// Access logs in order of time, also compressed with gzip, or - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Format of the log [default: json if the first line starts with a brace, otherwise combined]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<LogFormat>,
    /// HTTP statuses of bad requests, for example 500-599 or 429,503
    #[arg(long, value_name = "STATUSES", default_value = "500-599")]
    pub bad_status: StatusRanges,
    /// Requests that take longer are bad, too, for example 500ms. In the combined format the
    /// duration is the last value of a line
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub slower_than: Option<Duration>,
    /// Unit of durations in the log
    #[arg(
        long,
        value_name = "UNIT",
        default_value = "s",
        requires = "slower_than"
    )]
    pub duration_unit: DurationUnit,
    /// JSON: field with the time; a dot leads into nested objects
    #[arg(long, value_name = "NAME", default_value = "time")]
    pub time_field: String,
    /// JSON: field with the HTTP status
    #[arg(long, value_name = "NAME", default_value = "status")]
    pub status_field: String,
    /// JSON: field with the address or name of the client
    #[arg(long, value_name = "NAME", default_value = "remote_addr")]
    pub client_field: String,
    /// JSON: field with the duration
    #[arg(long, value_name = "NAME", default_value = "request_time")]
    pub duration_field: String,
    /// JSON: field with the path or route; may be missing
    #[arg(long, value_name = "NAME", default_value = "request_uri")]
    pub route_field: String,
    /// Omit lines that are not requests instead of stopping at the first
    #[arg(long)]
    pub skip_invalid: bool,
    /// Write to this file instead of standard output, compressed if it ends in .gz
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the output file if it exists
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// Where a chart is written.
#[derive(Args, Clone, Debug, Default)]
pub struct SvgArgs {
    /// Also write the chart to this SVG file
    // The id differs from the `file` of other arguments.
    #[arg(id = "svg", long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Overwrite the SVG file if it exists
    #[arg(long, requires = "svg")]
    pub force: bool,
}

/// Machine-readable output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl RequestArgs {
    /// The command request for these arguments.
    pub fn command_request(&self, verb: CommandVerb) -> CommandRequest {
        CommandRequest {
            name: self.name.clone(),
            verb,
            reason: self.reason.clone(),
            revision: self.revision.clone(),
            step_index: self.step.map(|number| i32::from(number) - 1),
            timeout: (!self.no_wait).then_some(self.timeout),
            adopt_analysis: false,
            confirm_first: false,
        }
    }
}

impl OverrideArgs {
    /// The command request for these arguments.
    pub fn command_request(&self) -> CommandRequest {
        CommandRequest {
            adopt_analysis: self.adopt_analysis,
            ..self.request.command_request(CommandVerb::Override)
        }
    }
}

impl PromoteArgs {
    /// The command request for these arguments.
    pub fn command_request(&self) -> CommandRequest {
        let verb = if self.full {
            CommandVerb::PromoteFull
        } else {
            CommandVerb::Promote
        };
        CommandRequest {
            confirm_first: self.full && !self.yes,
            ..self.request.command_request(verb)
        }
    }
}
