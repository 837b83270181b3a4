//! The load generator as a program. Exit codes: 0 completed, 1 requests were lost and
//! `--fail-on-routing` is set, 2 the load could not start.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use jiff::SignedDuration;
use serin_load::{Load, LoadOptions, LoadReport};
use tokio::signal::unix::{SignalKind, signal};

/// Sends requests at a constant rate, independently of the responses, and records every request.
///
/// A response with the header `x-version` comes from the service. Every other response that is not
/// 2xx, and every request without a response, is a routing failure. Only loopback and private
/// addresses are allowed. Press Ctrl-C to stop early.
#[derive(Debug, Parser)]
#[command(name = "serin-load", version)]
struct Arguments {
    /// Target URL, for example `http://127.0.0.1:8000/`.
    #[arg(long)]
    url: String,
    /// Host header. Defaults to the host of the URL.
    #[arg(long)]
    host: Option<String>,
    /// Requests per second, at most 5000.
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// Duration of the load, for example `60s` or `1h30m`, at most 4h.
    #[arg(long, default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// Timeout of one request, at most 60s.
    #[arg(long, default_value = "2s", value_parser = duration)]
    timeout: Duration,
    /// Maximum number of requests in flight. Requests beyond it are not sent but counted as
    /// overruns.
    #[arg(long, default_value_t = 4_096)]
    max_in_flight: u32,
    /// Fraction of requests that use a new connection, from 0 to 1.
    #[arg(long, default_value_t = 0.1)]
    fresh: f64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Exit with code 1 if a request was lost in routing, or was not sent because too many were in
    /// flight.
    #[arg(long)]
    fail_on_routing: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error must not cause a panic. The exit code reports the failure
            // too.
            let _ = writeln!(io::stderr(), "serin-load: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (json, fail_on_routing) = (arguments.json, arguments.fail_on_routing);
    let options = LoadOptions {
        url: arguments.url,
        host: arguments.host,
        headers: Vec::new(),
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
    Ok(if fail_on_routing && !report.has_no_losses() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Sends requests until the duration is over or a signal arrives.
async fn send(options: &LoadOptions) -> anyhow::Result<LoadReport> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let load = Load::start(options)?;
    tokio::select! {
        _ = load.wait_until_ended() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(load.stop().await)
}

fn print(report: &LoadReport, json: bool) -> anyhow::Result<()> {
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
