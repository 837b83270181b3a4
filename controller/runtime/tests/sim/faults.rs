//! What goes wrong around the controller, and to it.

use serde_json::json;
use serin_core::observed::AnalysisReport;
use serin_fake_cluster::{Fault, World};

use crate::stage::*;

fn steps() -> serde_json::Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "20s"}}, {"setWeight": 50}, {"pause": {"duration": "20s"}}])
}

async fn at_v1(world: &World) -> Running {
    with_route(world, "checkout");
    let running = start(world, "serin-0");
    apply(world, routed("checkout", "v1", 4, steps()));
    healthy(world, "checkout", "v1").await;
    running
}

/// A release, killed at its n-th write and carried on by another process, ends as it would have.
#[tokio::test(start_paused = true)]
async fn killed_after_any_write_a_release_ends_as_it_would_have() {
    let mut most_writes = 0;
    for writes in 1..60 {
        let world = World::new(100 + writes);
        let first = at_v1(&world).await;
        let vigil = Vigil::over(&world, "checkout");
        world.pass(10 * SECOND).await;
        world.dies_after_writes("serin-0", usize::try_from(writes).unwrap());
        let began = world.now();
        apply(&world, routed("checkout", "v2", 4, steps()));
        let died = world
            .until(|world| world.is_dead("serin-0"), 2 * MINUTE)
            .await
            .is_ok();
        if died {
            most_writes = writes;
            first.kill(&world);
            world.pass(3 * SECOND).await;
            let _second = start(&world, "serin-1");
            healthy(&world, "checkout", "v2").await;
            let took = world.now().duration_since(began).as_secs();
            assert!(
                (40..75).contains(&took),
                "killed at write {writes}: no pause is skipped and none is started anew: {took} s"
            );
            world.pass(15 * SECOND).await;
            assert_eq!(
                sizes(&world, "checkout"),
                [("v1".into(), 0), ("v2".into(), 4)].into(),
                "killed at write {writes}"
            );
            assert_eq!(
                weights(&world, "checkout"),
                (Some(1), None),
                "killed at write {writes}"
            );
        }
        vigil.ends_well().await;
        if !died {
            break;
        }
    }
    assert!(most_writes > 10, "{most_writes}");
}

