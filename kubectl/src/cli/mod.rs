//! Command lines of the three programs.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::options::GlobalOptions;

mod args;
mod manifest_args;

pub use args::{
    ConvertArgs, EvaluateArgs, ExplainArgs, Format, HttpHeader, ListArgs, OverrideArgs,
    PrometheusAccessArgs, PromoteArgs, ReplayArgs, RequestArgs, RequestsTask, SimulateArgs,
    StatusArgs, SvgArgs, header,
};
pub use manifest_args::{
    ConvertFormat, LintArgs, LintFormat, ManifestConvertArgs, RolloutRate, TrafficArgs,
};

const EXIT_CODES: &str = "Exit codes:
  0  done (with --until-done: the release ended healthy)
  1  refused by the API server or the controller (with --until-done: aborted)
  2  wrong arguments or input, or the Rollout does not exist
  3  no outcome within the timeout; the command remains in place
  4  the API server or Prometheus could not be reached or returned an error";

/// A parsed command line.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Options of every command.
    pub options: GlobalOptions,
    /// The command.
    pub task: Task,
}

/// `kubectl serin ...`
#[derive(Debug, Parser)]
#[command(name = "kubectl-serin", bin_name = "kubectl serin", version, about = "Inspect and control Serin canary rollouts", after_help = EXIT_CODES)]
struct SerinCli {
    #[command(flatten)]
    options: GlobalOptions,
    #[command(subcommand)]
    task: Task,
}

/// `kubectl promote NAME`
#[derive(Debug, Parser)]
#[command(name = "kubectl-promote", bin_name = "kubectl promote", version, about = PROMOTE, long_about = PROMOTE_LONG, after_help = EXIT_CODES)]
struct PromoteCli {
    #[command(flatten)]
    options: GlobalOptions,
    #[command(flatten)]
    promote: PromoteArgs,
}

/// `kubectl abort NAME`
#[derive(Debug, Parser)]
#[command(name = "kubectl-abort", bin_name = "kubectl abort", version, about = ABORT, long_about = ABORT_LONG, after_help = EXIT_CODES)]
struct AbortCli {
    #[command(flatten)]
    options: GlobalOptions,
    #[command(flatten)]
    abort: RequestArgs,
}

const PROMOTE: &str = "Continue a paused release, or with --full promote it to 100 %";
const PROMOTE_LONG: &str = "Continue a paused release, or with --full promote it to 100 % without its remaining \
steps. The command is bound to the current revision and step: the controller refuses it if either has changed. \
A breach of the objectives still aborts the release, also after --full.";
const ABORT: &str = "Move all traffic back to the stable revision";
const ABORT_LONG: &str = "Move all traffic back to the stable revision. Works at any time during a release, never \
asks for confirmation, and waits until the router confirms that the canary gets no traffic. The revision stays aborted \
until the next revision or `kubectl serin retry`.";

const SIMULATE_LONG: &str = "Estimate the outcome of a release before it is shipped, without a cluster. Simulates thousands of releases with the \
steps or the pace of a Rollout and the controller's decision rule. Reports the probabilities of promotion, rollback and \
no decision, the time that each takes, and the excess errors of the canary over stable.";
const REPLAY_LONG: &str = "Report what Serin would have done with the metrics recorded in Prometheus, for example during an incident or for the \
releases of the last month. Analyzes the samples as they were available at each time with the code of the controller, and compares the \
result with the fixed rules of other controllers. The Rollout's objectives distinguish the sides. The canary's weights are measured from \
the recorded requests unless --step-weights is given.";

const CONVERT_LONG: &str = "Convert manifests of Argo Rollouts, Flagger, OpenKruise, Deployments and canary Ingresses, without a cluster. Prints \
all objects as YAML: those that change, and those that stay. The comments above each object say what changed in meaning or was lost, \
with the field and what to do. For objects in a cluster: kubectl get rollouts.argoproj.io,analysistemplates,services -o yaml | kubectl \
serin convert -f -. Exit code 1: something was not converted.";
const LINT_LONG: &str = "Check manifests as the API server and the controller do, without a cluster: schema and unknown fields, validation \
rules, the plan, and the names of Services, HTTPRoutes and Deployments in the same files. With --rps also whether the traffic can prove \
the objectives. Exit code 1: an error was found.";

/// The command.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Show revisions, pods, traffic, steps, evidence and what a release is waiting for
    Status(StatusArgs),
    /// List Rollouts
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Same as `kubectl promote`
    #[command(about = PROMOTE, long_about = PROMOTE_LONG)]
    Promote(PromoteArgs),
    /// Same as `kubectl abort`
    #[command(about = ABORT, long_about = ABORT_LONG)]
    Abort(RequestArgs),
    /// Start an aborted revision again from its first step
    Retry(RequestArgs),
    /// Stop a release from advancing until it is resumed; abort and rollback still work
    Pause(RequestArgs),
    /// Undo a pause or give-back
    Resume(RequestArgs),
    /// Continue with the next step, whatever the current step is waiting for
    SkipStep(RequestArgs),
    /// Let the current revision continue although the service has no error budget left; evidence
    /// against it still rolls it back
    Override(OverrideArgs),
    /// Give the pods to a Deployment without a restart; the Deployment is created if it does not
    /// exist
    GiveBack(RequestArgs),
    /// Explain the state of a release: counts, comparison, missing evidence, guarantees
    Explain(ExplainArgs),
    /// Estimate the outcome of a release before it is shipped, without a cluster
    #[command(long_about = SIMULATE_LONG)]
    Simulate(SimulateArgs),
    /// Report what Serin would have done with the metrics recorded in Prometheus
    #[command(long_about = REPLAY_LONG)]
    Replay(Box<ReplayArgs>),
    /// Analyze counters from standard input without a cluster: one JSON object per line in and out
    Evaluate(EvaluateArgs),
    /// Convert manifests of Argo Rollouts, Flagger, OpenKruise, Deployments and canary Ingresses,
    /// without a cluster
    #[command(long_about = CONVERT_LONG)]
    Convert(Box<ManifestConvertArgs>),
    /// Check manifests as the API server and the controller do, without a cluster
    #[command(long_about = LINT_LONG)]
    Lint(LintArgs),
    /// Prepare logs of real requests for tests of the decision rule, without a cluster
    Requests {
        /// The subcommand.
        #[command(subcommand)]
        task: RequestsTask,
    },
}

/// The command line of `kubectl serin`, for the reference.
pub fn command() -> clap::Command {
    SerinCli::command()
}

/// Parses the arguments for the program `name`.
///
/// # Errors
/// Returns help, the version or a usage error, as printed by clap.
pub fn parse(name: &str, arguments: Vec<OsString>) -> Result<Invocation, clap::Error> {
    match name {
        "kubectl-promote" => {
            let cli: PromoteCli = parse_args(arguments)?;
            Ok(Invocation {
                options: cli.options,
                task: Task::Promote(cli.promote),
            })
        }
        "kubectl-abort" => {
            let cli: AbortCli = parse_args(arguments)?;
            Ok(Invocation {
                options: cli.options,
                task: Task::Abort(cli.abort),
            })
        }
        _ => {
            let cli: SerinCli = parse_args(arguments)?;
            Ok(Invocation {
                options: cli.options,
                task: cli.task,
            })
        }
    }
}

/// Same as `Parser::try_parse_from`, but keeps `bin_name`: users type `kubectl serin`, not the name
/// of the file.
fn parse_args<T: CommandFactory + FromArgMatches>(
    arguments: Vec<OsString>,
) -> Result<T, clap::Error> {
    let mut command = T::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
mod tests;
