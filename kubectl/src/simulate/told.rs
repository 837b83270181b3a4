//! The odds as a table, a chart and sentences.

use comfy_table::{CellAlignment, Table, presets};
use serin_analysis::explain::{duration, percent, rate, thousands};
use serin_simulation::odds::{Ended, Pace, Step};
use serin_simulation::{Decision, Options};

use super::{Case, quantile, sorted};
use crate::chart::{Chart, Ink, Line, Panel, Scale};
use crate::look::Look;
use crate::page::Page;
use crate::paint;

/// How long it took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub seconds: f64,
    pub cores: usize,
}

/// The rows of the table.
const OUTCOMES: [(&str, Decision); 4] = [
    ("promoted", Decision::Promoted),
    ("rolled back by evidence", Decision::RolledBack),
    ("rolled back, budget spent", Decision::RolledBackByBudget),
    ("undecided, asks a person", Decision::Undecided),
];

pub(super) fn told(
    case: &Case,
    ended: &[Ended],
    options: Options,
    took: &Took,
    look: &Look,
) -> String {
    let scenario = &case.release.scenario;
    let mut page = Page::new(look.width);
    let canary = scenario.effect.rate(scenario.stable_rate);
    page.field(
        "Rollout",
        &format!(
            "{}, objective {} {} %",
            case.name, case.objective.name, case.objective.objective
        ),
        paint::strong,
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
        paint::plain,
    );
    page.field("Pace", &pace(case), paint::plain);
    page.field(
        "Budget",
        &format!(
            "this release may cost {} errors beyond stable's",
            thousands(case.release.allotment.max(0.0).floor())
        ),
        paint::plain,
    );
    page.gap();
    for line in table(ended).lines() {
        page.line(line.trim_end());
    }
    page.gap();
    for sentence in verdict(case, ended, canary).iter().chain(&case.notes) {
        page.wrapped(("", "", 0), sentence, paint::plain);
    }
    page.gap();
    let text = page.finish() + &chart(case, ended).for_terminal(look.width);
    let ran = format!(
        "{} simulated releases (seed {}) in {:.1} s on {} {}. Times are from the first request to the canary; pods and the router take none here.",
        thousands(options.runs.into()),
        options.seed,
        took.seconds,
        took.cores,
        if took.cores == 1 { "core" } else { "cores" },
    );
    let mut foot = Page::new(look.width);
    foot.wrapped(("", "", 0), &ran, paint::dim);
    format!("{text}\n{}", foot.finish())
}

fn pace(case: &Case) -> String {
    match &case.release.pace {
        Pace::Evidence => {
            let steps = &case.release.judge.steps;
            let longest = duration(case.release.longest_seconds);
            format!(
                "set by evidence, from {} to {}, at most {longest}",
                percent(steps.first_weight),
                percent(steps.max_weight)
            )
        }
        Pace::Steps(steps) if steps.is_empty() => "no steps".to_owned(),
        Pace::Steps(steps) => {
            let told = steps.iter().map(|step| match step {
                Step::SetWeight(weight) => percent(*weight),
                Step::Pause(seconds) => format!("pause {}", duration(*seconds)),
                Step::Analysis(Some(seconds)) => format!("analysis {}", duration(*seconds)),
                Step::Analysis(None) => "analysis until proven".to_owned(),
            });
            told.collect::<Vec<_>>().join(", ")
        }
    }
}

