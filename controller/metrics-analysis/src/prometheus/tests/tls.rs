//! Prometheus with TLS and authentication.

use serin_core::hold::HoldCode;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serin_fake_cluster::certificates::{CertificateAndKey, CertificateAuthority};

use super::*;

const TOKEN: &str = "Bearer s3cret-t0ken";

fn authority() -> CertificateAuthority {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    CertificateAuthority::new().unwrap()
}

async fn answer(headers: HeaderMap) -> (StatusCode, &'static str) {
    let is_known = headers
        .get("authorization")
        .is_some_and(|value| value == TOKEN);
    if is_known {
        (StatusCode::OK, ONE)
    } else {
        (StatusCode::UNAUTHORIZED, "who are you?")
    }
}

/// Starts a Prometheus with a certificate of this CA. Returns the server to query and the number of
/// accepted connections.
async fn serve(
    authority: &CertificateAuthority,
    mutual: bool,
) -> (Server, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = authority.listen(mutual).await.unwrap();
    let (url, accepted) = (listener.url().unwrap(), listener.accepted());
    let router = Router::new().route("/api/v1/query", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let tls = Tls::default()
        .with_ca_bundle(authority.pem().as_bytes())
        .unwrap();
    (
        Server {
            headers: vec![("authorization".into(), TOKEN.into())],
            tls,
            ..Server::with_url(url)
        },
        accepted,
    )
}

async fn error(server: &Server) -> QueryError {
    let error = poller(small_limits())
        .query_once(server, "up", None)
        .await
        .unwrap_err();
    let shown = format!("{error} {error:?} {server:?}");
    assert!(
        !shown.contains("s3cret") && !shown.contains("BEGIN"),
        "{shown}"
    );
    error
}

#[tokio::test]
async fn a_trusted_server_answers_requests_with_credentials() {
    let (server, _) = serve(&authority(), false).await;
    assert_eq!(
        poller(small_limits())
            .query_once(&server, "up", None)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_not_trusted() {
    let (server, _) = serve(&authority(), false).await;
    let tls = Tls::default()
        .with_ca_bundle(authority().pem().as_bytes())
        .unwrap();
    for tls in [tls, Tls::default()] {
        let error = error(&Server {
            tls,
            ..server.clone()
        })
        .await;
        assert_eq!(error.code(), HoldCode::UntrustedCertificate, "{error}");
        assert!(
            error.to_string().contains("invalid peer certificate"),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("spec.analysis.prometheus.tls.caFrom"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_trusted() {
    let (server, _) = serve(&authority(), false).await;
    let error = error(&Server {
        url: server.url.replace("127.0.0.1", "localhost"),
        ..server
    })
    .await;
    assert_eq!(error.code(), HoldCode::UntrustedCertificate, "{error}");
    assert!(error.to_string().contains("localhost"), "{error}");
}

#[tokio::test]
async fn a_missing_header_is_reported_as_unauthorized() {
    let (server, _) = serve(&authority(), false).await;
    let error = error(&Server {
        headers: Vec::new(),
        ..server
    })
    .await;
    assert_eq!(error.code(), HoldCode::Unauthorized);
    assert!(error.to_string().contains("401 Unauthorized"), "{error}");
    assert!(
        error
            .to_string()
            .contains("spec.analysis.prometheus.headersFrom"),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_certificate_is_sent_on_request() {
    let authority = authority();
    let (server, _) = serve(&authority, true).await;
    let error = error(&server).await;
    assert_eq!(error.code(), HoldCode::Unauthorized, "{error}");
    assert!(
        error.to_string().contains("clientCertificateFrom"),
        "{error}"
    );
    let CertificateAndKey { certificate, key } = authority.issue_certificate().unwrap();
    let tls = server
        .tls
        .clone()
        .with_client_certificate(certificate.as_bytes(), key.as_bytes())
        .unwrap();
    let server = Server { tls, ..server };
    assert_eq!(
        poller(small_limits())
            .query_once(&server, "up", None)
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(!format!("{server:?}").contains("BEGIN"));
}

#[tokio::test]
async fn servers_with_equal_tls_options_share_connections() {
    let (server, accepted) = serve(&authority(), false).await;
    let poller = poller(small_limits());
    let poll = |server: &Server| PollSpec {
        server: server.clone(),
        queries: vec!["up".into()],
        content: AnswerContent::Series,
        period: Duration::from_secs(600),
    };
    let mut tenant = server.clone();
    tenant.headers.push(("x-scope-orgid".into(), "shop".into()));
    let mut first = poller.subscribe(poll(&server));
    assert!(next_answer(&mut first).await.answers.is_ok());
    let same = poller.subscribe(poll(&server));
    assert_eq!((poller.poll_count(), poller.server_count()), (1, 1));
    let mut other = poller.subscribe(poll(&tenant));
    assert!(next_answer(&mut other).await.answers.is_ok());
    assert_eq!(poller.poll_count(), 2, "the tenant's answer is not shared");
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    drop((first, same, other));
    timeout(Duration::from_secs(5), async {
        while poller.poll_count() > 0 || poller.server_count() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("unused servers and their credentials are dropped");
}
