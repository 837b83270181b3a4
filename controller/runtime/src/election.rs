//! Leader election over a `coordination.k8s.io/v1` Lease.
//!
//! The rule is [`serin_core::lease`]; this is its IO. Every write is a compare-and-swap by
//! resourceVersion, so two candidates can never both take the Lease. Expiry is measured on this
//! process' monotonic clock from when it saw the record change, never by comparing clocks across
//! machines. A holder that cannot renew stops acting by itself ([`Leadership::is_leader`]) before
//! anybody else may take over, counted from before its last successful renewal was sent.
//!
//! Cost: one write a renewal by the holder, without a read before it; reads only by the standbys.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serin_core::lease::{Move, Record, Timing, may_act, next_move};
use serin_crds::names::FIELD_MANAGER;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::telemetry::Metrics;

#[cfg(test)]
mod tests;

/// Whether this process may act; cheap to clone and to ask.
#[derive(Clone, Debug)]
pub struct Leadership {
    fence: Fence,
    changes: watch::Receiver<bool>,
}

#[derive(Clone, Debug)]
enum Fence {
    /// There is no election: the only process. The sender keeps the channel open for whoever waits
    /// for a change.
    Always { _open: Arc<watch::Sender<bool>> },
    #[cfg(test)]
    Scripted,
    Elected {
        renewed_at: Arc<Mutex<Option<Instant>>>,
        timing: Timing,
    },
}

impl Leadership {
    /// The leadership of a process that runs alone, without an election.
    pub fn always() -> Self {
        let (sender, changes) = watch::channel(true);
        Self {
            fence: Fence::Always {
                _open: Arc::new(sender),
            },
            changes,
        }
    }

    /// A leadership that a test gives and takes.
    #[cfg(test)]
    pub(crate) fn scripted(leads: bool) -> (watch::Sender<bool>, Self) {
        let (sender, changes) = watch::channel(leads);
        (
            sender,
            Self {
                fence: Fence::Scripted,
                changes,
            },
        )
    }

    /// Whether this process may act right now. Turns false by the clock alone when renewals fail;
    /// ask before every effect.
    pub fn is_leader(&self) -> bool {
        match &self.fence {
            Fence::Always { .. } => true,
            #[cfg(test)]
            Fence::Scripted => *self.changes.borrow(),
            Fence::Elected { renewed_at, timing } => {
                let renewed_at = *renewed_at.lock().unwrap_or_else(PoisonError::into_inner);
                renewed_at.is_some_and(|renewed_at| may_act(renewed_at.elapsed(), timing))
            }
        }
    }

    /// Follows the leadership: true once it is won, false once it is lost.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.changes.clone()
    }

    /// Waits until this process leads. Never returns where the election has ended.
    pub async fn won(&self) {
        self.becomes(true).await;
    }

    /// Waits until this process does not lead.
    pub async fn lost(&self) {
        self.becomes(false).await;
    }

    async fn becomes(&self, leads: bool) {
        let mut changes = self.changes.clone();
        if changes.wait_for(|now| *now == leads).await.is_err() && leads {
            std::future::pending::<()>().await;
        }
    }
}

/// An election under way.
#[derive(Debug)]
pub struct Election {
    leadership: Leadership,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Who takes part in which election.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
    /// What this process calls itself, unique among all candidates and over restarts: see
    /// [`identity`].
    pub identity: String,
    /// The timing; all candidates of one election must have the same.
    pub timing: Timing,
}

/// A name for this process: the pod's and a random suffix, so that a restarted container is a new
/// candidate.
pub fn identity(pod_name: &str) -> String {
    // The standard library seeds its hashers from the operating system's randomness.
    format!("{pod_name}_{:016x}", RandomState::new().hash_one(pod_name))
}

