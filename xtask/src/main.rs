//! Developer commands; each calls the crate that does the work.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::cluster::ClusterCommand;

/// Serin's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The local cluster: real pods, a real gateway, no container engine.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Writes what is generated from the types: the CustomResourceDefinitions, also those of the chart.
    Codegen {
        /// Only compare, and fail where a file is out of date.
        #[arg(long)]
        check: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Cluster(command) => commands::cluster::run(command).await,
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
