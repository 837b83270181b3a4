//! A tag that moves in the middle of a release: pods of one revision run two images.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use serin_cluster::{Image, build_static};
use serin_core::hold::HoldCode;
use serin_crds::Rollout;

use super::guardrails::{PATIENCE, rollout, without_router};
use crate::env::Env;
use crate::guardrails::{apply_policy, ensure_message, holds, policy, remove_from_cluster};
use crate::shop::{Shop, is_paused, is_stable};

/// The image of the release. Its tag is a version, and moves all the same.
const MOVING: &str = "serin.local/moving:v2";
/// The image of the release that mends it.
const MENDED: &str = "serin.local/moving:v3";

fn image_policy(shop: &Shop) -> Value {
    let guardrails = json!({"imagePinned": {"mode": "Enforce"}});
    policy(
        "serin-e2e-moving",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    )
}

/// Pushes the sample service under a tag. Each suffix is another image. Returns its digest.
async fn push(env: &Env, reference: &str, suffix: &[u8]) -> Result<String> {
    let cluster = env.cluster.as_ref();
    let cluster = cluster.context("images can be loaded into the local cluster only")?;
    let program = build_static(&env.checkout, "serin-sample", "serin-sample").await?;
    let folder = env.checkout.join(".local/e2e/moving");
    std::fs::create_dir_all(&folder)?;
    // What follows an executable in its file is not loaded.
    let changed: PathBuf = folder.join("serin-sample");
    let content = [std::fs::read(&program)?.as_slice(), suffix].concat();
    std::fs::write(&changed, content)?;
    cluster
        .load_image_with_digest(&Image::local(reference, changed))
        .await
}

/// # Errors
/// If an expectation is not met.
pub async fn a_tag_that_moves_during_a_release_holds_it_and_is_named(env: &Env) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-moving-tag", "shop").await?;
    apply_policy(env, &image_policy(&shop)).await?;
    let checked = Box::pin(check(env, &shop)).await;
    remove_from_cluster(env, &image_policy(&shop)).await?;
    checked?;
    shop.delete().await
}

async fn check(env: &Env, shop: &Shop) -> Result<()> {
    let release = |version: &str, image: Option<&str>| {
        let mut rollout = without_router(rollout(shop, version));
        rollout["spec"]["replicas"] = json!(2);
        rollout["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": 50}, {"pause": {}}]);
        if let Some(image) = image {
            rollout["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        }
        rollout
    };
    shop.apply(release("v1", None)).await?;
    shop.wait_until("v1 is stable", PATIENCE, is_stable).await?;

    let tested = push(env, MOVING, b"tested").await?;
    shop.apply(release("v2", Some(MOVING))).await?;
    shop.wait_until("v2 waits at its pause", PATIENCE, is_paused)
        .await?;
    let moved = push(env, MOVING, b"moved").await?;
    ensure!(tested != moved, "both images have the digest {tested}");
    shop.scale(6).await?;
    let code = HoldCode::ImageChanged;
    let held = shop.wait_for_holds(&[code], PATIENCE).await?;
    let parts = ["container sample", MOVING, tested.as_str(), moved.as_str()];
    ensure_message(&held, code, &parts)?;

    push(env, MENDED, b"mended").await?;
    let before = held.metadata.generation;
    shop.apply(release("v3", Some(MENDED))).await?;
    let is_mended = |rollout: &Rollout| {
        let is_held = holds(rollout).iter().any(|hold| hold.code == code);
        rollout.metadata.generation > before && is_paused(rollout) && !is_held
    };
    shop.wait_until("v3 waits at its pause", PATIENCE, is_mended)
        .await?;
    let (done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until("v3 is stable", PATIENCE, is_stable).await?;
    Ok(())
}
