//! `cargo xtask soak`: the long counts.

use std::env::current_dir;
use std::net::TcpListener;

use anyhow::{Result, bail};
use clap::Args;
use serin_cluster::{Cluster, Instance, Progress};
use serin_e2e::controller::{self, Controller};
use serin_e2e::demo::build_programs;
use serin_e2e::env::Env;
use serin_e2e::interrupt::Interrupts;
use serin_e2e::soak;

/// How long the counts are.
#[derive(Args)]
pub(crate) struct SoakArguments {
    /// Only as much as CI has time for.
    #[arg(long)]
    slice: bool,
    /// So many promotions instead.
    #[arg(long, value_name = "COUNT")]
    promotions: Option<u32>,
    /// So many rollbacks instead.
    #[arg(long, value_name = "COUNT")]
    rollbacks: Option<u32>,
    /// So many aborts instead.
    #[arg(long, value_name = "COUNT")]
    aborts: Option<u32>,
}

impl SoakArguments {
    fn options(&self) -> soak::Options {
        let usual = if self.slice { soak::Options::SLICE } else { soak::Options::FULL };
        soak::Options {
            promotions: self.promotions.unwrap_or(usual.promotions),
            rollbacks: self.rollbacks.unwrap_or(usual.rollbacks),
            aborts: self.aborts.unwrap_or(usual.aborts),
            ..usual
        }
    }
}

/// Counts, with a controller of its own; takes down what it has started.
pub(crate) async fn run(arguments: SoakArguments) -> Result<()> {
    serin_e2e::install_tls_provider();
    let instance = Instance::containing(&current_dir()?)?;
    let is_named = Env::named_cluster(instance.checkout()).is_some();
    let was_up = is_named || Cluster::attach(&instance).is_ok();
    let options = arguments.options();
    let mut interrupts = Interrupts::listen()?;
    let result = tokio::select! {
        result = Box::pin(count(&instance, options)) => result,
        () = interrupts.next() => Err(anyhow::anyhow!("interrupted")),
    };
    if was_up {
        return result;
    }
    tokio::select! {
        down = Cluster::down(&instance, Progress::detect()) => result.and(down),
        () = interrupts.next() => bail!("interrupted while taking down: `cargo xtask cluster down` removes what is left"),
    }
}

async fn count(instance: &Instance, options: soak::Options) -> Result<()> {
    build_programs(instance.checkout()).await?;
    let env = Box::pin(Env::ready(instance.checkout(), Progress::detect())).await?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let controller = controller::Options { name: "soak".into(), port, election: Some("default".into()) };
    let mut controller = Controller::start(&env, &controller)?;
    controller.ready().await?;
    let counted = soak::run(&env, options).await;
    counted.map(drop).and(controller.stop().await)
}
