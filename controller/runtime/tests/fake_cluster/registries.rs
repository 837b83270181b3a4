//! Guardrails that ask registries: tags are resolved once, and images must be signed.

use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_core::units::Revision;
use serin_crds::names::TEMPLATE_HASH_ANNOTATION;
use serin_fake_cluster::FakeCluster;
use serin_registry::StoredSignature;

use crate::fixtures::*;
use crate::harness::*;

fn digest(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

fn policy(guardrails: Value) -> Value {
    json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutPolicy",
        "metadata": {"name": "platform"},
        "spec": {"guardrails": guardrails},
    })
}

fn resolve_digest() -> Value {
    json!({"imagePinned": {"mode": "Enforce", "resolveDigest": true}})
}

fn rollout(version: &str) -> Value {
    let steps = json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}]);
    routed_rollout("checkout", version, 4, steps)
}

/// A stable Rollout, and then a policy with these guardrails.
async fn start(cluster: &FakeCluster, guardrails: Value) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin-0");
    apply(cluster, rollout("v1"));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, policy(guardrails));
    cluster.sleep(2 * SECOND).await;
    running
}

/// The images of the pods of the Rollout that run this version.
fn pod_images(cluster: &FakeCluster, version: &str) -> Vec<String> {
    let pods = cluster.objects::<k8s_openapi::api::core::v1::Pod>();
    let images = pods.into_iter().filter_map(|pod| {
        let containers = pod.spec?.containers;
        containers.into_iter().next()?.image
    });
    images
        .filter(|image| image.contains(&format!(":{version}")))
        .collect()
}

fn current_revision(cluster: &FakeCluster) -> Option<Revision> {
    status(cluster, "checkout").state.current_revision
}

async fn wait_for_hold(cluster: &FakeCluster, code: HoldCode) {
    let is_held = |cluster: &FakeCluster| {
        let holds = status(cluster, "checkout").state.holds;
        holds.iter().any(|hold| hold.code == code)
    };
    let held = cluster.wait_until(is_held, 5 * MINUTE).await;
    assert!(held.is_ok(), "no {code}: {:?}", status(cluster, "checkout"));
}

async fn promote(cluster: &FakeCluster, version: &str) {
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    create_command(
        cluster,
        &format!("promote-{version}"),
        "checkout",
        "promote",
    );
    wait_until_healthy(cluster, "checkout", version).await;
}

