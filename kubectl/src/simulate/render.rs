//! Renders the result of a simulation as a table, a chart and sentences.

use comfy_table::{CellAlignment, Table, presets};
use serin_analysis::explain::{duration, percent, rate, thousands};
use serin_simulation::release_simulation::{ReleaseOutcome, SimulatedPace, SimulatedStep};
use serin_simulation::{FinalDecision, SimulationOptions};

use super::{SimulationInput, quantile, sorted};
use crate::chart::{Chart, Line, LineStyle, Panel, Scale};
use crate::display::DisplayContext;
use crate::page::Page;
use crate::style;

/// Duration of a simulation.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimulationTiming {
    pub seconds: f64,
    pub cores: usize,
}

/// Rows of the table.
const OUTCOMES: [(&str, FinalDecision); 4] = [
    ("promoted", FinalDecision::Promoted),
    ("rolled back by evidence", FinalDecision::RolledBack),
    (
        "rolled back, budget spent",
        FinalDecision::RolledBackByBudget,
    ),
    ("undecided, manual review", FinalDecision::Undecided),
];

pub(super) fn render(
    input: &SimulationInput,
    ended: &[ReleaseOutcome],
    options: SimulationOptions,
    took: &SimulationTiming,
    display: &DisplayContext,
) -> String {
    let scenario = &input.release.scenario;
    let mut page = Page::new(display.width);
    let canary = scenario.effect.rate(scenario.stable_rate);
    page.field(
        "Rollout",
        &format!(
            "{}, objective {} {} %",
            input.name, input.objective.name, input.objective.objective
        ),
        style::bold,
    );
    page.field(
        "Service",
        &format!(
            "{} requests/s, a scrape every {} s; stable fails {}, the canary {}",
            rate(scenario.requests_per_second),
            scenario.tick_seconds,
            percent(scenario.stable_rate),
            percent(canary)
        ),
        style::plain,
    );
    page.field("Pace", &pace_text(input), style::plain);
    page.field(
        "Budget",
        &format!(
            "up to {} excess errors over stable",
            thousands(input.release.allotment.max(0.0).floor())
        ),
        style::plain,
    );
    page.gap();
    for line in table(ended).lines() {
        page.line(line.trim_end());
    }
    page.gap();
    for sentence in conclusions(input, ended, canary).iter().chain(&input.notes) {
        page.wrapped(("", "", 0), sentence, style::plain);
    }
    page.gap();
    let text = page.finish() + &chart(input, ended).for_terminal(display.width);
    let ran = format!(
        "{} simulated releases (seed {}) in {:.1} s on {} {}. Times start at the first request to the canary. Pod startup and router delays are not simulated.",
        thousands(options.runs.into()),
        options.seed,
        took.seconds,
        took.cores,
        if took.cores == 1 { "core" } else { "cores" },
    );
    let mut foot = Page::new(display.width);
    foot.wrapped(("", "", 0), &ran, style::dimmed);
    format!("{text}\n{}", foot.finish())
}

fn pace_text(input: &SimulationInput) -> String {
    match &input.release.pace {
        SimulatedPace::Evidence => {
            let steps = &input.release.analysis.steps;
            let longest = duration(input.release.max_duration_seconds);
            format!(
                "set by evidence, from {} to {}, at most {longest}",
                percent(steps.first_weight),
                percent(steps.max_weight)
            )
        }
        SimulatedPace::Steps(steps) if steps.is_empty() => "no steps".to_owned(),
        SimulatedPace::Steps(steps) => {
            let steps = steps.iter().map(|step| match step {
                SimulatedStep::SetWeight(weight) => percent(*weight),
                SimulatedStep::Pause(seconds) => format!("pause {}", duration(*seconds)),
                SimulatedStep::Analysis(Some(seconds)) => {
                    format!("analysis {}", duration(*seconds))
                }
                SimulatedStep::Analysis(None) => "analysis until sufficient".to_owned(),
            });
            steps.collect::<Vec<_>>().join(", ")
        }
    }
}

