//! `kubectl serin audit`: which workloads meet the guardrails.
//!
//! Everything is read once and evaluated with the code of the controller. Nothing is written.

mod cluster;
mod html;
mod inventory;
mod report;
mod table;
mod workload;

use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;
use serin_crds::guardrails::Guardrails;

pub use html::escape;
pub use inventory::{Inventory, Policy};
pub use report::{AuditReport, Outcome, Row, RowOutcome, Share};
pub use workload::Workload;

use crate::cli::{AuditArgs, AuditFormat};
use crate::connect::Connection;
use crate::display_text::escaped_json;
use crate::documents;
use crate::exit::{CliError, Exit};

/// The guardrails of the chart, which apply to workloads that no policy has guardrails for.
const RECOMMENDED: &str = include_str!("../../../charts/serin/files/guardrails.yaml");

/// The guardrails that the chart ships.
///
/// # Errors
/// A message if they cannot be read, which is a mistake in this program.
pub fn recommended() -> Result<Guardrails, CliError> {
    serde_saphyr::from_str(RECOMMENDED)
        .map_err(|error| CliError::new(Exit::Usage, format!("the built-in guardrails: {error}")))
}

/// Reads the RolloutPolicies of files and folders.
///
/// # Errors
/// A file cannot be opened, is not YAML, or contains no RolloutPolicy.
fn read_policies(paths: &[PathBuf]) -> Result<Vec<Policy>, CliError> {
    let documents = documents::read(paths)?;
    if let Some(problem) = documents.problems.first() {
        return Err(CliError::new(Exit::Usage, format!("--policy {problem}")));
    }
    let objects = documents.objects.iter();
    let policies: Vec<Policy> = objects
        .filter_map(|one| Policy::from_object(&one.object))
        .collect();
    if policies.is_empty() && !paths.is_empty() {
        let names: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let message = format!("--policy {}: contains no RolloutPolicy", names.join(", "));
        return Err(CliError::new(Exit::Usage, message));
    }
    Ok(policies)
}

/// Audits manifests, or the cluster of the connection, and prints the result.
///
/// # Errors
/// The workloads cannot be read, or the output cannot be written.
pub async fn audit(
    connection: Option<&Connection>,
    args: &AuditArgs,
    now: Timestamp,
    out: &mut (dyn Write + Send),
) -> Result<Exit, CliError> {
    let policies = read_policies(&args.policies)?;
    let inventory = match connection {
        None => {
            let documents = documents::read(&args.files)?;
            let mut inventory = Inventory::from_documents(&documents, policies);
            inventory
                .workloads
                .retain(|workload| args.deployments || workload.kind == "Rollout");
            inventory
        }
        Some(connection) => {
            let scope = cluster::Scope {
                namespace: (!args.all_namespaces).then_some(connection.namespace.as_str()),
                deployments: args.deployments,
                policies,
            };
            cluster::read(connection, scope).await?
        }
    };
    let report = AuditReport::new(&inventory, &recommended()?, now);
    let text = match args.output {
        AuditFormat::Table => table::render(&report),
        AuditFormat::Html => html::render(&report),
        AuditFormat::Json => {
            let json = serde_json::to_string_pretty(&report);
            let json = json.map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
            format!("{}\n", escaped_json(&json))
        }
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let fails = args.strict && report.has_failures();
    Ok(if fails { Exit::Refused } else { Exit::Done })
}
