//! Rules for chosen requests: kept across steps and restarts, and gone at the end of every release.

use serde_json::{Value, json};
use serin_core::plan::RouteKind;
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;
use serin_traffic::{ROUTERS, Router, is_added_rule, router_of};

use crate::crash::crash_at_any_write;
use crate::fixtures::*;
use crate::harness::*;

const NAME: &str = "checkout";

/// The kinds of route that can hold rules for chosen requests.
fn routers() -> impl Iterator<Item = &'static dyn Router> {
    let routers = ROUTERS.iter().copied();
    routers.filter(|router| router.route_kind().has_managed_routes())
}

fn staff() -> Value {
    json!({"setHeaderRoute": {
        "name": "staff", "match": [{"headerName": "x-user", "headerValue": {"exact": "staff"}}],
    }})
}

fn copies() -> Value {
    json!({"setMirrorRoute": {
        "name": "copies", "percentage": 35,
        "match": [{"headers": {"x-copy": {"exact": "1"}}}],
    }})
}

fn remove_copies() -> Value {
    json!({"setMirrorRoute": {"name": "copies"}})
}

fn rollout(router: &dyn Router, version: &str, steps: Value) -> Value {
    let mut rollout = rollout_of_kind(router, NAME, version, 2, steps);
    let routing = &mut rollout["spec"]["strategy"]["canary"]["trafficRouting"];
    routing["managedRoutes"] = json!([{"name": "copies"}, {"name": "staff"}]);
    rollout
}

fn spec(cluster: &FakeCluster, router: &dyn Router) -> Value {
    let route = cluster.get_json(router.plural(), SHOP, NAME).unwrap();
    route["spec"].clone()
}

/// The names of the added rules, in the order of the object.
fn added(cluster: &FakeCluster, router: &dyn Router) -> Vec<String> {
    let spec = spec(cluster, router);
    let list = if router.route_kind() == RouteKind::VirtualService {
        "http"
    } else {
        "rules"
    };
    let names = spec[list].as_array().unwrap().iter();
    let names = names.filter_map(|rule| rule["name"].as_str());
    let added = names.filter(|name| is_added_rule(name));
    added.map(ToOwned::to_owned).collect()
}

async fn wait_for_rules(cluster: &FakeCluster, router: &dyn Router, expected: &[&str]) {
    let has_them = |cluster: &FakeCluster| added(cluster, router) == expected;
    let waited = cluster.wait_until(has_them, MINUTE).await;
    let message = status(cluster, NAME).state.message;
    assert!(
        waited.is_ok(),
        "{}: {:?}: {message}",
        router.kind(),
        added(cluster, router)
    );
}

/// A Rollout whose v1 is stable, and its route before the release.
async fn start(cluster: &FakeCluster, router: &dyn Router) -> (RunningController, Value) {
    apply(cluster, static_service());
    apply(cluster, route_of_kind(router, NAME));
    let before = spec(cluster, router);
    let running = start_controller(cluster, "serin-0");
    apply(cluster, rollout(router, "v1", json!([])));
    wait_until_healthy(cluster, NAME, "v1").await;
    (running, before)
}

