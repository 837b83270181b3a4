//! The Role in the Helm chart contains exactly the permissions that the controller uses.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::json;
use serin_crds::{Rollout, RolloutCommand};
use serin_fake_cluster::{FakeCluster, Fault, PodBehavior, RequestRecord};
use serin_guardrails::facts::Source;
use serin_traffic::{ROUTERS, Router};

use crate::fixtures::*;
use crate::harness::*;

const HELPERS: &str = include_str!("../../../../charts/serin/templates/_helpers.tpl");

/// Permissions that no request shows.
const WITHOUT_REQUEST: [&str; 1] = [
    // The admission plugin OwnerReferencesPermissionEnforcement requires it for owner references
    // with blockOwnerDeletion.
    "update rollouts/finalizers.serin.dev",
];
/// Permissions in other Roles of the chart, which are limited to single objects.
const IN_OTHER_ROLES: [&str; 11] = [
    "get validatingadmissionpolicies.admissionregistration.k8s.io",
    "get validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "create leases.coordination.k8s.io",
    "get leases.coordination.k8s.io",
    "watch leases.coordination.k8s.io",
    "update leases.coordination.k8s.io",
    // Of the whole cluster, in every installation.
    "list namespaces.",
    "watch namespaces.",
    "list rolloutpolicies.serin.dev",
    "watch rolloutpolicies.serin.dev",
    "patch rolloutpolicies/status.serin.dev",
];
/// The ClusterRole with read access to what guardrails depend on.
const GUARDRAILS: &str = include_str!("../../../../charts/serin/templates/guardrails-access.yaml");
/// Granted for single Secrets and ConfigMaps only, by `rbac.prometheusAccess`.
const CREDENTIALS: [&str; 2] = ["get secrets.", "get configmaps."];

/// A kind that no cluster has, and that the gate of a test names. What gates may read is granted by
/// `gates.readableKinds`.
const READ_BY_GATES: &str = "get configs.";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// The permissions of the Role, for example `patch rollouts/status.serin.dev`.
fn granted() -> BTreeSet<String> {
    let (_, rest) = HELPERS
        .split_once("{{- define \"serin.rules\" -}}")
        .unwrap();
    let (rules, _) = rest.split_once("{{- end -}}").unwrap();
    permissions_of(rules)
}

/// The permissions of the ClusterRole for guardrails.
fn granted_for_guardrails() -> BTreeSet<String> {
    let (_, rest) = GUARDRAILS.split_once("rules:\n").unwrap();
    let (rules, _) = rest
        .split_once("{{- if .Values.watchNamespaces }}")
        .unwrap();
    permissions_of(rules)
}

fn permissions_of(rules: &str) -> BTreeSet<String> {
    let rules: Vec<Rule> = serde_saphyr::from_str(rules).unwrap();
    let mut permissions = BTreeSet::new();
    for rule in rules {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let permission = |verb: &String| format!("{verb} {resource}.{group}");
                permissions.extend(rule.verbs.iter().map(permission));
            }
        }
    }
    permissions
}

/// The permissions that the requests of a client need.
fn used(cluster: &FakeCluster, client: &str) -> BTreeSet<String> {
    let permission = |request: RequestRecord| {
        let subresource = request.subresource.map(|name| format!("/{name}"));
        let (verb, plural, group) = (request.verb, request.plural, request.group);
        format!("{verb} {plural}{}.{group}", subresource.unwrap_or_default())
    };
    // Services are listed for other reasons, too.
    let for_guardrails = &granted_for_guardrails() - &granted();
    cluster
        .requests()
        .into_iter()
        .filter(|request| request.client == client)
        .map(permission)
        .filter(|permission| !for_guardrails.contains(permission))
        .filter(|permission| !IN_OTHER_ROLES.contains(&permission.as_str()))
        .filter(|permission| !CREDENTIALS.contains(&permission.as_str()))
        .filter(|permission| permission != READ_BY_GATES)
        .collect()
}

/// Checks that the Role permits every request of a client.
pub fn ensure_permitted(cluster: &FakeCluster, client: &str) {
    let granted = granted();
    let missing: Vec<String> = used(cluster, client)
        .difference(&granted)
        .cloned()
        .collect();
    assert!(
        missing.is_empty(),
        "the Role of the chart lacks: {missing:?}"
    );
}

