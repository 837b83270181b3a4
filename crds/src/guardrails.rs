//! Guardrails: what a release must meet before it gets traffic, and exceptions from it.
//!
//! A RolloutPolicy has [`Guardrails`], and a Rollout may have [`GuardrailException`]s. The crate
//! `serin-guardrails` evaluates them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

mod exception;
mod modes;

pub use exception::{GuardrailException, InvalidExpiry, duration_or, parse_expiry};

/// Prefix of the name of a custom guardrail in an exception.
pub const CUSTOM_PREFIX: &str = "custom/";

/// What happens if a release does not meet a guardrail.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum GuardrailMode {
    /// The guardrail is not evaluated.
    #[default]
    Off,
    /// The problem is reported, and the release goes on.
    Warn,
    /// The release is held until the problem is gone.
    Enforce,
}

/// Declares the options of a guardrail: its own fields, and the two that all of them have.
macro_rules! guardrail_options {
    ($(#[$meta:meta])* $name:ident { $($fields:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Off, Warn or Enforce. Write "Off" in quotes: YAML 1.1 reads it as false otherwise.
            pub mode: GuardrailMode,
            /// If true, a change of this guardrail also applies to releases that are in progress.
            /// Defaults to false.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub apply_to_ongoing: Option<bool>,
            $($fields)*
        }

        impl GuardrailOptions for $name {
            fn mode(&self) -> GuardrailMode {
                self.mode
            }

            fn applies_to_ongoing(&self) -> bool {
                self.apply_to_ongoing == Some(true)
            }
        }
    };
}

// After the macro, which it uses.
mod reports;

pub use reports::{
    OnMissingReport, PolicyReportsGuardrail, PolicyResult, PolicySeverity,
    VulnerabilitiesGuardrail, VulnerabilityException,
};

/// What the options of all guardrails have in common.
pub trait GuardrailOptions {
    /// What happens if a release does not meet the guardrail.
    fn mode(&self) -> GuardrailMode;

    /// Whether a change of the guardrail also applies to releases that are in progress.
    fn applies_to_ongoing(&self) -> bool;

    /// Whether the guardrail is evaluated.
    fn is_on(&self) -> bool {
        self.mode() != GuardrailMode::Off
    }
}

/// What a release must meet before it gets traffic. A guardrail that is unset is off, unless a
/// policy of lower precedence sets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Guardrails {
    /// Every container has resource requests and limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesGuardrail>,
    /// Every image has a digest or a version tag, and all pods of a revision run the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pinned: Option<ImagePinnedGuardrail>,
    /// Every image is signed, by the verdict of the policy engine of the cluster or with keys that are
    /// checked in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::signature_source())]
    pub image_signature: Option<ImageSignatureGuardrail>,
    /// Every serving container has a readiness probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<ProbesGuardrail>,
    /// A network policy restricts who can reach the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicyGuardrail>,
    /// The namespace enforces a Pod Security Standard, and the pod template meets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security: Option<PodSecurityGuardrail>,
    /// The Secrets that the pod template uses come from a secrets manager. Secrets are never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets_manager: Option<SecretsManagerGuardrail>,
    /// The images have no more known vulnerabilities than allowed, by the reports of the Trivy
    /// operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerabilities: Option<VulnerabilitiesGuardrail>,
    /// The policy reports of the cluster (Kyverno and others) and the constraints of Gatekeeper have
    /// no violation by the objects of the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_reports: Option<PolicyReportsGuardrail>,
    /// The workload can be observed: its metrics are scraped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observability: Option<ObservabilityGuardrail>,
    /// A PodDisruptionBudget protects the pods and lets a node be drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption_budget: Option<DisruptionBudgetGuardrail>,
    /// The replicas are spread over nodes or zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<SpreadGuardrail>,
    /// The pods have a priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<PriorityGuardrail>,
    /// Guardrails of the platform, as CEL expressions. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub custom: Vec<CustomGuardrail>,
}

guardrail_options! {
    /// Every container has resource requests and limits. Defaults of a LimitRange count.
    ResourcesGuardrail {
        /// Resources for which every container needs a request. Defaults to cpu and memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
        pub requests: Option<Vec<String>>,
        /// Resources for which every container needs a limit. Defaults to memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
        pub limits: Option<Vec<String>>,
        /// Names of containers that need none, for example of a sidecar that a webhook adds.
        /// Defaults to none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
        pub exempt_containers: Vec<String>,
    }
}

