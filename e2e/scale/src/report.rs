//! The tables of `docs/benchmarks.md`.

use std::time::Duration;

use crate::aborts::ABORT_TIMEOUT;
use crate::failover::OBSERVE_TIMEOUT;
use crate::phase::Phase;
use crate::product::Product;
use crate::results::{Ending, PhaseResult, ProductResults, Results, Takeover};
use crate::statistics::{Summary, growth_exponent, ratio};

/// A row of a table: its title and its value for a phase.
type Row = (&'static str, fn(&PhaseResult) -> String);

/// The phases that have the same table.
const FLEET_PHASES: [(Phase, &str); 4] = [
    (Phase::Create, "Create"),
    (Phase::Update, "Update all"),
    (Phase::Partial, "Update a tenth"),
    (Phase::Churn, "Steady updates"),
];

const ROWS: [Row; 15] = [
    ("wall time until all are done", wall),
    ("request to done: p50 / p90 / p99 / longest, s", |result| {
        quantiles(result.done.as_ref())
    }),
    (
        "request to the first write: p50 / p90 / p99 / longest, s",
        |result| quantiles(result.first_write.as_ref()),
    ),
    ("the longest of these waits / their mean", |result| {
        let summary = result.first_write.as_ref();
        optional(summary.and_then(Summary::max_to_mean), 1)
    }),
    ("controller CPU, s", |result| {
        decimals(result.usage.cpu("controller"), 2)
    }),
    ("controller CPU for each, ms", |result| {
        optional(controller_ms(result), 1)
    }),
    ("controller memory, peak, MiB", |result| {
        decimals(result.usage.peak_rss_mib, 0)
    }),
    ("writes for each (of these Events)", |result| {
        let each = |count: u64| optional(per_changed(result, to_f64(count)), 1);
        let requests = &result.requests;
        format!(
            "{} ({})",
            each(requests.write_count()),
            each(requests.event_count())
        )
    }),
    ("GETs and LISTs for each", |result| {
        let reads = to_f64(result.requests.read_count());
        optional(per_changed(result, reads), 2)
    }),
    ("failed requests", |result| {
        result.requests.failed.values().sum::<u64>().to_string()
    }),
    ("API server CPU, s", |result| {
        decimals(result.usage.cpu("kube-apiserver"), 1)
    }),
    (
        "API server CPU for each write of the controller, ms",
        |result| {
            let writes = to_f64(result.requests.write_count());
            let cpu = ratio(result.usage.cpu("kube-apiserver") * 1000.0, writes);
            optional(cpu, 1)
        },
    ),
    ("etcd / kube-controller-manager CPU, s", |result| {
        let cpu = |process| decimals(result.usage.cpu(process), 1);
        format!("{} / {}", cpu("etcd"), cpu("kube-controller-manager"))
    }),
    ("driver: time to send all requests, s", |result| {
        decimals(result.driver_seconds, 1)
    }),
    ("driver / anything else on the machine CPU, s", |result| {
        let cpu = |process| decimals(result.usage.cpu(process), 1);
        format!("{} / {}", cpu("driver"), cpu("other"))
    }),
];

type Cost = fn(&PhaseResult) -> Option<f64>;

/// Costs that are compared between products, and whose growth is reported.
const COSTS: [(&str, Cost); 6] = [
    ("wall time", |result| {
        is_complete(result).then_some(result.wall_seconds)
    }),
    ("median from request to done", |result| {
        result
            .done
            .filter(|_| is_complete(result))
            .map(|done| done.p50)
    }),
    ("controller CPU", |result| {
        Some(result.usage.cpu("controller"))
    }),
    ("controller memory, peak", |result| {
        Some(result.usage.peak_rss_mib)
    }),
    ("writes", |result| {
        Some(to_f64(result.requests.write_count()))
    }),
    ("API server CPU", |result| {
        Some(result.usage.cpu("kube-apiserver"))
    }),
];

/// All tables as Markdown.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    for product in &results.products {
        text.push_str(&format!(
            "- {}: {}\n",
            product.product.title(),
            product.environment
        ));
        if let Some(stopped) = &product.stopped {
            text.push_str(&format!("  Ended early: {stopped}.\n"));
        }
    }
    for (phase, title) in FLEET_PHASES {
        push_table(&mut text, title, &fleet_table(results, phase));
    }
    push_table(&mut text, "Idle", &idle_table(results));
    push_table(&mut text, "Aborts", &abort_table(results));
    push_table(
        &mut text,
        "Takeover by the standby",
        &takeover_table(results),
    );
    push_table(
        &mut text,
        "Start with existing rollouts",
        &start_table(results),
    );
    push_table(&mut text, "Relative to Serin", &ratio_table(results));
    push_table(&mut text, "Growth", &growth_table(results));
    text
}

