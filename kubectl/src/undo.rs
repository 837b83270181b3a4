//! `kubectl serin undo`: sets the pod template of an earlier revision again.
//!
//! The return is a release like any other, unless `rollbackWindow` lets it skip the steps.

use std::io::Write;

use serde_json::{Value, json};

use crate::cli::UndoArgs;
use crate::connect::Connection;
use crate::display_text::printable;
use crate::exit::{CliError, Exit};
use crate::history::render_difference;
use crate::resources::read_rollout;
use crate::revisions::{self, RevisionEntry, template_yaml};
use crate::rollout_summary::RolloutSummary;
use crate::style;
use crate::template_owner::TemplateOwner;

/// Sets the template of an earlier revision.
///
/// # Errors
/// There is no such revision, or an object cannot be read or changed.
pub async fn undo(
    connection: &Connection,
    args: &UndoArgs,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let rollout = read_rollout(connection, &args.name).await?;
    let entries = revisions::read(connection, &rollout).await?;
    let summary = RolloutSummary::from_object(&rollout);
    let target = match &args.to_revision {
        Some(wanted) => revisions::find(&entries, wanted)?,
        None => previous(&entries, &summary, &rollout.data["status"])?,
    };
    let owner = TemplateOwner::read(connection, &args.name).await?;
    let revision = printable(&target.revision);
    if summary.current_revision.as_deref() == Some(&target.revision) {
        writeln!(
            out,
            "{}: revision {revision} is current already",
            owner.label
        )?;
        return Ok(());
    }
    if args.dry_run {
        out.write_all(difference(&entries, &summary, target).as_bytes())?;
        writeln!(
            out,
            "{}: revision {revision} would be set again (dry run)",
            owner.label
        )?;
        return Ok(());
    }
    let replace = json!({"op": "replace", "path": "/spec/template", "value": target.template});
    owner.patch(vec![replace]).await?;
    writeln!(
        out,
        "{}: the template of revision {revision} is set again",
        owner.label
    )?;
    let is_return = summary.stable_revision.as_deref() == Some(&target.revision);
    let next = if is_return {
        "It is the stable revision: the release ends, and its traffic returns to stable."
    } else {
        "It is released as usual; within spec.rollbackWindow, without the steps."
    };
    writeln!(out, "{next}")?;
    let (name, namespace) = (&args.name, &connection.namespace);
    writeln!(
        out,
        "To watch it: kubectl serin status {name} -n {namespace} --watch"
    )?;
    if let Some(warning) = owner.git_warning() {
        writeln!(out, "{}", style::warning(&printable(&warning)))?;
    }
    Ok(())
}

fn difference(
    entries: &[RevisionEntry],
    summary: &RolloutSummary,
    target: &RevisionEntry,
) -> String {
    let current = summary.current_revision.as_deref();
    let mut entries = entries.iter();
    let current = entries.find(|entry| Some(entry.revision.as_str()) == current);
    let old = current.map_or_else(String::new, |entry| template_yaml(&entry.template));
    render_difference(&old, &template_yaml(&target.template))
}

/// The revision to return to: during a release and after an abort the stable one, otherwise the one
/// that was promoted last before it, or the newest other one.
fn previous<'a>(
    entries: &'a [RevisionEntry],
    summary: &RolloutSummary,
    status: &Value,
) -> Result<&'a RevisionEntry, CliError> {
    let current = summary.current_revision.as_deref();
    let find = |revision: &str| entries.iter().find(|entry| entry.revision == revision);
    let stable = summary.stable_revision.as_deref();
    if let Some(stable) = stable
        .filter(|stable| Some(*stable) != current)
        .and_then(find)
    {
        return Ok(stable);
    }
    let history = status["history"].as_array().into_iter().flatten().rev();
    let promoted = history.filter(|release| release["result"] == "Promoted");
    let mut promoted = promoted.filter_map(|release| release["revision"].as_str());
    let earlier = promoted.find(|revision| Some(*revision) != current && find(revision).is_some());
    let newest = || {
        let mut entries = entries.iter();
        entries.find(|entry| Some(entry.revision.as_str()) != current)
    };
    earlier.and_then(find).or_else(newest).ok_or_else(|| {
        let problem = "there is no earlier revision";
        CliError::new(Exit::Usage, problem)
            .hint("spec.revisionHistoryLimit says how many ReplicaSets are kept.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str]) -> Vec<RevisionEntry> {
        let entry = |name: &&str| RevisionEntry {
            revision: (*name).to_owned(),
            created_at: None,
            pods: 0,
            template: json!({}),
            result: None,
        };
        names.iter().map(entry).collect()
    }

    fn summary(stable: &str, current: &str) -> RolloutSummary {
        RolloutSummary {
            stable_revision: Some(stable.to_owned()),
            current_revision: Some(current.to_owned()),
            ..RolloutSummary::default()
        }
    }

    #[test]
    fn undo_returns_to_stable_or_to_the_revision_that_was_promoted_before() {
        let history = json!({"history": [
            {"revision": "v1", "result": "Promoted"},
            {"revision": "v2", "result": "Promoted"},
            {"revision": "v3", "result": "Aborted"},
            {"revision": "v4", "result": "Promoted"},
        ]});
        let all = entries(&["v4", "v3", "v2", "v1"]);
        let chosen = |entries: &[RevisionEntry], stable: &str, current: &str, status: &Value| {
            let chosen = previous(entries, &summary(stable, current), status);
            chosen.map(|entry| entry.revision.clone())
        };
        assert_eq!(chosen(&all, "v4", "v5", &history).as_deref(), Ok("v4"));
        assert_eq!(chosen(&all, "v4", "v4", &history).as_deref(), Ok("v2"));
        assert_eq!(chosen(&all, "v4", "v4", &json!({})).as_deref(), Ok("v3"));
        let without_v2 = entries(&["v4", "v3", "v1"]);
        assert_eq!(
            chosen(&without_v2, "v4", "v4", &history).as_deref(),
            Ok("v1")
        );
        let error = chosen(&entries(&["v4"]), "v4", "v4", &history).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
    }
}
