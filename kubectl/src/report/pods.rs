//! Pods: whether a pod is ready, and the reason if it is not.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use kube::ResourceExt;
use serde::Serialize;

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Its name.
    pub name: String,
    /// Whether it is ready and not terminating.
    pub ready: bool,
    /// Restarts of all its containers.
    pub restarts: i32,
    /// Why it is not ready. `None` if it is ready.
    pub why: Option<String>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
}

/// Creates the report on a pod.
pub fn pod(pod: &Pod) -> PodReport {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready =
        condition(&status, "Ready").is_some_and(|(value, _)| value == "True") && !terminating;
    PodReport {
        name: pod.name_any(),
        ready,
        restarts: containers
            .iter()
            .map(|container| container.restart_count)
            .sum(),
        why: (!ready).then(|| {
            if terminating {
                "terminating".to_owned()
            } else {
                not_ready_reason(&status, containers)
            }
        }),
        created_at: pod.creation_timestamp().map(|time| time.0),
    }
}

fn not_ready_reason(status: &PodStatus, containers: &[ContainerStatus]) -> String {
    let init = status
        .init_container_statuses
        .as_deref()
        .unwrap_or_default();
    if let Some(problem) = init.iter().chain(containers).find_map(container_problem) {
        return problem;
    }
    if let Some(("False", why)) = condition(status, "PodScheduled") {
        return format!("not scheduled: {why}");
    }
    if let Some(reason) = &status.reason {
        return with_message(reason, status.message.as_deref());
    }
    match status.phase.as_deref() {
        Some("Running") => "running, readiness probe has not passed".to_owned(),
        Some(phase) => phase.to_lowercase(),
        None => "not yet started by a kubelet".to_owned(),
    }
}

fn container_problem(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        if matches!(reason, "PodInitializing" | "ContainerCreating") {
            return None;
        }
        // The message of a crash loop only has the back-off; the last exit is more useful.
        return Some(match last_exit(container.last_state.as_ref()) {
            Some(exit) if reason == "CrashLoopBackOff" => format!("{reason} ({exit})"),
            _ => with_message(reason, waiting.message.as_deref()),
        });
    }
    match last_exit(Some(state)) {
        Some(exit)
            if state
                .terminated
                .as_ref()
                .is_some_and(|ended| ended.exit_code != 0) =>
        {
            Some(exit)
        }
        _ => None,
    }
}

fn last_exit(state: Option<&ContainerState>) -> Option<String> {
    let ended = state?.terminated.as_ref()?;
    Some(match ended.reason.as_deref() {
        Some("Error" | "Completed") | None => format!("exit code {}", ended.exit_code),
        Some(reason) => format!("{reason}, exit code {}", ended.exit_code),
    })
}

fn with_message(reason: &str, message: Option<&str>) -> String {
    match message {
        Some(message) if !message.is_empty() => format!("{reason}: {message}"),
        _ => reason.to_owned(),
    }
}

/// A condition's status and its message, or its reason if there is no message.
fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<(&'a str, &'a str)> {
    let condition = status
        .conditions
        .as_deref()?
        .iter()
        .find(|condition| condition.type_ == kind)?;
    let why = condition
        .message
        .as_deref()
        .or(condition.reason.as_deref())
        .unwrap_or_default();
    Some((&condition.status, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why_of(status: &serde_json::Value) -> Option<String> {
        let object = serde_json::json!({"metadata": {"name": "p"}, "status": status});
        pod(&serde_json::from_value(object).unwrap()).why
    }

    #[test]
    fn a_pod_that_is_not_ready_has_a_reason() {
        let waiting = |state: serde_json::Value, last: serde_json::Value| {
            serde_json::json!({"phase": "Running", "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": state, "lastState": last}]})
        };
        let cases = [
            (
                waiting(
                    serde_json::json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}),
                    serde_json::json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                ),
                "CrashLoopBackOff (OOMKilled, exit code 137)",
            ),
            (
                waiting(
                    serde_json::json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
                    serde_json::json!({}),
                ),
                "ImagePullBackOff: no such image",
            ),
            (
                waiting(
                    serde_json::json!({"terminated": {"exitCode": 1, "reason": "Error"}}),
                    serde_json::json!({}),
                ),
                "exit code 1",
            ),
            (
                serde_json::json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}),
                "not scheduled: 0/3 nodes",
            ),
            (
                serde_json::json!({"phase": "Running"}),
                "running, readiness probe has not passed",
            ),
            (
                serde_json::json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}),
                "Evicted: disk",
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(why_of(&status).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_terminating_pod_is_not_ready() {
        let object = serde_json::json!({
            "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}
        });
        let report = pod(&serde_json::from_value(object).unwrap());
        assert!(!report.ready);
        assert_eq!(report.why.as_deref(), Some("terminating"));
    }
}
