//! Guardrails: a release that does not meet one gets no pod or no request, and says why.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use serin_core::hold::HoldCode;

use super::commands::run_plugin;
use crate::env::Env;
use crate::guardrails::{
    ForeignKind, apply_policy, apply_to_cluster, ensure_message, passed, policy,
    remove_from_cluster,
};
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_stable, stop_and_ensure_no_loss};

pub(super) const LOAD_PER_SECOND: u32 = 300;
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A kind that was not served is looked up again after 30 s, and what holds a release is read again
/// after 5, 10 and 20 s.
pub(super) const KIND_IS_FOUND: Duration = Duration::from_secs(75);

/// One step, and no analysis.
pub(super) fn options() -> RolloutOptions {
    RolloutOptions {
        steps: Some(json!([{"setWeight": 50}, {"pause": {"duration": "2s"}}])),
        analysis: None,
        ..RolloutOptions::default()
    }
}

/// A release with one step, which no evidence is needed for.
pub(super) fn rollout(shop: &Shop, version: &str) -> Value {
    manifests::rollout(&shop.name, &options(), &SampleRelease::good(version))
}

/// Makes a Rollout independent of the route, with one pod.
pub(super) fn without_router(mut rollout: Value) -> Value {
    rollout["spec"]["replicas"] = json!(1);
    if let Some(canary) = rollout["spec"]["strategy"]["canary"].as_object_mut() {
        canary.remove("trafficRouting");
    }
    rollout
}

// ---- Guardrails on the pod template ----

fn priority_class() -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "serin-e2e-production"}, "value": 1000,
        "description": "Pods of a guardrail case",
    })
}

/// The guardrails on the pod template, all of them with one mode.
fn template_policy(shop: &Shop, mode: &str, forbidden_tag: &str) -> Value {
    let guardrails = json!({
        "resources": {"mode": mode},
        "imagePinned": {"mode": mode, "forbiddenTags": [forbidden_tag]},
        "probes": {"mode": mode, "liveness": true},
        "secretsManager": {"mode": mode},
        "observability": {"mode": mode, "traces": {"env": ["OTEL_EXPORTER_OTLP_ENDPOINT"]}},
        "spread": {"mode": mode},
        "priority": {"mode": mode, "allowed": ["serin-e2e-production"]},
        "custom": [{
            "name": "team-label", "mode": mode,
            "expression": "'team' in template.metadata.labels",
            "message": "the pods do not say which team owns them",
            "fix": "add the label team to the pod template",
        }],
    });
    policy(
        "serin-e2e-template",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    )
}

/// The holds of a template that meets none of them, with what their messages must say.
const TEMPLATE_HOLDS: [(HoldCode, [&str; 3]); 8] = [
    (
        HoldCode::ResourcesMissing,
        [
            "container sample",
            "no memory limit",
            "resources.limits.memory",
        ],
    ),
    (
        HoldCode::ImageNotPinned,
        [
            "container sample",
            "has the tag latest",
            "serin.local/sample:VERSION",
        ],
    ),
    (
        HoldCode::ProbeMissing,
        ["container sample", "no livenessProbe", "Add livenessProbe"],
    ),
    (
        HoldCode::SecretNotManaged,
        ["container sample", "DB_PASSWORD", "secrets manager"],
    ),
    (
        HoldCode::NotObserved,
        ["pod template", "nothing scrapes the metrics", "PodMonitor"],
    ),
    (
        HoldCode::NotSpread,
        ["pod template", "2 replicas", "topologySpreadConstraints"],
    ),
    (
        HoldCode::PriorityMissing,
        ["pod template", "no priority class", "serin-e2e-production"],
    ),
    (
        HoldCode::CustomGuardrail,
        ["team-label", "which team owns them", "add the label team"],
    ),
];

