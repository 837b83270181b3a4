//! `cargo xtask test`: everything that is checked before a change is merged.

use std::env::{current_dir, var_os};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serin_cluster::{Cluster, Instance, Progress};
use serin_e2e::env::Env;
use tokio::process::Command;

use super::codegen;
use crate::suite::{Counting, Outcome, Suite, heading};

/// The version of cargo-deny that is installed where there is none.
const CARGO_DENY: &str = "0.20.2";

/// Where the advisories on crates are kept.
const ADVISORIES: &str = "https://github.com/rustsec/advisory-db";

/// What to check.
#[derive(Args)]
pub(crate) struct TestArguments {
    /// Only what needs no cluster.
    #[arg(long, conflicts_with = "cluster")]
    unit: bool,
    /// Only what needs a cluster.
    #[arg(long)]
    cluster: bool,
    /// Only the tests whose names contain this, and no other checks.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
}

/// Runs all checks, whatever fails on the way; whether none failed.
pub(crate) async fn run(arguments: TestArguments) -> Result<bool> {
    let instance = Instance::containing(&current_dir()?)?;
    let mut suite = Suite::new(instance.checkout())?;
    if !arguments.cluster {
        without_cluster(&mut suite, &arguments).await;
    }
    if arguments.unit {
        if arguments.filter.is_none() {
            chart(&mut suite, tool("helm", None)).await;
        }
        return Ok(suite.close());
    }
    let named = Env::named_cluster(instance.checkout());
    let was_up = named.is_some() || Cluster::attach(&instance).is_ok();
    let cluster = match named {
        Some(_) => None,
        None => start(&mut suite, &instance).await,
    };
    if arguments.filter.is_none() {
        chart(&mut suite, tool("helm", cluster.as_ref())).await;
    }
    with_cluster(&mut suite, &arguments, cluster.is_some()).await;
    if !was_up {
        let began = Instant::now();
        heading("The local cluster goes");
        let outcome = Outcome::of(Cluster::down(&instance, Progress::detect()).await);
        suite.record("The local cluster goes", outcome, began.elapsed());
    }
    Ok(suite.close())
}

async fn without_cluster(suite: &mut Suite, arguments: &TestArguments) {
    let only_tests = arguments.filter.is_some();
    if !only_tests {
        suite
            .run(
                "Format",
                cargo(&["fmt", "--all", "--check"]),
                Counting::Whole,
            )
            .await;
        let lints = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        suite.run("Lints", cargo(&lints), Counting::Whole).await;
        let began = Instant::now();
        heading("Generated files");
        suite.record(
            "Generated files",
            Outcome::of(codegen::run(true)),
            began.elapsed(),
        );
    }
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.args(&arguments.filter);
    suite
        .run("Tests without a cluster", tests, counting(arguments))
        .await;
    if !only_tests {
        dependencies(suite).await;
    }
}

/// Licences, sources and bans of all dependencies; advisories where their database can be reached.
async fn dependencies(suite: &mut Suite) {
    let installed = quiet(cargo(&["deny", "--version"])).await;
    if !installed {
        let install = cargo(&[
            "install",
            "--locked",
            "--debug",
            "--version",
            CARGO_DENY,
            "cargo-deny",
        ]);
        suite
            .run("cargo-deny is installed", install, Counting::Whole)
            .await;
    }
    let of_the_lock_file = cargo(&["deny", "check", "bans", "licenses", "sources"]);
    suite
        .run(
            "Licences, bans and sources",
            of_the_lock_file,
            Counting::Whole,
        )
        .await;
    let mut database = Command::new("git");
    database.args(["ls-remote", "--exit-code", ADVISORIES, "HEAD"]);
    if quiet(database).await {
        suite
            .run(
                "Advisories",
                cargo(&["deny", "check", "advisories"]),
                Counting::Whole,
            )
            .await;
    } else {
        suite.skip(
            "Advisories",
            &format!("{ADVISORIES} cannot be reached from here"),
        );
    }
}

/// Whether a program ends well within a while; what it prints is of no interest.
async fn quiet(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(20), command.status()).await;
    ended.is_ok_and(|status| status.is_ok_and(|status| status.success()))
}

/// Starts the local cluster; nothing where it does not start, which is then a failure on record.
async fn start(suite: &mut Suite, instance: &Instance) -> Option<Cluster> {
    const NAME: &str = "The local cluster comes";
    let began = Instant::now();
    heading(NAME);
    let starting = Box::pin(Cluster::up(instance.clone(), Progress::detect()));
    let started = suite.unless_interrupted(starting).await;
    let (cluster, outcome) = match started {
        Ok(cluster) => (
            Some(cluster),
            Outcome::Checked {
                passed: 1,
                failed: 0,
            },
        ),
        Err(error) => (None, Outcome::of(Err(error))),
    };
    suite.record(NAME, outcome, began.elapsed());
    cluster
}

async fn chart(suite: &mut Suite, helm: Option<PathBuf>) {
    let Some(helm) = helm else {
        suite.skip(
            "Chart",
            "helm is neither on PATH nor in a local cluster: `cargo xtask cluster up` brings it",
        );
        return;
    };
    let mut lint = Command::new(&helm);
    lint.args(["lint", "--strict", "charts/serin"]);
    suite.run("Chart: lint", lint, Counting::Whole).await;
    let mut template = Command::new(&helm);
    template.args([
        "template",
        "serin",
        "charts/serin",
        "--namespace",
        "serin-system",
    ]);
    suite
        .run("Chart: templates", template, Counting::Silent)
        .await;
}

async fn with_cluster(suite: &mut Suite, arguments: &TestArguments, is_local: bool) {
    // Of the whole workspace here and below: a part of it has dependencies with fewer features,
    // which would be compiled once more.
    suite
        .run(
            "Programs",
            cargo(&["build", "--workspace", "--all-targets"]),
            Counting::Whole,
        )
        .await;
    if is_local {
        let mut own = cargo(&["test", "--workspace", "--test", "real", "--", "--ignored"]);
        own.args(&arguments.filter);
        suite
            .run("The local cluster's own test", own, counting(arguments))
            .await;
    }
    let mut cases = cargo(&["test", "--workspace", "--test", "cluster"]);
    cases.args(&arguments.filter).env("SERIN_E2E", "1");
    suite
        .run("Cases on the real cluster", cases, counting(arguments))
        .await;
    if arguments.filter.is_none() {
        suite
            .run(
                "Soak, a slice",
                cargo(&["xtask", "soak", "--slice"]),
                Counting::Whole,
            )
            .await;
        suite
            .run(
                "Demo",
                cargo(&["xtask", "demo", "--plain"]),
                Counting::Whole,
            )
            .await;
    }
}

fn counting(arguments: &TestArguments) -> Counting {
    if arguments.filter.is_some() {
        Counting::SomeTests
    } else {
        Counting::Tests
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments);
    cargo
}

/// A program of the local cluster, or one on PATH.
fn tool(name: &str, cluster: Option<&Cluster>) -> Option<PathBuf> {
    let ours = cluster.and_then(|cluster| cluster.env().into_iter().find(|(key, _)| key == "PATH"));
    let path = ours.map_or_else(
        || var_os("PATH").unwrap_or_default(),
        |(_, path)| path.into(),
    );
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program: &PathBuf| Path::is_file(program))
}
