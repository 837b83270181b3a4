//! Actions on the Rollout: releases, scaling, commands and load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_crds::{Rollout, RolloutCommand};
use serin_load::{Load, LoadHandle, LoadOptions, LoadReport};

use super::{Shop, is_stable};
use crate::manifests::{RolloutOptions, SampleRelease};

impl Shop {
    /// Applies the Rollout of a release, as a GitOps tool does.
    ///
    /// # Errors
    /// If the API server rejects it.
    pub async fn apply_release(
        &self,
        spec: &RolloutOptions,
        release: &SampleRelease,
    ) -> Result<Rollout> {
        let object = self.apply(self.rollout_manifest(spec, release)).await?;
        Ok(object.try_parse()?)
    }

    /// Applies the first release and waits until it is stable and responds through the gateway.
    ///
    /// # Errors
    /// If it is not stable within 90 s.
    pub async fn deploy_first(&self, spec: &RolloutOptions, release: &SampleRelease) -> Result<()> {
        self.apply_release(spec, release).await?;
        self.wait_until(
            "the first release is stable",
            Duration::from_secs(90),
            is_stable,
        )
        .await?;
        self.wait_until_answering().await
    }

    /// Sets `spec.replicas` through the scale subresource, as `kubectl scale` and autoscalers do.
    ///
    /// # Errors
    /// If the API server rejects the request.
    pub async fn scale(&self, replicas: u32) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api::<Rollout>()
            .patch_scale(&self.name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Creates a command like the kubectl plugin does, and waits for its outcome. Returns whether
    /// it was done, and its message.
    ///
    /// # Errors
    /// If the API server rejects it, or if it has no outcome within 20 s.
    pub async fn run_command(&self, verb: &str, preconditions: Value) -> Result<(bool, String)> {
        let review = Api::<SelfSubjectReview>::all(self.client.clone());
        let review = review
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await?;
        let requested_by = review.status.and_then(|status| status.user_info?.username);
        let object = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand",
            "metadata": {"generateName": format!("{}-{}-", self.name, verb.to_lowercase())},
            "spec": {"rolloutRef": {"name": self.name}, "verb": verb, "preconditions": preconditions, "reason": "e2e test",
                "requestedBy": requested_by,
            },
        });
        let commands = self.api::<RolloutCommand>();
        let made = commands
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        let done = |command: Option<&RolloutCommand>| {
            command
                .and_then(|command| command.status.as_ref())
                .is_some_and(|status| status.outcome.is_some())
        };
        let name = made.name_any();
        let waited = tokio::time::timeout(
            Duration::from_secs(20),
            await_condition(commands, &name, done),
        );
        let command = waited
            .await
            .context("no outcome within 20 s")??
            .context("the command is gone")?;
        let status = command.status.unwrap_or_default();
        let is_done = status.outcome == Some(serin_crds::command::CommandResult::Done);
        Ok((is_done, status.message.unwrap_or_default()))
    }

    /// Starts load through the gateway.
    ///
    /// # Errors
    /// If the address of the gateway is public.
    pub fn start_load(&self, rate_per_second: u32) -> Result<LoadHandle> {
        self.start_load_on("/", rate_per_second)
    }

    /// Starts load on one path through the gateway.
    ///
    /// # Errors
    /// If the address of the gateway is public.
    pub fn start_load_on(&self, path: &str, rate_per_second: u32) -> Result<LoadHandle> {
        self.start_load_with(path, rate_per_second, &[])
    }

    /// Starts load with further headers on one path through the gateway.
    ///
    /// # Errors
    /// If the address of the gateway is public.
    pub fn start_load_with(
        &self,
        path: &str,
        rate_per_second: u32,
        headers: &[(&str, &str)],
    ) -> Result<LoadHandle> {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = LoadOptions {
            headers: headers.collect(),
            host: Some(self.host.clone()),
            rate_per_second,
            duration: Some(Duration::from_secs(3_600)),
            // On a busy machine responses may be late, which is not a routing failure.
            timeout: Duration::from_secs(10),
            fresh_connection_fraction: 0.05,
            ..LoadOptions::new(format!("{}{path}", self.gateway_url))
        };
        Ok(Load::start(&options)?)
    }
}

/// Stops the load and returns its report.
///
/// # Errors
/// If a request was lost in routing.
pub async fn stop_and_ensure_no_loss(load: LoadHandle) -> Result<LoadReport> {
    let report = load.stop().await;
    ensure!(
        report.has_no_losses(),
        "{}\n{:#?}",
        report.summary(),
        report.details
    );
    Ok(report)
}
