//! `cargo xtask demo`.

use std::env::{current_dir, current_exe};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serin_cluster::{Image, Instance, KIND_CLUSTER, KindCluster, Progress, build_static};
use serin_e2e::demo::{DemoOptions, demo};
use serin_e2e::env::SAMPLE_IMAGE;

/// Options of the demo.
#[derive(Args)]
pub(crate) struct DemoArguments {
    /// Keep the cluster, the controller and the releases running, and print how to use them.
    #[arg(long)]
    keep: bool,
    /// Print plain lines even on a terminal.
    #[arg(long)]
    plain: bool,
    /// Use a cluster in kind instead of the local cluster. Needs Docker, kind, kubectl and helm,
    /// and no root. Creates the cluster if it does not exist, and keeps it.
    #[arg(long)]
    kind: bool,
}

/// Runs the demo.
pub(crate) async fn run(arguments: DemoArguments) -> Result<()> {
    let checkout = Instance::containing(&current_dir()?)?.checkout().to_owned();
    if arguments.kind {
        return run_in_kind(&checkout, &arguments).await;
    }
    demo(&DemoOptions {
        checkout,
        keep: arguments.keep,
        plain: arguments.plain,
    })
    .await
}

/// Prepares the cluster in kind and replaces this process by the demo on it, as on any cluster that
/// KUBECONFIG names. Returns only if that fails.
async fn run_in_kind(checkout: &Path, arguments: &DemoArguments) -> Result<()> {
    let cluster = KindCluster::up(checkout, Progress::detect()).await?;
    let binary = build_static(checkout, "serin-sample", "serin-sample").await?;
    let image = Image::local(SAMPLE_IMAGE, binary);
    cluster.load_image(&image).await?;
    println!("The kind cluster {KIND_CLUSTER} stays after the demo. To use it:");
    for (name, value) in cluster.env() {
        println!("  export {name}={value}");
    }
    println!("To remove it: kind delete cluster --name {KIND_CLUSTER}\n");
    let error = demo_command(&current_exe()?, arguments, cluster.env()).exec();
    Err(error).context("cannot start the demo")
}

/// The demo with other environment variables.
fn demo_command(
    program: &Path,
    arguments: &DemoArguments,
    env: impl IntoIterator<Item = (&'static str, String)>,
) -> Command {
    let mut command = Command::new(program);
    command.arg("demo").envs(env);
    let flags = [(arguments.keep, "--keep"), (arguments.plain, "--plain")];
    let set = flags.into_iter().filter(|(is_set, _)| *is_set);
    command.args(set.map(|(_, flag)| flag));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_in_kind_is_the_demo_on_a_cluster_that_kubeconfig_names() {
        let arguments = DemoArguments {
            keep: true,
            plain: false,
            kind: true,
        };
        let env = [("KUBECONFIG", "/kubeconfig".to_owned())];
        let command = demo_command(Path::new("/xtask"), &arguments, env);
        assert_eq!(command.get_program(), "/xtask");
        assert!(command.get_args().eq(["demo", "--keep"]));
        let env: Vec<_> = command.get_envs().collect();
        assert_eq!(env, [("KUBECONFIG".as_ref(), Some("/kubeconfig".as_ref()))]);
    }
}
