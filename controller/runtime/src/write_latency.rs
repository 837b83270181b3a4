//! Measures how long the API server takes for writes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method, Request};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::slot_limit::SharedSlotLimit;

/// Where the namespace is in a path.
const NAMESPACES: &str = "/namespaces/";
/// Events are written in the background and are the least urgent writes.
const EVENTS: &str = "events";

/// A layer that reports the latency of each write to a [`SharedSlotLimit`].
#[derive(Clone, Debug)]
pub struct WriteLatencyLayer(Arc<SharedSlotLimit>);

impl WriteLatencyLayer {
    /// Reports to `limit`.
    pub const fn new(limit: Arc<SharedSlotLimit>) -> Self {
        Self(limit)
    }
}

impl<S> Layer<S> for WriteLatencyLayer {
    type Service = WriteLatencyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WriteLatencyService {
            inner,
            limit: Arc::clone(&self.0),
        }
    }
}

/// A service whose writes are measured.
#[derive(Clone, Debug)]
pub struct WriteLatencyService<S> {
    inner: S,
    limit: Arc<SharedSlotLimit>,
}

impl<S, B> Service<Request<B>> for WriteLatencyService<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let namespace = written_namespace(&request).map(str::to_owned);
        let limit = Arc::clone(&self.limit);
        let response = self.inner.call(request);
        Box::pin(async move {
            let began = Instant::now();
            let response = response.await;
            // A request that failed says nothing about the latency.
            if let (Some(namespace), Ok(_)) = (namespace, &response) {
                limit.record(&namespace, began.elapsed());
            }
            response
        })
    }
}

/// The namespace of a write, except of Events.
fn written_namespace<B>(request: &Request<B>) -> Option<&str> {
    if request.method() == Method::GET {
        return None;
    }
    let (_, path) = request.uri().path().split_once(NAMESPACES)?;
    let (namespace, object) = path.split_once('/')?;
    (!object.starts_with(EVENTS)).then_some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(method: &str, path: &str) -> Option<String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(())
            .unwrap();
        written_namespace(&request).map(str::to_owned)
    }

    #[test]
    fn only_writes_to_objects_of_a_namespace_count() {
        let status = "/apis/serin.dev/v1alpha1/namespaces/shop/rollouts/checkout/status";
        assert_eq!(namespace("PATCH", status).as_deref(), Some("shop"));
        assert_eq!(namespace("GET", status), None);
        let sets = "/apis/apps/v1/namespaces/pay/replicasets?dryRun=All";
        assert_eq!(namespace("POST", sets).as_deref(), Some("pay"));
        assert_eq!(
            namespace("POST", "/apis/events.k8s.io/v1/namespaces/shop/events"),
            None
        );
        assert_eq!(namespace("DELETE", "/api/v1/nodes/one"), None);
    }
}
