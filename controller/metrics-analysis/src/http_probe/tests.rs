//! Requests to endpoints that do what they should not.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::*;
use crate::checks::HeaderSource;

const SENDER: Sender<'_> = Sender {
    namespace: "shop",
    check: "smoke",
};

/// Starts an endpoint that handles each connection after its request head was read. Returns its URL.
async fn endpoint<F, R>(handle: F) -> String
where
    F: Fn(String, TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4_096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            tokio::spawn(handle(head, stream));
        }
    });
    format!("http://{address}/healthz")
}

async fn respond(mut stream: TcpStream, head: &str, body: &str) {
    let length = body.len();
    let text = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
}

fn prober(allowed: &[&str]) -> HttpProber {
    // Another test may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let allowed = allowed.iter().map(|address| address.parse().unwrap());
    HttpProber::new(
        HttpClient::new().unwrap(),
        allowed.collect(),
        ProbeLimits::default(),
    )
}

fn request(url: &str) -> HttpRequest {
    HttpRequest {
        url: url.to_owned(),
        method: HttpMethod::Get,
        headers: Vec::new(),
        body: String::new(),
        timeout: Duration::from_millis(500),
    }
}

async fn probe(url: &str) -> ProbeOutcome {
    prober(&["http://127.0.0.1"])
        .send(&request(url), &[], &SENDER)
        .await
}

#[tokio::test]
async fn a_response_is_its_status_and_its_body() {
    let url = endpoint(|head, stream| async move {
        let body = if head.starts_with("POST") && head.contains("authorization: Bearer t") {
            "{\"ready\":true}"
        } else {
            "no"
        };
        respond(stream, "200 OK", body).await;
    })
    .await;
    let posted = HttpRequest {
        method: HttpMethod::Post,
        headers: vec![(
            "Authorization".to_owned(),
            HeaderSource::Text(String::new()),
        )],
        body: "{}".to_owned(),
        ..request(&url)
    };
    let headers = [("Authorization".to_owned(), "Bearer t".to_owned())];
    let outcome = prober(&["http://127.0.0.1"])
        .send(&posted, &headers, &SENDER)
        .await;
    assert_eq!(
        outcome,
        ProbeOutcome::Response {
            status: 200,
            body: "{\"ready\":true}".to_owned()
        }
    );
}

#[tokio::test]
async fn an_endpoint_that_never_answers_or_drips_ends_with_the_timeout() {
    let hung = endpoint(|_, stream| async move {
        sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let dripping = endpoint(|_, mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
            .await;
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for url in [hung, dripping] {
        let began = Instant::now();
        let outcome = probe(&url).await;
        let ProbeOutcome::Unreachable(why) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(why.contains("longer than 0.5 s"), "{why}");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_hung_endpoint_delays_no_other_host_and_no_other_namespace() {
    let hung = endpoint(|_, stream| async move {
        sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let good =
        endpoint(|_, stream| async move { respond(stream, "204 No Content", "").await }).await;
    let prober = prober(&["http://127.0.0.1"]);
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (prober, request) = (prober.clone(), request(&hung));
            tokio::spawn(async move { prober.send(&request, &[], &SENDER).await })
        })
        .collect();
    sleep(Duration::from_millis(50)).await;
    let other = Sender {
        namespace: "pay",
        ..SENDER
    };
    let began = Instant::now();
    let outcome = prober.send(&request(&good), &[], &other).await;
    assert!(
        matches!(outcome, ProbeOutcome::Response { status: 204, .. }),
        "{outcome:?}"
    );
    assert!(
        began.elapsed() < Duration::from_millis(300),
        "{:?}",
        began.elapsed()
    );
    for waiting in waiting {
        let outcome = waiting.await.unwrap();
        assert!(
            !matches!(outcome, ProbeOutcome::Response { .. }),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_response_without_end_is_not_read_to_its_end() {
    let url = endpoint(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 4_096]).await.is_ok() {}
    })
    .await;
    let outcome = probe(&url).await;
    let ProbeOutcome::Refused(error) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.code, HoldCode::CheckUnreadable);
    assert!(error.message.contains("more than 32 KiB"), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_a_response_and_is_not_followed() {
    let url = endpoint(|_, stream| async move {
        let head = "302 Found\r\nlocation: http://169.254.169.254/latest/meta-data";
        respond(stream, head, "").await;
    })
    .await;
    let outcome = probe(&url).await;
    assert!(
        matches!(outcome, ProbeOutcome::Response { status: 302, .. }),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn only_services_of_the_namespace_and_listed_addresses_are_contacted() {
    let url = endpoint(|_, stream| async move { respond(stream, "200 OK", "").await }).await;
    for (url, reason) in [
        (url.as_str(), "a loopback address"),
        ("http://169.254.169.254/", "a link-local address"),
        ("http://[::ffff:169.254.169.254]/", "a link-local address"),
        (
            "http://checkout.pay.svc/",
            "not a Service of the namespace shop",
        ),
        (
            "http://checkout.shop/",
            "not a Service of the namespace shop",
        ),
        ("http://.shop.svc/", "not a Service of the namespace shop"),
        (
            "http://checkout.shop.svc.evil.example/",
            "not a Service of the namespace shop",
        ),
        (
            "http://checkout.shop.svc@evil.example/",
            "not a Service of the namespace shop",
        ),
    ] {
        let outcome = prober(&["http://127.0.0.1:1"])
            .send(&request(url), &[], &SENDER)
            .await;
        let ProbeOutcome::Refused(error) = outcome else {
            panic!("{url}: {outcome:?}");
        };
        assert!(error.message.contains(reason), "{url}: {error:?}");
        assert!(
            error.message.contains("--check-allowed-address"),
            "{error:?}"
        );
    }
    for url in [
        "http://a.shop.svc:8080/x",
        "http://A.shop.svc.cluster.local./?q=1",
    ] {
        assert!(is_service_of(url, "shop"), "{url}");
    }
}

#[tokio::test]
async fn headers_of_the_connection_are_refused() {
    for name in ["Host", "content-length", "a b", ""] {
        let headers = [(name.to_owned(), "x".to_owned())];
        let outcome = prober(&["http://127.0.0.1"])
            .send(&request("http://127.0.0.1:1/"), &headers, &SENDER)
            .await;
        assert!(
            matches!(outcome, ProbeOutcome::Refused(_)),
            "{name}: {outcome:?}"
        );
    }
}
