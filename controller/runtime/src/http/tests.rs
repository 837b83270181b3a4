use std::net::Ipv4Addr;
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tower::ServiceExt;

use super::*;

async fn send_get(router: &Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn readyz_depends_on_the_caches_and_healthz_does_not() {
    let (set_ready, ready) = watch::channel(false);
    let router = health_router(ready);
    assert_eq!(send_get(&router, "/healthz").await.0, StatusCode::OK);
    assert_eq!(
        send_get(&router, "/readyz").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    set_ready.send(true).unwrap();
    assert_eq!(send_get(&router, "/readyz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn metrics_are_served() {
    let metrics = Arc::new(Metrics::new());
    metrics.set_leader(true);
    let (status, page) = send_get(&metrics_router(metrics), "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("serin_leader 1"), "{page}");
}

/// Starts a server on a free port.
async fn start(router: Router, limits: HttpLimits) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_on(listener, router, limits, std::future::pending()));
    address
}

/// Connects from one of the many addresses of the loopback interface.
async fn connect_from(peer: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let local = SocketAddr::from((Ipv4Addr::new(127, 0, 7, peer), 0));
    socket.bind(local).unwrap();
    socket.connect(address).await.unwrap()
}

/// Sends a request and returns the response. It is empty if the server closes the connection.
async fn exchange(mut stream: TcpStream, request: &str) -> String {
    let mut response = Vec::new();
    // The server may close the connection before or while the request is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8(response).unwrap()
}

/// Retries a request until the server has noticed that earlier connections are closed.
async fn wait_until_served(peer: u8, address: SocketAddr) {
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let served = async {
        while !exchange(connect_from(peer, address).await, request)
            .await
            .starts_with("HTTP/1.1 200")
        {}
    };
    timeout(Duration::from_secs(20), served)
        .await
        .expect("no request is served");
}

/// Memory of this process in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test]
async fn half_open_connections_exhaust_neither_the_memory_nor_the_health_port() {
    let metrics = start(
        metrics_router(Arc::new(Metrics::new())),
        HttpLimits::default(),
    )
    .await;
    let (_keep, ready) = watch::channel(true);
    let health = start(health_router(ready), HttpLimits::default()).await;
    let before = resident_bytes();
    let head = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(400_000));
    let head: Arc<str> = head.into();
    let mut attackers = JoinSet::new();
    // 70 addresses with 10 connections each.
    for number in (1..=70).cycle().take(700) {
        let head = Arc::clone(&head);
        attackers.spawn(async move {
            let mut stream = connect_from(number, metrics).await;
            let _ = stream.write_all(head.as_bytes()).await;
            let mut rest = Vec::new();
            // Returns when the server has closed the connection.
            let _ = stream.read_to_end(&mut rest).await;
        });
    }
    while !attackers.is_empty() {
        let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        let began = Instant::now();
        let response = exchange(connect_from(200, health).await, request).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(began.elapsed() < Duration::from_secs(5));
        let grown = resident_bytes().saturating_sub(before);
        // The connections have sent 280 MB.
        assert!(grown < 128 << 20, "{grown} bytes");
        let _ = timeout(Duration::from_millis(50), attackers.join_next()).await;
        while attackers.try_join_next().is_some() {}
    }
    // After the attack, metrics are served.
    wait_until_served(201, metrics).await;
}

#[tokio::test]
async fn connections_are_limited_in_total_and_for_each_address() {
    let limits = HttpLimits {
        connections: 3,
        connections_per_peer: 2,
        ..HttpLimits::default()
    };
    let address = start(metrics_router(Arc::new(Metrics::new())), limits).await;
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut open = vec![
        connect_from(1, address).await,
        connect_from(1, address).await,
    ];
    assert_eq!(exchange(connect_from(1, address).await, request).await, "");
    open.push(connect_from(2, address).await);
    assert_eq!(exchange(connect_from(3, address).await, request).await, "");
    // A connection has one request and is then closed.
    let response = exchange(open.remove(0), request).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    wait_until_served(3, address).await;
}

#[tokio::test]
async fn a_request_head_is_limited_in_size_and_time() {
    let limits = HttpLimits {
        head_timeout: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let address = start(metrics_router(Arc::new(Metrics::new())), limits).await;
    let large = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let response = exchange(connect_from(1, address).await, &large).await;
    assert!(!response.starts_with("HTTP/1.1 200"), "{response}");
    let began = Instant::now();
    let response = exchange(connect_from(1, address).await, "GET /metrics HT").await;
    assert!(!response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(began.elapsed() < Duration::from_secs(5));
}
