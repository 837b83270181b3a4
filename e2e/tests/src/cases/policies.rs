//! RolloutPolicies: a short Rollout under the policies of the project, and mistakes in policies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::{Rollout, RolloutPolicy};

use super::commands::run_plugin;
use crate::env::Env;
use crate::guardrails::{
    apply_policy, ensure_message, holds, message_of, passed, policy, remove_from_cluster,
    short_rollout,
};
use crate::manifests::{self, SampleRelease};
use crate::note;
use crate::shop::{Shop, eventually, is_aborted, is_stable, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 300;
const PATIENCE: Duration = Duration::from_secs(60);

// ---- A short Rollout under the policies that the project ships ----

/// The policy of the chart, for one namespace.
async fn shipped_guardrails(env: &Env, namespace: &str) -> Result<Value> {
    let chart = env.checkout.join("charts/serin");
    let chart = chart.to_string_lossy();
    let selector = format!(
        "guardrails.namespaceSelector={{\"matchLabels\":{{\"kubernetes.io/metadata.name\":\"{namespace}\"}}}}"
    );
    let rendered = env
        .run_helm(&[
            "template",
            "serin-e2e-shipped",
            &chart,
            "--show-only",
            "templates/guardrails.yaml",
            "--set",
            "guardrails.mode=Enforce",
            "--set-json",
            &selector,
        ])
        .await?;
    serde_saphyr::from_str(&rendered).context("the chart renders a RolloutPolicy")
}

/// The policy of `examples/policy.yaml`, for one namespace.
fn example_policy(env: &Env, namespace: &str) -> Result<Value> {
    let text = std::fs::read_to_string(env.checkout.join("examples/policy.yaml"))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let of_policy = documents
        .into_iter()
        .find(|one| one["kind"] == "RolloutPolicy");
    let example = of_policy.context("the example has a RolloutPolicy")?;
    Ok(policy(
        "serin-e2e-platform",
        namespace,
        example["spec"].clone(),
    ))
}

/// What differs in a test: steps instead of a pace, and shorter times.
fn fast_policy(namespace: &str) -> Value {
    let defaults = json!({
        "strategy": {"canary": {"steps": [
            {"setWeight": 20}, {"pause": {"duration": "3s"}}, {"setWeight": 50},
        ]}},
        "analysis": {
            "prometheus": {"scrapeInterval": "1s"}, "warmUp": "5s", "bakeTime": "2s",
        },
    });
    let spec = json!({"precedence": 10, "defaults": defaults});
    policy("serin-e2e-fast", namespace, spec)
}

/// Ten lines.
const SHORT_ROLLOUT: &str = "apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata:
  name: shop
  namespace: serin-e2e-short-rollout
spec:
  workloadRef: {kind: Deployment, name: shop}
  strategy:
    canary:
      trafficRouting: {gatewayAPI: {httpRoute: shop}}
";

/// The Deployment of the product team, and what its service has besides.
fn service_objects(release: &SampleRelease) -> Vec<Value> {
    let labels = json!({"matchLabels": {"app": "shop"}});
    let mut template = manifests::template("shop", release);
    template["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": labels,
    }]);
    vec![
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "shop"},
            "spec": {
                "podSelector": labels,
                "ingress": [{"ports": [{"port": 8080}]}],
            },
        }),
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "shop"},
            "spec": {"maxUnavailable": 1, "selector": labels},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"},
            "spec": {"replicas": 2, "selector": labels, "template": template},
        }),
    ]
}

async fn deploy(shop: &Shop, release: &SampleRelease) -> Result<()> {
    for object in service_objects(release) {
        shop.apply(object).await?;
    }
    Ok(())
}

/// # Errors
/// If an expectation is not met.
pub async fn a_ten_line_rollout_under_the_shipped_policies_is_a_guarded_release(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-short-rollout").await?;
    let policies = [
        shipped_guardrails(env, &shop.namespace).await?,
        example_policy(env, &shop.namespace)?,
        fast_policy(&shop.namespace),
    ];
    for policy in &policies {
        apply_policy(env, policy).await?;
    }
    let checked = Box::pin(check_short_rollout(env, &shop)).await;
    for policy in &policies {
        remove_from_cluster(env, policy).await?;
    }
    checked?;
    shop.delete().await
}