impl Election {
    /// Takes part from now on, in a task of its own.
    pub fn start(client: Client, candidate: Candidate, metrics: Arc<Metrics>) -> Self {
        let renewed_at = Arc::new(Mutex::new(None));
        let (announce, changes) = watch::channel(false);
        let fence = Fence::Elected {
            renewed_at: renewed_at.clone(),
            timing: candidate.timing,
        };
        let runner = Runner {
            api: Api::namespaced(client, &candidate.namespace),
            candidate,
            metrics,
            renewed_at,
            announce,
            lease: None,
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(runner.run(stopped));
        Self {
            leadership: Leadership { fence, changes },
            stop,
            task,
        }
    }

    /// Whether this process may act.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Stops taking part and gives the Lease up, so that a standby takes over at its next look.
    ///
    /// Call it when nothing of this process acts any more. Takes one renewal interval at most.
    pub async fn release(self) {
        // Both fail only where the task has ended, and then there is nothing to give up.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// The Lease as last read or written, and since when it has been seen so.
#[derive(Debug)]
struct Known {
    lease: Lease,
    since: Instant,
}

struct Runner {
    api: Api<Lease>,
    candidate: Candidate,
    metrics: Arc<Metrics>,
    renewed_at: Arc<Mutex<Option<Instant>>>,
    announce: watch::Sender<bool>,
    lease: Option<Known>,
}

/// Why a request to the API server came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Failure {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

impl Runner {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let pause = tokio::select! {
                pause = self.turn() => pause,
                _ = &mut stopped => break,
            };
            let fence = self.until_fenced();
            tokio::select! {
                () = sleep(pause.min(fence)) => {}
                _ = &mut stopped => break,
            }
            self.tell();
        }
        self.give_up().await;
    }

    /// One look or one write; returns how long to wait for the next.
    async fn turn(&mut self) -> Duration {
        let outcome = match self.next_move() {
            Some(Move::Renew) => self.write(Change::Renew).await,
            Some(Move::Acquire) => self.write(Change::Acquire).await,
            Some(Move::Wait(_)) | None => self.look().await,
        };
        let failed = outcome.is_err();
        if let Err(failure) = outcome {
            tracing::warn!(lease = %self.candidate.lease, error = %failure, "the Lease could not be reached");
        }
        self.tell();
        let glance = self.candidate.timing.renew_every / 3;
        match self.next_move() {
            Some(Move::Renew) if !failed => self.candidate.timing.renew_every,
            Some(Move::Acquire) if !failed => Duration::ZERO,
            Some(Move::Wait(wait)) => wait.min(glance),
            _ => glance,
        }
    }

    fn next_move(&self) -> Option<Move> {
        let known = self.lease.as_ref()?;
        let record = Record {
            holder: known
                .lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.clone()),
            unchanged_for: known.since.elapsed(),
        };
        Some(next_move(
            &self.candidate.identity,
            &record,
            &self.candidate.timing,
        ))
    }

    fn leads(&self) -> bool {
        let renewed_at = *self
            .renewed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        renewed_at.is_some_and(|renewed_at| may_act(renewed_at.elapsed(), &self.candidate.timing))
    }

    fn until_fenced(&self) -> Duration {
        let renewed_at = *self
            .renewed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let left = renewed_at.map(|at| {
            self.candidate
                .timing
                .fence_after
                .saturating_sub(at.elapsed())
        });
        left.filter(|left| !left.is_zero()).unwrap_or(Duration::MAX)
    }

