//! A router that assigns sessions: each session stays on one pod until it ends.
//!
//! The Gateway of the local cluster assigns each request. This one, in the process of the test,
//! follows the weights of the same route, and sends the requests of a session to the pod that its
//! first request reached, as routers with session cookies do.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::shop::{Shop, share_of};

/// Time between two readings of the route and the pods.
const REFRESH: Duration = Duration::from_millis(250);
/// Time between two requests of a session.
const THINK_TIME: Duration = Duration::from_millis(250);
/// Maximum duration of a session.
const MAX_SESSION: Duration = Duration::from_secs(12);

/// The sessions and how many of them are broken.
#[derive(Clone, Copy, Debug)]
pub struct StickyOptions {
    /// Number of sessions at a time. Each sends four requests per second.
    pub sessions: u32,
    /// Fraction of the sessions that are broken, from 0 to 1.
    pub broken_fraction: f64,
    /// Fraction of the requests of a broken session that fail, from 0 to 1, whatever the version.
    pub failing_fraction: f64,
}

/// The running sessions. They end when this is stopped or dropped.
pub struct StickyLoad {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    counts: Arc<StickyCounts>,
}

#[derive(Debug, Default)]
struct StickyCounts {
    requests: AtomicU64,
    failed: AtomicU64,
    sessions: AtomicU64,
    unanswered: AtomicU64,
}

/// What the sessions have seen.
#[derive(Clone, Copy, Debug)]
pub struct StickyReport {
    /// Sessions that have begun.
    pub sessions: u64,
    /// Requests with a response.
    pub requests: u64,
    /// Requests with status 500.
    pub failed: u64,
    /// Requests without a response, for example because their pod ended.
    pub unanswered: u64,
}

/// Where new sessions can go.
#[derive(Clone, Debug, Default)]
struct Backends {
    canary_share: f64,
    canary: Vec<IpAddr>,
    stable: Vec<IpAddr>,
}

impl Backends {
    /// A pod for a new session: of the canary with the probability of its weight.
    fn choose(&self) -> Option<IpAddr> {
        let mut random = rand::rng();
        let side = if random.random_bool(self.canary_share) {
            &self.canary
        } else {
            &self.stable
        };
        let index = random.random_range(0..side.len().max(1));
        side.get(index).copied()
    }

    /// Whether a session may stay on its pod.
    fn serves(&self, pod: IpAddr) -> bool {
        (self.canary_share < 1.0 && self.stable.contains(&pod))
            || (self.canary_share > 0.0 && self.canary.contains(&pod))
    }

    async fn read(apis: &Apis) -> Result<Self> {
        let route = apis.routes.get(&apis.name).await?;
        let canary = format!("{}-canary", apis.name);
        let share = share_of(&route, &canary).as_percent() / 100.0;
        Ok(Self {
            canary_share: share.clamp(0.0, 1.0),
            canary: apis.ready_pods(&canary).await?,
            stable: apis.ready_pods(&apis.name).await?,
        })
    }
}

struct Apis {
    name: String,
    routes: Api<DynamicObject>,
    services: Api<Service>,
    pods: Api<Pod>,
}

