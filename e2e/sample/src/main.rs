//! The sample service of Serin's demo and tests: an HTTP/1.1 service with configurable faults.
//!
//! Every path except the probes and `/metrics` returns 200, or 500 at the configured rate. Every
//! response has the header `x-version`, so that a client can distinguish a 500 of the service from
//! a 500 of the gateway.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `VERSION` | (required) | value of `x-version`, of the body and of the metric label `version` |
//! | `PORT` | `8080` | port to listen on; `0` for a free port, printed in the first line |
//! | `BIND_ADDRESS` | `0.0.0.0` | the IP address to listen on |
//! | `ERROR_RATE` | `0` | percentage of requests that get status 500, at random (`3`, `0.05`) |
//! | `ERROR_AFTER_MS` | `0` | time after the start before the first request fails |
//! | `ERROR_UNTIL_MS` | (forever) | time after the start from which no request fails |
//! | `SEED` | from the system | seed of the random numbers, for repeatable runs |
//! | `LATENCY_MS` | `0` | minimum duration of every request |
//! | `LATENCY_JITTER_MS` | `0` | additional random duration, uniform up to this value |
//! | `CPU_US` | `0` | CPU time of each request in microseconds |
//! | `START_DELAY_MS` | `0` | time after the start before the service becomes ready |
//! | `NEVER_READY` | `false` | the service never becomes ready |
//! | `CRASH_ON_START` | `false` | exit with code 1 before listening |
//! | `CRASH_AFTER_REQUESTS` | (never) | exit with code 1 instead of a response after this many requests |
//! | `CRASH_AFTER_MS` | (never) | time after the start at which the process exits with code 1 |
//! | `DRAIN_MS` | `2000` | time to keep accepting requests after SIGTERM |
//! | `SMOKE_TEST` | (serves) | host and port of a service: request it once, and exit with 0 if it answers with status 200 |
//!
//! A request with the header `x-broken` fails. Requests with the header `x-session` also count their
//! session, once in each pod. `POST /fault?slow_percent=20&latency_ms=150` slows requests of this pod
//! down, as a slow node does.
//!
//! On SIGTERM or SIGINT the service becomes unready and sends `connection: close`, but keeps
//! serving for `DRAIN_MS` while routers remove its endpoint. Then it stops listening, finishes the
//! requests in flight and exits with code 0. Exit codes: 0 stopped, 1 crashed as configured or
//! failed, 2 invalid configuration.

mod config;
mod metrics;
mod pod_fault;
mod service;
mod sessions;
mod smoke_test;

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

/// Time that requests in flight have to finish after the drain. With the default drain this is less
/// than the default grace period of Kubernetes (30 s), so that the exit code shows an overrun.
const DRAIN_GRACE: Duration = Duration::from_secs(20);

/// Why the service exits.
enum ExitReason {
    /// It received a signal and has finished all requests.
    Stopped,
    /// It crashed as configured by this variable.
    Crashed(&'static str),
    /// Requests were still in flight after [`DRAIN_GRACE`].
    Overdue,
}

fn main() -> ExitCode {
    if let Ok(address) = std::env::var(smoke_test::VARIABLE) {
        return match smoke_test::run(&address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                log_error(&problem);
                ExitCode::FAILURE
            }
        };
    }
    let config = match Config::from_environment(std::env::vars_os()) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                log_error(&problem.to_string());
            }
            return ExitCode::from(2);
        }
    };
    if config.crash_on_start {
        log_error("crashing: CRASH_ON_START");
        return ExitCode::FAILURE;
    }
    // One thread: the sample must leave the few cores of the machine to the programs under test.
    let exit_reason = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(run(&config)));
    match exit_reason {
        Ok(ExitReason::Stopped) => return ExitCode::SUCCESS,
        Ok(ExitReason::Crashed(why)) => log_error(&format!("crashing: {why}")),
        Ok(ExitReason::Overdue) => log_error("requests did not finish within 20 s after the drain"),
        Err(error) => log_error(&format!("cannot serve on {}: {error}", config.listen)),
    }
    ExitCode::FAILURE
}

async fn run(config: &Config) -> io::Result<ExitReason> {
    // Install the handlers first: process 1 of a container ignores SIGTERM without a handler.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(config.listen).await?.tap_io(|stream| {
        // Disable Nagle's algorithm for small responses. A connection that refuses the option still
        // works.
        let _ = stream.set_nodelay(true);
    });
    let service = Arc::new(Service::new(config));
    // A closed standard output must not stop the service.
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
        service.wait_until_draining().await;
        sleep(config.drain + DRAIN_GRACE).await;
    };
    let serving = axum::serve(listener, service::router(Arc::clone(&service)))
        .with_graceful_shutdown(drained);
    tokio::select! {
        served = serving.into_future() => served.map(|()| ExitReason::Stopped),
        () = service.wait_until_crash() => Ok(ExitReason::Crashed("CRASH_AFTER_REQUESTS")),
        () = sleep_or_never(config.crash_after) => Ok(ExitReason::Crashed("CRASH_AFTER_MS")),
        () = overdue => Ok(ExitReason::Overdue),
    }
}

/// Resolves after `delay`, or never.
async fn sleep_or_never(delay: Option<Duration>) {
    match delay {
        Some(delay) => sleep(delay).await,
        None => std::future::pending().await,
    }
}

/// Writes a line to standard error. Does not panic if the pipe is closed.
fn log_error(text: &str) {
    let _ = writeln!(io::stderr(), "serin-sample: {text}");
}
