//! The service: what it answers, when it is ready, and how it fails.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use crate::{
    config::Config,
    metrics::{self, Metrics},
};

/// The header that names who answered.
const X_VERSION: HeaderName = HeaderName::from_static("x-version");

/// One running service.
#[derive(Debug)]
pub struct Service {
    version: String,
    version_header: HeaderValue,
    error_fraction: f64,
    /// From when on requests fail.
    errors_from: Instant,
    latency: Duration,
    latency_jitter: Duration,
    /// When it becomes ready; none for never.
    ready_at: Option<Instant>,
    crash_after_requests: Option<u64>,
    taken: AtomicU64,
    crash: Notify,
    draining: watch::Sender<bool>,
    random: Mutex<SmallRng>,
    metrics: Metrics,
}

impl Service {
    /// Starts the clock of the start delay.
    pub fn new(config: &Config) -> Self {
        Self {
            version: config.version.clone(),
            version_header: config.version_header.clone(),
            error_fraction: config.error_fraction,
            errors_from: Instant::now() + config.error_after,
            latency: config.latency,
            latency_jitter: config.latency_jitter,
            ready_at: config.ready_after.map(|delay| Instant::now() + delay),
            crash_after_requests: config.crash_after_requests,
            taken: AtomicU64::new(0),
            crash: Notify::new(),
            draining: watch::Sender::new(false),
            random: Mutex::new(
                config
                    .seed
                    .map_or_else(SmallRng::from_os_rng, SmallRng::seed_from_u64),
            ),
            metrics: Metrics::new(&config.version),
        }
    }

    /// Turns unready for good, and asks clients to take their next request elsewhere.
    pub fn start_draining(&self) {
        self.draining.send_replace(true);
    }

    /// Resolves once the service drains.
    pub async fn draining(&self) {
        // The sender is `self`, so the only error, a dropped sender, cannot be.
        let _ = self
            .draining
            .subscribe()
            .wait_for(|draining| *draining)
            .await;
    }

    /// Resolves once a request has come that the service shall not survive.
    pub async fn crashed(&self) {
        self.crash.notified().await;
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    fn is_ready(&self) -> bool {
        !self.is_draining() && self.ready_at.is_some_and(|at| at <= Instant::now())
    }

    /// What becomes of one request: whether it is answered 200, and after how long.
    fn draw(&self) -> (bool, Duration) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let ok = !random.random_bool(self.error_fraction) || Instant::now() < self.errors_from;
        let jitter = random.random_range(Duration::ZERO..=self.latency_jitter);
        (ok, self.latency + jitter)
    }
}

/// The probes, the metrics, and the service everywhere else.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readiness))
        .route("/metrics", get(scrape))
        .fallback(answer)
        .layer(middleware::from_fn_with_state(Arc::clone(&service), sign))
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
    match service.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn answer(State(service): State<Arc<Service>>) -> Response {
    let arrived = Instant::now();
    if service
        .crash_after_requests
        .is_some_and(|most| service.taken.fetch_add(1, Ordering::Relaxed) >= most)
    {
        service.crash.notify_one();
        // The process ends before this request is answered, as it would in a real crash.
        return std::future::pending().await;
    }
    let (ok, takes) = service.draw();
    if !takes.is_zero() {
        sleep(takes).await;
    }
    service.metrics.count(ok, arrived.elapsed());
    if ok {
        format!("serin-sample {}\n", service.version).into_response()
    } else {
        let text = format!(
            "serin-sample {}: this request fails by ERROR_RATE\n",
            service.version
        );
        (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
    }
}

/// Signs every answer with the version, and ends kept-alive connections while the service drains: a
/// client that reused one when the service stops would lose its request.
async fn sign(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
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

    async fn ask(service: &Arc<Service>, path: &str) -> Response {
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
    async fn every_answer_names_the_version() {
        let service = service(&[("ERROR_RATE", "100")]);
        for (path, status) in [
            ("/", 500),
            ("/any/path", 500),
            ("/healthz", 200),
            ("/readyz", 200),
            ("/metrics", 200),
        ] {
            let response = ask(&service, path).await;
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.headers()["x-version"], "v2", "{path}");
            assert!(!response.headers().contains_key("connection"), "{path}");
        }
        assert!(
            text(ask(&service, "/").await)
                .await
                .starts_with("serin-sample v2: this request fails")
        );
    }

    #[tokio::test]
    async fn probes_and_scrapes_are_not_counted() {
        let service = service(&[]);
        for path in ["/healthz", "/readyz", "/metrics", "/", "/shop"] {
            ask(&service, path).await;
        }
        let response = ask(&service, "/metrics").await;
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
    async fn errors_come_at_the_rate_and_repeat_with_the_seed() {
        let run = async |seed: &str| {
            let service = service(&[("ERROR_RATE", "10"), ("SEED", seed)]);
            let mut failed = Vec::new();
            for request in 0..2_000 {
                if ask(&service, "/").await.status() == 500 {
                    failed.push(request);
                }
            }
            failed
        };
        let first = run("1").await;
        // Five standard deviations (13.4 each) around 200, and a fixed seed.
        assert!((133..=267).contains(&first.len()), "{}", first.len());
        assert_eq!(first, run("1").await);
        assert_ne!(first, run("2").await);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_may_come_late() {
        let service = service(&[("ERROR_RATE", "100"), ("ERROR_AFTER_MS", "1000")]);
        sleep(Duration::from_millis(999)).await;
        assert_eq!(ask(&service, "/").await.status(), 200);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(ask(&service, "/").await.status(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn latency_is_at_least_what_was_asked_and_jitter_is_bounded() {
        let service = service(&[
            ("LATENCY_MS", "20"),
            ("LATENCY_JITTER_MS", "10"),
            ("SEED", "1"),
        ]);
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let start = Instant::now();
            ask(&service, "/").await;
            // Timers of the runtime tick in whole milliseconds.
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
    async fn readiness_comes_after_the_delay_and_goes_with_the_drain() {
        let service = service(&[("START_DELAY_MS", "1000")]);
        sleep(Duration::from_millis(999)).await;
        assert_eq!(ask(&service, "/readyz").await.status(), 503);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(ask(&service, "/readyz").await.status(), 200);
        service.start_draining();
        service.draining().await;
        assert_eq!(ask(&service, "/readyz").await.status(), 503);
        let still = ask(&service, "/").await;
        assert_eq!(still.status(), 200);
        assert_eq!(still.headers()["connection"], "close");
        assert_eq!(ask(&service, "/healthz").await.status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn never_ready_is_never_ready() {
        let service = service(&[("NEVER_READY", "true")]);
        sleep(Duration::from_hours(24)).await;
        assert_eq!(text(ask(&service, "/readyz").await).await, "not ready\n");
        assert_eq!(ask(&service, "/healthz").await.status(), 200);
    }

    #[tokio::test]
    async fn the_request_after_the_last_is_not_answered() {
        let service = service(&[("CRASH_AFTER_REQUESTS", "2")]);
        for _ in 0..2 {
            assert_eq!(ask(&service, "/").await.status(), 200);
        }
        assert_eq!(ask(&service, "/readyz").await.status(), 200);
        tokio::select! {
            biased;
            response = ask(&service, "/") => panic!("answered {response:?}"),
            () = service.crashed() => {}
        }
    }
}
