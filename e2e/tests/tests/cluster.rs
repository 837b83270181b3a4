//! Runs the cases on the real cluster: only where SERIN_E2E=1 asks for it, since they need one.

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
use serin_e2e::cases::{ALL, Case, Needs};
use serin_e2e::controller::{Controller, Options};
use serin_e2e::env::Env;
use serin_e2e::{journal, note};

/// No case takes longer than this.
const LONGEST: Duration = Duration::from_secs(900);

/// Shared cases that run at the same time unless `--test-threads` says otherwise. They mostly wait:
/// for pods, pauses and scrapes. More of them would keep two cores busy with their load.
const SIDE_BY_SIDE: usize = 3;

fn main() -> Result<()> {
    let arguments = Arguments::from_args();
    if std::env::var("SERIN_E2E").as_deref() != Ok("1") && !arguments.list {
        eprintln!("the cases on a real cluster run with SERIN_E2E=1, as `cargo xtask test` does");
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
    let env = Arc::new(runtime.block_on(Env::ready(&checkout, Progress::detect()))?);
    let run = |needs: Needs, threads: usize| {
        let arguments = Arguments {
            test_threads: Some(threads),
            ..arguments.clone()
        };
        libtest_mimic::run(
            &arguments,
            trials(&runtime, Some(&env), |of_case| of_case == needs),
        )
    };

    let options = Options {
        name: "shared".into(),
        port: 18_180,
        election: Some("default".into()),
    };
    let mut controller = runtime.block_on(async { Controller::start(&env, &options) })?;
    runtime.block_on(controller.ready())?;
    let shared = run(
        Needs::Shared,
        arguments.test_threads.unwrap_or(SIDE_BY_SIDE),
    );
    let exclusive = run(Needs::Exclusive, 1);
    runtime.block_on(controller.stop())?;

    let alone = run(Needs::Alone, 1);
    for conclusion in [shared, exclusive, alone] {
        conclusion.exit_if_failed();
    }
    Ok(())
}

fn trials(
    runtime: &Arc<tokio::runtime::Runtime>,
    env: Option<&Arc<Env>>,
    of: impl Fn(Needs) -> bool,
) -> Vec<Trial> {
    let cases = ALL.iter().filter(|case| of(case.needs));
    let trial = |case: &'static Case| {
        let (runtime, env) = (runtime.clone(), env.cloned());
        Trial::test(case.name, move || {
            let env = env.ok_or("no cluster")?;
            let _journal =
                journal::start(&env.checkout, case.name).map_err(|error| format!("{error:?}"))?;
            let run = async { tokio::time::timeout(LONGEST, (case.run)(&env)).await };
            let failure = match runtime.block_on(run) {
                Ok(Ok(())) => return Ok(()),
                // Without the backtrace, which shows the harness only.
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("not within {LONGEST:?}"),
            };
            note!("FAILED: {failure}");
            Err(Failed::from(failure))
        })
    };
    cases.map(trial).collect()
}
