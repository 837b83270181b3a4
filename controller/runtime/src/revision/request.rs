//! Requests to create a ReplicaSet.

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{DynamicObject, PostParams};
use kube::core::Request;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

/// Creates a ReplicaSet and decodes the response as `T`, without a tree of the whole object.
///
/// What is sent is untyped, so that template fields unknown to this build reach the API server.
///
/// # Errors
/// The request failed, or the response is not a `T`.
pub async fn create_replica_set<T: DeserializeOwned>(
    client: &Client,
    namespace: &str,
    params: &PostParams,
    object: &DynamicObject,
) -> kube::Result<T> {
    let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
    let url = ReplicaSet::url_path(&(), Some(namespace));
    let request = Request::new(url).create(params, body);
    let request = request.map_err(kube::Error::BuildRequest)?;
    client.request(request).await
}
