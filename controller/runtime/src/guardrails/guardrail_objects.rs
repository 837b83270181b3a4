//! The objects that guardrails look at, of which Rollouts share the lists.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use serde_json::Value;
use serin_guardrails::facts::{Fact, NamespaceFacts, Source};
use tokio::time::{Instant, timeout_at};

use super::objects::{TOO_SLOW, list_objects};
use super::shared_lists::{ListKey, SharedFact, SharedLists};

/// Maximum size of the value of a label.
const MAX_LABEL_BYTES: usize = 63;

/// The objects that guardrails look at.
#[derive(Default)]
pub struct GuardrailObjects {
    lists: SharedLists,
}

/// What is read for a revision.
pub struct ReadRequest<'a> {
    /// The client.
    pub client: &'a Client,
    /// Namespace of the Rollout.
    pub namespace: &'a str,
    /// Name of the ReplicaSet of the revision, whether it exists or not.
    pub replica_set: &'a str,
    /// When the revision was seen first. No list counts that began before.
    pub seen_at: Instant,
    /// When reading ends. What was not read by then is unknown.
    pub deadline: Instant,
}

impl GuardrailObjects {
    /// Reads the objects of these sources at the same time.
    pub async fn read(
        &self,
        request: &ReadRequest<'_>,
        sources: &[Source],
    ) -> Vec<(Source, Fact<Vec<Value>>)> {
        let is_list =
            |source: &&Source| source.resource().is_some() || **source == Source::Constraints;
        let reads = sources.iter().filter(is_list).map(|source| async move {
            let fact = self.read_in_time(request, *source).await;
            (*source, fact.map_known(|objects| (*objects).clone()))
        });
        join_all(reads).await
    }

    /// Reads the labels and annotations of the namespace.
    pub async fn read_namespace(&self, request: &ReadRequest<'_>) -> Fact<NamespaceFacts> {
        let name = request.namespace;
        let found = match self.read_in_time(request, Source::Namespace).await {
            Fact::Known(objects) => objects,
            other => return other.map_known(|_| NamespaceFacts::default()),
        };
        let mut found = found
            .iter()
            .filter_map(|object| serde_json::from_value::<Namespace>(object.clone()).ok());
        match found.find(|found| found.metadata.name.as_deref() == Some(name)) {
            Some(Namespace { metadata, .. }) => Fact::Known(NamespaceFacts {
                labels: metadata.labels.unwrap_or_default(),
                annotations: metadata.annotations.unwrap_or_default(),
            }),
            None => Fact::Failed(format!("namespace {name} was not found")),
        }
    }

    async fn read_in_time(&self, request: &ReadRequest<'_>, source: Source) -> SharedFact {
        let read = timeout_at(request.deadline, self.read_source(request, source));
        let fact = read.await;
        fact.unwrap_or_else(|_| Fact::Failed(TOO_SLOW.to_owned()))
    }

    async fn read_source(&self, request: &ReadRequest<'_>, source: Source) -> SharedFact {
        let is_everywhere = source.is_cluster_scoped() || source.reaches_other_namespaces();
        let namespace = if is_everywhere { "" } else { request.namespace };
        let fact = self.read_list(request, source, namespace).await;
        let is_readable = !matches!(fact, Fact::Forbidden(_) | Fact::Failed(_));
        if is_readable || !source.reaches_other_namespaces() {
            return fact;
        }
        // With permissions in its namespaces only, those of the other ones remain unknown.
        self.read_list(request, source, request.namespace).await
    }

    /// Reads a list. `namespace` is empty for all namespaces.
    async fn read_list(
        &self,
        request: &ReadRequest<'_>,
        source: Source,
        namespace: &str,
    ) -> SharedFact {
        let selector = selector_of(source, request.replica_set);
        let list = async {
            let fact = list_objects(request.client, source, namespace, &selector).await;
            fact.map_known(Arc::new)
        };
        let key = ListKey {
            source,
            namespace: namespace.to_owned(),
            selector: selector.clone(),
        };
        self.lists.read(key, request.seen_at, list).await
    }
}

/// The label selector of a list. Reports about vulnerabilities are large, so that only those about
/// the revision are read. A name that is too long for a label is in an annotation, and the report
/// has a label with its hash instead.
fn selector_of(source: Source, replica_set: &str) -> String {
    match source {
        Source::VulnerabilityReports if replica_set.len() > MAX_LABEL_BYTES => {
            "trivy-operator.resource.kind=ReplicaSet,trivy-operator.resource.name-hash".to_owned()
        }
        Source::VulnerabilityReports => format!("trivy-operator.resource.name={replica_set}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reports_about_the_revision_are_read() {
        assert_eq!(
            selector_of(Source::VulnerabilityReports, "shop-abc"),
            "trivy-operator.resource.name=shop-abc"
        );
        // The value of a label has at most 63 characters.
        assert_eq!(
            selector_of(Source::VulnerabilityReports, &"a".repeat(64)),
            "trivy-operator.resource.kind=ReplicaSet,trivy-operator.resource.name-hash"
        );
        assert_eq!(selector_of(Source::NetworkPolicies, "shop-abc"), "");
    }
}
