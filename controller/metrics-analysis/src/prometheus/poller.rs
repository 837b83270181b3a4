//! Shares equal polls.
//!
//! Polls with the same server, queries and period share one task and one result. Each host and port
//! has its own limit on concurrent requests, so that a slow server does not delay queries to others,
//! and each Rollout has its own limits, so that it cannot use up the process. Servers with the same
//! credentials share a backoff. A poll ends when its last subscriber is gone.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::address::host_and_port;
use super::answer::Answer;
use super::answer_guard::{AnswerGuard, ServerGuard};
use super::client::{Client, HttpClient, QueryObserver, Server};
use super::envelope::AnswerContent;
use super::error::QueryError;
use super::limits::Limits;
use super::lock;
use super::memory::{AnswerMemory, Reservation};
use super::quota::RolloutQuota;
use crate::request::RolloutName;

/// A periodic query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PollSpec {
    /// Server to query.
    pub server: Server,
    /// Instant queries. They are sent one after the other in this order, so that a later one never
    /// returns older data.
    pub queries: Vec<String>,
    /// What is kept of the answers.
    pub content: AnswerContent,
    /// Time between two polls.
    pub period: Duration,
}

/// Result of one poll. It is dropped when all subscribers have processed it.
#[derive(Debug)]
pub struct PollResult {
    /// A result for each query, or the error.
    pub answers: Result<Vec<Answer>, QueryError>,
    /// Time at which the first query was sent, on the local monotonic clock.
    pub sent_at: Instant,
    _memory: Vec<Reservation>,
}

/// The answer to a single query. Its memory counts until it is dropped.
#[derive(Debug)]
pub struct SingleAnswer {
    answer: Answer,
    memory: Reservation,
}

impl Deref for SingleAnswer {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.answer
    }
}

impl SingleAnswer {
    /// The answer, and what reserves its memory.
    pub fn into_parts(self) -> (Answer, Reservation) {
        (self.answer, self.memory)
    }
}

/// Receives the results of a poll from the next one on.
#[derive(Debug)]
pub struct PollSubscription(broadcast::Receiver<Arc<PollResult>>);

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
    guard: Option<Arc<dyn AnswerGuard>>,
    memory: AnswerMemory,
    in_flight: Semaphore,
    servers: Mutex<HashMap<Server, Arc<ServerState>>>,
    hosts: Mutex<HashMap<(String, u16), Weak<HostState>>>,
    rollouts: Mutex<HashMap<RolloutName, Arc<RolloutQuota>>>,
    backoffs: Mutex<HashMap<Server, Weak<Mutex<ServerBackoff>>>>,
    polls: Mutex<HashMap<PollSpec, broadcast::Sender<Arc<PollResult>>>>,
}

#[derive(Debug)]
struct ServerState {
    http: Result<reqwest::Client, QueryError>,
    client: Result<Client, QueryError>,
    host: Arc<HostState>,
    quota: Option<Arc<RolloutQuota>>,
    backoff: Arc<Mutex<ServerBackoff>>,
}

/// Limits of one host and port.
#[derive(Debug)]
struct HostState {
    polls: Semaphore,
    single: Semaphore,
    low_priority: Arc<Semaphore>,
    placebo: Arc<Semaphore>,
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

/// The value of this key, which exists as long as somebody uses it.
fn shared_value<K: Eq + Hash, V>(
    map: &Mutex<HashMap<K, Weak<V>>>,
    key: K,
    create: impl FnOnce() -> V,
) -> Arc<V> {
    let mut map = lock(map);
    if let Some(value) = map.get(&key).and_then(Weak::upgrade) {
        return value;
    }
    map.retain(|_, value| value.strong_count() > 0);
    let value = Arc::new(create());
    map.insert(key, Arc::downgrade(&value));
    value
}

impl Poller {
    /// Creates a poller. `observer` is called after each query.
    pub fn new(http: HttpClient, limits: Limits, observer: QueryObserver) -> Self {
        Self::with_guard(http, limits, observer, None)
    }

