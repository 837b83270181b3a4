//! Conversions from API objects to cached objects.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, ObjectMeta};
use serde_json::Value;
use serin_core::command::{Authorization, Command};
use serin_core::plan::RouteKind;
use serin_core::text::{Message, Name, UserName};
use serin_core::units::Revision;
use serin_crds::RolloutCommand;
use serin_crds::names::{
    DEPLOYMENT_ANNOTATION, FIELD_MANAGER, REVISION_LABEL, ROLLOUT_LABEL, TEMPLATE_HASH_ANNOTATION,
};
use serin_crds::side_metadata::AddedMetadata;
use serin_traffic::{Router, router_for};

use super::Key;
use super::objects::{
    CachedCommand, CachedEndpointSlice, CachedPod, CachedReplicaSet, CachedRoute, CachedService,
    ControllerRef, Identity, ReadyEndpoint, Restarts,
};
use super::pod_object::PodObject;
use super::pod_problem;
use super::replica_set_object::ReplicaSetObject;
use crate::mount_failures;

/// The label with the Service name of an EndpointSlice.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label with the controller of an EndpointSlice, and its value for the controller of Kubernetes.
const MANAGED_BY: (&str, &str) = (
    "endpointslice.kubernetes.io/managed-by",
    "endpointslice-controller.k8s.io",
);
/// The kubelet's waiting reason for a container that keeps failing.
pub const CRASH_LOOP: &str = "CrashLoopBackOff";
/// The kubelet's reasons for a container whose exit it did not observe, for example because the
/// node restarted.
const NODE_LOST: [&str; 2] = ["Unknown", "ContainerStatusUnknown"];
/// Annotations on a Service that affect how requests are routed to its endpoints. Both Services
/// need them.
const ROUTING_ANNOTATIONS: [&str; 2] = [
    "traefik.ingress.kubernetes.io/",
    "service.kubernetes.io/topology-mode",
];
/// A container with one of these waiting reasons is only starting.
pub(crate) const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

impl From<&ObjectMeta> for Identity {
    fn from(meta: &ObjectMeta) -> Self {
        Self {
            key: Key::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
        }
    }
}

impl From<ReplicaSetObject> for CachedReplicaSet {
    fn from(set: ReplicaSetObject) -> Self {
        let status = set.status.unwrap_or_default();
        let spec = set.spec.unwrap_or_default();
        let (template, ports, added) = spec.template.map_or_else(Default::default, |template| {
            (Some(template.digest), template.ports, template.added)
        });
        Self {
            identity: Identity::from(&set.metadata),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            ports,
            added,
            template,
            owner: controller(&set.metadata),
            deployment: annotation(&set.metadata, DEPLOYMENT_ANNOTATION),
            unlabelled: count(status.replicas - status.fully_labeled_replicas.unwrap_or(0)),
            is_status_stale: status.observed_generation < set.metadata.generation,
            selects_revision: spec
                .selector
                .and_then(|selector| selector.match_labels)
                .is_some_and(|labels| labels.contains_key(REVISION_LABEL)),
            terminating: set.metadata.deletion_timestamp.is_some(),
            rollout: label(&set.metadata, ROLLOUT_LABEL).unwrap_or_default(),
            revision: label(&set.metadata, REVISION_LABEL).map(Revision::new),
            owner_uid: controller_uid(&set.metadata),
            template_hash: annotation(&set.metadata, TEMPLATE_HASH_ANNOTATION),
            // The API server defaults to 1.
            desired: spec.replicas.map_or(1, count),
            replicas: count(status.replicas),
            available: status.available_replicas.map_or(0, count),
            problem: pod_problem::problem_of_replica_set(
                set.metadata.name.as_deref().unwrap_or_default(),
                &status,
            ),
            created_at: created_at(&set.metadata),
        }
    }
}

impl From<PodObject> for CachedPod {
    fn from(pod: PodObject) -> Self {
        let status = pod.status.unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let problem = pod_problem::problem_of_pod(name, &status);
        let finished = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let containers = || {
            status
                .init_container_statuses
                .iter()
                .chain(&status.container_statuses)
                .flatten()
        };
        Self {
            identity: Identity::from(&pod.metadata),
            rollout: label(&pod.metadata, ROLLOUT_LABEL).unwrap_or_default(),
            revision: label(&pod.metadata, REVISION_LABEL).map(Revision::new),
            owner_uid: controller_uid(&pod.metadata),
            created_at: created_at(&pod.metadata),
            node: pod.spec.node_name.map(|node| Name::from(node).into()),
            active: pod.metadata.deletion_timestamp.is_none() && !finished,
            ready,
            restarts: containers().filter_map(restarts).collect(),
            waiting: waiting(containers()),
            starting_since: mount_failures::starting_since(&status),
            problem,
            added: added(&pod.metadata),
        }
    }
}

/// What was added to an object for the side of its revision.
fn added(meta: &ObjectMeta) -> Option<Box<AddedMetadata>> {
    let annotations = meta.annotations.as_ref()?;
    let get = |name: &str| annotations.get(name).map(String::as_str);
    AddedMetadata::from_annotations(get).map(Box::new)
}

