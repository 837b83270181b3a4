//! State shared by the API server, the controllers and the tests.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::ObjectStore;
use crate::controllers::Controllers;
use crate::faults::{Fault, RequestRecord};
use crate::tuning::ClusterTuning;

/// Wall clock of the cluster when it is created.
const START_SECONDS: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

/// Shared handle to the cluster state.
pub(crate) struct SharedState {
    state: Mutex<ClusterState>,
    /// The store's version. A new value wakes every task that waits for a change.
    pub(crate) changed: watch::Sender<u64>,
    started: Instant,
}

pub(crate) struct ClusterState {
    pub(crate) store: ObjectStore,
    pub(crate) controllers: Controllers,
    pub(crate) tuning: ClusterTuning,
    pub(crate) faults: Vec<Fault>,
    pub(crate) requests: Vec<RequestRecord>,
    /// Incremented whenever watches are broken. A watch with an older number ends.
    pub(crate) connection: u64,
    /// End of the current API server outage.
    pub(crate) api_down_until: Option<Instant>,
    /// Number of writes before a client is killed, by client name.
    pub(crate) writes_left: HashMap<String, usize>,
    /// Killed clients. Their requests never get a response.
    pub(crate) dead: HashSet<String>,
    network: SmallRng,
}

impl SharedState {
    pub(crate) fn new(seed: u64) -> Self {
        let store = ObjectStore::new(seed);
        let changed = watch::Sender::new(store.version());
        let state = ClusterState {
            store,
            controllers: Controllers::default(),
            tuning: ClusterTuning::default(),
            faults: Vec::new(),
            requests: Vec::new(),
            connection: 0,
            api_down_until: None,
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

    /// Locks the state. The guard must not be held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ClusterState> {
        // Ignores poisoning, so that a second panic does not hide the message of the first one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes every task that waits for a change.
    pub(crate) fn notify(&self) {
        let version = self.lock().store.version();
        self.changed.send_replace(version);
    }

    /// The cluster's wall clock. It advances with tokio's clock.
    pub(crate) fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(START_SECONDS).unwrap_or(Timestamp::UNIX_EPOCH);
        let elapsed =
            SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::ZERO);
        start.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }
}

impl ClusterState {
    /// Random one-way latency of a message.
    pub(crate) fn latency(&mut self) -> Duration {
        let bounds = self.tuning.latency.clone();
        self.random_duration(bounds.start, bounds.end)
    }

    /// Random delay of a watch event.
    pub(crate) fn watch_lag(&mut self) -> Duration {
        let bounds = self.tuning.watch_lag.clone();
        self.random_duration(bounds.start, bounds.end)
    }

    fn random_duration(&mut self, low: Duration, high: Duration) -> Duration {
        if low >= high {
            low
        } else {
            self.network.random_range(low..high)
        }
    }

    pub(crate) fn is_api_down(&self) -> bool {
        self.api_down_until
            .is_some_and(|until| Instant::now() < until)
    }
}
