//! Measures Serin, Argo Rollouts and Flagger with thousands of rollouts on the same control plane.
//!
//! [`run`] starts, for each product, a control plane of its own on the loopback interface ([kwok]
//! simulates the node and its pods), and a controller outside of it with default flags. A driver
//! creates and updates rollouts, watches when each is done, and reads the CPU time and memory of
//! all processes, and the requests of the controller from the audit log.
//!
//! [kwok]: https://kwok.sigs.k8s.io

mod aborts;
mod api;
mod audit;
mod control_plane;
mod failover;
mod fleet;
mod peers;
mod phase;
mod phases;
mod process;
mod product;
mod product_run;
mod report;
mod results;
mod statistics;
mod tools;

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::product_run::ProductRun;
use crate::tools::Tools;

pub use audit::Requests;
pub use peers::{PeerController, Peers};
pub use phase::{Phase, ScaleOptions};
pub use product::Product;
pub use report::markdown;
pub use results::{
    AbortResult, Ending, PhaseResult, ProductResults, Results, StartResult, Takeover, Usage,
};
pub use statistics::{Summary, growth_exponent, ratio};

/// A phase is left out if less time than this remains.
const MIN_PHASE_TIME: Duration = Duration::from_secs(20);

/// Builds the missing programs and measures all products, one after the other.
///
/// # Errors
/// If a program does not build. A product that fails or does not complete in time is not an error;
/// its results say so.
pub async fn run(options: &ScaleOptions) -> Result<Results> {
    let tools = Tools::prepare(&options.checkout, &options.products).await?;
    let end = Instant::now() + options.max_duration;
    let mut results = Results::default();
    for product in &options.products {
        let measured = Box::pin(measure(options, &tools, *product, end)).await?;
        results = results.merged(Results {
            products: vec![measured],
        });
    }
    Ok(results)
}

async fn measure(
    options: &ScaleOptions,
    tools: &Tools,
    product: Product,
    end: Instant,
) -> Result<ProductResults> {
    let mut results = ProductResults {
        product,
        environment: options.environment.clone(),
        phases: Vec::new(),
        stopped: None,
    };
    log(&format!("{product}: starting the control plane"));
    let mut bench = match ProductRun::start(options, tools, product, end).await {
        Ok(bench) => bench,
        Err(error) => {
            log(&format!("{product}: {error:#}"));
            results.stopped = Some(format!("start: {error:#}"));
            return Ok(results);
        }
    };
    let mut sizes = options.rollouts.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let largest = sizes.last().copied();
    'sizes: for size in sizes {
        let is_largest = Some(size) == largest;
        for phase in Phase::ALL.into_iter().filter(|phase| {
            let is_wanted = *phase == Phase::Create || options.phases.contains(phase);
            is_wanted && (is_largest || phase.runs_at_each_size())
        }) {
            if end.saturating_duration_since(Instant::now()) < MIN_PHASE_TIME {
                results.stopped = Some(format!("no time left before {phase} with {size}"));
                break 'sizes;
            }
            let began = Instant::now();
            log(&format!("{product}: {phase} with {size} ..."));
            match phases::run(&mut bench, phase, size).await {
                Ok(Some(result)) => {
                    log(&progress_line(product, &result, began.elapsed()));
                    let unfinished = result.unfinished;
                    results.phases.push(result);
                    // Later phases would measure the rest of this one.
                    if unfinished > 0 {
                        results.stopped = Some(format!("{phase} with {size} was not done in time"));
                        break 'sizes;
                    }
                }
                Ok(None) => log(&format!("{product}: cannot run {phase}")),
                Err(error) => {
                    log(&format!("{product}: {phase} failed: {error:#}"));
                    results.stopped = Some(format!("{phase} with {size}: {error:#}"));
                    break 'sizes;
                }
            }
        }
    }
    bench.stop().await?;
    Ok(results)
}

fn progress_line(product: Product, result: &PhaseResult, took: Duration) -> String {
    let done = result.done.map_or_else(String::new, |done| {
        format!(", p50 {:.1} s, max {:.1} s", done.p50, done.max)
    });
    let unfinished = match result.unfinished {
        0 => String::new(),
        count => format!(", {count} NOT DONE"),
    };
    format!(
        "{product}: {} with {}: {:.1} s{done}, controller {:.2} s CPU, {:.0} MiB, {} writes\
         {unfinished} ({:.0} s in all)",
        result.phase,
        result.rollouts,
        result.wall_seconds,
        result.usage.cpu("controller"),
        result.usage.peak_rss_mib,
        result.requests.write_count(),
        took.as_secs_f64(),
    )
}

/// Reports progress on standard error.
fn log(line: &str) {
    eprintln!("  {} {line}", jiff::Zoned::now().strftime("%H:%M:%S"));
}
