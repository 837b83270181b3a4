//! What cannot be used stays with its Rollout.

use serde_json::json;
use serin_fake_cluster::{Fault, World};

use crate::stage::*;

async fn is_invalid(world: &World, name: &str) -> String {
    let told =
        |world: &World| condition(world, name, "InvalidSpec").filter(|(holds, ..)| holds == "True");
    world
        .until(|world| told(world).is_some(), MINUTE)
        .await
        .expect("it is not told to be invalid");
    told(world).unwrap().2
}

#[tokio::test(start_paused = true)]
async fn invariant_11_malformed_rollouts_are_told_so_while_a_good_one_proceeds() {
    let world = World::new(31);
    let _running = start(&world, "serin");
    let mut unreadable = plain("unreadable", "v1", 2, json!([]));
    unreadable["spec"]["replicas"] = json!("many");
    let mut wrong = plain("wrong", "v1", 2, json!([{"pause": {"duration": "soon"}}]));
    wrong["spec"]["minReadySeconds"] = json!(700);
    apply(&world, unreadable);
    apply(&world, wrong);
    apply(&world, plain("good", "v1", 2, json!([])));
    assert!(is_invalid(&world, "unreadable").await.contains("many"));
    let problems = is_invalid(&world, "wrong").await;
    assert!(
        problems.contains("spec.strategy.canary.steps[0].pause.duration"),
        "{problems}"
    );
    assert!(
        problems.contains("spec.progressDeadlineSeconds"),
        "all of it is told at once: {problems}"
    );
    assert_eq!(status(&world, "wrong").phase.as_deref(), Some("Degraded"));
    healthy(&world, "good", "v1").await;
    world.pass(5 * SECOND).await;
    world.forget_requests();
    world.pass(10 * MINUTE).await;
    assert_eq!(world.writes(), [], "what is told once is not told again");

    apply(&world, plain("wrong", "v1", 2, json!([])));
    healthy(&world, "wrong", "v1").await;
    assert_eq!(
        condition(&world, "wrong", "InvalidSpec").unwrap().0,
        "False"
    );
}

#[tokio::test(start_paused = true)]
async fn a_template_that_the_api_server_refuses_is_told_with_its_words() {
    let world = World::new(32);
    let _running = start(&world, "serin");
    world.inject(Fault::on("create", "replicasets").times(1).status(422));
    apply(&world, plain("checkout", "v1", 2, json!([])));
    is_invalid(&world, "checkout").await;
    // What has changed may be a policy: it is asked again after a while.
    healthy(&world, "checkout", "v1").await;
}

#[tokio::test(start_paused = true)]
async fn invariant_11_a_defect_of_ours_stays_with_its_rollout_until_it_is_gone() {
    let world = World::new(33);
    with_route(&world, "bad");
    with_route(&world, "good");
    let running = start(&world, "serin");
    let steps = || json!([{"setWeight": 50}, {"pause": {"duration": "5s"}}]);
    for name in ["bad", "good"] {
        apply(&world, judged(name, "v1", 2, steps()));
        healthy(&world, name, "v1").await;
    }
    running.judge.panic_at("bad");
    for name in ["bad", "good"] {
        apply(&world, judged(name, "v2", 2, steps()));
    }
    healthy(&world, "good", "v2").await;
    let (holds, reason, message) = condition(&world, "bad", "Stalled").unwrap();
    assert_eq!((holds.as_str(), reason.as_str()), ("True", "Quarantined"));
    assert!(message.contains("the judge stumbles"), "{message}");
    running.judge.recover();
    healthy(&world, "bad", "v2").await;
    assert_eq!(condition(&world, "bad", "Stalled").unwrap().0, "False");
}
