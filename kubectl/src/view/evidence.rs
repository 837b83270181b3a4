//! Evidence of each objective: counts first, then the comparison, then the guarantee.

use serin_analysis::budget::used_fraction;
use serin_analysis::explain::thousands;
use serin_core::text::Text;
use serin_crds::analysis::GuardAction;
use serin_crds::status::{EvidenceStatus, LatencyGuardStatus};

use crate::page::{Page, Style};
use crate::style;

/// Width of a bar in columns.
const BAR_COLUMNS: u32 = 20;

/// Writes the evidence of each objective.
pub fn write_evidence(page: &mut Page, objectives: &[EvidenceStatus]) {
    if objectives.is_empty() {
        return;
    }
    page.heading("Evidence");
    for objective in objectives {
        page.line(&format!("  {}", style::bold(&objective.objective)));
        let line = |page: &mut Page, text: &str, style: Style| {
            page.wrapped(("    ", "    ", 4), text, style);
        };
        let message = objective.message.as_deref().unwrap_or_default();
        // The controller's message may contain the counts or the budget already.
        if !message.contains("anary failed") {
            line(page, &counts_text(objective), style::plain);
        }
        if let Some(text) = excess_text(objective) {
            line(page, &text, style::plain);
        }
        if !message.is_empty() {
            line(page, message, style::plain);
        }
        if let Some(note) = &objective.note {
            line(page, note, style::dimmed);
        }
        if let Some(guard) = &objective.latency_guard {
            line(page, &latency_guard_text(guard), style::plain);
        }
        if let (Some(spent), Some(allotment)) = (objective.budget_spent, objective.budget_allotment)
        {
            write_budget_bar(
                page,
                spent.max(0.0),
                allotment,
                message.contains("allotted errors"),
            );
        }
        if let (Some(e_value), Some(threshold)) = (objective.e_value, objective.threshold) {
            let assumption = objective.assumption.as_ref().map(Text::as_str);
            write_evidence_bar(page, e_value, threshold, assumption);
        }
    }
}

/// The latency guard: its counts and its E-value.
pub fn latency_guard_text(guard: &LatencyGuardStatus) -> String {
    let (Some(message), Some(e_value), Some(threshold)) =
        (&guard.message, guard.e_value, guard.threshold)
    else {
        return "Latency guard: no comparison yet.".to_owned();
    };
    let acts = if guard.action == GuardAction::RollBack {
        " and can roll back"
    } else {
        ""
    };
    format!(
        "Latency guard (largest difference of {} buckets): {message} E-value {} (holds at {}{acts}).",
        guard.edges,
        significant_digits(e_value),
        significant_digits(threshold),
    )
}

fn counts_text(objective: &EvidenceStatus) -> String {
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
        "{text} (about {} expected at the same rate).",
        significant_digits(expected)
    )
}

fn excess_text(objective: &EvidenceStatus) -> Option<String> {
    let points = |fraction: f64| {
        format!(
            "{}{}",
            if fraction >= 1e-5 { "+" } else { "" },
            significant_digits(fraction * 100.0)
        )
    };
    let excess = points(objective.excess?);
    // A bound of 100 points means that nothing is known yet.
    let lower = objective.lower.filter(|lower| *lower > -1.0).map(points);
    let upper = objective.upper.filter(|upper| *upper < 1.0).map(points);
    let bounds = match (lower, upper) {
        (Some(lower), Some(upper)) => format!("between {lower} and {upper}"),
        (Some(lower), None) => format!("at least {lower}"),
        (None, Some(upper)) => format!("at most {upper}"),
        (None, None) => "no bounds yet".to_owned(),
    };
    Some(format!(
        "Difference from stable: {excess} percentage points ({bounds})."
    ))
}

fn write_budget_bar(page: &mut Page, spent: f64, allotment: f64, is_in_message: bool) {
    let share = used_fraction(spent, allotment).unwrap_or(1.0);
    let used = format!("{} %", significant_digits(share * 100.0));
    let text = if is_in_message {
        format!("{used} used")
    } else {
        format!(
            "{} of {} errors used ({used})",
            significant_digits(spent),
            significant_digits(allotment)
        )
    };
    write_bar(page, "budget ", share, &text);
}

/// The evidence against the canary on a logarithmic scale.
fn write_evidence_bar(page: &mut Page, e_value: f64, threshold: f64, assumption: Option<&str>) {
    let share = if threshold > 1.0 {
        e_value.max(1.0).ln() / threshold.ln()
    } else {
        1.0
    };
    let text = format!(
        "{} (rolls back at {})",
        significant_digits(e_value),
        significant_digits(threshold)
    );
    write_bar(page, "E-value", share, &text);
    if e_value >= threshold {
        let guarantee = assumption.map_or_else(
            || {
                format!(
                    "A good release reaches this at most 1 time in {}, if requests fail independently.",
                    significant_digits(threshold)
                )
            },
            ToOwned::to_owned,
        );
        page.wrapped(
            ("             ", "             ", 13),
            &guarantee,
            style::dimmed,
        );
    }
}

/// Writes a bar for a share of a limit, with its text.
fn write_bar(page: &mut Page, label: &str, share: f64, text: &str) {
    const COLUMNS: usize = 4 + 7 + 2 + BAR_COLUMNS as usize + 1;
    let style: Style = match share {
        share if share >= 1.0 => style::error,
        share if share >= 0.5 => style::warning,
        _ => style::success,
    };
    page.wrapped(
        (
            &format!("    {label}  {} ", style(&bar(share))),
            &" ".repeat(COLUMNS),
            COLUMNS,
        ),
        text,
        style::plain,
    );
}

fn bar(share: f64) -> String {
    let filled = (0..BAR_COLUMNS)
        .filter(|cell| share * f64::from(BAR_COLUMNS) >= f64::from(*cell) + 0.5)
        .count();
    format!(
        "{}{}",
        "█".repeat(filled),
        "░".repeat(BAR_COLUMNS as usize - filled)
    )
}

/// A number with two significant digits.
fn significant_digits(number: f64) -> String {
    if !number.is_finite() {
        return "unlimited".to_owned();
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
    fn numbers_have_two_significant_digits() {
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
            assert_eq!(significant_digits(number), text);
        }
        assert_eq!(significant_digits(f64::INFINITY), "unlimited");
    }

    #[test]
    fn the_latency_guard_text_has_counts_and_threshold() {
        let guard = LatencyGuardStatus {
            e_value: Some(3.12),
            threshold: Some(100.0),
            action: GuardAction::Hold,
            edges: 4,
            message: Some(
                "7 of 50 requests of the canary took longer than 300 ms; of stable's 9 of 90."
                    .into(),
            ),
            ..LatencyGuardStatus::default()
        };
        let expected = "Latency guard (largest difference of 4 buckets): 7 of 50 requests of the canary took longer than 300 ms; of stable's 9 of 90. E-value 3.1 (holds at 100).";
        assert_eq!(latency_guard_text(&guard), expected);
        let rolls_back = LatencyGuardStatus {
            action: GuardAction::RollBack,
            ..guard
        };
        assert!(latency_guard_text(&rolls_back).ends_with("(holds at 100 and can roll back)."));
        assert_eq!(
            latency_guard_text(&LatencyGuardStatus::default()),
            "Latency guard: no comparison yet."
        );
    }

    #[test]
    fn a_bar_is_never_longer_than_its_width() {
        assert_eq!(bar(0.0).matches('█').count(), 0);
        assert_eq!(bar(0.5).matches('█').count(), 10);
        assert_eq!(bar(7.0).chars().count(), 20);
    }
}