/// A Rollout that meets all of them.
fn complete(shop: &Shop, version: &str) -> Value {
    let mut rollout = rollout(shop, version);
    let template = &mut rollout["spec"]["template"];
    template["metadata"]["labels"]["team"] = json!("checkout");
    template["spec"]["priorityClassName"] = json!("serin-e2e-production");
    template["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": shop.name}},
    }]);
    template["spec"]["containers"][0]["livenessProbe"] = json!({
        "httpGet": {"path": "/readyz", "port": "http"}, "timeoutSeconds": 5, "failureThreshold": 10,
    });
    manifests::set_env(
        &mut rollout,
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "http://otel:4317",
    );
    rollout
}

/// A Rollout that meets none of them, but whose pods would serve.
fn incomplete(shop: &Shop, version: &str, image: &str) -> Value {
    let mut rollout = rollout(shop, version);
    let template = &mut rollout["spec"]["template"];
    template["metadata"]["annotations"] = json!({"owner": "checkout"});
    let container = &mut template["spec"]["containers"][0];
    container["image"] = json!(image);
    if let Some(container) = container.as_object_mut() {
        container.remove("resources");
    }
    manifests::set_env(&mut rollout, "DB_PASSWORD", "hunter2");
    rollout
}

/// # Errors
/// If an expectation is not met.
pub async fn guardrails_on_the_template_hold_a_release_before_its_first_pod(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-template-guardrails").await?;
    apply_to_cluster(env, &priority_class()).await?;
    let policy = template_policy(&shop, "Enforce", "latest");
    apply_policy(env, &policy).await?;
    let checked = Box::pin(check_template_guardrails(env, &shop)).await;
    remove_from_cluster(env, &policy).await?;
    remove_from_cluster(env, &priority_class()).await?;
    checked?;
    shop.delete().await
}

async fn ensure_explained(env: &Env, shop: &Shop) -> Result<()> {
    let (_, text) = run_plugin(env, shop, "kubectl-serin", &["explain", "shop"]).await?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Each hold is a sentence, which begins with a capital letter.
    let lower = text.to_lowercase();
    for (code, [object, ..]) in TEMPLATE_HOLDS {
        ensure!(
            text.contains(code.as_str()),
            "explain lacks {}: {text}",
            code.as_str()
        );
        ensure!(lower.contains(object), "explain lacks {object}: {text}");
    }
    Ok(())
}

async fn check_template_guardrails(env: &Env, shop: &Shop) -> Result<()> {
    shop.apply(complete(shop, "v1")).await?;
    let rollout = shop.wait_until("v1 is stable", PATIENCE, is_stable).await?;
    ensure!(
        passed(&rollout) == Some(("True", "Passed")),
        "{:?}",
        passed(&rollout)
    );
    let beside = shop.sibling("beside");
    beside
        .apply(without_router(complete(&beside, "v1")))
        .await?;
    beside
        .wait_until("the other one is stable", PATIENCE, is_stable)
        .await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;

    shop.apply(incomplete(shop, "v2", "serin.local/sample:latest"))
        .await?;
    let rollout = shop
        .wait_for_holds(&TEMPLATE_HOLDS.map(|(code, _)| code), PATIENCE)
        .await?;
    for (code, parts) in TEMPLATE_HOLDS {
        ensure_message(&rollout, code, &parts)?;
    }
    ensure!(
        passed(&rollout) == Some(("False", "ResourcesMissing")),
        "{:?}",
        passed(&rollout)
    );
    ensure_explained(env, shop).await?;
    // What holds one Rollout does not hold another one.
    beside
        .apply(without_router(complete(&beside, "v2")))
        .await?;
    beside
        .wait_until("the other one is released", PATIENCE, is_stable)
        .await?;
    ensure!(
        shop.revisions().await?.len() == 1,
        "v2 must not have a ReplicaSet"
    );
    // One Event is about all holds, and is written after the status.
    shop.eventually("an Event says why", PATIENCE, async || {
        for (code, _) in TEMPLATE_HOLDS {
            let notes = shop.events(code.as_str()).await?;
            if notes.iter().any(|note| note.contains("no cpu request")) {
                return Ok(true);
            }
        }
        Ok(false)
    })
    .await?;

    shop.apply(complete(shop, "v3")).await?;
    let rollout = shop.wait_until("v3 is stable", PATIENCE, is_stable).await?;
    ensure!(
        passed(&rollout) == Some(("True", "Passed")),
        "{:?}",
        passed(&rollout)
    );

    apply_policy(env, &template_policy(shop, "Warn", "v1")).await?;
    shop.apply(incomplete(shop, "v4", crate::env::SAMPLE_IMAGE))
        .await?;
    let rollout = shop.wait_until("v4 is stable", PATIENCE, is_stable).await?;
    ensure!(
        passed(&rollout) == Some(("True", "Warnings")),
        "{:?}",
        passed(&rollout)
    );
    shop.eventually("an Event reports the warnings", PATIENCE, async || {
        let warnings = shop.events("GuardrailWarning").await?;
        let has_all =
            |note: &String| note.contains("container sample") && note.contains("more problems");
        Ok(warnings.iter().any(has_all))
    })
    .await?;
    let report = stop_and_ensure_no_loss(load).await?;
    note!("{}", report.summary());
    ensure!(
        report.all().of_version("v2").counts().total() == 0,
        "v2 got a request"
    );
    ensure!(
        report.all().of_version("v4").counts().total() > 0,
        "v4 got no request"
    );
    Ok(())
}

