//! Compares the fake API server with a real one.

use serin_fake_cluster::FakeCluster;
use serin_fake_cluster::conformance::{StepResult, run_conformance};

/// The steps with different responses.
fn differences(in_memory: &[StepResult], real: &[StepResult]) -> String {
    let pairs = in_memory
        .iter()
        .zip(real)
        .filter(|(in_memory, real)| in_memory != real);
    let observed = pairs.map(|(in_memory, real)| {
        format!(
            "{}\n  in memory: {}\n  real:      {}",
            in_memory.step, in_memory.observed, real.observed
        )
    });
    observed.collect::<Vec<_>>().join("\n")
}

#[tokio::test(start_paused = true)]
async fn responses_do_not_depend_on_the_seed() {
    let one = run_conformance(&FakeCluster::new(1).client(), "conformance")
        .await
        .unwrap();
    let other = run_conformance(&FakeCluster::new(2).client(), "conformance")
        .await
        .unwrap();
    assert!(one.len() > 70);
    assert_eq!(differences(&one, &other), "");
}

/// Needs a cluster with the Gateway API in KUBECONFIG. Creates and deletes one namespace.
#[tokio::test]
#[ignore = "needs a cluster; the end-to-end tests run it"]
async fn a_real_api_server_returns_the_same_responses() {
    // A 504 response is part of the comparison and must not be retried.
    let mut config = kube::Config::infer().await.unwrap();
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    let namespace = format!("serin-conformance-{}", std::process::id());
    let real = run_conformance(&client, &namespace).await.unwrap();
    let in_memory = run_conformance(&FakeCluster::new(1).client(), &namespace)
        .await
        .unwrap();
    let differ = differences(&in_memory, &real);
    assert!(
        differ.is_empty(),
        "the fake API server responds differently from the real one:\n{differ}"
    );
}