    fn set_renewed(&self, at: Option<Instant>) {
        *self
            .renewed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Tells whoever follows, where the leadership has changed.
    fn tell(&self) {
        let leads = self.leads();
        let changed = self
            .announce
            .send_if_modified(|told| std::mem::replace(told, leads) != leads);
        if changed {
            self.metrics.set_leader(leads);
            tracing::info!(lease = %self.candidate.lease, identity = %self.candidate.identity, leads, "leadership changed");
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        if self.read().await? {
            Ok(())
        } else {
            self.create().await
        }
    }

    /// Reads the record; false where there is none.
    async fn read(&mut self) -> Result<bool, Failure> {
        let request = self.api.get_opt(&self.candidate.lease);
        let lease = within(self.candidate.timing.renew_every, request).await?;
        let exists = lease.is_some();
        if let Some(lease) = lease {
            self.learn(lease);
        }
        Ok(exists)
    }

    /// Takes in a record that was read; the clock of its age starts anew where it has changed.
    fn learn(&mut self, lease: Lease) {
        let unchanged = self
            .lease
            .as_ref()
            .is_some_and(|known| known.lease.resource_version() == lease.resource_version());
        if unchanged {
            return;
        }
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(self.candidate.identity.as_str()) {
            self.set_renewed(None);
        }
        self.lease = Some(Known {
            lease,
            since: Instant::now(),
        });
    }

    async fn create(&mut self) -> Result<(), Failure> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.candidate.lease.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(Change::Acquire, &LeaseSpec::default())),
        };
        let sent_at = Instant::now();
        self.metrics.api_write("Lease", "create");
        let written = within(
            self.candidate.timing.renew_every,
            self.api.create(&params(), &lease),
        )
        .await;
        self.wrote(written, Some(sent_at))
    }

    async fn write(&mut self, change: Change) -> Result<(), Failure> {
        let Some(known) = &self.lease else {
            return Ok(());
        };
        let mut lease = known.lease.clone();
        lease.spec = Some(self.spec(change, &known.lease.spec.clone().unwrap_or_default()));
        let sent_at = Instant::now();
        self.metrics.api_write("Lease", "update");
        let params = params();
        let request = self.api.replace(&self.candidate.lease, &params, &lease);
        let written = within(self.candidate.timing.renew_every, request).await;
        self.wrote(
            written,
            (!matches!(change, Change::Release)).then_some(sent_at),
        )
    }

    /// Takes in the answer to a write; one that lost the race means only that the record must be
    /// read again.
    fn wrote(
        &mut self,
        written: Result<Lease, Failure>,
        renewed_at: Option<Instant>,
    ) -> Result<(), Failure> {
        match written {
            Ok(lease) => {
                self.set_renewed(renewed_at);
                self.lease = Some(Known {
                    lease,
                    since: Instant::now(),
                });
                Ok(())
            }
            Err(failure) => {
                // What is stored now is not known: a write that timed out may have arrived.
                self.lease = None;
                if matches!(failure.code(), Some(404 | 409)) {
                    Ok(())
                } else {
                    Err(failure)
                }
            }
        }
    }

    fn spec(&self, change: Change, before: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let seconds = self.candidate.timing.lease.as_secs_f64().ceil();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a lease of more than 68 years is cut"
        )]
        let mut spec = LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: Some(seconds as i32),
            renew_time: Some(now.clone()),
            ..before.clone()
        };
        match change {
            Change::Renew => {}
            Change::Acquire => {
                spec.acquire_time = Some(now);
                spec.lease_transitions = Some(
                    before
                        .lease_transitions
                        .map_or(0, |count| count.saturating_add(1)),
                );
            }
            Change::Release => spec.holder_identity = Some(String::new()),
        }
        spec
    }

    /// Gives the Lease up where this process holds it.
    async fn give_up(&mut self) {
        let led = self.leads();
        self.set_renewed(None);
        self.tell();
        if !led {
            return;
        }
        match self.release().await {
            Ok(()) => tracing::info!(lease = %self.candidate.lease, "the Lease is released"),
            Err(failure) => {
                tracing::warn!(error = %failure, "the Lease could not be released; it expires by itself")
            }
        }
    }

    /// Writes the release; once more where a renewal was under way when the stop came, so that the
    /// record has moved on.
    async fn release(&mut self) -> Result<(), Failure> {
        for _ in 0..2 {
            if self.lease.is_none() {
                self.read().await?;
            }
            if !matches!(self.next_move(), Some(Move::Renew)) {
                break;
            }
            self.write(Change::Release).await?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Change {
    Renew,
    Acquire,
    Release,
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

async fn within<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Timeout(limit)),
    }
}
