//! The running load: one thread keeps the schedule, another does the sending.
//!
//! Both are the load's own, so that neither a busy caller nor a caller's paused clock holds
//! arrivals up.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Semaphore, watch},
};

use crate::{
    client::Client,
    options::{Options, Plan, Rate, StartError, limits},
    record::{Recorder, Snapshot},
    report::{EndedBy, Report},
    schedule::{Rotation, Schedule},
};

/// Files that the rest of the process may need beside the load's sockets.
const OTHER_FILES: u64 = 1_024;

/// The generator.
#[derive(Debug)]
pub struct Load;

impl Load {
    /// Starts a load; the first request is sent at once. Raises the process's soft limit of open
    /// files where the requests in flight may need it.
    ///
    /// # Errors
    /// A URL that is malformed, cannot be resolved or is not one's own; an option out of range; no
    /// threads or too few open files to be had.
    pub fn start(options: &Options) -> Result<LoadHandle, StartError> {
        let plan = Plan::new(options)?;
        allow_open_files(u64::from(plan.max_in_flight) + OTHER_FILES)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("serin-load-io")
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared {
            client: Client::new(&plan),
            slots: Arc::new(Semaphore::new(plan.max_in_flight as usize)),
            orders: Mutex::new(Orders {
                rate: plan.rate,
                stop: false,
            }),
            changed: Condvar::new(),
            recorder: Mutex::default(),
            started: Instant::now(),
            started_at: Timestamp::now(),
            plan,
        });
        let (sender, ended) = watch::channel(None);
        let pacer = Pacer {
            schedule: Schedule::new(shared.plan.rate),
            rotation: Rotation::new(shared.plan.fresh_per_10_000),
            rate: shared.plan.rate,
            shared: Arc::clone(&shared),
            runtime: runtime.handle().clone(),
        };
        thread::Builder::new()
            .name("serin-load-pace".to_owned())
            .spawn(move || {
                let end = pacer.run();
                sender.send_replace(Some(end));
            })?;
        Ok(LoadHandle {
            shared,
            ended,
            runtime: Some(runtime),
        })
    }
}

/// A load that runs until its duration is over, it is stopped, or the handle is dropped.
#[derive(Debug)]
pub struct LoadHandle {
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<EndedBy>>,
    /// Taken only by `drop`, for a runtime may be shut down in an async context only in the
    /// background.
    runtime: Option<Runtime>,
}

impl LoadHandle {
    /// Time since the start, on the clock of all times in the [`Report`].
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// The wall clock's time of the start.
    pub fn started_at(&self) -> Timestamp {
        self.shared.started_at
    }

    /// Changes the rate. The next arrival comes one new interval after the last one.
    ///
    /// # Errors
    /// A rate outside 1 to [`limits::RATE_PER_SECOND`].
    pub fn set_rate(&self, rate_per_second: u32) -> Result<(), StartError> {
        let rate = Rate::per_second(rate_per_second)?;
        self.shared.order(|orders| orders.rate = rate);
        Ok(())
    }

    /// The counts as they stand. Cheap: it copies no records.
    pub fn snapshot(&self) -> Snapshot {
        let rate_per_second = lock(&self.shared.orders).rate.get();
        let recorder = lock(&self.shared.recorder);
        Snapshot {
            elapsed: self.elapsed(),
            rate_per_second,
            sent: recorder.sent,
            in_flight: recorder.sent - recorder.counts.total(),
            overruns: recorder.overruns,
            counts: recorder.counts,
            versions: recorder.versions.clone(),
        }
    }

    /// A report of the requests that have ended so far. It copies all records: 16 bytes each.
    pub fn report_so_far(&self) -> Report {
        let recorder = lock(&self.shared.recorder);
        let mut report = Report {
            url: self.shared.plan.url.clone(),
            started_at: self.shared.started_at,
            elapsed: self.elapsed(),
            ended_by: *self.ended.borrow(),
            sent: recorder.sent,
            overruns: recorder.overruns,
            late: recorder.late,
            max_lateness: recorder.max_lateness,
            details: recorder.details.clone(),
            versions: recorder
                .versions
                .iter()
                .map(|seen| seen.version.clone())
                .collect(),
            records: recorder.records.clone(),
        };
        drop(recorder);
        report.records.sort_unstable_by_key(|record| record.at_us);
        report
    }

