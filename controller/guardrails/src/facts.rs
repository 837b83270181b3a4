//! What is known about a revision and its surroundings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use serin_core::guardrail::GuardrailKind;
use serin_crds::guardrails::Guardrails;

use crate::registry::ImageFacts;

/// Annotation of a pod with the images that Kyverno has verified, as JSON: image to verdict. Written
/// by rules of the type verifyImages.
pub const VERIFIED_IMAGES: &str = "kyverno.io/verify-images";
/// Annotation of a pod with the verdicts of ImageValidatingPolicies of Kyverno, as JSON: policy to
/// verdict.
pub const VERIFICATION_OUTCOMES: &str = "kyverno.io/image-verification-outcomes";
/// Annotations of pods that the guardrails look at.
pub const POD_ANNOTATIONS: [&str; 2] = [VERIFIED_IMAGES, VERIFICATION_OUTCOMES];

/// Something that may be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fact<T> {
    /// Nobody has looked: no guardrail needs it, or there is no cluster.
    #[default]
    NotAsked,
    /// It is known.
    Known(T),
    /// The cluster does not serve the kind.
    NotServed,
    /// The cluster serves the kind, but in no version that Serin reads. The text names the versions.
    OtherVersion(String),
    /// The controller may not read it. The text names the missing permission.
    Forbidden(String),
    /// It could not be read, for this reason.
    Failed(String),
}

impl<T> Fact<T> {
    /// The value.
    ///
    /// # Errors
    ///
    /// Why it is not known.
    pub fn known(&self) -> Result<&T, Unknown> {
        match self {
            Self::Known(value) => Ok(value),
            Self::NotAsked => Err(Unknown::NotAsked),
            Self::NotServed => Err(Unknown::NotServed),
            Self::OtherVersion(versions) => Err(Unknown::OtherVersion(versions.clone())),
            Self::Forbidden(why) => Err(Unknown::Forbidden(why.clone())),
            Self::Failed(why) => Err(Unknown::Failed(why.clone())),
        }
    }
}

impl<T> Fact<T> {
    /// This fact with another value, if it is known.
    pub fn map_known<U>(self, map: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::Known(value) => Fact::Known(map(value)),
            Self::NotAsked => Fact::NotAsked,
            Self::NotServed => Fact::NotServed,
            Self::OtherVersion(versions) => Fact::OtherVersion(versions),
            Self::Forbidden(why) => Fact::Forbidden(why),
            Self::Failed(why) => Fact::Failed(why),
        }
    }
}

impl<T> Fact<Vec<T>> {
    /// The objects. None if the cluster does not serve their kind.
    ///
    /// # Errors
    ///
    /// Why they are not known.
    pub fn objects(&self) -> Result<&[T], Unknown> {
        match self {
            Self::NotServed => Ok(&[]),
            other => other.known().map(Vec::as_slice),
        }
    }
}

/// Why a fact is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Nobody has looked.
    #[error("needs a cluster")]
    NotAsked,
    /// The cluster does not serve the kind.
    #[error("the cluster does not serve the kind")]
    NotServed,
    /// The cluster serves the kind, but in no version that Serin reads.
    #[error("{0}")]
    OtherVersion(String),
    /// The controller may not read it.
    #[error("the controller may not read it: {0}")]
    Forbidden(String),
    /// It could not be read.
    #[error("it could not be read: {0}")]
    Failed(String),
}

/// A group of objects that a guardrail looks at. The controller reads those of the guardrails that
/// are on, and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The namespace of the Rollout.
    Namespace,
    /// LimitRanges.
    LimitRanges,
    /// NetworkPolicies.
    NetworkPolicies,
    /// CiliumNetworkPolicies.
    CiliumPolicies,
    /// CiliumClusterwideNetworkPolicies.
    CiliumClusterPolicies,
    /// NetworkPolicies of Calico.
    CalicoPolicies,
    /// GlobalNetworkPolicies of Calico.
    CalicoGlobalPolicies,
    /// AdminNetworkPolicies.
    AdminPolicies,
    /// BaselineAdminNetworkPolicies.
    BaselineAdminPolicies,
    /// PodDisruptionBudgets.
    DisruptionBudgets,
    /// VulnerabilityReports of the Trivy operator.
    VulnerabilityReports,
    /// PolicyReports of wgpolicyk8s.io.
    PolicyReports,
    /// Reports of openreports.io.
    OpenReports,
    /// All constraints of Gatekeeper.
    Constraints,
    /// ServiceMonitors.
    ServiceMonitors,
    /// PodMonitors.
    PodMonitors,
    /// Services of the namespace.
    Services,
    /// ExternalSecrets.
    ExternalSecrets,
    /// SealedSecrets.
    SealedSecrets,
    /// SecretProviderClasses.
    SecretProviderClasses,
    /// VaultStaticSecrets.
    VaultStaticSecrets,
    /// VaultDynamicSecrets.
    VaultDynamicSecrets,
    /// Certificates of cert-manager.
    Certificates,
    /// ClusterImagePolicies of sigstore.
    ClusterImagePolicies,
    /// The server-side dry run of the ReplicaSet.
    DryRun,
}

