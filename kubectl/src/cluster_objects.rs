//! Reads single objects of a cluster, for `convert --from-cluster`.

use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};

use crate::connect::{Connection, send};
use crate::documents::Documents;
use crate::exit::{CliError, Exit};

/// A kind that can be read: its names on the command line, group, version, kind and plural.
struct ReadableKind {
    names: &'static [&'static str],
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    is_namespaced: bool,
}

const fn namespaced(
    names: &'static [&'static str],
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> ReadableKind {
    ReadableKind {
        names,
        group,
        version,
        kind,
        plural,
        is_namespaced: true,
    }
}

const KINDS: [ReadableKind; 19] = [
    namespaced(
        &["deployment", "deploy"],
        "apps",
        "v1",
        "Deployment",
        "deployments",
    ),
    namespaced(&["service", "svc"], "", "v1", "Service", "services"),
    namespaced(
        &["horizontalpodautoscaler", "hpa"],
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    ),
    namespaced(
        &["ingress", "ing"],
        "networking.k8s.io",
        "v1",
        "Ingress",
        "ingresses",
    ),
    namespaced(
        &["httproute"],
        "gateway.networking.k8s.io",
        "v1",
        "HTTPRoute",
        "httproutes",
    ),
    namespaced(
        &["grpcroute"],
        "gateway.networking.k8s.io",
        "v1",
        "GRPCRoute",
        "grpcroutes",
    ),
    namespaced(
        &["tlsroute"],
        "gateway.networking.k8s.io",
        "v1",
        "TLSRoute",
        "tlsroutes",
    ),
    namespaced(
        &["tcproute"],
        "gateway.networking.k8s.io",
        "v1",
        "TCPRoute",
        "tcproutes",
    ),
    namespaced(
        &["virtualservice"],
        "networking.istio.io",
        "v1",
        "VirtualService",
        "virtualservices",
    ),
    namespaced(
        &["traefikservice"],
        "traefik.io",
        "v1alpha1",
        "TraefikService",
        "traefikservices",
    ),
    namespaced(
        &["ingressroute"],
        "traefik.io",
        "v1alpha1",
        "IngressRoute",
        "ingressroutes",
    ),
    namespaced(
        &["httpproxy"],
        "projectcontour.io",
        "v1",
        "HTTPProxy",
        "httpproxies",
    ),
    namespaced(
        &["apisixroute"],
        "apisix.apache.org",
        "v2",
        "ApisixRoute",
        "apisixroutes",
    ),
    namespaced(
        &["rollout.argoproj.io", "rollout"],
        "argoproj.io",
        "v1alpha1",
        "Rollout",
        "rollouts",
    ),
    namespaced(
        &["analysistemplate"],
        "argoproj.io",
        "v1alpha1",
        "AnalysisTemplate",
        "analysistemplates",
    ),
    ReadableKind {
        names: &["clusteranalysistemplate"],
        group: "argoproj.io",
        version: "v1alpha1",
        kind: "ClusterAnalysisTemplate",
        plural: "clusteranalysistemplates",
        is_namespaced: false,
    },
    namespaced(&["canary"], "flagger.app", "v1beta1", "Canary", "canaries"),
    namespaced(
        &["metrictemplate"],
        "flagger.app",
        "v1beta1",
        "MetricTemplate",
        "metrictemplates",
    ),
    namespaced(
        &["rollout.rollouts.kruise.io"],
        "rollouts.kruise.io",
        "v1beta1",
        "Rollout",
        "rollouts",
    ),
];

/// Reads the objects that `references` name as `KIND/NAME`, and adds them to the documents.
///
/// # Errors
/// A reference is malformed, its kind is unknown, or the object cannot be read.
pub async fn read(
    connection: &Connection,
    references: &[String],
    documents: &mut Documents,
) -> Result<(), CliError> {
    for reference in references {
        let (kind, name) = parse(reference)?;
        let group = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&group, kind.plural);
        let client = connection.client.clone();
        let api: Api<DynamicObject> = if kind.is_namespaced {
            Api::namespaced_with(client, &connection.namespace, &resource)
        } else {
            Api::all_with(client, &resource)
        };
        let object = send(&format!("read {reference}"), api.get(name)).await?;
        let object = serde_json::to_value(&object).map_err(|error| {
            CliError::new(Exit::Api, format!("cannot read {reference}: {error}"))
        })?;
        documents.add_object(object, reference);
    }
    Ok(())
}

fn parse(reference: &str) -> Result<(&'static ReadableKind, &str), CliError> {
    let wrong = |message: String| {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.names[0]).collect();
        CliError::new(Exit::Usage, message).hint(format!(
            "Write KIND/NAME, for example rollout.argoproj.io/checkout. The kinds are {}.",
            known.join(", ")
        ))
    };
    let (kind, name) = reference
        .split_once('/')
        .filter(|(_, name)| !name.is_empty())
        .ok_or_else(|| wrong(format!("--from-cluster {reference}: the name is missing")))?;
    let wanted = kind.to_lowercase();
    let found = KINDS.iter().find(|known| {
        let mut names = known.names.iter();
        names.any(|name| *name == wanted || format!("{name}s") == wanted)
    });
    let found = found.ok_or_else(|| wrong(format!("--from-cluster {reference}: unknown kind")))?;
    Ok((found, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_kind_and_an_object() {
        assert_eq!(parse("Deployments/shop").unwrap().0.kind, "Deployment");
        let (kind, name) = parse("rollout.argoproj.io/shop").unwrap();
        assert_eq!((kind.group, name), ("argoproj.io", "shop"));
        for wrong in ["shop", "rollout/", "pod/shop"] {
            let error = parse(wrong).err().unwrap().to_string();
            assert!(
                error.contains("KIND/NAME") && error.contains(wrong),
                "{error}"
            );
        }
    }
}
