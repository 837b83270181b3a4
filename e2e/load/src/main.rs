//! The load generator as a program. Exit codes: 0 done, 1 requests were lost and
//! `--fail-on-routing` was given, 2 it could not start.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use jiff::SignedDuration;
use serin_load::{Load, Options, Report};
use tokio::signal::unix::{SignalKind, signal};

/// Sends requests at a constant rate to a service of your own, whatever becomes of them, and
/// records every answer.
///
/// Answers that carry `x-version` are the service's own; everything else that is not 2xx, and every
/// request without an answer, is a routing failure. Only loopback and private addresses are sent
/// to. Interrupt it to end early.
#[derive(Debug, Parser)]
#[command(name = "serin-load", version)]
struct Arguments {
    /// Where to send, such as `http://127.0.0.1:8000/`.
    #[arg(long)]
    url: String,
    /// The Host header, where it is not the URL's host.
    #[arg(long)]
    host: Option<String>,
    /// Requests a second, at most 5000.
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// How long, such as `60s` or `1h30m`, at most 4h.
    #[arg(long, default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// How long one request may take, at most 60s.
    #[arg(long, default_value = "2s", value_parser = duration)]
    timeout: Duration,
    /// Requests in flight at most; arrivals beyond are counted as overruns.
    #[arg(long, default_value_t = 4_096)]
    max_in_flight: u32,
    /// The fraction of requests sent on a connection of their own, from 0 to 1.
    #[arg(long, default_value_t = 0.1)]
    fresh: f64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Exit 1 where a request failed on its way, or was not sent for too many were in flight.
    #[arg(long)]
    fail_on_routing: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody may be reading; the exit code tells as well.
            let _ = writeln!(io::stderr(), "serin-load: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (json, fail_on_routing) = (arguments.json, arguments.fail_on_routing);
    let options = Options {
        url: arguments.url,
        host: arguments.host,
        rate_per_second: arguments.rate,
        duration: Some(arguments.duration),
        timeout: arguments.timeout,
        max_in_flight: arguments.max_in_flight,
        fresh_connection_fraction: arguments.fresh,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(send(&options))?;
    print(&report, json)?;
    Ok(if fail_on_routing && !report.lost_nothing() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Sends until the duration is over or a signal asks for the end.
async fn send(options: &Options) -> anyhow::Result<Report> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let load = Load::start(options)?;
    tokio::select! {
        _ = load.ended() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(load.stop().await)
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let summary = report.summary();
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(&summary)?)
    } else {
        summary.to_string()
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot print the report")
        }
        _ => Ok(()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse::<SignedDuration>()
        .map_err(|error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| "it must not be negative".to_owned())
}
