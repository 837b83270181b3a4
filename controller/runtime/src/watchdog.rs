//! Ends a process that cannot reconcile, so that the standby takes over.
//!
//! The runtime schedules tasks cooperatively. A reconcile that computes for minutes blocks a worker
//! thread, and another worker would still renew the Lease. A thread outside of the runtime notices
//! it: [`InProgress`] has the reconciles that compute at the moment, and a task of the runtime
//! sends a heartbeat. If a reconcile computes for too long without waiting, or if the heartbeat is
//! missing, the thread records the Rollout in the journal, logs it and exits.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::journal::{Journal, Subject};

/// Exit code of a stalled process: `EX_SOFTWARE` of sysexits.h.
pub const EXIT_STALLED: i32 = 70;
/// Interval of the checks. All times are counted in these ticks, so that a process that was
/// suspended is not taken for a stalled one.
const TICK: Duration = Duration::from_millis(250);
/// Interval of the heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Maximum time to log the reason before the exit. The thread that stalls may hold the log's lock.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// The reconciles that are in progress.
#[derive(Clone, Debug, Default)]
pub struct InProgress(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    next_id: u64,
    by_id: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    subject: Subject,
    /// Number of watchdog ticks for which it has computed without waiting. `None` while it waits.
    computing: Option<u32>,
}

impl InProgress {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a reconcile as an entry of this registry.
    pub async fn track<F: Future>(&self, subject: Subject, reconcile: F) -> F::Output {
        let entry = Tracked::insert(self, subject);
        let mut reconcile = pin!(reconcile);
        poll_fn(|cx| {
            entry.set_computing(true);
            let poll = reconcile.as_mut().poll(cx);
            entry.set_computing(false);
            poll
        })
        .await
    }

    /// Counts a tick of the watchdog. Returns the reconcile that has computed for the longest time,
    /// with its number of ticks.
    fn tick(&self) -> Option<(Subject, u32)> {
        let mut entries = self.lock();
        for ticks in entries
            .by_id
            .values_mut()
            .filter_map(|entry| entry.computing.as_mut())
        {
            *ticks = ticks.saturating_add(1);
        }
        let computing = entries.by_id.values();
        let computing = computing.filter_map(|entry| Some((&entry.subject, entry.computing?)));
        let (subject, ticks) = computing.max_by_key(|(_, ticks)| *ticks)?;
        Some((subject.clone(), ticks))
    }
}

/// Removes its entry when it is dropped.
struct Tracked<'a> {
    registry: &'a InProgress,
    id: u64,
}

impl<'a> Tracked<'a> {
    fn insert(registry: &'a InProgress, subject: Subject) -> Self {
        let mut entries = registry.lock();
        let id = entries.next_id;
        entries.next_id = id.wrapping_add(1);
        let entry = Entry {
            subject,
            computing: None,
        };
        entries.by_id.insert(id, entry);
        Self { registry, id }
    }

    fn set_computing(&self, computing: bool) {
        if let Some(entry) = self.registry.lock().by_id.get_mut(&self.id) {
            entry.computing = computing.then_some(0);
        }
    }
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        self.registry.lock().by_id.remove(&self.id);
    }
}

/// Why the process cannot reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stall {
    /// The Rollout whose reconcile has computed for the longest time, if there is one.
    subject: Option<Subject>,
    /// Whether the whole runtime is blocked, and not only one of its threads.
    is_runtime_blocked: bool,
}

/// The state of the watchdog thread.
#[derive(Debug)]
struct Watchdog {
    in_progress: InProgress,
    heartbeats: Arc<AtomicU64>,
    max_ticks: u32,
    last_heartbeat: u64,
    silent_ticks: u32,
}

impl Watchdog {
    fn new(in_progress: InProgress, timeout: Duration) -> Self {
        let ticks = timeout.as_millis() / TICK.as_millis();
        Self {
            in_progress,
            heartbeats: Arc::default(),
            max_ticks: u32::try_from(ticks).unwrap_or(u32::MAX),
            last_heartbeat: 0,
            silent_ticks: 0,
        }
    }

    /// Counts a tick. Returns why the process is stalled, if it is.
    fn tick(&mut self) -> Option<Stall> {
        let heartbeat = self.heartbeats.load(Ordering::Relaxed);
        self.silent_ticks = if heartbeat == self.last_heartbeat {
            self.silent_ticks.saturating_add(1)
        } else {
            0
        };
        self.last_heartbeat = heartbeat;
        let longest = self.in_progress.tick();
        let is_runtime_blocked = self.silent_ticks >= self.max_ticks;
        let is_reconcile_blocked = longest
            .as_ref()
            .is_some_and(|(_, ticks)| *ticks >= self.max_ticks);
        (is_runtime_blocked || is_reconcile_blocked).then(|| Stall {
            subject: longest.map(|(subject, _)| subject),
            is_runtime_blocked,
        })
    }
}