/// Adds a table unless it has no rows.
fn push_table(text: &mut String, title: &str, table: &str) {
    if !table.is_empty() {
        text.push_str(&format!("\n### {title}\n\n{table}"));
    }
}

fn fleet_table(results: &Results, phase: Phase) -> String {
    let columns: Vec<(Product, &PhaseResult)> = results
        .products
        .iter()
        .flat_map(|product| {
            let phases = product.phases.iter().filter(|result| result.phase == phase);
            phases.map(|result| (product.product, result))
        })
        .collect();
    if columns.is_empty() {
        return String::new();
    }
    let heads = columns.iter().map(|(product, result)| {
        let (title, changed) = (product.title(), result.changed);
        if changed == result.rollouts {
            format!("{title}: {changed}")
        } else {
            format!("{title}: {changed} of {}", result.rollouts)
        }
    });
    let mut table = header("", heads.collect());
    for (title, value) in ROWS {
        table.push_str(&line(
            title,
            columns.iter().map(|(_, result)| value(result)).collect(),
        ));
    }
    table
}

fn idle_table(results: &Results) -> String {
    let mut table = String::new();
    for (product, result) in largest(results, Phase::Idle) {
        let requests = &result.requests;
        table.push_str(&line(
            &format!("{}: {}", product.title(), result.rollouts),
            vec![
                decimals(result.wall_seconds, 0),
                decimals(result.usage.cpu("controller"), 2),
                requests.write_count().to_string(),
                requests.leases.to_string(),
                requests.read_count().to_string(),
                decimals(result.usage.rss_mib, 0),
            ],
        ));
    }
    let heads = [
        "seconds",
        "CPU, s",
        "writes",
        "writes of Leases",
        "reads",
        "memory, MiB",
    ];
    with_header(&heads, table)
}

fn abort_table(results: &Results) -> String {
    let mut table = String::new();
    for (product, result) in largest(results, Phase::AbortFlood) {
        let Some(aborts) = &result.aborts else {
            continue;
        };
        let update = format!("update of {}", result.changed);
        for (what, when, summary) in [
            ("reported", "in quiet", &aborts.quiet_reported),
            ("canary scaled to 0", "in quiet", &aborts.quiet_removed),
            ("reported", update.as_str(), &aborts.flood_reported),
            ("canary scaled to 0", update.as_str(), &aborts.flood_removed),
        ] {
            let count = summary.map_or(0, |summary| summary.count);
            table.push_str(&line(
                &format!("{}, {when}, {what}", product.title()),
                vec![count.to_string(), quantiles_precise(summary.as_ref())],
            ));
        }
        if aborts.unfinished > 0 {
            let title = format!("{}, {}", product.title(), not_within(ABORT_TIMEOUT));
            let count = aborts.unfinished.to_string();
            table.push_str(&line(&title, vec![count, "-".into()]));
        }
    }
    with_header(&["aborts", "p50 / p90 / p99 / longest, s"], table)
}

fn takeover_table(results: &Results) -> String {
    let mut table = String::new();
    for (product, result) in largest(results, Phase::Failover) {
        for (ending, what) in [
            (Ending::Killed, "killed (SIGKILL)"),
            (Ending::Stopped, "stopped (SIGTERM)"),
        ] {
            let of_ending = result
                .takeovers
                .iter()
                .filter(|takeover| takeover.ending == ending);
            let takeovers: Vec<&Takeover> = of_ending.collect();
            if takeovers.is_empty() {
                continue;
            }
            let list = |time: fn(&Takeover) -> Option<f64>| {
                let times = takeovers.iter().map(|takeover| match time(takeover) {
                    Some(seconds) => decimals(seconds, 2),
                    None => not_within(OBSERVE_TIMEOUT),
                });
                times.collect::<Vec<_>>().join(", ")
            };
            let cells = vec![
                list(|takeover| takeover.first_write),
                list(|takeover| takeover.observed),
            ];
            let title = format!("{}: {}, {what}", product.title(), result.rollouts);
            table.push_str(&line(&title, cells));
        }
    }
    let heads = ["first write of the standby, s", "change observed, s"];
    with_header(&heads, table)
}

fn start_table(results: &Results) -> String {
    let mut table = String::new();
    for (product, result) in largest(results, Phase::Start) {
        let Some(start) = &result.start else {
            continue;
        };
        let observed = start.observed.map_or_else(
            || not_within(OBSERVE_TIMEOUT),
            |seconds| decimals(seconds, 2),
        );
        table.push_str(&line(
            &format!("{}: {}", product.title(), result.rollouts),
            vec![
                observed,
                decimals(start.cpu_seconds, 2),
                decimals(result.usage.cpu("controller"), 2),
                decimals(result.usage.peak_rss_mib, 0),
                result.requests.write_count().to_string(),
                result.requests.read_count().to_string(),
            ],
        ));
    }
    let heads = [
        "change observed, s",
        "CPU until then, s",
        "CPU in 30 s, s",
        "memory, peak, MiB",
        "writes",
        "reads",
    ];
    with_header(&heads, table)
}

