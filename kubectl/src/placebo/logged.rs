//! Placebo releases on the requests of a log.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde::Serialize;
use serin_analysis::AnalysisConfig;
use serin_analysis::explain::{duration, percent, thousands};
use serin_simulation::Proportion;
use serin_simulation::real_requests::{
    LogPlacebo, LogPlaceboOptions, NamedLog, STABLE_PODS, SplitUnit, log_placebo,
};
use serin_simulation::request_log::RequestLog;

use super::formatted;
use crate::cli::PlaceboArgs;
use crate::display::DisplayContext;
use crate::exit::{CliError, Exit};
use crate::page::Page;
use crate::style;

/// First bytes of a file that is compressed with gzip (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Machine-readable output.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogOutput<'a> {
    data: &'a str,
    requests: usize,
    bad_requests: usize,
    objective: f64,
    pods: usize,
    draws: u32,
    seed: u64,
    routing: Vec<UnitOutput>,
}

/// One way to assign requests in machine-readable output.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UnitOutput {
    /// What the router assigns.
    router_decides: &'static str,
    /// Number of placebo releases.
    releases: u32,
    /// Number of them that would have been rolled back.
    rolled_back: u32,
    /// Their percentage.
    percent: f64,
    /// The 95 % interval of the percentage. Releases of one draw are not independent.
    interval: [f64; 2],
}

/// Reads the log and returns the text to print.
pub(super) fn run(
    args: &PlaceboArgs,
    file: &Path,
    display: &DisplayContext,
) -> Result<String, CliError> {
    let name = file.display().to_string();
    let log = NamedLog {
        log: read_log(file)?,
        name,
    };
    if log.log.bad() == 0 {
        return Err(usage_error(format!(
            "--data {}: no request is bad, so there is nothing to compare",
            log.name
        ))
        .hint("Convert the log with other statuses, for example --bad-status 400-599"));
    }
    let budget_fraction = match args.objective {
        None => log.budget_fraction(),
        Some(objective) if objective > 0.0 && objective < 100.0 => 1.0 - objective / 100.0,
        Some(objective) => {
            return Err(usage_error(format!(
                "--objective {objective} must be above 0 and below 100: write for example 99.9"
            )));
        }
    };
    let options = LogPlaceboOptions {
        budget_fraction,
        alpha: AnalysisConfig::default().alpha,
        scrape_seconds: args.scrape_seconds,
        draws: args.draws,
        seed: args.seed,
    };
    let results: Vec<LogPlacebo> = SplitUnit::ALL
        .into_iter()
        .map(|unit| log_placebo(&log.log, unit, &options))
        .collect::<Result<_, _>>()
        .map_err(|error| {
            usage_error(format!("--data {}: {error}", log.name))
                .hint("Set the objective of the service with --objective, for example 99.9")
        })?;
    match args.output {
        Some(format) => {
            let routing = results.iter().map(UnitOutput::new).collect();
            let output = LogOutput {
                data: &log.name,
                requests: log.log.requests().len(),
                bad_requests: log.log.bad(),
                objective: 100.0 * (1.0 - budget_fraction),
                pods: STABLE_PODS,
                draws: args.draws,
                seed: args.seed,
                routing,
            };
            formatted(&output, format)
        }
        None => Ok(render(&log, &options, &results, display)),
    }
}

impl UnitOutput {
    fn new(result: &LogPlacebo) -> Self {
        let (low, high) = result.releases.interval();
        Self {
            router_decides: result.unit.name(),
            releases: result.releases.of,
            rolled_back: result.releases.count,
            percent: result.releases.percent(),
            interval: [low, high],
        }
    }
}

fn read_log(file: &Path) -> Result<RequestLog, CliError> {
    let name = file.display();
    let unreadable = |error: std::io::Error| {
        usage_error(format!("--data {name}: cannot be read: {error}"))
            .hint("Write a log with kubectl serin requests convert")
    };
    let mut input = BufReader::new(File::open(file).map_err(unreadable)?);
    let is_compressed = input
        .fill_buf()
        .map_err(unreadable)?
        .starts_with(&GZIP_MAGIC);
    let read = if is_compressed {
        RequestLog::read(BufReader::new(MultiGzDecoder::new(input)))
    } else {
        RequestLog::read(input)
    };
    read.map_err(|error| {
        usage_error(format!("--data {name}: {error}"))
            .hint("Convert access logs with kubectl serin requests convert")
    })
}

fn render(
    log: &NamedLog,
    options: &LogPlaceboOptions,
    results: &[LogPlacebo],
    display: &DisplayContext,
) -> String {
    let mut page = Page::new(display.width);
    let requests = &log.log;
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let count = requests.requests().len() as f64;
    #[expect(clippy::cast_precision_loss, reason = "at most 1e12 milliseconds")]
    let seconds = requests.duration_ms() as f64 / 1000.0;
    let summary = format!(
        "{}: {} requests in {}, {} bad",
        log.name,
        thousands(count),
        duration(seconds),
        percent(requests.bad_rate())
    );
    page.field("Log", &summary, style::plain);
    let rule = format!(
        "objective {}, scrapes of {} s, {STABLE_PODS} pods, {} draws",
        percent(1.0 - options.budget_fraction),
        options.scrape_seconds,
        thousands(f64::from(options.draws))
    );
    page.field("Rule", &rule, style::plain);
    page.heading("Placebo releases that would have been rolled back");
    for result in results {
        let (low, _) = result.releases.interval();
        let bound_percent = 100.0 * options.alpha;
        let style = if low > bound_percent {
            style::error
        } else if result.releases.percent() > bound_percent {
            style::warning
        } else {
            style::success
        };
        page.line(&format!(
            "  {:<16}{}",
            result.unit.name(),
            style(&share(result.releases))
        ));
    }
    page.gap();
    page.wrapped(
        ("", "", 0),
        &format!(
            "Percentages with their interval of 95 %. All pods serve the same version, so each \
             rollback is a false one. The bound is {} of the releases. Compare with the way in which \
             your router assigns requests.",
            percent(options.alpha)
        ),
        style::dimmed,
    );
    page.finish()
}

fn share(releases: Proportion) -> String {
    format!(
        "{} % of {}",
        releases.with_interval(),
        thousands(f64::from(releases.of))
    )
}

fn usage_error(message: impl Into<String>) -> CliError {
    CliError::new(Exit::Usage, message)
}
