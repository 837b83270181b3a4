//! What the rule is meant to reach, beside what was seen.

use serin_analysis::explain::duration;

use crate::outcome::Summary;
use crate::report::{Cell, Report};
use crate::world::Weather;

/// One figure beside its goal.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// What is measured.
    pub what: String,
    /// The goal, in words.
    pub goal: String,
    /// What was seen, in words: the worst of all cells that the goal speaks of, and which one that
    /// was.
    pub seen: String,
    /// Whether that is within the goal.
    pub met: bool,
}

impl Goal {
    /// A figure that is not to exceed a limit.
    fn at_most(what: &str, limit: f64, figure: &Figure, tell: impl Fn(f64) -> String) -> Self {
        let seen = if figure.cell.is_empty() {
            tell(figure.value)
        } else {
            format!("{} ({})", tell(figure.value), figure.cell)
        };
        // A figure that is not there meets no goal.
        Self {
            what: what.to_owned(),
            goal: format!("<= {}", tell(limit)),
            seen,
            met: figure.value <= limit,
        }
    }
}

/// A figure and the cell that it is of.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    value: f64,
    cell: String,
}

/// The highest of several; not a number where there are none.
fn worst(figures: impl Iterator<Item = Figure>) -> Figure {
    let none = Figure {
        value: f64::NAN,
        cell: String::new(),
    };
    figures.fold(none, |worst, figure| {
        if worst.value >= figure.value {
            worst
        } else {
            figure
        }
    })
}

fn percent(value: f64) -> String {
    format!("{} %", (value * 1000.0).round() / 1000.0)
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

fn errors(value: f64) -> String {
    format!("{value:.1} errors")
}

fn of_cells<'a>(
    cells: impl Iterator<Item = &'a Cell>,
    value: impl Fn(&Summary) -> f64,
) -> impl Iterator<Item = Figure> {
    cells.map(move |cell| Figure {
        value: value(&cell.summary),
        cell: format!("{}, {}", cell.row, cell.column),
    })
}

/// One cell of the table of rules.
fn of_rule(report: &Report, row: &str, column: &str, value: impl Fn(&Summary) -> f64) -> Figure {
    let cell = report
        .rules
        .iter()
        .find(|cell| cell.row == row && cell.column == column);
    Figure {
        value: cell.map_or(f64::NAN, |cell| value(&cell.summary)),
        cell: String::new(),
    }
}

/// Every goal of the design beside what this report has seen.
pub fn goals(report: &Report) -> Vec<Goal> {
    let mut goals = false_rollbacks(report);
    goals.extend(efficiency(report));
    goals.extend(speed(report));
    goals.push(Goal::at_most(
        "bad releases that spend more than an allotment A of 50 errors or more",
        5.0,
        &worst(of_cells(report.budget.iter(), |cell| cell.overspent)),
        percent,
    ));
    goals
}

fn false_rollbacks(report: &Report) -> Vec<Goal> {
    let sticky = Weather::StickyRetries.name();
    let independent = || report.good.iter().filter(|cell| cell.row != sticky);
    let clustered = report.good.iter().filter(|cell| cell.row == sticky);
    let by_evidence = |cell: &Summary| cell.rolled_back;
    let by_either = |cell: &Summary| cell.rolled_back + cell.rolled_back_by_budget;
    vec![
        Goal::at_most(
            "good releases rolled back by evidence; 10, 100, 1000 requests/s, also with shared bursts, daily drift, a warm-up spike (guaranteed: 1 %)",
            0.3,
            &worst(of_cells(independent(), by_evidence)),
            percent,
        ),
        Goal::at_most(
            "the same by evidence or by the budget's rule, for which theory says 10 % only",
            0.3,
            &worst(of_cells(independent(), by_either)),
            percent,
        ),
        Goal::at_most(
            "releases as bad as the tolerances allow, rolled back by evidence (guaranteed: 1 %)",
            1.0,
            &worst(of_cells(report.edge.iter(), by_evidence)),
            percent,
        ),
        Goal::at_most(
            "good releases with sticky retries, an overdispersion of 7, tempered, rolled back by either (no theorem)",
            1.0,
            &worst(of_cells(clustered, by_either)),
            percent,
        ),
        Goal::at_most(
            "releases at exactly the margin that are promoted",
            5.0,
            &worst(of_cells(report.margin.iter(), |cell| cell.promoted)),
            percent,
        ),
    ]
}

