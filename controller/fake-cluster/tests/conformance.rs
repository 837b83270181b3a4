//! The API server in memory against a real one.

use serin_fake_cluster::World;
use serin_fake_cluster::conformance::{Answer, answers};

/// Where the two differ, one pair of lines a step.
fn differences(here: &[Answer], there: &[Answer]) -> String {
    let pairs = here.iter().zip(there).filter(|(here, there)| here != there);
    let told = pairs.map(|(here, there)| {
        format!(
            "{}\n  in memory: {}\n  real:      {}",
            here.step, here.told, there.told
        )
    });
    told.collect::<Vec<_>>().join("\n")
}

#[tokio::test(start_paused = true)]
async fn the_requests_get_the_same_answers_every_time() {
    let one = answers(&World::new(1).client(), "conformance")
        .await
        .unwrap();
    let other = answers(&World::new(2).client(), "conformance")
        .await
        .unwrap();
    assert!(one.len() > 70);
    assert_eq!(differences(&one, &other), "");
}

/// Needs a cluster with the Gateway API's kinds, by KUBECONFIG; makes and deletes one namespace of
/// its own.
#[tokio::test]
#[ignore = "needs a cluster; the end-to-end tests run it"]
async fn a_real_api_server_gives_the_same_answers() {
    // An answer of 504 is an answer to compare, not to be retried.
    let mut config = kube::Config::infer().await.unwrap();
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    let namespace = format!("serin-conformance-{}", std::process::id());
    let real = answers(&client, &namespace).await.unwrap();
    let in_memory = answers(&World::new(1).client(), &namespace).await.unwrap();
    let differ = differences(&in_memory, &real);
    assert!(
        differ.is_empty(),
        "the API server in memory answers otherwise than the real one:\n{differ}"
    );
}
