//! Renders a report as text for a terminal of a given width.

use serin_core::state::{Phase, ReleaseResult};

use crate::display::DisplayContext;
use crate::page::{Page, Style};
use crate::report::{
    HoldReport, ReleaseReport, Report, RouteReport, StepState, UnhealthyCondition,
};
use crate::status_value::StatusValue;
use crate::style;

mod budgets;
pub(crate) mod evidence;
mod tree;

/// Number of past releases shown.
const RELEASES_SHOWN: usize = 3;

/// Renders the report as styled text.
pub fn render(report: &Report, display: &DisplayContext) -> String {
    let mut page = Page::new(display.width);
    write_header(&mut page, report, display);
    tree::write_revisions(&mut page, report, display);
    write_steps(&mut page, report, display);
    budgets::write_budgets(&mut page, &report.budgets, display);
    evidence::write_evidence(&mut page, &report.evidence);
    budgets::write_checks(&mut page, &report.checks, display);
    write_routes(&mut page, &report.routes);
    write_releases(&mut page, &report.releases, display);
    write_unhealthy_conditions(&mut page, &report.unhealthy_conditions, display);
    if !report.read_errors.is_empty() {
        page.heading("Read errors");
        for line in &report.read_errors {
            page.wrapped(("  ", "  ", 2), line, style::warning);
        }
    }
    page.finish()
}

/// Style of a phase.
pub fn phase_style(phase: Option<Phase>) -> Style {
    match phase {
        Some(Phase::Healthy) => style::success,
        Some(Phase::Degraded) => style::error,
        Some(Phase::Paused) => style::warning,
        Some(Phase::Progressing) | None => style::bold,
    }
}

fn write_header(page: &mut Page, report: &Report, display: &DisplayContext) {
    page.field(
        "Rollout",
        &format!("{} in namespace {}", report.name, report.namespace),
        style::bold,
    );
    write_wait(page, report, display);
    let phase = report.phase.as_ref();
    let mut parts = vec![
        phase
            .map_or("not yet reconciled", StatusValue::text)
            .to_owned(),
    ];
    let stage = report.stage.as_ref().map(StatusValue::text);
    parts.extend(
        stage
            .filter(|stage| Some(*stage) != phase.map(StatusValue::text))
            .map(str::to_owned),
    );
    parts.extend(report.step.as_ref().map(|step| format!("step {step}")));
    page.field(
        "Phase",
        &parts.join(" · "),
        phase_style(phase.and_then(StatusValue::known)),
    );
    if let Some(share) = canary_text(report, display) {
        page.field("Canary", &share, style::plain);
    }
    if let Some(message) = report
        .message
        .as_ref()
        .filter(|_| !report.is_message_redundant())
    {
        page.field("Message", message, style::plain);
    }
    if let Some(abort) = &report.abort {
        let by = abort
            .by
            .as_ref()
            .map_or_else(String::new, |by| format!(" by {by}"));
        let when = format!(
            "{} ago, revision {}, {}{by}",
            display.elapsed_since(abort.at),
            abort.revision,
            abort.cause
        );
        page.field("Aborted", &when, style::error);
        if !report
            .message
            .as_ref()
            .is_some_and(|message| message.contains(&abort.message))
        {
            page.field("", &abort.message, style::plain);
        }
    }
}

fn canary_text(report: &Report, display: &DisplayContext) -> Option<String> {
    let share = report.canary?;
    let since = report.weights.as_ref().and_then(|weights| weights.since);
    Some(match since.filter(|_| share.is_in_effect()) {
        Some(since) => {
            let elapsed = display.elapsed_since(since);
            format!("{}, in effect for {elapsed}", share.describe())
        }
        None => share.describe(),
    })
}

/// Writes what the release waits for: the first hold with its end, then all other holds.
fn write_wait(page: &mut Page, report: &Report, display: &DisplayContext) {
    let Some(waiting) = &report.waiting else {
        return;
    };
    let first = report.holds.first();
    let is_usual = first.is_some_and(|hold| hold.is_usual_wait(display.now));
    let (label, what) = match &waiting.code {
        Some(_) if is_usual => ("Waiting", waiting.what.trim_start_matches("waiting ")),
        Some(_) => ("Held", waiting.what.as_str()),
        None => ("Waits for", waiting.what.as_str()),
    };
    let without_stop = what.trim_end_matches('.');
    let mut text = what.to_owned();
    match (waiting.until, waiting.since) {
        (Some(until), _) if until > display.now => {
            text = format!(
                "{without_stop}, {} left (until {})",
                display.elapsed_since(until),
                display.format_time(until)
            );
        }
        (_, Some(since)) => text = format!("{without_stop}, for {}", display.elapsed_since(since)),
        _ => {}
    }
    page.field(label, &text, style::warning);
    let mut holds = report.holds.iter().filter(|_| waiting.code.is_some());
    if let Some(hold) = holds.next() {
        let meaning = format!("{}: {}", hold.code, hold.meaning());
        page.field("", &meaning, style::plain);
    }
    if let Some(ends) = &waiting.ends {
        page.field("", ends, style::plain);
    }
    for command in &waiting.commands {
        page.field("", command, style::dimmed);
    }
    for HoldReport { code, message, .. } in holds {
        page.field("Also held", &format!("{message} ({code})"), style::warning);
    }
}

