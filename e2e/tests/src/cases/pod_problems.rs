//! Canary pods that cannot run or cannot be created: the status names the object, the cause and a
//! fix, and stable serves everything.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::PostParams;
use serde_json::{Value, json};
use serin_core::units::Weight;

use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::shop::{Shop, stop_and_ensure_no_loss};

/// A change of the pod template, the expected hold code, and parts of the message.
struct Problem {
    code: &'static str,
    parts: &'static [&'static str],
    change: fn(&mut Value),
}

const PROBLEMS: [Problem; 6] = [
    Problem {
        code: "ImagePullFailed",
        parts: &[
            "pod ",
            "cannot pull image localhost/missing:v2",
            "pull secret",
        ],
        change: |pod| pod["containers"][0]["image"] = json!("localhost/missing:v2"),
    },
    Problem {
        code: "ContainerConfigInvalid",
        parts: &["pod ", "secret \"missing\" not found"],
        change: |pod| {
            pod["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "missing"}}]);
        },
    },
    Problem {
        code: "VolumeMountFailed",
        parts: &[
            "pod ",
            "cannot mount volume config",
            "configmap \"missing\" not found",
        ],
        change: |pod| {
            pod["volumes"] = json!([{"name": "config", "configMap": {"name": "missing"}}]);
            pod["containers"][0]["volumeMounts"] =
                json!([{"name": "config", "mountPath": "/config"}]);
        },
    },
    Problem {
        code: "PodUnschedulable",
        parts: &["cannot be scheduled", "nodes are available"],
        change: |pod| pod["containers"][0]["resources"] = json!({"requests": {"cpu": "900"}}),
    },
    Problem {
        code: "ProbeFailing",
        parts: &["runs, and its readiness probe fails"],
        change: |pod| {
            pod["containers"][0]["readinessProbe"] =
                json!({"exec": {"command": ["/missing"]}, "periodSeconds": 1});
        },
    },
    Problem {
        code: "PodsRejected",
        parts: &["ReplicaSet ", "cannot create pods", "violates PodSecurity"],
        change: |pod| pod["hostNetwork"] = json!(true),
    },
];

/// # Errors
/// If an expectation is not met.
pub async fn a_canary_that_cannot_run_names_the_cause_and_a_fix(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-pods").await?;
    let spec = RolloutOptions {
        replicas: 2,
        ..RolloutOptions::default()
    };
    let rollout = || manifests::rollout(&shop.name, &spec, &SampleRelease::good("v1"));
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(20)?;
    for problem in &PROBLEMS {
        let mut canary = rollout();
        let pod = canary
            .pointer_mut("/spec/template/spec")
            .context("the manifest has a pod template")?;
        (problem.change)(pod);
        shop.apply(canary).await?;
        ensure_cause_is_named(&shop, problem.code, problem.parts).await?;
    }
    shop.apply(rollout()).await?;
    let quota: ResourceQuota = serde_json::from_value(json!({
        "metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}}))?;
    shop.api::<ResourceQuota>()
        .create(&PostParams::default(), &quota)
        .await?;
    let mut canary = rollout();
    canary["spec"]["template"]["metadata"]["annotations"] = json!({"change": "quota"});
    shop.apply(canary).await?;
    let parts = ["ReplicaSet ", "exceeded quota: small"];
    ensure_cause_is_named(&shop, "QuotaExceeded", &parts).await?;
    ensure!(
        shop.route_share().await? == Weight::ZERO,
        "a canary without pods gets no traffic"
    );
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

async fn ensure_cause_is_named(shop: &Shop, code: &str, parts: &[&str]) -> Result<()> {
    // The first message of the kubelet may be another one, for example that its caches are not filled.
    shop.wait_until(code, Duration::from_secs(90), |rollout| {
        rollout.status.as_ref().is_some_and(|status| {
            let hold = status.state.holds.first();
            let message = status.state.message.as_str();
            hold.is_some_and(|hold| hold.code.as_str() == code)
                && parts.iter().all(|part| message.contains(part))
        })
    })
    .await?;
    crate::note!("{code}: {}", shop.status().await?.state.message);
    let published = async || Ok(!shop.events(code).await?.is_empty());
    shop.eventually("the Event", Duration::from_secs(10), published)
        .await
}
