//! The arguments, by each of the program's names.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serin_crds::command::CommandVerb;

use crate::options::GlobalOptions;
use crate::values::{ErrorRate, Moment, StepWeight, address, duration, requests_per_second, seed};
use crate::wish::Wish;

const EXIT_CODES: &str = "Exit codes:
  0  done (with --until-done: the release ended healthy)
  1  refused, by the API server or the controller (with --until-done: aborted)
  2  wrong arguments or input, or no such Rollout
  3  no outcome in time; the request stands
  4  the API server, or the Prometheus that was named, could not be reached or answered with an error";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Where, and how it shall look.
    pub options: GlobalOptions,
    /// What.
    pub task: Task,
}

/// `kubectl serin ...`
#[derive(Debug, Parser)]
#[command(name = "kubectl-serin", bin_name = "kubectl serin", version, about = "See and steer Serin's canary rollouts", after_help = EXIT_CODES)]
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

const PROMOTE: &str = "Let a release go on from the pause it is in, or with --full to 100 %";
const PROMOTE_LONG: &str = "Let a release go on from the pause it is in, or with --full to 100 % without its remaining \
steps. The request is bound to the revision and step at hand: should either have changed when the controller sees it, \
it is refused. A breach of the objectives still aborts, also after --full.";
const ABORT: &str = "Take all traffic off the canary and keep the stable revision";
const ABORT_LONG: &str = "Take all traffic off the canary and keep the stable revision. Works in every state, never \
asks back, and waits until the router has been seen to send the canary nothing. The aborted revision stays aborted \
until the next one, or `kubectl serin retry`.";

const SIMULATE_LONG: &str = "Tell the odds of a release before it is shipped, without a cluster: thousands of releases are simulated with \
the steps or the pace of a Rollout and decided by the rule that the controller runs. What comes out are the odds of promotion, rollback and \
an undecided end, the time that each takes, and the errors that the canary makes beyond those that stable would have made.";
const REPLAY_LONG: &str = "Tell what Serin would have done with what a Prometheus has recorded: in an incident, or with the releases of last \
month. The record is judged by the code that the controller runs, as it was visible at each moment, and compared with fixed rules as other \
controllers have them. The sides are told apart as the Rollout's objectives say. The canary's share is read off the recorded requests unless \
it is given.";

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Show a release: revisions, pods, traffic, steps, evidence, and what it waits for
    Status(StatusArgs),
    /// List Rollouts
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// As `kubectl promote`
    #[command(about = PROMOTE, long_about = PROMOTE_LONG)]
    Promote(PromoteArgs),
    /// As `kubectl abort`
    #[command(about = ABORT, long_about = ABORT_LONG)]
    Abort(RequestArgs),
    /// Start an aborted revision again from its first step
    Retry(RequestArgs),
    /// Let nothing advance until resumed; an abort still works, and so does a rollback
    Pause(RequestArgs),
    /// Undo a pause
    Resume(RequestArgs),
    /// Go on from the step at hand, whatever it waits for
    SkipStep(RequestArgs),
    /// Let the current revision go on although the service has no errors to spend; evidence against
    /// it still rolls it back
    #[command(mut_arg("reason", |reason| reason.required(true)))]
    Override(RequestArgs),
    /// Explain why a release is where it is: what was counted, what is still needed, what is
    /// certain
    Explain(ExplainArgs),
    /// Tell the odds of a release before it is shipped, without a cluster
    #[command(long_about = SIMULATE_LONG)]
    Simulate(SimulateArgs),
    /// Tell what Serin would have done with what a Prometheus has recorded
    #[command(long_about = REPLAY_LONG)]
    Replay(Box<ReplayArgs>),
    /// Judge counters from standard input, without a cluster: one JSON object a line in, one out
    Evaluate(EvaluateArgs),
}

/// A request to the controller.
#[derive(Args, Clone, Debug)]
pub struct RequestArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only if this is the current revision [default: the one that is current now]
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Only at this step, counted from 1 as `status` shows it [default: the step at hand, for
    /// promote and skip-step]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    pub step: Option<u16>,
    /// How long to wait for the outcome, for example 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Leave as soon as the API server has taken the request
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
}

/// `promote`.
#[derive(Args, Clone, Debug)]
pub struct PromoteArgs {
    #[command(flatten)]
    request: RequestArgs,
    /// Go to 100 % without the remaining steps
    #[arg(long)]
    full: bool,
    /// Do not ask back before --full skips steps (asked only on a terminal)
    #[arg(short, long)]
    yes: bool,
}

/// `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Keep showing it: live on a terminal, else a line for each change
    #[arg(short, long)]
    pub watch: bool,
    /// With --watch: end when the release is healthy (exit code 0) or aborted (1)
    #[arg(long, requires = "watch")]
    pub until_done: bool,
    /// With --until-done: how long to wait at most, for example 30m
    #[arg(long, requires = "until_done", value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// For programs, instead of text
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "watch")]
    pub output: Option<Format>,
}

