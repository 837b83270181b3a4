//! Limits the rate of requests to the API server, if the installation asks for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service};

/// Unused capacity of this time can be used at once.
const BURST: Duration = Duration::from_secs(1);
/// Requests of the leader election are never delayed: a leader that cannot renew its Lease stops.
const LEASES_PATH: &str = "/apis/coordination.k8s.io/";

/// When the next request may be sent. Pure.
#[derive(Debug)]
struct Schedule {
    interval: Duration,
    next: Option<Instant>,
}

impl Schedule {
    /// Reserves the time of one request. It may be in the past.
    fn reserve(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let at = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(at + self.interval);
        at
    }
}

/// A layer that delays requests so that there are not too many per second. The delay counts for the
/// timeouts of the requests.
#[derive(Clone, Debug)]
pub struct RequestRateLayer {
    /// `None` if there is no limit.
    schedule: Option<Arc<Mutex<Schedule>>>,
}

impl RequestRateLayer {
    /// At most this number of requests per second. 0 is no limit.
    pub fn new(requests_per_second: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(requests_per_second);
        let schedule = |interval| {
            Arc::new(Mutex::new(Schedule {
                interval,
                next: None,
            }))
        };
        Self {
            schedule: interval.map(schedule),
        }
    }

    /// When a request to this path may be sent. `None` if it is not limited.
    fn reserve(&self, path: &str) -> Option<Instant> {
        let schedule = self.schedule.as_ref()?;
        if path.starts_with(LEASES_PATH) {
            return None;
        }
        let mut schedule = schedule.lock().unwrap_or_else(PoisonError::into_inner);
        Some(schedule.reserve(Instant::now()))
    }
}

impl<S> Layer<S> for RequestRateLayer {
    type Service = RequestRateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestRateService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service with a limited rate of requests.
#[derive(Clone, Debug)]
pub struct RequestRateService<S> {
    inner: S,
    layer: RequestRateLayer,
}

impl<S, B> Service<Request<B>> for RequestRateService<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let at = self.layer.reserve(request.uri().path());
        // The client sends nothing before its future is polled.
        let response = self.inner.call(request);
        Box::pin(async move {
            if let Some(at) = at {
                sleep_until(at).await;
            }
            response.await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::future::join_all;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// Sends requests at the same time. Returns the number that was answered in each second.
    async fn answered_per_second(
        layer: &RequestRateLayer,
        path: &str,
        requests: usize,
    ) -> Vec<usize> {
        let began = Instant::now();
        let send = async || {
            let answer = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(()) });
            let request = Request::builder().uri(path).body(()).unwrap();
            layer.layer(answer).oneshot(request).await.unwrap();
            began.elapsed()
        };
        let mut counts = vec![0; 4];
        for took in join_all((0..requests).map(|_| send())).await {
            // The timers of tokio have a resolution of one millisecond.
            let second = (took + Duration::from_millis(50)).as_secs();
            counts[usize::try_from(second).unwrap()] += 1;
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_a_second_is_followed_by_a_steady_rate() {
        let layer = RequestRateLayer::new(10);
        let pods = "/api/v1/namespaces/shop/pods";
        assert_eq!(answered_per_second(&layer, pods, 30).await, [20, 10, 0, 0]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(answered_per_second(&layer, pods, 30).await, [20, 10, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_for_leases_are_never_delayed() {
        let layer = RequestRateLayer::new(10);
        let pods = answered_per_second(&layer, "/api/v1/namespaces/shop/pods", 30);
        let leases = "/apis/coordination.k8s.io/v1/namespaces/serin/leases/serin";
        let leases = answered_per_second(&layer, leases, 30);
        let (pods, leases) = tokio::join!(pods, leases);
        assert_eq!((pods[0], leases[0]), (20, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_delayed() {
        let layer = RequestRateLayer::new(0);
        assert_eq!(
            answered_per_second(&layer, "/api/v1/pods", 1_000).await,
            [1_000, 0, 0, 0]
        );
    }
}
