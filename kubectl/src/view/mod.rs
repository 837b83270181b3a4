//! A report as text, for a terminal of a given width.

use serin_crds::status::ReleaseStatus;

use crate::look::Look;
use crate::page::{Page, Paint};
use crate::paint;
use crate::report::{Report, RouteReport, StepState, Trouble};

mod asked;
pub(crate) mod evidence;
mod tree;

/// How many of the last releases are shown.
const RELEASES_SHOWN: usize = 3;

/// The report as text, painted.
pub fn render(report: &Report, look: &Look) -> String {
    let mut page = Page::new(look.width);
    head(&mut page, report, look);
    tree::revisions(&mut page, report, look);
    steps(&mut page, report, look);
    asked::budgets(&mut page, &report.budgets, look);
    evidence::evidence(&mut page, &report.evidence);
    asked::checks(&mut page, &report.checks, look);
    routes(&mut page, &report.routes);
    releases(&mut page, &report.releases, look);
    troubles(&mut page, &report.troubles, look);
    if !report.unread.is_empty() {
        page.heading("Could not be read");
        for line in &report.unread {
            page.wrapped(("  ", "  ", 2), line, paint::warn);
        }
    }
    page.finish()
}

/// How a phase is painted.
pub fn of_phase(phase: Option<&str>) -> Paint {
    match phase {
        Some("Healthy") => paint::good,
        Some("Degraded") => paint::bad,
        Some("Paused") => paint::warn,
        _ => paint::strong,
    }
}

fn head(page: &mut Page, report: &Report, look: &Look) {
    page.field(
        "Rollout",
        &format!("{} in namespace {}", report.name, report.namespace),
        paint::strong,
    );
    let mut stands = vec![
        report
            .phase
            .clone()
            .unwrap_or_else(|| "not yet seen by the controller".to_owned()),
    ];
    stands.extend(
        report
            .stage
            .clone()
            .filter(|stage| Some(stage) != report.phase.as_ref()),
    );
    stands.extend(report.step.as_ref().map(|step| format!("step {step}")));
    page.field(
        "Phase",
        &stands.join(" · "),
        of_phase(report.phase.as_deref()),
    );
    if let Some(weight) = weight(report, look) {
        page.field("Canary", &weight, paint::plain);
    }
    if let Some(message) = report
        .message
        .as_ref()
        .filter(|_| !report.waits_in_a_pause())
    {
        page.field("Message", message, paint::plain);
    }
    waiting(page, report, look);
    if let Some(abort) = &report.abort {
        let by = abort
            .by
            .as_ref()
            .map_or_else(String::new, |by| format!(" by {by}"));
        let when = format!(
            "{} ago, revision {}, {}{by}",
            look.ago(abort.at),
            abort.revision,
            abort.cause
        );
        page.field("Aborted", &when, paint::bad);
        if !report
            .message
            .as_ref()
            .is_some_and(|message| message.contains(&abort.message))
        {
            page.field("", &abort.message, paint::plain);
        }
    }
}

fn weight(report: &Report, look: &Look) -> Option<String> {
    // With one revision there is no canary to speak of.
    if report.current_revision == report.stable_revision || report.stable_revision.is_none() {
        return None;
    }
    let weights = report.weights.as_ref()?;
    let asked = weights.desired;
    Some(match (weights.verified, weights.since) {
        (Some(seen), Some(since)) if crate::facts::same(seen, asked) => {
            format!(
                "{asked} % of the traffic, in effect for {}",
                look.ago(since)
            )
        }
        (Some(seen), _) if crate::facts::same(seen, asked) => format!("{asked} % of the traffic"),
        (Some(seen), _) => format!("{asked} % of the traffic asked for, {seen} % in effect"),
        (None, _) => format!("{asked} % of the traffic asked for, on its way"),
    })
}