fn efficiency(report: &Report) -> Vec<Goal> {
    let detection = |most: f64, over: fn(&crate::Detection) -> f64| {
        let cells = report
            .detection
            .iter()
            .filter(move |cell| cell.times <= most);
        worst(cells.map(|cell| Figure {
            value: cell.requests_without_tolerance / over(cell),
            cell: format!("{}x at a weight of {}", cell.times, cell.weight),
        }))
    };
    let promotion = worst(report.promotion.iter().map(|cell| Figure {
        value: cell.requests / cell.bound,
        cell: format!(
            "an error rate of {}b, a margin of {}b",
            cell.rate_of_budget, cell.margin_of_budget
        ),
    }));
    vec![
        Goal::at_most(
            "mean requests to find 2x to 10x over the bound ln(1/alpha)/I, without tolerance",
            1.5,
            &detection(10.0, |cell| cell.bound),
            ratio,
        ),
        Goal::at_most(
            "the same, 2x to 100x, over a sequential likelihood-ratio test that knows the effect",
            1.3,
            &detection(100.0, |cell| cell.knowing),
            ratio,
        ),
        Goal::at_most(
            "mean requests to promote over the bound ln(1/beta)/I",
            1.25,
            &promotion,
            ratio,
        ),
    ]
}

fn speed(report: &Report) -> Vec<Goal> {
    const HALF: &str = "this rule, .5b";
    const WHOLE: &str = "this rule, 1b";
    let median = |cell: &Summary| cell.median_seconds;
    vec![
        Goal::at_most(
            "50 % of the canary's requests fail, scrapes of 15 s: the slowest decision of all runs",
            30.0,
            &of_rule(report, "50 % fail", HALF, |cell| cell.slowest_seconds),
            duration_of,
        ),
        Goal::at_most(
            "100 requests/s: median time to promote a good release, margin 1b",
            300.0,
            &of_rule(report, "A/A", WHOLE, median),
            duration_of,
        ),
        Goal::at_most(
            "the same, margin .5b",
            650.0,
            &of_rule(report, "A/A", HALF, median),
            duration_of,
        ),
        Goal::at_most(
            "100 requests/s: median time to roll back ten times the errors",
            180.0,
            &of_rule(report, "10x", HALF, median),
            duration_of,
        ),
        Goal::at_most(
            "the same: mean errors beyond those of stable",
            15.0,
            &of_rule(report, "10x", HALF, |cell| cell.excess_errors),
            errors,
        ),
    ]
}

fn duration_of(seconds: f64) -> String {
    if seconds < 1200.0 {
        format!("{seconds:.0} s")
    } else {
        duration(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, run};

    #[test]
    fn every_goal_has_a_figure_and_names_its_worst_cell() {
        let report = run(Options { runs: 4, seed: 1 }).unwrap();
        let goals = goals(&report);
        assert_eq!(goals.len(), 14);
        assert!(
            goals.iter().all(|goal| !goal.seen.contains("NaN")),
            "{goals:#?}"
        );
        assert!(goals[0].seen.contains("requests/s"), "{}", goals[0].seen);
    }

    #[test]
    fn a_figure_that_is_not_there_meets_no_goal() {
        let nothing = worst(std::iter::empty());
        assert!(!Goal::at_most("nothing", 1.0, &nothing, ratio).met);
        assert!(
            Goal::at_most(
                "one",
                1.0,
                &Figure {
                    value: 1.0,
                    cell: String::new()
                },
                ratio
            )
            .met
        );
        let higher = |value| Figure {
            value,
            cell: value.to_string(),
        };
        assert_eq!(worst([1.0, 3.0, 2.0].map(higher).into_iter()), higher(3.0));
    }
}
