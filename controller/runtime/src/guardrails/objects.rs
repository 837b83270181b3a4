//! Reads what guardrails look at. Lists are shared by the Rollouts of a namespace.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;
use serin_crds::api_status;
use serin_guardrails::facts::{DryRun, Fact, NamespaceFacts, Source};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Time for which a list is shared.
const SHARED_FOR: Duration = Duration::from_secs(5);
/// Time for which a kind that the cluster does not serve is not looked up again.
const NOT_SERVED_FOR: Duration = Duration::from_secs(30);
/// Maximum number of lists that are kept.
const MAX_LISTS: usize = 512;
/// Maximum number of requests at the same time.
const MAX_REQUESTS: usize = 8;
/// Page size of a list.
const PAGE: u32 = 250;
/// Maximum number of objects of a list. More of them are an unknown fact.
const MAX_OBJECTS: usize = 2_000;
/// Maximum size of the value of a label.
const MAX_LABEL_BYTES: usize = 63;
/// Maximum number of versions of a group that are looked up.
const MAX_VERSIONS: usize = 8;
/// Maximum number of kinds of constraints.
const MAX_CONSTRAINT_KINDS: usize = 64;
/// Group and version of the constraints of Gatekeeper.
const CONSTRAINTS: (&str, &str) = ("constraints.gatekeeper.sh", "v1beta1");

/// Lists that Rollouts share.
pub struct GuardrailObjects {
    lists: Mutex<HashMap<ListKey, Listed>>,
    requests: Semaphore,
}

/// What was listed: a source, the namespace (empty for the cluster) and a label selector.
type ListKey = (Source, String, String);

#[derive(Clone)]
struct Listed {
    at: Instant,
    fact: Fact<Arc<Vec<Value>>>,
}

impl Default for GuardrailObjects {
    fn default() -> Self {
        Self {
            lists: Mutex::default(),
            requests: Semaphore::new(MAX_REQUESTS),
        }
    }
}

/// What is read for a revision.
pub struct ReadRequest<'a> {
    /// The client.
    pub client: &'a Client,
    /// Namespace of the Rollout.
    pub namespace: &'a str,
    /// Name of the ReplicaSet of the revision, whether it exists or not.
    pub replica_set: &'a str,
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
            let read = timeout_at(request.deadline, self.read_shared(request, *source));
            let fact = read
                .await
                .unwrap_or_else(|_| Fact::Failed(TOO_SLOW.to_owned()));
            (*source, fact.map_known(|objects| (*objects).clone()))
        });
        join_all(reads).await
    }

    async fn read_shared(
        &self,
        request: &ReadRequest<'_>,
        source: Source,
    ) -> Fact<Arc<Vec<Value>>> {
        let selector = selector_of(source, request.replica_set);
        let is_everywhere = source.is_cluster_scoped() || source.reaches_other_namespaces();
        let namespace = if is_everywhere { "" } else { request.namespace };
        let fact = self.read_list(request, source, namespace, &selector).await;
        let is_readable = !matches!(fact, Fact::Forbidden(_) | Fact::Failed(_));
        if is_readable || !source.reaches_other_namespaces() {
            return fact;
        }
        // With permissions in its namespaces only, those of the other ones remain unknown.
        self.read_list(request, source, request.namespace, &selector)
            .await
    }

    /// A list that is recent enough, or a new one. `namespace` is empty for all namespaces.
    async fn read_list(
        &self,
        request: &ReadRequest<'_>,
        source: Source,
        namespace: &str,
        selector: &str,
    ) -> Fact<Arc<Vec<Value>>> {
        let key = (source, namespace.to_owned(), selector.to_owned());
        let not_served = (source, String::new(), String::new());
        if let Some(fact) = self.known(&key).or_else(|| self.known(&not_served)) {
            return fact;
        }
        let fact = match self.requests.acquire().await {
            Ok(_permit) if source == Source::Constraints => constraints(request.client).await,
            Ok(_permit) => list_source(request.client, source, namespace, selector).await,
            Err(_) => Fact::Failed("the controller is stopping".to_owned()),
        };
        let fact = fact.map_known(Arc::new);
        let key = if fact == Fact::NotServed {
            not_served
        } else {
            key
        };
        self.keep(key, fact.clone());
        fact
    }

    /// A list that is recent enough. A kind that is served is not known by [`Fact::NotServed`] for
    /// long, so that it is found soon after it was installed.
    fn known(&self, key: &ListKey) -> Option<Fact<Arc<Vec<Value>>>> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = lists.get(key)?;
        listed.is_recent().then(|| listed.fact.clone())
    }

    fn keep(&self, key: ListKey, fact: Fact<Arc<Vec<Value>>>) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|_, listed| listed.is_recent());
        if lists.len() < MAX_LISTS {
            let at = Instant::now();
            lists.insert(key, Listed { at, fact });
        }
    }
}

