//! The HTTP service: its responses, its readiness and its faults.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use crate::{
    config::Config,
    metrics::{self, Metrics},
    pod_fault::PodFault,
    sessions::Sessions,
};

/// The header with the version of the service.
const X_VERSION: HeaderName = HeaderName::from_static("x-version");

/// One running service.
#[derive(Debug)]
pub struct Service {
    version: String,
    version_header: HeaderValue,
    error_fraction: f64,
    /// Time of the first failing request.
    errors_from: Instant,
    /// Time from which no request fails.
    errors_until: Option<Instant>,
    latency: Duration,
    latency_jitter: Duration,
    cpu_time: Duration,
    /// When the service becomes ready. `None` if it never does.
    ready_at: Option<Instant>,
    crash_after_requests: Option<u64>,
    request_count: AtomicU64,
    crash: Notify,
    draining: watch::Sender<bool>,
    random: Mutex<SmallRng>,
    metrics: Metrics,
    sessions: Sessions,
    pod_fault: Mutex<PodFault>,
}

impl Service {
    /// Creates the service and starts its start delay.
    pub fn new(config: &Config) -> Self {
        Self {
            version: config.version.clone(),
            version_header: config.version_header.clone(),
            error_fraction: config.error_fraction,
            errors_from: Instant::now() + config.error_after,
            errors_until: config.error_until.map(|until| Instant::now() + until),
            latency: config.latency,
            latency_jitter: config.latency_jitter,
            cpu_time: config.cpu_time,
            ready_at: config.ready_after.map(|delay| Instant::now() + delay),
            crash_after_requests: config.crash_after_requests,
            request_count: AtomicU64::new(0),
            crash: Notify::new(),
            draining: watch::Sender::new(false),
            random: Mutex::new(
                config
                    .seed
                    .map_or_else(SmallRng::from_os_rng, SmallRng::seed_from_u64),
            ),
            metrics: Metrics::new(&config.version),
            sessions: Sessions::default(),
            pod_fault: Mutex::default(),
        }
    }

    /// Becomes unready permanently and sends `connection: close` from now on.
    pub fn start_draining(&self) {
        self.draining.send_replace(true);
    }

    /// Waits until the service drains.
    pub async fn wait_until_draining(&self) {
        // The only error is a dropped sender, and `self` holds the sender.
        let _ = self
            .draining
            .subscribe()
            .wait_for(|draining| *draining)
            .await;
    }

    /// Waits for the request that crashes the service.
    pub async fn wait_until_crash(&self) {
        self.crash.notified().await;
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    fn is_ready(&self) -> bool {
        !self.is_draining() && self.ready_at.is_some_and(|at| at <= Instant::now())
    }

    /// Draws the outcome of one request: whether it succeeds, and its duration.
    fn draw_outcome(&self) -> (bool, Duration) {
        let fault = *self
            .pod_fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may_fail = now >= self.errors_from && self.errors_until.is_none_or(|until| now < until);
        let ok = !random.random_bool(self.error_fraction) || !may_fail;
        let jitter = random.random_range(Duration::ZERO..=self.latency_jitter);
        let of_pod = if fault.slow_fraction > 0.0 && random.random_bool(fault.slow_fraction) {
            fault.latency
        } else {
            Duration::ZERO
        };
        (ok, self.latency + jitter + of_pod)
    }
}

/// The routes: probes, metrics, and the service on every other path.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readiness))
        .route("/metrics", get(scrape))
        .route("/fault", post(set_pod_fault))
        .fallback(handle_request)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&service),
            add_version_header,
        ))
        .with_state(service)
}

