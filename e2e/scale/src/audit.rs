//! Counts the requests of the measured controller in the audit log of the API server.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::statistics::Summary;

/// A log with one event per line, which the API server writes.
#[derive(Clone, Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
}

/// Requests of the measured controller during a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// Successful writes by verb and resource, for example `update rollouts/status`. Dry runs are
    /// listed as such. Without Leases.
    pub writes: BTreeMap<String, u64>,
    /// Answered reads by verb and resource, without watches and Leases.
    pub reads: BTreeMap<String, u64>,
    /// Failed requests by verb, resource and HTTP code.
    pub failed: BTreeMap<String, u64>,
    /// Writes of Leases.
    pub leases: u64,
    /// Time that the API server took for each write, in seconds.
    pub write_seconds: Option<Summary>,
}

impl Requests {
    /// Number of writes, including Events and dry runs.
    pub fn write_count(&self) -> u64 {
        self.writes.values().sum()
    }

    /// Number of writes of Events.
    pub fn event_count(&self) -> u64 {
        let events = self.writes.iter().filter(|(what, _)| {
            let resource = what.split(' ').nth(1);
            resource.is_some_and(|resource| resource.starts_with("events"))
        });
        events.map(|(_, count)| count).sum()
    }

    /// Number of GETs and LISTs.
    pub fn read_count(&self) -> u64 {
        self.reads.values().sum()
    }
}

/// Everything that a phase needs of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditReport {
    pub(crate) requests: Requests,
    /// For each object of interest, the time of its first write in seconds since the Unix epoch.
    pub(crate) first_writes: HashMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuditEvent {
    #[serde(default)]
    verb: String,
    #[serde(rename = "requestURI", default)]
    request_uri: String,
    #[serde(default)]
    object_ref: Option<ObjectReference>,
    #[serde(default)]
    response_status: Option<ResponseStatus>,
    #[serde(default)]
    user: User,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectReference {
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
}

/// Which writes are of interest besides their number.
pub(crate) struct AuditQuery<'a> {
    /// Resource in the plural, such as `rollouts`.
    pub(crate) resource: &'a str,
    /// For each name, the time from which writes count, in seconds since the Unix epoch.
    pub(crate) since: HashMap<String, f64>,
    /// Only requests of this user. `None` for all users.
    pub(crate) user: Option<&'a str>,
}