guardrail_options! {
    /// Every image has a digest or a version tag. In addition, all pods of one revision must run
    /// the same digest, so that a tag that moves during a release is found.
    ImagePinnedGuardrail {
        /// If true, every image needs a digest (NAME@sha256:...). Defaults to false: a tag is
        /// enough.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub require_digest: Option<bool>,
        /// Tags that are refused because they move. Defaults to latest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
        pub forbidden_tags: Option<Vec<String>>,
        /// If true, the registry is asked once for the digest of every tag, before the first pod of
        /// a revision, and the pods of the revision run this digest. Defaults to false.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub resolve_digest: Option<bool>,
        /// Names of containers that are not checked. Defaults to none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
        pub exempt_containers: Vec<String>,
    }
}

/// Policy engine that verifies the signatures of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SignatureVerifier {
    /// Kyverno with a verifyImages rule. Its verdict is in an annotation of the pods.
    Kyverno,
    /// The policy-controller of sigstore, with a ClusterImagePolicy for the image and the label
    /// policy.sigstore.dev/include on the namespace.
    PolicyController,
}

/// Public key with which images are signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignatureKey {
    /// Name of the key. Must be unique.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// Public key in PEM (BEGIN PUBLIC KEY), as cosign writes it to cosign.pub: ECDSA with P-256 or
    /// P-384, RSA with 2048 to 8192 bits, or Ed25519.
    #[schemars(length(min = 1, max = 2048))]
    pub public_key: String,
    /// Images that the key may sign, as globs with their registry, for example
    /// registry.example.com/team/**. Defaults to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 255)))]
    pub images: Vec<String>,
}

guardrail_options! {
    /// Every image is signed: by the verdict of the policy engine of the cluster, or with one of the
    /// keys.
    ImageSignatureGuardrail {
        /// Policy engines whose verdict counts: Kyverno, PolicyController. One of them is enough.
        /// Defaults to both. Cannot be combined with keys.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 2))]
        pub verifiers: Option<Vec<SignatureVerifier>>,
        /// Public keys. One of them must have signed each image with cosign, which is checked in
        /// the registry. The pods run the digest that was checked. Without keys, a policy engine
        /// checks the signatures.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 8))]
        #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
        pub keys: Vec<SignatureKey>,
        /// Images that need no signature with keys, as globs with their registry. Defaults to none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 16), inner(length(min = 1, max = 255)))]
        pub exempt_images: Vec<String>,
    }
}

guardrail_options! {
    /// Every serving container has a readiness probe. A container serves if it declares a port; if
    /// no container does, all of them serve.
    ProbesGuardrail {
        /// If true, every serving container also needs a liveness probe. Defaults to false.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub liveness: Option<bool>,
        /// If true, every serving container also needs a startup probe. Defaults to false.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub startup: Option<bool>,
        /// Names of containers that are not checked. Defaults to none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
        pub exempt_containers: Vec<String>,
    }
}

guardrail_options! {
    /// A network policy selects the pods, so that not everybody can reach them. NetworkPolicies
    /// count, and the policies of Cilium, Calico and the AdminNetworkPolicy if the cluster has them.
    NetworkPolicyGuardrail {
        /// If true, a policy must also restrict what the pods can reach. Defaults to false.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub egress: Option<bool>,
        /// If true, the namespace needs a policy that selects all of its pods and allows nothing, so
        /// that other pods are not open either. Defaults to false.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub default_deny: Option<bool>,
    }
}

/// Level of the Pod Security Standards.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurityLevel {
    /// Not restricted.
    Privileged,
    /// Known privilege escalations are prevented.
    #[default]
    Baseline,
    /// Current practice of hardening.
    Restricted,
}

