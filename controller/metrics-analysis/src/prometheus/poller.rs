//! Shares equal polls.
//!
//! Polls with the same server, queries and period share one task and one result. Each server has
//! its own limit on concurrent requests and its own backoff, so that a slow server does not delay
//! queries to others. A poll ends when its last subscriber is gone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer::Answer;
use super::client::{AnswerLimits, Client, HttpClient, QueryObserver, Server};
use super::error::QueryError;

/// Limits on queries to Prometheus.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of concurrent polls per server.
    pub concurrent_polls: usize,
    /// Maximum number of concurrent single queries per server, in addition to the polls. They can
    /// be slow because they cover weeks of data.
    pub concurrent_single: usize,
    /// Timeout of all queries of one poll together.
    pub poll_timeout: Duration,
    /// Timeout of a single query.
    pub single_timeout: Duration,
    /// Maximum size of a response in bytes.
    pub answer_bytes: usize,
    /// Maximum number of series in a response.
    pub answer_series: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent_polls: 8,
            concurrent_single: 2,
            poll_timeout: Duration::from_secs(5),
            single_timeout: Duration::from_secs(20),
            answer_bytes: 8 << 20,
            answer_series: 10_000,
        }
    }
}

/// A periodic query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PollSpec {
    /// Server to query.
    pub server: Server,
    /// Instant queries. They are sent one after the other in this order, so that a later one never
    /// returns older data.
    pub queries: Vec<String>,
    /// Time between two polls.
    pub period: Duration,
}

/// Result of one poll.
#[derive(Clone, Debug)]
pub struct PollResult {
    /// A result for each query, or the error.
    pub answers: Result<Vec<Answer>, QueryError>,
    /// Time at which the first query was sent, on the local monotonic clock.
    pub sent_at: Instant,
}

type LatestPoll = Option<Arc<PollResult>>;

