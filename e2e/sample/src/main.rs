//! The sample service of Serin's demo and tests: a static HTTP/1.1 service whose faults are set by
//! environment.
//!
//! Every path but the probes and `/metrics` is the service: it answers 200, or 500 at the rate that
//! was asked for. Every answer carries `x-version`, so that a client can tell the service's own 500
//! from one that a gateway made up.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `VERSION` | (required) | what `x-version`, the body and the metrics' `version` label say |
//! | `PORT` | `8080` | where to listen; `0` takes a free port, which the first line of standard output names |
//! | `BIND_ADDRESS` | `0.0.0.0` | the IP address to listen on |
//! | `ERROR_RATE` | `0` | per cent of requests that are answered 500, at random (`3`, `0.05`) |
//! | `ERROR_AFTER_MS` | `0` | until so long after the start none of them is |
//! | `SEED` | from the system | makes that randomness repeatable |
//! | `LATENCY_MS` | `0` | how long every request takes |
//! | `LATENCY_JITTER_MS` | `0` | up to this much more, uniformly |
//! | `START_DELAY_MS` | `0` | not ready until then |
//! | `NEVER_READY` | `false` | never ready |
//! | `CRASH_ON_START` | `false` | exit 1 before listening |
//! | `CRASH_AFTER_REQUESTS` | (never) | answer so many requests, then exit 1 on the next one without an answer |
//! | `CRASH_AFTER_MS` | (never) | exit 1 so long after the start |
//! | `DRAIN_MS` | `2000` | how long to keep accepting after SIGTERM |
//!
//! On SIGTERM (or SIGINT) it turns unready and asks clients to close their connections
//! (`connection: close`), but accepts and answers for `DRAIN_MS`, while the endpoint is taken out
//! of every router; then it stops listening, finishes what it has begun and exits 0. Exit codes: 0
//! stopped, 1 crashed as told or failed, 2 bad configuration.

mod config;
mod metrics;
mod service;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use axum::serve::{Listener as _, ListenerExt as _};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{config::Config, service::Service};

/// How long requests that have begun may take after the drain before the service gives up on them:
/// less than Kubernetes' default grace period of 30 s with the default drain, so that the exit code
/// tells of it.
const FINISH_AT_MOST: Duration = Duration::from_secs(20);

/// How the service came to its end.
enum Ending {
    /// It was told to stop and has answered everything.
    Stopped,
    /// It was configured to crash, here.
    Crashed(&'static str),
    /// Requests were still in flight [`FINISH_AT_MOST`] after the drain.
    Overdue,
}

fn main() -> ExitCode {
    let config = match Config::from_environment(std::env::vars_os()) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                complain(&problem.to_string());
            }
            return ExitCode::from(2);
        }
    };
    if config.crash_on_start {
        complain("crashing: CRASH_ON_START");
        return ExitCode::FAILURE;
    }
    // One thread: a pod of the sample must leave the machine's few cores to what is being measured.
    let ending = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(run(&config)));
    match ending {
        Ok(Ending::Stopped) => return ExitCode::SUCCESS,
        Ok(Ending::Crashed(why)) => complain(&format!("crashing: {why}")),
        Ok(Ending::Overdue) => complain("gave up on requests that did not finish after the drain"),
        Err(error) => complain(&format!("cannot serve on {}: {error}", config.listen)),
    }
    ExitCode::FAILURE
}

async fn run(config: &Config) -> io::Result<Ending> {
    // The handlers come first: as a container's first process it would otherwise ignore SIGTERM.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(config.listen).await?.tap_io(|stream| {
        // Small answers must not wait for Nagle; a connection that refuses the option serves all
        // the same.
        let _ = stream.set_nodelay(true);
    });
    let service = Arc::new(Service::new(config));
    // Nobody may be reading; that is no reason to stop serving.
    let _ = writeln!(
        io::stdout(),
        "serin-sample {} listens on {}",
        config.version,
        listener.local_addr()?
    );

    let drained = {
        let service = Arc::clone(&service);
        let drain = config.drain;
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            service.start_draining();
            sleep(drain).await;
        }
    };
    let overdue = async {
        service.draining().await;
        sleep(config.drain + FINISH_AT_MOST).await;
    };
    let serving = axum::serve(listener, service::router(Arc::clone(&service)))
        .with_graceful_shutdown(drained);
    tokio::select! {
        served = serving.into_future() => served.map(|()| Ending::Stopped),
        () = service.crashed() => Ok(Ending::Crashed("CRASH_AFTER_REQUESTS")),
        () = after(config.crash_after) => Ok(Ending::Crashed("CRASH_AFTER_MS")),
        () = overdue => Ok(Ending::Overdue),
    }
}

/// Resolves after `delay`, or never.
async fn after(delay: Option<Duration>) {
    match delay {
        Some(delay) => sleep(delay).await,
        None => std::future::pending().await,
    }
}

/// Says something on standard error, where a closed pipe is no reason to panic.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "serin-sample: {text}");
}