impl PodSecurityLevel {
    /// The level as the label of a namespace has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

guardrail_options! {
    /// The namespace enforces a Pod Security Standard with the label
    /// pod-security.kubernetes.io/enforce, and the API server accepts the pod template under it.
    PodSecurityGuardrail {
        /// Lowest level that the namespace may enforce: privileged, baseline or restricted. Defaults
        /// to baseline.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub level: Option<PodSecurityLevel>,
    }
}

/// Where a Secret comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SecretsManager {
    /// External Secrets Operator.
    ExternalSecret,
    /// Secrets Store CSI driver.
    SecretProviderClass,
    /// Sealed Secrets.
    SealedSecret,
    /// Annotations of the Vault agent injector, or a Secret of the Vault Secrets Operator.
    Vault,
    /// cert-manager.
    Certificate,
}

guardrail_options! {
    /// The Secrets that the pod template uses come from a secrets manager. Only the names of the
    /// Secrets and the objects that create them are read, never a Secret.
    SecretsManagerGuardrail {
        /// Managers that count: ExternalSecret, SecretProviderClass, SealedSecret, Vault,
        /// Certificate. Defaults to all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 5))]
        pub managers: Option<Vec<SecretsManager>>,
        /// If true, no environment variable may contain a Secret. Defaults to false.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub forbid_env: Option<bool>,
        /// Names of Secrets that need no manager. Defaults to none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
        pub exempt_secrets: Vec<String>,
    }
}

/// How a pod shows that it sends logs or traces. One of the fields is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.annotations) && size(self.annotations) > 0) || (has(self.containers) && size(self.containers) > 0) || (has(self.env) && size(self.env) > 0)")
    .message("nothing could meet this: set annotations, containers or env, for example env: [OTEL_EXPORTER_OTLP_ENDPOINT]"))]
pub struct TelemetrySource {
    /// Annotations of the pod template: a key, or KEY=VALUE.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 512)))]
    pub annotations: Vec<String>,
    /// Names of sidecar containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    pub containers: Vec<String>,
    /// Names of environment variables of a container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    pub env: Vec<String>,
}

guardrail_options! {
    /// The workload can be observed. A ServiceMonitor, a PodMonitor or the annotation
    /// prometheus.io/scrape shows that its metrics are scraped, or data that the analysis receives.
    ObservabilityGuardrail {
        /// If false, metrics are not required. Defaults to true.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub metrics: Option<bool>,
        /// How the pods show that they write structured logs. If unset, it is not required.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub logs: Option<TelemetrySource>,
        /// How the pods show that they send traces. If unset, it is not required.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub traces: Option<TelemetrySource>,
    }
}

guardrail_options! {
    /// A PodDisruptionBudget selects the pods, and it lets at least one of them be evicted.
    DisruptionBudgetGuardrail {
        /// Number of replicas from which it applies. Defaults to 2.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 1_000_000))]
        pub min_replicas: Option<i32>,
    }
}

guardrail_options! {
    /// Topology spread constraints or pod anti-affinity spread the replicas.
    SpreadGuardrail {
        /// Number of replicas from which it applies. Defaults to 2.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 1_000_000))]
        pub min_replicas: Option<i32>,
        /// Labels of nodes over which the replicas must be spread. Defaults to
        /// kubernetes.io/hostname.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 4), inner(length(min = 1, max = 317)))]
        pub topology_keys: Option<Vec<String>>,
    }
}

guardrail_options! {
    /// The pods have a priority class.
    PriorityGuardrail {
        /// Names of the priority classes that are allowed. Defaults to all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
        pub allowed: Vec<String>,
    }
}

guardrail_options! {
    /// A guardrail of the platform.
    CustomGuardrail {
        /// Name of the guardrail, for example team-label. Must be unique.
        #[schemars(length(min = 1, max = 63))]
        #[x_kube(validation = rules::object_name())]
        pub name: String,
        /// CEL expression that is true if the release meets the guardrail. It has the variables
        /// template (metadata and spec of the pods), rollout (name, namespace, labels, annotations,
        /// replicas) and namespaceObject (name, labels, annotations), for example
        /// 'team' in template.metadata.labels.
        #[schemars(length(min = 1, max = 1024))]
        pub expression: String,
        /// The problem, if the expression is false.
        #[schemars(length(min = 1, max = 512))]
        pub message: String,
        /// How to correct it.
        #[schemars(length(min = 1, max = 512))]
        pub fix: String,
    }
}