/// The restarts of a container. `None` if it has not restarted.
fn restarts(container: &ContainerStatus) -> Option<Restarts> {
    let ended = container
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    let running = container
        .state
        .as_ref()
        .and_then(|state| state.running.as_ref());
    let finished_at = ended.and_then(|ended| ended.finished_at.as_ref());
    let started_at = running.and_then(|running| running.started_at.as_ref());
    let last_at = finished_at.max(started_at).map(|time| time.0);
    // The container was lost with its node.
    let by_node =
        ended.is_some_and(|ended| NODE_LOST.contains(&ended.reason.as_deref().unwrap_or_default()));
    let count = count(container.restart_count).saturating_sub(u32::from(by_node));
    (count > 0).then_some(Restarts { count, last_at })
}

/// Why a container cannot run. A crash loop has priority.
fn waiting<'a>(containers: impl Iterator<Item = &'a ContainerStatus>) -> Option<String> {
    let mut reasons: Vec<&str> = containers
        .filter_map(|container| {
            container
                .state
                .as_ref()?
                .waiting
                .as_ref()?
                .reason
                .as_deref()
        })
        .filter(|reason| !STARTING.contains(reason))
        .collect();
    reasons.sort_by_key(|reason| *reason != CRASH_LOOP);
    reasons.first().map(|reason| (*reason).to_owned())
}

impl From<Service> for CachedService {
    fn from(service: Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let mut annotations = service.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|name, _| {
            ROUTING_ANNOTATIONS
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        Self {
            identity: Identity::from(&service.metadata),
            rollout: label(&service.metadata, ROLLOUT_LABEL),
            owner_uid: controller_uid(&service.metadata),
            owner: controller(&service.metadata),
            other_writer: other_writer(&service.metadata),
            selects: spec
                .selector
                .as_ref()
                .and_then(|selector| selector.get(REVISION_LABEL))
                .map(Revision::new),
            spec,
            annotations,
        }
    }
}

impl From<EndpointSlice> for CachedEndpointSlice {
    fn from(slice: EndpointSlice) -> Self {
        let ready = slice.endpoints.into_iter().filter(|endpoint| {
            // API convention: an unset condition counts as true. A Service with
            // publishNotReadyAddresses reports every endpoint as ready; `serving` is the readiness
            // of the pod itself.
            let conditions = endpoint.conditions.as_ref();
            let is_set = |condition: Option<bool>| condition.unwrap_or(true);
            conditions
                .is_none_or(|conditions| is_set(conditions.ready) && is_set(conditions.serving))
        });
        let pod = |target: k8s_openapi::api::core::v1::ObjectReference| {
            target
                .name
                .filter(|_| target.kind.as_deref() == Some("Pod"))
        };
        Self {
            ready: ready
                .map(|endpoint| ReadyEndpoint {
                    pod: endpoint.target_ref.and_then(pod),
                })
                .collect(),
            identity: Identity::from(&slice.metadata),
            rollout: label(&slice.metadata, ROLLOUT_LABEL).unwrap_or_default(),
            service: label(&slice.metadata, SERVICE_NAME_LABEL),
            service_uid: controller_uid(&slice.metadata)
                .filter(|_| label(&slice.metadata, MANAGED_BY.0).as_deref() == Some(MANAGED_BY.1)),
        }
    }
}

impl From<DynamicObject> for CachedRoute {
    fn from(mut route: DynamicObject) -> Self {
        let other_writer = other_writer(&route.metadata);
        route.metadata.managed_fields = None;
        let identity = Identity::from(&route.metadata);
        let generation = route.metadata.generation.unwrap_or_default();
        // A map of JSON values is always valid JSON.
        let mut object = serde_json::to_value(route).unwrap_or(Value::Null);
        let kind = router_for(&object).map_or(RouteKind::HttpRoute, Router::route_kind);
        let backends = serin_metrics_analysis::routes::backend_names(kind, &object);
        // Most Ingresses are not canaries and are never split, so their rules are not kept.
        if kind == RouteKind::Ingress
            && backends.is_empty()
            && let Some(fields) = object.as_object_mut()
        {
            fields.retain(|field, _| !["spec", "status"].contains(&field.as_str()));
        }
        Self {
            identity,
            generation,
            object,
            backends,
            other_writer,
        }
    }
}

impl From<RolloutCommand> for CachedCommand {
    fn from(object: RolloutCommand) -> Self {
        let created_at = created_at(&object.metadata);
        let identity = Identity::from(&object.metadata);
        let status = object.status.unwrap_or_default();
        let spec = object.spec;
        let expect = spec.preconditions.unwrap_or_default();
        let command = Command {
            uid: identity.uid.clone(),
            name: identity.key.name.clone(),
            verb: spec.verb.into(),
            required_revision: expect.revision.map(Revision::new),
            required_step: expect.step.and_then(|step| usize::try_from(step).ok()),
            adopt_analysis: spec.adopt_analysis,
            reason: spec.reason.map(Message::from),
            requested_by: spec.requested_by.map(UserName::from),
            created_at,
            authorization: Authorization::default(),
        };
        let finished_at = status.outcome.map(|_| status.at.unwrap_or(created_at));
        Self {
            identity,
            rollout: spec.rollout_ref.name,
            command,
            created_at,
            finished_at,
        }
    }
}

fn label(meta: &ObjectMeta, name: &str) -> Option<String> {
    meta.labels
        .as_ref()
        .and_then(|labels: &BTreeMap<String, String>| labels.get(name))
        .cloned()
}

fn annotation(meta: &ObjectMeta, name: &str) -> Option<String> {
    meta.annotations.as_ref()?.get(name).cloned()
}

fn controller(meta: &ObjectMeta) -> Option<ControllerRef> {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?.clone();
    Some(ControllerRef {
        api_version: owner.api_version,
        kind: owner.kind,
        name: owner.name,
    })
}

fn controller_uid(meta: &ObjectMeta) -> Option<String> {
    let owners = meta.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.clone())
        .next()
}

