//! `kubectl serin list`: one line for each Rollout.

use std::io::Write;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;

use crate::cli::ListArgs;
use crate::connect::{Connection, ask};
use crate::exit::Failure;
use crate::facts::Facts;
use crate::look::duration;
use crate::paint;
use crate::picture::{rollout_resource, rollouts};
use crate::view::of_phase;

/// How many objects a page of the list holds.
const PAGE: u32 = 500;

/// Lists the Rollouts.
///
/// # Errors
/// The API server could not be asked, or the output not be written.
pub async fn list(
    connection: &Connection,
    args: &ListArgs,
    now: Timestamp,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let api: Api<DynamicObject> = if args.all_namespaces {
        Api::all_with(connection.client.clone(), &rollout_resource())
    } else {
        rollouts(connection.client.clone(), &connection.namespace)
    };
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = ask("list Rollouts", api.list(&params)).await?;
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

/// The table: columns as wide as they need to be, the message last.
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
            let painted = match (index, column) {
                (0, _) => paint::dim(&padded),
                (_, 2) => of_phase(Some(&row[column]))(&padded),
                _ => padded,
            };
            text.push_str(&painted);
        }
        text.push_str(if index == 0 { "MESSAGE" } else { &row[last] });
        text.push('\n');
    }
    text
}

fn row(rollout: &DynamicObject, now: Timestamp) -> [String; 8] {
    let facts = Facts::of(rollout);
    let none = || "-".to_owned();
    let age = rollout
        .creation_timestamp()
        .map(|created| duration(now.duration_since(created.0).unsigned_abs()));
    let releasing = facts.current != facts.stable;
    [
        facts.namespace.clone(),
        facts.name.clone(),
        facts.phase.clone().unwrap_or_else(|| "Unknown".to_owned()),
        facts.step().unwrap_or_else(none),
        facts
            .asked
            .filter(|_| releasing)
            .map_or_else(none, |asked| format!("{asked} %")),
        facts.current.clone().unwrap_or_else(none),
        age.unwrap_or_else(none),
        facts.message.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_stand_below_each_other() {
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
                "weights": {"desired": 12.5}, "message": "waits to be promoted",
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
