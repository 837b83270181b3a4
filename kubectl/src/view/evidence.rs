//! What the metrics say, for people: counts first, comparison second, the guarantee last.

use serin_analysis::explain::thousands;
use serin_crds::status::{EvidenceStatus, LatencyGuardStatus};

use crate::page::{Page, Paint};
use crate::paint;

/// The width of a bar in columns.
const BAR: u32 = 20;

/// Writes the evidence of each objective.
pub fn evidence(page: &mut Page, objectives: &[EvidenceStatus]) {
    if objectives.is_empty() {
        return;
    }
    page.heading("Evidence");
    for objective in objectives {
        page.line(&format!("  {}", paint::strong(&objective.objective)));
        let line = |page: &mut Page, text: &str, paint: Paint| {
            page.wrapped(("    ", "    ", 4), text, paint)
        };
        let message = objective.message.as_deref().unwrap_or_default();
        // The controller's sentence may tell the counts or the budget already: nothing is told
        // twice.
        if !message.contains("anary failed") {
            line(page, &counts(objective), paint::plain);
        }
        if let Some(text) = excess(objective) {
            line(page, &text, paint::plain);
        }
        if !message.is_empty() {
            line(page, message, paint::plain);
        }
        if let Some(reading) = &objective.note {
            line(page, reading, paint::dim);
        }
        if let Some(guard) = &objective.latency_guard {
            line(page, &guarded(guard), paint::plain);
        }
        if let (Some(spent), Some(allotment)) = (objective.budget_spent, objective.budget_allotment)
        {
            budget(
                page,
                spent.max(0.0),
                allotment,
                message.contains("allotted errors"),
            );
        }
        if let (Some(e_value), Some(threshold)) = (objective.e_value, objective.threshold) {
            against(page, e_value, threshold);
        }
    }
}

/// What the latency guard says: its counts, and how much that is as evidence.
pub fn guarded(guard: &LatencyGuardStatus) -> String {
    let (Some(message), Some(e_value), Some(threshold)) =
        (&guard.message, guard.e_value, guard.threshold)
    else {
        return "The latency guard has not compared anything yet.".to_owned();
    };
    let acts = if guard.action == "RollBack" {
        ", and takes part in rolling back"
    } else {
        ""
    };
    format!(
        "Latency guard, of {} buckets the one that differs most: {message} E = {} (holds from {} on{acts}).",
        guard.edges,
        significant(e_value),
        significant(threshold),
    )
}

fn counts(objective: &EvidenceStatus) -> String {
    let (canary, stable) = (&objective.canary, &objective.stable);
    if canary.requests <= 0.0 {
        return "No request has reached the canary yet. This is not success.".to_owned();
    }
    let text = format!(
        "The canary failed {} of {} requests; stable failed {} of {}",
        thousands(canary.errors),
        thousands(canary.requests),
        thousands(stable.errors),
        thousands(stable.requests)
    );
    if stable.requests <= 0.0 {
        return format!("{text}.");
    }
    let expected = canary.requests * stable.errors / stable.requests;
    format!(
        "{text} (about {} expected of the canary).",
        significant(expected)
    )
}

fn excess(objective: &EvidenceStatus) -> Option<String> {
    let points = |fraction: f64| {
        format!(
            "{}{}",
            if fraction >= 1e-5 { "+" } else { "" },
            significant(fraction * 100.0)
        )
    };
    let excess = points(objective.excess?);
    // Bounds of a whole 100 points are no knowledge at all.
    let lower = objective.lower.filter(|lower| *lower > -1.0).map(points);
    let upper = objective.upper.filter(|upper| *upper < 1.0).map(points);
    let bounds = match (lower, upper) {
        (Some(lower), Some(upper)) => format!("between {lower} and {upper}"),
        (Some(lower), None) => format!("at least {lower}"),
        (None, Some(upper)) => format!("at most {upper}"),
        (None, None) => "too early for bounds".to_owned(),
    };
    Some(format!(
        "The canary's error rate is {excess} points beside stable's ({bounds})."
    ))
}

