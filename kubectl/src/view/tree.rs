//! The tree: Rollout, revisions, ReplicaSets, pods.

use crate::look::Look;
use crate::page::{Page, Paint};
use crate::paint;
use crate::report::{PodReport, Report, RevisionReport, Role};

/// How many ready pods of a ReplicaSet are named; those that are not ready are all named.
const READY_PODS_SHOWN: usize = 5;

/// Writes the tree.
pub fn revisions(page: &mut Page, report: &Report, look: &Look) {
    if report.revisions.is_empty() {
        return;
    }
    page.heading(&format!("Rollout {}", report.name));
    let last = report.revisions.len().saturating_sub(1);
    for (index, revision) in report.revisions.iter().enumerate() {
        let ends = index == last && report.kept_revisions == 0;
        branch(page, revision, ends, look);
    }
    match report.kept_revisions {
        0 => {}
        1 => page.line(&paint::dim("└─ 1 older revision without pods")),
        kept => page.line(&paint::dim(&format!(
            "└─ {kept} older revisions without pods"
        ))),
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
    let mut parts = vec![format!("{role} {}", revision.revision)];
    parts.extend(
        revision
            .weight_percent
            .map(|weight| format!("{weight} % of the traffic")),
    );
    parts.extend(
        revision
            .draining_until
            .map(|until| format!("its pods go in {}", look.ago(until))),
    );
    let (knot, stem) = if ends {
        ("└─ ", "   ")
    } else {
        ("├─ ", "│  ")
    };
    page.wrapped((knot, stem, 3), &parts.join(" · "), paint);
    let Some(set) = &revision.replica_set else {
        page.line(&format!("{stem}└─ {}", paint::dim("no ReplicaSet")));
        return;
    };
    let age = set
        .created_at
        .map_or_else(String::new, |created| format!(" · {}", look.ago(created)));
    let complete: Paint = if set.available >= set.desired {
        paint::plain
    } else {
        paint::warn
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
    pods(page, &revision.pods, stem, look);
}

fn pods(page: &mut Page, pods: &[PodReport], stem: &str, look: &Look) {
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
        let (mark, paint): (&str, Paint) = if pod.ready {
            ("✔", paint::good)
        } else {
            ("✖", paint::bad)
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
        parts.extend(pod.created_at.map(|created| look.ago(created)));
        let body: Paint = if pod.ready { paint::plain } else { paint::bad };
        let first = format!("{stem}   {knot} {} ", paint(mark));
        page.wrapped(
            (&first, &format!("{stem}   {under}   "), 11),
            &parts.join(" · "),
            body,
        );
    }
    if hidden > 0 {
        page.line(&format!(
            "{stem}   └─ {}",
            paint::dim(&format!("and {hidden} more that are ready"))
        ));
    }
}