async fn check_short_rollout(env: &Env, shop: &Shop) -> Result<()> {
    ensure!(SHORT_ROLLOUT.lines().count() == 10);
    deploy(shop, &SampleRelease::good("v1")).await?;
    shop.apply(serde_saphyr::from_str(SHORT_ROLLOUT)?).await?;
    shop.wait_until("v1 is stable", PATIENCE, is_stable).await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let (code, text) = run_plugin(env, shop, "kubectl-serin", &["effective", "shop"]).await?;
    let text: Vec<String> = text.lines().map(joined).collect();
    ensure!(code == 0, "{text:#?}");
    for line in [
        "RolloutPolicies: serin-e2e-fast, serin-e2e-platform, serin-e2e-shipped-guardrails",
        "spec.analysis.bakeTime 2s RolloutPolicy serin-e2e-fast",
        "spec.analysis.objectives[http-availability].objective 99.9 RolloutPolicy serin-e2e-platform",
        "spec.progressDeadlineSeconds 300 RolloutPolicy serin-e2e-platform",
        "spec.strategy.canary.trafficRouting.gatewayAPI.httpRoute shop Rollout",
        "networkPolicy: Enforce RolloutPolicy serin-e2e-shipped-guardrails",
    ] {
        ensure!(
            text.iter().any(|found| found == line),
            "{line} is not in {text:#?}"
        );
    }

    // Judged: a good release is promoted with evidence, a bad one is rolled back.
    deploy(shop, &SampleRelease::good("v2")).await?;
    let is_next = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        status.is_some_and(|status| !status.evidence.is_empty())
    };
    let rollout = shop
        .wait_until("v2 has evidence", PATIENCE, is_next)
        .await?;
    let evidence = rollout.status.unwrap_or_default().evidence;
    ensure!(
        evidence[0].objective.as_str() == "http-availability",
        "{evidence:?}"
    );
    let promoted = |rollout: &Rollout| is_stable(rollout) && passed(rollout).is_some();
    shop.wait_until("v2 is stable", PATIENCE * 2, promoted)
        .await?;
    let (_, text) = run_plugin(env, shop, "kubectl-serin", &["audit"]).await?;
    ensure!(
        text.lines()
            .map(joined)
            .any(|line| line.contains("Rollout shop")),
        "{text}"
    );
    deploy(shop, &SampleRelease::failing("v3", "40")).await?;
    shop.wait_until("v3 is rolled back", PATIENCE, is_aborted)
        .await?;

    // Guarded: without its network policy, no release begins.
    let network_policies: Api<NetworkPolicy> = shop.api();
    network_policies
        .delete("shop", &DeleteParams::default())
        .await?;
    let deployments: Api<Deployment> = shop.api();
    let fourth = service_objects(&SampleRelease::good("v4"));
    deployments
        .patch(
            "shop",
            &PatchParams::apply("serin-e2e").force(),
            &Patch::Apply(&fourth[2]),
        )
        .await?;
    let held = shop
        .wait_for_holds(&[HoldCode::NetworkPolicyMissing], PATIENCE)
        .await?;
    ensure_message(
        &held,
        HoldCode::NetworkPolicyMissing,
        &["ingress traffic", "Add a NetworkPolicy"],
    )?;
    let report = stop_and_ensure_no_loss(load).await?;
    note!("{}", report.summary());
    ensure!(
        report.all().of_version("v4").counts().total() == 0,
        "v4 got a request"
    );
    Ok(())
}

fn joined(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

// ---- Mistakes in policies ----

const FIRST: &str = "serin-e2e-first";
const SECOND: &str = "serin-e2e-second";

fn objective(name: &str, fields: Value) -> Value {
    let mut objective = json!({"name": name});
    if let (Some(all), Some(fields)) = (objective.as_object_mut(), fields.as_object()) {
        all.extend(fields.clone());
    }
    objective
}

fn with_reference(name: &str, objectives: Value) -> Value {
    json!({
        "defaults": {"analysis": {"objectives": [{"ref": name}]}},
        "objectives": objectives,
    })
}

/// A mistake in policies: the specs of the two, the code of the hold, and what it must say.
struct Mistake {
    first: Value,
    second: Value,
    code: HoldCode,
    parts: &'static [&'static str],
    /// The path in the status of the first policy. `None` if the policy itself is right.
    path: Option<&'static str>,
}

fn mistakes() -> Vec<Mistake> {
    let available = || objective("available", json!({"objective": 99, "indicator": "pod"}));
    vec![
        Mistake {
            first: with_reference("missing", json!([available()])),
            second: json!({}),
            code: HoldCode::PolicyReferenceInvalid,
            parts: &["RolloutPolicy serin-e2e-first", "missing"],
            path: Some("objectives"),
        },
        // The definitions of two policies are based on each other.
        Mistake {
            first: with_reference(
                "one",
                json!([objective("one", json!({"extends": {"name": "two"}}))]),
            ),
            second: json!({"objectives": [objective("two", json!({"extends": {"name": "one"}}))]}),
            code: HoldCode::PolicyReferenceInvalid,
            parts: &["serin-e2e-", "refer to each other: one, two, one"],
            path: Some("objectives"),
        },
        Mistake {
            first: with_reference(
                "parameterized",
                json!([objective(
                    "parameterized",
                    json!({
                        "objective": 99, "parameters": [{"name": "service"}],
                        "counters": {
                            "total": "http_requests_total{service=\"{{parameters.service}}\"}",
                            "errors": "http_requests_total{service=\"{{parameters.service}}\",code=~\"5..\"}",
                        },
                    })
                )]),
            ),
            second: json!({}),
            code: HoldCode::PolicyReferenceInvalid,
            parts: &["serin-e2e-first", "service"],
            path: Some("objectives"),
        },
        Mistake {
            first: json!({"guardrails": {"custom": [{
                "name": "team", "mode": "Enforce", "expression": "template.metadata.labels[",
                "message": "no team", "fix": "add the label team",
            }]}}),
            second: json!({}),
            code: HoldCode::GuardrailInvalid,
            parts: &["custom guardrail team", "expression", "RolloutPolicy"],
            path: Some("spec.guardrails.custom[team].expression"),
        },
        // The policy with the higher precedence decides about a guardrail as a whole.
        Mistake {
            first: json!({"precedence": 5, "guardrails": {"priority": {"mode": "Enforce"}}}),
            second: json!({"precedence": 1, "guardrails": {"priority": {"mode": "Off"}}}),
            code: HoldCode::PriorityMissing,
            parts: &["pod template", "priority class"],
            path: None,
        },
    ]
}

