//! The API server as a tower service, including the simulated network.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::Value;
use tokio::time::sleep;
use tower::{BoxError, Service};

use super::error::ApiError;
use super::request::{ApiRequest, ResourcePath};
use super::{discovery, handler, watch};
use crate::faults::{Fault, FaultEffect, RequestRecord};
use crate::state::SharedState;

/// Maximum size of a request body in bytes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Body of a response.
type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// The API server as one client sees it.
#[derive(Clone)]
pub(crate) struct ApiServer {
    pub(crate) shared: Arc<SharedState>,
    /// Name of the client in the request log and in faults.
    pub(crate) client: Arc<str>,
}

impl Service<Request<Body>> for ApiServer {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            server.respond(&ApiRequest::parse(&parts), &body).await
        })
    }
}

/// Whether a request reaches the server.
enum Delivery {
    /// The request arrives, possibly with a fault.
    Delivered(Option<FaultEffect>),
    /// The request is lost and never gets a response.
    Dropped,
}

impl ApiServer {
    async fn respond(
        &self,
        request: &ApiRequest,
        body: &[u8],
    ) -> Result<Response<ResponseBody>, BoxError> {
        let (latency, delivery) = {
            let mut state = self.shared.lock();
            let latency = state.latency();
            if state.dead.contains(&*self.client) {
                (latency, Delivery::Dropped)
            } else {
                (
                    latency,
                    Delivery::Delivered(Fault::next_effect(
                        &mut state.faults,
                        request,
                        body,
                        &self.client,
                    )),
                )
            }
        };
        sleep(latency).await;
        let effect = match delivery {
            Delivery::Delivered(effect) => effect,
            Delivery::Dropped => std::future::pending().await,
        };
        if let Some(FaultEffect::Delayed(delay)) = effect {
            sleep(delay).await;
        }
        if effect == Some(FaultEffect::Refused) || self.shared.lock().is_api_down() {
            self.record_request(request, 0);
            return Err(Box::new(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "connection refused",
            )));
        }
        let response = match effect {
            Some(FaultEffect::Hangs) => {
                self.record_request(request, 0);
                std::future::pending().await
            }
            Some(FaultEffect::Status(code)) => {
                error_response(&ApiError::from_fault(code, request, &self.client))
            }
            _ => self.process(request, body),
        };
        self.record_request(request, response.status().as_u16());
        self.shared.notify();
        if effect == Some(FaultEffect::LosesResponse) || self.client_died_on(request) {
            std::future::pending::<()>().await;
        }
        let latency = self.shared.lock().latency();
        sleep(latency).await;
        Ok(response)
    }

    fn process(&self, request: &ApiRequest, body: &[u8]) -> Response<ResponseBody> {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        if let Some(body) = discovery::respond(&state.store, request, &self.client) {
            return json_response(200, &body);
        }
        let Some(resource_path) = request.resource_path.as_ref() else {
            return error_response(&ApiError::no_such_path());
        };
        if body.len() > BODY_LIMIT {
            return error_response(&ApiError::too_large(BODY_LIMIT));
        }
        if request.verb() == Some("watch") {
            drop(state);
            return self.watch(request, resource_path);
        }
        state.store.field_manager = request.field_manager(&self.client);
        state.store.applied_configuration = None;
        match handler::handle(&mut state.store, request, resource_path, body, now) {
            Ok((code, object)) => json_response(code, &object),
            Err(error) => error_response(&error),
        }
    }

    fn watch(&self, request: &ApiRequest, resource_path: &ResourcePath) -> Response<ResponseBody> {
        match watch::stream(Arc::clone(&self.shared), request, resource_path) {
            Ok(events) => response(
                200,
                "application/json",
                StreamBody::new(events).boxed_unsync(),
            ),
            Err(error) => error_response(&error),
        }
    }

    fn record_request(&self, request: &ApiRequest, code: u16) {
        let now = self.shared.now();
        if let Some(record) = RequestRecord::new(request, &self.client, now) {
            self.shared
                .lock()
                .requests
                .push(RequestRecord { code, ..record });
        }
    }

    /// Counts a write against the client's remaining writes, and kills the client at the last one.
    /// Returns whether the client is dead.
    fn client_died_on(&self, request: &ApiRequest) -> bool {
        let is_write = !request.is_dry_run()
            && !matches!(request.verb(), None | Some("get" | "list" | "watch"));
        let mut state = self.shared.lock();
        if is_write && let Some(left) = state.writes_left.get_mut(&*self.client) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                state.dead.insert(self.client.to_string());
                drop(state);
                self.shared.notify();
                return true;
            }
            return false;
        }
        state.dead.contains(&*self.client)
    }
}

fn json_response(code: u16, value: &Value) -> Response<ResponseBody> {
    let body =
        Full::new(Bytes::from(value.to_string())).map_err(|never: Infallible| match never {});
    response(code, "application/json", body.boxed_unsync())
}

fn error_response(error: &ApiError) -> Response<ResponseBody> {
    let mut response = if error.is_plain_text {
        let body = Full::new(Bytes::from(error.message.clone()))
            .map_err(|never: Infallible| match never {});
        response(error.code, "text/plain; charset=utf-8", body.boxed_unsync())
    } else {
        json_response(error.code, &error.to_status())
    };
    if let Some(seconds) = error.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    }
    response
}

fn response(code: u16, content_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}