impl Listed {
    fn is_recent(&self) -> bool {
        let limit = match self.fact {
            Fact::NotServed => NOT_SERVED_FOR,
            _ => SHARED_FOR,
        };
        self.at.elapsed() < limit
    }
}

/// Why a fact is unknown that was not read in time.
const TOO_SLOW: &str = "the API server did not answer in time";

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

/// Lists a source in the first version that the cluster serves.
async fn list_source(
    client: &Client,
    source: Source,
    namespace: &str,
    selector: &str,
) -> Fact<Vec<Value>> {
    let Some((group, versions, plural)) = source.resource() else {
        return Fact::NotAsked;
    };
    let mut fact = Fact::NotServed;
    for version in versions {
        let resource = resource(group, version, plural, "");
        let api: Api<DynamicObject> = if namespace.is_empty() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), namespace, &resource)
        };
        fact = list(&api, selector, "").await;
        if fact != Fact::NotServed {
            return fact;
        }
    }
    match other_versions(client, group, plural).await {
        Ok(served) if served.is_empty() => fact,
        Ok(served) => Fact::OtherVersion(format!(
            "the cluster serves {plural}.{group} in {}, and Serin reads {}",
            served.join(" and "),
            versions.join(" and ")
        )),
        Err(error) => unknown(&error),
    }
}

/// The versions in which the cluster serves a kind that it does not serve in those that Serin reads.
/// Empty if there are none.
async fn other_versions(
    client: &Client,
    group: &str,
    plural: &str,
) -> Result<Vec<String>, kube::Error> {
    if group.is_empty() {
        return Ok(Vec::new());
    }
    let request = Request::get(format!("/apis/{group}"));
    let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
    let found = match client.request::<APIGroup>(request).await {
        Ok(found) => found,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut served = Vec::new();
    for version in found.versions.into_iter().take(MAX_VERSIONS) {
        let resources = client.list_api_group_resources(&version.group_version);
        match resources.await {
            Ok(list) if list.resources.iter().any(|kind| kind.name == plural) => {
                served.push(version.version);
            }
            Ok(_) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(served)
}

/// Whether the API server does not serve what was requested.
fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if api_status::is_missing_kind(status))
}

/// The constraints of Gatekeeper, of which each kind is a kind of its own.
async fn constraints(client: &Client) -> Fact<Vec<Value>> {
    let (group, version) = CONSTRAINTS;
    let kinds = match client
        .list_api_group_resources(&format!("{group}/{version}"))
        .await
    {
        Ok(kinds) => kinds.resources,
        Err(error) => return unknown(&error),
    };
    let kinds: Vec<_> = kinds
        .into_iter()
        .filter(|kind| !kind.name.contains('/'))
        .collect();
    if kinds.len() > MAX_CONSTRAINT_KINDS {
        return Fact::Failed(format!("there are more than {MAX_CONSTRAINT_KINDS} kinds"));
    }
    let mut constraints = Vec::new();
    for kind in kinds {
        let resource = resource(group, version, &kind.name, &kind.kind);
        match list(&Api::all_with(client.clone(), &resource), "", &kind.kind).await {
            Fact::Known(objects) => constraints.extend(objects),
            Fact::NotServed => {}
            other => return other,
        }
    }
    Fact::Known(constraints)
}

fn resource(group: &str, version: &str, plural: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

async fn list(api: &Api<DynamicObject>, selector: &str, kind: &str) -> Fact<Vec<Value>> {
    let mut params = ListParams::default().limit(PAGE).labels(selector);
    let mut objects = Vec::new();
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(error) => return unknown(&error),
        };
        objects.extend(page.items.into_iter().map(|object| to_json(object, kind)));
        if objects.len() > MAX_OBJECTS {
            return Fact::Failed(format!("there are more than {MAX_OBJECTS} of them"));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Fact::Known(objects),
        }
    }
}