/// Starts the watchdog thread and the heartbeat. Call this within the runtime.
///
/// # Errors
/// The thread cannot be started.
pub fn start(in_progress: InProgress, journal: Journal, timeout: Duration) -> std::io::Result<()> {
    let mut watchdog = Watchdog::new(in_progress, timeout);
    let heartbeats = Arc::clone(&watchdog.heartbeats);
    tokio::spawn(async move {
        let mut ticks = interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            heartbeats.fetch_add(1, Ordering::Relaxed);
        }
    });
    thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || {
            loop {
                thread::sleep(TICK);
                if let Some(stall) = watchdog.tick() {
                    exit(&journal, &stall, timeout);
                }
            }
        })?;
    Ok(())
}

/// Records and logs the stall, and ends the process. The Lease is not released: it expires, and the
/// standby takes over.
fn exit(journal: &Journal, stall: &Stall, timeout: Duration) -> ! {
    if let Some(subject) = &stall.subject {
        journal.record_stalled(subject);
    }
    let (logged, wait) = mpsc::channel();
    let stall = stall.clone();
    let log = thread::Builder::new().spawn(move || {
        let subject = stall.subject.as_ref();
        tracing::error!(
            namespace = subject.map(|subject| subject.namespace.as_str()),
            rollout = subject.map(|subject| subject.name.as_str()),
            generation = subject.map(|subject| subject.generation),
            runtime_blocked = stall.is_runtime_blocked,
            ?timeout,
            "the controller cannot reconcile; exiting so that the standby takes over"
        );
        let _ = logged.send(());
    });
    if log.is_ok() {
        let _ = wait.recv_timeout(LOG_TIMEOUT);
    }
    std::process::exit(EXIT_STALLED)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::journal::Admission;

    fn subject(name: &str) -> Subject {
        Subject {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            generation: 1,
        }
    }

    fn watchdog(in_progress: &InProgress) -> Watchdog {
        Watchdog::new(in_progress.clone(), 8 * TICK)
    }

    #[tokio::test]
    async fn a_reconcile_that_computes_for_too_long_is_named() {
        let in_progress = InProgress::default();
        let mut watchdog = watchdog(&in_progress);
        let heartbeats = Arc::clone(&watchdog.heartbeats);
        let _waiting = Tracked::insert(&in_progress, subject("waiting"));
        let stalled = in_progress.track(subject("endless"), async {
            let mut ticks = 0;
            loop {
                ticks += 1;
                // The other threads of the runtime work, so the heartbeat goes on.
                heartbeats.fetch_add(1, Ordering::Relaxed);
                if let Some(stall) = watchdog.tick() {
                    return (stall, ticks);
                }
            }
        });
        let (stall, ticks) = stalled.await;
        assert_eq!(stall.subject, Some(subject("endless")));
        assert!(!stall.is_runtime_blocked);
        assert_eq!(ticks, 8);
    }

    #[tokio::test]
    async fn a_reconcile_that_waits_is_not_stalled() {
        let in_progress = InProgress::default();
        let mut watchdog = watchdog(&in_progress);
        let heartbeats = Arc::clone(&watchdog.heartbeats);
        tokio::join!(
            in_progress.track(
                subject("slow"),
                tokio::time::sleep(Duration::from_millis(20))
            ),
            async {
                for _ in 0..100 {
                    heartbeats.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(watchdog.tick(), None);
                    tokio::task::yield_now().await;
                }
            }
        );
    }

    /// State directory of the process that stalls. Only that process has this variable.
    const STALLING: &str = "SERIN_TEST_STALLING_PROCESS";

    #[test]
    fn invariant_11_a_process_that_cannot_reconcile_exits_and_names_the_rollout() {
        if let Some(directory) = std::env::var_os(STALLING) {
            return stall(directory.as_ref());
        }
        let directory = tempfile::tempdir().unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("watchdog::tests::invariant_11_a_process_that_cannot_reconcile_exits_and_names_the_rollout")
            .env(STALLING, directory.path())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(EXIT_STALLED));
        let journal = Journal::open(directory.path(), Timestamp::now()).unwrap();
        assert!(matches!(
            journal.begin(&subject("endless"), Timestamp::now()),
            Admission::Quarantined { deaths: 1, .. }
        ));
    }

    fn stall(state_dir: &std::path::Path) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let in_progress = InProgress::default();
            let journal = Journal::open(state_dir, Timestamp::now()).unwrap();
            start(in_progress.clone(), journal, Duration::from_secs(2)).unwrap();
            let endless = in_progress.track(subject("endless"), async {
                loop {
                    thread::sleep(TICK);
                }
            });
            endless.await;
        });
    }

    #[test]
    fn a_missing_heartbeat_is_a_stall() {
        let mut watchdog = watchdog(&InProgress::default());
        for _ in 0..7 {
            assert_eq!(watchdog.tick(), None);
        }
        watchdog.heartbeats.fetch_add(1, Ordering::Relaxed);
        for _ in 0..8 {
            assert_eq!(watchdog.tick(), None);
        }
        let stall = watchdog.tick().unwrap();
        assert!(stall.is_runtime_blocked);
        assert_eq!(stall.subject, None);
    }
}
