//! Verdicts over HTTP, for pipelines and other controllers: `GET
//! /apis/serin.dev/v1alpha1/namespaces/NAMESPACE/rollouts/NAME/verdict`.
//!
//! The endpoint only reads. A client needs a token that the API server accepts for the audience
//! [`AUDIENCE`], and the permission to get the Rollout. Every replica of the controller answers from
//! its cache, the leader and the standbys.

mod access_review;

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serin_crds::verdict::Verdict;

use crate::cluster_cache::{ClusterCache, Key};
use access_review::{Access, AccessReviewer};

/// The audience of the tokens. A token for the API server is not accepted: somebody who reads it on
/// the way to the controller could use it there.
pub const AUDIENCE: &str = "serin.dev";

/// Maximum length of the name of an object.
const MAX_NAME: usize = 253;

/// The router for verdicts. `client` is for the reviews of tokens and permissions.
pub fn verdict_router(client: Client, cache: Arc<ClusterCache>) -> Router {
    let path = "/apis/serin.dev/v1alpha1/namespaces/{namespace}/rollouts/{name}/verdict";
    let server = Arc::new(VerdictServer {
        cache,
        reviewer: AccessReviewer::new(client),
    });
    Router::new().route(path, get(serve)).with_state(server)
}

struct VerdictServer {
    cache: Arc<ClusterCache>,
    reviewer: AccessReviewer,
}

#[derive(Deserialize)]
struct VerdictQuery {
    /// The revision that the client has deployed. If unset, the latest one.
    revision: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    namespace: String,
    rollout: String,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Why there is no verdict.
struct Refusal(StatusCode, &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        let mut response = (status, Json(json!({"error": message}))).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                let scheme = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, scheme);
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

async fn serve(
    State(server): State<Arc<VerdictServer>>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<VerdictQuery>,
    headers: HeaderMap,
) -> Result<Json<Answer>, Refusal> {
    let key = Key::new(namespace, name);
    if !is_object_name(&key.namespace) || !is_object_name(&key.name) {
        let message = "use the names of a namespace and of a Rollout";
        return Err(Refusal(StatusCode::BAD_REQUEST, message));
    }
    let token = bearer_token(&headers).ok_or(Refusal(
        StatusCode::UNAUTHORIZED,
        "send the header Authorization: Bearer TOKEN, with a token for the audience serin.dev",
    ))?;
    match server.reviewer.review(token, &key).await {
        Access::Granted => {}
        Access::InvalidToken => {
            let message = "the API server does not accept the token for the audience serin.dev";
            return Err(Refusal(StatusCode::UNAUTHORIZED, message));
        }
        Access::Forbidden => {
            let message = "the user of the token may not get this Rollout";
            return Err(Refusal(StatusCode::FORBIDDEN, message));
        }
        Access::TooManyReviews => {
            let message = "too many requests with tokens that were not used before";
            return Err(Refusal(StatusCode::TOO_MANY_REQUESTS, message));
        }
        Access::Unavailable => {
            let message = "the API server could not review the token";
            return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, message));
        }
    }
    if !server.cache.are_rollouts_listed() {
        let message = "the cache is not synced yet";
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, message));
    }
    let rollout = server.cache.rollouts.get(&key.as_rollout());
    let rollout = rollout.ok_or(Refusal(
        StatusCode::NOT_FOUND,
        "the Rollout does not exist, or this controller does not manage its namespace",
    ))?;
    let revision = query.revision.as_deref();
    let verdict = Verdict::of_status(&rollout.status, rollout.generation(), revision);
    Ok(Json(Answer {
        namespace: key.namespace,
        rollout: key.name,
        verdict,
    }))
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn is_object_name(name: &str) -> bool {
    let is_permitted = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_permitted)
}

#[cfg(test)]
mod tests;
