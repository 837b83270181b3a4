//! `kubectl serin placebo`: would Serin have rolled back the service's own pods?
//!
//! The rule of the controller is applied to each of stable's pods in turn, as if it were the canary,
//! in past hours ([`recorded`]) or to the requests of a log ([`logged`]). Every rollback that it finds
//! is false.

use std::io::Write;

use serde::Serialize;

use crate::cli::{Format, PlaceboArgs};
use crate::connect::Connection;
use crate::display::DisplayContext;
use crate::exit::{CliError, Exit};

pub mod logged;
pub mod recorded;

/// Runs the placebo releases and prints the result, and on `aside` what could not be read.
/// `connection` is required if a Rollout in the cluster is named.
///
/// # Errors
/// Fails if an argument or a file is wrong, the Rollout does not exist, Prometheus does not answer, or
/// the output cannot be written.
pub async fn run(
    args: &PlaceboArgs,
    namespace: Option<&str>,
    connection: Option<&Connection>,
    display: &DisplayContext,
    out: &mut (dyn Write + Send),
    aside: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let text = match &args.data {
        Some(file) => logged::run(args, file, display)?,
        None => recorded::run(args, namespace, connection, display, aside).await?,
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// The machine-readable text of a result.
fn formatted<T: Serialize>(result: &T, format: Format) -> Result<String, CliError> {
    let unprintable = |error: &dyn std::error::Error| {
        CliError::new(Exit::Usage, format!("cannot print the result: {error}"))
    };
    match format {
        Format::Json => serde_json::to_string_pretty(result)
            .map(|text| text + "\n")
            .map_err(|error| unprintable(&error)),
        Format::Yaml => serde_saphyr::to_string(result).map_err(|error| unprintable(&error)),
    }
}

#[cfg(test)]
mod tests;
