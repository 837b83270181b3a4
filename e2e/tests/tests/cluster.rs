//! Runs the cases on the real cluster: only where SERIN_E2E=1 asks for it, since they need one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test program prints")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use serin_cluster::Progress;
use serin_e2e::cases::{ALL, Case, Needs};
use serin_e2e::controller::{Controller, Options};
use serin_e2e::env::Env;

/// No case takes longer than this.
const LONGEST: Duration = Duration::from_secs(900);

fn main() -> Result<()> {
    let mut arguments = Arguments::from_args();
    // Each case loads the gateway; two at once on two cores would measure each other.
    arguments.test_threads.get_or_insert(1);
    if std::env::var("SERIN_E2E").as_deref() != Ok("1") && !arguments.list {
        eprintln!("the cases on a real cluster run with SERIN_E2E=1, as `cargo xtask test` does");
        return Ok(());
    }
    rustls::crypto::ring::default_provider().install_default().ok().context("a TLS provider is installed already")?;
    let runtime = Arc::new(tokio::runtime::Runtime::new()?);
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    if arguments.list {
        libtest_mimic::run(&arguments, trials(&runtime, None, |_| true)).exit();
    }
    let env = Arc::new(runtime.block_on(Env::ready(&checkout, Progress::detect()))?);

    let options = Options { name: "shared".into(), port: 18_180, election: Some("default".into()) };
    let mut controller = runtime.block_on(async { Controller::start(&env, &options) })?;
    runtime.block_on(controller.ready())?;
    let together = libtest_mimic::run(&arguments, trials(&runtime, Some(&env), |needs| needs == Needs::Controller));
    runtime.block_on(controller.stop())?;

    let alone = libtest_mimic::run(&arguments, trials(&runtime, Some(&env), |needs| needs == Needs::Alone));
    if together.has_failed() {
        together.exit();
    }
    alone.exit();
}

fn trials(runtime: &Arc<tokio::runtime::Runtime>, env: Option<&Arc<Env>>, of: impl Fn(Needs) -> bool) -> Vec<Trial> {
    let cases = ALL.iter().filter(|case| of(case.needs));
    let trial = |case: &'static Case| {
        let (runtime, env) = (runtime.clone(), env.cloned());
        Trial::test(case.name, move || {
            let env = env.ok_or("no cluster")?;
            let run = async { tokio::time::timeout(LONGEST, (case.run)(&env)).await };
            match runtime.block_on(run) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Failed::from(format!("{error:?}"))),
                Err(_) => Err(Failed::from(format!("not within {LONGEST:?}"))),
            }
        })
    };
    cases.map(trial).collect()
}
