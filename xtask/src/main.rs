//! Developer commands; each calls the crate that does the work.

mod commands;
mod suite;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::bench::BenchCommand;
use commands::cluster::ClusterCommand;
use commands::demo::DemoArguments;
use commands::lint::LintCommand;
use commands::release::ReleaseArguments;
use commands::soak::{SoakArguments, VerdictsArguments};
use commands::test::TestArguments;

/// Serin's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Deploy three releases on a real cluster under load: one becomes stable, one is rolled back,
    /// one is promoted.
    Demo(DemoArguments),
    /// Run all checks: format, words, lints, tests, the cases on a real cluster, the demo.
    Test(TestArguments),
    /// Run dozens of promotions, rollbacks and aborts under load, and report how long they took.
    Soak(SoakArguments),
    /// Run good releases and releases that fail ten times as often, and report how each ended and
    /// what it spent.
    Verdicts(VerdictsArguments),
    /// Manage the local cluster: real pods, a real gateway, no container engine.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Run benchmarks and write the results into docs/.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Generate the CustomResourceDefinitions from the Rust types, for `crds/yaml` and for the
    /// chart.
    Codegen {
        /// Only compare, and fail if a file is out of date.
        #[arg(long)]
        check: bool,
    },
    /// Build everything that users install: image, chart, manifest, plugin, checksums.
    Release(ReleaseArguments),
    /// Check the wording of source files, pages and manifests.
    #[command(subcommand)]
    Lint(LintCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => commands::demo::run(arguments).await,
        Command::Soak(arguments) => commands::soak::run(arguments).await,
        Command::Verdicts(arguments) => commands::soak::run_verdicts(arguments).await,
        Command::Test(arguments) => match commands::test::run(arguments).await {
            // The failures are printed already; the last line of the output is the count.
            Ok(false) => return ExitCode::FAILURE,
            other => other.map(drop),
        },
        Command::Cluster(command) => commands::cluster::run(command).await,
        Command::Bench(command) => commands::bench::run(command).await,
        Command::Codegen { check } => commands::codegen::run(check),
        Command::Release(arguments) => commands::release::run(arguments).await,
        Command::Lint(command) => commands::lint::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
