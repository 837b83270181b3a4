//! Asks every question once, however many want the answer.
//!
//! Polls that are equal (same server, same queries, same period) share one task and one answer.
//! Each server has its own limit on concurrent requests and its own backoff, so that one that hangs
//! delays nobody else's questions. A poll ends by itself when its last subscriber is gone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer::Answer;
use super::client::{AnswerBounds, Client, HttpClient, Noted, Server};
use super::error::QueryError;

/// What keeps questions to Prometheus within bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Polls under way at once at one server.
    pub concurrent_polls: usize,
    /// Slow single questions (over weeks of data) under way at once at one server, beside the
    /// polls.
    pub concurrent_single: usize,
    /// How long all the queries of one poll may take together.
    pub poll_timeout: Duration,
    /// How long a single question may take.
    pub single_timeout: Duration,
    /// The largest answer taken in, in bytes.
    pub answer_bytes: usize,
    /// The most series taken in of one answer.
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

/// A question that is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Poll {
    /// Whom to ask.
    pub server: Server,
    /// The instant queries, asked one after the other in this order, so that what a later one sees
    /// is never older.
    pub queries: Vec<String>,
    /// How often.
    pub period: Duration,
}

/// One asking of a poll.
#[derive(Clone, Debug)]
pub struct Asked {
    /// An answer for each query, or why there is none.
    pub answers: Result<Vec<Answer>, QueryError>,
    /// When the first query was sent, on the local monotonic clock.
    pub sent_at: Instant,
}

type Told = Option<Arc<Asked>>;

/// Shares polls among all who ask; cheap to clone.
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
    noted: Noted,
    servers: Mutex<HashMap<Server, Arc<ServerState>>>,
    polls: Mutex<HashMap<Poll, Arc<watch::Sender<Told>>>>,
}

#[derive(Debug)]
struct ServerState {
    http: Result<HttpClient, QueryError>,
    client: Result<Client, QueryError>,
    polls: Semaphore,
    single: Semaphore,
    turn: Arc<Semaphore>,
    gate: Mutex<Gate>,
}

/// Until when a server in trouble is left alone.
#[derive(Debug, Default)]
struct Gate {
    closed_until: Option<Instant>,
    delays: Option<ExponentialBackoff>,
}

/// From a quarter of a second up to five seconds, so that a server that comes back is noticed soon.
fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

