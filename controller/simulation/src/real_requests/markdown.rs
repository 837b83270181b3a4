//! Writes the tables as Markdown.

use std::fmt::Write as _;

use serin_analysis::explain::thousands;

use super::cells::{
    AaCell, AbCell, DEFAULT_SCRAPE_SECONDS, DEFAULT_WEIGHT, ERROR_FACTORS, ModeResult, RealReport,
    SCRAPE_SECONDS, WEIGHTS,
};
use super::fixed_weight_rule::CountingMode;
use super::split::SplitUnit;
use crate::proportion::format_percent;

/// The guaranteed maximum percentage of good releases that are rolled back.
const BOUND_PERCENT: f64 = 1.0;

/// Writes all tables of a report.
pub fn markdown(report: &RealReport) -> String {
    let mut out = String::new();
    logs(&mut out, report);
    summary(&mut out, report);
    by_weight(&mut out, report);
    by_scrape(&mut out, report);
    claims(&mut out, report);
    bad_releases(&mut out, report);
    other_rules(&mut out, report);
    out
}

fn logs(out: &mut String, report: &RealReport) {
    let _ = writeln!(
        out,
        "{} draws per cell, seed {}.\n\n| log | requests | bad | requests/s |\n|---|---|---|---|",
        thousands(report.options.splits.into()),
        report.options.seed
    );
    for (name, requests, bad_percent, rate) in &report.logs {
        #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
        let requests = thousands(*requests as f64);
        let _ = writeln!(
            out,
            "| {name} | {requests} | {} % | {rate:.1} |",
            format_percent(*bad_percent)
        );
    }
    out.push('\n');
}

/// Whether the interval of a cell lies completely above the bound.
fn exceeds_clearly(result: &ModeResult) -> bool {
    result.rolled_back.interval().0 > BOUND_PERCENT
}

fn summary(out: &mut String, report: &RealReport) {
    let _ = writeln!(
        out,
        "### Cells above 1 %\n\nAll weights and scrape intervals. *Above* counts cells with more \
         than 1 % false rollbacks, *clearly* those whose interval of 95 % lies above 1 %. \
         *Claimed* counts cells in which most releases have a claimed bound at the first scrape; \
         *declared* the others. *Upheld* counts the claimed cells in which most releases still have \
         it with the verdict.\n\n| router decides | mode | cells | above (clearly) | worst % | \
         claimed | claimed and above (clearly) | declared | upheld | upheld and above \
         |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for unit in SplitUnit::ALL {
        for (mode, mode_name) in [
            (CountingMode::Gateway, "gateway"),
            (CountingMode::Pods, "pods"),
        ] {
            let results: Vec<_> = report
                .aa
                .iter()
                .filter(|cell| cell.unit == unit)
                .map(|cell| cell.result(mode))
                .collect();
            let above = |result: &&&ModeResult| result.rolled_back.percent() > BOUND_PERCENT;
            let worst = results
                .iter()
                .map(|result| result.rolled_back.percent())
                .fold(0.0, f64::max);
            let claims = claim_counts(&results);
            let _ = writeln!(
                out,
                "| {} | {mode_name} | {} | {} ({}) | {} | {claims} |",
                unit.name(),
                results.len(),
                results.iter().filter(above).count(),
                results
                    .iter()
                    .filter(|result| exceeds_clearly(result))
                    .count(),
                format_percent(worst),
            );
        }
    }
    out.push('\n');
}

/// The columns on claims.
fn claim_counts(results: &[&ModeResult]) -> String {
    let (claimed, declared): (Vec<&ModeResult>, Vec<_>) = results
        .iter()
        .copied()
        .partition(|result| result.is_claimed());
    let above = claimed
        .iter()
        .filter(|result| result.rolled_back_of_claimed.percent() > BOUND_PERCENT);
    let clearly = claimed
        .iter()
        .filter(|result| result.rolled_back_of_claimed.interval().0 > BOUND_PERCENT);
    let upheld = || claimed.iter().filter(|result| result.upheld.is_most());
    let above_upheld =
        upheld().filter(|result| result.rolled_back_of_upheld.percent() > BOUND_PERCENT);
    format!(
        "{} | {} ({}) | {} | {} | {}",
        claimed.len(),
        above.count(),
        clearly.count(),
        declared.len(),
        upheld().count(),
        above_upheld.count()
    )
}

