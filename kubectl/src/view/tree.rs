//! Tree of the Rollout, its revisions, ReplicaSets and pods.

use crate::display::DisplayContext;
use crate::page::{Page, Style};
use crate::report::{PodReport, Report, RevisionReport, Role};
use crate::style;

/// Number of ready pods shown per ReplicaSet. Pods that are not ready are always shown.
const READY_PODS_SHOWN: usize = 5;

/// Writes the tree.
pub fn write_revisions(page: &mut Page, report: &Report, display: &DisplayContext) {
    if report.revisions.is_empty() {
        return;
    }
    page.heading(&format!("Rollout {}", report.name));
    let last = report.revisions.len().saturating_sub(1);
    for (index, revision) in report.revisions.iter().enumerate() {
        let ends = index == last && report.kept_revisions == 0;
        write_revision(page, revision, ends, display);
    }
    match report.kept_revisions {
        0 => {}
        1 => page.line(&style::dimmed("└─ 1 older revision without pods")),
        kept => page.line(&style::dimmed(&format!(
            "└─ {kept} older revisions without pods"
        ))),
    }
}

fn write_revision(
    page: &mut Page,
    revision: &RevisionReport,
    ends: bool,
    display: &DisplayContext,
) {
    let (role, style): (&str, Style) = match revision.role {
        Role::Canary => ("canary", style::warning),
        Role::Preview => ("preview", style::warning),
        Role::Aborted => ("aborted", style::error),
        Role::Stable => ("stable", style::success),
        Role::First => ("first", style::bold),
        Role::Old => ("old", style::dimmed),
    };
    let mut parts = vec![format!("{role} {}", revision.revision)];
    parts.extend(revision.traffic.map(|share| share.describe()));
    parts.extend(
        revision
            .draining_until
            .map(|until| format!("scales down in {}", display.elapsed_since(until))),
    );
    let (knot, stem) = if ends {
        ("└─ ", "   ")
    } else {
        ("├─ ", "│  ")
    };
    page.wrapped((knot, stem, 3), &parts.join(" · "), style);
    let Some(set) = &revision.replica_set else {
        page.line(&format!("{stem}└─ {}", style::dimmed("no ReplicaSet")));
        return;
    };
    let age = set.created_at.map_or_else(String::new, |created| {
        format!(" · {}", display.elapsed_since(created))
    });
    let complete: Style = if set.available >= set.desired {
        style::plain
    } else {
        style::warning
    };
    let line = format!(
        "ReplicaSet {} · {} of {} available{age}",
        set.name, set.available, set.desired
    );
    page.wrapped(
        (&format!("{stem}└─ "), &format!("{stem}   "), 6),
        &line,
        complete,
    );
    write_pods(page, &revision.pods, stem, display);
}

fn write_pods(page: &mut Page, pods: &[PodReport], stem: &str, display: &DisplayContext) {
    let ready = pods.iter().filter(|pod| pod.ready);
    let shown: Vec<&PodReport> = pods
        .iter()
        .filter(|pod| !pod.ready)
        .chain(ready.take(READY_PODS_SHOWN))
        .collect();
    let hidden = pods.len() - shown.len();
    for (index, pod) in shown.iter().enumerate() {
        let ends = index + 1 == shown.len() && hidden == 0;
        let (knot, under) = if ends {
            ("└─", "  ")
        } else {
            ("├─", "│ ")
        };
        let (mark, style): (&str, Style) = if pod.ready {
            ("✔", style::success)
        } else {
            ("✖", style::error)
        };
        let mut parts = vec![
            pod.name.clone(),
            pod.why.clone().unwrap_or_else(|| "ready".to_owned()),
        ];
        match pod.restarts {
            0 => {}
            1 => parts.push("1 restart".to_owned()),
            restarts => parts.push(format!("{restarts} restarts")),
        }
        parts.extend(pod.created_at.map(|created| display.elapsed_since(created)));
        let body: Style = if pod.ready {
            style::plain
        } else {
            style::error
        };
        let first = format!("{stem}   {knot} {} ", style(mark));
        page.wrapped(
            (&first, &format!("{stem}   {under}   "), 11),
            &parts.join(" · "),
            body,
        );
    }
    if hidden > 0 {
        page.line(&format!(
            "{stem}   └─ {}",
            style::dimmed(&format!("and {hidden} more ready pods"))
        ));
    }
}
