//! `cargo xtask demo`.

use std::env::current_dir;

use clap::Args;
use serin_cluster::Instance;
use serin_e2e::demo::{Options, demo};

/// How the demo is run.
#[derive(Args)]
pub(crate) struct DemoArguments {
    /// Leave the cluster, the controller and the releases up, and say how to play with them.
    #[arg(long)]
    keep: bool,
    /// Tell in plain lines even on a terminal.
    #[arg(long)]
    plain: bool,
}

/// Shows it.
pub(crate) async fn run(arguments: DemoArguments) -> anyhow::Result<()> {
    let checkout = Instance::containing(&current_dir()?)?.checkout().to_owned();
    demo(&Options {
        checkout,
        keep: arguments.keep,
        plain: arguments.plain,
    })
    .await
}
