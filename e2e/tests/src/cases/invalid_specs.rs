//! Invalid specs: errors have the field, the value and a fix, and other Rollouts are not affected.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use serin_crds::Rollout;

use serin_core::units::Weight;

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable};

/// The expected result of a file in examples/invalid.
enum ExpectedResult {
    /// The API server rejects it with this message.
    Refused(String),
    /// It is stored, and the condition InvalidSpec has this message.
    InvalidSpec(String),
}

fn expected(text: &str, path: &Path) -> Result<ExpectedResult> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("# expect: "));
    let line = line.with_context(|| format!("{} has no line `# expect: ...`", path.display()))?;
    match line.split_once(": ") {
        Some(("refused", message)) => Ok(ExpectedResult::Refused(message.to_owned())),
        Some(("InvalidSpec", message)) => Ok(ExpectedResult::InvalidSpec(message.to_owned())),
        _ => bail!(
            "{}: neither `refused: ...` nor `InvalidSpec: ...`: {line}",
            path.display()
        ),
    }
}

/// # Errors
/// If an expectation is not met.
pub async fn invalid_rollouts_are_reported_and_do_not_affect_others(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-malformed").await?;
    let mut files: Vec<_> = std::fs::read_dir(env.checkout.join("examples/invalid"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    ensure!(
        files.len() >= 20,
        "at least twenty invalid Rollouts are expected, not {}",
        files.len()
    );
    let (mut stored, mut unexpected) = (Vec::new(), Vec::new());
    for path in &files {
        let text = std::fs::read_to_string(path)?;
        let object: Value =
            serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        match (expected(&text, path)?, shop.apply(object).await) {
            (ExpectedResult::Refused(message), Err(kube::Error::Api(status))) => {
                if !status.message.contains(&message) {
                    unexpected.push(format!(
                        "{name}: {} does not contain {message:?}",
                        status.message
                    ));
                }
            }
            (ExpectedResult::InvalidSpec(message), Ok(_)) => stored.push((name, message)),
            (_, outcome) => unexpected.push(format!("{}: unexpected: {outcome:?}", path.display())),
        }
    }
    ensure!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    // A valid Rollout next to them is not affected.
    let spec = RolloutOptions {
        analysis: None,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    shop.wait_until(
        "the valid Rollout is promoted",
        Duration::from_secs(120),
        is_stable,
    )
    .await?;
    for (name, message) in &stored {
        let rollouts = shop.api::<Rollout>();
        shop.eventually(
            &format!("{name} has the message {message:?}"),
            Duration::from_secs(60),
            async || {
                let status = rollouts.get(name).await?.status.unwrap_or_default();
                let condition = status
                    .conditions
                    .iter()
                    .find(|condition| condition.type_ == "InvalidSpec");
                let actual = condition
                    .map(|condition| condition.message.clone())
                    .unwrap_or_default();
                ensure!(
                    condition.is_some_and(|condition| condition.status == "True")
                        && actual.contains(message),
                    "the message is {actual:?}"
                );
                Ok(true)
            },
        )
        .await?;
    }
    note!(
        "{} invalid Rollouts: {} rejected, {} reported in the status",
        files.len(),
        files.len() - stored.len(),
        stored.len()
    );
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn a_rollout_with_an_invalid_spec_can_be_aborted(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-invalid").await?;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let spec = RolloutOptions {
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    let paused = |rollout: &Rollout| {
        rollout
            .status
            .as_ref()
            .is_some_and(|status| status.state.pause.is_some())
    };
    shop.wait_until("paused", Duration::from_secs(120), paused)
        .await?;
    let mut broken = crate::manifests::rollout(&shop.name, &spec, &SampleRelease::good("v3"));
    broken["spec"]["template"]["spec"]["containers"][0]["image"] = json!("");
    shop.apply(broken).await?;
    let is_invalid = |rollout: &Rollout| {
        let conditions = rollout
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.type_ == "InvalidSpec" && condition.status == "True")
    };
    let rollout = shop
        .wait_until(
            "the condition InvalidSpec is True",
            Duration::from_secs(60),
            is_invalid,
        )
        .await?;
    let message = rollout
        .status
        .map(|status| status.state.message)
        .unwrap_or_default();
    ensure!(
        message.contains("image"),
        "the message must name the field: {message}"
    );
    let (done, message) = shop.run_command("abort", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until("aborted", Duration::from_secs(30), is_aborted)
        .await?;
    shop.eventually(
        "the canary has no weight in the route",
        Duration::from_secs(30),
        async || Ok(shop.route_share().await? == Weight::ZERO),
    )
    .await?;
    shop.delete().await
}
