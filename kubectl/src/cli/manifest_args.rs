//! Arguments of the commands that read manifests without a cluster.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

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

/// `lint`.
#[derive(Args, Clone, Debug)]
pub struct LintArgs {
    /// File or folder with manifests, or - for standard input; repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
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
}
