//! Waiting for the Rollout and for conditions in the cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::ListParams;
use kube::runtime::wait::await_condition;
use serde_json::json;
use serin_crds::Rollout;

use super::Shop;
use super::conditions::{abort_message, is_aborted};

impl Shop {
    /// Watches the Rollout until a condition holds.
    ///
    /// # Errors
    /// If it does not hold in time. The error has the current status.
    pub async fn wait_until(
        &self,
        what: &str,
        time: Duration,
        done: impl Fn(&Rollout) -> bool,
    ) -> Result<Rollout> {
        let condition = |rollout: Option<&Rollout>| rollout.is_some_and(&done);
        let found = async {
            loop {
                // After a restart the API server rejects the first list requests.
                match await_condition(self.api::<Rollout>(), &self.name, condition).await {
                    Ok(rollout) => return rollout.context("the Rollout is gone"),
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        };
        // A Rollout is large, and so is each future that contains one.
        match tokio::time::timeout(time, Box::pin(found)).await {
            Ok(found) => found,
            Err(_) => {
                let status = self.status().await?;
                let state = &status.state;
                let seen = json!({
                    "phase": state.phase, "stage": state.stage, "message": state.message,
                    "step": state.step, "weights": state.weights, "abort": state.abort,
                    "evidence": status.evidence,
                    "conditions": status.conditions.iter().filter(|condition| condition.status == "False")
                        .map(|condition| format!("{}: {}", condition.type_, condition.message)).collect::<Vec<_>>(),
                });
                bail!(
                    "{}: not within {time:?}: {what}; status: {seen:#}",
                    self.namespace
                )
            }
        }
    }

    /// Like [`Self::wait_until`], but fails immediately if the release is aborted.
    ///
    /// # Errors
    /// If the release is aborted, or if the condition does not hold in time.
    pub async fn wait_until_unless_aborted(
        &self,
        what: &str,
        time: Duration,
        done: impl Fn(&Rollout) -> bool,
    ) -> Result<Rollout> {
        let rollout = self
            .wait_until(what, time, |rollout| is_aborted(rollout) || done(rollout))
            .await?;
        ensure!(
            !is_aborted(&rollout),
            "{}: aborted before: {what}: {}",
            self.namespace,
            abort_message(&rollout)
        );
        Ok(rollout)
    }

    /// Checks that the release is not aborted for some time.
    ///
    /// # Errors
    /// If the release is aborted.
    pub async fn ensure_no_abort_for(&self, time: Duration) -> Result<()> {
        let condition = |rollout: Option<&Rollout>| rollout.is_some_and(is_aborted);
        match tokio::time::timeout(
            time,
            await_condition(self.api::<Rollout>(), &self.name, condition),
        )
        .await
        {
            Err(_elapsed) => Ok(()),
            Ok(found) => {
                let message = found?.as_ref().map(abort_message).unwrap_or_default();
                bail!("{}: {} was aborted: {message}", self.namespace, self.name)
            }
        }
    }

    /// Waits until a revision has exactly `count` available pods.
    ///
    /// # Errors
    /// If they are not available in time.
    pub async fn wait_until_available(
        &self,
        revision: &str,
        count: i32,
        time: Duration,
    ) -> Result<()> {
        let sets = self.api::<ReplicaSet>();
        let selector = ListParams::default().labels(&format!("serin.dev/revision={revision}"));
        self.eventually(
            &format!("{revision} has {count} available pods"),
            time,
            async || {
                let sets = sets.list(&selector).await?.items;
                let available = |set: &ReplicaSet| {
                    set.status
                        .as_ref()
                        .and_then(|status| status.available_replicas)
                };
                Ok(sets.iter().filter_map(available).sum::<i32>() == count)
            },
        )
        .await
    }

    /// Waits until the service responds through the gateway.
    ///
    /// # Errors
    /// If it does not respond within 30 s.
    pub async fn wait_until_answering(&self) -> Result<()> {
        self.wait_until_answered_by("/", |_| true).await
    }

    /// Waits until an expected version responds on a path through the gateway.
    ///
    /// # Errors
    /// If none responds within 30 s.
    pub async fn wait_until_answered_by(
        &self,
        path: &str,
        is_expected: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let (url, host) = (format!("{}{path}", self.gateway_url), self.host.clone());
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .build()?;
        self.eventually(
            &format!("the gateway answers {path}"),
            Duration::from_secs(30),
            async || {
                let answer = http.get(&url).header("host", &host).send().await?;
                let version = answer
                    .headers()
                    .get("x-version")
                    .and_then(|version| version.to_str().ok());
                Ok(version.is_some_and(&is_expected))
            },
        )
        .await
    }

    /// Polls a condition of the cluster until it holds. An error counts as not met.
    ///
    /// # Errors
    /// If it does not hold in time.
    pub async fn eventually(
        &self,
        what: &str,
        time: Duration,
        check: impl AsyncFn() -> Result<bool>,
    ) -> Result<()> {
        eventually(&format!("{}: {what}", self.namespace), time, check).await
    }
}

/// Polls a condition until it holds. An error counts as not met.
///
/// # Errors
/// If it does not hold in time, with the last error.
pub async fn eventually(
    what: &str,
    time: Duration,
    check: impl AsyncFn() -> Result<bool>,
) -> Result<()> {
    let mut last = None;
    let polling = async {
        loop {
            match check().await {
                Ok(true) => return,
                Ok(false) => last = None,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(time, polling).await {
        Ok(()) => Ok(()),
        Err(_) => match last {
            Some(error) => Err(error.context(format!("not within {time:?}: {what}"))),
            None => bail!("not within {time:?}: {what}"),
        },
    }
}
