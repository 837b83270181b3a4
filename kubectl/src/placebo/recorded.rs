//! Placebo releases in past hours, from a Prometheus.

use std::collections::BTreeMap;
use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;
use serin_analysis::config::Calibration;
use serin_analysis::explain::e_value;
use serin_analysis::placebo::{HOUR_MS, Placebo, PlaceboHour};
use serin_metrics_analysis::placebo::{ObjectivePlacebo, PlaceboRequest, placebo_releases};

use super::formatted;
use crate::cli::PlaceboArgs;
use crate::connect::Connection;
use crate::display::DisplayContext;
use crate::display_text::printable;
use crate::exit::{CliError, Exit};
use crate::manifest::{self, Manifest};
use crate::page::Page;
use crate::replay::{ReplayOptions, ReplayWindow, prometheus, replay_request};
use crate::report;
use crate::resources;
use crate::style;

/// Machine-readable output.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlaceboOutput<'a> {
    rollout: &'a str,
    prometheus: &'a str,
    from: Timestamp,
    to: Timestamp,
    objectives: Vec<ObjectiveOutput<'a>>,
}

/// One objective in machine-readable output.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectiveOutput<'a> {
    name: &'a str,
    /// Number of placebo releases.
    releases: u32,
    /// Number of them that would have been rolled back.
    rolled_back: u32,
    hours: usize,
    hours_with_rollback: usize,
    /// Maximum probability of so many hours with a rollback if the bound holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f64>,
    bound_refuted: bool,
    message: String,
    /// The calibration for the spec. Unset if there are too few hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<CalibrationOutput>,
    /// Number of hours that a calibration needs.
    calibration_hours: u32,
    alarms: Vec<AlarmOutput<'a>>,
}

/// The calibration of an objective in machine-readable output.
#[derive(Serialize)]
struct CalibrationOutput {
    temper: f64,
    hours: u32,
}

/// An hour in which a pod would have been rolled back.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AlarmOutput<'a> {
    from: Timestamp,
    to: Timestamp,
    rolled_back: u32,
    /// The pod with the strongest evidence against it.
    pod: &'a str,
    ln_e: f64,
}

/// Reads the record and returns the text to print. Writes to `aside` what could not be read.
pub(super) async fn run(
    args: &PlaceboArgs,
    namespace: Option<&str>,
    connection: Option<&Connection>,
    display: &DisplayContext,
    aside: &mut (dyn Write + Send),
) -> Result<String, CliError> {
    let (mut manifest, known_pods) = read_rollout(args, connection, display, aside).await?;
    manifest.namespace = namespace
        .map(ToOwned::to_owned)
        .or_else(|| connection.map(|connection| connection.namespace.clone()))
        .or(manifest.namespace);
    let Some(stable_pods) = args.stable_pods.clone().or(known_pods) else {
        return Err(usage_error("the stable ReplicaSet is unknown")
            .hint("Pass its name: --stable-pods checkout-5d4f8c"));
    };
    let Some(address) = &args.prometheus else {
        return Err(usage_error("--prometheus is missing"));
    };
    let options = ReplayOptions {
        stable_pods: Some(stable_pods),
        // No past pod is a canary.
        canary_pods: Some(String::new()),
        ..ReplayOptions::new(prometheus::server(address, &args.access)?)
    };
    let window = window(args, display)?;
    let replayed = replay_request(&manifest, &options, &window, display.now)?;
    let request = PlaceboRequest {
        server: options.server.clone(),
        request: replayed.request,
        to_ms: replayed.to_ms,
        hours: args.hours,
        canary_share: args
            .weight
            .map_or(0.0, |percent| f64::from(percent) / 100.0),
    };
    let placebos = placebo_releases(&prometheus::poller()?, &request)
        .await
        .map_err(|error| prometheus::read_error(error, &request.server.url))?;
    if let Some(format) = args.output {
        let objectives = placebos.iter().map(objective_output).collect();
        return formatted(
            &PlaceboOutput {
                rollout: &manifest.name,
                prometheus: &request.server.url,
                from: window.from,
                to: window.to,
                objectives,
            },
            format,
        );
    }
    Ok(render(&manifest, &window, &placebos, display))
}

/// The Rollout, and the name of its stable ReplicaSet if it is read from a cluster.
async fn read_rollout(
    args: &PlaceboArgs,
    connection: Option<&Connection>,
    display: &DisplayContext,
    aside: &mut (dyn Write + Send),
) -> Result<(Manifest, Option<String>), CliError> {
    match (&args.file, &args.name, connection) {
        (Some(file), _, _) => Ok((manifest::read(file, &args.policies)?, None)),
        (None, Some(name), Some(connection)) => {
            let found = resources::read_resources(connection, name).await?;
            let report = report::report(&found, display.now);
            let object = serde_json::to_value(&found.rollout).unwrap_or_default();
            let manifest = manifest::of_cluster(connection, &object, &args.policies, aside).await?;
            let stable = report.stable_revision.as_ref().map(|revision| {
                let shown = report.revisions.iter();
                let shown = shown.filter(|shown| shown.revision == *revision);
                let mut sets = shown.filter_map(|shown| shown.replica_set.as_ref());
                sets.next().map_or_else(
                    || format!("{}-{revision}", report.name),
                    |set| set.name.clone(),
                )
            });
            Ok((manifest, stable))
        }
        _ => Err(usage_error("pass -f, --data or the name of a Rollout")),
    }
}

