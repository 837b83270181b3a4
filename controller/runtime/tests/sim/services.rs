//! Services as users write them, and as Serin makes them: their ports, and what the canary's copy
//! has of the stable one.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use serin_fake_cluster::World;
use tokio::task::JoinHandle;

use crate::stage::*;

/// A release that pauses at 20 % for a person.
fn paused(version: &str, ports: Value) -> Value {
    let mut rollout = routed(
        "checkout",
        version,
        4,
        json!([{"setWeight": 20}, {"pause": {}}]),
    );
    rollout["spec"]["template"]["spec"]["containers"][0]["ports"] = ports;
    rollout
}

fn service(world: &World, name: &str) -> Value {
    world.get_json("services", SHOP, name).unwrap_or_default()
}

/// Number and target of each port.
fn targets(world: &World, name: &str) -> Vec<(i64, Value)> {
    let service = service(world, name);
    let ports = service["spec"]["ports"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ports
        .iter()
        .map(|port| (port["port"].as_i64().unwrap(), port["targetPort"].clone()))
        .collect()
}

/// Fails at the first moment at which a Service that Serin made sends requests to a port number
/// that the revision which it selects does not declare.
fn watch_targets(world: &World) -> JoinHandle<()> {
    let world = world.clone();
    tokio::spawn(async move {
        let disagree = |world: &World| {
            ["checkout", "checkout-canary"]
                .iter()
                .any(|name| disagrees(world, name))
        };
        let lost = world.until(disagree, 24 * 60 * MINUTE).await;
        let (stable, canary) = (
            service(&world, "checkout"),
            service(&world, "checkout-canary"),
        );
        assert!(
            lost.is_err(),
            "selector and ports disagree: {stable} {canary}"
        );
    })
}

fn disagrees(world: &World, name: &str) -> bool {
    let service = service(world, name);
    let revision = &service["spec"]["selector"]["serin.dev/revision"];
    let set = sets(world, "checkout").into_iter().map(|set| json!(set));
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

async fn release(world: &World, version: &str, ports: Value) {
    apply(world, paused(version, ports));
    reaches(world, "checkout", "Paused/Progressing/1").await;
}

async fn promote(world: &World, version: &str) {
    command(world, &format!("promote-{version}"), "checkout", "promote");
    healthy(world, "checkout", version).await;
}

// flagger #279, PR #327: generated Services are tied to a port number, so that versions with
// different ports cannot run side by side.
#[tokio::test(start_paused = true)]
async fn a_version_that_listens_on_another_number_behind_the_same_name_ships() {
    let world = World::new(301);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    apply(
        &world,
        paused("v1", json!([{"name": "http", "containerPort": 8080}])),
    );
    healthy(&world, "checkout", "v1").await;
    assert_eq!(
        targets(&world, "checkout"),
        [(80, json!("http"))],
        "the route's port, by the container port's name"
    );
    let vigil = Vigil::over(&world, "checkout");
    release(
        &world,
        "v2",
        json!([{"name": "http", "containerPort": 9090}]),
    )
    .await;
    assert_eq!(targets(&world, "checkout-canary"), [(80, json!("http"))]);
    promote(&world, "v2").await;
    assert_eq!(targets(&world, "checkout"), [(80, json!("http"))]);
    vigil.ends_well().await;
}

// flagger #279, PR #327, without a name.
#[tokio::test(start_paused = true)]
async fn each_service_has_the_nameless_port_of_the_revision_that_it_selects() {
    let world = World::new(302);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    apply(&world, paused("v1", json!([{"containerPort": 8080}])));
    healthy(&world, "checkout", "v1").await;
    let watching = watch_targets(&world);
    let vigil = Vigil::over(&world, "checkout");
    release(&world, "v2", json!([{"containerPort": 9090}])).await;
    assert_eq!(targets(&world, "checkout"), [(80, json!(8080))]);
    assert_eq!(targets(&world, "checkout-canary"), [(80, json!(9090))]);
    promote(&world, "v2").await;
    assert_eq!(targets(&world, "checkout"), [(80, json!(9090))]);
    release(&world, "v3", json!([{"containerPort": 7070}])).await;
    assert_eq!(targets(&world, "checkout-canary"), [(80, json!(7070))]);
    command(&world, "no", "checkout", "abort");
    reaches(&world, "checkout", "Degraded/Aborted").await;
    world.pass(MINUTE).await;
    assert_eq!(targets(&world, "checkout"), [(80, json!(9090))]);
    assert!(
        !watching.is_finished(),
        "selector and ports agree at every moment"
    );
    vigil.ends_well().await;
}

// flagger #1345: ports were lost. Here: they were never added.
#[tokio::test(start_paused = true)]
async fn a_port_that_is_added_ships_also_if_the_route_names_it_at_once() {
    let world = World::new(303);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    apply(
        &world,
        paused("v1", json!([{"name": "http", "containerPort": 8080}])),
    );
    healthy(&world, "checkout", "v1").await;
    let mut route = route("checkout");
    let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": "/admin"}}], "backendRefs": [{"name": "checkout", "port": 9000}]});
    route["spec"]["rules"].as_array_mut().unwrap().push(rule);
    let two_ports =
        json!([{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9000}]);
    apply(&world, paused("v2", two_ports.clone()));
    apply(&world, route);
    let both = [(80, json!("http")), (9000, json!("admin"))];
    world
        .until(|world| targets(world, "checkout") == both, 10 * SECOND)
        .await
        .expect("the route can be resolved");
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    world.pass(10 * SECOND).await;
    assert_eq!(targets(&world, "checkout-canary"), both);
    promote(&world, "v2").await;
    assert_eq!(targets(&world, "checkout"), both);
    // It goes again with the version that has it no longer, once no route names it.
    apply(&world, crate::stage::route("checkout"));
    release(
        &world,
        "v3",
        json!([{"name": "http", "containerPort": 8080}]),
    )
    .await;
    promote(&world, "v3").await;
    assert_eq!(targets(&world, "checkout"), [(80, json!("http"))]);
}

#[tokio::test(start_paused = true)]
async fn a_route_that_moves_to_another_port_finds_it_and_an_idle_rollout_comes_to_rest() {
    let world = World::new(304);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    apply(
        &world,
        paused("v1", json!([{"name": "http", "containerPort": 8080}])),
    );
    healthy(&world, "checkout", "v1").await;
    let mut moved = route("checkout");
    moved["spec"]["rules"][1]["backendRefs"][0]["port"] = json!(8888);
    apply(&world, moved);
    let both = [(80, json!("http")), (8888, json!("http"))];
    world
        .until(|world| targets(world, "checkout") == both, SECOND)
        .await
        .expect("the old port stays for others");
    world.pass(MINUTE).await;
    world.forget_requests();
    world.pass(60 * MINUTE).await;
    assert_eq!(world.writes(), []);
}

fn users_service(target: Value) -> Value {
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
async fn the_canarys_service_is_a_copy_of_the_users_without_anything_external_and_follows_it() {
    let world = World::new(305);
    with_route(&world, "checkout");
    apply(&world, users_service(json!("http")));
    let before = service(&world, "checkout");
    let _running = start(&world, "serin");
    let http = || json!([{"name": "http", "containerPort": 8080}]);
    apply(&world, paused("v1", http()));
    healthy(&world, "checkout", "v1").await;
    release(&world, "v2", http()).await;

    let canary = service(&world, "checkout-canary");
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
        "no request before it is ready"
    );
    let mut ports = stable["ports"].clone();
    ports[0].as_object_mut().unwrap().remove("nodePort");
    assert_eq!(spec["ports"], ports);
    assert_eq!(
        canary["metadata"]["annotations"],
        json!({"traefik.ingress.kubernetes.io/service.serversscheme": "h2c"})
    );

    // A port that the user adds later.
    let mut edited = service(&world, "checkout");
    edited["spec"]["ports"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "admin", "port": 9000, "targetPort": 9000}));
    edited["spec"]["sessionAffinity"] = json!("None");
    edited["spec"]["sessionAffinityConfig"] = Value::Null;
    apply(&world, edited);
    let follows = |world: &World| {
        let canary = service(world, "checkout-canary");
        canary["spec"]["ports"][2]["port"] == 9000 && canary["spec"]["sessionAffinity"] == "None"
    };
    world
        .until(follows, SECOND)
        .await
        .expect("the copy follows");
    promote(&world, "v2").await;

    // The user's own is changed in two places only.
    let mut after = service(&world, "checkout");
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

// flagger #279: what cannot work is said, instead of a 502 for every request of the canary.
#[tokio::test(start_paused = true)]
async fn a_users_service_that_cannot_reach_the_new_version_is_named_and_no_request_is_sent_there() {
    let cases = [
        (
            json!(8080),
            json!([{"name": "http", "containerPort": 9090}]),
            "leads to container port 8080 by its number",
        ),
        (
            json!("http"),
            json!([{"name": "web", "containerPort": 8080}]),
            "leads to the container port named `http`",
        ),
    ];
    for (index, (target, ports, problem)) in cases.into_iter().enumerate() {
        let world = World::new(306 + index as u64);
        with_route(&world, "checkout");
        apply(&world, users_service(target));
        let _running = start(&world, "serin");
        apply(
            &world,
            paused("v1", json!([{"name": "http", "containerPort": 8080}])),
        );
        healthy(&world, "checkout", "v1").await;
        apply(&world, paused("v2", ports));
        let named = |world: &World| {
            let told = condition(world, "checkout", "Reconciling");
            told.is_some_and(|(_, _, message)| {
                message.contains(problem) && message.contains("Service checkout")
            })
        };
        world
            .until(named, MINUTE)
            .await
            .unwrap_or_else(|_| panic!("{:?}", status(&world, "checkout").conditions));
        assert_eq!(weights(&world, "checkout"), (Some(1), None));
        // The fix that the message names.
        apply(
            &world,
            paused("v3", json!([{"name": "http", "containerPort": 8080}])),
        );
        reaches(&world, "checkout", "Paused/Progressing/1").await;
        promote(&world, "v3").await;
    }
}

// traefik #9158: a backend with weight 0 whose Service does not exist spoils the whole route.
#[tokio::test(start_paused = true)]
async fn a_rollout_whose_route_lists_the_canary_from_the_start_is_healthy_after_the_first_deploy() {
    let world = World::new(308);
    apply(&world, static_service());
    let mut both = route("checkout");
    both["spec"]["rules"][1]["backendRefs"] = json!([{"name": "checkout", "port": 80, "weight": 100}, {"name": "checkout-canary", "port": 80, "weight": 0}]);
    apply(&world, both);
    let before = world.get_json("httproutes", SHOP, "checkout").unwrap()["spec"].clone();
    let _running = start(&world, "serin");
    let http = || json!([{"name": "http", "containerPort": 8080}]);
    apply(&world, paused("v1", http()));
    healthy(&world, "checkout", "v1").await;
    assert_eq!(targets(&world, "checkout-canary"), [(80, json!("http"))]);
    assert_eq!(
        world.get_json("httproutes", SHOP, "checkout").unwrap()["spec"],
        before
    );
    release(&world, "v2", http()).await;
    promote(&world, "v2").await;
    assert_eq!(
        world.get_json("httproutes", SHOP, "checkout").unwrap()["spec"],
        before
    );
    // Somebody deletes it: it is made again.
    world.delete::<Service>(SHOP, "checkout-canary").unwrap();
    world
        .until(
            |world| world.get::<Service>(SHOP, "checkout-canary").is_some(),
            MINUTE,
        )
        .await
        .unwrap();
}