fn waiting(page: &mut Page, report: &Report, look: &Look) {
    let Some(waiting) = &report.waiting else {
        return;
    };
    let mut text = waiting.what.clone();
    match (waiting.until, waiting.since) {
        (Some(until), _) if until > look.now => {
            text = format!(
                "{text}, {} left (until {})",
                look.ago(until),
                look.clock(until)
            );
        }
        (_, Some(since)) => text = format!("{text}, for {}", look.ago(since)),
        _ => {}
    }
    page.field("Waits for", &text, paint::warn);
    for command in &waiting.commands {
        page.field("", command, paint::dim);
    }
}

fn steps(page: &mut Page, report: &Report, look: &Look) {
    if report.steps.is_empty() {
        return;
    }
    page.heading("Steps");
    let digits = report.steps.len().to_string().len();
    for step in &report.steps {
        let (mark, paint): (&str, Paint) = match step.state {
            StepState::Done => ("✔", paint::good),
            StepState::Current => ("▶", paint::strong),
            StepState::Ahead => ("·", paint::dim),
        };
        let since = step
            .since
            .map_or_else(String::new, |since| format!("   since {}", look.ago(since)));
        page.line(&paint(&format!(
            "  {mark} {:>digits$}  {}{since}",
            step.number, step.text
        )));
    }
}

fn routes(page: &mut Page, routes: &[RouteReport]) {
    if routes.is_empty() {
        return;
    }
    page.heading("Routes");
    for route in routes {
        let several = route.splits.len() > 1;
        let splits: Vec<String> = route
            .splits
            .iter()
            .map(|split| {
                let rule = if several {
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
        let taken = match route.parents {
            1 if route.accepted == 1 => "taken over by its gateway".to_owned(),
            parents => format!("taken over by {} of {parents} gateways", route.accepted),
        };
        let text = match splits.as_slice() {
            [] => format!("{} {}", route.kind, route.name),
            splits => format!(
                "{} {}: {}; {taken}",
                route.kind,
                route.name,
                splits.join("; ")
            ),
        };
        let complete = route.problem.is_none() && route.accepted == route.parents;
        let (mark, paint): (&str, Paint) = if complete {
            ("✔", paint::good)
        } else {
            ("✖", paint::bad)
        };
        page.wrapped(
            (&format!("  {} ", paint(mark)), "    ", 4),
            &text,
            paint::plain,
        );
        if let Some(problem) = &route.problem {
            page.wrapped(("    ", "    ", 4), problem, paint::bad);
        }
    }
}

fn releases(page: &mut Page, releases: &[ReleaseStatus], look: &Look) {
    if releases.is_empty() {
        return;
    }
    page.heading("Last releases");
    for release in releases.iter().take(RELEASES_SHOWN) {
        let (mark, paint): (&str, Paint) = match release.result.as_str() {
            "Promoted" => ("✔", paint::good),
            "Aborted" => ("✖", paint::bad),
            _ => ("·", paint::dim),
        };
        let text = format!(
            "{} {} {} ago",
            release.revision,
            release.result.to_lowercase(),
            look.ago(release.at)
        );
        page.line(&format!("  {} {text}", paint(mark)));
        page.wrapped(("      ", "      ", 6), &release.message, paint::dim);
    }
    if let Some(more) = releases
        .len()
        .checked_sub(RELEASES_SHOWN)
        .filter(|&more| more > 0)
    {
        page.line(&paint::dim(&format!("    and {more} more (-o json)")));
    }
}

fn troubles(page: &mut Page, troubles: &[Trouble], look: &Look) {
    if troubles.is_empty() {
        return;
    }
    page.heading("Conditions that need a look");
    for trouble in troubles {
        let head = format!(
            "{} is {} ({}) for {}",
            trouble.condition,
            trouble.status,
            trouble.reason,
            look.ago(trouble.since)
        );
        page.wrapped(
            (&format!("  {} ", paint::bad("✖")), "    ", 4),
            &head,
            paint::bad,
        );
        page.wrapped(("    ", "    ", 4), &trouble.message, paint::plain);
    }
}

#[cfg(test)]
mod tests;
