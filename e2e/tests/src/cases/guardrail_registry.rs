//! Guardrails that ask a registry: a tag is resolved once, and every image must be signed.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rcgen::KeyPair;
use serde_json::{Value, json};
use serin_cluster::{Image, build_static};
use serin_core::hold::HoldCode;
use serin_crds::Rollout;

use super::guardrails::{LOAD_PER_SECOND, PATIENCE, options};
use crate::env::Env;
use crate::guardrails::{apply_policy, ensure_message, policy, remove_from_cluster};
use crate::manifests::SampleRelease;
use crate::note;
use crate::registry::Registry;
use crate::shop::{Shop, is_paused, is_stable, stop_and_ensure_no_loss};

const PATH: &str = "team/sample";

/// The images of the case, in the registry and on the node.
struct Images<'a> {
    env: &'a Env,
    registry: Registry,
}

impl Images<'_> {
    /// The name of a tag.
    fn name(&self, tag: &str) -> String {
        format!("{}/{PATH}:{tag}", self.registry.address)
    }

    /// Pushes the sample service under a tag. Each suffix is another image. The node has it, too, as
    /// after a pull. Returns its digest.
    async fn push(&self, tag: &str, suffix: &str) -> Result<String> {
        let cluster = self.env.cluster.as_ref();
        let cluster = cluster.context("images can be loaded into the local cluster only")?;
        let checkout = &self.env.checkout;
        let program = build_static(checkout, "serin-sample", "serin-sample").await?;
        let folder = checkout.join(".local/e2e/registry-images");
        std::fs::create_dir_all(&folder)?;
        // What follows an executable in its file is not loaded.
        let changed = folder.join("serin-sample");
        let content = [std::fs::read(&program)?.as_slice(), suffix.as_bytes()].concat();
        std::fs::write(&changed, content)?;
        let image = Image::local(self.name(tag), changed);
        let pushed = self.registry.push(PATH, tag, &image.content()?).await?;
        let loaded = cluster.load_image_with_digest(&image).await?;
        ensure!(pushed == loaded, "pushed {pushed}, loaded {loaded}");
        Ok(pushed)
    }
}

fn registry_policy(shop: &Shop, key: &KeyPair) -> Value {
    let guardrails = json!({
        "imagePinned": {"mode": "Enforce", "resolveDigest": true},
        "imageSignature": {
            "mode": "Enforce",
            "keys": [{"name": "release", "publicKey": key.public_key_pem()}],
        },
    });
    policy(
        "serin-e2e-registry",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    )
}

/// # Errors
/// If an expectation is not met.
pub async fn a_tag_is_resolved_once_and_its_image_must_be_signed(env: &Env) -> Result<()> {
    let mut images = Images {
        env,
        registry: Registry::start(env).await?,
    };
    let key = KeyPair::generate()?;
    let shop = Shop::create(env, "serin-e2e-registry").await?;
    let checked = Box::pin(check(&mut images, &shop, &key)).await;
    remove_from_cluster(env, &registry_policy(&shop, &key)).await?;
    checked?;
    shop.delete().await
}

/// A release with the image of the registry.
fn release(shop: &Shop, images: &Images<'_>, version: &str) -> Value {
    let mut rollout = shop.rollout_manifest(&options(), &SampleRelease::good(version));
    rollout["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": 50}, {"pause": {}}]);
    let container = &mut rollout["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!(images.name(version));
    rollout
}

async fn check(images: &mut Images<'_>, shop: &Shop, key: &KeyPair) -> Result<()> {
    shop.deploy_first(&options(), &SampleRelease::good("v1"))
        .await?;
    apply_policy(images.env, &registry_policy(shop, key)).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    Box::pin(check_signature_and_moved_tag(images, shop, key)).await?;
    Box::pin(check_outage(images, shop, key)).await?;
    let report = stop_and_ensure_no_loss(load).await?;
    note!("{}", report.summary());
    Ok(())
}

/// v2 is held until it is signed. Its tag moves in the middle of the release, and its pods stay the
/// same.
async fn check_signature_and_moved_tag(
    images: &mut Images<'_>,
    shop: &Shop,
    key: &KeyPair,
) -> Result<()> {
    let tested = images.push("v2", "tested").await?;
    let another = KeyPair::generate()?;
    images.registry.sign(PATH, &tested, &another).await?;
    shop.apply(release(shop, images, "v2")).await?;
    let code = HoldCode::SignatureMissing;
    let held = shop.wait_for_holds(&[code], PATIENCE).await?;
    let parts = [
        "container sample",
        tested.as_str(),
        "key release",
        "cosign sign",
    ];
    ensure_message(&held, code, &parts)?;
    ensure!(
        shop.revisions().await?.len() == 1,
        "v2 must not have a ReplicaSet"
    );
    images.registry.sign(PATH, &tested, key).await?;
    shop.wait_until("v2 waits at its pause", PATIENCE, is_paused)
        .await?;
    let moved = images.push("v2", "moved").await?;
    ensure!(moved != tested, "both images have the digest {tested}");
    let (done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until("v2 is stable", PATIENCE, is_stable).await?;
    ensure_digest(images, shop, "v2", &tested).await
}

/// v3 is held while the registry is down, and goes on by itself once it is back.
async fn check_outage(images: &mut Images<'_>, shop: &Shop, key: &KeyPair) -> Result<()> {
    let third = images.push("v3", "third").await?;
    images.registry.sign(PATH, &third, key).await?;
    images.registry.stop().await?;
    shop.apply(release(shop, images, "v3")).await?;
    let code = HoldCode::RegistryUnavailable;
    let held = shop.wait_for_holds(&[code], PATIENCE).await?;
    let name = images.name("v3");
    ensure_message(
        &held,
        code,
        &["container sample", &name, "cannot be reached"],
    )?;
    images.registry.resume().await?;
    shop.wait_until("v3 waits at its pause", PATIENCE, is_paused)
        .await?;
    let (done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until("v3 is stable", PATIENCE, is_stable).await?;
    ensure_digest(images, shop, "v3", &third).await
}

/// Checks that all pods of the stable version run one image, and that the status records it.
async fn ensure_digest(
    images: &Images<'_>,
    shop: &Shop,
    version: &str,
    digest: &str,
) -> Result<()> {
    let name = images.name(version);
    let is_recorded = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        let records = status.map_or(&[][..], |status| status.image_digests.as_slice());
        let mut recorded = records.iter().flat_map(|record| &record.images);
        recorded.any(|image| image.image == name && image.digest == digest)
    };
    ensure!(
        is_recorded(&shop.rollout().await?),
        "{digest} is not recorded"
    );
    let pods = shop.pods().await?;
    let statuses = pods.iter().filter_map(|pod| {
        let containers = &pod.spec.as_ref()?.containers;
        let image = containers.first()?.image.as_ref()?;
        image.starts_with(&name).then(|| pod.status.clone())?
    });
    let statuses = statuses.flat_map(|status| status.container_statuses.unwrap_or_default());
    let running: BTreeSet<String> = statuses.map(|container| container.image_id).collect();
    let is_tested = |image: &String| image.ends_with(&format!("@{digest}"));
    ensure!(
        running.len() == 1 && running.iter().all(is_tested),
        "the pods of {version} run {running:?}, and not {digest}"
    );
    Ok(())
}
