//! `cargo xtask soak` and `cargo xtask verdicts`: long runs on a real cluster.

use std::env::current_dir;
use std::net::TcpListener;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serin_cluster::{Cluster, Instance, Progress};
use serin_e2e::controller::{self, Controller};
use serin_e2e::demo::build_programs;
use serin_e2e::env::Env;
use serin_e2e::interrupt::Interrupts;
use serin_e2e::peer_migration::Peer;
use serin_e2e::{autoscaling, external_autoscaling, gatekeeper, peer_migration, soak, verdicts};
use serin_scale::{PeerController, Peers};

/// Number of releases of each kind.
#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
pub(crate) struct SoakArguments {
    /// Run the short version for CI.
    #[arg(long)]
    slice: bool,
    /// Number of promotions.
    #[arg(long, value_name = "COUNT")]
    promotions: Option<u32>,
    /// Number of rollbacks.
    #[arg(long, value_name = "COUNT")]
    rollbacks: Option<u32>,
    /// Number of aborts.
    #[arg(long, value_name = "COUNT")]
    aborts: Option<u32>,
    /// Number of releases that `kubectl serin status --watch --until-done` follows.
    #[arg(long, value_name = "COUNT")]
    statuses: Option<u32>,
    /// Instead of releases on a cluster, simulate this number of hours of releases beside hostile
    /// Rollouts.
    #[arg(
        long,
        value_name = "HOURS",
        value_parser = clap::value_parser!(u32).range(1..=240),
        conflicts_with_all = ["slice", "promotions", "rollbacks", "aborts", "statuses"]
    )]
    churn: Option<u32>,
    /// Instead of releases, move services from a running Argo Rollouts and a running Flagger to
    /// Serin, under load. Builds both.
    #[arg(
        long,
        conflicts_with_all = ["slice", "promotions", "rollbacks", "aborts", "statuses", "churn"]
    )]
    migrations: bool,
    /// Instead of releases, let a HorizontalPodAutoscaler follow an external value, and another one
    /// the CPU usage under a load, through a release and an abort. Builds metrics-server. Takes about
    /// 20 minutes.
    #[arg(
        long,
        conflicts_with_all = ["slice", "promotions", "rollbacks", "aborts", "statuses", "churn", "migrations"]
    )]
    autoscaler: bool,
    /// Instead of releases, let the audit of a real Gatekeeper hold a release. Builds Gatekeeper.
    #[arg(
        long,
        conflicts_with_all = [
            "slice", "promotions", "rollbacks", "aborts", "statuses", "churn", "migrations",
            "autoscaler",
        ]
    )]
    gatekeeper: bool,
}

impl SoakArguments {
    fn options(&self) -> soak::SoakOptions {
        let usual = if self.slice {
            soak::SoakOptions::SLICE
        } else {
            soak::SoakOptions::FULL
        };
        soak::SoakOptions {
            promotions: self.promotions.unwrap_or(usual.promotions),
            rollbacks: self.rollbacks.unwrap_or(usual.rollbacks),
            aborts: self.aborts.unwrap_or(usual.aborts),
            statuses: self.statuses.unwrap_or(usual.statuses),
            ..usual
        }
    }
}

/// Number of releases, and their load.
#[derive(Args)]
pub(crate) struct VerdictsArguments {
    /// Number of releases that are as good as stable.
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    same: u32,
    /// Number of releases that fail ten times as often as stable.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    worse: u32,
    /// Number of services that are released in parallel.
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    services: u32,
    /// Requests per second to each service.
    #[arg(long, value_name = "RATE", default_value_t = 100)]
    rate: u32,
}

