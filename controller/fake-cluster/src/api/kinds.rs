//! The kinds that the API server serves: built-in ones, and those of CustomResourceDefinitions.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::defaults;

/// One kind of object in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent property of a kind"
)]
pub struct ServedKind {
    /// The API group, empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind in objects, for example `HTTPRoute`.
    pub kind: String,
    /// The plural name in paths, for example `httproutes`.
    pub plural: String,
    /// Whether the kind is namespaced.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// Whether there is a `scale` subresource.
    pub scale: bool,
    /// Whether the server increments `metadata.generation` when the spec changes.
    pub generation: bool,
    /// Whether a CustomResourceDefinition declares the kind.
    pub custom: bool,
    /// The part of the schema that contains defaults.
    pub(crate) defaults: Option<Arc<Value>>,
    /// Paths of the `scale` subresource.
    pub(crate) scale_paths: ScalePaths,
}

/// The JSON pointers of a `scale` subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    /// `None` if the kind reports no selector.
    pub(crate) selector: Option<String>,
}

impl Default for ScalePaths {
    fn default() -> Self {
        let pointer = |text: &str| text.to_owned();
        Self {
            spec_replicas: pointer("/spec/replicas"),
            status_replicas: pointer("/status/replicas"),
            selector: Some(pointer("/status/selector")),
        }
    }
}

/// The API groups that every API server serves, including groups without a kind in this fake.
const BUILT_IN_GROUPS: [&str; 22] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// The CustomResourceDefinition of Rollouts.
const ROLLOUTS: &str = include_str!("../../../../crds/yaml/serin.dev_rollouts.yaml");

/// Schema defaults of Rollouts, parsed once per process.
fn rollout_defaults() -> Option<Arc<Value>> {
    static DEFAULTS: OnceLock<Option<Arc<Value>>> = OnceLock::new();
    let read = || {
        let definition: Value = serde_saphyr::from_str(ROLLOUTS).ok()?;
        defaults::schema_defaults(definition.pointer("/spec/versions/0/schema/openAPIV3Schema")?)
            .map(Arc::new)
    };
    DEFAULTS.get_or_init(read).clone()
}

/// Group, version, kind, plural, properties: n(amespaced) s(tatus) c(scale) g(eneration).
const BUILT_IN: &[(&str, &str, &str, &str, &str)] = &[
    ("", "v1", "ConfigMap", "configmaps", "n"),
    ("", "v1", "Event", "events", "n"),
    ("", "v1", "Namespace", "namespaces", "s"),
    ("", "v1", "Node", "nodes", "s"),
    ("", "v1", "Pod", "pods", "ns"),
    ("", "v1", "Secret", "secrets", "n"),
    ("", "v1", "Service", "services", "ns"),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "sg",
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "g",
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "sg",
    ),
    ("apps", "v1", "Deployment", "deployments", "nscg"),
    ("apps", "v1", "ReplicaSet", "replicasets", "nscg"),
    (
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "ns",
    ),
    ("batch", "v1", "Job", "jobs", "nsg"),
    ("coordination.k8s.io", "v1", "Lease", "leases", "n"),
    (
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "ng",
    ),
    ("events.k8s.io", "v1", "Event", "events", "n"),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", "nsg"),
];