/// The costs of the other products, divided by those of Serin, for the same phase and size.
fn ratio_table(results: &Results) -> String {
    let is_serin = |results: &&ProductResults| results.product == Product::Serin;
    let Some(serin) = results.products.iter().find(is_serin) else {
        return String::new();
    };
    let mut table = String::new();
    for other in &results.products {
        for result in &other.phases {
            let base = serin.phase(result.phase, result.rollouts);
            let (Some(base), false) = (base, other.product == Product::Serin) else {
                continue;
            };
            let is_fleet = FLEET_PHASES.iter().any(|(phase, _)| *phase == result.phase);
            if !is_fleet || base.changed != result.changed {
                continue;
            }
            let title = format!(
                "{}, {}: {}",
                other.product.title(),
                result.phase,
                result.changed
            );
            let cells = COSTS.iter().map(|(_, cost)| {
                let compared = cost(result).zip(cost(base));
                optional(compared.and_then(|(value, base)| ratio(value, base)), 2)
            });
            table.push_str(&line(&title, cells.collect()));
        }
    }
    with_header(&COSTS.map(|(title, _)| title), table)
}

/// The exponents of the costs between successive sizes. The memory is compared with the rollouts
/// that exist, everything else with those that were changed.
fn growth_table(results: &Results) -> String {
    let mut table = String::new();
    for product in &results.products {
        for phase in [Phase::Create, Phase::Update] {
            let sizes: Vec<&PhaseResult> = product
                .phases
                .iter()
                .filter(|result| result.phase == phase && result.changed > 0)
                .collect();
            for pair in sizes.windows(2) {
                let [small, large] = pair else { continue };
                let cells = COSTS.iter().map(|(title, cost)| {
                    let size = |result: &PhaseResult| {
                        let is_memory = title.contains("memory");
                        f64::from(if is_memory {
                            result.rollouts
                        } else {
                            result.changed
                        })
                    };
                    let costs = cost(small).zip(cost(large));
                    let exponent = costs.and_then(|(before, after)| {
                        growth_exponent((size(small), before), (size(large), after))
                    });
                    optional(exponent, 2)
                });
                let title = format!(
                    "{}, {phase}: {} to {}",
                    product.product.title(),
                    small.changed,
                    large.changed
                );
                table.push_str(&line(&title, cells.collect()));
            }
        }
    }
    with_header(&COSTS.map(|(title, _)| title), table)
}

/// The results of a phase with the most rollouts, by product.
fn largest(results: &Results, phase: Phase) -> impl Iterator<Item = (Product, &PhaseResult)> {
    results
        .products
        .iter()
        .filter_map(move |product| Some((product.product, product.largest(phase)?)))
}

fn wall(result: &PhaseResult) -> String {
    if is_complete(result) {
        return format!("{} s", decimals(result.wall_seconds, 1));
    }
    format!(
        "not within {} s: {} of {} done",
        decimals(result.limit_seconds, 0),
        result.changed.saturating_sub(result.unfinished),
        result.changed
    )
}

fn not_within(limit: Duration) -> String {
    format!("not within {} s", limit.as_secs())
}

fn is_complete(result: &PhaseResult) -> bool {
    result.unfinished == 0
}

fn controller_ms(result: &PhaseResult) -> Option<f64> {
    per_changed(result, result.usage.cpu("controller") * 1000.0)
}

fn per_changed(result: &PhaseResult, value: f64) -> Option<f64> {
    ratio(value, f64::from(result.changed))
}

fn quantiles(summary: Option<&Summary>) -> String {
    quantiles_with(summary, 1)
}

fn quantiles_precise(summary: Option<&Summary>) -> String {
    quantiles_with(summary, 2)
}

fn quantiles_with(summary: Option<&Summary>, places: usize) -> String {
    summary.map_or_else(
        || "-".to_owned(),
        |summary| {
            [summary.p50, summary.p90, summary.p99, summary.max]
                .map(|seconds| decimals(seconds, places))
                .join(" / ")
        },
    )
}

fn decimals(value: f64, places: usize) -> String {
    format!("{value:.places$}")
}

fn optional(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| decimals(value, places))
}

#[expect(clippy::cast_precision_loss, reason = "a number of requests")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

fn with_header(heads: &[&str], rows: String) -> String {
    if rows.is_empty() {
        return rows;
    }
    header("", heads.iter().map(|head| (*head).to_owned()).collect()) + &rows
}

fn header(title: &str, heads: Vec<String>) -> String {
    let rule = "---|".repeat(heads.len() + 1);
    format!("{}|{rule}\n", line(title, heads))
}

fn line(title: &str, cells: Vec<String>) -> String {
    format!("| {title} | {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests;