fn runs_with_decision(ended: &[ReleaseOutcome], decision: FinalDecision) -> Vec<&ReleaseOutcome> {
    ended
        .iter()
        .filter(|ended| ended.decision == decision)
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a number of runs")]
fn share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// The count as `none`, `all` or a percentage.
fn count_or_share(part: usize, all: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a number of runs")]
    let count = thousands(all as f64);
    match part {
        0 => format!("none of {count}"),
        part if part == all => format!("all {count}"),
        part => format_odds(part, all),
    }
}

/// A percentage with as many decimals as the number of runs supports. Outcomes that never occurred
/// are shown with a 95 % upper bound.
pub(super) fn format_odds(part: usize, all: usize) -> String {
    match part {
        // Rule of three: the 95 % upper bound of an event that did not occur in n runs is 3/n.
        0 => format!("< {}", percent(share(3, all).min(1.0))),
        part if part == all => format!("> {}", percent((1.0 - share(3, all)).max(0.0))),
        part => {
            // Rare outcomes keep their digits: 2 of 10,000 is not 0 %.
            let share = share(part, all);
            let digits = if (0.01..=0.99).contains(&share) {
                1e3
            } else {
                1e5
            };
            percent((share * digits).round() / digits)
        }
    }
}

fn table(ended: &[ReleaseOutcome]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "",
        "\nodds",
        "median\ntime",
        "90 %\nwithin",
        "median\nerrors",
        "90 %\nat most",
    ]);
    for (name, decision) in OUTCOMES {
        let runs = runs_with_decision(ended, decision);
        if runs.is_empty() && decision == FinalDecision::RolledBackByBudget {
            continue;
        }
        let (seconds, errors) = (
            sorted(&runs, |run| run.seconds),
            sorted(&runs, |run| run.excess_errors),
        );
        let time = |part| quantile(&seconds, part).map_or_else(|| "-".to_owned(), format_minutes);
        let cost = |part| {
            quantile(&errors, part)
                .map_or_else(|| "-".to_owned(), |errors| thousands(tenths(errors)))
        };
        table.add_row([
            name.to_owned(),
            format_odds(runs.len(), ended.len()),
            time(0.5),
            time(0.9),
            cost(0.5),
            cost(0.9),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn tenths(value: f64) -> f64 {
    // Avoids -0.
    (value * 10.0).round() / 10.0 + 0.0
}

/// A time to the second, for example `2 min 30 s`.
pub(super) fn format_minutes(seconds: f64) -> String {
    if !(60.0..3_600.0).contains(&seconds) {
        return duration(seconds);
    }
    let seconds = seconds.round();
    let (whole, rest) = ((seconds / 60.0).floor(), seconds % 60.0);
    if rest == 0.0 {
        format!("{whole} min")
    } else {
        format!("{whole} min {rest} s")
    }
}

/// The conclusions, one sentence each.
fn conclusions(input: &SimulationInput, ended: &[ReleaseOutcome], canary: f64) -> Vec<String> {
    let release = &input.release;
    let excess = canary - release.scenario.stable_rate;
    let promoted = runs_with_decision(ended, FinalDecision::Promoted).len();
    let rolled_back =
        ended.len() - promoted - runs_with_decision(ended, FinalDecision::Undecided).len();
    let mut sentences = Vec::new();
    if excess <= 0.0 {
        sentences.push(format!(
            "This canary is as good as stable: evidence rolls such a release back at most {} of the time, guaranteed. Here: {}.",
            percent(release.analysis.alpha),
            count_or_share(rolled_back, ended.len())
        ));
    } else if excess >= release.evidence.delta1 {
        let by_steps = matches!(&release.pace, SimulatedPace::Steps(steps) if !steps.contains(&SimulatedStep::Analysis(None)));
        let guarantee = if by_steps {
            "These steps promote when their time is over unless the evidence is against it. A last step `analysis: {}` promotes only with sufficient evidence."
                .to_owned()
        } else {
            format!(
                "A release this bad is promoted at most {} of the time, guaranteed.",
                percent(release.analysis.beta)
            )
        };
        sentences.push(format!(
            "This canary adds {} points of errors, which is more than promotion allows ({}). {guarantee} Here: {}.",
            points(excess),
            points(release.evidence.delta1),
            count_or_share(promoted, ended.len())
        ));
    } else {
        sentences.push(format!(
            "This canary adds {} points of errors, which is less than the {} that promotion must rule out: nothing is guaranteed either way.",
            points(excess),
            points(release.evidence.delta1)
        ));
    }
    let overspent = ended.iter().filter(|run| run.overspent).count();
    if overspent > 0 {
        let all = overspent == ended.len();
        let who = if all {
            "All of the releases".to_owned()
        } else {
            format!("{} of the releases", format_odds(overspent, ended.len()))
        };
        sentences.push(format!("{who} exceeded their error allotment."));
    }
    sentences
}

fn points(fraction: f64) -> String {
    percent(fraction).trim_end_matches(" %").to_owned()
}

/// Chart of the cumulative share of releases by outcome.
pub(super) fn chart(input: &SimulationInput, ended: &[ReleaseOutcome]) -> Chart {
    let last = ended.iter().map(|run| run.seconds).fold(1.0, f64::max);
    let curve = |runs: Vec<&ReleaseOutcome>| {
        let times = sorted(&runs, |run| run.seconds);
        let mut points = vec![(0.0, 0.0)];
        for (index, at) in times.iter().enumerate() {
            // Many releases end at the same scrape: one point per time is enough.
            if times.get(index + 1).is_none_or(|next| next > at) {
                points.push((*at, points.last().map_or(0.0, |(_, share)| *share)));
                points.push((*at, 100.0 * share(index + 1, ended.len())));
            }
        }
        points.push((last, points.last().map_or(0.0, |(_, share)| *share)));
        vec![points]
    };
    let rolled_back = ended
        .iter()
        .filter(|run| {
            matches!(
                run.decision,
                FinalDecision::RolledBack | FinalDecision::RolledBackByBudget
            )
        })
        .collect();
    Chart {
        title: format!(
            "{}: release outcomes by time since the first request",
            input.name
        ),
        span_seconds: (0.0, last),
        panels: vec![Panel {
            title: "Simulated releases (%)".to_owned(),
            range: (0.0, 100.0),
            scale: Scale::Linear,
            lines: vec![
                Line {
                    name: "rolled back".to_owned(),
                    style: LineStyle::Bad,
                    pieces: curve(rolled_back),
                },
                Line {
                    name: "promoted".to_owned(),
                    style: LineStyle::Good,
                    pieces: curve(runs_with_decision(ended, FinalDecision::Promoted)),
                },
            ],
        }],
        markers: Vec::new(),
    }
}