// ---- Guardrails on objects beside the Rollout ----

/// Sets labels of a namespace.
pub(super) async fn label_namespace(env: &Env, name: &str, labels: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    Api::<Namespace>::all(env.client.clone())
        .patch(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

fn object_policy(shop: &Shop) -> Value {
    let guardrails = json!({
        "networkPolicy": {"mode": "Enforce", "egress": true, "defaultDeny": true},
        "podSecurity": {"mode": "Enforce", "level": "restricted"},
        "secretsManager": {"mode": "Enforce"},
        "observability": {"mode": "Enforce"},
        "disruptionBudget": {"mode": "Enforce"},
    });
    policy(
        "serin-e2e-objects",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    )
}

/// A release whose metrics nothing scrapes by an annotation, and which uses a Secret.
fn with_secret(shop: &Shop, version: &str) -> Value {
    let mut rollout = rollout(shop, version);
    let template = &mut rollout["spec"]["template"];
    template["metadata"]["annotations"] = json!({"owner": "checkout"});
    template["spec"]["containers"][0]["envFrom"] =
        json!([{"secretRef": {"name": "database", "optional": true}}]);
    rollout
}

/// # Errors
/// If an expectation is not met.
pub async fn guardrails_on_objects_let_the_release_go_on_once_they_exist(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-object-guardrails").await?;
    ForeignKind::EXTERNAL_SECRET
        .remove(env, &["v1", "v1beta1"])
        .await?;
    ForeignKind::POD_MONITOR.remove(env, &["v1"]).await?;
    let checked = Box::pin(check_object_guardrails(env, &shop)).await;
    remove_from_cluster(env, &object_policy(&shop)).await?;
    ForeignKind::EXTERNAL_SECRET
        .remove(env, &["v1beta1"])
        .await?;
    ForeignKind::POD_MONITOR.remove(env, &["v1"]).await?;
    checked?;
    shop.delete().await
}

async fn check_object_guardrails(env: &Env, shop: &Shop) -> Result<()> {
    shop.deploy_first(&options(), &SampleRelease::good("v1"))
        .await?;
    let security = |enforced: &str| {
        json!({
            "pod-security.kubernetes.io/enforce": enforced,
            "pod-security.kubernetes.io/warn": "restricted",
        })
    };
    label_namespace(env, &shop.namespace, security("baseline")).await?;
    apply_policy(env, &object_policy(shop)).await?;
    let mut violating = with_secret(shop, "v2");
    let container = &mut violating["spec"]["template"]["spec"]["containers"][0];
    container["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    shop.apply(violating).await?;
    let expected: [(HoldCode, [&str; 3]); 6] = [
        (
            HoldCode::NetworkPolicyMissing,
            [
                "namespace serin-e2e-object-guardrails",
                "ingress traffic",
                "Add a NetworkPolicy",
            ],
        ),
        (
            HoldCode::PodSecurityTooLow,
            [
                "namespace serin-e2e-object-guardrails",
                "baseline",
                "enforce=restricted",
            ],
        ),
        (
            HoldCode::PodSecurityViolated,
            [
                "pod template",
                "allowPrivilegeEscalation",
                "Correct the fields",
            ],
        ),
        (
            HoldCode::SecretNotManaged,
            ["Secret database", "container sample", "ExternalSecret"],
        ),
        (
            HoldCode::NotObserved,
            ["pod template", "nothing scrapes", "PodMonitor"],
        ),
        (
            HoldCode::DisruptionBudgetMissing,
            [
                "pod template",
                "no PodDisruptionBudget",
                "maxUnavailable: 1",
            ],
        ),
    ];
    let codes = expected.map(|(code, _)| code);
    let rollout = shop.wait_for_holds(&codes, PATIENCE).await?;
    for (code, parts) in expected {
        ensure_message(&rollout, code, &parts)?;
    }
    ensure!(
        shop.revisions().await?.len() == 1,
        "v2 must not have a ReplicaSet"
    );

    add_objects(env, shop).await?;
    label_namespace(env, &shop.namespace, security("restricted")).await?;
    let template_only = [HoldCode::PodSecurityViolated];
    shop.wait_for_holds(&template_only, KIND_IS_FOUND).await?;
    ensure!(
        shop.revisions().await?.len() == 1,
        "v2 must not have a ReplicaSet"
    );

    shop.apply(with_secret(shop, "v3")).await?;
    let rollout = shop.wait_until("v3 is stable", PATIENCE, is_stable).await?;
    ensure!(
        passed(&rollout) == Some(("True", "Passed")),
        "{:?}",
        passed(&rollout)
    );
    Ok(())
}

/// Adds what the guardrails demand, in the order in which a platform team may do it.
async fn add_objects(env: &Env, shop: &Shop) -> Result<()> {
    let of_shop = json!({"matchLabels": {"app": shop.name}});
    shop.apply(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "default-deny"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }))
    .await?;
    shop.apply(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "shop"},
        "spec": {"maxUnavailable": 1, "selector": of_shop},
    }))
    .await?;
    // Its operator is of an older version, which serves only v1beta1.
    ForeignKind::EXTERNAL_SECRET
        .install(env, &["v1beta1"])
        .await?;
    shop.apply(json!({
        "apiVersion": "external-secrets.io/v1beta1", "kind": "ExternalSecret",
        "metadata": {"name": "database-from-vault"},
        "spec": {
            "refreshInterval": "1h",
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": "vault"},
            "target": {"name": "database", "creationPolicy": "Owner"},
            "data": [{"secretKey": "URL", "remoteRef": {"key": "shop/database", "property": "url"}}],
        },
    }))
    .await?;
    ForeignKind::POD_MONITOR.install(env, &["v1"]).await?;
    // A monitor in the namespace of the monitoring looks into this one.
    let monitor = json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
        "metadata": {"name": "serin-e2e-shop", "namespace": "default"},
        "spec": {
            "namespaceSelector": {"matchNames": [shop.namespace]}, "selector": of_shop,
            "podMetricsEndpoints": [{"port": "http", "interval": "30s"}],
        },
    });
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor");
    let monitors: Api<DynamicObject> =
        Api::namespaced_with(env.client.clone(), "default", &ApiResource::from_gvk(&kind));
    let params = PatchParams::apply("serin-e2e").force();
    monitors
        .patch("serin-e2e-shop", &params, &Patch::Apply(&monitor))
        .await?;
    Ok(())
}