/// An object without what no guardrail looks at.
fn to_json(mut object: DynamicObject, kind: &str) -> Value {
    object.metadata.managed_fields = None;
    let mut json = serde_json::to_value(&object).unwrap_or_default();
    if !kind.is_empty() {
        json["kind"] = kind.into();
    }
    json
}

fn unknown<T>(error: &kube::Error) -> Fact<T> {
    match error {
        _ if is_missing(error) => Fact::NotServed,
        kube::Error::Api(status) if api_status::is_forbidden(status) => {
            Fact::Forbidden(api_status::message(status))
        }
        kube::Error::Api(status) => Fact::Failed(api_status::message(status)),
        other => Fact::Failed(other.to_string()),
    }
}

/// The labels and annotations of a namespace. The controller may list namespaces, but not get them.
pub async fn read_namespace(
    client: &Client,
    name: &str,
    deadline: Instant,
) -> Fact<NamespaceFacts> {
    let api: Api<Namespace> = Api::all(client.clone());
    let params = ListParams::default()
        .fields(&format!("metadata.name={name}"))
        .limit(1);
    let found = match timeout_at(deadline, api.list(&params)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return unknown(&error),
        Err(_) => return Fact::Failed(TOO_SLOW.to_owned()),
    };
    let namespace = found
        .items
        .into_iter()
        .find(|found| found.name_any() == name);
    match namespace.map(|namespace| namespace.metadata) {
        Some(metadata) => Fact::Known(NamespaceFacts {
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
        }),
        None => Fact::Failed(format!("namespace {name} was not found")),
    }
}

/// Asks the API server what it thinks of a ReplicaSet, without creating it.
pub async fn dry_run(
    client: &Client,
    namespace: &str,
    replica_set: &DynamicObject,
    deadline: Instant,
) -> Fact<DryRun> {
    let uri = format!("/apis/apps/v1/namespaces/{namespace}/replicasets?dryRun=All");
    let body = serde_json::to_vec(replica_set).unwrap_or_default();
    let request = Request::post(uri)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.into());
    let Ok(request) = request else {
        return Fact::Failed("the request cannot be built".to_owned());
    };
    match timeout_at(deadline, client.send(request)).await {
        Ok(Ok(answer)) if answer.status().is_success() => {
            let headers = answer.headers().get_all(http::header::WARNING);
            let warnings = headers
                .iter()
                .filter_map(|value| warning_text(value.to_str().ok()?));
            Fact::Known(DryRun {
                warnings: warnings.collect(),
            })
        }
        // A template that the API server refuses is reported by the lookup of its revision.
        Ok(Ok(answer)) => Fact::Failed(format!("the API server answered {}", answer.status())),
        Ok(Err(error)) => unknown(&error),
        Err(_) => Fact::Failed(TOO_SLOW.to_owned()),
    }
}

/// The text of a warning header: `299 - "TEXT"`.
fn warning_text(header: &str) -> Option<String> {
    let (_, quoted) = header.split_once('"')?;
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some(text),
            '\\' => text.push(characters.next()?),
            other => text.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_warning_is_read_without_its_quotes() {
        let header = r#"299 - "would violate PodSecurity \"restricted:latest\": x""#;
        let text = "would violate PodSecurity \"restricted:latest\": x";
        assert_eq!(warning_text(header).as_deref(), Some(text));
        for malformed in ["", "299", "299 - \"no end", "299 - \"\\"] {
            assert_eq!(warning_text(malformed), None);
        }
    }

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
