//! Limits on memory, concurrency, rate and addresses.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use tokio::sync::watch;

use super::*;
use crate::request::RolloutName;

/// A server that keeps its requests until the gate is open.
#[derive(Clone)]
struct Gated {
    open: watch::Sender<bool>,
    waiting: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    queries: Arc<Mutex<Vec<String>>>,
}

async fn answer_gated(State(gated): State<Gated>, form: String) -> &'static str {
    let form = reqwest::Url::parse(&format!("http://form/?{form}")).unwrap();
    let query = form.query_pairs().find(|(name, _)| name == "query");
    let query = query.unwrap().1.into_owned();
    gated.queries.lock().unwrap().push(query);
    let waiting = gated.waiting.fetch_add(1, Ordering::SeqCst) + 1;
    gated.most.fetch_max(waiting, Ordering::SeqCst);
    let _ = gated.open.subscribe().wait_for(|open| *open).await;
    gated.waiting.fetch_sub(1, Ordering::SeqCst);
    ONE
}

impl Gated {
    async fn serve() -> (Self, String) {
        let gated = Self {
            open: watch::Sender::new(false),
            waiting: Arc::default(),
            most: Arc::default(),
            queries: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/api/v1/query", post(answer_gated))
            .route("/a/api/v1/query", post(answer_gated))
            .route("/b/api/v1/query", post(answer_gated))
            .with_state(gated.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (gated, url)
    }

    async fn wait_for(&self, count: usize) {
        timeout(Duration::from_secs(10), async {
            while self.waiting.load(Ordering::SeqCst) < count {
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .expect("requests are waiting");
    }
}

fn rollout(name: &str) -> RolloutName {
    RolloutName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

fn poll_of(server: &Server, query: usize) -> PollSpec {
    PollSpec {
        server: server.clone(),
        queries: vec![format!("q{query}")],
        content: AnswerContent::Values,
        period: Duration::from_millis(20),
    }
}

fn patient(limits: Limits) -> Poller {
    poller(Limits {
        poll_timeout: Duration::from_secs(60),
        ..limits
    })
}

/// Polls with several servers until the gate has this number of requests, and checks that there are
/// never more.
async fn assert_concurrency(poller: &Poller, gated: &Gated, servers: &[Server], expected: usize) {
    let mut subscriptions: Vec<_> = servers
        .iter()
        .flat_map(|server| (0..20).map(move |query| poll_of(server, query)))
        .map(|poll| poller.subscribe(poll))
        .collect();
    gated.wait_for(expected).await;
    gated.open.send_replace(true);
    for subscription in &mut subscriptions {
        assert!(next_answer(subscription).await.answers.is_ok());
    }
    assert_eq!(gated.most.load(Ordering::SeqCst), expected);
}

#[tokio::test]
async fn servers_with_the_same_host_and_port_share_their_limit() {
    let (gated, url) = Gated::serve().await;
    let poller = patient(Limits {
        concurrent_polls: 3,
        ..Limits::default()
    });
    let mut with_header = Server::with_url(&url);
    with_header.headers = vec![("x-scope-orgid".into(), "shop".into())];
    let servers = [
        Server::with_url(format!("{url}/a")),
        Server::with_url(format!("{url}/b")),
        with_header,
    ];
    assert_concurrency(&poller, &gated, &servers, 3).await;
}

#[tokio::test]
async fn a_rollout_uses_a_part_of_a_server_and_others_continue() {
    let (gated, url) = Gated::serve().await;
    let poller = patient(Limits {
        concurrent_polls: 3,
        concurrent_polls_per_rollout: 2,
        ..Limits::default()
    });
    let of_rollout = |name: &str| Server {
        rollout: Some(rollout(name)),
        ..Server::with_url(&url)
    };
    let _greedy: Vec<_> = (0..20)
        .map(|query| poller.subscribe(poll_of(&of_rollout("greedy"), query)))
        .collect();
    gated.wait_for(2).await;
    let _other = poller.subscribe(poll_of(&of_rollout("other"), 100));
    gated.wait_for(3).await;
    let queries = gated.queries.lock().unwrap().clone();
    assert_eq!(queries.len(), 3);
    assert_eq!(queries[2], "q100");
}

#[tokio::test]
async fn requests_to_all_servers_together_are_limited() {
    let (gated, url) = Gated::serve().await;
    let (other, other_url) = Gated::serve().await;
    let poller = patient(Limits {
        concurrent_total: 4,
        ..Limits::default()
    });
    let _subscriptions: Vec<_> = [&url, &other_url]
        .into_iter()
        .flat_map(|url| (0..10).map(move |query| poll_of(&Server::with_url(url), query)))
        .map(|poll| poller.subscribe(poll))
        .collect();
    let waiting = || gated.waiting.load(Ordering::SeqCst) + other.waiting.load(Ordering::SeqCst);
    timeout(Duration::from_secs(10), async {
        while waiting() < 4 {
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
    gated.open.send_replace(true);
    other.open.send_replace(true);
    let most = |gated: &Gated| gated.most.load(Ordering::SeqCst);
    assert!(most(&gated) <= 4 && most(&other) <= 4);
}

#[tokio::test]
async fn the_rate_of_a_rollout_is_limited_and_that_of_others_is_not() {
    let server = answering(json(ONE)).await;
    let poller = poller(Limits {
        queries_per_second_per_rollout: 5,
        ..Limits::default()
    });
    let of_rollout = |name: &str| Server {
        rollout: Some(rollout(name)),
        ..Server::with_url(server.uri())
    };
    let began = Instant::now();
    // Ten at once, and ten in the two seconds after that.
    for _ in 0..20 {
        poller
            .query_once(&of_rollout("greedy"), "up", None)
            .await
            .unwrap();
    }
    assert!(
        began.elapsed() >= Duration::from_millis(1_700),
        "{:?}",
        began.elapsed()
    );
    let began = Instant::now();
    for _ in 0..10 {
        poller
            .query_once(&of_rollout("other"), "up", None)
            .await
            .unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_millis(1_700),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_rollout_does_not_get_a_new_rate_when_its_server_is_forgotten() {
    let server = answering(json(ONE)).await;
    let poller = poller(Limits {
        queries_per_second_per_rollout: 2,
        ..Limits::default()
    });
    let query = async |name: &str| {
        let server = Server {
            rollout: Some(rollout(name)),
            ..Server::with_url(server.uri())
        };
        poller.query_once(&server, "up", None).await.unwrap();
    };
    let began = Instant::now();
    for other in 0..8 {
        query("greedy").await;
        // A new server displaces those that nobody uses at the moment.
        query(&format!("other-{other}")).await;
    }
    assert!(
        began.elapsed() >= Duration::from_millis(1_200),
        "{:?}",
        began.elapsed()
    );
}

/// 8 objectives with three queries each and 16 checks, at their shortest intervals.
#[tokio::test]
async fn the_default_limits_suffice_for_the_largest_rollout() {
    let server = answering(json(ONE)).await;
    let poller = poller(Limits::default());
    let server = Server {
        rollout: Some(rollout("largest")),
        ..Server::with_url(server.uri())
    };
    let objective = |n: usize| PollSpec {
        queries: (0..3).map(|query| format!("o{n}_{query}")).collect(),
        content: AnswerContent::Series,
        period: Duration::from_millis(250),
        ..poll_of(&server, 0)
    };
    let check = |n: usize| PollSpec {
        period: Duration::from_secs(1),
        ..poll_of(&server, n)
    };
    let polls = (0..8).map(objective).chain((0..16).map(check));
    let mut subscriptions: Vec<_> = polls.map(|poll| poller.subscribe(poll)).collect();
    let began = Instant::now();
    for subscription in subscriptions.iter_mut().take(8) {
        next_answer(subscription).await;
    }
    for _ in 0..12 {
        next_answer(&mut subscriptions[0]).await;
    }
    // Twelve periods of 250 ms, which is longer than the tokens of a full bucket last.
    assert!(
        began.elapsed() < Duration::from_millis(4_500),
        "{:?}",
        began.elapsed()
    );
}

/// An answer of this number of bytes, mostly labels.
fn large(bytes: usize) -> String {
    let series = format!(
        r#"{{"metric":{{"a":"{}"}},"values":[[1,"2"]]}},"#,
        "x".repeat(900)
    );
    let series = series.repeat(bytes / series.len());
    format!(
        r#"{{"status":"success","data":{{"resultType":"matrix","result":[{}]}}}}"#,
        series.trim_end_matches(',')
    )
}

#[tokio::test]
async fn the_answers_of_a_rollout_take_at_most_half_of_the_memory() {
    let server = answering(json(&large(1 << 20))).await;
    let poller = poller(Limits {
        answer_bytes: 2 << 20,
        total_bytes: 0,
        ..Limits::default()
    });
    let query = async |name: &str| {
        let server = Server {
            rollout: Some(rollout(name)),
            ..Server::with_url(server.uri())
        };
        poller.query_once(&server, "up", None).await
    };
    let mut held = Vec::new();
    let error = loop {
        match query("greedy").await {
            Ok(answer) => held.push(answer),
            Err(error) => break error,
        }
        assert!(held.len() < 40, "the answers count until they are dropped");
    };
    assert!(held.len() > 2, "{}", held.len());
    assert_eq!(error.code(), HoldCode::TooLarge, "{error}");
    assert!(error.to_string().contains("of this Rollout"), "{error}");
    assert!(query("other").await.is_ok());
    held.clear();
    assert!(query("greedy").await.is_ok());
}

#[tokio::test]
async fn a_poll_keeps_nothing_after_its_subscribers_have_received_it() {
    let server = answering(json(&large(1 << 20))).await;
    let poller = poller(Limits::default());
    let mut subscription = poller.subscribe(PollSpec {
        period: Duration::from_secs(600),
        ..poll(&server, Duration::ZERO)
    });
    let result = next_answer(&mut subscription).await;
    assert!(poller.reserved_bytes() > 1 << 20, "two answers");
    drop(result);
    assert_eq!(poller.reserved_bytes(), 0);
}

#[tokio::test]
async fn a_small_answer_is_read_while_large_ones_use_up_the_memory() {
    let server = answering(json(&large(1 << 20))).await;
    let small = answering(json(ONE)).await;
    let poller = poller(Limits {
        answer_bytes: 2 << 20,
        total_bytes: 0,
        ..Limits::default()
    });
    let large = Server::with_url(server.uri());
    let mut held = Vec::new();
    while let Ok(answer) = poller.query_once(&large, "up", None).await {
        held.push(answer);
    }
    assert!(held.len() > 2, "{}", held.len());
    let small = Server::with_url(small.uri());
    assert!(poller.query_once(&small, "up", None).await.is_ok());
}

#[tokio::test]
async fn a_compressed_answer_of_many_series_is_refused() {
    let series = r#"{"metric":{"":""}},"#.repeat(400_000);
    let body = format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#,
        series.trim_end_matches(',')
    );
    let error = answer_to_default(&body).await.unwrap_err();
    assert_eq!(error.code(), HoldCode::TooLarge);
    assert!(error.to_string().contains("10000 series"), "{error}");
}

async fn answer_to_default(body: &str) -> Result<SingleAnswer, QueryError> {
    let server = answering(json(body)).await;
    poller(Limits::default())
        .query_once(&Server::with_url(server.uri()), "up", None)
        .await
}

#[tokio::test]
async fn a_rollout_cannot_reach_refused_addresses() {
    let server = answering(json(ONE)).await;
    let port = server.address().port();
    let poller = poller(Limits::default());
    // A connection of the installer must not be reused.
    let trusted = Server::with_url(format!("http://localhost:{port}"));
    assert!(poller.query_once(&trusted, "up", None).await.is_ok());
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "127.1",
        "169.254.169.254",
    ] {
        let restricted = Server {
            trust: AddressTrust::Restricted,
            ..Server::with_url(format!("http://{host}:{port}"))
        };
        let error = poller
            .query_once(&restricted, "up", None)
            .await
            .unwrap_err();
        assert_eq!(error.code(), HoldCode::Unreachable, "{host}");
        assert!(
            error.to_string().contains("Rollouts must not query"),
            "{host}: {error}"
        );
    }
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_query_to_a_server_has_its_required_matcher() {
    let (gated, url) = Gated::serve().await;
    gated.open.send_replace(true);
    let server = Server {
        required_matcher: Some(RequiredMatcher {
            label: "namespace".to_owned(),
            value: "shop".to_owned(),
        }),
        ..Server::with_url(url)
    };
    let poller = poller(Limits::default());
    for _ in 0..2 {
        poller.query_once(&server, "sum(up)", None).await.unwrap();
    }
    next_answer(&mut poller.subscribe(poll_of(&server, 1))).await;
    let error = poller.query_once(&server, "info(up)", None).await;
    assert_eq!(error.unwrap_err().code(), HoldCode::InvalidQuery);
    let mut queries = gated.queries.lock().unwrap().clone();
    queries.dedup();
    assert_eq!(
        queries,
        [r#"sum(up{namespace="shop"})"#, r#"q1{namespace="shop"}"#]
    );
}

/// Refuses every answer and records the sources.
#[derive(Default)]
struct RefusingGuard(Mutex<Vec<AnswerSource>>);

impl AnswerGuard for RefusingGuard {
    fn begin(&self, source: &AnswerSource) -> Result<Box<dyn std::any::Any + Send>, Duration> {
        self.0.lock().unwrap().push(source.clone());
        Err(Duration::from_secs(60))
    }
}

#[test]
fn only_large_answers_of_servers_that_rollouts_chose_are_guarded() {
    const LARGE: usize = 200 << 10;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let refusing = Arc::new(RefusingGuard::default());
    let guard: Arc<dyn AnswerGuard> = refusing.clone();
    let begin = |trust, bytes| {
        let server = Server {
            trust,
            rollout: Some(rollout("web")),
            ..Server::with_url("http://user:secret@prometheus.example:9090/tenant")
        };
        let http = HttpClient::new().unwrap();
        let http = http.connections(&server.tls, trust).unwrap();
        let guard = answer_guard::ServerGuard::new(Some(&guard), &server);
        let limits = Limits::default().of_answer();
        let client = client::Client::new(http, &server, limits, Arc::new(|_, _| {}), guard);
        client.unwrap().begin_decoding(bytes).map(|_| ())
    };
    assert_eq!(begin(AddressTrust::Trusted, LARGE), Ok(()));
    assert_eq!(begin(AddressTrust::Restricted, 1_000), Ok(()));
    assert_eq!(refusing.0.lock().unwrap().len(), 0);
    let error = begin(AddressTrust::Restricted, LARGE).unwrap_err();
    assert_eq!(error.code(), HoldCode::Unreachable);
    let message = error.to_string();
    assert!(message.contains("prometheus.example:9090"), "{message}");
    assert!(message.contains("60 s"), "{message}");
    let source = AnswerSource {
        namespace: "shop".to_owned(),
        server: "prometheus.example:9090".to_owned(),
    };
    assert_eq!(*refusing.0.lock().unwrap(), [source]);
}