#[tokio::test(start_paused = true)]
async fn rules_come_and_go_with_the_steps_and_the_original_is_restored() {
    for (seed, router) in (700..).zip(routers()) {
        let cluster = FakeCluster::new(seed);
        let (running, before) = start(&cluster, router).await;
        let steps = json!([
            staff(), {"pause": {}}, copies(), {"setWeight": 20}, {"pause": {}}, remove_copies(),
            {"pause": {}},
        ]);
        apply(&cluster, rollout(router, "v2", steps));
        wait_for_position(&cluster, NAME, "Paused/Progressing/1").await;
        let kind = router.kind();
        assert_eq!(added(&cluster, router), ["serin.dev.staff.1"], "{kind}");
        create_command(&cluster, "one", NAME, "promote");
        wait_for_position(&cluster, NAME, "Paused/Progressing/4").await;
        let both = ["serin.dev.copies.1", "serin.dev.staff.1"];
        assert_eq!(added(&cluster, router), both, "{kind}");
        create_command(&cluster, "two", NAME, "promote");
        wait_for_position(&cluster, NAME, "Paused/Progressing/6").await;
        assert_eq!(added(&cluster, router), ["serin.dev.staff.1"], "{kind}");
        create_command(&cluster, "three", NAME, "promote");
        wait_until_healthy(&cluster, NAME, "v2").await;
        assert_eq!(spec(&cluster, router), before, "{kind}");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_a_deletion_and_an_edit_of_the_steps_remove_the_rules() {
    for (seed, router) in (720..).zip(routers()) {
        let cluster = FakeCluster::new(seed);
        let (running, before) = start(&cluster, router).await;
        let steps = || json!([staff(), {"setWeight": 20}, {"pause": {}}]);
        apply(&cluster, rollout(router, "v2", steps()));
        wait_for_position(&cluster, NAME, "Paused/Progressing/2").await;
        assert_eq!(added(&cluster, router), ["serin.dev.staff.1"]);
        create_command(&cluster, "stop", NAME, "abort");
        wait_for_position(&cluster, NAME, "Degraded/Aborted").await;
        let is_restored = |cluster: &FakeCluster| spec(cluster, router) == before;
        let restored = cluster.wait_until(is_restored, MINUTE).await;
        assert!(
            restored.is_ok(),
            "{}: {}",
            router.kind(),
            spec(&cluster, router)
        );
        create_command(&cluster, "again", NAME, "retry");
        wait_for_position(&cluster, NAME, "Paused/Progressing/2").await;
        let edited = json!([{"setWeight": 20}, {"setWeight": 20}, {"pause": {}}]);
        apply(&cluster, rollout(router, "v2", edited));
        wait_for_rules(&cluster, router, &[]).await;
        apply(&cluster, rollout(router, "v2", steps()));
        wait_for_rules(&cluster, router, &["serin.dev.staff.1"]).await;
        cluster.delete::<Rollout>(SHOP, NAME).unwrap();
        let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, NAME).is_none();
        cluster.wait_until(is_gone, MINUTE).await.unwrap();
        assert_eq!(spec(&cluster, router), before, "{}", router.kind());
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_somebody_else_removes_or_changes_is_put_back() {
    for (seed, router) in (740..).zip(routers()) {
        let cluster = FakeCluster::new(seed);
        let (running, before) = start(&cluster, router).await;
        let steps = json!([staff(), {"setWeight": 20}, {"pause": {}}]);
        apply(&cluster, rollout(router, "v2", steps));
        wait_for_position(&cluster, NAME, "Paused/Progressing/2").await;
        let good = spec(&cluster, router);
        let list = if router.route_kind() == RouteKind::VirtualService {
            "http"
        } else {
            "rules"
        };
        let mut changed = good.clone();
        let rules = changed[list].as_array_mut().unwrap();
        let rule = rules
            .iter_mut()
            .find(|rule| rule["name"] == "serin.dev.staff.1");
        rule.unwrap()["timeouts"] = json!({"request": "1s"});
        for edited in [changed, before] {
            let mut route = cluster.get_json(router.plural(), SHOP, NAME).unwrap();
            route["spec"] = edited;
            apply(&cluster, route);
            let is_back = |cluster: &FakeCluster| spec(cluster, router) == good;
            let back = cluster.wait_until(is_back, 10 * SECOND).await;
            assert!(
                back.is_ok(),
                "{}: {}",
                router.kind(),
                spec(&cluster, router)
            );
        }
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_controller_writes_nothing_while_the_rules_are_in_place() {
    let router = router_of(RouteKind::HttpRoute);
    let cluster = FakeCluster::new(760);
    let (running, _) = start(&cluster, router).await;
    let steps = json!([staff(), copies(), {"setWeight": 20}, {"pause": {}}]);
    apply(&cluster, rollout(router, "v2", steps));
    wait_for_position(&cluster, NAME, "Paused/Progressing/3").await;
    let version = |cluster: &FakeCluster| {
        let route = cluster.get_json(router.plural(), SHOP, NAME).unwrap();
        route["metadata"]["generation"].clone()
    };
    let before = version(&cluster);
    running.kill(&cluster);
    let running = start_controller(&cluster, "serin-1");
    cluster.sleep(MINUTE).await;
    assert_eq!(version(&cluster), before);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_controller_killed_at_any_write_is_continued_with_the_same_rules() {
    let router = router_of(RouteKind::HttpRoute);
    let original = std::cell::RefCell::new(Value::Null);
    let kills = crash_at_any_write(
        780,
        async |cluster| {
            let (first, before) = start(cluster, router).await;
            original.replace(before);
            (first, TrafficMonitor::start(cluster, NAME))
        },
        async |cluster| {
            let steps = json!([
                staff(), {"setWeight": 50}, {"setHeaderRoute": {"name": "staff"}},
                {"pause": {"duration": 1}},
            ]);
            apply(cluster, rollout(router, "v2", steps));
        },
        async |crash, ()| {
            wait_until_healthy(&crash.cluster, NAME, "v2").await;
            assert_eq!(
                spec(&crash.cluster, router),
                *original.borrow(),
                "{}",
                crash.writes
            );
        },
    )
    .await;
    assert!(kills >= 6, "{kills}");
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_the_route_cannot_hold_holds_the_release_with_the_fix() {
    let cluster = FakeCluster::new(800);
    let router = router_of(RouteKind::HttpRoute);
    let (running, before) = start(&cluster, router).await;
    let mut route = cluster.get_json(router.plural(), SHOP, NAME).unwrap();
    route["spec"]["rules"][1]["matches"] =
        json!([{"headers": [{"type": "Exact", "name": "x-user", "value": "a"}]}]);
    apply(&cluster, route);
    apply(
        &cluster,
        rollout(router, "v2", json!([staff(), {"pause": {}}])),
    );
    let is_reported = |cluster: &FakeCluster| {
        let status = serde_json::to_string(&status(cluster, NAME)).unwrap();
        status.contains("already matches the header x-user; use another header")
    };
    let reported = cluster.wait_until(is_reported, MINUTE).await;
    assert!(reported.is_ok(), "{:?}", status(&cluster, NAME));
    let mut route = cluster.get_json(router.plural(), SHOP, NAME).unwrap();
    route["spec"] = before;
    apply(&cluster, route);
    wait_for_position(&cluster, NAME, "Paused/Progressing/1").await;
    assert_eq!(added(&cluster, router), ["serin.dev.staff.1"]);
    running.stop().await;
}
