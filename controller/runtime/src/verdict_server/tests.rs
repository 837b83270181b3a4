use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use http::Response as HttpResponse;
use kube::client::Body as KubeBody;
use kube::runtime::watcher::Event;
use serde_json::Value;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::cluster_cache::RolloutObject;

/// An API server with one user, `ann`, whose token is `good`. She may get `shop/checkout`.
struct ApiServer {
    reviews: AtomicUsize,
    audiences: Value,
    code: u16,
}

impl ApiServer {
    fn answer(&self, path: &str, review: &Value) -> Value {
        self.reviews.fetch_add(1, Ordering::SeqCst);
        let spec = &review["spec"];
        if path.ends_with("/tokenreviews") {
            assert_eq!(spec["audiences"], json!(["serin.dev"]));
            let is_valid = spec["token"] == "good";
            let user = json!({"username": "ann", "groups": ["dev"]});
            return json!({"metadata": {}, "spec": spec, "status": {
                "authenticated": is_valid, "user": user, "audiences": self.audiences}});
        }
        assert!(path.ends_with("/subjectaccessreviews"), "{path}");
        let attributes = &spec["resourceAttributes"];
        assert_eq!(spec["groups"], json!(["dev"]));
        let wanted = ["get", "rollouts", "serin.dev"].map(Value::from);
        let sent = ["verb", "resource", "group"].map(|field| attributes[field].clone());
        assert_eq!(sent, wanted);
        let is_allowed = spec["user"] == "ann" && attributes["namespace"] == "shop";
        json!({"metadata": {}, "spec": spec, "status": {"allowed": is_allowed}})
    }
}

fn client(server: &Arc<ApiServer>) -> Client {
    let server = Arc::clone(server);
    let service = service_fn(move |request: Request<KubeBody>| {
        let server = Arc::clone(&server);
        async move {
            let path = request.uri().path().to_owned();
            let sent = request.into_body().collect_bytes().await?;
            let review = serde_json::from_slice(&sent).unwrap();
            let answer = server.answer(&path, &review).to_string();
            let response = HttpResponse::builder().status(server.code);
            Ok::<_, kube::Error>(response.body(KubeBody::from(answer.into_bytes())).unwrap())
        }
    });
    Client::new(service, "default")
}

/// A synced cache with the aborted Rollout `shop/checkout`.
fn cache() -> Arc<ClusterCache> {
    let (cache, mut rollouts) = ClusterCache::new();
    let rollout = RolloutObject::from_json(json!({
        "metadata": {"name": "checkout", "namespace": "shop", "uid": "u", "generation": 3},
        "spec": {"strategy": {"canary": {}}},
        "status": {
            "observedGeneration": 3, "phase": "Degraded", "stage": "Aborted", "currentRevision": "v2",
            "abort": {"revision": "v2", "at": "2026-01-01T00:00:00Z", "cause": "Evidence", "message": "worse"},
        },
    }));
    rollouts.apply_watcher_event(&Event::Apply(rollout.unwrap()));
    cache.mark_rollouts_listed();
    cache
}

struct Scene {
    api: Arc<ApiServer>,
    router: Router,
}

impl Scene {
    fn new(audiences: Value, code: u16) -> Self {
        let api = Arc::new(ApiServer {
            reviews: AtomicUsize::new(0),
            audiences,
            code,
        });
        let router = verdict_router(client(&api), cache());
        Self { api, router }
    }

    fn with_user() -> Self {
        Self::new(json!(["serin.dev"]), 201)
    }

    /// Requests the verdict on `namespace/name?query` with a token.
    async fn get(&self, target: &str, token: &str) -> (u16, Value) {
        let (object, query) = target.split_once('?').unwrap_or((target, ""));
        let (namespace, name) = object.split_once('/').unwrap();
        let path = format!(
            "/apis/serin.dev/v1alpha1/namespaces/{namespace}/rollouts/{name}/verdict?{query}"
        );
        let mut request = Request::get(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn reviews(&self) -> usize {
        self.api.reviews.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_who_may_get_the_rollout_reads_its_verdict() {
    let scene = Scene::with_user();
    let (status, verdict) = scene.get("shop/checkout", "good").await;
    assert_eq!(status, 200, "{verdict}");
    let expected = json!({
        "namespace": "shop", "rollout": "checkout", "verdict": "RolledBack", "revision": "v2",
        "observed": false, "cause": "Evidence", "message": "worse", "at": "2026-01-01T00:00:00Z",
    });
    assert_eq!(verdict, expected);
    let (_, verdict) = scene.get("shop/checkout?revision=v3", "good").await;
    assert_eq!(verdict["verdict"], "Undecided");
    assert_eq!(scene.reviews(), 2, "the result of the review is kept");
    tokio::time::advance(std::time::Duration::from_secs(11)).await;
    scene.get("shop/checkout", "good").await;
    assert_eq!(scene.reviews(), 4);
}

#[tokio::test(start_paused = true)]
async fn without_a_permission_nothing_is_said_about_a_rollout() {
    let scene = Scene::with_user();
    assert_eq!(scene.get("shop/checkout", "").await.0, 401);
    assert_eq!(scene.reviews(), 0, "no token, no review");
    assert_eq!(scene.get("shop/checkout", "bad").await.0, 401);
    assert_eq!(scene.get("pay/checkout", "good").await.0, 403);
    assert_eq!(scene.get("shop/other", "good").await.0, 404);
    let reviews = scene.reviews();
    assert_eq!(scene.get("Shop/checkout", "good").await.0, 400);
    assert_eq!(scene.reviews(), reviews);
}

#[tokio::test(start_paused = true)]
async fn a_token_for_another_audience_is_refused() {
    let scene = Scene::new(json!(["https://kubernetes.default.svc"]), 201);
    assert_eq!(scene.get("shop/checkout", "good").await.0, 401);
    // As an authenticator that knows no audiences.
    let scene = Scene::new(Value::Null, 201);
    assert_eq!(scene.get("shop/checkout", "good").await.0, 401);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_grants_nothing() {
    let scene = Scene::new(json!(["serin.dev"]), 500);
    assert_eq!(scene.get("shop/checkout", "good").await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_reviews_is_limited() {
    let scene = Scene::with_user();
    let mut refused = 0;
    for number in 0..1_000 {
        let (status, _) = scene.get("shop/checkout", &format!("bad-{number}")).await;
        assert!(status == 401 || status == 429, "{status}");
        refused += usize::from(status == 429);
    }
    assert!(scene.reviews() <= 20, "{}", scene.reviews());
    assert!(refused > 900);
    // A known token is not affected once it was reviewed.
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_eq!(scene.get("shop/checkout", "good").await.0, 200);
}