/// The custom kinds of a cluster for Serin.
const CUSTOM: &[(&str, &str, &str, &str, &str)] = &[
    (
        "gateway.networking.k8s.io",
        "v1",
        "Gateway",
        "gateways",
        "nsg",
    ),
    (
        "gateway.networking.k8s.io",
        "v1",
        "HTTPRoute",
        "httproutes",
        "nsg",
    ),
    (
        "gateway.networking.k8s.io",
        "v1beta1",
        "HTTPRoute",
        "httproutes",
        "nsg",
    ),
    (
        "gateway.networking.k8s.io",
        "v1",
        "GRPCRoute",
        "grpcroutes",
        "nsg",
    ),
    (
        "gateway.networking.k8s.io",
        "v1",
        "TLSRoute",
        "tlsroutes",
        "nsg",
    ),
    (
        "gateway.networking.k8s.io",
        "v1alpha3",
        "TLSRoute",
        "tlsroutes",
        "nsg",
    ),
    (
        "gateway.networking.k8s.io",
        "v1alpha2",
        "TLSRoute",
        "tlsroutes",
        "nsg",
    ),
    (
        "gateway.networking.k8s.io",
        "v1",
        "TCPRoute",
        "tcproutes",
        "nsg",
    ),
    (
        "gateway.networking.k8s.io",
        "v1alpha2",
        "TCPRoute",
        "tcproutes",
        "nsg",
    ),
    (
        "networking.istio.io",
        "v1",
        "VirtualService",
        "virtualservices",
        "nsg",
    ),
    (
        "networking.istio.io",
        "v1beta1",
        "VirtualService",
        "virtualservices",
        "nsg",
    ),
    (
        "networking.istio.io",
        "v1alpha3",
        "VirtualService",
        "virtualservices",
        "nsg",
    ),
    (
        "traefik.io",
        "v1alpha1",
        "TraefikService",
        "traefikservices",
        "ng",
    ),
    (
        "traefik.io",
        "v1alpha1",
        "IngressRoute",
        "ingressroutes",
        "ng",
    ),
    ("projectcontour.io", "v1", "HTTPProxy", "httpproxies", "nsg"),
    (
        "apisix.apache.org",
        "v2",
        "ApisixRoute",
        "apisixroutes",
        "nsg",
    ),
    ("serin.dev", "v1alpha1", "Rollout", "rollouts", "nscg"),
    (
        "serin.dev",
        "v1alpha1",
        "AnalysisTemplate",
        "analysistemplates",
        "ng",
    ),
    (
        "serin.dev",
        "v1alpha1",
        "RolloutCommand",
        "rolloutcommands",
        "nsg",
    ),
    (
        "serin.dev",
        "v1alpha1",
        "RolloutPolicy",
        "rolloutpolicies",
        "sg",
    ),
];

impl ServedKind {
    /// All built-in and custom kinds.
    pub(crate) fn all() -> Vec<Self> {
        let built_in = BUILT_IN.iter().map(|row| Self::from_row(*row, false));
        built_in
            .chain(CUSTOM.iter().map(|row| Self::from_row(*row, true)))
            .collect()
    }

    fn from_row(row: (&str, &str, &str, &str, &str), custom: bool) -> Self {
        let (group, version, kind, plural, properties) = row;
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            namespaced: properties.contains('n'),
            status: properties.contains('s'),
            scale: properties.contains('c'),
            generation: properties.contains('g'),
            custom,
            defaults: (plural == "rollouts").then(rollout_defaults).flatten(),
            scale_paths: ScalePaths::default(),
        }
    }

    /// Whether this is a built-in API group.
    pub(crate) fn is_built_in(group: &str) -> bool {
        BUILT_IN_GROUPS.contains(&group)
    }

    /// The kinds, one per served version, that a CustomResourceDefinition declares.
    pub(crate) fn from_definition(definition: &Value) -> Vec<Self> {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
        let served = versions.iter().filter(|version| version["served"] == true);
        served
            .map(|version| Self {
                group: text(&spec["group"]),
                version: text(&version["name"]),
                kind: text(&spec["names"]["kind"]),
                plural: text(&spec["names"]["plural"]),
                namespaced: spec["scope"] == "Namespaced",
                status: version.pointer("/subresources/status").is_some(),
                scale: version.pointer("/subresources/scale").is_some(),
                generation: true,
                custom: true,
                defaults: version
                    .pointer("/schema/openAPIV3Schema")
                    .and_then(defaults::schema_defaults)
                    .map(Arc::new),
                scale_paths: version
                    .pointer("/subresources/scale")
                    .map(scale_paths)
                    .unwrap_or_default(),
            })
            .collect()
    }

    /// The resource in messages: `replicasets.apps`, `pods`.
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether an update must contain a resourceVersion.
    pub(crate) fn needs_resource_version(&self) -> bool {
        self.custom || self.plural == "leases"
    }

    /// Whether an object is of this kind and version.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        object["kind"] == self.kind.as_str() && object["apiVersion"] == self.api_version().as_str()
    }
}

/// Converts paths such as `.spec.replicas` to JSON pointers.
fn scale_paths(scale: &Value) -> ScalePaths {
    let pointer = |field: &str| scale[field].as_str().map(|path| path.replace('.', "/"));
    ScalePaths {
        spec_replicas: pointer("specReplicasPath").unwrap_or_default(),
        status_replicas: pointer("statusReplicasPath").unwrap_or_default(),
        selector: pointer("labelSelectorPath"),
    }
}
