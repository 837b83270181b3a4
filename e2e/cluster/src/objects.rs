//! The initial objects of a cluster: permissions, the Gateway API and the Gateway.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::api::{Api, condition};
use crate::config::ports;
use crate::host::{UnmetCondition, wait_until};
use crate::instance::Network;
use crate::pki::NODE_NAME;

/// The namespace of [`GATEWAY`].
pub const GATEWAY_NAMESPACE: &str = "gateway-system";
/// The name of the Gateway. Routes in every namespace can use it as their parent.
pub const GATEWAY: &str = "local";

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Maximum time for applied objects to take effect.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Applies all objects. Idempotent.
///
/// # Errors
/// If the API server rejects an object, or if a kind is not served in time.
pub(crate) async fn apply(api: &Api, network: Network, crds: &Path) -> Result<()> {
    apply_name_service(api, network).await?;
    for (name, rules) in [
        ("traefik", traefik_rules()),
        ("prometheus", prometheus_rules()),
    ] {
        apply_role(api, name, &rules).await?;
    }
    let mut names = Vec::new();
    for object in read_objects(crds)? {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let folder = match object["kind"].as_str() {
            Some("CustomResourceDefinition") => {
                names.push(name.clone());
                CRDS.to_owned()
            }
            Some("ValidatingAdmissionPolicy") => admission("validatingadmissionpolicies"),
            Some("ValidatingAdmissionPolicyBinding") => {
                admission("validatingadmissionpolicybindings")
            }
            kind => anyhow::bail!("the Gateway API's definitions hold an unknown kind: {kind:?}"),
        };
        api.apply(&format!("{folder}/{name}"), &object).await?;
    }
    for name in names {
        wait_until(&format!("the kind {name}"), READY_TIMEOUT, async || {
            let definition = api
                .get(&format!("{CRDS}/{name}"))
                .await
                .map_err(|error| UnmetCondition::not_yet(format!("{error:#}")))?;
            match condition(&definition, "Established") {
                Some("True") => Ok(()),
                _ => Err(UnmetCondition::not_yet("not established yet")),
            }
        })
        .await?;
    }
    apply_gateway(api).await
}

/// Waits until pods can be scheduled and the gateway listens.
///
/// # Errors
/// If this takes too long, with what is missing.
pub(crate) async fn wait_until_ready(api: &Api) -> Result<()> {
    wait_until("the node", READY_TIMEOUT, async || {
        let path = format!("/api/v1/nodes/{NODE_NAME}");
        let node = api
            .get(&path)
            .await
            .map_err(|error| UnmetCondition::not_yet(format!("{error:#}")))?;
        let free = node["spec"]["taints"].as_array().is_none_or(Vec::is_empty);
        match condition(&node, "Ready") {
            Some("True") if free => Ok(()),
            Some("True") => Err(UnmetCondition::not_yet(format!(
                "still tainted: {}",
                node["spec"]["taints"]
            ))),
            _ => Err(UnmetCondition::not_yet(format!(
                "not ready: {}",
                node["status"]["conditions"]
            ))),
        }
    })
    .await?;
    wait_until("the default service account", READY_TIMEOUT, async || {
        let path = "/api/v1/namespaces/default/serviceaccounts/default";
        api.get(path)
            .await
            .map(|_| ())
            .map_err(|error| UnmetCondition::not_yet(format!("{error:#}")))
    })
    .await?;
    wait_until("the gateway", READY_TIMEOUT, async || {
        let path = format!("{GATEWAYS}/namespaces/{GATEWAY_NAMESPACE}/gateways/{GATEWAY}");
        let gateway = api
            .get(&path)
            .await
            .map_err(|error| UnmetCondition::not_yet(format!("{error:#}")))?;
        match condition(&gateway, "Programmed") {
            Some("True") => Ok(()),
            _ => Err(UnmetCondition::not_yet(format!(
                "not programmed: {}",
                gateway["status"]
            ))),
        }
    })
    .await
}

fn admission(plural: &str) -> String {
    format!("/apis/admissionregistration.k8s.io/v1/{plural}")
}

fn read_objects(folder: &Path) -> Result<Vec<Value>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    let mut objects = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let found: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("cannot read {}", file.display()))?;
        // The folder also has a kustomization file, which is not a Kubernetes object.
        objects.extend(found.into_iter().filter(|object| {
            object.is_object() && object["kind"] != "Kustomization" && !object["kind"].is_null()
        }));
    }
    Ok(objects)
}

async fn apply_role(api: &Api, name: &str, rules: &Value) -> Result<()> {
    let full = format!("serin-cluster-{name}");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": full},
        "rules": rules,
    });
    api.apply(&format!("{RBAC}/clusterroles/{full}"), &role)
        .await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": full},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": full},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    });
    api.apply(&format!("{RBAC}/clusterrolebindings/{full}"), &binding)
        .await
}

fn traefik_rules() -> Value {
    let read = ["get", "list", "watch"];
    json!([
        {"apiGroups": [""], "verbs": read,
            "resources": ["services", "secrets", "configmaps", "namespaces", "nodes"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["*"], "verbs": read},
        {"apiGroups": ["gateway.networking.k8s.io"], "verbs": ["update", "patch"],
            "resources": ["gatewayclasses/status", "gateways/status", "httproutes/status",
                "grpcroutes/status", "tlsroutes/status", "tcproutes/status",
                "backendtlspolicies/status"]},
    ])
}

fn prometheus_rules() -> Value {
    json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}])
}

/// The cluster has no DNS server. A Service without endpoints makes kube-proxy reject DNS queries,
/// so that they fail immediately, and gives the kubelet an address for the pods.
async fn apply_name_service(api: &Api, network: Network) -> Result<()> {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {
            "clusterIP": network.name_server().to_string(),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    });
    api.apply("/api/v1/namespaces/kube-system/services/kube-dns", &service)
        .await
}

async fn apply_gateway(api: &Api) -> Result<()> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": GATEWAY_NAMESPACE},
    });
    api.apply(
        &format!("/api/v1/namespaces/{GATEWAY_NAMESPACE}"),
        &namespace,
    )
    .await?;
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "traefik"},
        "spec": {"controllerName": "traefik.io/gateway-controller"},
    });
    api.apply(&format!("{GATEWAYS}/gatewayclasses/traefik"), &class)
        .await?;
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY, "namespace": GATEWAY_NAMESPACE},
        "spec": {
            "gatewayClassName": "traefik",
            "listeners": [{
                "name": "http",
                "protocol": "HTTP",
                "port": ports::GATEWAY,
                "allowedRoutes": {"namespaces": {"from": "All"}},
            }],
        },
    });
    let path = format!("{GATEWAYS}/namespaces/{GATEWAY_NAMESPACE}/gateways/{GATEWAY}");
    api.apply(&path, &gateway).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_read_except_kustomizations() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("b.yaml", "# words\n---\nkind: A\n---\nkind: B\n");
        write("a.yaml", "kind: Kustomization\nresources: [b.yaml]\n");
        let kinds: Vec<Value> = read_objects(folder.path())
            .unwrap()
            .iter()
            .map(|object| object["kind"].clone())
            .collect();
        assert_eq!(kinds, ["A", "B"]);
    }
}