fn write_steps(page: &mut Page, report: &Report, display: &DisplayContext) {
    if report.steps.is_empty() {
        return;
    }
    page.heading("Steps");
    let digits = report.steps.len().to_string().len();
    for step in &report.steps {
        let (mark, style): (&str, Style) = match step.state {
            StepState::Done => ("✔", style::success),
            StepState::Current => ("▶", style::bold),
            StepState::Ahead => ("·", style::dimmed),
        };
        let since = step.since.map_or_else(String::new, |since| {
            format!("   since {}", display.elapsed_since(since))
        });
        page.line(&style(&format!(
            "  {mark} {:>digits$}  {}{since}",
            step.number, step.text
        )));
    }
}

fn write_routes(page: &mut Page, routes: &[RouteReport]) {
    if routes.is_empty() {
        return;
    }
    page.heading("Routes");
    for route in routes {
        let has_several = route.splits.len() > 1;
        let splits: Vec<String> = route
            .splits
            .iter()
            .map(|split| {
                let rule = if has_several {
                    format!("rule {}: ", split.rule)
                } else {
                    String::new()
                };
                let side = |name: &str, weight: Option<i64>| {
                    weight.map_or_else(|| format!("no {name}"), |weight| format!("{name} {weight}"))
                };
                format!(
                    "{rule}{}, {}",
                    side("stable", split.stable),
                    side("canary", split.canary)
                )
            })
            .collect();
        let accepted = match route.parents {
            0 => "its router does not report acceptance".to_owned(),
            1 if route.accepted == 1 => "accepted by its gateway".to_owned(),
            parents => format!("accepted by {} of {parents} gateways", route.accepted),
        };
        let text = match splits.as_slice() {
            [] => format!("{} {}", route.kind, route.name),
            splits => format!(
                "{} {}: {}; {accepted}",
                route.kind,
                route.name,
                splits.join("; ")
            ),
        };
        let complete = route.problem.is_none() && route.accepted == route.parents;
        let (mark, style): (&str, Style) = if complete {
            ("✔", style::success)
        } else {
            ("✖", style::error)
        };
        page.wrapped(
            (&format!("  {} ", style(mark)), "    ", 4),
            &text,
            style::plain,
        );
        if let Some(problem) = &route.problem {
            page.wrapped(("    ", "    ", 4), problem, style::error);
        }
    }
}

fn write_releases(page: &mut Page, releases: &[ReleaseReport], display: &DisplayContext) {
    if releases.is_empty() {
        return;
    }
    page.heading("Last releases");
    for release in releases.iter().take(RELEASES_SHOWN) {
        let (mark, style): (&str, Style) = match release.result.known() {
            Some(ReleaseResult::Promoted) => ("✔", style::success),
            Some(ReleaseResult::Aborted) => ("✖", style::error),
            Some(ReleaseResult::Superseded) | None => ("·", style::dimmed),
        };
        let text = format!(
            "{} {} {} ago",
            release.revision,
            release.result.text().to_lowercase(),
            display.elapsed_since(release.at)
        );
        page.line(&format!("  {} {text}", style(mark)));
        page.wrapped(("      ", "      ", 6), &release.message, style::dimmed);
    }
    if let Some(more) = releases
        .len()
        .checked_sub(RELEASES_SHOWN)
        .filter(|&more| more > 0)
    {
        page.line(&style::dimmed(&format!("    and {more} more (-o json)")));
    }
}

fn write_unhealthy_conditions(
    page: &mut Page,
    unhealthy_conditions: &[UnhealthyCondition],
    display: &DisplayContext,
) {
    if unhealthy_conditions.is_empty() {
        return;
    }
    page.heading("Unhealthy conditions");
    for condition in unhealthy_conditions {
        let head = format!(
            "{} is {} ({}) for {}",
            condition.condition,
            condition.status,
            condition.reason,
            display.elapsed_since(condition.since)
        );
        page.wrapped(
            (&format!("  {} ", style::error("✖")), "    ", 4),
            &head,
            style::error,
        );
        page.wrapped(("    ", "    ", 4), &condition.message, style::plain);
    }
}

#[cfg(test)]
mod tests;
