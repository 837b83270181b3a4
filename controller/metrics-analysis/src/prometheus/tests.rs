//! Faults of every kind, and the sharing of polls.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use wiremock::matchers::{body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

mod tls;

use super::*;

const ONE: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[1700000000.5,"7"]]}]}}"#;

fn poller(limits: Limits) -> Poller {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Poller::new(HttpClient::new().unwrap(), limits, Arc::new(|_, _| {}))
}

fn small() -> Limits {
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

async fn asked(response: ResponseTemplate) -> Result<Answer, QueryError> {
    let server = answering(response).await;
    poller(small())
        .ask_once(&Server::at(server.uri()), "up[10s]", None)
        .await
}

fn json(body: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(body, "application/json")
}

fn poll(server: &MockServer, period: Duration) -> Poll {
    Poll {
        server: Server::at(server.uri()),
        queries: vec!["total[10s]".into(), "errors[10s]".into()],
        period,
    }
}

#[tokio::test]
async fn an_answer_is_decoded() {
    let answer = asked(json(ONE)).await.unwrap();
    assert_eq!(answer[0].samples, [(1_700_000_000_500, 7.0)]);
}

#[tokio::test]
async fn every_fault_is_named() {
    let kind = async |response| asked(response).await.unwrap_err().kind();
    assert_eq!(kind(json(&ONE[..60])).await, "Malformed");
    assert_eq!(
        kind(json(&format!("[{}]", "1,".repeat(10_000)))).await,
        "TooLarge"
    );
    assert_eq!(
        kind(ResponseTemplate::new(502).set_body_string("<html>")).await,
        "Unreachable"
    );
    assert_eq!(kind(ResponseTemplate::new(401)).await, "Unauthorized");
    assert_eq!(
        kind(ResponseTemplate::new(403).set_body_string("<html>")).await,
        "Unauthorized"
    );
    assert_eq!(
        kind(ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:1/")).await,
        "Unreachable"
    );
    let refused = r#"{"status":"error","errorType":"bad_data","error":"1:5: parse error"}"#;
    assert_eq!(
        kind(ResponseTemplate::new(400).set_body_raw(refused, "application/json")).await,
        "InvalidQuery"
    );
    let busy = r#"{"status":"error","errorType":"timeout","error":"query timed out"}"#;
    assert_eq!(
        kind(ResponseTemplate::new(503).set_body_raw(busy, "application/json")).await,
        "Timeout"
    );
    let partial = r#"{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["a store is away"]}"#;
    assert_eq!(kind(json(partial)).await, "Partial");
}

#[tokio::test]
async fn an_answer_that_takes_half_a_minute_is_not_waited_for() {
    let server = answering(json(ONE).set_delay(Duration::from_secs(30))).await;
    let limits = Limits {
        single_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let began = Instant::now();
    let error = poller(limits)
        .ask_once(&Server::at(server.uri()), "up", None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), "Timeout");
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let poller = poller(small());
    for url in ["http://127.0.0.1:1", "not a url", "ftp://127.0.0.1"] {
        let error = poller
            .ask_once(&Server::at(url), "up", None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), "Unreachable", "{url}: {error}");
    }
}

#[tokio::test]
async fn headers_and_time_are_sent_and_headers_never_shown() {
    let server = MockServer::start().await;
    Mock::given(header("authorization", "Bearer s3cret"))
        .and(body_string_contains("time=1700000000.250"))
        .respond_with(json(ONE))
        .mount(&server)
        .await;
    let headers = vec![("Authorization".into(), "Bearer s3cret".into())];
    let to = Server {
        headers,
        ..Server::at(server.uri())
    };
    let poller = poller(small());
    assert!(
        poller
            .ask_once(&to, "up", Some(1_700_000_000_250))
            .await
            .is_ok()
    );
    let away = Server {
        url: "http://127.0.0.1:1".into(),
        ..to
    };
    let error = poller.ask_once(&away, "up", None).await.unwrap_err();
    let shown = format!("{error} {error:?} {poller:?} {away:?}");
    assert!(
        shown.contains("127.0.0.1:1") && !shown.contains("s3cret"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_poll_of_many_is_asked_once_and_ends_with_the_last() {
    let server = answering(json(ONE)).await;
    let poller = poller(Limits::default());
    let mut followers: Vec<_> = (0..50)
        .map(|_| poller.subscribe(poll(&server, Duration::from_millis(50))))
        .collect();
    for follower in &mut followers {
        let asked = next_answer(follower).await;
        assert_eq!(asked.answers.as_ref().unwrap().len(), 2);
    }
    assert_eq!(poller.polls(), 1);
    sleep(Duration::from_millis(500)).await;
    drop(followers);
    timeout(Duration::from_secs(5), async {
        while poller.polls() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let requests = server.received_requests().await.unwrap().len();
    // Two queries every 50 ms for about half a second: far from fifty times that.
    assert!((4..=30).contains(&requests), "{requests} requests");
}

#[tokio::test]
async fn a_server_that_hangs_delays_nobody_else() {
    let hanging = answering(json(ONE).set_delay(Duration::from_secs(30))).await;
    let quick = answering(json(ONE)).await;
    let poller = poller(Limits {
        poll_timeout: Duration::from_secs(10),
        ..Limits::default()
    });
    let mut stuck: Vec<_> = (0..40)
        .map(|n| {
            poller.subscribe(Poll {
                queries: vec![format!("q{n}")],
                ..poll(&hanging, Duration::from_millis(50))
            })
        })
        .collect();
    sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    let asked = next_answer(&mut poller.subscribe(poll(&quick, Duration::from_millis(50)))).await;
    assert!(asked.answers.is_ok());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let asked = timeout(Duration::from_secs(20), next_answer(&mut stuck[0]))
        .await
        .unwrap();
    assert_eq!(asked.answers.as_ref().unwrap_err().kind(), "Timeout");
}

#[tokio::test]
async fn a_server_in_trouble_is_left_alone_for_longer_and_longer_and_then_found_again() {
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
    // A quarter, half and one second, and up to as much again by chance.
    assert!(
        began.elapsed() >= Duration::from_millis(1_750),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_refused_query_is_not_asked_at_full_speed() {
    let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
    let server =
        answering(ResponseTemplate::new(400).set_body_raw(refused, "application/json")).await;
    let poller = poller(Limits::default());
    let mut follower = poller.subscribe(poll(&server, Duration::from_millis(10)));
    next_answer(&mut follower).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}