/// How often a query that the server understands but does not answer usably is tried again.
const REFUSED_QUERY_PERIOD: Duration = Duration::from_secs(5);
const REFUSED_QUERY_LONGEST: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing behind these locks is left half written by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    /// A poller without polls. `noted` is told of each query.
    pub fn new(http: HttpClient, limits: Limits, noted: Noted) -> Self {
        let shared = Shared {
            http,
            limits,
            noted,
            servers: Mutex::default(),
            polls: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Follows a poll; the value is nothing until it was asked for the first time. The poll lasts
    /// as long as anybody follows it.
    pub fn subscribe(&self, poll: Poll) -> watch::Receiver<Told> {
        let mut polls = lock(&self.shared.polls);
        if let Some(sender) = polls.get(&poll) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        polls.insert(poll.clone(), sender.clone());
        tokio::spawn(keep_asking(self.shared.clone(), poll, sender));
        receiver
    }

    /// Asks one instant query once, in the lane of slow questions; see [`Client::query`] for
    /// `at_ms`.
    ///
    /// # Errors
    /// What went wrong, named; within the limits' `single_timeout`.
    pub async fn ask_once(
        &self,
        server: &Server,
        query: &str,
        at_ms: Option<i64>,
    ) -> Result<Answer, QueryError> {
        let state = self.shared.server(server);
        let limit = self.shared.limits.single_timeout;
        let asking = async {
            // The semaphore is never closed.
            let _permit = state.single.acquire().await;
            state
                .client
                .as_ref()
                .map_err(Clone::clone)?
                .query(query, at_ms, limit)
                .await
        };
        timeout(limit, asking)
            .await
            .unwrap_or_else(|_| Err(too_slow(limit)))
    }

    /// Waits for the one turn at a server that all share whose questions can wait; it lasts as long
    /// as the permit.
    pub async fn turn(&self, server: &Server) -> Option<OwnedSemaphorePermit> {
        let turn = self.shared.server(server).turn.clone();
        // The semaphore is never closed.
        turn.acquire_owned().await.ok()
    }

    /// How many servers are known.
    #[cfg(test)]
    pub(super) fn servers(&self) -> usize {
        lock(&self.shared.servers).len()
    }

    /// How many different polls there are.
    pub fn polls(&self) -> usize {
        lock(&self.shared.polls).len()
    }
}

fn too_slow(limit: Duration) -> QueryError {
    QueryError::Timeout(format!("no answer within {} s", limit.as_secs_f64()))
}

impl Shared {
    fn server(&self, server: &Server) -> Arc<ServerState> {
        let mut servers = lock(&self.servers);
        if let Some(state) = servers.get(server) {
            return state.clone();
        }
        servers.retain(|_, state| Arc::strong_count(state) > 1);
        let bounds = AnswerBounds {
            bytes: self.limits.answer_bytes,
            series: self.limits.answer_series,
        };
        // Servers that are reached by the same TLS share connections, which last as long as one of
        // them.
        let same = servers
            .iter()
            .find(|(known, _)| known.tls == server.tls)
            .map(|(_, state)| state.http.clone());
        let http = same.unwrap_or_else(|| self.http.by(&server.tls));
        let client = http
            .clone()
            .and_then(|http| Client::new(&http, server, bounds, self.noted.clone()));
        let state = Arc::new(ServerState {
            http,
            client,
            polls: Semaphore::new(self.limits.concurrent_polls),
            single: Semaphore::new(self.limits.concurrent_single),
            turn: Arc::new(Semaphore::new(1)),
            gate: Mutex::default(),
        });
        servers.insert(server.clone(), state.clone());
        state
    }

    /// Forgets the servers that nobody asks any more, and what they were asked with.
    fn forget_unasked(&self) {
        lock(&self.servers).retain(|_, state| Arc::strong_count(state) > 1);
    }

    /// Ends a poll that nobody follows any more; false where somebody has come in the meantime.
    fn end(&self, poll: &Poll, sender: &watch::Sender<Told>) -> bool {
        let mut polls = lock(&self.polls);
        let unwanted = sender.receiver_count() == 0;
        if unwanted {
            polls.remove(poll);
        }
        unwanted
    }
}

async fn keep_asking(shared: Arc<Shared>, poll: Poll, sender: Arc<watch::Sender<Told>>) {
    let server = shared.server(&poll.server);
    loop {
        let asking = async {
            server.opens().await;
            server.ask(&poll.queries, shared.limits.poll_timeout).await
        };
        let asked = tokio::select! {
            asked = asking => Some(asked),
            () = sender.closed() => None,
        };
        if let Some(asked) = asked {
            server.note(&asked.answers);
            let next = asked.sent_at + pause_after(&asked.answers, poll.period);
            sender.send_replace(Some(Arc::new(asked)));
            tokio::select! {
                () = sleep_until(next) => continue,
                () = sender.closed() => {}
            }
        }
        if shared.end(&poll, &sender) {
            drop(server);
            shared.forget_unasked();
            return;
        }
    }
}

fn pause_after(answers: &Result<Vec<Answer>, QueryError>, period: Duration) -> Duration {
    match answers {
        // The gate keeps a server in trouble from being asked too often; what is asked seldom is
        // not left unanswered for long.
        Err(error) if error.concerns_server() => period.min(REFUSED_QUERY_PERIOD),
        Err(_) => period.clamp(REFUSED_QUERY_PERIOD, REFUSED_QUERY_LONGEST),
        Ok(_) => period,
    }
}

impl ServerState {
    /// Waits while the server is left alone.
    async fn opens(&self) {
        loop {
            let closed_until = lock(&self.gate).closed_until;
            match closed_until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    async fn ask(&self, queries: &[String], limit: Duration) -> Asked {
        let mut sent_at = Instant::now();
        let asking = async {
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
        let answers = timeout(limit, asking)
            .await
            .unwrap_or_else(|_| Err(too_slow(limit)));
        Asked { answers, sent_at }
    }

    /// Opens or closes the gate by how an asking went. Of several that failed together only the
    /// first counts.
    fn note(&self, answers: &Result<Vec<Answer>, QueryError>) {
        let mut gate = lock(&self.gate);
        let now = Instant::now();
        match answers {
            Err(error) if error.concerns_server() => {
                if gate.closed_until.is_none_or(|until| until <= now) {
                    let delay = gate
                        .delays
                        .get_or_insert_with(delays)
                        .next()
                        .unwrap_or(REFUSED_QUERY_PERIOD);
                    gate.closed_until = Some(now + delay);
                }
            }
            _ => *gate = Gate::default(),
        }
    }
}

/// Waits for the next answer of a poll. Never ends where the poll itself has ended.
pub async fn next_answer(receiver: &mut watch::Receiver<Told>) -> Arc<Asked> {
    loop {
        if receiver.changed().await.is_err() {
            sleep(Duration::MAX).await;
        }
        if let Some(asked) = receiver.borrow_and_update().clone() {
            return asked;
        }
    }
}