/// The client other than Serin that last wrote an object, except its status.
fn other_writer(meta: &ObjectMeta) -> Option<String> {
    let entries = meta.managed_fields.iter().flatten();
    let others = entries
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .filter(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER));
    let last = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    last.manager.clone()
}

fn created_at(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp
        .as_ref()
        .map(|time| time.0)
        .unwrap_or_default()
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crash_loop_has_priority_over_other_waiting_reasons() {
        let pod: PodObject = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "shop", "labels": {REVISION_LABEL: "abc"}},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 1,
                 "state": {"waiting": {"reason": "ContainerCreating"}}},
                {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 2,
                 "state": {"waiting": {"reason": "ImagePullBackOff"}}},
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                 "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
            ]},
        }))
        .unwrap();
        let cached = CachedPod::from(pod);
        assert_eq!(cached.waiting.as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(
            cached
                .restarts
                .iter()
                .map(|container| container.count)
                .sum::<u32>(),
            6
        );
        assert!(cached.active && !cached.ready);
        assert_eq!(cached.revision, Some(Revision::new("abc")));
    }

    #[test]
    fn a_restart_caused_by_the_node_does_not_count() {
        let status = |reason: &str| {
            let status: ContainerStatus = serde_json::from_value(json!({
                "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 1,
                "state": {"running": {"startedAt": "2026-01-01T00:00:10Z"}},
                "lastState": {"terminated": {"exitCode": 255, "reason": reason, "finishedAt": "2026-01-01T00:00:05Z"}},
            }))
            .unwrap();
            restarts(&status)
        };
        assert_eq!(status("Unknown"), None);
        let last_at = Some("2026-01-01T00:00:10Z".parse().unwrap());
        assert_eq!(status("Error"), Some(Restarts { count: 1, last_at }));
    }

    #[test]
    fn the_last_other_writer_of_an_object_is_known() {
        let entry = |manager: &str, time: &str, subresource: &str| {
            json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": time,
                   "subresource": subresource, "fieldsType": "FieldsV1", "fieldsV1": {}})
        };
        let meta: ObjectMeta = serde_json::from_value(json!({"managedFields": [
            entry("kubectl", "2026-01-01T00:00:00Z", ""),
            entry("argocd-controller", "2026-01-01T00:00:05Z", ""),
            entry(FIELD_MANAGER, "2026-01-01T00:00:09Z", ""),
            entry("traefik", "2026-01-01T00:00:10Z", "status"),
        ]}))
        .unwrap();
        assert_eq!(other_writer(&meta).as_deref(), Some("argocd-controller"));
    }

    #[test]
    fn a_slice_of_another_controller_has_no_service() {
        let slice = |managed_by: &str| {
            let slice: EndpointSlice = serde_json::from_value(json!({
                "metadata": {
                    "name": "s",
                    "labels": {SERVICE_NAME_LABEL: "checkout", MANAGED_BY.0: managed_by},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "checkout",
                                         "uid": "uid-1", "controller": true}],
                },
                "addressType": "IPv4", "endpoints": [],
            }))
            .unwrap();
            CachedEndpointSlice::from(slice).service_uid
        };
        assert_eq!(slice(MANAGED_BY.1).as_deref(), Some("uid-1"));
        assert_eq!(slice("mallory"), None);
    }

    #[test]
    fn endpoints_are_ready_without_conditions_but_not_if_terminating_or_not_serving() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s", "labels": {SERVICE_NAME_LABEL: "checkout"}}, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true}, "targetRef": {"kind": "Pod", "name": "b"}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": true, "serving": false}, "targetRef": {"kind": "Pod", "name": "d"}},
            ],
        }))
        .unwrap();
        let cached = CachedEndpointSlice::from(slice);
        assert_eq!(
            cached.ready,
            [
                ReadyEndpoint {
                    pod: Some("a".into())
                },
                ReadyEndpoint { pod: None }
            ]
        );
    }
}
