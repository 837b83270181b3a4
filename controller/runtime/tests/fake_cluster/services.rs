//! Services created by users and by Serin: their ports, and the canary Service as a copy of the
//! stable one.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use serin_fake_cluster::FakeCluster;
use tokio::task::JoinHandle;

use crate::fixtures::*;
use crate::harness::*;

/// A Rollout that pauses at 20 % until it is promoted.
fn pausing_rollout(version: &str, ports: Value) -> Value {
    let mut rollout = routed_rollout(
        "checkout",
        version,
        4,
        json!([{"setWeight": 20}, {"pause": {}}]),
    );
    rollout["spec"]["template"]["spec"]["containers"][0]["ports"] = ports;
    rollout
}

fn service(cluster: &FakeCluster, name: &str) -> Value {
    cluster.get_json("services", SHOP, name).unwrap_or_default()
}

/// Port number and target port of each port.
fn service_ports(cluster: &FakeCluster, name: &str) -> Vec<(i64, Value)> {
    let service = service(cluster, name);
    let ports = service["spec"]["ports"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ports
        .iter()
        .map(|port| (port["port"].as_i64().unwrap(), port["targetPort"].clone()))
        .collect()
}

/// Fails as soon as a Service of Serin targets a port number that its selected revision does not
/// declare.
fn monitor_service_ports(cluster: &FakeCluster) -> JoinHandle<()> {
    let cluster = cluster.clone();
    tokio::spawn(async move {
        let mismatch = |cluster: &FakeCluster| {
            ["checkout", "checkout-canary"]
                .iter()
                .any(|name| targets_undeclared_port(cluster, name))
        };
        let violated = cluster.wait_until(mismatch, 24 * 60 * MINUTE).await;
        let (stable, canary) = (
            service(&cluster, "checkout"),
            service(&cluster, "checkout-canary"),
        );
        assert!(
            violated.is_err(),
            "selector and ports do not match: {stable} {canary}"
        );
    })
}

fn targets_undeclared_port(cluster: &FakeCluster, name: &str) -> bool {
    let service = service(cluster, name);
    let revision = &service["spec"]["selector"]["serin.dev/revision"];
    let set = replica_sets(cluster, "checkout")
        .into_iter()
        .map(|set| json!(set));
    let Some(set) = set
        .into_iter()
        .find(|set| set["metadata"]["labels"]["serin.dev/revision"] == *revision)
    else {
        return false;
    };
    let declared = set["spec"]["template"]["spec"]["containers"][0]["ports"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let numbers: Vec<Value> = declared
        .iter()
        .map(|port| port["containerPort"].clone())
        .collect();
    let ports = service["spec"]["ports"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ports
        .iter()
        .any(|port| port["targetPort"].is_number() && !numbers.contains(&port["targetPort"]))
}

async fn start_release(cluster: &FakeCluster, version: &str, ports: Value) {
    apply(cluster, pausing_rollout(version, ports));
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
}

async fn promote(cluster: &FakeCluster, version: &str) {
    create_command(
        cluster,
        &format!("promote-{version}"),
        "checkout",
        "promote",
    );
    wait_until_healthy(cluster, "checkout", version).await;
}

// flagger #279, PR #327: generated Services are tied to a port number, so that versions with
// different ports cannot run side by side.
#[tokio::test(start_paused = true)]
async fn a_version_with_another_number_for_the_same_port_name_is_released() {
    let cluster = FakeCluster::new(301);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        pausing_rollout("v1", json!([{"name": "http", "containerPort": 8080}])),
    );
    wait_until_healthy(&cluster, "checkout", "v1").await;
    assert_eq!(
        service_ports(&cluster, "checkout"),
        [(80, json!("http"))],
        "the port of the route targets the container port by name"
    );
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    start_release(
        &cluster,
        "v2",
        json!([{"name": "http", "containerPort": 9090}]),
    )
    .await;
    assert_eq!(
        service_ports(&cluster, "checkout-canary"),
        [(80, json!("http"))]
    );
    promote(&cluster, "v2").await;
    assert_eq!(service_ports(&cluster, "checkout"), [(80, json!("http"))]);
    monitor.finish().await;
}

// flagger #279, PR #327, with an unnamed port.
#[tokio::test(start_paused = true)]
async fn each_service_targets_the_unnamed_port_of_its_selected_revision() {
    let cluster = FakeCluster::new(302);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        pausing_rollout("v1", json!([{"containerPort": 8080}])),
    );
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let port_monitor = monitor_service_ports(&cluster);
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    start_release(&cluster, "v2", json!([{"containerPort": 9090}])).await;
    assert_eq!(service_ports(&cluster, "checkout"), [(80, json!(8080))]);
    assert_eq!(
        service_ports(&cluster, "checkout-canary"),
        [(80, json!(9090))]
    );
    promote(&cluster, "v2").await;
    assert_eq!(service_ports(&cluster, "checkout"), [(80, json!(9090))]);
    start_release(&cluster, "v3", json!([{"containerPort": 7070}])).await;
    assert_eq!(
        service_ports(&cluster, "checkout-canary"),
        [(80, json!(7070))]
    );
    create_command(&cluster, "no", "checkout", "abort");
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(service_ports(&cluster, "checkout"), [(80, json!(9090))]);
    assert!(
        !port_monitor.is_finished(),
        "selector and ports always match"
    );
    monitor.finish().await;
}

// flagger #1345: ports were lost. Similar case: ports were never added.
#[tokio::test(start_paused = true)]
async fn an_added_port_is_released_even_if_the_route_references_it_immediately() {
    let cluster = FakeCluster::new(303);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        pausing_rollout("v1", json!([{"name": "http", "containerPort": 8080}])),
    );
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let mut route = http_route("checkout");
    let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": "/admin"}}], "backendRefs": [{"name": "checkout", "port": 9000}]});
    route["spec"]["rules"].as_array_mut().unwrap().push(rule);
    let two_ports =
        json!([{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9000}]);
    apply(&cluster, pausing_rollout("v2", two_ports.clone()));
    apply(&cluster, route);
    let both = [(80, json!("http")), (9000, json!("admin"))];
    cluster
        .wait_until(
            |cluster| service_ports(cluster, "checkout") == both,
            10 * SECOND,
        )
        .await
        .expect("the references of the route are resolved");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    cluster.sleep(10 * SECOND).await;
    assert_eq!(service_ports(&cluster, "checkout-canary"), both);
    promote(&cluster, "v2").await;
    assert_eq!(service_ports(&cluster, "checkout"), both);
    // The port is removed with the version that no longer declares it, if no route references it.
    apply(&cluster, http_route("checkout"));
    start_release(
        &cluster,
        "v3",
        json!([{"name": "http", "containerPort": 8080}]),
    )
    .await;
    promote(&cluster, "v3").await;
    assert_eq!(service_ports(&cluster, "checkout"), [(80, json!("http"))]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_route_port_is_added_to_the_service_and_an_idle_rollout_stops_writing() {
    let cluster = FakeCluster::new(304);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        pausing_rollout("v1", json!([{"name": "http", "containerPort": 8080}])),
    );
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let mut moved = http_route("checkout");
    moved["spec"]["rules"][1]["backendRefs"][0]["port"] = json!(8888);
    apply(&cluster, moved);
    let both = [(80, json!("http")), (8888, json!("http"))];
    cluster
        .wait_until(|cluster| service_ports(cluster, "checkout") == both, SECOND)
        .await
        .expect("both ports exist, because other clients may use the old one");
    cluster.sleep(MINUTE).await;
    cluster.clear_requests();
    cluster.sleep(60 * MINUTE).await;
    assert_eq!(cluster.writes(), []);
}

fn user_service(target: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "checkout", "namespace": SHOP, "labels": {"team": "shop"},
            "annotations": {"traefik.ingress.kubernetes.io/service.serversscheme": "h2c", "example.com/owner": "shop"},
        },
        "spec": {
            "type": "LoadBalancer", "clusterIP": "None", "externalIPs": ["192.0.2.1"],
            "selector": {"app": "checkout"}, "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack",
            "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose", "publishNotReadyAddresses": true,
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "ports": [
                {"name": "web", "port": 80, "targetPort": target, "nodePort": 30080, "appProtocol": "kubernetes.io/h2c"},
                {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
            ],
        },
    })
}