impl Source {
    /// All sources.
    pub const ALL: &'static [Self] = &[
        Self::Namespace,
        Self::LimitRanges,
        Self::NetworkPolicies,
        Self::CiliumPolicies,
        Self::CiliumClusterPolicies,
        Self::CalicoPolicies,
        Self::CalicoGlobalPolicies,
        Self::AdminPolicies,
        Self::BaselineAdminPolicies,
        Self::DisruptionBudgets,
        Self::VulnerabilityReports,
        Self::PolicyReports,
        Self::OpenReports,
        Self::Constraints,
        Self::ServiceMonitors,
        Self::PodMonitors,
        Self::Services,
        Self::ExternalSecrets,
        Self::SealedSecrets,
        Self::SecretProviderClasses,
        Self::VaultStaticSecrets,
        Self::VaultDynamicSecrets,
        Self::Certificates,
        Self::ClusterImagePolicies,
        Self::DryRun,
    ];

    /// The sources that the guardrails need.
    pub fn needed_by(guardrails: &Guardrails) -> Vec<Self> {
        let signature = guardrails.image_signature.as_ref();
        let has_keys = signature.is_some_and(|options| !options.keys.is_empty());
        let mut needed: Vec<Self> = GuardrailKind::ALL
            .iter()
            .filter(|kind| guardrails.is_on(**kind))
            // With keys, no policy engine is asked.
            .filter(|kind| !has_keys || **kind != GuardrailKind::ImageSignature)
            .flat_map(|kind| Self::for_guardrail(*kind))
            .copied()
            .collect();
        needed.sort_unstable();
        needed.dedup();
        needed
    }

    /// The sources that a guardrail needs.
    pub const fn for_guardrail(kind: GuardrailKind) -> &'static [Self] {
        match kind {
            GuardrailKind::Resources => &[Self::LimitRanges],
            GuardrailKind::ImageSignature => &[Self::Namespace, Self::ClusterImagePolicies],
            GuardrailKind::NetworkPolicy => &[
                Self::Namespace,
                Self::NetworkPolicies,
                Self::CiliumPolicies,
                Self::CiliumClusterPolicies,
                Self::CalicoPolicies,
                Self::CalicoGlobalPolicies,
                Self::AdminPolicies,
                Self::BaselineAdminPolicies,
            ],
            GuardrailKind::PodSecurity => &[Self::Namespace, Self::DryRun],
            GuardrailKind::SecretsManager => &[
                Self::ExternalSecrets,
                Self::SealedSecrets,
                Self::SecretProviderClasses,
                Self::VaultStaticSecrets,
                Self::VaultDynamicSecrets,
                Self::Certificates,
            ],
            GuardrailKind::Vulnerabilities => &[Self::VulnerabilityReports],
            GuardrailKind::PolicyReports => {
                &[Self::PolicyReports, Self::OpenReports, Self::Constraints]
            }
            GuardrailKind::Observability => {
                &[Self::ServiceMonitors, Self::PodMonitors, Self::Services]
            }
            GuardrailKind::DisruptionBudget => &[Self::DisruptionBudgets],
            GuardrailKind::Custom => &[Self::Namespace],
            GuardrailKind::ImagePinned
            | GuardrailKind::Probes
            | GuardrailKind::Spread
            | GuardrailKind::Priority => &[],
        }
    }

    /// Group, versions in the order of preference, and plural of the kind. `None` for what is not a
    /// list of one kind: the namespace, the constraints and the dry run.
    pub const fn resource(self) -> Option<(&'static str, &'static [&'static str], &'static str)> {
        const CALICO: &str = "crd.projectcalico.org";
        const ADMIN: &str = "policy.networking.k8s.io";
        Some(match self {
            Self::Namespace | Self::Constraints | Self::DryRun => return None,
            Self::LimitRanges => ("", &["v1"], "limitranges"),
            Self::Services => ("", &["v1"], "services"),
            Self::NetworkPolicies => ("networking.k8s.io", &["v1"], "networkpolicies"),
            Self::CiliumPolicies => ("cilium.io", &["v2"], "ciliumnetworkpolicies"),
            Self::CiliumClusterPolicies => {
                ("cilium.io", &["v2"], "ciliumclusterwidenetworkpolicies")
            }
            Self::CalicoPolicies => (CALICO, &["v1"], "networkpolicies"),
            Self::CalicoGlobalPolicies => (CALICO, &["v1"], "globalnetworkpolicies"),
            Self::AdminPolicies => (ADMIN, &["v1alpha1"], "adminnetworkpolicies"),
            Self::BaselineAdminPolicies => (ADMIN, &["v1alpha1"], "baselineadminnetworkpolicies"),
            Self::DisruptionBudgets => ("policy", &["v1"], "poddisruptionbudgets"),
            Self::VulnerabilityReports => (
                "aquasecurity.github.io",
                &["v1alpha1"],
                "vulnerabilityreports",
            ),
            Self::PolicyReports => ("wgpolicyk8s.io", &["v1alpha2", "v1beta1"], "policyreports"),
            Self::OpenReports => ("openreports.io", &["v1alpha1"], "reports"),
            Self::ServiceMonitors => ("monitoring.coreos.com", &["v1"], "servicemonitors"),
            Self::PodMonitors => ("monitoring.coreos.com", &["v1"], "podmonitors"),
            Self::ExternalSecrets => ("external-secrets.io", &["v1", "v1beta1"], "externalsecrets"),
            Self::SealedSecrets => ("bitnami.com", &["v1alpha1"], "sealedsecrets"),
            Self::SecretProviderClasses => (
                "secrets-store.csi.x-k8s.io",
                &["v1"],
                "secretproviderclasses",
            ),
            Self::VaultStaticSecrets => {
                ("secrets.hashicorp.com", &["v1beta1"], "vaultstaticsecrets")
            }
            Self::VaultDynamicSecrets => {
                ("secrets.hashicorp.com", &["v1beta1"], "vaultdynamicsecrets")
            }
            Self::Certificates => ("cert-manager.io", &["v1"], "certificates"),
            Self::ClusterImagePolicies => (
                "policy.sigstore.dev",
                &["v1beta1", "v1alpha1"],
                "clusterimagepolicies",
            ),
        })
    }

    /// Whether the objects are not in a namespace.
    pub const fn is_cluster_scoped(self) -> bool {
        matches!(
            self,
            Self::CiliumClusterPolicies
                | Self::CalicoGlobalPolicies
                | Self::AdminPolicies
                | Self::BaselineAdminPolicies
                | Self::ClusterImagePolicies
                | Self::Constraints
        )
    }

    /// Whether an object in another namespace may be about the pods, as monitors with a
    /// `namespaceSelector` are.
    pub const fn reaches_other_namespaces(self) -> bool {
        matches!(self, Self::ServiceMonitors | Self::PodMonitors)
    }
}