/// Shares polls among all subscribers. Cheap to clone.
#[derive(Clone)]
pub struct Poller {
    shared: Arc<Shared>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller")
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

struct Shared {
    http: HttpClient,
    limits: Limits,
    observer: QueryObserver,
    servers: Mutex<HashMap<Server, Arc<ServerState>>>,
    polls: Mutex<HashMap<PollSpec, Arc<watch::Sender<LatestPoll>>>>,
}

#[derive(Debug)]
struct ServerState {
    http: Result<HttpClient, QueryError>,
    client: Result<Client, QueryError>,
    polls: Semaphore,
    single: Semaphore,
    low_priority: Arc<Semaphore>,
    backoff: Mutex<ServerBackoff>,
}

/// Backoff of a server that does not respond.
#[derive(Debug, Default)]
struct ServerBackoff {
    blocked_until: Option<Instant>,
    delays: Option<ExponentialBackoff>,
}

/// From 250 ms to 5 s, so that a recovered server is noticed soon.
fn backoff_delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Retry period of a query that the server rejects or answers unusably.
const REFUSED_QUERY_PERIOD: Duration = Duration::from_secs(5);
const REFUSED_QUERY_MAX_PERIOD: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic leaves no inconsistent data behind these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    /// Creates a poller. `observer` is called after each query.
    pub fn new(http: HttpClient, limits: Limits, noted: QueryObserver) -> Self {
        let shared = Shared {
            http,
            limits,
            observer: noted,
            servers: Mutex::default(),
            polls: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Subscribes to a poll. The value is `None` until the first result. The poll runs until its
    /// last subscriber is gone.
    pub fn subscribe(&self, poll: PollSpec) -> watch::Receiver<LatestPoll> {
        let mut polls = lock(&self.shared.polls);
        if let Some(sender) = polls.get(&poll) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        polls.insert(poll.clone(), sender.clone());
        tokio::spawn(run_poll(self.shared.clone(), poll, sender));
        receiver
    }

    /// Sends one instant query, with the concurrency limit of single queries. See `Client::query`
    /// for `at_ms`.
    ///
    /// # Errors
    /// The cause of the failure. Returns within [`Limits::single_timeout`].
    pub async fn query_once(
        &self,
        server: &Server,
        query: &str,
        at_ms: Option<i64>,
    ) -> Result<Answer, QueryError> {
        let state = self.shared.server(server);
        let limit = self.shared.limits.single_timeout;
        let querying = async {
            // The semaphore is never closed.
            let _permit = state.single.acquire().await;
            state
                .client
                .as_ref()
                .map_err(Clone::clone)?
                .query(query, at_ms, limit)
                .await
        };
        timeout(limit, querying)
            .await
            .unwrap_or_else(|_| Err(timeout_error(limit)))
    }

    /// Waits for the single permit per server for low-priority queries. It is held until the permit
    /// is dropped.
    pub async fn low_priority_permit(&self, server: &Server) -> Option<OwnedSemaphorePermit> {
        let turn = self.shared.server(server).low_priority.clone();
        // The semaphore is never closed.
        turn.acquire_owned().await.ok()
    }

    #[cfg(test)]
    pub(super) fn server_count(&self) -> usize {
        lock(&self.shared.servers).len()
    }

    /// Number of distinct polls.
    pub fn poll_count(&self) -> usize {
        lock(&self.shared.polls).len()
    }
}

fn timeout_error(limit: Duration) -> QueryError {
    QueryError::Timeout(format!("no answer within {} s", limit.as_secs_f64()))
}

impl Shared {
    fn server(&self, server: &Server) -> Arc<ServerState> {
        let mut servers = lock(&self.servers);
        if let Some(state) = servers.get(server) {
            return state.clone();
        }
        servers.retain(|_, state| Arc::strong_count(state) > 1);
        let bounds = AnswerLimits {
            bytes: self.limits.answer_bytes,
            series: self.limits.answer_series,
        };
        // Servers with the same TLS options share connections, which last as long as one of these
        // servers is in use.
        let same = servers
            .iter()
            .find(|(known, _)| known.tls == server.tls)
            .map(|(_, state)| state.http.clone());
        let http = same.unwrap_or_else(|| self.http.with_tls(&server.tls));
        let client = http
            .clone()
            .and_then(|http| Client::new(&http, server, bounds, self.observer.clone()));
        let state = Arc::new(ServerState {
            http,
            client,
            polls: Semaphore::new(self.limits.concurrent_polls),
            single: Semaphore::new(self.limits.concurrent_single),
            low_priority: Arc::new(Semaphore::new(1)),
            backoff: Mutex::default(),
        });
        servers.insert(server.clone(), state.clone());
        state
    }

    /// Drops servers without users, together with their credentials.
    fn drop_unused_servers(&self) {
        lock(&self.servers).retain(|_, state| Arc::strong_count(state) > 1);
    }

    /// Removes a poll without subscribers. Returns false if there is a new subscriber.
    fn remove_if_unused(&self, poll: &PollSpec, sender: &watch::Sender<LatestPoll>) -> bool {
        let mut polls = lock(&self.polls);
        let unwanted = sender.receiver_count() == 0;
        if unwanted {
            polls.remove(poll);
        }
        unwanted
    }
}

async fn run_poll(shared: Arc<Shared>, poll: PollSpec, sender: Arc<watch::Sender<LatestPoll>>) {
    let server = shared.server(&poll.server);
    loop {
        let polling = async {
            server.wait_until_available().await;
            server.poll(&poll.queries, shared.limits.poll_timeout).await
        };
        let result = tokio::select! {
            result = polling => Some(result),
            () = sender.closed() => None,
        };
        if let Some(result) = result {
            server.update_backoff(&result.answers);
            let next = result.sent_at + delay_after(&result.answers, poll.period);
            sender.send_replace(Some(Arc::new(result)));
            tokio::select! {
                () = sleep_until(next) => continue,
                () = sender.closed() => {}
            }
        }
        if shared.remove_if_unused(&poll, &sender) {
            drop(server);
            shared.drop_unused_servers();
            return;
        }
    }
}

fn delay_after(answers: &Result<Vec<Answer>, QueryError>, period: Duration) -> Duration {
    match answers {
        // The backoff limits the rate for an unavailable server. Polls with a long period are
        // retried earlier.
        Err(error) if error.is_server_wide() => period.min(REFUSED_QUERY_PERIOD),
        Err(_) => period.clamp(REFUSED_QUERY_PERIOD, REFUSED_QUERY_MAX_PERIOD),
        Ok(_) => period,
    }
}

impl ServerState {
    /// Waits until the backoff has passed.
    async fn wait_until_available(&self) {
        loop {
            let closed_until = lock(&self.backoff).blocked_until;
            match closed_until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    async fn poll(&self, queries: &[String], limit: Duration) -> PollResult {
        let mut sent_at = Instant::now();
        let polling = async {
            // The semaphore is never closed.
            let _permit = self.polls.acquire().await;
            sent_at = Instant::now();
            let client = self.client.as_ref().map_err(Clone::clone)?;
            let mut answers = Vec::with_capacity(queries.len());
            for query in queries {
                answers.push(client.query(query, None, limit).await?);
            }
            Ok(answers)
        };
        let answers = timeout(limit, polling)
            .await
            .unwrap_or_else(|_| Err(timeout_error(limit)));
        PollResult { answers, sent_at }
    }

    /// Updates the backoff after a poll. Concurrent failures count once.
    fn update_backoff(&self, answers: &Result<Vec<Answer>, QueryError>) {
        let mut gate = lock(&self.backoff);
        let now = Instant::now();
        match answers {
            Err(error) if error.is_server_wide() => {
                if gate.blocked_until.is_none_or(|until| until <= now) {
                    let delay = gate
                        .delays
                        .get_or_insert_with(backoff_delays)
                        .next()
                        .unwrap_or(REFUSED_QUERY_PERIOD);
                    gate.blocked_until = Some(now + delay);
                }
            }
            _ => *gate = ServerBackoff::default(),
        }
    }
}

/// Waits for the next result of a poll. Never returns if the poll has ended.
pub async fn next_answer(receiver: &mut watch::Receiver<LatestPoll>) -> Arc<PollResult> {
    loop {
        if receiver.changed().await.is_err() {
            sleep(Duration::MAX).await;
        }
        if let Some(result) = receiver.borrow_and_update().clone() {
            return result;
        }
    }
}