fn of(ended: &[Ended], decision: Decision) -> Vec<&Ended> {
    ended
        .iter()
        .filter(|ended| ended.decision == decision)
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a number of runs")]
fn share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// How many of the runs, as a share where it is neither none nor all.
fn among(part: usize, all: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a number of runs")]
    let count = thousands(all as f64);
    match part {
        0 => format!("none of {count}"),
        part if part == all => format!("all {count}"),
        part => odds(part, all),
    }
}

/// A share with as many decimals as the runs can tell; what never happened is told as what it may
/// still be.
pub(super) fn odds(part: usize, all: usize) -> String {
    match part {
        // The rule of three: with 95 % confidence it is rarer than 3 in as many runs.
        0 => format!("< {}", percent(share(3, all).min(1.0))),
        part if part == all => format!("> {}", percent((1.0 - share(3, all)).max(0.0))),
        part => {
            // What is seldom has digits, too: 2 of 10,000 are not 0 %, and the rest not all.
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

fn table(ended: &[Ended]) -> String {
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
        let runs = of(ended, decision);
        if runs.is_empty() && decision == Decision::RolledBackByBudget {
            continue;
        }
        let (seconds, errors) = (
            sorted(&runs, |run| run.seconds),
            sorted(&runs, |run| run.excess_errors),
        );
        let time = |part| quantile(&seconds, part).map_or_else(|| "-".to_owned(), minutes);
        let cost = |part| {
            quantile(&errors, part)
                .map_or_else(|| "-".to_owned(), |errors| thousands(tenths(errors)))
        };
        table.add_row([
            name.to_owned(),
            odds(runs.len(), ended.len()),
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
    // Minus nothing is nothing.
    (value * 10.0).round() / 10.0 + 0.0
}

/// A time to the second, as it is compared: `2 min 30 s`.
pub(super) fn minutes(seconds: f64) -> String {
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

/// What the odds mean, in sentences.
fn verdict(case: &Case, ended: &[Ended], canary: f64) -> Vec<String> {
    let release = &case.release;
    let excess = canary - release.scenario.stable_rate;
    let promoted = of(ended, Decision::Promoted).len();
    let rolled_back = ended.len() - promoted - of(ended, Decision::Undecided).len();
    let mut sentences = Vec::new();
    if excess <= 0.0 {
        sentences.push(format!(
            "This canary is as good as stable: evidence rolls such a release back at most {} of the time, guaranteed. Here: {}.",
            percent(release.judge.alpha),
            among(rolled_back, ended.len())
        ));
    } else if excess >= release.evidence.delta1 {
        let by_steps =
            matches!(&release.pace, Pace::Steps(steps) if !steps.contains(&Step::Analysis(None)));
        let guarantee = if by_steps {
            "These steps promote once their time is over unless the evidence is against it; a last step `analysis: {}` promotes only what is proven."
                .to_owned()
        } else {
            format!(
                "A release this bad is promoted at most {} of the time, guaranteed.",
                percent(release.judge.beta)
            )
        };
        sentences.push(format!(
            "This canary adds {} points of errors, which is more than promotion allows ({}). {guarantee} Here: {}.",
            points(excess),
            points(release.evidence.delta1),
            among(promoted, ended.len())
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
            format!("{} of the releases", odds(overspent, ended.len()))
        };
        sentences.push(format!("{who} cost more than they may."));
    }
    sentences
}

fn points(fraction: f64) -> String {
    percent(fraction).trim_end_matches(" %").to_owned()
}

/// How many of the releases have ended, and how, by each time.
pub(super) fn chart(case: &Case, ended: &[Ended]) -> Chart {
    let last = ended.iter().map(|run| run.seconds).fold(1.0, f64::max);
    let curve = |runs: Vec<&Ended>| {
        let times = sorted(&runs, |run| run.seconds);
        let mut points = vec![(0.0, 0.0)];
        for (index, at) in times.iter().enumerate() {
            // Many end at one scrape: a step for each time is enough.
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
                Decision::RolledBack | Decision::RolledBackByBudget
            )
        })
        .collect();
    Chart {
        title: format!(
            "{}: how its release ends, by time since its first request",
            case.name
        ),
        span_seconds: (0.0, last),
        panels: vec![Panel {
            title: "Percent of the simulated releases".to_owned(),
            range: (0.0, 100.0),
            scale: Scale::Linear,
            lines: vec![
                Line {
                    name: "rolled back".to_owned(),
                    ink: Ink::Bad,
                    pieces: curve(rolled_back),
                },
                Line {
                    name: "promoted".to_owned(),
                    ink: Ink::Good,
                    pieces: curve(of(ended, Decision::Promoted)),
                },
            ],
        }],
        moments: Vec::new(),
    }
}