async fn readiness(State(service): State<Arc<Service>>) -> Response {
    if service.is_ready() {
        "ready\n".into_response()
    } else {
        let why = if service.is_draining() {
            "draining\n"
        } else {
            "not ready\n"
        };
        (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
    }
}

async fn scrape(State(service): State<Arc<Service>>) -> Response {
    service
        .metrics
        .count_sessions(service.sessions.take_ended());
    match service.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Slows requests of this pod down from now on.
async fn set_pod_fault(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Response {
    match PodFault::from_query(query.as_deref().unwrap_or_default()) {
        Ok(fault) => {
            *service
                .pod_fault
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = fault;
            "set\n".into_response()
        }
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    }
}

async fn handle_request(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    let arrived = Instant::now();
    if service
        .crash_after_requests
        .is_some_and(|most| service.request_count.fetch_add(1, Ordering::Relaxed) >= most)
    {
        service.crash.notify_one();
        // The process exits before this request gets a response, as in a real crash.
        return std::future::pending().await;
    }
    use_cpu(service.cpu_time);
    let (is_lucky, takes) = service.draw_outcome();
    let ok = is_lucky && !headers.contains_key("x-broken");
    if !takes.is_zero() {
        sleep(takes).await;
    }
    service.metrics.count(ok, arrived.elapsed());
    service.sessions.record(&headers, ok);
    if ok {
        format!("serin-sample {}\n", service.version).into_response()
    } else {
        let text = format!(
            "serin-sample {}: this request fails because of ERROR_RATE or x-broken\n",
            service.version
        );
        (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
    }
}

/// Keeps a CPU busy for this time. It is the load that an autoscaler sees.
fn use_cpu(time: Duration) {
    let begin = std::time::Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Adds the version to every response, and closes keep-alive connections while the service drains:
/// a client that reuses one while the service stops would lose its request.
async fn add_version_header(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .insert(X_VERSION, service.version_header.clone());
    if service.is_draining() {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn service(variables: &[(&str, &str)]) -> Arc<Service> {
        let variables = [("VERSION", "v2")].iter().chain(variables);
        let config =
            Config::from_environment(variables.map(|(name, value)| (name.into(), value.into())))
                .unwrap();
        Arc::new(Service::new(&config))
    }

    async fn get_path(service: &Arc<Service>, path: &str) -> Response {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        router(Arc::clone(service)).oneshot(request).await.unwrap()
    }

    async fn text(response: Response) -> String {
        String::from_utf8(
            response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .to_vec(),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn every_response_carries_the_version_header() {
        let service = service(&[("ERROR_RATE", "100")]);
        for (path, status) in [
            ("/", 500),
            ("/any/path", 500),
            ("/healthz", 200),
            ("/readyz", 200),
            ("/metrics", 200),
        ] {
            let response = get_path(&service, path).await;
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.headers()["x-version"], "v2", "{path}");
            assert!(!response.headers().contains_key("connection"), "{path}");
        }
        assert!(
            text(get_path(&service, "/").await)
                .await
                .starts_with("serin-sample v2: this request fails")
        );
    }

    #[tokio::test]
    async fn probes_and_scrapes_are_not_counted() {
        let service = service(&[]);
        for path in ["/healthz", "/readyz", "/metrics", "/", "/shop"] {
            get_path(&service, path).await;
        }
        let response = get_path(&service, "/metrics").await;
        assert_eq!(response.headers()["content-type"], metrics::CONTENT_TYPE);
        let text = text(response).await;
        assert!(
            text.contains("http_requests_total{code=\"200\",version=\"v2\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("http_requests_total{code=\"500\",version=\"v2\"} 0\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn the_error_rate_is_met_and_the_seed_makes_it_repeatable() {
        let run = async |seed: &str| {
            let service = service(&[("ERROR_RATE", "10"), ("SEED", seed)]);
            let mut failed = Vec::new();
            for request in 0..2_000 {
                if get_path(&service, "/").await.status() == 500 {
                    failed.push(request);
                }
            }
            failed
        };
        let first = run("1").await;
        // 200 plus or minus five standard deviations (13.4 each), with a fixed seed.
        assert!((133..=267).contains(&first.len()), "{}", first.len());
        assert_eq!(first, run("1").await);
        assert_ne!(first, run("2").await);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_start_after_the_configured_delay() {
        let service = service(&[("ERROR_RATE", "100"), ("ERROR_AFTER_MS", "1000")]);
        sleep(Duration::from_millis(999)).await;
        assert_eq!(get_path(&service, "/").await.status(), 200);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(get_path(&service, "/").await.status(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_end_after_the_configured_time() {
        let service = service(&[("ERROR_RATE", "100"), ("ERROR_UNTIL_MS", "1000")]);
        sleep(Duration::from_millis(999)).await;
        assert_eq!(get_path(&service, "/").await.status(), 500);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(get_path(&service, "/").await.status(), 200);
    }

    async fn send(service: &Arc<Service>, request: Request) -> Response {
        router(Arc::clone(service)).oneshot(request).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn broken_requests_fail_and_their_session_is_counted_once() {
        let service = service(&[]);
        for _ in 0..3 {
            let request = Request::builder()
                .uri("/")
                .header("x-session", "a")
                .header("x-broken", "true")
                .body(Body::empty())
                .unwrap();
            assert_eq!(send(&service, request).await.status(), 500);
        }
        sleep(Duration::from_secs(3)).await;
        let text = text(get_path(&service, "/metrics").await).await;
        assert!(
            text.contains("sessions_total 1\n") && text.contains("sessions_with_error_total 1\n"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_can_be_slowed_down_while_it_runs() {
        let service = service(&[]);
        let fault = |query: &str| {
            Request::builder()
                .method("POST")
                .uri(format!("/fault?{query}"))
                .body(Body::empty())
                .unwrap()
        };
        let answer = send(&service, fault("slow_percent=100&latency_ms=150")).await;
        assert_eq!(answer.status(), 200);
        let start = Instant::now();
        get_path(&service, "/").await;
        assert!(start.elapsed() >= Duration::from_millis(150));
        let answer = send(&service, fault("slow_percent=a")).await;
        assert_eq!(answer.status(), 400);
    }

    #[tokio::test(start_paused = true)]
    async fn latency_includes_bounded_jitter() {
        let service = service(&[
            ("LATENCY_MS", "20"),
            ("LATENCY_JITTER_MS", "10"),
            ("SEED", "1"),
        ]);
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let start = Instant::now();
            get_path(&service, "/").await;
            // The timers of the runtime have a resolution of 1 ms.
            assert!(
                (20..=31).contains(&start.elapsed().as_millis()),
                "{:?}",
                start.elapsed()
            );
            longest = longest.max(start.elapsed());
        }
        assert!(longest > Duration::from_millis(25), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_starts_after_the_delay_and_ends_with_the_drain() {
        let service = service(&[("START_DELAY_MS", "1000")]);
        sleep(Duration::from_millis(999)).await;
        assert_eq!(get_path(&service, "/readyz").await.status(), 503);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(get_path(&service, "/readyz").await.status(), 200);
        service.start_draining();
        service.wait_until_draining().await;
        assert_eq!(get_path(&service, "/readyz").await.status(), 503);
        let response = get_path(&service, "/").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["connection"], "close");
        assert_eq!(get_path(&service, "/healthz").await.status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn never_ready_is_never_ready() {
        let service = service(&[("NEVER_READY", "true")]);
        sleep(Duration::from_hours(24)).await;
        assert_eq!(
            text(get_path(&service, "/readyz").await).await,
            "not ready\n"
        );
        assert_eq!(get_path(&service, "/healthz").await.status(), 200);
    }

    #[tokio::test]
    async fn the_request_after_the_limit_gets_no_response() {
        let service = service(&[("CRASH_AFTER_REQUESTS", "2")]);
        for _ in 0..2 {
            assert_eq!(get_path(&service, "/").await.status(), 200);
        }
        assert_eq!(get_path(&service, "/readyz").await.status(), 200);
        tokio::select! {
            biased;
            response = get_path(&service, "/") => panic!("answered {response:?}"),
            () = service.wait_until_crash() => {}
        }
    }
}