#[tokio::test(start_paused = true)]
async fn an_abort_survives_a_kill_after_any_write() {
    for writes in 1..8 {
        let world = World::new(200 + writes);
        let first = at_v1(&world).await;
        let vigil = Vigil::over(&world, "checkout");
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
        world.dies_after_writes("serin-0", usize::try_from(writes).unwrap());
        command(&world, "stop", "checkout", "abort");
        world.pass(10 * SECOND).await;
        first.kill(&world);
        let _second = start(&world, "serin-1");
        let (result, message) = outcome(&world, "stop").await;
        assert_eq!(result, "Done", "killed at write {writes}: {message}");
        world.pass(MINUTE).await;
        assert_eq!(
            position(&world, "checkout"),
            "Degraded/Aborted",
            "killed at write {writes}"
        );
        assert_eq!(
            weights(&world, "checkout"),
            (Some(1), None),
            "killed at write {writes}"
        );
        assert_eq!(
            sizes(&world, "checkout"),
            [("v1".into(), 4), ("v2".into(), 0)].into(),
            "killed at write {writes}"
        );
        vigil.ends_well().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_a_minute_changes_nothing_but_the_time() {
    let world = World::new(51);
    let _running = at_v1(&world).await;
    let vigil = Vigil::over(&world, "checkout");
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    world.api_away_for(MINUTE);
    world.pass(59 * SECOND).await;
    assert_eq!(weights(&world, "checkout"), (Some(80), Some(20)));
    healthy(&world, "checkout", "v2").await;
    vigil.ends_well().await;
}

#[tokio::test(start_paused = true)]
async fn errors_conflicts_and_lost_answers_are_survived() {
    let faults: [fn() -> Fault; 7] = [
        || Fault::on("patch", "rollouts").times(3).status(409),
        || Fault::on("patch", "rollouts").times(3).status(500),
        || Fault::on("patch", "rollouts").after(1).loses_answer(),
        || Fault::on("patch", "httproutes").times(2).status(409),
        || Fault::on("patch", "httproutes").loses_answer(),
        || Fault::on("create", "replicasets").after(1).loses_answer(),
        || Fault::on("patch", "services").times(2).status(409),
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let world = World::new(300 + index as u64);
        let _running = at_v1(&world).await;
        let vigil = Vigil::over(&world, "checkout");
        world.inject(fault());
        apply(&world, routed("checkout", "v2", 4, steps()));
        healthy(&world, "checkout", "v2").await;
        world.pass(MINUTE).await;
        assert_eq!(
            sizes(&world, "checkout"),
            [("v1".into(), 0), ("v2".into(), 4)].into(),
            "fault {index}"
        );
        vigil.ends_well().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_delays_nobody_else() {
    let world = World::new(52);
    for name in ["slow", "quick"] {
        with_route(&world, name);
    }
    let running = start(&world, "serin-0");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    for name in ["slow", "quick"] {
        apply(&world, judged(name, "v1", 2, steps()));
        healthy(&world, name, "v1").await;
        apply(&world, judged(name, "v2", 2, steps()));
        reaches(&world, name, "Paused/Progressing/1").await;
    }
    world.inject(Fault::on("patch", "httproutes").named("slow").hangs());
    let breach = || AnalysisReport::RollBack {
        cause: "Evidence".into(),
        message: "bad".into(),
    };
    running.judge.say("slow", breach());
    running.judge.say("quick", breach());
    world
        .until(|world| weights(world, "quick").1.is_none(), SECOND / 2)
        .await
        .expect("it waited for another");
    world
        .until(|world| weights(world, "slow").1.is_none(), 20 * SECOND)
        .await
        .expect("it is tried again");
}

#[tokio::test(start_paused = true)]
async fn one_of_two_controllers_acts_and_the_other_takes_over() {
    let world = World::new(53);
    with_route(&world, "checkout");
    let first = start_elected(&world, "serin-a");
    world.pass(2 * SECOND).await;
    let second = start_elected(&world, "serin-b");
    apply(&world, routed("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    let vigil = Vigil::over(&world, "checkout");
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let acted = |who: &str| {
        world
            .writes()
            .iter()
            .filter(|write| write.who == who && write.plural != "leases")
            .count()
    };
    assert_eq!(acted("serin-b"), 0, "the standby does nothing");
    let (died, before) = (world.now(), acted("serin-a"));
    first.kill(&world);
    healthy(&world, "checkout", "v2").await;
    assert_eq!(acted("serin-a"), before);
    let mut requests = world
        .writes()
        .into_iter()
        .filter(|write| write.who == "serin-b");
    let taken_over = requests
        .find(|write| write.verb == "update" && write.plural == "leases" && write.code == 200)
        .unwrap();
    assert!(
        taken_over.at.duration_since(died).as_secs() < 6,
        "{} after {died}",
        taken_over.at
    );
    vigil.ends_well().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_ends_soon_even_where_nothing_could_be_listed() {
    let world = World::new(54);
    world.api_away_for(60 * MINUTE);
    let running = start(&world, "serin-0");
    world.pass(5 * SECOND).await;
    let began = world.now();
    running.stop().await;
    assert!(world.now().duration_since(began).as_secs() < 2);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_the_cluster_does_not_have_yet_holds_nobody_up() {
    let world = World::new(55);
    let missing = || Fault::on("list", "httproutes").always().status(404);
    world.inject(missing());
    with_route(&world, "routed");
    let _running = start(&world, "serin-0");
    apply(&world, plain("plain", "v1", 2, json!([])));
    healthy(&world, "plain", "v1").await;
    apply(&world, routed("routed", "v1", 2, json!([])));
    reaches(&world, "routed", "Progressing").await;
    world.heal();
    healthy(&world, "routed", "v1").await;
}