// flagger #1345 (ports lost), #279.
#[tokio::test(start_paused = true)]
async fn the_canary_service_is_a_copy_without_external_access_and_follows_the_users_service() {
    let cluster = FakeCluster::new(305);
    create_route(&cluster, "checkout");
    apply(&cluster, user_service(json!("http")));
    let before = service(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    let http = || json!([{"name": "http", "containerPort": 8080}]);
    apply(&cluster, pausing_rollout("v1", http()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    start_release(&cluster, "v2", http()).await;

    let canary = service(&cluster, "checkout-canary");
    let (spec, stable) = (&canary["spec"], &before["spec"]);
    for field in [
        "clusterIP",
        "ipFamilies",
        "ipFamilyPolicy",
        "internalTrafficPolicy",
        "trafficDistribution",
        "sessionAffinity",
        "sessionAffinityConfig",
    ] {
        assert_eq!(spec[field], stable[field], "{field}");
    }
    assert_eq!(spec["type"], "ClusterIP");
    assert_eq!(spec["externalIPs"], Value::Null);
    assert_eq!(
        spec["publishNotReadyAddresses"],
        Value::Null,
        "unready pods get no requests"
    );
    let mut ports = stable["ports"].clone();
    ports[0].as_object_mut().unwrap().remove("nodePort");
    assert_eq!(spec["ports"], ports);
    assert_eq!(
        canary["metadata"]["annotations"],
        json!({"traefik.ingress.kubernetes.io/service.serversscheme": "h2c"})
    );

    // The user adds a port later.
    let mut edited = service(&cluster, "checkout");
    edited["spec"]["ports"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "admin", "port": 9000, "targetPort": 9000}));
    edited["spec"]["sessionAffinity"] = json!("None");
    edited["spec"]["sessionAffinityConfig"] = Value::Null;
    apply(&cluster, edited);
    let follows = |cluster: &FakeCluster| {
        let canary = service(cluster, "checkout-canary");
        canary["spec"]["ports"][2]["port"] == 9000 && canary["spec"]["sessionAffinity"] == "None"
    };
    cluster
        .wait_until(follows, SECOND)
        .await
        .expect("the copy is updated");
    promote(&cluster, "v2").await;

    // Only one label and one selector entry of the user's Service were changed.
    let mut after = service(&cluster, "checkout");
    assert_eq!(after["spec"]["ports"].as_array().unwrap().len(), 3);
    after["metadata"]["labels"]
        .as_object_mut()
        .unwrap()
        .remove("serin.dev/rollout");
    after["spec"]["selector"]
        .as_object_mut()
        .unwrap()
        .remove("serin.dev/revision");
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    assert_eq!(
        after["metadata"]["annotations"],
        before["metadata"]["annotations"]
    );
    after["spec"]["ports"].as_array_mut().unwrap().pop();
    for (field, value) in before["spec"].as_object().unwrap() {
        if !field.starts_with("sessionAffinity") {
            assert_eq!(after["spec"][field], *value, "{field}");
        }
    }
}

// flagger #279: a wrong port is reported instead of causing a 502 for every canary request.
#[tokio::test(start_paused = true)]
async fn a_user_service_with_a_wrong_target_port_is_reported_and_the_canary_gets_no_traffic() {
    let cases = [
        (
            json!(8080),
            json!([{"name": "http", "containerPort": 9090}]),
            "targets container port 8080 by number",
        ),
        (
            json!("http"),
            json!([{"name": "web", "containerPort": 8080}]),
            "targets the container port named `http`",
        ),
    ];
    for (index, (target, ports, problem)) in cases.into_iter().enumerate() {
        let cluster = FakeCluster::new(306 + index as u64);
        create_route(&cluster, "checkout");
        apply(&cluster, user_service(target));
        let _running = start_controller(&cluster, "serin");
        apply(
            &cluster,
            pausing_rollout("v1", json!([{"name": "http", "containerPort": 8080}])),
        );
        wait_until_healthy(&cluster, "checkout", "v1").await;
        apply(&cluster, pausing_rollout("v2", ports));
        let is_reported = |cluster: &FakeCluster| {
            let reconciling = condition(cluster, "checkout", "Reconciling");
            reconciling.is_some_and(|(_, _, message)| {
                message.contains(problem) && message.contains("Service checkout")
            })
        };
        cluster
            .wait_until(is_reported, MINUTE)
            .await
            .unwrap_or_else(|_| panic!("{:?}", status(&cluster, "checkout").conditions));
        assert_eq!(route_weights(&cluster, "checkout"), (Some(1), None));
        // The fix from the message.
        apply(
            &cluster,
            pausing_rollout("v3", json!([{"name": "http", "containerPort": 8080}])),
        );
        wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
        promote(&cluster, "v3").await;
    }
}

// traefik #9158: a backend with weight 0 and a missing Service breaks the whole route.
#[tokio::test(start_paused = true)]
async fn a_route_that_lists_the_canary_from_the_start_works_after_the_first_deployment() {
    let cluster = FakeCluster::new(308);
    apply(&cluster, static_service());
    let mut both = http_route("checkout");
    both["spec"]["rules"][1]["backendRefs"] = json!([{"name": "checkout", "port": 80, "weight": 100}, {"name": "checkout-canary", "port": 80, "weight": 0}]);
    apply(&cluster, both);
    let before = route_spec(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    let http = || json!([{"name": "http", "containerPort": 8080}]);
    apply(&cluster, pausing_rollout("v1", http()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    assert_eq!(
        service_ports(&cluster, "checkout-canary"),
        [(80, json!("http"))]
    );
    assert_eq!(route_spec(&cluster, "checkout"), before);
    start_release(&cluster, "v2", http()).await;
    promote(&cluster, "v2").await;
    assert_eq!(route_spec(&cluster, "checkout"), before);
    // A deleted canary Service is created again.
    cluster.delete::<Service>(SHOP, "checkout-canary").unwrap();
    cluster
        .wait_until(
            |cluster| cluster.get::<Service>(SHOP, "checkout-canary").is_some(),
            MINUTE,
        )
        .await
        .unwrap();
}

/// A Rollout without a router that names a Service for each side.
fn rollout_with_services(version: &str) -> Value {
    let steps = json!([{"setWeight": 25}, {"pause": {}}]);
    let mut rollout = unrouted_rollout("checkout", version, 4, steps);
    let canary = &mut rollout["spec"]["strategy"]["canary"];
    canary["stableService"] = json!("checkout-stable");
    canary["canaryService"] = json!("checkout-preview");
    rollout["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
    rollout
}

/// The version of the pods that a Service selects.
fn selected_version(cluster: &FakeCluster, name: &str) -> Option<String> {
    let service = service(cluster, name);
    let revision = service["spec"]["selector"]["serin.dev/revision"].as_str()?;
    let sets = replica_sets(cluster, "checkout")
        .into_iter()
        .map(|set| json!(set));
    let mut selected =
        sets.filter(|set| set["metadata"]["labels"]["serin.dev/revision"] == revision);
    let labels = &selected.next()?["spec"]["template"]["spec"]["containers"][0]["image"];
    labels.as_str()?.rsplit(':').next().map(ToOwned::to_owned)
}

// The quick starts of Argo Rollouts have a stable and a canary Service without a router.
#[tokio::test(start_paused = true)]
async fn without_a_router_each_service_selects_the_pods_of_its_side() {
    let cluster = FakeCluster::new(21);
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, rollout_with_services("v1"));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let selected = |cluster: &FakeCluster| {
        let of = |name| selected_version(cluster, name).unwrap_or_default();
        [of("checkout-stable"), of("checkout-preview")]
    };
    assert_eq!(selected(&cluster), ["v1", "v1"]);
    apply(&cluster, rollout_with_services("v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    assert_eq!(selected(&cluster), ["v1", "v2"]);
    create_command(&cluster, "promote", "checkout", "promote");
    wait_until_healthy(&cluster, "checkout", "v2").await;
    assert_eq!(selected(&cluster), ["v2", "v2"]);
}