    /// Resolves once no more requests will be sent. Those in flight may still be.
    pub async fn ended(&self) -> EndedBy {
        let mut ended = self.ended.clone();
        // The sender lives until it has sent; without it nothing is sent any more, which is what
        // was asked.
        ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|end| *end)
            .unwrap_or(EndedBy::Stopped)
    }

    /// Sends no more requests, waits for those in flight (each within its timeout), and reports
    /// them all.
    pub async fn stop(self) -> Report {
        self.shared.order(|orders| orders.stop = true);
        self.ended().await;
        // All slots are free when no request is in flight. The semaphore is never closed, so this
        // does not fail.
        let _idle = self
            .shared
            .slots
            .acquire_many(self.shared.plan.max_in_flight)
            .await;
        self.report_so_far()
    }
}

impl Drop for LoadHandle {
    fn drop(&mut self) {
        self.shared.order(|orders| orders.stop = true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the pacer is told while it runs.
#[derive(Clone, Copy, Debug)]
struct Orders {
    rate: Rate,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    client: Client,
    /// One permit for each request in flight.
    slots: Arc<Semaphore>,
    orders: Mutex<Orders>,
    /// Told of every change of the orders.
    changed: Condvar,
    recorder: Mutex<Recorder>,
    started: Instant,
    started_at: Timestamp,
}

impl Shared {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut lock(&self.orders));
        self.changed.notify_all();
    }

    /// Waits until `due`, or until the orders are not as they were at `rate` any more.
    fn wait(&self, due: Duration, rate: Rate) -> Orders {
        let orders = lock(&self.orders);
        let remaining = due.saturating_sub(self.started.elapsed());
        let unchanged = |orders: &mut Orders| !orders.stop && orders.rate == rate;
        let (orders, _) = self
            .changed
            .wait_timeout_while(orders, remaining, unchanged)
            .unwrap_or_else(PoisonError::into_inner);
        *orders
    }

    async fn request(&self, due: Duration, fresh: bool) {
        let seen = self.client.send(fresh).await;
        let latency = self.started.elapsed().saturating_sub(due);
        lock(&self.recorder).ended(due, latency, seen);
    }
}

/// The thread that keeps the schedule. It sleeps on a condition variable, which the system wakes
/// within some 0.1 ms; the runtime's timers tick in whole milliseconds.
struct Pacer {
    shared: Arc<Shared>,
    schedule: Schedule,
    rotation: Rotation,
    rate: Rate,
    runtime: Handle,
}

impl Pacer {
    fn run(mut self) -> EndedBy {
        let end = self.shared.plan.duration;
        for _ in 0..limits::RECORDS {
            let due = loop {
                let due = self.schedule.next_due().min(end);
                let orders = self.shared.wait(due, self.rate);
                if orders.stop {
                    return EndedBy::Stopped;
                }
                if orders.rate == self.rate {
                    break due;
                }
                self.rate = orders.rate;
                self.schedule
                    .set_rate(orders.rate, self.shared.started.elapsed());
            };
            if due >= end {
                return EndedBy::Duration;
            }
            self.schedule.advance();
            self.launch(due);
        }
        EndedBy::Records
    }

    /// Sends the request that is due, whatever became of those before, unless too many are in
    /// flight.
    fn launch(&mut self, due: Duration) {
        let lateness = self.shared.started.elapsed().saturating_sub(due);
        let Ok(slot) = Arc::clone(&self.shared.slots).try_acquire_owned() else {
            lock(&self.shared.recorder).overruns += 1;
            return;
        };
        lock(&self.shared.recorder).sent(lateness);
        let fresh = self.rotation.next();
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            shared.request(due, fresh).await;
            drop(slot);
        });
    }
}

/// A poisoned lock still guards sound counts: nothing panics between two changes of them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises the soft limit of open files to `needed`.
fn allow_open_files(needed: u64) -> Result<(), StartError> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        let allowed = limit.maximum.unwrap_or_default();
        return Err(StartError::OpenFiles { needed, allowed });
    }
    limit.current = Some(needed);
    setrlimit(Resource::Nofile, limit).map_err(|error| StartError::Threads(io::Error::from(error)))
}
