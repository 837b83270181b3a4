//! The stretches of time that are replayed, from the arguments or a file.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::wrong;
use crate::cli::ReplayArgs;
use crate::exit::Failure;
use crate::json_line;
use crate::values::Moment;

/// The longest stretch that is replayed at once.
const LONGEST_MS: i64 = 31 * 86_400_000;
const ONE_RELEASE: &str =
    r#"{"name": "v7", "from": "2026-03-01T10:00:00Z", "to": "2026-03-01T10:20:00Z"}"#;

/// A stretch of time with one release or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// What its release is called.
    #[serde(default)]
    pub name: Option<String>,
    /// The Rollout's namespace then, where it is another.
    #[serde(default)]
    pub namespace: Option<String>,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Where it was asked for, for people: `--from and --to`, or a line of a file.
    #[serde(skip)]
    pub source: String,
    /// When pods of either side were created, by name, where Prometheus has no `kube_pod_created`
    /// of them.
    #[serde(default)]
    pub pods_created_at: BTreeMap<String, Timestamp>,
}

impl Window {
    /// From when until when, in milliseconds since the epoch.
    ///
    /// # Errors
    /// The times make no sense.
    pub(super) fn milliseconds(&self, now: Timestamp) -> Result<(i64, i64), Failure> {
        let (from_ms, to_ms) = (self.from.as_millisecond(), self.to.as_millisecond());
        let Self {
            from, to, source, ..
        } = self;
        if from_ms >= to_ms {
            return Err(wrong(format!(
                "{source}: {from} is not before {to}; swap the two, or begin earlier"
            )));
        }
        if to_ms - from_ms > LONGEST_MS {
            return Err(wrong(format!(
                "{source}: {from} and {to} are more than 31 days apart; replay a month at a time"
            )));
        }
        if *to > now {
            return Err(wrong(format!(
                "{source}: {to} is still to come; replay until now"
            )));
        }
        Ok((from_ms, to_ms))
    }
}

/// The stretches of time that are asked for.
pub(super) fn windows(args: &ReplayArgs, now: Timestamp) -> Result<Vec<Window>, Failure> {
    if let Some(file) = &args.releases {
        return listed(file);
    }
    let at = |moment: Moment, option: &str| {
        let at = Timestamp::from_millisecond(moment.milliseconds(now));
        at.map_err(|_| {
            wrong(format!(
                "{option}: so long ago is before all time; write for example -2h"
            ))
        })
    };
    let Some(from) = args.from else {
        return Err(wrong("--from is missing; write for example --from -2h"));
    };
    Ok(vec![Window {
        name: None,
        namespace: None,
        from: at(from, "--from")?,
        to: at(args.to, "--to")?,
        source: "--from and --to".to_owned(),
        pods_created_at: BTreeMap::new(),
    }])
}

/// Reads a file of windows, a JSON object a line.
pub(super) fn listed(file: &Path) -> Result<Vec<Window>, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| wrong(format!("--releases {name}: cannot be read: {error}")))?;
    let lines = (1..).zip(text.lines());
    let listed: Vec<Window> = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let source = format!("--releases {name}: line {number}");
            json_line::parse(line.as_bytes())
                .map(|window| Window {
                    source: source.clone(),
                    ..window
                })
                .map_err(|why| {
                    wrong(format!("{source}: {why}"))
                        .hint(format!("Write a line each: {ONE_RELEASE}"))
                })
        })
        .collect::<Result<_, _>>()?;
    if listed.is_empty() {
        return Err(
            wrong(format!("--releases {name}: there is no release in it"))
                .hint(format!("Write a line each: {ONE_RELEASE}")),
        );
    }
    Ok(listed)
}
