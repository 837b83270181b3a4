//! Renders a report as text for a terminal of a given width.

use serin_crds::status::ReleaseStatus;

use crate::display::DisplayContext;
use crate::page::{Page, Style};
use crate::report::{Report, RouteReport, StepState, UnhealthyCondition};
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
pub fn phase_style(phase: Option<&str>) -> Style {
    match phase {
        Some("Healthy") => style::success,
        Some("Degraded") => style::error,
        Some("Paused") => style::warning,
        _ => style::bold,
    }
}

fn write_header(page: &mut Page, report: &Report, display: &DisplayContext) {
    page.field(
        "Rollout",
        &format!("{} in namespace {}", report.name, report.namespace),
        style::bold,
    );
    let mut parts = vec![
        report
            .phase
            .clone()
            .unwrap_or_else(|| "not yet reconciled".to_owned()),
    ];
    parts.extend(
        report
            .stage
            .clone()
            .filter(|stage| Some(stage) != report.phase.as_ref()),
    );
    parts.extend(report.step.as_ref().map(|step| format!("step {step}")));
    page.field(
        "Phase",
        &parts.join(" · "),
        phase_style(report.phase.as_deref()),
    );
    if let Some(weight) = weight_text(report, display) {
        page.field("Canary", &weight, style::plain);
    }
    if let Some(message) = report
        .message
        .as_ref()
        .filter(|_| !report.is_waiting_in_pause())
    {
        page.field("Message", message, style::plain);
    }
    write_wait(page, report, display);
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

fn weight_text(report: &Report, display: &DisplayContext) -> Option<String> {
    // With one revision there is no canary.
    if report.current_revision == report.stable_revision || report.stable_revision.is_none() {
        return None;
    }
    let weights = report.weights.as_ref()?;
    let desired = weights.desired;
    Some(match (weights.verified, weights.since) {
        (Some(verified), Some(since)) if crate::rollout_summary::same_weight(verified, desired) => {
            format!(
                "{desired} % of traffic, in effect for {}",
                display.elapsed_since(since)
            )
        }
        (Some(verified), _) if crate::rollout_summary::same_weight(verified, desired) => {
            format!("{desired} % of traffic")
        }
        (Some(verified), _) => format!("{desired} % of traffic desired, {verified} % in effect"),
        (None, _) => format!("{desired} % of traffic desired, not yet confirmed"),
    })
}

fn write_wait(page: &mut Page, report: &Report, display: &DisplayContext) {
    let Some(waiting) = &report.waiting else {
        return;
    };
    let mut text = waiting.what.clone();
    match (waiting.until, waiting.since) {
        (Some(until), _) if until > display.now => {
            text = format!(
                "{text}, {} left (until {})",
                display.elapsed_since(until),
                display.format_time(until)
            );
        }
        (_, Some(since)) => text = format!("{text}, for {}", display.elapsed_since(since)),
        _ => {}
    }
    page.field("Waits for", &text, style::warning);
    for command in &waiting.commands {
        page.field("", command, style::dimmed);
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

fn write_releases(page: &mut Page, releases: &[ReleaseStatus], display: &DisplayContext) {
    if releases.is_empty() {
        return;
    }
    page.heading("Last releases");
    for release in releases.iter().take(RELEASES_SHOWN) {
        let (mark, style): (&str, Style) = match release.result.as_str() {
            "Promoted" => ("✔", style::success),
            "Aborted" => ("✖", style::error),
            _ => ("·", style::dimmed),
        };
        let text = format!(
            "{} {} {} ago",
            release.revision,
            release.result.to_lowercase(),
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