/// `list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// What a Prometheus is asked with.
#[derive(Args, Clone, Debug, Default)]
pub struct AccessArgs {
    /// A file with a bearer token for the Prometheus
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub bearer_token_file: Option<PathBuf>,
    /// A header for the Prometheus, for example 'X-Scope-OrgID: shop'; once for each
    #[arg(long = "header", value_name = "NAME: VALUE", requires = "prometheus", value_parser = header)]
    pub headers: Vec<Header>,
    /// A file with the authorities, as PEM, that alone may have signed the Prometheus' certificate
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub ca_file: Option<PathBuf>,
}

/// A header that is sent.
#[derive(Clone)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value, which may be a secret.
    pub value: String,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ..", self.name)
    }
}

fn header(text: &str) -> Result<Header, String> {
    let header = text.split_once(':').map(|(name, value)| Header {
        name: name.trim().into(),
        value: value.trim().into(),
    });
    let header = header.filter(|header| !header.name.is_empty() && !header.value.is_empty());
    header.ok_or_else(|| "it is no header; write for example 'X-Scope-OrgID: shop'".to_owned())
}

/// `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The Rollout
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Also the numbers: E, bounds, tolerances, the temper, and what the guarantee stands on
    #[arg(long)]
    pub all: bool,
    /// Draw the evidence over time, read anew from the Prometheus at this address
    #[arg(long, value_name = "URL", value_parser = address)]
    pub prometheus: Option<String>,
    /// What the Prometheus is asked with.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Write the drawing to this file, too
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub svg: Option<PathBuf>,
}

/// `simulate`.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// The YAML file with the Rollout, or - for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// Requests per second of the whole service
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = requests_per_second)]
    pub rps: f64,
    /// How often stable fails, for example 0.05%
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub error_rate: ErrorRate,
    /// How often the canary fails, for example 0.5%
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub canary_error_rate: ErrorRate,
    /// The objective that judges, where there are several [default: the first]
    #[arg(long, value_name = "NAME")]
    pub objective: Option<String>,
    /// How long a person takes to promote at a pause without a duration
    #[arg(long, value_name = "DURATION", default_value = "0s", allow_hyphen_values = true, value_parser = duration)]
    pub person_after: Duration,
    /// How many releases to simulate
    #[arg(long, value_name = "NUMBER", default_value_t = 2_000, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub runs: u32,
    /// The same seed gives the same releases
    #[arg(long, value_name = "NUMBER", default_value_t = 1, allow_negative_numbers = true, value_parser = seed)]
    pub seed: u64,
    /// Write the chart to this file, too
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// `replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// The Rollout in the cluster; with -f none is asked
    #[arg(
        value_name = "NAME",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    pub name: Option<String>,
    /// The YAML file with the Rollout, or - for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The address of the Prometheus that has the record
    #[arg(long, value_name = "URL", value_parser = address)]
    pub prometheus: String,
    /// What it is asked with.
    #[command(flatten)]
    pub access: AccessArgs,
    /// From when: 2026-03-01T10:00:00Z, or -2h
    #[arg(
        long,
        value_name = "TIME",
        allow_hyphen_values = true,
        required_unless_present = "releases"
    )]
    pub from: Option<Moment>,
    /// Until when: 2026-03-01T12:00:00Z, or -1h
    #[arg(
        long,
        value_name = "TIME",
        default_value = "now",
        allow_hyphen_values = true
    )]
    pub to: Moment,
    /// A file with the times of each release instead, a line each: {"name": "v7", "from": "...",
    /// "to": "..."}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
    pub releases: Option<PathBuf>,
    /// Without requests to the canary for so long, a release is over
    #[arg(long, value_name = "DURATION", default_value = "10m", allow_hyphen_values = true, value_parser = duration)]
    pub quiet: Duration,
    /// The stable side: its Service, or its value of the label that tells the sides [default: as
    /// the Rollout says]
    #[arg(long, value_name = "VALUE")]
    pub stable: Option<String>,
    /// The canary side, likewise
    #[arg(long, value_name = "VALUE")]
    pub canary: Option<String>,
    /// The name of stable's ReplicaSet then: where pods tell the sides, or to know how old they
    /// were
    #[arg(long, value_name = "NAME")]
    pub stable_pods: Option<String>,
    /// Likewise of the canary's
    #[arg(long, value_name = "NAME")]
    pub canary_pods: Option<String>,
    /// The canary's share, from a time after its first request on: 0s=5,10m=20,20m=50 [default: as
    /// the requests show it]
    #[arg(long, value_name = "TIME=PERCENT", value_delimiter = ',')]
    pub step_weights: Vec<StepWeight>,
    /// Tell each of several releases in full
    #[arg(long)]
    pub all: bool,
    /// For programs, instead of text
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "all")]
    pub output: Option<Format>,
    /// Write the chart of the last release to this file, too
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// `evaluate`.
#[derive(Args, Clone, Debug)]
pub struct EvaluateArgs {
    /// The rule's configuration in YAML or JSON [default: that of the controller]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// At the end, draw the evidence over time on standard error
    #[arg(long)]
    pub chart: bool,
    /// At the end, write the drawing to this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// An output format for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl RequestArgs {
    /// The request that these arguments stand for.
    pub fn wish(&self, verb: CommandVerb) -> Wish {
        Wish {
            name: self.name.clone(),
            verb,
            reason: self.reason.clone(),
            revision: self.revision.clone(),
            step_index: self.step.map(|number| i32::from(number) - 1),
            timeout: (!self.no_wait).then_some(self.timeout),
            ask_first: false,
        }
    }
}