fn budget(page: &mut Page, spent: f64, allotment: f64, told: bool) {
    let share = if allotment > 0.0 {
        spent / allotment
    } else {
        1.0
    };
    let used = format!("{} %", significant(share * 100.0));
    let text = if told {
        format!("{used} used")
    } else {
        format!(
            "{} of {} errors used ({used})",
            significant(spent),
            significant(allotment)
        )
    };
    drawn(page, "budget ", share, &text);
}

/// The evidence against the canary, drawn by its logarithm, in which every scrape adds its part.
fn against(page: &mut Page, e_value: f64, threshold: f64) {
    let share = if threshold > 1.0 {
        e_value.max(1.0).ln() / threshold.ln()
    } else {
        1.0
    };
    let text = format!(
        "E = {} (rolls back at {})",
        significant(e_value),
        significant(threshold)
    );
    drawn(page, "against", share, &text);
    if e_value >= threshold {
        let guarantee = format!(
            "Evidence this strong rolls back a good release at most 1 time in {}.",
            significant(threshold)
        );
        page.wrapped(
            ("             ", "             ", 13),
            &guarantee,
            paint::dim,
        );
    }
}

/// How much there is of what may be.
fn drawn(page: &mut Page, label: &str, share: f64, text: &str) {
    const COLUMNS: usize = 4 + 7 + 2 + BAR as usize + 1;
    let paint: Paint = match share {
        share if share >= 1.0 => paint::bad,
        share if share >= 0.5 => paint::warn,
        _ => paint::good,
    };
    page.wrapped(
        (
            &format!("    {label}  {} ", paint(&bar(share))),
            &" ".repeat(COLUMNS),
            COLUMNS,
        ),
        text,
        paint::plain,
    );
}

fn bar(share: f64) -> String {
    let filled = (0..BAR)
        .filter(|cell| share * f64::from(BAR) >= f64::from(*cell) + 0.5)
        .count();
    format!(
        "{}{}",
        "█".repeat(filled),
        "░".repeat(BAR as usize - filled)
    )
}

/// A number as people read it: two digits that say something, none invented.
fn significant(number: f64) -> String {
    if !number.is_finite() {
        return "more than can be told".to_owned();
    }
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size >= 10.0 => thousands(number.round()),
        size if size >= 1.0 => trimmed(&format!("{number:.1}")),
        size if size >= 0.1 => trimmed(&format!("{number:.2}")),
        size if size >= 0.01 => trimmed(&format!("{number:.3}")),
        size if size >= 0.001 => trimmed(&format!("{number:.4}")),
        _ => "about 0".to_owned(),
    }
}

fn trimmed(text: &str) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_two_digits_that_say_something() {
        let cases = [
            (0.0, "0"),
            (0.31, "0.31"),
            (1.56, "1.6"),
            (37.2, "37"),
            (0.0123, "0.012"),
            (-0.5, "-0.5"),
            (2.0, "2"),
        ];
        for (number, text) in cases {
            assert_eq!(significant(number), text);
        }
        assert_eq!(significant(f64::INFINITY), "more than can be told");
    }

    #[test]
    fn a_guard_is_told_in_counts_and_with_where_it_acts() {
        let guard = LatencyGuardStatus {
            e_value: Some(3.12),
            threshold: Some(100.0),
            action: "Hold".to_owned(),
            edges: 4,
            message: Some(
                "7 of 50 requests of the canary took longer than 300 ms; of stable's 9 of 90."
                    .to_owned(),
            ),
            ..LatencyGuardStatus::default()
        };
        let told = "Latency guard, of 4 buckets the one that differs most: 7 of 50 requests of the canary took longer than 300 ms; of stable's 9 of 90. E = 3.1 (holds from 100 on).";
        assert_eq!(guarded(&guard), told);
        let rolls_back = LatencyGuardStatus {
            action: "RollBack".to_owned(),
            ..guard
        };
        assert!(
            guarded(&rolls_back).ends_with("(holds from 100 on, and takes part in rolling back).")
        );
        assert_eq!(
            guarded(&LatencyGuardStatus::default()),
            "The latency guard has not compared anything yet."
        );
    }

    #[test]
    fn a_bar_is_full_at_the_whole_and_never_longer() {
        assert_eq!(bar(0.0).matches('█').count(), 0);
        assert_eq!(bar(0.5).matches('█').count(), 10);
        assert_eq!(bar(7.0).chars().count(), 20);
    }
}
