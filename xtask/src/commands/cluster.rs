//! `cargo xtask cluster`.

use std::io::{ErrorKind, Write as _};
use std::time::Instant;

use anyhow::Result;
use clap::Subcommand;
use comfy_table::{Table, presets};
use serin_cluster::{Cluster, ComponentState, ComponentStatus, Instance, Progress};

/// Commands for the cluster of this checkout.
#[derive(Subcommand)]
pub(crate) enum ClusterCommand {
    /// Start the cluster. Builds its programs first if they are not in the cache.
    Up,
    /// Stop the cluster and remove everything except the build cache.
    Down,
    /// Print the environment variables for a shell: `eval "$(cargo xtask cluster env)"`.
    Env,
    /// Print the state of each component.
    Status,
}

/// Runs one command.
pub(crate) async fn run(command: ClusterCommand) -> Result<()> {
    let instance = Instance::containing(&std::env::current_dir()?)?;
    match command {
        ClusterCommand::Up => up(instance).await,
        ClusterCommand::Down => Cluster::down(&instance, Progress::detect()).await,
        ClusterCommand::Env => {
            let env = Cluster::attach(&instance)?.env();
            let line = |(name, value): &(String, String)| {
                format!("export {name}={}\n", shell_quoted(value))
            };
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

/// Prints to standard output. A closed pipe (`| head`) is not an error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn table(status: &[ComponentStatus]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["COMPONENT", "PID", "STATE", "ADDRESS", "LOG"]);
    for one in status {
        let process = one
            .process_id
            .map_or_else(|| "-".into(), |id| id.to_string());
        let state = match one.state {
            ComponentState::Healthy => "healthy",
            ComponentState::Unhealthy => "unhealthy",
            ComponentState::Suspended => "suspended",
            ComponentState::Ended => "ended",
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

/// Quotes a value for a POSIX shell.
fn shell_quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_parses_quoted_values() {
        assert_eq!(shell_quoted("/a b"), "'/a b'");
        assert_eq!(shell_quoted("it's"), r"'it'\''s'");
    }
}
