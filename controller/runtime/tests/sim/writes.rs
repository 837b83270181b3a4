//! What it costs: writes to the API server are counted, and an idle fleet costs none.

use std::collections::BTreeMap;

use serde_json::json;
use serin_fake_cluster::{RequestSeen, World};

use crate::stage::*;

/// The writes that were carried out.
fn tally(world: &World) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for write in world
        .writes()
        .into_iter()
        .filter(|write| !is_refused(write))
    {
        let part = write
            .subresource
            .map(|part| format!("/{part}"))
            .unwrap_or_default();
        *tally
            .entry(format!("{} {}{part}", write.verb, write.plural))
            .or_default() += 1;
    }
    tally
}

/// A write on what another has changed in the meantime, which the watch had not told yet: it
/// changes nothing, and is asked again with what is known by then. Whether that happens is a race
/// of some milliseconds with the controllers beside ours.
fn is_refused(write: &RequestSeen) -> bool {
    [409, 422].contains(&write.code)
}

/// The writes in their order, for whoever has to find the one too many.
fn course(world: &World) -> Vec<String> {
    let told = world.writes().into_iter().map(|write| {
        let part = write
            .subresource
            .map(|part| format!("/{part}"))
            .unwrap_or_default();
        format!(
            "{} {} {}{part} {} ({})",
            write.at, write.verb, write.plural, write.object, write.code
        )
    });
    told.collect()
}

/// What a release of two steps and two timed pauses costs without a router.
async fn cost_without_a_router(seed: u64, replicas: u32) -> (BTreeMap<String, usize>, Vec<String>) {
    let world = World::new(seed);
    let _running = start(&world, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {"duration": "5s"}}, {"setWeight": 50}, {"pause": {"duration": "5s"}}]);
    apply(&world, plain("checkout", "v1", replicas, steps()));
    healthy(&world, "checkout", "v1").await;
    world.pass(MINUTE).await;
    world.forget_requests();
    apply(&world, plain("checkout", "v2", replicas, steps()));
    healthy(&world, "checkout", "v2").await;
    world.pass(5 * MINUTE).await;
    let (tally, course) = (tally(&world), course(&world));
    // The last move is told at once. Where the old pods' counts come to rest after it, they are
    // told once they have stayed the same.
    assert!(
        tally["patch rollouts/status"] <= 7,
        "one for each move, and one at rest: {course:#?}"
    );
    let refused = world
        .writes()
        .iter()
        .filter(|write| is_refused(write))
        .count();
    assert!(refused <= 2, "{course:#?}");
    (tally, course)
}

#[tokio::test(start_paused = true)]
async fn a_release_of_two_steps_and_two_timed_pauses_costs_twelve_writes() {
    let (tally, course) = cost_without_a_router(41, 1).await;
    assert!(tally.values().sum::<usize>() <= 12, "{course:#?}");
}

#[tokio::test(start_paused = true)]
async fn more_pods_cost_no_more_than_their_scaling() {
    let (tally, course) = cost_without_a_router(45, 4).await;
    let scaling = tally["patch replicasets"] + tally["create replicasets"];
    assert!(
        scaling <= 8,
        "three sizes of each side and what the surge needs between: {course:#?}"
    );
    assert!(
        tally.values().sum::<usize>() - scaling <= 9,
        "seven of the status, two Events: {course:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_routed_release_of_two_steps_and_two_timed_pauses_is_cheap() {
    let world = World::new(44);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    let steps = || json!([{"setWeight": 25}, {"pause": {"duration": "60s"}}, {"setWeight": 50}, {"pause": {"duration": "60s"}}]);
    apply(&world, routed("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    world.pass(MINUTE).await;
    world.forget_requests();
    apply(&world, routed("checkout", "v2", 4, steps()));
    healthy(&world, "checkout", "v2").await;
    world.pass(5 * MINUTE).await;
    let tally = tally(&world);
    assert_eq!(
        tally["patch httproutes"], 4,
        "25, 50, 100, and as it was: {tally:#?}"
    );
    assert!(tally["patch rollouts/status"] <= 9, "{tally:#?}");
    assert_eq!(
        tally["patch rollouts"], 2,
        "the finalizer, added and removed: {tally:#?}"
    );
    assert!(
        tally.values().sum::<usize>() - tally["patch httproutes"] <= 19,
        "{tally:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_rollout_costs_nothing() {
    let world = World::new(42);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    apply(
        &world,
        routed(
            "checkout",
            "v1",
            4,
            json!([{"setWeight": 20}, {"pause": {}}]),
        ),
    );
    healthy(&world, "checkout", "v1").await;
    world.pass(MINUTE).await;
    world.forget_requests();
    world.pass(60 * MINUTE).await;
    assert_eq!(world.writes(), []);
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
    world.pass(MINUTE).await;
    world.forget_requests();
    world.pass(60 * MINUTE).await;
    assert_eq!(
        world.writes(),
        [],
        "waiting for a person costs nothing either"
    );
}

#[tokio::test(start_paused = true)]
async fn caches_that_lag_cause_no_repeated_writes() {
    let world = World::new(43);
    world.tune(|tuning| tuning.watch_lag = SECOND..2 * SECOND);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    apply(
        &world,
        routed(
            "checkout",
            "v1",
            4,
            json!([{"setWeight": 20}, {"pause": {"duration": "10s"}}]),
        ),
    );
    healthy(&world, "checkout", "v1").await;
    world.pass(MINUTE).await;
    world.forget_requests();
    apply(
        &world,
        routed(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 20}, {"pause": {"duration": "10s"}}]),
        ),
    );
    healthy(&world, "checkout", "v2").await;
    world.pass(MINUTE).await;
    let tally = tally(&world);
    assert_eq!(tally["create replicasets"], 1, "{tally:#?}");
    assert_eq!(
        tally["patch httproutes"], 3,
        "20, 100, and as it was: {tally:#?}"
    );
    let conflicts = world
        .writes()
        .iter()
        .filter(|write| is_refused(write))
        .count();
    assert!(conflicts <= 2, "{conflicts} conflicts: {tally:#?}");
}