impl Apis {
    /// The addresses of the ready pods that a Service selects.
    async fn ready_pods(&self, service: &str) -> Result<Vec<IpAddr>> {
        let Some(service) = self.services.get_opt(service).await? else {
            return Ok(Vec::new());
        };
        let selector = service.spec.and_then(|spec| spec.selector);
        let labels: Vec<String> = selector
            .unwrap_or_default()
            .iter()
            .map(|(label, value)| format!("{label}={value}"))
            .collect();
        let pods = ListParams::default().labels(&labels.join(","));
        let pods = self.pods.list(&pods).await?;
        let addresses = pods.iter().filter(|pod| is_ready(pod));
        Ok(addresses
            .filter_map(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok())
            .collect())
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl StickyLoad {
    /// Starts the sessions.
    ///
    /// # Errors
    /// If the route or the pods cannot be read.
    pub async fn start(shop: &Shop, options: StickyOptions) -> Result<Self> {
        let apis = Apis {
            name: shop.name.clone(),
            routes: shop.routes(),
            services: shop.api(),
            pods: shop.api(),
        };
        let first = Backends::read(&apis).await.context("reading the route")?;
        let (backends, seen) = watch::channel(first);
        let (end, ended) = watch::channel(false);
        let counts = Arc::new(StickyCounts::default());
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .build()?;
        let mut tasks = vec![tokio::spawn(refresh(apis, backends, ended.clone()))];
        for _ in 0..options.sessions {
            let client = SessionClient {
                http: http.clone(),
                backends: seen.clone(),
                stopped: ended.clone(),
                counts: Arc::clone(&counts),
                options,
            };
            tasks.push(tokio::spawn(client.run()));
        }
        Ok(Self {
            stop: end,
            tasks,
            counts,
        })
    }

    /// Stops the sessions and returns what they have seen.
    pub async fn stop(self) -> StickyReport {
        self.stop.send_replace(true);
        join_all(self.tasks).await;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StickyReport {
            sessions: count(&self.counts.sessions),
            requests: count(&self.counts.requests),
            failed: count(&self.counts.failed),
            unanswered: count(&self.counts.unanswered),
        }
    }
}

/// Follows the route and the pods. An error counts as no change.
async fn refresh(apis: Apis, backends: watch::Sender<Backends>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        if let Ok(current) = Backends::read(&apis).await {
            backends.send_replace(current);
        }
        sleep(REFRESH).await;
    }
}

/// One client, which starts a new session when the last one has ended.
struct SessionClient {
    http: reqwest::Client,
    backends: watch::Receiver<Backends>,
    stopped: watch::Receiver<bool>,
    counts: Arc<StickyCounts>,
    options: StickyOptions,
}

impl SessionClient {
    async fn run(self) {
        while !*self.stopped.borrow() {
            self.run_session().await;
        }
    }

    async fn run_session(&self) {
        let number = self.counts.sessions.fetch_add(1, Ordering::Relaxed);
        let (is_broken, duration) = {
            let mut random = rand::rng();
            (
                random.random_bool(self.options.broken_fraction),
                random.random_range(THINK_TIME..MAX_SESSION),
            )
        };
        let began = Instant::now();
        let mut pod = None;
        while began.elapsed() < duration && !*self.stopped.borrow() {
            let serves = |pod: &IpAddr| self.backends.borrow().serves(*pod);
            pod = pod
                .filter(serves)
                .or_else(|| self.backends.borrow().choose());
            if let Some(address) = pod {
                let fails = is_broken && rand::rng().random_bool(self.options.failing_fraction);
                if !self.send(address, number, fails).await {
                    pod = None;
                }
            }
            sleep(THINK_TIME).await;
        }
    }

    /// Sends a request. Returns whether there was a response.
    async fn send(&self, pod: IpAddr, session: u64, fails: bool) -> bool {
        let mut request = self
            .http
            .get(format!("http://{pod}:8080/"))
            .header("x-session", session.to_string());
        if fails {
            request = request.header("x-broken", "true");
        }
        let Ok(response) = request.send().await else {
            self.counts.unanswered.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        if response.status().is_server_error() {
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_may_stay_while_its_side_has_traffic() {
        let [canary, stable]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let at = |canary_share| Backends {
            canary_share,
            canary: vec![canary],
            stable: vec![stable],
        };
        assert!(at(0.5).serves(canary) && at(0.5).serves(stable));
        assert!(!at(0.0).serves(canary) && !at(1.0).serves(stable));
        assert_eq!(at(0.0).choose(), Some(stable));
        assert_eq!(at(1.0).choose(), Some(canary));
    }
}
