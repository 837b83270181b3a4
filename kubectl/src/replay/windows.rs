//! Time windows to replay, from the arguments or a file.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::usage_error;
use crate::cli::ReplayArgs;
use crate::exit::CliError;
use crate::json_line;
use crate::values::TimeArg;

/// Maximum length of a window.
const MAX_WINDOW_MS: i64 = 31 * 86_400_000;
const ONE_RELEASE: &str =
    r#"{"name": "v7", "from": "2026-03-01T10:00:00Z", "to": "2026-03-01T10:20:00Z"}"#;

/// A time window with one or more releases.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplayWindow {
    /// Name of its release.
    #[serde(default)]
    pub name: Option<String>,
    /// Namespace of the Rollout at that time, if different.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Start.
    pub from: Timestamp,
    /// End.
    pub to: Timestamp,
    /// Origin for error messages: `--from and --to`, or a line of a file.
    #[serde(skip)]
    pub source: String,
    /// Creation times of pods by name, for pods without `kube_pod_created` in Prometheus.
    #[serde(default)]
    pub pods_created_at: BTreeMap<String, Timestamp>,
}

impl ReplayWindow {
    /// Start and end, in milliseconds since the epoch.
    ///
    /// # Errors
    /// Fails if the times are invalid.
    pub(super) fn milliseconds(&self, now: Timestamp) -> Result<(i64, i64), CliError> {
        let (from_ms, to_ms) = (self.from.as_millisecond(), self.to.as_millisecond());
        let Self {
            from, to, source, ..
        } = self;
        if from_ms >= to_ms {
            return Err(usage_error(format!(
                "{source}: {from} is not before {to}; swap the two or start earlier"
            )));
        }
        if to_ms - from_ms > MAX_WINDOW_MS {
            return Err(usage_error(format!(
                "{source}: {from} and {to} are more than 31 days apart; replay a month at a time"
            )));
        }
        if *to > now {
            return Err(usage_error(format!(
                "{source}: {to} is in the future; replay until now"
            )));
        }
        Ok((from_ms, to_ms))
    }
}

/// The requested windows.
pub(super) fn requested_windows(
    args: &ReplayArgs,
    now: Timestamp,
) -> Result<Vec<ReplayWindow>, CliError> {
    if let Some(file) = &args.releases {
        return read_windows(file);
    }
    let at = |time: TimeArg, option: &str| {
        let at = Timestamp::from_millisecond(time.milliseconds(now));
        at.map_err(|_| {
            usage_error(format!(
                "{option}: the time is out of range; write for example -2h"
            ))
        })
    };
    let Some(from) = args.from else {
        return Err(usage_error(
            "--from is missing; write for example --from -2h",
        ));
    };
    Ok(vec![ReplayWindow {
        name: None,
        namespace: None,
        from: at(from, "--from")?,
        to: at(args.to, "--to")?,
        source: "--from and --to".to_owned(),
        pods_created_at: BTreeMap::new(),
    }])
}

/// Reads windows from a JSON Lines file.
pub(super) fn read_windows(file: &Path) -> Result<Vec<ReplayWindow>, CliError> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| usage_error(format!("--releases {name}: cannot be read: {error}")))?;
    let lines = (1..).zip(text.lines());
    let listed: Vec<ReplayWindow> = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let source = format!("--releases {name}: line {number}");
            json_line::parse(line.as_bytes())
                .map(|window| ReplayWindow {
                    source: source.clone(),
                    ..window
                })
                .map_err(|why| {
                    usage_error(format!("{source}: {why}"))
                        .hint(format!("Write one line per release: {ONE_RELEASE}"))
                })
        })
        .collect::<Result<_, _>>()?;
    if listed.is_empty() {
        return Err(
            usage_error(format!("--releases {name}: contains no release"))
                .hint(format!("Write one line per release: {ONE_RELEASE}")),
        );
    }
    Ok(listed)
}
