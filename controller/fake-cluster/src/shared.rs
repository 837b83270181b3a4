//! What the API server, the actors and the tests share.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::actors::Actors;
use crate::api::Store;
use crate::faults::{Fault, RequestSeen};
use crate::tuning::Tuning;

/// The wall clock of the world at its beginning.
const BEGINNING_SECONDS: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

/// Everything that is shared.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// The store's version, told to everyone who waits for a change.
    pub(crate) changed: watch::Sender<u64>,
    started: Instant,
}

pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) actors: Actors,
    pub(crate) tuning: Tuning,
    pub(crate) faults: Vec<Fault>,
    pub(crate) requests: Vec<RequestSeen>,
    /// Counts the breaks of the network: a watch of an earlier connection is broken.
    pub(crate) connection: u64,
    /// Until when nobody reaches the API server.
    pub(crate) away_until: Option<Instant>,
    /// How many more writes a client may make before it dies.
    pub(crate) writes_left: HashMap<String, usize>,
    /// Clients that are dead: nobody hears of them any more.
    pub(crate) dead: HashSet<String>,
    network: SmallRng,
}

impl Shared {
    pub(crate) fn new(seed: u64) -> Self {
        let store = Store::new(seed);
        let changed = watch::Sender::new(store.version());
        let state = State {
            store,
            actors: Actors::default(),
            tuning: Tuning::default(),
            faults: Vec::new(),
            requests: Vec::new(),
            connection: 0,
            away_until: None,
            writes_left: HashMap::new(),
            dead: HashSet::new(),
            network: SmallRng::seed_from_u64(seed ^ 0x006e_6574),
        };
        Self {
            state: Mutex::new(state),
            changed,
            started: Instant::now(),
        }
    }

    /// The state, for a moment: never held over an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A test that failed while it held the state shall not hide its message behind a second
        // one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everyone who waits that something has changed.
    pub(crate) fn announce(&self) {
        let version = self.lock().store.version();
        self.changed.send_replace(version);
    }

    /// The world's wall clock, which goes as tokio's clock does.
    pub(crate) fn now(&self) -> Timestamp {
        let beginning = Timestamp::from_second(BEGINNING_SECONDS).unwrap_or(Timestamp::UNIX_EPOCH);
        let gone = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::ZERO);
        beginning.checked_add(gone).unwrap_or(Timestamp::MAX)
    }
}

impl State {
    /// How long a message is on its way.
    pub(crate) fn latency(&mut self) -> Duration {
        let bounds = self.tuning.latency.clone();
        self.between(bounds.start, bounds.end)
    }

    /// How long a change is on its way to a watcher.
    pub(crate) fn watch_lag(&mut self) -> Duration {
        let bounds = self.tuning.watch_lag.clone();
        self.between(bounds.start, bounds.end)
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        if low >= high {
            low
        } else {
            self.network.random_range(low..high)
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }
}
