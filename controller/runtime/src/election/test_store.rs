//! An in-memory Lease behind a network with delays.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body as ResponseBody;
use futures::{Stream, stream};
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// A Lease with the rules of the API server: 404, 409 for an outdated resourceVersion, a counter as
/// resourceVersion, and watches.
#[derive(Clone)]
pub(super) struct LeaseStore {
    shared: Arc<Shared>,
}

struct Shared {
    lease: Mutex<Option<Value>>,
    /// All versions, for watches.
    versions: Mutex<Vec<Value>>,
    changed: watch::Sender<usize>,
    writes: Mutex<Vec<(Instant, String)>>,
    requests: AtomicU64,
    hangs: AtomicBool,
    drops_declared_duration: bool,
}

/// The connection of one candidate to the store.
#[derive(Clone)]
pub(super) struct Network {
    /// If set, requests hang and watches deliver nothing.
    pub hangs: Arc<AtomicBool>,
    /// If set, watches are refused.
    pub refuses_watches: bool,
    /// Delays of requests, responses and events, used in turn.
    delays: Arc<(Vec<Duration>, AtomicU64)>,
}

impl Default for Network {
    fn default() -> Self {
        Self::with_delays(vec![Duration::ZERO])
    }
}

impl Network {
    pub(super) fn with_delays(delays: Vec<Duration>) -> Self {
        Self {
            hangs: Arc::default(),
            refuses_watches: false,
            delays: Arc::new((delays, AtomicU64::new(0))),
        }
    }

    async fn delay(&self) {
        let (delays, used) = &*self.delays;
        let next = usize::try_from(used.fetch_add(1, Ordering::SeqCst)).unwrap();
        sleep(delays[next % delays.len()]).await;
    }
}

impl Default for LeaseStore {
    fn default() -> Self {
        Self::new(false)
    }
}

impl LeaseStore {
    /// A store that can forget the lease duration that holders declare.
    pub(super) fn new(drops_declared_duration: bool) -> Self {
        let shared = Shared {
            lease: Mutex::default(),
            versions: Mutex::default(),
            changed: watch::Sender::default(),
            writes: Mutex::default(),
            requests: AtomicU64::default(),
            hangs: AtomicBool::default(),
            drops_declared_duration,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(super) fn client(&self) -> Client {
        self.client_over(Network::default())
    }

    pub(super) fn client_over(&self, network: Network) -> Client {
        let store = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (store, network) = (store.clone(), network.clone());
            async move { Ok::<_, Infallible>(store.respond(request, network).await) }
        });
        Client::new(service, "serin")
    }

    async fn respond(self, request: Request<Body>, network: Network) -> Response<ResponseBody> {
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        if network.hangs.load(Ordering::SeqCst) || self.shared.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let query = parts.uri.query().unwrap_or_default().to_owned();
        if query.contains("watch=true") {
            network.delay().await;
            assert!(
                query.contains("fieldSelector=metadata.name%3Dserin"),
                "RBAC permits only a watch of the Lease by name: {query}"
            );
            if network.refuses_watches {
                return json_response(error(403, "Forbidden"));
            }
            let version = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("resourceVersion="));
            let from = version
                .and_then(|version| version.parse().ok())
                .unwrap_or(0);
            let events = self.events(from, network);
            return Response::new(ResponseBody::from_stream(events));
        }
        // A request arrives even if the client no longer waits for the response.
        let (store, delayed) = (self.clone(), network.clone());
        let arrival = tokio::spawn(async move {
            delayed.delay().await;
            store.answer(&parts.method, &body)
        });
        let answer = arrival.await.unwrap();
        network.delay().await;
        json_response(answer)
    }

    /// The events after a version. All versions of the Lease are counted from 1.
    fn events(
        &self,
        from: usize,
        network: Network,
    ) -> impl Stream<Item = io::Result<Vec<u8>>> + Send + use<> {
        let changed = self.shared.changed.subscribe();
        let start = (self.clone(), network, changed, from);
        stream::unfold(start, |(store, network, mut changed, from)| async move {
            changed.wait_for(|version| *version > from).await.ok()?;
            network.delay().await;
            if network.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let object = store.shared.versions.lock().unwrap()[from].clone();
            let event = json!({"type": "MODIFIED", "object": object});
            let line = format!("{event}\n").into_bytes();
            Some((Ok(line), (store, network, changed, from + 1)))
        })
    }

    fn answer(&self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
        let stored = self.shared.lease.lock().unwrap().clone();
        if *method == Method::GET {
            return stored.map_or_else(|| error(404, "NotFound"), |lease| (StatusCode::OK, lease));
        }
        let mut sent: Value = serde_json::from_slice(body).unwrap();
        if *method == Method::POST && stored.is_some() {
            return error(409, "AlreadyExists");
        }
        if *method == Method::PUT
            && stored.as_ref().is_none_or(|lease| {
                lease["metadata"]["resourceVersion"] != sent["metadata"]["resourceVersion"]
            })
        {
            return error(409, "Conflict");
        }
        if self.shared.drops_declared_duration {
            sent["metadata"]["annotations"] = Value::Null;
            sent["spec"]["leaseDurationSeconds"] = Value::Null;
        }
        let holder = sent["spec"]["holderIdentity"].as_str().unwrap().to_owned();
        self.shared
            .writes
            .lock()
            .unwrap()
            .push((Instant::now(), holder));
        (StatusCode::OK, self.put(sent))
    }

    /// Stores a version, also one that no candidate has written.
    pub(super) fn put(&self, mut lease: Value) -> Value {
        let mut versions = self.shared.versions.lock().unwrap();
        let version = versions.len() + 1;
        lease["metadata"]["resourceVersion"] = json!(version.to_string());
        versions.push(lease.clone());
        *self.shared.lease.lock().unwrap() = Some(lease.clone());
        drop(versions);
        self.shared.changed.send_replace(version);
        lease
    }

    pub(super) fn lease(&self) -> Value {
        self.shared
            .lease
            .lock()
            .unwrap()
            .clone()
            .unwrap_or_default()
    }

    pub(super) fn holder(&self) -> String {
        let lease = self.lease();
        lease["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The accepted writes with their holders.
    pub(super) fn writes(&self) -> Vec<(Instant, String)> {
        self.shared.writes.lock().unwrap().clone()
    }

    /// Number of requests.
    pub(super) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub(super) fn set_hangs(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::SeqCst);
    }
}

fn json_response((status, answer): (StatusCode, Value)) -> Response<ResponseBody> {
    let body = ResponseBody::from(serde_json::to_vec(&answer).unwrap());
    Response::builder().status(status).body(body).unwrap()
}

fn error(code: u16, reason: &str) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (StatusCode::from_u16(code).unwrap(), status)
}
