//! Query failures and shared polls.

use serin_core::hold::HoldCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use wiremock::matchers::{body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

mod limits;
mod tls;

use super::*;

const ONE: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[1700000000.5,"7"]]}]}}"#;

fn poller(limits: Limits) -> Poller {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Poller::new(HttpClient::new().unwrap(), limits, Arc::new(|_, _| {}))
}

fn small_limits() -> Limits {
    Limits {
        answer_bytes: 10_000,
        ..Limits::default()
    }
}

async fn answering(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/api/v1/query"))
        .respond_with(response)
        .mount(&server)
        .await;
    server
}

async fn answer_to(response: ResponseTemplate) -> Result<SingleAnswer, QueryError> {
    let server = answering(response).await;
    poller(small_limits())
        .query_once(&Server::with_url(server.uri()), "up[10s]", None)
        .await
}

fn json(body: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(body, "application/json")
}

fn poll(server: &MockServer, period: Duration) -> PollSpec {
    PollSpec {
        server: Server::with_url(server.uri()),
        queries: vec!["total[10s]".into(), "errors[10s]".into()],
        content: AnswerContent::Series,
        period,
    }
}

#[tokio::test]
async fn an_answer_is_decoded() {
    let answer = answer_to(json(ONE)).await.unwrap();
    assert_eq!(answer[0].samples, [(1_700_000_000_500, 7.0)]);
}

#[tokio::test]
async fn every_failure_has_its_cause() {
    let kind = async |response| answer_to(response).await.unwrap_err().code();
    assert_eq!(kind(json(&ONE[..60])).await, HoldCode::Malformed);
    assert_eq!(
        kind(json(&format!("[{}]", "1,".repeat(10_000)))).await,
        HoldCode::TooLarge
    );
    assert_eq!(
        kind(ResponseTemplate::new(502).set_body_string("<html>")).await,
        HoldCode::Unreachable
    );
    assert_eq!(
        kind(ResponseTemplate::new(401)).await,
        HoldCode::Unauthorized
    );
    assert_eq!(
        kind(ResponseTemplate::new(403).set_body_string("<html>")).await,
        HoldCode::Unauthorized
    );
    assert_eq!(
        kind(ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:1/")).await,
        HoldCode::Unreachable
    );
    let refused = r#"{"status":"error","errorType":"bad_data","error":"1:5: parse error"}"#;
    assert_eq!(
        kind(ResponseTemplate::new(400).set_body_raw(refused, "application/json")).await,
        HoldCode::InvalidQuery
    );
    let busy = r#"{"status":"error","errorType":"timeout","error":"query timed out"}"#;
    assert_eq!(
        kind(ResponseTemplate::new(503).set_body_raw(busy, "application/json")).await,
        HoldCode::Timeout
    );
    let partial = r#"{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["a store is away"]}"#;
    assert_eq!(kind(json(partial)).await, HoldCode::Partial);
}

#[tokio::test]
async fn a_slow_query_times_out() {
    let server = answering(json(ONE).set_delay(Duration::from_secs(30))).await;
    let limits = Limits {
        single_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let began = Instant::now();
    let error = poller(limits)
        .query_once(&Server::with_url(server.uri()), "up", None)
        .await
        .unwrap_err();
    assert_eq!(error.code(), HoldCode::Timeout);
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_missing_server_is_unreachable() {
    let poller = poller(small_limits());
    for url in ["http://127.0.0.1:1", "not a url", "ftp://127.0.0.1"] {
        let error = poller
            .query_once(&Server::with_url(url), "up", None)
            .await
            .unwrap_err();
        assert_eq!(error.code(), HoldCode::Unreachable, "{url}: {error}");
    }
}

#[tokio::test]
async fn headers_and_time_are_sent_and_headers_are_never_printed() {
    let server = MockServer::start().await;
    Mock::given(header("authorization", "Bearer s3cret"))
        .and(body_string_contains("time=1700000000.250"))
        .respond_with(json(ONE))
        .mount(&server)
        .await;
    let headers = vec![("Authorization".into(), "Bearer s3cret".into())];
    let to = Server {
        headers,
        ..Server::with_url(server.uri())
    };
    let poller = poller(small_limits());
    assert!(
        poller
            .query_once(&to, "up", Some(1_700_000_000_250))
            .await
            .is_ok()
    );
    let away = Server {
        url: "http://127.0.0.1:1".into(),
        ..to
    };
    let error = poller.query_once(&away, "up", None).await.unwrap_err();
    let shown = format!("{error} {error:?} {poller:?} {away:?}");
    assert!(
        shown.contains("127.0.0.1:1") && !shown.contains("s3cret"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_shared_poll_is_sent_once_and_ends_with_its_last_subscriber() {
    let server = answering(json(ONE)).await;
    let poller = poller(Limits::default());
    let mut followers: Vec<_> = (0..50)
        .map(|_| poller.subscribe(poll(&server, Duration::from_millis(50))))
        .collect();
    for follower in &mut followers {
        let answer_to = next_answer(follower).await;
        assert_eq!(answer_to.answers.as_ref().unwrap().len(), 2);
    }
    assert_eq!(poller.poll_count(), 1);
    sleep(Duration::from_millis(500)).await;
    drop(followers);
    timeout(Duration::from_secs(5), async {
        while poller.poll_count() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let requests = server.received_requests().await.unwrap().len();
    // Two queries every 50 ms for about half a second, far less than fifty times that.
    assert!((4..=30).contains(&requests), "{requests} requests");
}

#[tokio::test]
async fn a_hanging_server_does_not_delay_others() {
    let hanging = answering(json(ONE).set_delay(Duration::from_secs(30))).await;
    let quick = answering(json(ONE)).await;
    let poller = poller(Limits {
        poll_timeout: Duration::from_secs(10),
        ..Limits::default()
    });
    let mut stuck: Vec<_> = (0..40)
        .map(|n| {
            poller.subscribe(PollSpec {
                queries: vec![format!("q{n}")],
                ..poll(&hanging, Duration::from_millis(50))
            })
        })
        .collect();
    sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    let answer_to =
        next_answer(&mut poller.subscribe(poll(&quick, Duration::from_millis(50)))).await;
    assert!(answer_to.answers.is_ok());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let answer_to = timeout(Duration::from_secs(20), next_answer(&mut stuck[0]))
        .await
        .unwrap();
    assert_eq!(
        answer_to.answers.as_ref().unwrap_err().code(),
        HoldCode::Timeout
    );
}

#[tokio::test]
async fn an_unavailable_server_is_retried_with_growing_backoff() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(3)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .respond_with(json(ONE))
        .mount(&server)
        .await;
    let poller = poller(Limits::default());
    let mut follower = poller.subscribe(poll(&server, Duration::from_millis(10)));
    let began = Instant::now();
    let mut failures = 0;
    while next_answer(&mut follower).await.answers.is_err() {
        failures += 1;
    }
    assert_eq!(failures, 3);
    // 0.25 s, 0.5 s and 1 s, plus a jitter of up to the same duration.
    assert!(
        began.elapsed() >= Duration::from_millis(1_750),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_rejected_query_is_retried_slowly() {
    let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
    let server =
        answering(ResponseTemplate::new(400).set_body_raw(refused, "application/json")).await;
    let poller = poller(Limits::default());
    let mut follower = poller.subscribe(poll(&server, Duration::from_millis(10)));
    next_answer(&mut follower).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}
