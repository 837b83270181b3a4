//! `cargo xtask test`: all checks that a change must pass before it is merged.

use std::env::{current_dir, var_os};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serin_cluster::{Cluster, Instance, Progress};
use serin_e2e::data_plane;
use serin_e2e::env::Env;
use serin_e2e::previous_version;
use tokio::process::Command;

use super::{codegen, lint};
use crate::suite::{CheckOutcome, CountMode, Suite, heading};

/// The version of cargo-deny that is installed if it is missing.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// The database of security advisories.
const ADVISORY_DATABASE: &str = "https://github.com/rustsec/advisory-db";

/// Which checks to run.
#[derive(Args)]
pub(crate) struct TestArguments {
    /// Run only the checks that need no cluster.
    #[arg(long, conflicts_with = "cluster")]
    unit: bool,
    /// Run only the checks that need a cluster.
    #[arg(long)]
    cluster: bool,
    /// Run only the tests whose names contain NAME, and no other checks.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Run only the traffic cases, on this data plane. Builds its control plane first.
    #[arg(long, value_name = "NAME", value_parser = data_plane::NAMES, conflicts_with = "unit")]
    gateway: Option<String>,
}

/// Runs all checks, even if one fails. Returns whether nothing failed.
pub(crate) async fn run(arguments: TestArguments) -> Result<bool> {
    let instance = Instance::containing(&current_dir()?)?;
    let mut suite = Suite::new(instance.checkout())?;
    let only_gateway = arguments.gateway.is_some();
    if !arguments.cluster && !only_gateway {
        run_checks_without_cluster(&mut suite, &arguments).await;
    }
    if arguments.unit {
        if arguments.filter.is_none() {
            check_chart(&mut suite, find_tool("helm", None)).await;
        }
        return Ok(suite.print_summary());
    }
    let named = Env::named_cluster(instance.checkout());
    let was_up = named.is_some() || Cluster::attach(&instance).is_ok();
    let cluster = match named {
        Some(_) => None,
        None => start_cluster(&mut suite, &instance).await,
    };
    if arguments.filter.is_none() && !only_gateway {
        check_chart(&mut suite, find_tool("helm", cluster.as_ref())).await;
    }
    run_checks_with_cluster(&mut suite, &arguments, cluster.is_some()).await;
    if !was_up {
        let began = Instant::now();
        heading("Stop the local cluster");
        let outcome = CheckOutcome::from_result(Cluster::down(&instance, Progress::detect()).await);
        suite.record("Stop the local cluster", outcome, began.elapsed());
    }
    Ok(suite.print_summary())
}

async fn run_checks_without_cluster(suite: &mut Suite, arguments: &TestArguments) {
    let only_tests = arguments.filter.is_some();
    if !only_tests {
        suite
            .run(
                "Format",
                cargo(&["fmt", "--all", "--check"]),
                CountMode::ExitStatus,
            )
            .await;
        let began = Instant::now();
        heading("Words");
        suite.record(
            "Words",
            CheckOutcome::from_result(lint::words()),
            began.elapsed(),
        );
        let lints = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        suite
            .run("Lints", cargo(&lints), CountMode::ExitStatus)
            .await;
        let began = Instant::now();
        heading("Generated files");
        suite.record(
            "Generated files",
            CheckOutcome::from_result(codegen::run(true)),
            began.elapsed(),
        );
    }
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.args(&arguments.filter);
    suite
        .run("Tests without a cluster", tests, test_count_mode(arguments))
        .await;
    if !only_tests {
        check_dependencies(suite).await;
    }
}

/// Checks licenses, sources and bans of all dependencies, and advisories if their database is
/// reachable.
async fn check_dependencies(suite: &mut Suite) {
    let installed = succeeds(cargo(&["deny", "--version"])).await;
    if !installed {
        let install = cargo(&[
            "install",
            "--locked",
            "--debug",
            "--version",
            CARGO_DENY_VERSION,
            "cargo-deny",
        ]);
        suite
            .run("Install cargo-deny", install, CountMode::ExitStatus)
            .await;
    }
    let lock_file_checks = cargo(&["deny", "check", "bans", "licenses", "sources"]);
    suite
        .run(
            "Licenses, bans and sources",
            lock_file_checks,
            CountMode::ExitStatus,
        )
        .await;
    let mut database = Command::new("git");
    database.args(["ls-remote", "--exit-code", ADVISORY_DATABASE, "HEAD"]);
    if succeeds(database).await {
        suite
            .run(
                "Advisories",
                cargo(&["deny", "check", "advisories"]),
                CountMode::ExitStatus,
            )
            .await;
    } else {
        suite.skip(
            "Advisories",
            &format!("{ADVISORY_DATABASE} is not reachable"),
        );
    }
}

/// Whether a program succeeds within 20 s. Discards its output.
async fn succeeds(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(20), command.status()).await;
    ended.is_ok_and(|status| status.is_ok_and(|status| status.success()))
}

