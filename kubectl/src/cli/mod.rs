//! Command lines of the three programs.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::options::GlobalOptions;

mod args;
mod manifest_args;
mod template_args;

pub use args::{
    ConvertArgs, ExplainArgs, Format, HttpHeader, ListArgs, OverrideArgs, PlaceboArgs,
    PrometheusAccessArgs, PromoteArgs, ReplayArgs, RequestArgs, RequestsTask, SimulateArgs,
    StatusArgs, SvgArgs, VerdictArgs, header,
};
pub use manifest_args::{
    AuditArgs, AuditFormat, ConvertFormat, EffectiveArgs, EvaluateArgs, LintArgs, LintFormat,
    ManifestConvertArgs, RolloutRate, TrafficArgs,
};
pub use template_args::{
    CompleteArgs, CompletionArgs, ContainerImage, HistoryArgs, PluginProgram, SetImageArgs,
    SetTask, UndoArgs,
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

const VERDICT_LONG: &str = "Report the verdict on a release, for pipelines and other controllers. Exit code 0: the revision was promoted. \
1: it was rolled back. 3: undecided, also when --timeout has passed. For a Rollout with spec.mode Observe, the verdict is what Serin would \
have done. With --wait, returns when there is a verdict.";

const SIMULATE_LONG: &str = "Estimate the outcome of a release before it is shipped, without a cluster. Simulates thousands of releases with the \
steps or the pace of a Rollout and the controller's decision rule. Reports the probabilities of promotion, rollback and \
no decision, the time that each takes, and the excess errors of the canary over stable.";
const REPLAY_LONG: &str = "Report what Serin would have done with the metrics recorded in Prometheus, for example during an incident or for the \
releases of the last month. Analyzes the samples as they were available at each time with the code of the controller, and compares the \
result with the fixed rules of other controllers. The Rollout's objectives distinguish the sides. The canary's weights are measured from \
the recorded requests unless --step-weights is given.";

const PLACEBO_LONG: &str = "Apply the controller's rule to each of stable's pods in turn, as if it were the canary, in each of the \
last hours. All pods run the same version, so each rollback is a false one. With metrics in Prometheus that count each pod, or with --data \
on a log of requests, as written by `kubectl serin requests convert`, which are assigned to four pods in several ways. If the bound on \
false rollbacks holds, at most 1 in 100 of these placebo releases is rolled back.";

const CONVERT_LONG: &str = "Convert manifests of Argo Rollouts, Flagger, OpenKruise, Deployments and canary Ingresses, without a cluster. Prints \
all objects as YAML: those that change, and those that stay. The comments above each object say what changed in meaning or was lost, \
with the field and what to do. For objects in a cluster: kubectl get rollouts.argoproj.io,analysistemplates,services -o yaml | kubectl \
serin convert -f -. Exit code 1: something was not converted.";
const UNDO_LONG: &str = "Set the pod template of an earlier revision again, in the Rollout or, with workloadRef, in its Deployment. \
During a release and after an abort, the default is the stable revision. Otherwise it is the revision that was promoted before the current \
one, which is released as usual; within spec.rollbackWindow, without the steps.";
const COMPLETION_LONG: &str = "Print the program with which kubectl completes the words of this plugin, in every shell that `kubectl \
completion` supports. Write it to a folder of PATH as kubectl_complete-serin, and make it executable: kubectl serin completion > \
~/.local/bin/kubectl_complete-serin && chmod +x ~/.local/bin/kubectl_complete-serin";
const EFFECTIVE_LONG: &str = "Show the strategy, the analysis, the deadlines and the guardrails that the next release of a Rollout has, and \
where each value comes from: the Rollout, a RolloutPolicy, an AnalysisTemplate or the built-in defaults. Reads the cluster, or with -f and \
--policy only files. A release in progress keeps what it began with. Exit code 1: the spec cannot be resolved.";
const LINT_LONG: &str = "Check manifests as the API server and the controller do, without a cluster: schema and unknown fields, validation \
rules, the plan, and the names of Services, HTTPRoutes and Deployments in the same files. With --rps also whether the traffic can prove \
the objectives, and with --policy whether the releases meet the guardrails, as far as the files show it. Exit code 1: an error was found.";
const AUDIT_LONG: &str = "Report which Rollouts meet the guardrails of their RolloutPolicies, row by row, with the share that passes each \
of them. Workloads that no policy has guardrails for are compared with those that the chart of Serin ships. Reads the cluster, or with -f \
manifests, and changes nothing.";

/// The command.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Show revisions, pods, traffic, steps, evidence and what a release is waiting for
    Status(StatusArgs),
    /// Report the verdict on a release: exit code 0 promoted, 1 rolled back, 3 undecided
    #[command(long_about = VERDICT_LONG)]
    Verdict(VerdictArgs),
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
    /// Replace the pods of the stable revision without a release, within maxSurge, maxUnavailable
    /// and disruption budgets
    Restart(RequestArgs),
    /// List the revisions of a Rollout, or show what a return to one of them changes
    History(HistoryArgs),
    /// Set the pod template of an earlier revision again
    #[command(long_about = UNDO_LONG)]
    Undo(UndoArgs),
    /// Change a field of the pod template
    Set {
        /// The subcommand.
        #[command(subcommand)]
        task: SetTask,
    },
    /// Explain the state of a release: counts, comparison, missing evidence, guarantees
    Explain(ExplainArgs),
    /// Estimate the outcome of a release before it is shipped, without a cluster
    #[command(long_about = SIMULATE_LONG)]
    Simulate(SimulateArgs),
    /// Report what Serin would have done with the metrics recorded in Prometheus
    #[command(long_about = REPLAY_LONG)]
    Replay(Box<ReplayArgs>),
    /// Apply the rule to the service's own pods: how often would they have been rolled back?
    #[command(long_about = PLACEBO_LONG)]
    Placebo(Box<PlaceboArgs>),
    /// Analyze counters from standard input without a cluster: one JSON object per line in and out
    Evaluate(EvaluateArgs),
    /// Convert manifests of Argo Rollouts, Flagger, OpenKruise, Deployments and canary Ingresses,
    /// without a cluster
    #[command(long_about = CONVERT_LONG)]
    Convert(Box<ManifestConvertArgs>),
    /// Show the effective spec of a Rollout, and where each value comes from
    #[command(long_about = EFFECTIVE_LONG)]
    Effective(EffectiveArgs),
    /// Check manifests as the API server and the controller do, without a cluster
    #[command(long_about = LINT_LONG)]
    Lint(LintArgs),
    /// Report which Rollouts and Deployments meet the guardrails of the platform
    #[command(long_about = AUDIT_LONG)]
    Audit(AuditArgs),
    /// Prepare logs of real requests for tests of the decision rule, without a cluster
    Requests {
        /// The subcommand.
        #[command(subcommand)]
        task: RequestsTask,
    },
    /// Print the program with which kubectl completes the words of this plugin
    #[command(long_about = COMPLETION_LONG)]
    Completion(CompletionArgs),
    /// Print candidates for the last word
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete(CompleteArgs),
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
