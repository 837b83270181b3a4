//! Reads the object that the gate of the current step waits for.
//!
//! Only a Rollout at such a step reads. The object can be of any kind that the installer lets the
//! controller read, and that the author of the Rollout may read.

use std::time::Duration;

use http::Request;
use kube::Client;
use serde_json::Value;
use serin_core::gate::{GateReading, GateReport, ObjectGate, ObjectScope};
use serin_core::text::Message;
use serin_crds::api_status;
use serin_crds::check::ObjectCondition;
use tokio::time::{Instant, timeout};

/// Maximum time of a read. A command for the Rollout waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval between two reads, at first and at most.
const READ_INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Time until a read that a command has postponed.
const POSTPONED: Duration = Duration::from_millis(100);

/// What was read for the gate of one Rollout.
#[derive(Debug, Default)]
pub struct GateReader {
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    report: GateReport,
    read_at: Instant,
    interval: Duration,
}

impl GateReader {
    /// What was found for this gate, and when to read again. `is_urgent` if a command waits, which
    /// must not wait for a read.
    pub async fn report(
        &mut self,
        client: &Client,
        namespace: &str,
        gate: Option<&ObjectGate>,
        is_urgent: bool,
    ) -> (Option<GateReport>, Option<Duration>) {
        let Some(gate) = gate else {
            self.known = None;
            return (None, None);
        };
        let known = self.known.take().filter(|known| known.report.gate == *gate);
        let due_in = known.as_ref().map_or(Duration::ZERO, Known::due_in);
        if is_urgent || !due_in.is_zero() {
            let report = known.as_ref().map(|known| known.report.clone());
            self.known = known;
            return (report, Some(due_in.max(POSTPONED)));
        }
        let interval = known.map_or(READ_INTERVAL.0, |known| {
            (known.interval * 2).min(READ_INTERVAL.1)
        });
        let reading = timeout(READ_TIMEOUT, read(client, namespace, gate)).await;
        let late = || GateReading::Unreadable("the API server did not answer in time".into());
        let report = GateReport {
            gate: gate.clone(),
            reading: reading.unwrap_or_else(|_| late()),
        };
        self.known = Some(Known {
            report: report.clone(),
            read_at: Instant::now(),
            interval,
        });
        (Some(report), Some(interval))
    }
}

impl Known {
    fn due_in(&self) -> Duration {
        self.interval.saturating_sub(self.read_at.elapsed())
    }
}

async fn read(client: &Client, namespace: &str, gate: &ObjectGate) -> GateReading {
    let unreadable = |why: String| GateReading::Unreadable(Message::from(why));
    let condition = match ObjectCondition::parse(&gate.condition) {
        Ok(condition) => condition,
        Err(why) => return unreadable(format!("the condition of the gate is not valid: {why}")),
    };
    let Ok(request) = Request::get(path(namespace, gate)).body(Vec::new()) else {
        return unreadable(format!("{gate} has no valid path"));
    };
    match client.request::<Value>(request).await {
        Ok(object) => match condition.evaluate(&object) {
            Ok(true) => GateReading::Open,
            Ok(false) => {
                let condition = &gate.condition;
                GateReading::Closed(format!("{gate} does not meet {condition:?}").into())
            }
            // Most conditions read a status that its controller has not written yet.
            Err(why) => {
                GateReading::Closed(format!("{gate} does not meet its condition: {why}").into())
            }
        },
        Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {
            GateReading::Closed(format!("{gate} does not exist").into())
        }
        Err(kube::Error::Api(status)) if api_status::is_missing_kind(&status) => {
            let (resource, version) = (&gate.resource, &gate.api_version);
            unreadable(format!(
                "the cluster does not serve {resource} in {version}: correct apiVersion or \
                 resource, which is the plural name, or install the kind"
            ))
        }
        Err(kube::Error::Api(status)) if api_status::is_forbidden(&status) => unreadable(format!(
            "the controller may not read {gate}: {}; its operator can add the kind to \
             gates.readableKinds of the chart",
            api_status::message(&status)
        )),
        Err(kube::Error::Api(status)) => unreadable(format!(
            "{gate} cannot be read: {}",
            api_status::message(&status)
        )),
        Err(_) => unreadable(format!("{gate} cannot be read: the request failed")),
    }
}

/// The path of the object. Its parts are names, as the plan has checked.
fn path(own_namespace: &str, gate: &ObjectGate) -> String {
    let version = &gate.api_version;
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = match &gate.scope {
        ObjectScope::OwnNamespace => format!("/namespaces/{own_namespace}"),
        ObjectScope::Namespace(namespace) => format!("/namespaces/{namespace}"),
        ObjectScope::Cluster => String::new(),
    };
    format!(
        "/{root}/{version}{namespace}/{}/{}",
        gate.resource, gate.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_an_object_follows_its_scope() {
        let gate = |version: &str, scope| ObjectGate {
            api_version: version.to_owned(),
            resource: "jobs".to_owned(),
            name: "migrate".to_owned(),
            scope,
            condition: "true".to_owned(),
        };
        let path_of = |version, scope| path("shop", &gate(version, scope));
        assert_eq!(
            path_of("batch/v1", ObjectScope::OwnNamespace),
            "/apis/batch/v1/namespaces/shop/jobs/migrate"
        );
        assert_eq!(
            path_of("v1", ObjectScope::Namespace("db".to_owned())),
            "/api/v1/namespaces/db/jobs/migrate"
        );
        assert_eq!(
            path_of("a.io/v1", ObjectScope::Cluster),
            "/apis/a.io/v1/jobs/migrate"
        );
    }
}
