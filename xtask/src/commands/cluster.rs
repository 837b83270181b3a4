//! `cargo xtask cluster`.

use std::io::{ErrorKind, Write as _};
use std::time::Instant;

use anyhow::Result;
use clap::Subcommand;
use comfy_table::{Table, presets};
use serin_cluster::{Cluster, Instance, Progress, State, Status};

/// What to do with the cluster of this checkout.
#[derive(Subcommand)]
pub(crate) enum ClusterCommand {
    /// Start it; builds its programs first where they are not in the cache.
    Up,
    /// End it and remove everything of it but the cache.
    Down,
    /// Print what a shell needs: `eval "$(cargo xtask cluster env)"`.
    Env,
    /// Print how each component is.
    Status,
}

/// Carries out one command.
pub(crate) async fn run(command: ClusterCommand) -> Result<()> {
    let instance = Instance::containing(&std::env::current_dir()?)?;
    match command {
        ClusterCommand::Up => up(instance).await,
        ClusterCommand::Down => Cluster::down(&instance, Progress::detect()).await,
        ClusterCommand::Env => {
            let env = Cluster::attach(&instance)?.env();
            let line =
                |(name, value): &(String, String)| format!("export {name}={}\n", quoted(value));
            print(&env.iter().map(line).collect::<String>())
        }
        ClusterCommand::Status => {
            let status = Cluster::attach(&instance)?.status().await?;
            print(&format!("{}\n", table(&status)))
        }
    }
}

async fn up(instance: Instance) -> Result<()> {
    let began = Instant::now();
    let cluster = Cluster::up(instance, Progress::detect()).await?;
    eprintln!(
        "The cluster is up ({:.1} s).",
        began.elapsed().as_secs_f64()
    );
    eprintln!("  gateway     {}", cluster.gateway_url());
    eprintln!("  Prometheus  {}", cluster.prometheus_url());
    eprintln!("  to use it:  eval \"$(cargo xtask cluster env)\"");
    Ok(())
}

/// Prints an answer; a reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn table(status: &[Status]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["COMPONENT", "PID", "STATE", "ADDRESS", "LOG"]);
    for one in status {
        let process = one
            .process_id
            .map_or_else(|| "-".into(), |id| id.to_string());
        let state = match one.state {
            State::Healthy => "healthy",
            State::Unhealthy => "unhealthy",
            State::Suspended => "suspended",
            State::Ended => "ended",
        };
        table.add_row([
            one.component.name(),
            &process,
            state,
            one.address.as_deref().unwrap_or("-"),
            &one.log.to_string_lossy(),
        ]);
    }
    table
}

/// A value as a shell reads it back, whatever it holds.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_values_back() {
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
