//! The goals of the rule, compared with the observed figures.

use serin_analysis::explain::duration;

use crate::outcome::OutcomeSummary;
use crate::report::{BenchmarkReport, TableCell};
use crate::scenario::Conditions;

/// One figure and its goal.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// What is measured.
    pub what: String,
    /// The goal as text.
    pub goal: String,
    /// The observed figure as text: the worst of all cells to which the goal applies, and the name
    /// of that cell.
    pub observed: String,
    /// Whether the figure meets the goal.
    pub met: bool,
}

impl Goal {
    /// Creates a goal with an upper limit.
    fn at_most(what: &str, limit: f64, figure: &Figure, format: impl Fn(f64) -> String) -> Self {
        let observed = if figure.cell.is_empty() {
            format(figure.value)
        } else {
            format!("{} ({})", format(figure.value), figure.cell)
        };
        // A missing figure is NaN and does not meet the goal.
        Self {
            what: what.to_owned(),
            goal: format!("<= {}", format(limit)),
            observed,
            met: figure.value <= limit,
        }
    }
}

/// A figure and the name of its cell.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    value: f64,
    cell: String,
}

/// The highest figure. NaN if there are none.
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

fn figures<'a>(
    cells: impl Iterator<Item = &'a TableCell>,
    value: impl Fn(&OutcomeSummary) -> f64,
) -> impl Iterator<Item = Figure> {
    cells.map(move |cell| Figure {
        value: value(&cell.summary),
        cell: format!("{}, {}", cell.row, cell.column),
    })
}

/// One cell of the table of rules.
fn rule_figure(
    report: &BenchmarkReport,
    row: &str,
    column: &str,
    value: impl Fn(&OutcomeSummary) -> f64,
) -> Figure {
    let cell = report
        .rules
        .iter()
        .find(|cell| cell.row == row && cell.column == column);
    Figure {
        value: cell.map_or(f64::NAN, |cell| value(&cell.summary)),
        cell: String::new(),
    }
}

/// Compares every goal of the design with this report.
pub fn goals(report: &BenchmarkReport) -> Vec<Goal> {
    let mut goals = false_rollbacks(report);
    goals.extend(efficiency(report));
    goals.extend(speed(report));
    goals.push(Goal::at_most(
        "bad releases that spend more than an allotment A of 50 errors or more",
        5.0,
        &worst(figures(report.budget.iter(), |cell| cell.overspent)),
        percent,
    ));
    goals
}

fn false_rollbacks(report: &BenchmarkReport) -> Vec<Goal> {
    let sticky = Conditions::StickyRetries.name();
    let independent = || report.good.iter().filter(|cell| cell.row != sticky);
    let clustered = report.good.iter().filter(|cell| cell.row == sticky);
    let by_evidence = |cell: &OutcomeSummary| cell.rolled_back;
    let by_either = |cell: &OutcomeSummary| cell.rolled_back + cell.rolled_back_by_budget;
    vec![
        Goal::at_most(
            "good releases rolled back by evidence; 10, 100, 1000 requests/s, also with shared \
             bursts, daily drift, a warm-up spike (guaranteed: 1 %)",
            0.3,
            &worst(figures(independent(), by_evidence)),
            percent,
        ),
        Goal::at_most(
            "the same by evidence or by the budget rule (guaranteed: only 10 %)",
            0.3,
            &worst(figures(independent(), by_either)),
            percent,
        ),
        Goal::at_most(
            "releases as bad as the tolerances allow, rolled back by evidence (guaranteed: 1 %)",
            1.0,
            &worst(figures(report.edge.iter(), by_evidence)),
            percent,
        ),
        Goal::at_most(
            "good releases with sticky retries, an overdispersion of 7, tempered, rolled back by \
             either (no theorem)",
            1.0,
            &worst(figures(clustered, by_either)),
            percent,
        ),
        Goal::at_most(
            "releases at exactly the margin that are promoted",
            5.0,
            &worst(figures(report.margin.iter(), |cell| cell.promoted)),
            percent,
        ),
    ]
}

fn efficiency(report: &BenchmarkReport) -> Vec<Goal> {
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
            "mean requests to detect 2x to 10x, relative to the bound ln(1/alpha)/I, without \
             tolerance",
            1.5,
            &detection(10.0, |cell| cell.bound),
            ratio,
        ),
        Goal::at_most(
            "the same, 2x to 100x, relative to a sequential likelihood-ratio test with the known \
             effect",
            1.3,
            &detection(100.0, |cell| cell.oracle),
            ratio,
        ),
        Goal::at_most(
            "mean requests to promote, relative to the bound ln(1/beta)/I",
            1.25,
            &promotion,
            ratio,
        ),
    ]
}

fn speed(report: &BenchmarkReport) -> Vec<Goal> {
    const HALF_MARGIN: &str = "this rule, .5b";
    const FULL_MARGIN: &str = "this rule, 1b";
    let median = |cell: &OutcomeSummary| cell.median_seconds;
    vec![
        Goal::at_most(
            "50 % of the canary's requests fail, scrapes of 15 s: the slowest decision of all runs",
            30.0,
            &rule_figure(report, "50 % fail", HALF_MARGIN, |cell| {
                cell.slowest_seconds
            }),
            duration_of,
        ),
        Goal::at_most(
            "100 requests/s: median time to promote a good release, margin 1b",
            300.0,
            &rule_figure(report, "A/A", FULL_MARGIN, median),
            duration_of,
        ),
        Goal::at_most(
            "the same, margin .5b",
            650.0,
            &rule_figure(report, "A/A", HALF_MARGIN, median),
            duration_of,
        ),
        Goal::at_most(
            "100 requests/s: median time to roll back ten times the errors",
            180.0,
            &rule_figure(report, "10x", HALF_MARGIN, median),
            duration_of,
        ),
        Goal::at_most(
            "the same: mean errors beyond those of stable",
            15.0,
            &rule_figure(report, "10x", HALF_MARGIN, |cell| cell.excess_errors),
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
    use crate::{SimulationOptions, run};

    #[test]
    fn every_goal_has_a_figure_and_its_worst_cell() {
        let report = run(SimulationOptions { runs: 4, seed: 1 }).unwrap();
        let goals = goals(&report);
        assert_eq!(goals.len(), 14);
        assert!(
            goals.iter().all(|goal| !goal.observed.contains("NaN")),
            "{goals:#?}"
        );
        assert!(
            goals[0].observed.contains("requests/s"),
            "{}",
            goals[0].observed
        );
    }

    #[test]
    fn a_missing_figure_does_not_meet_its_goal() {
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
