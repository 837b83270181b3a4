//! Bad input: told with the field, the value and the fix, while others go on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use serin_crds::Rollout;

use serin_core::units::Weight;

use crate::env::Env;
use crate::manifests::{Release, Spec};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable};

/// What a file of examples/invalid says must come of it.
enum Expected {
    /// The API server refuses it with this in the message.
    Refused(String),
    /// It is stored, and the condition InvalidSpec says this.
    InvalidSpec(String),
}

fn expected(text: &str, path: &Path) -> Result<Expected> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("# expect: "));
    let line = line.with_context(|| format!("{} does not say what to expect", path.display()))?;
    match line.split_once(": ") {
        Some(("refused", message)) => Ok(Expected::Refused(message.to_owned())),
        Some(("InvalidSpec", message)) => Ok(Expected::InvalidSpec(message.to_owned())),
        _ => bail!(
            "{}: neither `refused: ...` nor `InvalidSpec: ...`: {line}",
            path.display()
        ),
    }
}

/// # Errors
/// When something is not as promised.
pub async fn malformed_rollouts_are_told_and_stop_nobody(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-malformed").await?;
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
        "at least twenty malformed Rollouts, not {}",
        files.len()
    );
    let (mut stored, mut otherwise) = (Vec::new(), Vec::new());
    for path in &files {
        let text = std::fs::read_to_string(path)?;
        let object: Value =
            serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        match (expected(&text, path)?, shop.apply(object).await) {
            (Expected::Refused(message), Err(kube::Error::Api(status))) => {
                if !status.message.contains(&message) {
                    otherwise.push(format!(
                        "{name}: {} does not say {message:?}",
                        status.message
                    ));
                }
            }
            (Expected::InvalidSpec(message), Ok(_)) => stored.push((name, message)),
            (_, outcome) => otherwise.push(format!("{}: unexpected: {outcome:?}", path.display())),
        }
    }
    ensure!(otherwise.is_empty(), "{}", otherwise.join("\n"));
    // A good one beside them is not stopped.
    let spec = Spec {
        analysis: None,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    shop.declare(&spec, &Release::good("v2")).await?;
    shop.until(
        "the good one is promoted",
        Duration::from_secs(120),
        is_stable,
    )
    .await?;
    for (name, message) in &stored {
        let rollouts = shop.api::<Rollout>();
        shop.eventually(
            &format!("{name} says {message:?}"),
            Duration::from_secs(60),
            async || {
                let status = rollouts.get(name).await?.status.unwrap_or_default();
                let condition = status
                    .conditions
                    .iter()
                    .find(|condition| condition.type_ == "InvalidSpec");
                let said = condition
                    .map(|condition| condition.message.clone())
                    .unwrap_or_default();
                ensure!(
                    condition.is_some_and(|condition| condition.status == "True")
                        && said.contains(message),
                    "says {said:?}"
                );
                Ok(true)
            },
        )
        .await?;
    }
    note!(
        "{} malformed Rollouts: {} refused, {} told in the status",
        files.len(),
        files.len() - stored.len(),
        stored.len()
    );
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn abort_works_on_a_spec_that_became_invalid(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-invalid").await?;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let spec = Spec {
        steps: Some(steps),
        analysis: None,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    shop.declare(&spec, &Release::good("v2")).await?;
    let paused = |rollout: &Rollout| {
        rollout
            .status
            .as_ref()
            .is_some_and(|status| status.pause.is_some())
    };
    shop.until("paused", Duration::from_secs(120), paused)
        .await?;
    let mut broken = crate::manifests::rollout(&shop.name, &spec, &Release::good("v3"));
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
        .until(
            "the spec is told to be invalid",
            Duration::from_secs(60),
            is_invalid,
        )
        .await?;
    let message = rollout
        .status
        .and_then(|status| status.message)
        .unwrap_or_default();
    ensure!(message.contains("image"), "the field is named: {message}");
    let (done, message) = shop.command("abort", json!({})).await?;
    ensure!(done, "{message}");
    shop.until("aborted", Duration::from_secs(30), is_aborted)
        .await?;
    shop.eventually(
        "the canary is out of the route",
        Duration::from_secs(30),
        async || Ok(shop.route_share().await? == Weight::ZERO),
    )
    .await?;
    shop.close().await
}