/// Releases, commands, failures, an orphaned Rollout and a deletion.
async fn run_varied_releases(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    apply(cluster, stable_service("checkout"));
    // The ReplicaSet is created, but its response is lost.
    cluster.inject(Fault::on("create", "replicasets").loses_response());
    let running = start_elected_controller(cluster, "serin");
    let rollout = |version: &str| {
        let steps = json!([{"setWeight": 20}, {"pause": {}}]);
        let mut rollout = routed_rollout("checkout", version, 2, steps);
        rollout["spec"]["revisionHistoryLimit"] = json!(0);
        rollout
    };
    apply(cluster, rollout("v1"));
    wait_until_healthy(cluster, "checkout", "v1").await;
    cluster.inject(Fault::on("patch", "httproutes").status(409));
    apply(cluster, rollout("v2"));
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    // Each of two aborts at the same position is an Event.
    for attempt in 0..2 {
        create_command(cluster, &format!("stop-{attempt}"), "checkout", "abort");
        wait_for_position(cluster, "checkout", "Degraded/Aborted").await;
        create_command(cluster, &format!("again-{attempt}"), "checkout", "retry");
        wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    }
    create_command(cluster, "go", "checkout", "promote");
    wait_until_healthy(cluster, "checkout", "v2").await;
    create_command(cluster, "fresh", "checkout", "restart");
    wait_for_event(cluster, "checkout", "Restarted").await;
    // The old ReplicaSet is deleted, and the commands after their time to live.
    let is_cleaned_up = |cluster: &FakeCluster| {
        replica_sets(cluster, "checkout").len() == 1
            && cluster.objects::<RolloutCommand>().is_empty()
    };
    cluster
        .wait_until(is_cleaned_up, 90 * MINUTE)
        .await
        .unwrap();
    orphan_and_recreate(cluster, rollout("v2")).await;
    start_pods_without_containers(cluster, rollout("v3")).await;
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    release_through_every_kind_of_route(cluster).await;
    cluster.sleep(MINUTE).await;
    take_over_and_give_back(cluster).await;
    running
}

/// Releases through a route of every kind, side by side. The first write of each route conflicts, so
/// that it is read again.
async fn release_through_every_kind_of_route(cluster: &FakeCluster) {
    let name = |router: &dyn Router| router.kind().to_lowercase();
    let release = |version: &str| {
        for router in ROUTERS {
            let steps = json!([{"setWeight": 20}]);
            apply(
                cluster,
                rollout_of_kind(*router, &name(*router), version, 1, steps),
            );
        }
    };
    for router in ROUTERS {
        apply(cluster, route_of_kind(*router, &name(*router)));
    }
    release("v1");
    for router in ROUTERS {
        wait_until_healthy(cluster, &name(*router), "v1").await;
        let conflict = Fault::on("patch", router.plural()).named(&name(*router));
        cluster.inject(conflict.status(409));
    }
    release("v2");
    for router in ROUTERS {
        wait_until_healthy(cluster, &name(*router), "v2").await;
        cluster.delete::<Rollout>(SHOP, &name(*router)).unwrap();
    }
}

/// Takes over a Deployment, which is deleted and created again.
async fn take_over_and_give_back(cluster: &FakeCluster) {
    let mut rollout = unrouted_rollout("legacy", "v1", 2, json!([]));
    apply(
        cluster,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "legacy", "namespace": SHOP},
            "spec": {"replicas": 2, "selector": rollout["spec"]["selector"],
                     "template": rollout["spec"]["template"]},
        }),
    );
    rollout["spec"]["adopt"] = json!({"deployment": "legacy"});
    apply(cluster, rollout);
    wait_until_healthy(cluster, "legacy", "v1").await;
    cluster.delete::<Deployment>(SHOP, "legacy").unwrap();
    create_command(cluster, "back", "legacy", "giveBack");
    let (result, message) = command_outcome(cluster, "back").await;
    assert_eq!(result, "Done", "{message}");
    cluster.sleep(MINUTE).await;
    let deployment = cluster.get::<Deployment>(SHOP, "legacy").unwrap();
    assert_eq!(deployment.status.unwrap().updated_replicas, Some(2));
}

