//! Clusters without the Gateway API, or with it for a while only. Source: findings on a cluster
//! without its CRDs, where the controller never began; kube-rs reports the API server's plain-text
//! 404 with an unknown reason.

use serde_json::json;
use serin_fake_cluster::{Fault, World};

use super::stage::*;

const ROUTES: &str = "httproutes";
/// Longer than an absent kind is waited for between two lookups, with all that follows.
const NOTICED: std::time::Duration = MINUTE;

fn message(world: &World, name: &str) -> String {
    status(world, name).message.unwrap_or_default()
}

fn steps() -> serde_json::Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "30s"}}])
}

/// Waits until the status says why the routes cannot be read.
async fn is_told_what_to_install(world: &World, name: &str) {
    let told = world
        .until(
            |world| message(world, name).contains("install the CRDs of the Gateway API"),
            NOTICED,
        )
        .await;
    assert!(told.is_ok(), "{}", message(world, name));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_the_gateway_api_runs_rollouts_without_a_router_from_the_first_second() {
    let world = World::new(70);
    world.serve(ROUTES, &[]);
    let _running = start(&world, "serin-0");
    apply(&world, plain("plain", "v1", 2, json!([])));
    world
        .until(|world| !sets(world, "plain").is_empty(), 2 * SECOND)
        .await
        .expect("the controller does not begin");
    healthy(&world, "plain", "v1").await;
    apply(&world, plain("plain", "v2", 2, steps()));
    healthy(&world, "plain", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_names_a_route_is_told_what_to_install_and_goes_on_once_the_kind_appears() {
    let world = World::new(71);
    world.serve(ROUTES, &[]);
    let _running = start(&world, "serin-0");
    apply(&world, static_service());
    apply(&world, routed("checkout", "v1", 2, json!([])));
    is_told_what_to_install(&world, "checkout").await;
    world.serve(ROUTES, &["v1"]);
    apply(&world, route("checkout"));
    world
        .until(|world| is_healthy(world, "checkout", "v1"), 3 * MINUTE)
        .await
        .expect("the kind is not noticed");
    apply(&world, routed("checkout", "v2", 2, steps()));
    healthy(&world, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_disappears_in_mid_release_holds_it_and_nothing_is_scaled_or_promoted() {
    let world = World::new(72);
    with_route(&world, "checkout");
    let _running = start(&world, "serin-0");
    apply(&world, routed("checkout", "v1", 4, json!([])));
    healthy(&world, "checkout", "v1").await;
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let before = sizes(&world, "checkout");
    let saved = world.get_json(ROUTES, SHOP, "checkout").unwrap();
    world.serve(ROUTES, &[]);
    is_told_what_to_install(&world, "checkout").await;
    let held = |world: &World| {
        sizes(world, "checkout") == before && position(world, "checkout").contains("Progressing")
    };
    world
        .holds(held, 5 * MINUTE)
        .await
        .expect("something moved while the routes could not be read");
    assert_eq!(
        status(&world, "checkout").original_routes.len(),
        1,
        "how the route was stays recorded"
    );
    // The definitions are installed again, and GitOps restores the route as it is written.
    world.serve(ROUTES, &["v1"]);
    let mut route = route("checkout");
    route["spec"]["rules"][0] = saved["spec"]["rules"][0].clone();
    apply(&world, route);
    healthy(&world, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_served_version_is_followed_in_mid_release() {
    let world = World::new(73);
    with_route(&world, "checkout");
    let _running = start(&world, "serin-0");
    apply(&world, routed("checkout", "v1", 4, json!([])));
    healthy(&world, "checkout", "v1").await;
    let vigil = Vigil::over(&world, "checkout");
    for (index, versions) in [&["v1beta1"][..], &["v1", "v1beta1"], &["v1"]]
        .into_iter()
        .enumerate()
    {
        let version = format!("v{}", index + 2);
        apply(&world, routed("checkout", &version, 4, steps()));
        reaches(&world, "checkout", "Paused/Progressing/1").await;
        world.serve(ROUTES, versions);
        healthy(&world, "checkout", &version).await;
    }
    vigil.ends_well().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_serves_only_v1beta1_is_used_in_that_version() {
    let world = World::new(74);
    world.serve(ROUTES, &["v1beta1"]);
    let mut beta = route("checkout");
    beta["apiVersion"] = "gateway.networking.k8s.io/v1beta1".into();
    apply(&world, static_service());
    apply(&world, beta);
    let _running = start(&world, "serin-0");
    apply(&world, routed("checkout", "v1", 2, json!([])));
    healthy(&world, "checkout", "v1").await;
    apply(&world, routed("checkout", "v2", 2, steps()));
    healthy(&world, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_can_be_deleted_after_its_routes_are_gone_with_their_kind() {
    let world = World::new(75);
    with_route(&world, "checkout");
    let _running = start(&world, "serin-0");
    apply(&world, routed("checkout", "v1", 2, json!([])));
    healthy(&world, "checkout", "v1").await;
    apply(&world, routed("checkout", "v2", 2, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    world.serve(ROUTES, &[]);
    world
        .delete::<serin_crds::Rollout>(SHOP, "checkout")
        .unwrap();
    let gone = world
        .until(
            |world| world.get_json("rollouts", SHOP, "checkout").is_none(),
            3 * MINUTE,
        )
        .await;
    assert!(gone.is_ok(), "its finalizer stays for ever");
}

/// A load balancer or an API server that is starting may answer 404 for whatever it is asked.
#[tokio::test(start_paused = true)]
async fn a_stray_404_about_pods_or_replica_sets_does_not_make_them_disappear() {
    let world = World::new(76);
    let _running = start(&world, "serin-0");
    apply(&world, plain("plain", "v1", 3, json!([])));
    healthy(&world, "plain", "v1").await;
    let sets_before = sets(&world, "plain").len();
    for plural in ["replicasets", "pods", "services", "endpointslices"] {
        world.inject(Fault::on("list", plural).times(3).status(404));
        world.inject(Fault::on("watch", plural).times(3).status(404));
    }
    world.compact();
    world.break_watches();
    world
        .holds(
            |world| sets(world, "plain").len() == sets_before,
            2 * MINUTE,
        )
        .await
        .expect("a ReplicaSet too many");
    assert_eq!(sizes(&world, "plain"), [("v1".into(), 3)].into());
    apply(&world, plain("plain", "v2", 3, json!([])));
    healthy(&world, "plain", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn commands_may_be_absent_too_and_are_carried_out_once_their_kind_appears() {
    let world = World::new(77);
    world.serve("rolloutcommands", &[]);
    let _running = start(&world, "serin-0");
    apply(&world, plain("plain", "v1", 2, json!([])));
    healthy(&world, "plain", "v1").await;
    apply(
        &world,
        plain("plain", "v2", 2, json!([{"setWeight": 50}, {"pause": {}}])),
    );
    reaches(&world, "plain", "Paused/Progressing/1").await;
    world.serve("rolloutcommands", &["v1alpha1"]);
    command(&world, "go-on", "plain", "promote");
    healthy(&world, "plain", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn the_controller_waits_for_its_own_definitions_and_begins_once_they_are_installed() {
    let world = World::new(78);
    world.serve("rollouts", &[]);
    world.serve("rolloutcommands", &[]);
    let _running = start(&world, "serin-0");
    world.pass(MINUTE).await;
    world.serve("rollouts", &["v1alpha1"]);
    world.serve("rolloutcommands", &["v1alpha1"]);
    apply(&world, plain("plain", "v1", 2, json!([])));
    healthy(&world, "plain", "v1").await;
}