/// Runs promotions, rollbacks and aborts.
pub(crate) async fn run(arguments: SoakArguments) -> Result<()> {
    if let Some(hours) = arguments.churn {
        return run_churn(hours).await;
    }
    if arguments.migrations {
        return run_migrations().await;
    }
    if arguments.autoscaler {
        return with_controller(async |env| {
            external_autoscaling::an_autoscaler_on_an_external_value_is_not_misled_by_a_release_or_an_abort(env)
                .await?;
            autoscaling::an_autoscaler_on_cpu_follows_the_load_through_a_release_and_an_abort(env)
                .await
        })
        .await;
    }
    if arguments.gatekeeper {
        return with_controller(async |env| {
            gatekeeper::the_audit_of_gatekeeper_holds_a_release_until_it_is_mended(env).await
        })
        .await;
    }
    let options = arguments.options();
    with_controller(async |env| soak::run(env, options).await.map(drop)).await
}

/// Runs the churn test of the fake cluster, optimized and with debug assertions.
async fn run_churn(hours: u32) -> Result<()> {
    let mut command = tokio::process::Command::new(env!("CARGO"));
    command
        .args(["test", "--profile", "fuzz", "--package", "serin-runtime"])
        .args(["--test", "fake_cluster", "churn", "--", "--nocapture"])
        .env("SERIN_CHURN_HOURS", hours.to_string())
        .kill_on_drop(true);
    let status = command.status().await?;
    ensure!(
        status.success(),
        "the churn test of {hours} simulated hours failed: {status}"
    );
    Ok(())
}

/// Moves services from other controllers.
async fn run_migrations() -> Result<()> {
    let checkout = Instance::containing(&current_dir()?)?.checkout().to_owned();
    let peers = Peers::prepare(&checkout).await?;
    let peer = |controller: PeerController| Peer {
        program: controller.program,
        definitions: controller.definitions,
    };
    let (argo_rollouts, flagger) = (peer(peers.argo_rollouts), peer(peers.flagger));
    with_controller(async |env| {
        peer_migration::from_argo_rollouts(env, &argo_rollouts).await?;
        peer_migration::from_flagger(env, &flagger).await
    })
    .await
}

/// Runs good and bad releases and reports their verdicts.
pub(crate) async fn run_verdicts(arguments: VerdictsArguments) -> Result<()> {
    let VerdictsArguments {
        same,
        worse,
        services,
        rate,
    } = arguments;
    let options = verdicts::VerdictOptions {
        same,
        worse,
        services,
        rate_per_second: rate,
    };
    with_controller(async |env| verdicts::run(env, options).await).await
}

/// Starts a cluster if none runs, starts a controller, runs the work, and stops what it has
/// started.
async fn with_controller(work: impl AsyncFnOnce(&Env) -> Result<()>) -> Result<()> {
    serin_e2e::install_tls_provider();
    let instance = Instance::containing(&current_dir()?)?;
    let is_named = Env::named_cluster(instance.checkout()).is_some();
    let was_up = is_named || Cluster::attach(&instance).is_ok();
    let mut interrupts = Interrupts::listen()?;
    let result = tokio::select! {
        result = Box::pin(start_controller_and_run(&instance, work)) => result,
        () = interrupts.next() => Err(anyhow::anyhow!("interrupted")),
    };
    if was_up {
        return result;
    }
    tokio::select! {
        down = Cluster::down(&instance, Progress::detect()) => result.and(down),
        () = interrupts.next() => bail!("interrupted during cleanup: run `cargo xtask cluster \
            down` to remove the rest"),
    }
}

async fn start_controller_and_run(
    instance: &Instance,
    work: impl AsyncFnOnce(&Env) -> Result<()>,
) -> Result<()> {
    build_programs(instance.checkout()).await?;
    let env = Box::pin(Env::prepare(instance.checkout(), Progress::detect())).await?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let controller = controller::ControllerOptions {
        name: "soak".into(),
        port,
        election: Some("default".into()),
    };
    let mut controller = Controller::start(&env, &controller)?;
    controller.wait_until_ready().await?;
    let done = work(&env).await;
    done.and(controller.stop().await)
}