#[tokio::test(start_paused = true)]
async fn a_tag_is_resolved_once_and_every_pod_of_the_revision_runs_its_digest() {
    let cluster = FakeCluster::new(3901);
    let running = start(&cluster, resolve_digest()).await;
    running.registry.push("v2", &digest('a'));
    apply(&cluster, rollout("v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let status = status(&cluster, "checkout");
    let recorded = &status.image_digests[0];
    assert_eq!(
        Some(&recorded.revision),
        status.state.current_revision.as_ref()
    );
    assert_eq!(recorded.images[0].image, "shop/checkout:v2");
    assert_eq!(recorded.images[0].digest, digest('a'));
    // The tag moves in the middle of the release.
    running.registry.push("v2", &digest('b'));
    let asked = running.registry.questions();
    promote(&cluster, "v2").await;
    let images = pod_images(&cluster, "v2");
    let expected = format!("shop/checkout:v2@{}", digest('a'));
    assert!(images.len() >= 4, "{images:?}");
    assert!(images.iter().all(|image| *image == expected), "{images:?}");
    assert_eq!(running.registry.questions(), asked);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_revision_of_a_resolved_template_stays_and_a_restart_does_not_resolve_again() {
    let cluster = FakeCluster::new(3902);
    let running = start(&cluster, resolve_digest()).await;
    running.registry.push("v2", &digest('a'));
    apply(&cluster, rollout("v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let revision = current_revision(&cluster);
    running.kill(&cluster);
    // Without the hash of its spelling, the template is compared with those of the ReplicaSets.
    let name = format!("checkout-{}", revision.as_ref().unwrap());
    let mut set = cluster.get_json("replicasets", SHOP, &name).unwrap();
    set["metadata"]["annotations"][TEMPLATE_HASH_ANNOTATION] = json!("of-another-version");
    apply(&cluster, set);
    let running = start_controller(&cluster, "serin-1");
    // Its registry knows no tag.
    promote(&cluster, "v2").await;
    assert_eq!(current_revision(&cluster), revision);
    assert_eq!(replica_sets(&cluster, "checkout").len(), 2);
    assert_eq!(running.registry.questions(), 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_holds_the_release_and_no_other_rollout() {
    let cluster = FakeCluster::new(3903);
    let running = start(&cluster, resolve_digest()).await;
    running.registry.push("v2", &digest('a'));
    running.registry.set_down(true);
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::RegistryUnavailable).await;
    let message: String = status(&cluster, "checkout").state.message.into();
    for part in [
        "container app",
        "shop/checkout:v2",
        "did not answer in time",
        "Check the registry",
    ] {
        assert!(message.contains(part), "{message}");
    }
    // One without a tag to resolve is released meanwhile.
    let mut other = unrouted_rollout("other", "v1", 1, json!([]));
    let image = format!("shop/other@{}", digest('c'));
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    apply(&cluster, other);
    let is_stable =
        |cluster: &FakeCluster| status(cluster, "other").state.stable_revision.is_some();
    cluster.wait_until(is_stable, MINUTE).await.unwrap();
    let before = running.registry.questions();
    cluster.sleep(20 * MINUTE).await;
    let asked = running.registry.questions() - before;
    assert!(
        (10..=30).contains(&asked),
        "{asked} questions in 20 minutes"
    );
    assert!(!replicas_by_version(&cluster, "checkout").contains_key("v2"));
    running.registry.set_down(false);
    promote(&cluster, "v2").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_runs_the_digest_that_was_recorded() {
    let cluster = FakeCluster::new(3904);
    let running = start(&cluster, resolve_digest()).await;
    let without_history = |version: &str| {
        let mut rollout = rollout(version);
        rollout["spec"]["revisionHistoryLimit"] = json!(0);
        rollout
    };
    for (version, letter) in [("v2", 'a'), ("v3", 'b')] {
        running.registry.push(version, &digest(letter));
        apply(&cluster, without_history(version));
        promote(&cluster, version).await;
    }
    let is_deleted =
        |cluster: &FakeCluster| !replicas_by_version(cluster, "checkout").contains_key("v2");
    cluster.wait_until(is_deleted, 5 * MINUTE).await.unwrap();
    running.registry.push("v2", &digest('f'));
    apply(&cluster, without_history("v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let expected = format!("shop/checkout:v2@{}", digest('a'));
    let images = pod_images(&cluster, "v2");
    assert!(
        !images.is_empty() && images.iter().all(|image| *image == expected),
        "{images:?}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_guardrail_that_warns_releases_the_tag_as_it_is_written() {
    let cluster = FakeCluster::new(3905);
    let guardrails = json!({"imagePinned": {"mode": "Warn", "resolveDigest": true}});
    let running = start(&cluster, guardrails).await;
    running.registry.set_down(true);
    apply(&cluster, rollout("v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    assert_eq!(pod_images(&cluster, "v2")[0], "shop/checkout:v2");
    assert!(status(&cluster, "checkout").image_digests.is_empty());
    running.stop().await;
}

/// A signature in the format of simple signing.
fn signature(pair: &KeyPair, digest: &str) -> StoredSignature {
    let image = json!({"docker-manifest-digest": digest});
    let critical = json!({"image": image, "type": "cosign container image signature"});
    let signed = json!({"critical": critical}).to_string().into_bytes();
    StoredSignature {
        signature: pair.sign(&signed).unwrap(),
        signed,
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_gets_no_pod_until_it_is_signed_with_a_key_of_the_guardrail() {
    let cluster = FakeCluster::new(3906);
    let (pair, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let keys = json!([{"name": "release", "publicKey": pair.public_key_pem()}]);
    let guardrails = json!({"imageSignature": {"mode": "Enforce", "keys": keys}});
    let running = start(&cluster, guardrails).await;
    running.registry.push("v2", &digest('a'));
    running
        .registry
        .sign(&digest('a'), signature(&other, &digest('a')));
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::SignatureMissing).await;
    cluster.sleep(5 * MINUTE).await;
    assert!(pod_images(&cluster, "v2").is_empty());
    let message: String = status(&cluster, "checkout").state.message.into();
    assert!(message.contains("with the key release"), "{message}");
    running
        .registry
        .sign(&digest('a'), signature(&pair, &digest('a')));
    promote(&cluster, "v2").await;
    // What was verified is what runs.
    let expected = format!("shop/checkout:v2@{}", digest('a'));
    assert!(
        pod_images(&cluster, "v2")
            .iter()
            .all(|image| *image == expected)
    );
    running.stop().await;
}