async fn orphan_and_recreate(cluster: &FakeCluster, rollout: serde_json::Value) {
    let api: Api<Rollout> = Api::namespaced(cluster.client_for("user"), SHOP);
    api.delete("checkout", &DeleteParams::orphan())
        .await
        .unwrap();
    let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "checkout").is_none();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
    apply(cluster, rollout);
    wait_until_healthy(cluster, "checkout", "v2").await;
}

/// Releases a version whose pods do not start.
async fn start_pods_without_containers(cluster: &FakeCluster, rollout: serde_json::Value) {
    cluster
        .set_pod_behavior("app=checkout", PodBehavior::ContainerCreating)
        .unwrap();
    apply(cluster, rollout);
    cluster.sleep(2 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn the_role_of_the_chart_contains_exactly_what_the_controller_uses() {
    let cluster = FakeCluster::new(71);
    let running = run_varied_releases(&cluster).await;
    let mut used = used(&cluster, "serin");
    used.extend(WITHOUT_REQUEST.map(str::to_owned));
    let granted = granted();
    let missing: Vec<_> = used.difference(&granted).collect();
    let unused: Vec<_> = granted.difference(&used).collect();
    assert!(missing.is_empty(), "not granted: {missing:?}");
    assert!(unused.is_empty(), "never used: {unused:?}");
    running.stop().await;
}

/// The templates of the chart with a list of the kinds of route besides the Role of the controller.
const ROUTE_LISTS: [(&str, &str); 4] = [
    ("_helpers.tpl", HELPERS),
    (
        "user-roles.yaml",
        include_str!("../../../../charts/serin/templates/user-roles.yaml"),
    ),
    (
        "admission-controller.yaml",
        include_str!("../../../../charts/serin/templates/admission-controller.yaml"),
    ),
    (
        "admission-authors.yaml",
        include_str!("../../../../charts/serin/templates/admission-authors.yaml"),
    ),
];

/// The plurals in `text` of each list of resources behind the API group.
fn resources_of_group(text: &str, group: &str) -> Vec<BTreeSet<String>> {
    let rule = format!("apiGroups: [{group}]");
    let lists = text.split(&rule).skip(1);
    let resources = lists.filter_map(|rest| {
        let (_, list) = rest.split_once("resources: [")?;
        Some(list.split_once(']')?.0)
    });
    resources
        .map(|list| list.split(", ").map(str::to_owned).collect())
        .collect()
}

#[test]
fn every_list_of_routes_in_the_chart_names_the_kinds_of_all_routers() {
    let groups: BTreeSet<&str> = ROUTERS.iter().map(|router| router.group()).collect();
    for group in groups {
        let of_group = ROUTERS.iter().filter(|router| router.group() == group);
        let plurals: BTreeSet<String> = of_group.map(|router| router.plural().to_owned()).collect();
        for (file, text) in &ROUTE_LISTS[..3] {
            let lists = resources_of_group(text, group);
            assert!(!lists.is_empty(), "{file} has no rule for {group}");
            for list in lists {
                assert_eq!(list, plurals, "{file}");
            }
        }
    }
    let (file, authors) = ROUTE_LISTS[3];
    for router in ROUTERS {
        let route = format!(
            "['{}', '{}', '{}', ",
            router.group(),
            router.plural(),
            router.kind()
        );
        let new_and_old = authors.matches(&route).count();
        assert!(
            new_and_old >= 2,
            "{file} does not authorize {}",
            router.kind()
        );
    }
}

#[test]
fn the_role_for_guardrails_lists_exactly_the_kinds_that_they_look_at() {
    let mut needed: BTreeSet<String> = Source::ALL
        .iter()
        .filter_map(|source| source.resource())
        .map(|(group, _, plural)| format!("list {plural}.{group}"))
        .collect();
    needed.insert("list *.constraints.gatekeeper.sh".to_owned());
    assert_eq!(granted_for_guardrails(), needed);
}