/// The cells of one log and unit in order of the report.
fn rows(report: &RealReport) -> impl Iterator<Item = (&str, SplitUnit, Vec<&AaCell>)> {
    report.logs.iter().flat_map(move |(name, ..)| {
        SplitUnit::ALL.into_iter().map(move |unit| {
            let is_in_row = |cell: &&AaCell| cell.log == *name && cell.unit == unit;
            let cells: Vec<_> = report.aa.iter().filter(is_in_row).collect();
            (name.as_str(), unit, cells)
        })
    })
}

fn percents<'a>(
    cells: impl Iterator<Item = &'a AaCell>,
    mode: CountingMode,
    value: impl Fn(&ModeResult) -> f64,
) -> String {
    let values: Vec<_> = cells
        .map(|cell| format_percent(value(cell.result(mode))))
        .collect();
    values.join(" / ")
}

fn by_weight(out: &mut String, report: &RealReport) {
    let weights: Vec<_> = WEIGHTS
        .iter()
        .map(|weight| format!("{:.0}", 100.0 * weight))
        .collect();
    let weights = weights.join(" / ");
    let _ = writeln!(
        out,
        "### Good releases by weight\n\nRolled back by evidence %, scrapes of \
         {DEFAULT_SCRAPE_SECONDS} s. The last column has the interval of 95 % at \
         {:.0} %.\n\n| log | router decides | gateway, {weights} % | pods, {weights} % | gateway; \
         pods |\n|---|---|---|---|---|",
        100.0 * DEFAULT_WEIGHT
    );
    for (name, unit, cells) in rows(report) {
        let row = || {
            let is_usual = |cell: &&&AaCell| cell.scrape_seconds == DEFAULT_SCRAPE_SECONDS;
            cells.iter().filter(is_usual).copied()
        };
        let usual = row().find(|cell| is_default_weight(cell.weight));
        let interval = usual.map_or_else(String::new, |cell| {
            let interval = |mode| cell.result(mode).rolled_back.with_interval();
            format!(
                "{}; {}",
                interval(CountingMode::Gateway),
                interval(CountingMode::Pods)
            )
        });
        let rolled_back = |result: &ModeResult| result.rolled_back.percent();
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {interval} |",
            unit.name(),
            percents(row(), CountingMode::Gateway, rolled_back),
            percents(row(), CountingMode::Pods, rolled_back),
        );
    }
    out.push('\n');
}

fn is_default_weight(weight: f64) -> bool {
    weight.to_bits() == DEFAULT_WEIGHT.to_bits()
}

fn by_scrape(out: &mut String, report: &RealReport) {
    let scrapes: Vec<_> = SCRAPE_SECONDS.iter().map(u32::to_string).collect();
    let scrapes = scrapes.join(" / ");
    let _ = writeln!(
        out,
        "### Good releases by scrape interval\n\nRolled back by evidence %, a weight of {:.0} %. \
         The last columns count only releases that are not promoted first.\n\n| log | router \
         decides | gateway, {scrapes} s | pods, {scrapes} s | gateway, before promotion | pods, \
         before promotion |\n|---|---|---|---|---|---|",
        100.0 * DEFAULT_WEIGHT
    );
    for (name, unit, cells) in rows(report) {
        let row = |mode, value: fn(&ModeResult) -> f64| {
            let usual = |cell: &&&AaCell| is_default_weight(cell.weight);
            percents(cells.iter().filter(usual).copied(), mode, value)
        };
        let all = |result: &ModeResult| result.rolled_back.percent();
        let first = |result: &ModeResult| result.before_promotion.percent();
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} | {} |",
            unit.name(),
            row(CountingMode::Gateway, all),
            row(CountingMode::Pods, all),
            row(CountingMode::Gateway, first),
            row(CountingMode::Pods, first),
        );
    }
    out.push('\n');
}