fn window(args: &PlaceboArgs, display: &DisplayContext) -> Result<ReplayWindow, CliError> {
    let to_ms = args.to.milliseconds(display.now);
    let from_ms = to_ms.saturating_sub(i64::from(args.hours).saturating_mul(HOUR_MS));
    let time = |at_ms: i64| {
        Timestamp::from_millisecond(at_ms)
            .map_err(|_| usage_error("--to: the time is out of range; write for example -2h"))
    };
    Ok(ReplayWindow {
        name: None,
        namespace: None,
        from: time(from_ms)?,
        to: time(to_ms)?,
        source: "--hours and --to".to_owned(),
        pods_created_at: BTreeMap::new(),
    })
}

fn timestamp(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The hours with a rollback, and the name of the worst pod in each.
fn alarms(placebo: &ObjectivePlacebo) -> impl Iterator<Item = (&PlaceboHour, &str)> {
    let hours = placebo.result.iter().flat_map(|result| &result.hours);
    hours.filter(|hour| hour.rolled_back > 0).map(|hour| {
        let name = placebo.pods.get(&hour.pod).map_or("", String::as_str);
        (hour, name)
    })
}

fn objective_output(placebo: &ObjectivePlacebo) -> ObjectiveOutput<'_> {
    let result = placebo.result.as_ref().ok();
    ObjectiveOutput {
        name: &placebo.name,
        releases: result.map_or(0, Placebo::releases),
        rolled_back: result.map_or(0, Placebo::rolled_back),
        hours: result.map_or(0, |result| result.hours.len()),
        hours_with_rollback: result.map_or(0, Placebo::hours_with_rollback),
        probability: result
            .filter(|result| result.releases() > 0)
            .map(Placebo::refutation),
        bound_refuted: result.is_some_and(Placebo::refutes_bound),
        message: message(placebo),
        calibration: placebo.calibration.map(|found| CalibrationOutput {
            temper: found.temper,
            hours: found.hours,
        }),
        calibration_hours: placebo.calibration_hours,
        alarms: alarms(placebo)
            .map(|(hour, pod)| AlarmOutput {
                from: timestamp(hour.began_ms),
                to: timestamp(hour.ended_ms),
                rolled_back: hour.rolled_back,
                pod,
                ln_e: hour.ln_e,
            })
            .collect(),
    }
}

/// What was found, or why nothing could be.
fn message(placebo: &ObjectivePlacebo) -> String {
    match &placebo.result {
        Ok(result) => result.sentence(),
        Err(why) => format!("No placebo release: {why}."),
    }
}

/// The calibration that these hours give, or how many hours it needs. `None` without placebo releases.
fn calibration_sentence(placebo: &ObjectivePlacebo) -> Option<String> {
    let result = placebo.result.as_ref().ok()?;
    if result.releases() == 0 {
        return None;
    }
    Some(match placebo.calibration {
        Some(Calibration { temper, hours }) => format!(
            "Calibration with these hours: \"calibration: {{temper: {temper}, hours: {hours}}}\" in this \
             objective divides the logarithm of the evidence by {temper} instead of an estimate. The \
             bound then holds for hours like these."
        ),
        None => format!(
            "A calibration of the evidence needs {} hours with placebo releases; there are {}.",
            placebo.calibration_hours,
            result.hours.len()
        ),
    })
}

fn render(
    manifest: &Manifest,
    window: &ReplayWindow,
    placebos: &[ObjectivePlacebo],
    display: &DisplayContext,
) -> String {
    let mut page = Page::new(display.width);
    page.field("Rollout", &manifest.name, style::bold);
    let time = |at| display.format_time(at);
    let span = format!("{} to {}", time(window.from), time(window.to));
    page.field("Hours", &span, style::plain);
    for placebo in placebos {
        page.heading(&printable(&placebo.name));
        let style = match &placebo.result {
            Ok(result) if result.refutes_bound() => style::error,
            Ok(result) if result.releases() > 0 && result.rolled_back() == 0 => style::success,
            _ => style::warning,
        };
        page.wrapped(("", "", 0), &message(placebo), style);
        for (hour, pod) in alarms(placebo) {
            let line = format!(
                "{} to {}: {} (evidence {}, {} of {} pods)",
                time(timestamp(hour.began_ms)),
                time(timestamp(hour.ended_ms)),
                printable(pod),
                e_value(hour.ln_e),
                hour.rolled_back,
                hour.pods
            );
            page.wrapped(("  ", "  ", 2), &line, style::plain);
        }
        if let Some(sentence) = calibration_sentence(placebo) {
            page.wrapped(("", "", 0), &sentence, style::dimmed);
        }
    }
    if placebos.iter().any(|placebo| alarms(placebo).count() > 0) {
        page.gap();
        page.wrapped(
            ("", "", 0),
            "What to do: look at these pods and their nodes, assign requests instead of clients or \
             connections, or count what is assigned. See \"When can I trust the verdict?\" in the \
             documentation.",
            style::dimmed,
        );
    }
    page.finish()
}

fn usage_error(message: impl Into<String>) -> CliError {
    CliError::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibration_is_printed_as_the_field_of_the_spec() {
        let hour = PlaceboHour {
            pods: 4,
            ..PlaceboHour::default()
        };
        let mut placebo = ObjectivePlacebo {
            name: "availability".to_owned(),
            result: Ok(Placebo {
                alpha: 0.01,
                hours: vec![hour; 120],
            }),
            calibration: Some(Calibration {
                temper: 2.35,
                hours: 120,
            }),
            calibration_hours: 99,
            pods: BTreeMap::new(),
        };
        let sentence = calibration_sentence(&placebo).unwrap();
        assert!(
            sentence.contains("\"calibration: {temper: 2.35, hours: 120}\""),
            "{sentence}"
        );
        let output = serde_json::to_value(objective_output(&placebo)).unwrap();
        assert_eq!(output["calibration"]["hours"], 120);
        placebo.result = Err("no pods".to_owned());
        assert_eq!(calibration_sentence(&placebo), None);
    }
}
