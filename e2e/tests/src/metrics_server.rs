//! metrics-server, from which autoscalers read the CPU usage of pods. It is built, and installed in
//! the local cluster, only by the cases that need it.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use serin_cluster::{GoModule, Image, Progress, build_programs};
use serin_crds::api_status;

use crate::env::Env;
use crate::objects::{api, apply};

const MODULE: GoModule = GoModule {
    name: "metrics-server",
    version: "metrics-server 0.9.0",
    linker: "",
    programs: &[(
        "metrics-server",
        "sigs.k8s.io/metrics-server/cmd/metrics-server",
    )],
};
const IMAGE: &str = "serin.local/metrics-server:v0.9.0";
const NAME: &str = "metrics-server";
const NAMESPACE: &str = "kube-system";
const PORT: u16 = 4443;
/// Maximum time for an API to be removed.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Builds metrics-server if necessary, and installs it.
///
/// # Errors
/// If it does not build, if this is not the local cluster, or if the API server rejects an object.
pub async fn install(env: &Env) -> Result<()> {
    let cluster = env.cluster.as_ref();
    let cluster = cluster.context("metrics-server is installed in the local cluster only")?;
    let sources = env.checkout.join("e2e/tests/tools");
    let programs = build_programs(&sources, &[MODULE], Progress::detect()).await?;
    let binary = programs.get(NAME).context("metrics-server is not pinned")?;
    cluster
        .load_image(&Image::local(IMAGE, binary.clone()))
        .await?;
    for object in objects() {
        apply(&env.client, &object).await?;
    }
    Ok(())
}

/// Removes it. The API goes first: while it is served by nothing, namespaces cannot be deleted.
///
/// # Errors
/// If the API server rejects a request.
pub async fn remove(env: &Env) -> Result<()> {
    for object in objects().into_iter().rev() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match api(&env.client, &object)
            .delete(name, &DeleteParams::background())
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {}
            Err(error) => return Err(error.into()),
        }
    }
    crate::shop::eventually("the metrics API is gone", REMOVAL_TIMEOUT, async || {
        let groups = env.client.list_api_groups().await?.groups;
        Ok(groups.iter().all(|group| group.name != "metrics.k8s.io"))
    })
    .await
}

/// The objects, in the order of their creation.
fn objects() -> Vec<Value> {
    let mut objects = permissions();
    let labels = json!({"app": NAME});
    objects.push(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "serviceAccountName": NAME,
                "containers": [{
                    "name": NAME,
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "args": [
                        format!("--secure-port={PORT}"),
                        "--cert-dir=/tmp",
                        "--kubelet-insecure-tls",
                        "--kubelet-preferred-address-types=InternalIP",
                        "--metric-resolution=10s",
                        // The local API server has no certificate for the aggregation layer, so its
                        // requests are anonymous.
                        "--authentication-skip-lookup",
                    ],
                    "ports": [{"containerPort": PORT}],
                    "readinessProbe": {
                        "httpGet": {"path": "/readyz", "port": PORT, "scheme": "HTTPS"},
                        "periodSeconds": 1,
                    },
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            }},
        },
    }));
    objects.push(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"selector": labels, "ports": [{"port": 443, "targetPort": PORT}]},
    }));
    objects.push(json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1",
            "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": {"name": NAME, "namespace": NAMESPACE},
        },
    }));
    objects
}

fn permissions() -> Vec<Value> {
    let role = |name: &str, rules: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name}, "rules": rules,
        })
    };
    let account = json!({"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE});
    let anonymous = json!({
        "kind": "User", "name": "system:anonymous", "apiGroup": "rbac.authorization.k8s.io",
    });
    let binding = |name: &str, role: &str, subject: &Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        })
    };
    let (own, reader) = ("system:metrics-server", "serin-e2e-metrics-reader");
    vec![
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
        }),
        role(
            own,
            json!([
                {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
            ]),
        ),
        binding(own, own, &account),
        binding(
            "metrics-server:auth-delegator",
            "system:auth-delegator",
            &account,
        ),
        role(
            reader,
            json!([{"apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list"]}]),
        ),
        binding(reader, reader, &anonymous),
    ]
}
