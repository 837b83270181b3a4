//! Why a pod cannot run or cannot be created, from the status of the pod and its ReplicaSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use serin_core::hold::HoldCode;
use serin_core::observed::PodProblem;
use serin_core::text::excerpt;

/// The most specific problem of a pod, if any.
pub(super) fn problem_of_pod(name: &str, status: &PodStatus) -> Option<PodProblem> {
    let problem = |(code, detail, since): (HoldCode, String, Option<Timestamp>)| PodProblem {
        code,
        object: format!("pod {name}"),
        detail,
        since,
    };
    let containers = || {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    };
    let waiting = containers().filter_map(waiting_problem);
    let waiting = waiting.min_by_key(|(code, ..)| *code != HoldCode::CrashLoop);
    waiting
        .or_else(|| unschedulable(status))
        .or_else(|| unready(status))
        .map(problem)
}

/// Why a ReplicaSet cannot create pods, if it cannot.
pub(super) fn problem_of_replica_set(name: &str, status: &ReplicaSetStatus) -> Option<PodProblem> {
    let mut conditions = status.conditions.iter().flatten();
    let failure = conditions
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = failure.message.as_deref().unwrap_or("no reason given");
    // The name of the refused pod is another one at each attempt.
    let detail = match message.split_once("\" is forbidden: ") {
        Some((prefix, detail)) if prefix.starts_with("pods \"") => detail,
        _ => message,
    };
    let code = if detail.contains("exceeded quota") || detail.contains("failed quota") {
        HoldCode::QuotaExceeded
    } else {
        HoldCode::PodsRejected
    };
    Some(PodProblem {
        code,
        object: format!("ReplicaSet {name}"),
        detail: format!("cannot create pods: {}", excerpt(detail)),
        since: None,
    })
}

type Finding = (HoldCode, String, Option<Timestamp>);

fn waiting_problem(container: &ContainerStatus) -> Option<Finding> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let (name, image) = (&container.name, &container.image);
    // The kubelet alternates between the attempt and the back-off, so its message is left out.
    let (code, detail) = match reason {
        "ContainerCreating" | "PodInitializing" => return None,
        "ImagePullBackOff" | "ErrImagePull" | "ErrImageNeverPull" | "RegistryUnavailable" => (
            HoldCode::ImagePullFailed,
            format!("cannot pull image {image} of container {name}"),
        ),
        "InvalidImageName" => (
            HoldCode::ImagePullFailed,
            format!("container {name} has the invalid image name {image:?}"),
        ),
        "CreateContainerConfigError" => {
            let message = waiting
                .message
                .as_deref()
                .unwrap_or("invalid configuration");
            (
                HoldCode::ContainerConfigInvalid,
                format!("cannot configure container {name}: {}", excerpt(message)),
            )
        }
        "CrashLoopBackOff" => (
            HoldCode::CrashLoop,
            format!("container {name} keeps failing{}", last_exit(container)),
        ),
        other => (
            HoldCode::ContainerFailed,
            format!("cannot start container {name} ({other})"),
        ),
    };
    Some((code, detail, None))
}

/// How the container ended last, as far as it is known.
fn last_exit(container: &ContainerStatus) -> String {
    let last = container.last_state.as_ref();
    let Some(ended) = last.and_then(|last| last.terminated.as_ref()) else {
        return String::new();
    };
    let reason = ended.reason.as_deref().unwrap_or("Error");
    format!(" ({reason}, exit code {})", ended.exit_code)
}

fn unschedulable(status: &PodStatus) -> Option<Finding> {
    let scheduled = condition(status, "PodScheduled")?;
    if scheduled.status != "False" || scheduled.reason.as_deref() != Some("Unschedulable") {
        return None;
    }
    let message = scheduled.message.as_deref().unwrap_or("no node fits");
    // The part about preemption repeats the first part.
    let message = message.split(" preemption:").next().unwrap_or(message);
    let detail = format!(
        "cannot be scheduled: {}",
        excerpt(message.trim_end_matches(['.', ',', ' ']))
    );
    Some((HoldCode::PodUnschedulable, detail, since(scheduled)))
}