    /// Like [`Self::new`]. `guard` is asked before a large answer of a server is decoded that a
    /// Rollout chose.
    pub fn with_guard(
        http: HttpClient,
        limits: Limits,
        observer: QueryObserver,
        guard: Option<Arc<dyn AnswerGuard>>,
    ) -> Self {
        let shared = Shared {
            http,
            limits,
            observer,
            guard,
            memory: AnswerMemory::new(limits.memory_bytes()),
            in_flight: Semaphore::new(limits.concurrent_total),
            servers: Mutex::default(),
            hosts: Mutex::default(),
            rollouts: Mutex::default(),
            backoffs: Mutex::default(),
            polls: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Subscribes to a poll, from its next result on. The poll runs until its last subscriber is
    /// gone.
    pub fn subscribe(&self, poll: PollSpec) -> PollSubscription {
        let mut polls = lock(&self.shared.polls);
        if let Some(sender) = polls.get(&poll) {
            return PollSubscription(sender.subscribe());
        }
        // A result is dropped as soon as every subscriber has received it.
        let (sender, receiver) = broadcast::channel(1);
        polls.insert(poll.clone(), sender.clone());
        tokio::spawn(run_poll(self.shared.clone(), poll, sender));
        PollSubscription(receiver)
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
    ) -> Result<SingleAnswer, QueryError> {
        let state = self.shared.server(server);
        let limit = self.shared.limits.single_timeout;
        let querying = async {
            let _of_rollout = match &state.quota {
                Some(quota) => quota.single_turn().await,
                None => None,
            };
            // The semaphore is never closed.
            let _of_host = state.host.single.acquire().await;
            self.shared
                .query(&state, query, at_ms, AnswerContent::Series, limit)
                .await
        };
        let result = timeout(limit, querying).await;
        let (answer, memory) = result.unwrap_or_else(|_| Err(timeout_error(limit)))?;
        Ok(SingleAnswer { answer, memory })
    }

    /// Waits for the single permit per host and port for low-priority queries. It is held until the
    /// permit is dropped.
    pub async fn low_priority_permit(&self, server: &Server) -> Option<OwnedSemaphorePermit> {
        let turn = self.shared.server(server).host.low_priority.clone();
        // The semaphore is never closed.
        turn.acquire_owned().await.ok()
    }

    /// Waits for the single permit per host and port for the queries of placebo releases. They take
    /// longer than low-priority queries and must not delay them. It is held until the permit is
    /// dropped.
    pub async fn placebo_permit(&self, server: &Server) -> Option<OwnedSemaphorePermit> {
        let turn = self.shared.server(server).host.placebo.clone();
        // The semaphore is never closed.
        turn.acquire_owned().await.ok()
    }

    #[cfg(test)]
    pub(super) fn server_count(&self) -> usize {
        lock(&self.shared.servers).len()
    }

    /// Memory of all answers at the moment, in bytes.
    #[cfg(test)]
    pub(super) fn reserved_bytes(&self) -> usize {
        let total = self.shared.limits.memory_bytes();
        self.shared.memory.reserved_bytes(total)
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
        // Servers with the same TLS options share connections, which last as long as one of these
        // servers is in use.
        let same = servers
            .iter()
            .find(|(known, _)| (&known.tls, known.trust) == (&server.tls, server.trust))
            .map(|(_, state)| state.http.clone());
        let http = same.unwrap_or_else(|| self.http.connections(&server.tls, server.trust));
        let client = self.http.check_address(server).and_then(|()| {
            let limits = self.limits.of_answer();
            let guard = ServerGuard::new(self.guard.as_ref(), server);
            Client::new(http.clone()?, server, limits, self.observer.clone(), guard)
        });
        let state = Arc::new(ServerState {
            http,
            client,
            host: self.host(server),
            quota: server.rollout.clone().map(|rollout| self.quota(rollout)),
            backoff: self.backoff(server),
        });
        servers.insert(server.clone(), state.clone());
        state
    }

    fn host(&self, server: &Server) -> Arc<HostState> {
        shared_value(&self.hosts, host_and_port(&server.url), || HostState {
            polls: Semaphore::new(self.limits.concurrent_polls),
            single: Semaphore::new(self.limits.concurrent_single),
            low_priority: Arc::new(Semaphore::new(1)),
            placebo: Arc::new(Semaphore::new(1)),
        })
    }

    /// The quota of a Rollout. It is kept until its rate has recovered, so that a Rollout does not
    /// get a new rate by a pause.
    fn quota(&self, rollout: RolloutName) -> Arc<RolloutQuota> {
        let limits = &self.limits;
        let mut rollouts = lock(&self.rollouts);
        if let Some(quota) = rollouts.get(&rollout) {
            return quota.clone();
        }
        rollouts.retain(|_, quota| !quota.is_unused());
        let quota = Arc::new(RolloutQuota::new(
            limits.concurrent_polls_per_rollout,
            limits.concurrent_single_per_rollout,
            limits.memory_bytes() / 2,
            f64::from(limits.queries_per_second_per_rollout),
        ));
        rollouts.insert(rollout, quota.clone());
        quota
    }

    /// The backoff for this address with these credentials, whoever queries it.
    fn backoff(&self, server: &Server) -> Arc<Mutex<ServerBackoff>> {
        let endpoint = Server {
            rollout: None,
            required_matcher: None,
            ..server.clone()
        };
        shared_value(&self.backoffs, endpoint, Mutex::default)
    }

    /// Drops servers without users, together with their credentials.
    fn drop_unused_servers(&self) {
        lock(&self.servers).retain(|_, state| Arc::strong_count(state) > 1);
        lock(&self.backoffs).retain(|_, backoff| backoff.strong_count() > 0);
    }

    /// Sends one query, with the limits of the process.
    async fn query(
        &self,
        server: &ServerState,
        query: &str,
        at_ms: Option<i64>,
        content: AnswerContent,
        limit: Duration,
    ) -> Result<(Answer, Reservation), QueryError> {
        let client = server.client.as_ref().map_err(Clone::clone)?;
        // The semaphore is never closed.
        let _in_flight = self.in_flight.acquire().await;
        let memory = self.memory.reserve(server.quota.clone()).await;
        client.query(query, at_ms, content, limit, memory).await
    }

    async fn poll(&self, server: &ServerState, poll: &PollSpec) -> PollResult {
        // The time in which the Rollout waits for itself is not the server's.
        let _of_rollout = match &server.quota {
            Some(quota) => quota.poll_turn(poll.queries.len()).await,
            None => None,
        };
        let limit = self.limits.poll_timeout;
        let mut sent_at = Instant::now();
        let mut memory = Vec::with_capacity(poll.queries.len());
        let polling = async {
            // The semaphore is never closed.
            let _of_host = server.host.polls.acquire().await;
            sent_at = Instant::now();
            let mut answers = Vec::with_capacity(poll.queries.len());
            for query in &poll.queries {
                let querying = self.query(server, query, None, poll.content, limit);
                let (answer, reserved) = querying.await?;
                answers.push(answer);
                memory.push(reserved);
            }
            Ok(answers)
        };
        let answers = timeout(limit, polling)
            .await
            .unwrap_or_else(|_| Err(timeout_error(limit)));
        if answers.is_err() {
            memory.clear();
        }
        PollResult {
            answers,
            sent_at,
            _memory: memory,
        }
    }

    /// Removes a poll without subscribers. Returns false if there is a new subscriber.
    fn remove_if_unused(
        &self,
        poll: &PollSpec,
        sender: &broadcast::Sender<Arc<PollResult>>,
    ) -> bool {
        let mut polls = lock(&self.polls);
        let unwanted = sender.receiver_count() == 0;
        if unwanted {
            polls.remove(poll);
        }
        unwanted
    }
}

async fn run_poll(shared: Arc<Shared>, poll: PollSpec, sender: broadcast::Sender<Arc<PollResult>>) {
    let server = shared.server(&poll.server);
    loop {
        let polling = async {
            server.wait_until_available().await;
            shared.poll(&server, &poll).await
        };
        let result = tokio::select! {
            result = polling => Some(result),
            () = sender.closed() => None,
        };
        if let Some(result) = result {
            server.update_backoff(&result.answers);
            let next = result.sent_at + delay_after(&result.answers, poll.period);
            // Without subscribers, the result is dropped.
            let _ = sender.send(Arc::new(result));
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
pub async fn next_answer(subscription: &mut PollSubscription) -> Arc<PollResult> {
    loop {
        match subscription.0.recv().await {
            Ok(result) => return result,
            // The newest result follows.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => sleep(Duration::MAX).await,
        }
    }
}
