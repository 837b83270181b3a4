//! Reads what guardrails look at.

use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use serde_json::Value;
use serin_crds::api_status;
use serin_guardrails::facts::{DryRun, Fact, Source};
use tokio::time::{Instant, timeout_at};

/// Page size of a list.
const PAGE: u32 = 250;
/// Maximum number of objects of a list. More of them are an unknown fact.
const MAX_OBJECTS: usize = 2_000;
/// Maximum number of versions of a group that are looked up.
const MAX_VERSIONS: usize = 8;
/// Maximum number of kinds of constraints.
const MAX_CONSTRAINT_KINDS: usize = 64;
/// Group and version of the constraints of Gatekeeper.
const CONSTRAINTS: (&str, &str) = ("constraints.gatekeeper.sh", "v1beta1");

/// Why a fact is unknown that was not read in time.
pub(super) const TOO_SLOW: &str = "the API server did not answer in time";

/// Lists the objects of a source. `namespace` is empty for all namespaces.
pub(super) async fn list_objects(
    client: &Client,
    source: Source,
    namespace: &str,
    selector: &str,
) -> Fact<Vec<Value>> {
    match source {
        Source::Constraints => constraints(client).await,
        Source::Namespace => list_namespace(client, namespace).await,
        _ => list_source(client, source, namespace, selector).await,
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

/// The namespace. The controller may list namespaces, but not get them.
async fn list_namespace(client: &Client, name: &str) -> Fact<Vec<Value>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let params = ListParams::default()
        .fields(&format!("metadata.name={name}"))
        .limit(1);
    match api.list(&params).await {
        Ok(found) => {
            let found = found.items.iter();
            Fact::Known(
                found
                    .filter_map(|one| serde_json::to_value(one).ok())
                    .collect(),
            )
        }
        Err(error) => unknown(&error),
    }
}

/// Asks the API server what it thinks of a ReplicaSet, without creating it.
pub(super) async fn dry_run(
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
}
