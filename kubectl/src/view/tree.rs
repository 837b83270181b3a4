//! The tree: Rollout, revisions, ReplicaSets, pods.

use super::page::{Page, Paint};
use super::{Look, paint};
use crate::report::{PodReport, Report, RevisionReport, Role};

/// How many ready pods of a ReplicaSet are named; those that are not ready are all named.
const READY_PODS_SHOWN: usize = 5;

/// Writes the tree.
pub fn revisions(page: &mut Page, report: &Report, look: &Look) {
    page.heading(&format!("Rollout {}", report.name));
    let last = report.revisions.len().saturating_sub(1);
    for (index, revision) in report.revisions.iter().enumerate() {
        let ends = index == last && report.kept_revisions == 0;
        branch(page, revision, ends, look);
    }
    match report.kept_revisions {
        0 => {}
        1 => page.line(&paint::dim("└─ 1 older revision without pods")),
        kept => page.line(&paint::dim(&format!("└─ {kept} older revisions without pods"))),
    }
}

fn branch(page: &mut Page, revision: &RevisionReport, ends: bool, look: &Look) {
    let (role, paint): (&str, Paint) = match revision.role {
        Role::Canary => ("canary", paint::warn),
        Role::Aborted => ("aborted", paint::bad),
        Role::Stable => ("stable", paint::good),
        Role::First => ("first", paint::strong),
        Role::Old => ("old", paint::dim),
    };
    let mut text = format!("{role} {}", revision.revision);
    if let Some(weight) = revision.weight_percent {
        text.push_str(&format!(" · {weight} % of the traffic"));
    }
    if let Some(until) = revision.draining_until {
        text.push_str(&format!(" · its pods go in {}", look.ago(until)));
    }
    let (knot, stem) = if ends { ("└─ ", "   ") } else { ("├─ ", "│  ") };
    page.wrapped((knot, stem, 3), &text, paint);
    let Some(set) = &revision.replica_set else {
        page.line(&format!("{stem}└─ {}", paint::dim("no ReplicaSet")));
        return;
    };
    let age = set.created_at.map_or_else(String::new, |created| format!(" · {}", look.ago(created)));
    let complete: Paint = if set.available >= set.desired { paint::plain } else { paint::warn };
    let line = format!("ReplicaSet {} · {} of {} available{age}", set.name, set.available, set.desired);
    page.wrapped((&format!("{stem}└─ "), &format!("{stem}   "), 6), &line, complete);
    pods(page, &revision.pods, stem, look);
}

fn pods(page: &mut Page, pods: &[PodReport], stem: &str, look: &Look) {
    let ready = pods.iter().filter(|pod| pod.ready);
    let shown: Vec<&PodReport> = pods.iter().filter(|pod| !pod.ready).chain(ready.take(READY_PODS_SHOWN)).collect();
    let hidden = pods.len() - shown.len();
    for (index, pod) in shown.iter().enumerate() {
        let ends = index + 1 == shown.len() && hidden == 0;
        let (knot, under) = if ends { ("└─", "  ") } else { ("├─", "│ ") };
        let (mark, paint): (&str, Paint) = if pod.ready { ("✔", paint::good) } else { ("✖", paint::bad) };
        let mut text = pod.name.clone();
        text.push_str(&format!(" · {}", pod.why.as_deref().unwrap_or("ready")));
        match pod.restarts {
            0 => {}
            1 => text.push_str(" · 1 restart"),
            restarts => text.push_str(&format!(" · {restarts} restarts")),
        }
        if let Some(created) = pod.created_at {
            text.push_str(&format!(" · {}", look.ago(created)));
        }
        let body: Paint = if pod.ready { paint::plain } else { paint::bad };
        let first = format!("{stem}   {knot} {} ", paint(mark));
        page.wrapped((&first, &format!("{stem}   {under}   "), 11), &text, body);
    }
    if hidden > 0 {
        page.line(&format!("{stem}   └─ {}", paint::dim(&format!("and {hidden} more that are ready"))));
    }
}
