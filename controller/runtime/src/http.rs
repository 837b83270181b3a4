//! The HTTP endpoints: `/metrics` on one port, `/healthz` and `/readyz` on another.
//!
//! Any pod of the cluster may connect to these ports, so everything that a client can hold is
//! limited: the number of connections in total and for each address, the size of the request head
//! and the time to send it. The kubelet has a separate port, so that nobody who fills the metrics
//! port restarts the controller.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::telemetry::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Pause after a failed accept, for example if there are no file descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Maximum time for open requests to finish at the shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Limits of one server.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Maximum number of open connections. Further ones are closed at once.
    pub connections: usize,
    /// Maximum number of open connections from one IP address.
    pub connections_per_peer: usize,
    /// Maximum size of the request head, in bytes.
    pub head_bytes: usize,
    /// Maximum time to send the request head.
    pub head_timeout: Duration,
    /// Maximum duration of a connection. Each connection has one request.
    pub connection_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            connections_per_peer: 8,
            head_bytes: 16 << 10,
            head_timeout: Duration::from_secs(5),
            connection_timeout: Duration::from_secs(10),
        }
    }
}

/// The router for `/metrics`.
pub fn metrics_router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics))
        .with_state(metrics)
}

/// The router for `/healthz` and `/readyz`.
///
/// `/healthz` returns 200 if the process responds. `/readyz` returns 200 once `ready` is true,
/// which means that the caches are synced. Standbys are ready too, because they can take over at
/// any time.
pub fn health_router(ready: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(serve_ready))
        .with_state(ready)
}

/// Serves the endpoints until `stop` completes, then finishes open requests.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    router: Router,
    stop: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving HTTP");
    serve_on(listener, router, HttpLimits::default(), stop).await;
    Ok(())
}

async fn serve_on(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    stop: impl Future<Output = ()> + Send,
) {
    let open = Arc::new(OpenConnections::default());
    let mut tasks = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                // Without a permit, the connection is closed here.
                Ok((stream, peer)) => if let Some(permit) = Permit::acquire(&open, peer.ip(), limits) {
                    let router = router.clone();
                    tasks.spawn(async move {
                        serve_connection(stream, router, limits).await;
                        drop(permit);
                    });
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
    drop(listener);
    let finish = async { while tasks.join_next().await.is_some() {} };
    // Connections that are still open are closed.
    let _ = timeout(SHUTDOWN_TIMEOUT, finish).await;
}

async fn serve_connection(stream: TcpStream, router: Router, limits: HttpLimits) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(limits.connection_timeout, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection failed"),
        Err(_) => tracing::debug!("HTTP connection timed out"),
    }
}

/// The number of open connections by IP address.
#[derive(Debug, Default)]
struct OpenConnections(Mutex<HashMap<IpAddr, usize>>);

/// Permission to keep one connection open.
struct Permit {
    open: Arc<OpenConnections>,
    peer: IpAddr,
}

impl Permit {
    fn acquire(open: &Arc<OpenConnections>, peer: IpAddr, limits: HttpLimits) -> Option<Self> {
        let peer = peer.to_canonical();
        let mut by_peer = open.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = by_peer.get(&peer).copied().unwrap_or(0);
        let total: usize = by_peer.values().sum();
        if total >= limits.connections || of_peer >= limits.connections_per_peer {
            return None;
        }
        by_peer.insert(peer, of_peer + 1);
        drop(by_peer);
        Some(Self {
            open: Arc::clone(open),
            peer,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut by_peer = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

async fn serve_metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn serve_ready(State(ready): State<watch::Receiver<bool>>) -> (StatusCode, &'static str) {
    if *ready.borrow() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the caches are not synced yet\n",
        )
    }
}

#[cfg(test)]
mod tests;
