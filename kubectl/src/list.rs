//! `kubectl serin list`: one line for each Rollout.

use std::io::Write;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;

use crate::cli::ListArgs;
use crate::connect::{Connection, send};
use crate::display::human_duration;
use crate::exit::CliError;
use crate::resources::{rollout_resource, rollouts};
use crate::rollout_summary::RolloutSummary;
use crate::status_value::StatusValue;
use crate::style;
use crate::view::phase_style;

/// Page size of the list requests.
const PAGE: u32 = 500;

/// Prints one line for each Rollout.
///
/// # Errors
/// Fails if the request fails or the output cannot be written.
pub async fn list(
    connection: &Connection,
    args: &ListArgs,
    now: Timestamp,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let api: Api<DynamicObject> = if args.all_namespaces {
        Api::all_with(connection.client.clone(), &rollout_resource())
    } else {
        rollouts(connection.client.clone(), &connection.namespace)
    };
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = send("list Rollouts", api.list(&params)).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    if found.is_empty() {
        let place = if args.all_namespaces {
            "any namespace".into()
        } else {
            format!("namespace {}", connection.namespace)
        };
        writeln!(out, "No Rollouts in {place}.")?;
        return Ok(());
    }
    out.write_all(table(&found, args.all_namespaces, now).as_bytes())?;
    Ok(())
}

/// The table. The message is the last column and is not padded.
fn table(rollouts: &[DynamicObject], all_namespaces: bool, now: Timestamp) -> String {
    let head = [
        "NAMESPACE",
        "NAME",
        "PHASE",
        "STEP",
        "CANARY",
        "REVISION",
        "AGE",
        "MESSAGE",
    ]
    .map(ToOwned::to_owned);
    let mut rows = vec![head];
    rows.extend(rollouts.iter().map(|rollout| row(rollout, now)));
    let first = usize::from(!all_namespaces);
    let last = 7;
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..last).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, width) in widths.iter().copied().enumerate().skip(first) {
            let padded = format!("{:width$}  ", row[column]);
            let styled = match (index, column) {
                (0, _) => style::dimmed(&padded),
                (_, 2) => phase_style(StatusValue::from(row[column].as_str()).known())(&padded),
                _ => padded,
            };
            text.push_str(&styled);
        }
        text.push_str(if index == 0 { "MESSAGE" } else { &row[last] });
        text.push('\n');
    }
    text
}

fn row(rollout: &DynamicObject, now: Timestamp) -> [String; 8] {
    let summary = RolloutSummary::from_object(rollout);
    let none = || "-".to_owned();
    let age = rollout
        .creation_timestamp()
        .map(|created| human_duration(now.duration_since(created.0).unsigned_abs()));
    let releasing = summary.current_revision != summary.stable_revision;
    [
        summary.namespace.clone(),
        summary.name.clone(),
        summary
            .phase
            .as_ref()
            .map_or("Unknown", StatusValue::text)
            .to_owned(),
        summary.step_label().unwrap_or_else(none),
        summary
            .canary_share()
            .filter(|_| releasing)
            .map_or_else(none, |share| match share.in_effect {
                Some(in_effect) => format!("{in_effect} %"),
                None => format!("{} % desired", share.desired),
            }),
        summary.current_revision.clone().unwrap_or_else(none),
        age.unwrap_or_else(none),
        summary.message.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rollout = |name: &str, status: serde_json::Value| -> DynamicObject {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
                "metadata": {"name": name, "namespace": "shop", "generation": 1, "creationTimestamp": "2026-03-01T11:00:00Z"},
                "spec": {}, "status": status,
            }))
            .unwrap()
        };
        let rollouts = [
            rollout(
                "checkout",
                serde_json::json!({
                "phase": "Paused", "currentRevision": "v2", "stableRevision": "v1", "step": {"index": 1},
                "weights": {"desired": 12.5, "verified": 12.5}, "message": "waits to be promoted",
                "plan": {"spec": {"strategy": {"canary": {"pace": {"steps": [1, 2, 3, 4]}}}}}}),
            ),
            rollout(
                "pay",
                serde_json::json!({
                "phase": "Healthy", "currentRevision": "v7", "stableRevision": "v7", "weights": {"desired": 0.0}}),
            ),
            rollout("new", serde_json::Value::Null),
        ];
        let text = table(&rollouts, false, "2026-03-01T12:00:00Z".parse().unwrap());
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }
}
