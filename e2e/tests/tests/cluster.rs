//! Runs the cases on a real cluster if SERIN_E2E=1.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program prints"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use serin_cluster::Progress;
use serin_e2e::cases::{ALL, Isolation, ON_EVERY_DATA_PLANE, TestCase};
use serin_e2e::controller::{Controller, ControllerOptions, SHARED_PORT};
use serin_e2e::data_plane;
use serin_e2e::env::Env;
use serin_e2e::{case_log, note};

/// Timeout of a case.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Timeout of a case that is repeated.
const TIMEOUT_OF_ROUNDS: Duration = Duration::from_secs(3_600);
/// Environment variables that set how often cases repeat what they do.
const ROUNDS: [&str; 3] = [
    "SERIN_GOOD_RELEASES",
    "SERIN_SWITCHES",
    "SERIN_TAKEOVER_ROUNDS",
];

fn timeout() -> Duration {
    let is_repeated = ROUNDS.iter().any(|name| std::env::var_os(name).is_some());
    if is_repeated {
        TIMEOUT_OF_ROUNDS
    } else {
        TIMEOUT
    }
}

/// Number of shared cases that run in parallel. Defaults to this unless `--test-threads` is set.
/// Cases mostly wait for pods, pauses and scrapes, but their load would overload two cores if more
/// of them ran.
const PARALLEL_CASES: usize = 3;
/// The same for cases with controllers or a load of their own.
const PARALLEL_CASES_UNDER_LOAD: usize = 2;

fn main() -> Result<()> {
    let arguments = Arguments::from_args();
    if std::env::var("SERIN_E2E").as_deref() != Ok("1") && !arguments.list {
        eprintln!("set SERIN_E2E=1 to run the cases on a real cluster, or use `cargo xtask test`");
        return Ok(());
    }
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider is installed already")?;
    let runtime = Arc::new(tokio::runtime::Runtime::new()?);
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    if arguments.list {
        libtest_mimic::run(&arguments, trials(&runtime, None, |_| true)).exit();
    }
    // Only some of the cases run on another data plane, one after the other.
    let data_plane = std::env::var(data_plane::VARIABLE).ok();
    let env = Arc::new(runtime.block_on(prepare(&checkout, data_plane.as_deref()))?);
    let at_once = |cases: usize| {
        let of_data_plane = data_plane.is_some().then_some(1);
        of_data_plane.or(arguments.test_threads).unwrap_or(cases)
    };
    let is_run = |case: &TestCase| data_plane.is_none() || ON_EVERY_DATA_PLANE.contains(&case.name);
    let run = |isolation: Isolation, threads: usize| {
        let arguments = Arguments {
            test_threads: Some(threads),
            ..arguments.clone()
        };
        libtest_mimic::run(
            &arguments,
            trials(&runtime, Some(&env), |case| {
                case.isolation == isolation && is_run(case)
            }),
        )
    };

    let options = ControllerOptions {
        name: "shared".into(),
        port: SHARED_PORT,
        election: Some("default".into()),
    };
    let mut controller = runtime.block_on(async { Controller::start(&env, &options) })?;
    runtime.block_on(controller.wait_until_ready())?;
    let shared = run(Isolation::Shared, at_once(PARALLEL_CASES));
    let under_load = run(Isolation::UnderLoad, at_once(PARALLEL_CASES_UNDER_LOAD));
    let exclusive = run(Isolation::Exclusive, 1);
    runtime.block_on(controller.stop())?;

    let own_controllers = run(
        Isolation::OwnControllers,
        at_once(PARALLEL_CASES_UNDER_LOAD),
    );
    let alone = run(Isolation::Alone, 1);
    runtime.block_on(env.data_plane.stop())?;
    for conclusion in [shared, under_load, exclusive, own_controllers, alone] {
        conclusion.exit_if_failed();
    }
    Ok(())
}

async fn prepare(checkout: &Path, data_plane: Option<&str>) -> Result<Env> {
    match data_plane {
        None => Env::prepare(checkout, Progress::detect()).await,
        Some(name) => Env::prepare_with_data_plane(checkout, name, Progress::detect()).await,
    }
}

fn trials(
    runtime: &Arc<tokio::runtime::Runtime>,
    env: Option<&Arc<Env>>,
    is_selected: impl Fn(&TestCase) -> bool,
) -> Vec<Trial> {
    let cases = ALL.iter().filter(|case| is_selected(case));
    let trial = |case: &'static TestCase| {
        let (runtime, env) = (runtime.clone(), env.cloned());
        Trial::test(case.name, move || {
            let env = env.ok_or("no cluster")?;
            let _log =
                case_log::start(&env.checkout, case.name).map_err(|error| format!("{error:?}"))?;
            let timeout = timeout();
            let run = async { tokio::time::timeout(timeout, (case.run)(&env)).await };
            let failure = match runtime.block_on(run) {
                Ok(Ok(())) => return Ok(()),
                // Without the backtrace, which has frames of the harness only.
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("not within {timeout:?}"),
            };
            note!("FAILED: {failure}");
            Err(Failed::from(failure))
        })
    };
    cases.map(trial).collect()
}
