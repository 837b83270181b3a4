//! Arguments of the commands that read manifests without a cluster.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::args::{Format, SvgArgs};
use crate::values::{ErrorRate, requests_per_second};

/// `convert`.
#[derive(Args, Clone, Debug)]
pub struct ManifestConvertArgs {
    /// File or folder with manifests, or - for standard input; repeatable
    #[arg(
        short = 'f',
        long = "file",
        value_name = "FILE",
        required_unless_present = "from_cluster"
    )]
    pub files: Vec<PathBuf>,
    /// Object to read from the cluster, for example rollout.argoproj.io/checkout; repeatable
    #[arg(long, value_name = "KIND/NAME")]
    pub from_cluster: Vec<String>,
    /// Give a Deployment's Rollout its own template, instead of a reference to the Deployment
    #[arg(long)]
    pub inline: bool,
    /// Gateway that carries the traffic from now on; replaces routers that Serin does not write by
    /// HTTPRoutes
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub gateway: Option<String>,
    /// Source of the counters of objectives: traefik, istio, linkerd, nginx or pod
    #[arg(long, value_name = "NAME")]
    pub indicator: Option<String>,
    /// Print how much of the input converts, instead of the objects
    #[arg(long)]
    pub report: bool,
    /// Traffic of services, for the report.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Output format of the objects, or of the report
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    pub output: ConvertFormat,
}

/// `evaluate`.
#[derive(Args, Clone, Debug)]
pub struct EvaluateArgs {
    /// Configuration of the rule in YAML or JSON [default: that of the controller]
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub config: Option<PathBuf>,
    /// YAML file with a Rollout whose objective configures the rule
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// File or folder with RolloutPolicies, AnalysisTemplates and Namespaces, in addition to those in
    /// the file with the Rollout; repeatable
    #[arg(long = "policy", value_name = "FILE", requires = "file")]
    pub policies: Vec<PathBuf>,
    /// The objective that configures the rule [default: the first]
    #[arg(long, value_name = "NAME", requires = "file")]
    pub objective: Option<String>,
    /// At the end, draw the evidence over time on standard error
    #[arg(long)]
    pub chart: bool,
    /// At the end, write the chart to a file.
    #[command(flatten)]
    pub svg: SvgArgs,
}

/// `effective`.
#[derive(Args, Clone, Debug)]
pub struct EffectiveArgs {
    /// The Rollout in the cluster. Cannot be combined with -f
    #[arg(
        value_name = "NAME",
        required_unless_present = "files",
        conflicts_with = "files"
    )]
    pub name: Option<String>,
    /// File or folder with manifests, or - for standard input, instead of the cluster; repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// File or folder with RolloutPolicies, AnalysisTemplates and Namespaces [default: those of the
    /// cluster, or of -f]; repeatable
    #[arg(long = "policy", value_name = "FILE")]
    pub policies: Vec<PathBuf>,
    /// Machine-readable output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `lint`.
#[derive(Args, Clone, Debug)]
pub struct LintArgs {
    /// File or folder with manifests, or - for standard input; repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// File or folder with RolloutPolicies whose guardrails apply, in addition to those in the
    /// checked files; repeatable
    #[arg(long = "policy", value_name = "FILE")]
    pub policies: Vec<PathBuf>,
    /// Treat warnings as errors
    #[arg(long)]
    pub strict: bool,
    /// Traffic of services.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: LintFormat,
}

/// `audit`.
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// Audit all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Audit Deployments, too
    #[arg(long)]
    pub deployments: bool,
    /// File or folder with RolloutPolicies that apply instead of those in the cluster; repeatable
    #[arg(long = "policy", value_name = "FILE")]
    pub policies: Vec<PathBuf>,
    /// File or folder with manifests to audit instead of the cluster, or - for standard input;
    /// repeatable
    #[arg(
        short = 'f',
        long = "file",
        value_name = "FILE",
        conflicts_with = "all_namespaces"
    )]
    pub files: Vec<PathBuf>,
    /// Exit with code 1 if a release would be held
    #[arg(long)]
    pub strict: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: AuditFormat,
}

/// Traffic that is known for services.
#[derive(Args, Clone, Debug, Default)]
pub struct TrafficArgs {
    /// Requests per second of a Rollout; reports objectives that this traffic cannot prove in time;
    /// repeatable
    #[arg(long = "rps", value_name = "NAME=NUMBER")]
    pub rates: Vec<RolloutRate>,
    /// Error rate of stable, for --rps, for example 0.05%
    #[arg(long, value_name = "PERCENT", requires = "rates")]
    pub error_rate: Option<ErrorRate>,
}

/// Requests per second of one Rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutRate {
    /// Name of the Rollout.
    pub name: String,
    /// Requests per second.
    pub per_second: f64,
}

impl FromStr for RolloutRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rate) = text
            .split_once('=')
            .ok_or_else(|| "write for example checkout=25".to_owned())?;
        Ok(Self {
            name: name.to_owned(),
            per_second: requests_per_second(rate)?,
        })
    }
}

/// Output format of `convert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConvertFormat {
    /// YAML documents with the notes as comments
    Yaml,
    /// One JSON object with the objects and the notes
    Json,
}

/// Output format of `lint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LintFormat {
    /// One line for each finding
    Text,
    /// A JSON array of findings
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// JUnit XML, for the test results of a pipeline
    Junit,
}

/// Output format of `audit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditFormat {
    /// A table for a terminal
    Table,
    /// One JSON object
    Json,
    /// A page of its own
    Html,
}
