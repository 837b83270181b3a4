//! `kubectl serin history`: the revisions of a Rollout, and what a return to one of them changes.

use std::io::Write;

use jiff::Timestamp;
use kube::core::DynamicObject;

use crate::cli::HistoryArgs;
use crate::connect::Connection;
use crate::display::human_duration;
use crate::display_text::{printable, printable_lines};
use crate::exit::CliError;
use crate::line_diff::{DiffLine, diff};
use crate::resources::read_rollout;
use crate::revisions::{self, RevisionEntry, template_yaml};
use crate::rollout_summary::RolloutSummary;
use crate::style;

/// Prints the revisions, or one of them.
///
/// # Errors
/// The Rollout, its ReplicaSets or the revision cannot be read, or the output cannot be written.
pub async fn history(
    connection: &Connection,
    args: &HistoryArgs,
    now: Timestamp,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let rollout = read_rollout(connection, &args.name).await?;
    let entries = revisions::read(connection, &rollout).await?;
    let text = match &args.revision {
        None => table(&rollout, &entries, now),
        Some(wanted) => {
            let entry = revisions::find(&entries, wanted)?;
            if args.template {
                printable_lines(&template_yaml(&entry.template)).into_owned()
            } else {
                difference(&rollout, &entries, entry)
            }
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// One line for each revision. The images are the last column and are not padded.
fn table(rollout: &DynamicObject, entries: &[RevisionEntry], now: Timestamp) -> String {
    let head = ["REVISION", "AGE", "PODS", "ROLE", "LAST RELEASE", "IMAGES"];
    let mut rows = vec![head.map(ToOwned::to_owned)];
    let summary = RolloutSummary::from_object(rollout);
    rows.extend(entries.iter().map(|entry| row(&summary, entry, now)));
    let last = head.len() - 1;
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..last).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:width$}  "));
        }
        line.push_str(&row[last]);
        text.push_str(&if index == 0 {
            style::dimmed(&line)
        } else {
            line
        });
        text.push('\n');
    }
    text
}

fn row(summary: &RolloutSummary, entry: &RevisionEntry, now: Timestamp) -> [String; 6] {
    let age = entry
        .created_at
        .map(|created| human_duration(now.duration_since(created).unsigned_abs()));
    let none = || "-".to_owned();
    let result = entry.result.as_deref();
    [
        printable(&entry.revision).into_owned(),
        age.unwrap_or_else(none),
        entry.pods.to_string(),
        role(summary, &entry.revision).unwrap_or("-").to_owned(),
        result.map_or_else(none, |result| printable(result).into_owned()),
        printable(&entry.images().join(", ")).into_owned(),
    ]
}

fn role(summary: &RolloutSummary, revision: &str) -> Option<&'static str> {
    let is = |other: &Option<String>| other.as_deref() == Some(revision);
    match (is(&summary.stable_revision), is(&summary.current_revision)) {
        (true, true) => Some("stable, current"),
        (true, false) => Some("stable"),
        (false, true) if is(&summary.aborted_revision) => Some("current, aborted"),
        (false, true) => Some("current"),
        (false, false) => None,
    }
}

/// What a return to `entry` changes in the template. For the current revision: what it has changed.
fn difference(rollout: &DynamicObject, entries: &[RevisionEntry], entry: &RevisionEntry) -> String {
    let summary = RolloutSummary::from_object(rollout);
    let current = summary.current_revision.as_deref().unwrap_or_default();
    let current = entries.iter().position(|entry| entry.revision == current);
    let (from, to) = match current.map(|at| (&entries[at], entries.get(at + 1))) {
        Some((current, Some(before))) if current.revision == entry.revision => (before, entry),
        Some((current, _)) if current.revision != entry.revision => (current, entry),
        _ => {
            return format!(
                "{}\n{}",
                style::dimmed("There is no other revision to compare with. The template:"),
                printable_lines(&template_yaml(&entry.template))
            );
        }
    };
    let (old, new) = (template_yaml(&from.template), template_yaml(&to.template));
    let (from, to) = (printable(&from.revision), printable(&to.revision));
    format!("--- {from}\n+++ {to}\n{}", render_difference(&old, &new))
}

/// The difference of two texts with a sign before each line.
pub(crate) fn render_difference(old: &str, new: &str) -> String {
    let lines = diff(old, new);
    if lines.is_empty() {
        return "The templates are equal.\n".to_owned();
    }
    let render = |line: &DiffLine<'_>| match line {
        DiffLine::Same(text) => format!("  {}\n", printable(text)),
        DiffLine::Removed(text) => style::error(&format!("- {}", printable(text))) + "\n",
        DiffLine::Added(text) => style::success(&format!("+ {}", printable(text))) + "\n",
        DiffLine::Gap => style::dimmed("  ...") + "\n",
    };
    lines.iter().map(render).collect()
}