fn claims(out: &mut String, report: &RealReport) {
    let _ = writeln!(
        out,
        "### What is claimed\n\nReleases for which the bound is claimed at the first scrape %, then \
         rolled back % of those. At a gateway, and where stable's errors have shown no cluster, the \
         claim has the condition that requests are routed by chance or fail independently, so it \
         counts as claimed only per request. Scrapes of {DEFAULT_SCRAPE_SECONDS} s, by weight.\n\n| log | router decides | \
         gateway, claimed | rolled back of claimed | pods, claimed | rolled back of claimed \
         |\n|---|---|---|---|---|---|"
    );
    for (name, unit, cells) in rows(report) {
        let row = |mode, value: fn(&ModeResult) -> f64| {
            let usual = |cell: &&&AaCell| cell.scrape_seconds == DEFAULT_SCRAPE_SECONDS;
            percents(cells.iter().filter(usual).copied(), mode, value)
        };
        let claimed = |result: &ModeResult| result.claimed.percent();
        let wrong = |result: &ModeResult| result.rolled_back_of_claimed.percent();
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} | {} |",
            unit.name(),
            row(CountingMode::Gateway, claimed),
            row(CountingMode::Gateway, wrong),
            row(CountingMode::Pods, claimed),
            row(CountingMode::Pods, wrong),
        );
    }
    out.push('\n');
}

fn bad_releases(out: &mut String, report: &RealReport) {
    let _ = writeln!(
        out,
        "### Bad releases\n\nThe canary's errors are multiplied. Rolled back %, median seconds \
         (`-`: less than half are rolled back by the end of the log). A weight of {:.0} %, scrapes \
         of {DEFAULT_SCRAPE_SECONDS} s. A figure in parentheses has more than 1 % false rollbacks \
         in the same cell, so it is no measure of power.\n",
        100.0 * DEFAULT_WEIGHT
    );
    let factors: Vec<_> = ERROR_FACTORS
        .iter()
        .map(|factor| format!("{factor}x"))
        .collect();
    let _ = writeln!(
        out,
        "| log | router decides | mode | {} |\n|{}",
        factors.join(" | "),
        "---|".repeat(ERROR_FACTORS.len() + 3)
    );
    for (name, ..) in &report.logs {
        for unit in SplitUnit::ALL {
            let cells: Vec<_> = report
                .ab
                .iter()
                .filter(|cell| cell.log == *name && cell.unit == unit)
                .collect();
            for (mode_name, mode) in [
                ("gateway", CountingMode::Gateway),
                ("pods", CountingMode::Pods),
            ] {
                let values: Vec<_> = cells.iter().map(|cell| found(report, cell, mode)).collect();
                let _ = writeln!(
                    out,
                    "| {name} | {} | {mode_name} | {} |",
                    unit.name(),
                    values.join(" | ")
                );
            }
        }
    }
    out.push('\n');
}

fn found(report: &RealReport, cell: &AbCell, mode: CountingMode) -> String {
    let result = match mode {
        CountingMode::Gateway => &cell.gateway,
        CountingMode::Pods => &cell.pods,
    };
    let seconds = result
        .median_seconds
        .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0} s"));
    let text = format!("{:.0} %, {seconds}", result.rolled_back.percent());
    let good = report.aa.iter().find(|good| {
        good.log == cell.log
            && good.unit == cell.unit
            && good.scrape_seconds == DEFAULT_SCRAPE_SECONDS
            && is_default_weight(good.weight)
    });
    match good {
        Some(good) if good.result(mode).rolled_back.percent() > BOUND_PERCENT => {
            format!("({text})")
        }
        _ => text,
    }
}

fn other_rules(out: &mut String, report: &RealReport) {
    let cells: Vec<_> = report
        .aa
        .iter()
        .filter(|cell| !cell.other_rules.is_empty())
        .collect();
    if cells.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "### Good releases and other rules\n\nRolled back %, a weight of {:.0} %, scrapes of \
         {DEFAULT_SCRAPE_SECONDS} s. *Serin, k = 1* is the rule for \
         independent errors, without its allowance for clusters. The second threshold of *fixed* \
         is the error budget of the log.\n\n| log | router decides | Serin, gateway | Serin, pods \
         | Serin, k = 1 | fixed 1 % x 4 | fixed at \
         the objective x 4 | success 99 % x 5 | Mann-Whitney, 25 % \
         |\n|---|---|---|---|---|---|---|---|---|",
        100.0 * DEFAULT_WEIGHT
    );
    for cell in cells {
        let others: Vec<_> = cell
            .other_rules
            .iter()
            .map(|(_, rolled_back)| format_percent(rolled_back.percent()))
            .collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            cell.log,
            cell.unit.name(),
            format_percent(cell.gateway.rolled_back.percent()),
            format_percent(cell.pods.rolled_back.percent()),
            others.join(" | ")
        );
    }
    out.push('\n');
}