/// # Errors
/// If an expectation is not met.
pub async fn mistakes_in_policies_and_guardrails_hold_the_next_release_and_say_where(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-policy-mistakes", "shop").await?;
    let named = |name: &str| policy(name, &shop.namespace, json!({}));
    for name in [FIRST, SECOND] {
        remove_from_cluster(env, &named(name)).await?;
    }
    let checked = Box::pin(check_mistakes(env, &shop)).await;
    for name in [FIRST, SECOND] {
        remove_from_cluster(env, &named(name)).await?;
    }
    checked?;
    shop.delete().await
}

async fn check_mistakes(env: &Env, shop: &Shop) -> Result<()> {
    shop.apply(short_rollout("shop", 1, "v1")).await?;
    shop.wait_until("v1 is stable", PATIENCE, is_stable).await?;
    for (index, mistake) in mistakes().into_iter().enumerate() {
        apply_policy(env, &policy(SECOND, &shop.namespace, mistake.second)).await?;
        apply_policy(env, &policy(FIRST, &shop.namespace, mistake.first)).await?;
        if index == 0 {
            // The edit alone changes nothing.
            shop.apply(short_rollout("shop", 1, "v2")).await?;
        }
        let held = |rollout: &Rollout| {
            let message = message_of(rollout, mistake.code).unwrap_or_default();
            mistake.parts.iter().all(|part| message.contains(part))
        };
        let what = format!("held by {}: {:?}", mistake.code.as_str(), mistake.parts);
        if let Err(error) = shop.wait_until(&what, PATIENCE, held).await {
            let rollout = shop.rollout().await?;
            return Err(error.context(format!("the holds are {:#?}", holds(&rollout))));
        }
        wait_for_problem(env, FIRST, mistake.path).await?;
        ensure!(
            shop.revisions().await?.len() == 1,
            "v2 must not have a ReplicaSet"
        );
    }
    // Corrected, the release goes on.
    for name in [FIRST, SECOND] {
        apply_policy(env, &policy(name, &shop.namespace, json!({}))).await?;
    }
    shop.wait_until("v2 is stable", PATIENCE, is_stable).await?;

    // A policy that was deleted is missed, until it may be.
    remove_from_cluster(env, &policy(FIRST, &shop.namespace, json!({}))).await?;
    shop.apply(short_rollout("shop", 1, "v3")).await?;
    let held = shop
        .wait_for_holds(&[HoldCode::PolicyUnavailable], PATIENCE)
        .await?;
    let parts = [FIRST, "was deleted", "failurePolicy to Ignore"];
    ensure_message(&held, HoldCode::PolicyUnavailable, &parts)?;
    let ignorable = json!({"failurePolicy": "Ignore"});
    apply_policy(env, &policy(FIRST, &shop.namespace, ignorable)).await?;
    shop.wait_until("v3 is stable", PATIENCE, is_stable).await?;
    remove_from_cluster(env, &policy(FIRST, &shop.namespace, json!({}))).await?;
    shop.apply(short_rollout("shop", 1, "v4")).await?;
    shop.wait_until("v4 is stable", PATIENCE, is_stable).await?;
    Ok(())
}

/// Waits until the status of a policy has a problem at a path, or none.
async fn wait_for_problem(env: &Env, name: &str, path: Option<&str>) -> Result<()> {
    let policies = Api::<RolloutPolicy>::all(env.client.clone());
    let what = format!("RolloutPolicy {name} has a problem at {path:?}");
    eventually(&what, PATIENCE, async || {
        let policy = policies.get(name).await?;
        let status = policy.status.context("a status")?;
        ensure!(
            Some(status.observed_generation) == policy.metadata.generation,
            "outdated"
        );
        let ready = status.conditions.iter().find(|one| one.type_ == "Ready");
        let ready = ready.context("the condition Ready")?;
        let Some(path) = path else {
            return Ok(status.problems.is_empty() && ready.status == "True");
        };
        let has_path = status
            .problems
            .iter()
            .any(|problem| problem.path.contains(path));
        ensure!(has_path, "the problems are {:?}", status.problems);
        Ok(ready.status == "False")
    })
    .await
}
