//! Releases from end to end.

use kube::ResourceExt;
use serde_json::json;
use serin_core::observed::AnalysisReport;
use serin_fake_cluster::{Fate, World};
use serin_metrics_analysis::Phase;

use crate::stage::*;

fn steps() -> serde_json::Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "10s"}}, {"setWeight": 50}, {"pause": {"duration": "10s"}}])
}

async fn at_v1(
    world: &World,
    rollout: fn(&str, &str, u32, serde_json::Value) -> serde_json::Value,
) -> Running {
    with_route(world, "checkout");
    let running = start(world, "serin");
    apply(world, rollout("checkout", "v1", 4, steps()));
    healthy(world, "checkout", "v1").await;
    running
}

#[tokio::test(start_paused = true)]
async fn the_first_revision_becomes_stable_without_steps() {
    let world = World::new(1);
    let _running = at_v1(&world, routed).await;
    assert_eq!(sizes(&world, "checkout"), [("v1".into(), 4)].into());
    assert_eq!(
        weights(&world, "checkout"),
        (Some(1), None),
        "the route is as its user wrote it"
    );
    assert_eq!(condition(&world, "checkout", "Ready").unwrap().0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_good_release_goes_through_its_steps_and_loses_no_request() {
    let world = World::new(2);
    let _running = at_v1(&world, routed).await;
    let vigil = Vigil::over(&world, "checkout");
    let began = world.now();
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    assert_eq!(weights(&world, "checkout"), (Some(80), Some(20)));
    reaches(&world, "checkout", "Paused/Progressing/3").await;
    assert_eq!(weights(&world, "checkout"), (Some(50), Some(50)));
    healthy(&world, "checkout", "v2").await;
    assert!(
        world.now().duration_since(began).as_secs() >= 20,
        "both pauses were kept"
    );
    world.pass(MINUTE).await;
    assert_eq!(
        sizes(&world, "checkout"),
        [("v1".into(), 0), ("v2".into(), 4)].into()
    );
    assert_eq!(
        weights(&world, "checkout"),
        (Some(1), None),
        "the route is as its user wrote it"
    );
    vigil.ends_well().await;
    assert!(
        events(&world, "checkout").contains(&"Promoted".to_owned()),
        "{:?}",
        events(&world, "checkout")
    );
}

#[tokio::test(start_paused = true)]
async fn a_breach_takes_the_traffic_off_before_anything_else_and_says_why() {
    let world = World::new(3);
    let running = at_v1(&world, judged).await;
    let vigil = Vigil::over(&world, "checkout");
    apply(&world, judged("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let asked = running
        .judge
        .asked("checkout")
        .expect("the release is judged");
    assert_eq!(asked.weight.to_string(), "20 %");
    let split: Vec<_> = asked
        .rules
        .split
        .iter()
        .map(|rule| (rule.route.as_str(), rule.index))
        .collect();
    assert_eq!(
        (split, asked.rules.others.len()),
        (vec![("checkout", Some(1))], 0),
        "by its position in the route"
    );
    let sides: std::collections::BTreeSet<_> = asked.pod_sides.values().collect();
    assert_eq!(
        sides.len(),
        2,
        "pods of both sides are known by their owners: {:?}",
        asked.pod_sides
    );
    assert_eq!(
        asked.stable_replica_set.as_deref(),
        status(&world, "checkout")
            .stable_revision
            .map(|revision| format!("checkout-{revision}"))
            .as_deref()
    );

    world.pass(SECOND).await;
    world.forget_requests();
    let message = "31 of 1,000 requests failed".to_owned();
    running.judge.say(
        "checkout",
        AnalysisReport::RollBack {
            cause: "Evidence".into(),
            message: message.clone(),
        },
    );
    let said = world.now();
    world
        .until(|world| weights(world, "checkout").1.is_none(), SECOND)
        .await
        .unwrap();
    assert!(
        world.now().duration_since(said).as_millis() < 100,
        "at once"
    );
    reaches(&world, "checkout", "Degraded/Aborted").await;
    assert_eq!(status(&world, "checkout").abort.unwrap().message, message);
    let writes: Vec<_> = world
        .writes()
        .into_iter()
        .map(|write| write.plural)
        .collect();
    assert_eq!(
        &writes[..2],
        ["rollouts", "httproutes"],
        "the position is persisted first, and then the traffic goes"
    );
    let first_route = writes
        .iter()
        .position(|plural| plural == "httproutes")
        .unwrap();
    let first_set = writes
        .iter()
        .position(|plural| plural == "replicasets")
        .unwrap_or(writes.len());
    assert!(
        first_route < first_set,
        "traffic goes before pods: {writes:?}"
    );
    world.pass(MINUTE).await;
    assert_eq!(
        sizes(&world, "checkout"),
        [("v1".into(), 4), ("v2".into(), 0)].into()
    );
    assert!(events(&world, "checkout").contains(&"RolledBack".to_owned()));
    assert_eq!(
        running.judge.asked("checkout").unwrap().phase,
        Phase::Idle,
        "nothing is judged any more"
    );
    vigil.ends_well().await;
}

#[tokio::test(start_paused = true)]
async fn invariant_09_the_users_spec_is_never_written() {
    let world = World::new(18);
    let _running = at_v1(&world, routed).await;
    let v2 = routed("checkout", "v2", 4, steps());
    apply(&world, v2.clone());
    let written = |world: &World| {
        let rollout = world.get_json("rollouts", SHOP, "checkout").unwrap();
        (
            rollout["spec"].clone(),
            rollout["metadata"]["generation"].clone(),
            rollout["metadata"]["labels"].clone(),
        )
    };
    let before = written(&world);
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    command(&world, "go", "checkout", "promote");
    reaches(&world, "checkout", "Paused/Progressing/3").await;
    assert_eq!(written(&world), before, "in mid-release");
    healthy(&world, "checkout", "v2").await;
    world.pass(MINUTE).await;
    assert_eq!(written(&world), before, "after it");
    let on_spec = |write: &serin_fake_cluster::RequestSeen| {
        write.plural == "rollouts" && write.subresource.is_none()
    };
    let patches: Vec<_> = world
        .writes()
        .into_iter()
        .filter(on_spec)
        .map(|write| write.who)
        .collect();
    assert!(
        patches.len() <= 2,
        "the finalizer alone is added and removed beside it: {patches:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_crashes_is_given_up_through_the_watch_of_its_pods() {
    let world = World::new(4);
    let _running = at_v1(&world, routed).await;
    world
        .fate("app=checkout", Fate::CrashesAfter(5 * SECOND))
        .unwrap();
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Degraded/Aborted").await;
    assert_eq!(status(&world, "checkout").abort.unwrap().cause, "PodCrash");
    world
        .until(|world| weights(world, "checkout").1.is_none(), SECOND)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_never_gets_ready_gets_no_request_and_is_given_up_in_time() {
    let world = World::new(5);
    let _running = at_v1(&world, routed).await;
    world.fate("app=checkout", Fate::NeverReady).unwrap();
    let mut v2 = routed("checkout", "v2", 4, steps());
    v2["spec"]["progressDeadlineSeconds"] = json!(60);
    apply(&world, v2);
    let never = world.clone();
    let vigil = tokio::spawn(async move {
        never
            .holds(|world| weights(world, "checkout").1.is_none(), 2 * MINUTE)
            .await
    });
    reaches(&world, "checkout", "Degraded/Aborted").await;
    assert_eq!(
        status(&world, "checkout").abort.unwrap().cause,
        "ProgressDeadline"
    );
    vigil.await.unwrap().expect("it got a share of the traffic");
}

#[tokio::test(start_paused = true)]
async fn a_route_that_somebody_else_changed_is_put_back() {
    let world = World::new(6);
    let _running = at_v1(&world, routed).await;
    apply(
        &world,
        routed(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 20}, {"pause": {}}]),
        ),
    );
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let mut edited = world.get_json("httproutes", SHOP, "checkout").unwrap();
    edited["spec"]["rules"][1]["backendRefs"][0]["weight"] = json!(10);
    edited["spec"]["rules"][1]["backendRefs"][1]["weight"] = json!(90);
    apply(&world, edited);
    world
        .until(
            |world| weights(world, "checkout") == (Some(80), Some(20)),
            SECOND,
        )
        .await
        .unwrap();
    let told = |world: &World| events(world, "checkout").contains(&"RouteDrift".to_owned());
    world.until(told, SECOND).await.expect("it is told");
}

/// Seen on a real cluster: a cut of our own was told as somebody else's change once the pods were
/// back.
#[tokio::test(start_paused = true)]
async fn a_share_cut_for_want_of_pods_is_no_drift() {
    let world = World::new(17);
    let _running = at_v1(&world, routed).await;
    apply(
        &world,
        routed(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 50}, {"pause": {}}]),
        ),
    );
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    world.pass(MINUTE).await;
    let revision = status(&world, "checkout").current_revision.unwrap();
    let pods = world.objects::<k8s_openapi::api::core::v1::Pod>();
    let pod = pods
        .iter()
        .find(|pod| pod.name_any().contains(&revision))
        .unwrap();
    world
        .delete::<k8s_openapi::api::core::v1::Pod>(SHOP, &pod.name_any())
        .unwrap();
    world
        .until(
            |world| weights(world, "checkout") == (Some(75), Some(25)),
            MINUTE,
        )
        .await
        .expect("half of its pods");
    world
        .until(
            |world| weights(world, "checkout") == (Some(50), Some(50)),
            MINUTE,
        )
        .await
        .expect("all of its pods");
    world.pass(MINUTE).await;
    assert!(!events(&world, "checkout").contains(&"RouteDrift".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_route_that_the_plan_names_no_longer_is_given_back_in_mid_release() {
    let world = World::new(10);
    let _running = at_v1(&world, routed).await;
    let mut other = route("checkout");
    other["metadata"]["name"] = json!("other");
    apply(&world, other);
    let paused = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&world, routed("checkout", "v2", 4, paused()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let mut moved = routed("checkout", "v2", 4, paused());
    moved["spec"]["strategy"]["canary"]["trafficRouting"]["gatewayAPI"]["httpRoute"] =
        json!("other");
    apply(&world, moved);
    world
        .until(
            |world| weights(world, "checkout") == (Some(1), None),
            10 * SECOND,
        )
        .await
        .expect("it is as its user wrote it");
    let named = |world: &World| {
        let routes = status(world, "checkout").original_routes;
        routes
            .iter()
            .map(|route| route.name.clone())
            .collect::<Vec<_>>()
    };
    world
        .until(|world| named(world) == ["other"], MINUTE)
        .await
        .expect("it is remembered no longer");
}

#[tokio::test(start_paused = true)]
async fn two_ways_to_write_one_template_are_one_revision() {
    let world = World::new(7);
    let running = start(&world, "serin");
    let with_cpu = |cpu: serde_json::Value| {
        let mut rollout = plain("checkout", "v1", 2, json!([]));
        rollout["spec"]["template"]["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": cpu}});
        rollout
    };
    apply(&world, with_cpu(json!("1000m")));
    healthy(&world, "checkout", "v1").await;
    let before = status(&world, "checkout").current_revision;
    apply(&world, with_cpu(json!("1")));
    healthy(&world, "checkout", "v1").await;
    assert_eq!(status(&world, "checkout").current_revision, before);
    assert_eq!(sets(&world, "checkout").len(), 1);
    running.stop().await;
    // A new process knows nothing of it, and comes to the same end.
    let _running = start(&world, "another");
    world.pass(MINUTE).await;
    assert_eq!(status(&world, "checkout").current_revision, before);
    assert_eq!(sets(&world, "checkout").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newer_revision_takes_over_in_mid_release_and_a_revert_ends_it() {
    let world = World::new(8);
    let _running = at_v1(&world, routed).await;
    let vigil = Vigil::over(&world, "checkout");
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    apply(&world, routed("checkout", "v3", 4, steps()));
    world
        .until(|world| sizes(world, "checkout").contains_key("v3"), MINUTE)
        .await
        .unwrap();
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    apply(&world, routed("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    world.pass(MINUTE).await;
    assert_eq!(
        sizes(&world, "checkout"),
        [("v1".into(), 4), ("v2".into(), 0), ("v3".into(), 0)].into()
    );
    assert_eq!(weights(&world, "checkout"), (Some(1), None));
    vigil.ends_well().await;
}

#[tokio::test(start_paused = true)]
async fn services_that_exist_are_bound_and_not_owned() {
    let world = World::new(9);
    with_route(&world, "checkout");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "checkout", "namespace": SHOP},
        "spec": {"selector": {"app": "checkout"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    apply(&world, service);
    let _running = start(&world, "serin");
    apply(&world, routed("checkout", "v1", 2, steps()));
    healthy(&world, "checkout", "v1").await;
    let stable = world
        .get::<k8s_openapi::api::core::v1::Service>(SHOP, "checkout")
        .unwrap();
    assert_eq!(stable.metadata.owner_references, None);
    let selector = stable.spec.unwrap().selector.unwrap();
    assert_eq!(selector["app"], "checkout");
    assert_eq!(
        selector["serin.dev/revision"],
        status(&world, "checkout").stable_revision.unwrap()
    );
    apply(&world, routed("checkout", "v2", 2, steps()));
    healthy(&world, "checkout", "v2").await;
    let canary = world
        .get::<k8s_openapi::api::core::v1::Service>(SHOP, "checkout-canary")
        .unwrap();
    assert_eq!(canary.metadata.owner_references.unwrap().len(), 1);
    assert_eq!(
        canary.spec.unwrap().ports.unwrap()[0].port,
        80,
        "its ports are those of the stable one"
    );
}
