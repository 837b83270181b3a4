//! Labels, annotations and other names that Serin sets on objects.

/// The API group.
pub const GROUP: &str = "serin.dev";
/// Label with the name of the Rollout. It is set on ReplicaSets, pods and Services. Kubernetes
/// copies it from Services to EndpointSlices.
pub const ROLLOUT_LABEL: &str = "serin.dev/rollout";
/// Label with the revision. It is set on ReplicaSets and pods, and used in the selectors of the two
/// Services.
pub const REVISION_LABEL: &str = "serin.dev/revision";
/// Annotation of a ReplicaSet with the hash of the user's template, which avoids another request to
/// the API server.
pub const TEMPLATE_HASH_ANNOTATION: &str = "serin.dev/template-hash";
/// Annotation of the pods of a revision, and of the template of its ReplicaSet, with the names of the
/// containers whose images have the digest of their tag, separated by commas.
pub const PINNED_CONTAINERS_ANNOTATION: &str = "serin.dev/pinned-containers";
/// Annotation of a ReplicaSet that was taken over, with the name of its Deployment.
pub const DEPLOYMENT_ANNOTATION: &str = "serin.dev/deployment";
/// Annotation of a pod, and of the template of a ReplicaSet, with a hash of the labels and
/// annotations of its side of a release.
pub const ADDED_METADATA_ANNOTATION: &str = "serin.dev/added-metadata";
/// Annotation with the keys of the labels of its side, separated by commas.
pub const ADDED_LABELS_ANNOTATION: &str = "serin.dev/added-labels";
/// Annotation with the keys of the annotations of its side, separated by commas.
pub const ADDED_ANNOTATIONS_ANNOTATION: &str = "serin.dev/added-annotations";
/// Label of the pods of one ReplicaSet, as Deployments set it. The ReplicaSets of a Rollout have it,
/// too, so that a Deployment can take them over without a change of their selectors, which are
/// immutable.
pub const POD_TEMPLATE_HASH_LABEL: &str = "pod-template-hash";
/// Label of Argo Rollouts with the hash of a pod template. It is set on pods, and used in the
/// selectors of the Services of its Rollouts.
pub const ARGO_TEMPLATE_HASH_LABEL: &str = "rollouts-pod-template-hash";
/// Finalizer that delays the deletion of a Rollout until its routes are restored.
pub const FINALIZER: &str = "serin.dev/routes";
/// Field manager of all writes of the controller.
pub const FIELD_MANAGER: &str = "serin";