/// Starts the local cluster. `None` if it does not start, which is recorded as a failure.
async fn start_cluster(suite: &mut Suite, instance: &Instance) -> Option<Cluster> {
    const NAME: &str = "Start the local cluster";
    let began = Instant::now();
    heading(NAME);
    let starting = Box::pin(Cluster::up(instance.clone(), Progress::detect()));
    let started = suite.unless_interrupted(starting).await;
    let (cluster, outcome) = match started {
        Ok(cluster) => (
            Some(cluster),
            CheckOutcome::Checked {
                passed: 1,
                failed: 0,
            },
        ),
        Err(error) => (None, CheckOutcome::from_result(Err(error))),
    };
    suite.record(NAME, outcome, began.elapsed());
    cluster
}

async fn check_chart(suite: &mut Suite, helm: Option<PathBuf>) {
    let Some(helm) = helm else {
        suite.skip(
            "Chart",
            "helm is neither on PATH nor in a local cluster: run `cargo xtask cluster up` to \
             install it",
        );
        return;
    };
    let mut lint = Command::new(&helm);
    lint.args(["lint", "--strict", "charts/serin"]);
    suite.run("Chart: lint", lint, CountMode::ExitStatus).await;
    let mut template = Command::new(&helm);
    template.args([
        "template",
        "serin",
        "charts/serin",
        "--namespace",
        "serin-system",
    ]);
    suite
        .run("Chart: templates", template, CountMode::SilentExitStatus)
        .await;
    // The controller meets the guardrails that its chart ships. `--workspace`: see
    // `run_checks_with_cluster`.
    let target = var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let mut guardrails = Command::new("sh");
    guardrails
        .env("HELM", &helm)
        .env("PLUGIN", Path::new(&target).join("debug/kubectl-serin"))
        .args([
            "-c",
            "cargo build --quiet --workspace --bin kubectl-serin \
             && \"$HELM\" template serin charts/serin --namespace serin-system \
             --set guardrails.mode=Enforce \
             | \"$PLUGIN\" audit -f - --deployments --strict",
        ]);
    suite
        .run("Chart: guardrails", guardrails, CountMode::ExitStatus)
        .await;
}

async fn run_checks_with_cluster(suite: &mut Suite, arguments: &TestArguments, is_local: bool) {
    // Always `--workspace`: a subset of the packages would enable fewer features of the
    // dependencies and compile them again.
    suite
        .run(
            "Programs",
            cargo(&["build", "--workspace", "--all-targets"]),
            CountMode::ExitStatus,
        )
        .await;
    if let Some(gateway) = &arguments.gateway {
        let mut cases = cargo(&["test", "--workspace", "--test", "cluster"]);
        cases
            .args(&arguments.filter)
            .env("SERIN_E2E", "1")
            .env(data_plane::VARIABLE, gateway);
        let title = format!("Traffic cases on {gateway}");
        suite.run(&title, cases, test_count_mode(arguments)).await;
        return;
    }
    if is_local {
        let mut own = cargo(&["test", "--workspace", "--test", "real", "--", "--ignored"]);
        own.args(&arguments.filter);
        suite
            .run("Test of the local cluster", own, test_count_mode(arguments))
            .await;
    }
    let mut cases = cargo(&["test", "--workspace", "--test", "cluster"]);
    cases.args(&arguments.filter).env("SERIN_E2E", "1");
    if arguments.filter.is_none() && !build_previous_version(suite).await {
        cases.args(["--", "--skip", "upgrade_and_rollback"]);
    }
    suite
        .run(
            "Cases on the real cluster",
            cases,
            test_count_mode(arguments),
        )
        .await;
    if arguments.filter.is_none() {
        suite
            .run(
                "Soak test (slice)",
                cargo(&["xtask", "soak", "--slice"]),
                CountMode::ExitStatus,
            )
            .await;
        suite
            .run(
                "Demo",
                cargo(&["xtask", "demo", "--plain"]),
                CountMode::ExitStatus,
            )
            .await;
    }
}

/// Builds the controller of the previous version for the case of the upgrade, so that its build does
/// not count against the timeout of the case. Returns false if this clone does not have its commit.
async fn build_previous_version(suite: &mut Suite) -> bool {
    const NAME: &str = "Program of the previous version";
    let commit = async {
        let instance = Instance::containing(&current_dir()?)?;
        previous_version::commit(instance.checkout()).await
    };
    if let Err(error) = commit.await {
        suite.skip(
            NAME,
            &format!("{error:#}; the case of the upgrade is not run"),
        );
        return false;
    }
    let began = Instant::now();
    heading(NAME);
    let build = async {
        let instance = Instance::containing(&current_dir()?)?;
        previous_version::build(instance.checkout()).await.map(drop)
    };
    let result = suite.unless_interrupted(build).await;
    suite.record(NAME, CheckOutcome::from_result(result), began.elapsed());
    true
}

fn test_count_mode(arguments: &TestArguments) -> CountMode {
    if arguments.filter.is_some() {
        CountMode::OptionalTests
    } else {
        CountMode::Tests
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments);
    cargo
}

/// The path of a program of the local cluster or on PATH.
fn find_tool(name: &str, cluster: Option<&Cluster>) -> Option<PathBuf> {
    let ours = cluster.and_then(|cluster| cluster.env().into_iter().find(|(key, _)| key == "PATH"));
    let path = ours.map_or_else(
        || var_os("PATH").unwrap_or_default(),
        |(_, path)| path.into(),
    );
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program: &PathBuf| Path::is_file(program))
}
