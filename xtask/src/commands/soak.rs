//! `cargo xtask soak` and `cargo xtask verdicts`: the long counts.

use std::env::current_dir;
use std::net::TcpListener;

use anyhow::{Result, bail};
use clap::Args;
use serin_cluster::{Cluster, Instance, Progress};
use serin_e2e::controller::{self, Controller};
use serin_e2e::demo::build_programs;
use serin_e2e::env::Env;
use serin_e2e::interrupt::Interrupts;
use serin_e2e::{soak, verdicts};

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
    /// Number of releases that `kubectl serin status --watch --until-done` follows
    #[arg(long, value_name = "COUNT")]
    statuses: Option<u32>,
}

impl SoakArguments {
    fn options(&self) -> soak::Options {
        let usual = if self.slice {
            soak::Options::SLICE
        } else {
            soak::Options::FULL
        };
        soak::Options {
            promotions: self.promotions.unwrap_or(usual.promotions),
            rollbacks: self.rollbacks.unwrap_or(usual.rollbacks),
            aborts: self.aborts.unwrap_or(usual.aborts),
            statuses: self.statuses.unwrap_or(usual.statuses),
            ..usual
        }
    }
}

/// How many releases are judged.
#[derive(Args)]
pub(crate) struct VerdictsArguments {
    /// Releases that are as good as stable.
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    same: u32,
    /// Releases that fail ten times as often.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    worse: u32,
    /// Services released side by side.
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    services: u32,
    /// Requests a second to each of them.
    #[arg(long, value_name = "RATE", default_value_t = 100)]
    rate: u32,
}

/// Counts promotions, rollbacks and aborts.
pub(crate) async fn run(arguments: SoakArguments) -> Result<()> {
    let options = arguments.options();
    with_controller(async |env| soak::run(env, options).await.map(drop)).await
}

/// Judges good releases and bad ones.
pub(crate) async fn run_verdicts(arguments: VerdictsArguments) -> Result<()> {
    let VerdictsArguments {
        same,
        worse,
        services,
        rate,
    } = arguments;
    let options = verdicts::Options {
        same,
        worse,
        services,
        rate_per_second: rate,
    };
    with_controller(async |env| verdicts::run(env, options).await).await
}

/// Works on a cluster with a controller of its own; takes down what it has started.
async fn with_controller(work: impl AsyncFnOnce(&Env) -> Result<()>) -> Result<()> {
    serin_e2e::install_tls_provider();
    let instance = Instance::containing(&current_dir()?)?;
    let is_named = Env::named_cluster(instance.checkout()).is_some();
    let was_up = is_named || Cluster::attach(&instance).is_ok();
    let mut interrupts = Interrupts::listen()?;
    let result = tokio::select! {
        result = Box::pin(controlled(&instance, work)) => result,
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

async fn controlled(instance: &Instance, work: impl AsyncFnOnce(&Env) -> Result<()>) -> Result<()> {
    build_programs(instance.checkout()).await?;
    let env = Box::pin(Env::ready(instance.checkout(), Progress::detect())).await?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let controller = controller::Options {
        name: "soak".into(),
        port,
        election: Some("default".into()),
    };
    let mut controller = Controller::start(&env, &controller)?;
    controller.ready().await?;
    let done = work(&env).await;
    done.and(controller.stop().await)
}
