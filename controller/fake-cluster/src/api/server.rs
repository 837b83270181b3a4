//! The server as a client sees it: a tower service, with the network in between.

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

use super::failure::Failure;
use super::path::{Call, Target};
use super::{discovery, handler, watch};
use crate::faults::{Fault, Outcome, RequestSeen};
use crate::shared::Shared;

/// The longest body of a request that the API server reads.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// The body of an answer.
type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// The API server, reached by one client.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    /// Who asks, as the log and the fault plans know it.
    pub(crate) who: Arc<str>,
}

impl Service<Request<Body>> for Server {
    type Response = Response<AnswerBody>;
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
            server.answer(&Call::read(&parts), &body).await
        })
    }
}

/// What becomes of a request on its way.
enum Passage {
    /// It arrives.
    Arrives(Option<Outcome>),
    /// Nobody ever hears of it again.
    Vanishes,
}

impl Server {
    async fn answer(&self, call: &Call, body: &[u8]) -> Result<Response<AnswerBody>, BoxError> {
        let (way, passage) = {
            let mut state = self.shared.lock();
            let way = state.latency();
            if state.dead.contains(&*self.who) {
                (way, Passage::Vanishes)
            } else {
                (
                    way,
                    Passage::Arrives(Fault::strike(&mut state.faults, call, &self.who)),
                )
            }
        };
        sleep(way).await;
        let outcome = match passage {
            Passage::Arrives(outcome) => outcome,
            Passage::Vanishes => std::future::pending().await,
        };
        if let Some(Outcome::Delayed(by)) = outcome {
            sleep(by).await;
        }
        if outcome == Some(Outcome::Refused) || self.shared.lock().is_away() {
            self.log(call, 0);
            return Err(Box::new(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "connection refused",
            )));
        }
        let answer = match outcome {
            Some(Outcome::Hangs) => {
                self.log(call, 0);
                std::future::pending().await
            }
            Some(Outcome::Status(code)) => refusal(&Failure::planned(code, call, &self.who)),
            _ => self.process(call, body),
        };
        self.log(call, answer.status().as_u16());
        self.shared.announce();
        if outcome == Some(Outcome::LosesAnswer) || self.has_died_of(call) {
            std::future::pending::<()>().await;
        }
        let way = self.shared.lock().latency();
        sleep(way).await;
        Ok(answer)
    }

    fn process(&self, call: &Call, body: &[u8]) -> Response<AnswerBody> {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        if let Some(told) = discovery::answer(&state.store, call, &self.who) {
            return json(200, &told);
        }
        let Some(target) = call.target.as_ref() else {
            return refusal(&Failure::no_such_path());
        };
        if body.len() > BODY_LIMIT {
            return refusal(&Failure::too_large(BODY_LIMIT));
        }
        if call.verb() == Some("watch") {
            drop(state);
            return self.watch(call, target);
        }
        state.store.writer = call.writer(&self.who);
        state.store.applied_configuration = None;
        match handler::handle(&mut state.store, call, target, body, now) {
            Ok((code, object)) => json(code, &object),
            Err(failure) => refusal(&failure),
        }
    }

    fn watch(&self, call: &Call, target: &Target) -> Response<AnswerBody> {
        match watch::stream(Arc::clone(&self.shared), call, target) {
            Ok(events) => response(
                200,
                "application/json",
                StreamBody::new(events).boxed_unsync(),
            ),
            Err(failure) => refusal(&failure),
        }
    }

    fn log(&self, call: &Call, code: u16) {
        let now = self.shared.now();
        if let Some(seen) = RequestSeen::new(call, &self.who, now) {
            self.shared
                .lock()
                .requests
                .push(RequestSeen { code, ..seen });
        }
    }

    /// Counts a write against what its client has left; with the last one the client dies, and
    /// never hears the answer.
    fn has_died_of(&self, call: &Call) -> bool {
        let is_write =
            !call.is_dry_run() && !matches!(call.verb(), None | Some("get" | "list" | "watch"));
        let mut state = self.shared.lock();
        if is_write && let Some(left) = state.writes_left.get_mut(&*self.who) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                state.dead.insert(self.who.to_string());
                drop(state);
                self.shared.announce();
                return true;
            }
            return false;
        }
        state.dead.contains(&*self.who)
    }
}

fn json(code: u16, value: &Value) -> Response<AnswerBody> {
    let body =
        Full::new(Bytes::from(value.to_string())).map_err(|never: Infallible| match never {});
    response(code, "application/json", body.boxed_unsync())
}

fn refusal(failure: &Failure) -> Response<AnswerBody> {
    let mut answer = if failure.is_plain_text {
        let body = Full::new(Bytes::from(failure.message.clone()))
            .map_err(|never: Infallible| match never {});
        response(
            failure.code,
            "text/plain; charset=utf-8",
            body.boxed_unsync(),
        )
    } else {
        json(failure.code, &failure.to_status())
    };
    if let Some(seconds) = failure.retry_after {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    }
    answer
}

fn response(code: u16, content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}
