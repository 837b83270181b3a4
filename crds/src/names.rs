//! The labels, annotations and names that Serin puts on objects.

/// The API group.
pub const GROUP: &str = "serin.dev";
/// Names the Rollout that an object belongs to: on ReplicaSets, pods, Services and so on
/// EndpointSlices.
pub const ROLLOUT_LABEL: &str = "serin.dev/rollout";
/// Names the revision: on ReplicaSets and pods, and in the selectors of the two Services.
pub const REVISION_LABEL: &str = "serin.dev/revision";
/// On a ReplicaSet: the hash of the template as the user wrote it, which saves asking the API
/// server again.
pub const TEMPLATE_HASH_ANNOTATION: &str = "serin.dev/template-hash";
/// Holds a Rollout back from deletion until its routes are restored.
pub const FINALIZER: &str = "serin.dev/routes";
/// The field manager of everything that the controller writes.
pub const FIELD_MANAGER: &str = "serin";