impl AuditLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The current end of the log in bytes. 0 before its first event.
    pub(crate) fn end(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Reads the events from `begin`, an earlier [`Self::end`]. An incomplete last line is ignored.
    pub(crate) fn read(&self, begin: u64, query: &AuditQuery<'_>) -> Result<AuditReport> {
        let mut file = File::open(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        file.seek(SeekFrom::Start(begin))?;
        let lines = BufReader::new(file).lines();
        let mut report = AuditReport::default();
        let mut seconds = Vec::new();
        for line in lines {
            if let Ok(event) = serde_json::from_str::<AuditEvent>(&line?) {
                count(&event, query, &mut report, &mut seconds);
            }
        }
        report.requests.write_seconds = Summary::from_values(seconds);
        Ok(report)
    }
}

fn count(
    event: &AuditEvent,
    query: &AuditQuery<'_>,
    report: &mut AuditReport,
    write_seconds: &mut Vec<f64>,
) {
    let is_of_other_user = query.user.is_some_and(|user| user != event.user.username);
    let Some(object) = event.object_ref.as_ref().filter(|_| !is_of_other_user) else {
        return;
    };
    let is_read = matches!(event.verb.as_str(), "get" | "list");
    if event.verb == "watch" {
        return;
    }
    let mut what = format!("{} {}", event.verb, object.resource);
    if !object.subresource.is_empty() {
        what.push_str(&format!("/{}", object.subresource));
    }
    if event.request_uri.contains("dryRun=") {
        what.push_str(" (dry run)");
    }
    let code = event
        .response_status
        .as_ref()
        .map_or(0, |status| status.code);
    let requests = &mut report.requests;
    // The answer that an object does not exist is a result of a read.
    let is_answered = (200..300).contains(&code) || (is_read && code == 404);
    if !is_answered {
        let failure = format!("{what}: {code}");
        *requests.failed.entry(failure).or_default() += 1;
    } else if object.resource == "leases" {
        requests.leases += u64::from(!is_read);
    } else if is_read {
        *requests.reads.entry(what).or_default() += 1;
    } else {
        *requests.writes.entry(what).or_default() += 1;
        let received = unix_seconds(event.request_received_timestamp);
        write_seconds.push(unix_seconds(event.stage_timestamp) - received);
        let since = query.since.get(&object.name);
        if object.resource == query.resource && since.is_some_and(|since| received >= *since) {
            let first = report.first_writes.entry(object.name.clone());
            first
                .and_modify(|first| *first = first.min(received))
                .or_insert(received);
        }
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn event(verb: &str, resource: &str, name: &str, second: u32, more: &str) -> String {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        format!(
            r#"{{"verb":"{verb}","requestURI":"/x{more}","user":{{"username":"controller-a"}},"objectRef":{{"resource":"{resource}","subresource":"{subresource}","name":"{name}"}},"responseStatus":{{"code":{}}},"requestReceivedTimestamp":"2026-01-01T00:00:{second:02}.000000Z","stageTimestamp":"2026-01-01T00:00:{second:02}.250000Z"}}"#,
            match more {
                "!" => 409,
                "?absent" => 404,
                _ => 200,
            }
        )
    }

    fn read(lines: &[String], query: &AuditQuery<'_>) -> AuditReport {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{}", lines.join("\n")).unwrap();
        let log = AuditLog::new(file.path().to_owned());
        log.read(0, query).unwrap()
    }

    fn query(since: &[(&str, f64)]) -> AuditQuery<'static> {
        AuditQuery {
            resource: "rollouts",
            since: since
                .iter()
                .map(|(name, at)| ((*name).to_owned(), *at))
                .collect(),
            user: None,
        }
    }

    #[test]
    fn requests_are_counted_by_verb_and_resource() {
        let lines = [
            event("update", "rollouts/status", "a", 1, ""),
            event("update", "rollouts/status", "a", 2, ""),
            event("create", "replicasets", "", 1, "?dryRun=All"),
            event("create", "events", "", 1, ""),
            event("patch", "events", "", 1, ""),
            event("list", "replicasets", "", 1, ""),
            event("get", "replicasets", "", 1, "?absent"),
            event("watch", "rollouts", "", 1, ""),
            event("update", "leases", "serin", 1, ""),
            event("update", "rollouts/status", "a", 3, "!"),
            r#"{"verb":"upd"#.to_owned(),
        ];
        let requests = read(&lines, &query(&[])).requests;
        assert_eq!(requests.writes["update rollouts/status"], 2);
        assert_eq!(requests.writes["create replicasets (dry run)"], 1);
        assert_eq!(requests.write_count(), 5);
        assert_eq!(requests.event_count(), 2);
        assert_eq!(requests.read_count(), 2);
        assert_eq!(requests.leases, 1);
        assert_eq!(requests.failed["update rollouts/status: 409"], 1);
        let seconds = requests.write_seconds.unwrap();
        assert!(seconds.count == 5 && (seconds.max - 0.25).abs() < 1e-6);
    }

    #[test]
    fn the_first_write_after_the_request_of_the_driver_counts() {
        let begin = unix_seconds("2026-01-01T00:00:00Z".parse().unwrap());
        let lines = [
            event("update", "rollouts/status", "a", 1, ""),
            event("update", "rollouts/status", "a", 9, ""),
            event("update", "rollouts/status", "a", 4, ""),
            event("update", "rollouts/status", "b", 3, ""),
            event("create", "replicasets", "c", 2, ""),
        ];
        let since = query(&[("a", begin + 2.0), ("c", begin)]);
        let first = read(&lines, &since).first_writes;
        assert_eq!(first.len(), 1);
        assert!((first["a"] - begin - 4.0).abs() < 1e-6, "{first:?}");
    }

    #[test]
    fn a_user_can_be_selected_and_reading_starts_at_an_offset() {
        let line = event("update", "rollouts/status", "a", 1, "");
        let mut other = query(&[]);
        other.user = Some("controller-b");
        assert_eq!(
            read(std::slice::from_ref(&line), &other)
                .requests
                .write_count(),
            0
        );
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{line}").unwrap();
        let log = AuditLog::new(file.path().to_owned());
        let end = log.end();
        writeln!(file, "{line}").unwrap();
        let report = log.read(end, &query(&[])).unwrap();
        assert_eq!(report.requests.write_count(), 1);
    }
}