/// All containers run, and the pod is not ready.
fn unready(status: &PodStatus) -> Option<Finding> {
    let ready = condition(status, "ContainersReady")?;
    if ready.status != "False" {
        return None;
    }
    let mut containers = status.container_statuses.iter().flatten();
    let container = containers.find(|container| {
        let state = container.state.as_ref();
        !container.ready && state.is_some_and(|state| state.running.is_some())
    })?;
    let probe = if container.started == Some(false) {
        "startup"
    } else {
        "readiness"
    };
    let detail = format!(
        "container {} runs, and its {probe} probe fails",
        container.name
    );
    Some((HoldCode::ProbeFailing, detail, since(ready)))
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

fn since(condition: &PodCondition) -> Option<Timestamp> {
    condition.last_transition_time.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Option<PodProblem> {
        problem_of_pod("shop-v2-x", &serde_json::from_value(status).unwrap())
    }

    fn waiting(reason: &str, message: &str) -> Option<PodProblem> {
        pod(json!({"containerStatuses": [{
            "name": "app", "image": "registry/app:v2", "imageID": "", "ready": false,
            "restartCount": 3, "state": {"waiting": {"reason": reason, "message": message}},
            "lastState": {"terminated": {"reason": "Error", "exitCode": 1}},
        }]}))
    }

    #[test]
    fn every_cause_of_a_pod_that_cannot_run_is_named() {
        let cases = [
            (
                "ErrImagePull",
                "rpc error",
                HoldCode::ImagePullFailed,
                "cannot pull image registry/app:v2 of container app",
            ),
            (
                "ImagePullBackOff",
                "Back-off pulling image",
                HoldCode::ImagePullFailed,
                "cannot pull image registry/app:v2 of container app",
            ),
            (
                "CreateContainerConfigError",
                "secret \"token\" not found",
                HoldCode::ContainerConfigInvalid,
                "cannot configure container app: secret \"token\" not found",
            ),
            (
                "CrashLoopBackOff",
                "back-off 10s",
                HoldCode::CrashLoop,
                "container app keeps failing (Error, exit code 1)",
            ),
            (
                "RunContainerError",
                "no such file",
                HoldCode::ContainerFailed,
                "cannot start container app (RunContainerError)",
            ),
        ];
        for (reason, message, code, detail) in cases {
            let problem = waiting(reason, message).unwrap();
            assert_eq!((problem.code, problem.detail.as_str()), (code, detail));
            assert_eq!(problem.object, "pod shop-v2-x");
        }
        assert_eq!(waiting("ContainerCreating", ""), None);
    }

    #[test]
    fn a_pod_that_no_node_fits_is_unschedulable() {
        let problem = pod(json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "message": "0/1 nodes are available: 1 Insufficient cpu, preemption: 0/1 nodes are available.",
        }]}));
        let problem = problem.unwrap();
        assert_eq!(problem.code, HoldCode::PodUnschedulable);
        assert_eq!(
            problem.detail,
            "cannot be scheduled: 0/1 nodes are available: 1 Insufficient cpu"
        );
        assert!(problem.since.is_some());
    }

    #[test]
    fn a_running_container_that_is_not_ready_fails_its_probe() {
        let problem = pod(json!({
            "conditions": [{"type": "ContainersReady", "status": "False",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "app", "image": "a", "imageID": "", "ready": false,
                "restartCount": 0, "started": true,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
        }));
        let problem = problem.unwrap();
        assert_eq!(problem.code, HoldCode::ProbeFailing);
        assert_eq!(
            problem.detail,
            "container app runs, and its readiness probe fails"
        );
    }

    #[test]
    fn a_refused_pod_is_reported_without_its_random_name() {
        let refused = |message: &str| {
            let status = json!({"replicas": 0, "conditions": [{
                "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                "message": message}]});
            problem_of_replica_set("shop-v2", &serde_json::from_value(status).unwrap()).unwrap()
        };
        let quota = refused(
            "pods \"shop-v2-q7x2p\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4",
        );
        assert_eq!(quota.code, HoldCode::QuotaExceeded);
        assert_eq!(
            quota.detail,
            "cannot create pods: exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4"
        );
        let policy = refused(
            "pods \"shop-v2-abcde\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true",
        );
        assert_eq!(policy.code, HoldCode::PodsRejected);
        assert!(!policy.detail.contains("abcde"), "{}", policy.detail);
        let webhook = refused("admission webhook \"policy.example\" denied the request: no");
        assert_eq!(
            webhook.detail,
            "cannot create pods: admission webhook \"policy.example\" denied the request: no"
        );
    }
}
