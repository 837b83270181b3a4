//! `cargo xtask demo`.

use std::env::current_dir;

use clap::Args;
use serin_cluster::Instance;
use serin_e2e::demo::{DemoOptions, demo};

/// Options of the demo.
#[derive(Args)]
pub(crate) struct DemoArguments {
    /// Keep the cluster, the controller and the releases running, and print how to use them.
    #[arg(long)]
    keep: bool,
    /// Print plain lines even on a terminal.
    #[arg(long)]
    plain: bool,
}

/// Runs the demo.
pub(crate) async fn run(arguments: DemoArguments) -> anyhow::Result<()> {
    let checkout = Instance::containing(&current_dir()?)?.checkout().to_owned();
    demo(&DemoOptions {
        checkout,
        keep: arguments.keep,
        plain: arguments.plain,
    })
    .await
}
