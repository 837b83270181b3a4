//! Developer commands; each calls the crate that does the work.

mod commands;
mod suite;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::bench::BenchCommand;
use commands::cluster::ClusterCommand;
use commands::demo::DemoArguments;
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
    /// Watch a real cluster ship three releases under load: one stable, one rolled back, one
    /// promoted.
    Demo(DemoArguments),
    /// Run all checks: format, lints, tests, the cases on a real cluster, the demo.
    Test(TestArguments),
    /// Count promotions, rollbacks and aborts under load by the dozen, and tell the times they
    /// took.
    Soak(SoakArguments),
    /// Judge good releases and such that fail ten times as often, and tell how each ended and what
    /// it spent.
    Verdicts(VerdictsArguments),
    /// The local cluster: real pods, a real gateway, no container engine.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Measure, and write the figures into docs/.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Writes what is generated from the types: the CustomResourceDefinitions, also those of the
    /// chart.
    Codegen {
        /// Only compare, and fail where a file is out of date.
        #[arg(long)]
        check: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => commands::demo::run(arguments).await,
        Command::Soak(arguments) => commands::soak::run(arguments).await,
        Command::Verdicts(arguments) => commands::soak::run_verdicts(arguments).await,
        Command::Test(arguments) => match commands::test::run(arguments).await {
            // It has told what failed; its last line is the count.
            Ok(false) => return ExitCode::FAILURE,
            other => other.map(drop),
        },
        Command::Cluster(command) => commands::cluster::run(command).await,
        Command::Bench(command) => commands::bench::run(command).await,
        Command::Codegen { check } => commands::codegen::run(check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
