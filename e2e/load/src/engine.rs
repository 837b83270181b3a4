//! The running load: one thread keeps the schedule, another one sends.
//!
//! Both threads belong to the load, so that neither a blocked caller nor a paused clock delays
//! requests.

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
    options::{LoadOptions, LoadPlan, RequestRate, StartError, limits},
    record::{LoadSnapshot, Recorder},
    report::{EndReason, LoadReport},
    schedule::{Rotation, Schedule},
};

/// Open files that are reserved for the rest of the process.
const RESERVED_FILES: u64 = 1_024;

/// The generator.
#[derive(Debug)]
pub struct Load;

impl Load {
    /// Starts a load and sends the first request immediately. Raises the soft limit of open files
    /// if the requests in flight may need it.
    ///
    /// # Errors
    /// If the URL is malformed, cannot be resolved or is public, if an option is out of range, or
    /// if threads or open files are not available.
    pub fn start(options: &LoadOptions) -> Result<LoadHandle, StartError> {
        let plan = LoadPlan::new(options)?;
        allow_open_files(u64::from(plan.max_in_flight) + RESERVED_FILES)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("serin-load-io")
            .enable_all()
            .build()?;
        let shared = Arc::new(SharedState {
            client: Client::new(&plan),
            slots: Arc::new(Semaphore::new(plan.max_in_flight as usize)),
            control: Mutex::new(PacerControl {
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

/// A running load. It ends after its duration, when it is stopped, or when the handle is dropped.
#[derive(Debug)]
pub struct LoadHandle {
    shared: Arc<SharedState>,
    ended: watch::Receiver<Option<EndReason>>,
    /// Taken by `drop` only: in an async context a runtime must be shut down in the background.
    runtime: Option<Runtime>,
}

impl LoadHandle {
    /// Time since the start. All times in the [`LoadReport`] use this clock.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Wall-clock time of the start.
    pub fn started_at(&self) -> Timestamp {
        self.shared.started_at
    }

    /// Changes the rate. The next request is due one new interval after the last one.
    ///
    /// # Errors
    /// If the rate is not between 1 and [`limits::RATE_PER_SECOND`].
    pub fn set_rate(&self, rate_per_second: u32) -> Result<(), StartError> {
        let rate = RequestRate::per_second(rate_per_second)?;
        self.shared.update_control(|control| control.rate = rate);
        Ok(())
    }

    /// The current counts. Cheap: it does not copy records.
    pub fn snapshot(&self) -> LoadSnapshot {
        let rate_per_second = lock(&self.shared.control).rate.get();
        let recorder = lock(&self.shared.recorder);
        LoadSnapshot {
            elapsed: self.elapsed(),
            rate_per_second,
            sent: recorder.sent,
            in_flight: recorder.sent - recorder.counts.total(),
            overruns: recorder.overruns,
            counts: recorder.counts,
            versions: recorder.versions.clone(),
        }
    }

    /// A report of the requests that are complete so far. It copies all records, 16 bytes each.
    pub fn report_so_far(&self) -> LoadReport {
        let recorder = lock(&self.shared.recorder);
        let mut report = LoadReport {
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

    /// Waits until no more requests will be sent. Requests may still be in flight afterwards.
    pub async fn wait_until_ended(&self) -> EndReason {
        let mut ended = self.ended.clone();
        // A dropped sender means that nothing is sent any more.
        ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|end| *end)
            .unwrap_or(EndReason::Stopped)
    }

    /// Stops sending, waits for the requests in flight (each has its timeout), and returns the
    /// report.
    pub async fn stop(self) -> LoadReport {
        self.shared.update_control(|control| control.stop = true);
        self.wait_until_ended().await;
        // All slots are free if no request is in flight. The semaphore is never closed, so this
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
        self.shared.update_control(|control| control.stop = true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The settings of the pacer that can change while it runs.
#[derive(Clone, Copy, Debug)]
struct PacerControl {
    rate: RequestRate,
    stop: bool,
}

#[derive(Debug)]
struct SharedState {
    plan: LoadPlan,
    client: Client,
    /// One permit for each request in flight.
    slots: Arc<Semaphore>,
    control: Mutex<PacerControl>,
    /// Notified of every change of `control`.
    changed: Condvar,
    recorder: Mutex<Recorder>,
    started: Instant,
    started_at: Timestamp,
}

impl SharedState {
    fn update_control(&self, change: impl FnOnce(&mut PacerControl)) {
        change(&mut lock(&self.control));
        self.changed.notify_all();
    }

    /// Waits until `due`, until the rate is no longer `rate`, or until the load is stopped.
    fn wait(&self, due: Duration, rate: RequestRate) -> PacerControl {
        let control = lock(&self.control);
        let remaining = due.saturating_sub(self.started.elapsed());
        let unchanged = |control: &mut PacerControl| !control.stop && control.rate == rate;
        let (control, _) = self
            .changed
            .wait_timeout_while(control, remaining, unchanged)
            .unwrap_or_else(PoisonError::into_inner);
        *control
    }

    async fn send_request(&self, due: Duration, fresh: bool) {
        let exchange = self.client.send(fresh).await;
        let latency = self.started.elapsed().saturating_sub(due);
        lock(&self.recorder).record_end(due, latency, exchange);
    }
}

/// The thread that keeps the schedule. It sleeps on a condition variable, which wakes within about
/// 0.1 ms; the timers of the runtime have a resolution of 1 ms.
struct Pacer {
    shared: Arc<SharedState>,
    schedule: Schedule,
    rotation: Rotation,
    rate: RequestRate,
    runtime: Handle,
}

impl Pacer {
    fn run(mut self) -> EndReason {
        let end = self.shared.plan.duration;
        for _ in 0..limits::RECORDS {
            let due = loop {
                let due = self.schedule.next_due().min(end);
                let control = self.shared.wait(due, self.rate);
                if control.stop {
                    return EndReason::Stopped;
                }
                if control.rate == self.rate {
                    break due;
                }
                self.rate = control.rate;
                self.schedule
                    .set_rate(control.rate, self.shared.started.elapsed());
            };
            if due >= end {
                return EndReason::Duration;
            }
            self.schedule.advance();
            self.launch(due);
        }
        EndReason::Records
    }

    /// Sends the request that is due, unless too many are in flight.
    fn launch(&mut self, due: Duration) {
        let lateness = self.shared.started.elapsed().saturating_sub(due);
        let Ok(slot) = Arc::clone(&self.shared.slots).try_acquire_owned() else {
            lock(&self.shared.recorder).overruns += 1;
            return;
        };
        lock(&self.shared.recorder).record_sent(lateness);
        let fresh = self.rotation.next();
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            shared.send_request(due, fresh).await;
            drop(slot);
        });
    }
}

/// A poisoned lock still holds consistent counts: nothing panics between two related changes.
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