impl PromoteArgs {
    /// The request that these arguments stand for.
    pub fn wish(&self) -> Wish {
        let verb = if self.full {
            CommandVerb::PromoteFull
        } else {
            CommandVerb::Promote
        };
        Wish {
            ask_first: self.full && !self.yes,
            ..self.request.wish(verb)
        }
    }
}

/// Reads the arguments as the program of that name.
///
/// # Errors
/// Help, the version, or what is wrong with the arguments: as clap prints it.
pub fn parse(name: &str, arguments: Vec<OsString>) -> Result<Invocation, clap::Error> {
    match name {
        "kubectl-promote" => {
            let cli: PromoteCli = read(arguments)?;
            Ok(Invocation {
                options: cli.options,
                task: Task::Promote(cli.promote),
            })
        }
        "kubectl-abort" => {
            let cli: AbortCli = read(arguments)?;
            Ok(Invocation {
                options: cli.options,
                task: Task::Abort(cli.abort),
            })
        }
        _ => {
            let cli: SerinCli = read(arguments)?;
            Ok(Invocation {
                options: cli.options,
                task: cli.task,
            })
        }
    }
}

/// As `Parser::try_parse_from`, but `bin_name` is not replaced by the file's name: people type
/// `kubectl serin`.
fn read<T: CommandFactory + FromArgMatches>(arguments: Vec<OsString>) -> Result<T, clap::Error> {
    let mut command = T::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, clap::Error> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let name = line.split(' ').next().unwrap();
        parse(name, arguments)
    }

    fn promote(line: &str) -> Wish {
        match parsed(line).unwrap().task {
            Task::Promote(promote) => promote.wish(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        SerinCli::command().debug_assert();
        PromoteCli::command().debug_assert();
        AbortCli::command().debug_assert();
    }

    #[test]
    fn the_name_decides_what_it_does() {
        assert!(matches!(
            parsed("kubectl-abort checkout").unwrap().task,
            Task::Abort(_)
        ));
        assert!(matches!(
            parsed("kubectl-serin abort checkout").unwrap().task,
            Task::Abort(_)
        ));
        assert_eq!(
            promote("kubectl-promote checkout").verb,
            CommandVerb::Promote
        );
        assert_eq!(
            promote("kubectl-serin promote checkout --full").verb,
            CommandVerb::PromoteFull
        );
    }

    #[test]
    fn flags_stand_before_or_after_the_verb() {
        for line in [
            "kubectl-serin -n shop abort checkout",
            "kubectl-serin abort checkout --namespace shop",
        ] {
            assert_eq!(
                parsed(line).unwrap().options.namespace.as_deref(),
                Some("shop")
            );
        }
    }

    #[test]
    fn a_step_is_counted_from_one_as_it_is_shown() {
        assert_eq!(
            promote("kubectl-promote checkout --step 3").step_index,
            Some(2)
        );
        assert!(parsed("kubectl-promote checkout --step 0").is_err());
    }

    #[test]
    fn a_negative_number_is_refused_by_the_name_of_its_option() {
        let simulate =
            "kubectl-serin simulate -f r.yaml --rps 100 --error-rate 0% --canary-error-rate 1%";
        let replay = "kubectl-serin replay -f r.yaml --prometheus http://localhost:9090 --from -1h";
        for (line, option) in [
            (simulate.replace("100", "-1"), "--rps"),
            (simulate.replace("0%", "-1%"), "--error-rate"),
            (simulate.replace(" 1%", " -1%"), "--canary-error-rate"),
            (format!("{simulate} --person-after -5s"), "--person-after"),
            (format!("{simulate} --runs -1"), "--runs"),
            (format!("{simulate} --seed -1"), "--seed"),
            (format!("{replay} --quiet -1m"), "--quiet"),
        ] {
            let error = parsed(&line).unwrap_err().to_string();
            assert!(
                error.contains("invalid value '-") && error.contains(option),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn only_a_full_promotion_asks_back() {
        assert!(promote("kubectl-promote checkout --full").ask_first);
        assert!(!promote("kubectl-promote checkout --full -y").ask_first);
        assert!(!promote("kubectl-promote checkout").ask_first);
    }

    #[test]
    fn a_timeout_has_a_unit() {
        assert_eq!(
            promote("kubectl-promote checkout --timeout 1m30s").timeout,
            Some(Duration::from_secs(90))
        );
        assert_eq!(promote("kubectl-promote checkout --no-wait").timeout, None);
        assert!(parsed("kubectl-promote checkout --timeout 30").is_err());
        assert!(parsed("kubectl-promote checkout --timeout -5s").is_err());
    }
}