/// Labels and annotations of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A pod of the revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Name.
    pub name: String,
    /// Annotations that the guardrails look at. Others may be left out.
    pub annotations: BTreeMap<String, String>,
    /// What its containers run.
    pub containers: Vec<RunningContainer>,
}

/// What a container runs, from the status of its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunningContainer {
    /// Name of the container.
    pub name: String,
    /// `imageID` of its status, for example `docker.io/library/nginx@sha256:...`.
    pub image_id: String,
}

/// The answer of the API server to a dry run of the ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DryRun {
    /// Warnings in its headers.
    pub warnings: Vec<String>,
}

/// What is known about a revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Namespace of the Rollout.
    pub namespace_name: String,
    /// Name of the Rollout.
    pub rollout_name: String,
    /// Labels of the Rollout.
    pub rollout_labels: BTreeMap<String, String>,
    /// Number of pods in steady state.
    pub replicas: u32,
    /// Pod template: `metadata` and `spec`.
    pub template: Value,
    /// Name of the ReplicaSet of the revision. `None` before it exists.
    pub replica_set: Option<String>,
    /// Kind and name of further objects that reports may be about, for example the Deployment.
    pub related_objects: Vec<(String, String)>,
    /// The namespace.
    pub namespace: Fact<NamespaceFacts>,
    /// Pods of the revision.
    pub pods: Fact<Vec<PodFacts>>,
    /// When the first pod of the revision began to run. `None` before.
    pub pods_since: Option<Timestamp>,
    /// Whether Prometheus has series of the pods, by the analysis of the release.
    pub is_measured: Fact<bool>,
    /// The answer to the dry run of the ReplicaSet.
    pub dry_run: Fact<DryRun>,
    /// What registries say about the images.
    pub images: ImageFacts,
    /// Objects by their source, as the API server sent them.
    pub objects: BTreeMap<Source, Fact<Vec<Value>>>,
}

impl Facts {
    /// The objects of a source.
    pub fn objects_of(&self, source: Source) -> &Fact<Vec<Value>> {
        const NOT_ASKED: &Fact<Vec<Value>> = &Fact::NotAsked;
        self.objects.get(&source).unwrap_or(NOT_ASKED)
    }
}

#[cfg(test)]
mod tests {
    use serin_crds::guardrails::{GuardrailMode, ProbesGuardrail, ResourcesGuardrail};

    use super::*;

    #[test]
    fn only_what_a_guardrail_that_is_on_needs_is_read() {
        let guardrails = Guardrails {
            resources: Some(ResourcesGuardrail {
                mode: GuardrailMode::Warn,
                ..ResourcesGuardrail::default()
            }),
            probes: Some(ProbesGuardrail {
                mode: GuardrailMode::Enforce,
                ..ProbesGuardrail::default()
            }),
            ..Guardrails::default()
        };
        assert_eq!(Source::needed_by(&guardrails), [Source::LimitRanges]);
        assert!(Source::needed_by(&Guardrails::default()).is_empty());
    }
}
