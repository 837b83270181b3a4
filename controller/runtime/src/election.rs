//! Leader election over a `coordination.k8s.io/v1` Lease.
//!
//! The protocol is defined in [`serin_core::lease`]. This module performs the requests. Every write
//! is a compare-and-swap on resourceVersion, so two candidates can never both acquire the Lease.
//! Expiry is measured on the monotonic clock of this process, from the time at which it observed
//! the last change of the record. Clocks of different machines are never compared. A holder that
//! cannot renew stops acting ([`Leadership::is_leader`]) before another candidate may take over,
//! measured from the time at which its last successful renewal was sent.
//!
//! A standby watches the Lease, so it observes each renewal when it happens, and acquires the Lease
//! at the moment of its expiry. It does not rely on the watch: if renewals were missed, the
//! resourceVersion has changed, and the acquisition fails.
//!
//! Cost: one write per renewal by the holder, without a preceding read. Standbys only watch.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serin_core::lease::{ElectionAction, Record, Timing, next_action};
use serin_crds::names::FIELD_MANAGER;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::leadership::{Announcer, LeadershipMode};
use self::lease_watch::{LeaseChange, LeaseWatch};
use crate::telemetry::Metrics;

mod leadership;
mod lease_watch;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod test_store;
#[cfg(test)]
mod tests;

pub use leadership::Leadership;

/// Annotation of the Lease: the lease duration in milliseconds, a space, and the identity of the
/// holder that wrote it. The field `spec.leaseDurationSeconds` has whole seconds.
const DURATION_ANNOTATION: &str = "serin.dev/lease-duration";

/// A running election.
#[derive(Debug)]
pub struct Election {
    leadership: Leadership,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// A candidate in an election.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Name of this process, unique among all candidates and across restarts. See
    /// [`unique_identity`].
    pub identity: String,
    /// The timing. It must be valid ([`Timing::validate`]). Candidates may have different ones,
    /// because the holder declares its lease duration.
    pub timing: Timing,
}

/// The pod name with a random suffix, so that a restarted container is a new candidate.
pub fn unique_identity(pod_name: &str) -> String {
    // The standard library seeds its hashers with random numbers from the operating system.
    format!("{pod_name}_{:016x}", RandomState::new().hash_one(pod_name))
}

impl Election {
    /// Starts a task that takes part in the election.
    pub fn start(client: Client, candidate: Candidate, metrics: Arc<Metrics>) -> Self {
        let (elector, announcer, leadership) = Elector::new(client, candidate, metrics);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(elector.run(announcer, stopped));
        Self {
            leadership,
            stop,
            task,
        }
    }

    /// The leadership of this process.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Leaves the election and releases the Lease, so that a standby takes over at once.
    ///
    /// Call this after all other work has stopped. Each of its requests ends within the renew
    /// deadline.
    pub async fn release(self) {
        // Both calls fail only if the task has exited. Then there is nothing to release.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// The Lease as last read or written, and since when it is unchanged.
#[derive(Debug)]
struct ObservedLease {
    lease: Lease,
    since: Instant,
}

struct Elector {
    api: Api<Lease>,
    candidate: Candidate,
    metrics: Arc<Metrics>,
    /// When the last successful renewal was sent. `None` if this process does not hold the Lease.
    renewed_at: watch::Sender<Option<Instant>>,
    lease: Option<ObservedLease>,
    /// The watch of a standby.
    lease_watch: Option<LeaseWatch>,
    /// Whether the last attempt to watch failed, so that a failure is logged once.
    is_watch_failing: bool,
}

/// Errors of requests for the Lease.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no response within {0:?}")]
    Timeout(Duration),
}

impl LeaseError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

impl Elector {
    fn new(
        client: Client,
        candidate: Candidate,
        metrics: Arc<Metrics>,
    ) -> (Self, Announcer, Leadership) {
        let (renewed_at, renewals) = watch::channel(None);
        let (announcer, changes) =
            Announcer::new(&candidate, renewals.clone(), Arc::clone(&metrics));
        let mode = LeadershipMode::Elected {
            renewed_at: renewals,
            timing: candidate.timing,
        };
        let elector = Self {
            api: Api::namespaced(client, &candidate.namespace),
            candidate,
            metrics,
            renewed_at,
            lease: None,
            lease_watch: None,
            is_watch_failing: false,
        };
        (elector, announcer, Leadership { mode, changes })
    }

    async fn run(mut self, mut announcer: Announcer, stopped: oneshot::Receiver<()>) {
        tokio::select! {
            () = self.run_rounds() => {}
            () = announcer.run() => {}
            _ = stopped => {}
        }
        self.stand_down(&announcer).await;
    }

    /// Takes part in the election. Never returns.
    async fn run_rounds(&mut self) {
        loop {
            let pause = self.run_round().await;
            sleep(pause).await;
        }
    }

    /// Reads, writes or watches the Lease once. Returns the time until the next round.
    async fn run_round(&mut self) -> Duration {
        let timing = self.candidate.timing;
        let outcome = match self.next_action() {
            Some(ElectionAction::Renew) => self.write(LeaseWrite::Renew).await,
            Some(ElectionAction::Acquire) => self.write(LeaseWrite::Acquire).await,
            Some(ElectionAction::Wait(wait)) => return self.wait_for_change(wait).await,
            None => self.read_or_create().await,
        };
        if let Err(error) = outcome {
            self.log_failure(&error);
            return self.retry_interval();
        }
        match self.next_action() {
            // Measured from when the last renewal was sent, so that a slow response does not delay
            // the next one.
            Some(ElectionAction::Renew) => {
                let since_renewal = self.renewed_at.borrow().map(|at| at.elapsed());
                timing
                    .renew_every
                    .saturating_sub(since_renewal.unwrap_or(Duration::MAX))
            }
            Some(ElectionAction::Acquire | ElectionAction::Wait(_)) => Duration::ZERO,
            None => self.retry_interval(),
        }
    }

    fn retry_interval(&self) -> Duration {
        self.candidate.timing.renew_every / 3
    }

    fn log_failure(&self, error: &LeaseError) {
        tracing::warn!(lease = %self.candidate.lease, %error, "Lease request failed");
    }

    /// Waits until the record changes, for `wait` at most. Returns the time until the next round.
    async fn wait_for_change(&mut self, wait: Duration) -> Duration {
        let expires_at = Instant::now() + wait;
        let failure = match timeout_at(expires_at, self.next_change()).await {
            // The Lease expires now.
            Err(_) => return Duration::ZERO,
            Ok(Ok(pause)) => {
                self.is_watch_failing = false;
                return pause;
            }
            Ok(Err(failure)) => failure,
        };
        self.lease_watch = None;
        if !std::mem::replace(&mut self.is_watch_failing, true) {
            tracing::warn!(lease = %self.candidate.lease, error = %failure, "cannot watch the Lease; reading it periodically");
        }
        if let Err(error) = self.read_or_create().await {
            self.log_failure(&error);
        }
        let left = expires_at.saturating_duration_since(Instant::now());
        left.min(self.candidate.timing.renew_every)
    }

    /// Waits for the next change of the Lease and records it. Returns the time until the next round.
    async fn next_change(&mut self) -> Result<Duration, kube::Error> {
        let watch = if let Some(watch) = &mut self.lease_watch {
            watch
        } else {
            let observed = self.lease.as_ref();
            let version = observed.and_then(|observed| observed.lease.resource_version());
            let (name, version) = (&self.candidate.lease, version.unwrap_or_default());
            let started = LeaseWatch::start(&self.api, name, &version).await?;
            self.lease_watch.insert(started)
        };
        match watch.next().await? {
            LeaseChange::Written(lease) => self.record_read(*lease),
            LeaseChange::Deleted => self.forget_lease(),
            LeaseChange::End => {
                self.lease_watch = None;
                return Ok(self.retry_interval());
            }
        }
        Ok(Duration::ZERO)
    }

    fn next_action(&self) -> Option<ElectionAction> {
        let observed = self.lease.as_ref()?;
        let record = Record {
            holder: observed
                .lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.clone()),
            declared_lease: declared_lease(&observed.lease),
            unchanged_for: observed.since.elapsed(),
        };
        Some(next_action(
            &self.candidate.identity,
            &record,
            &self.candidate.timing,
        ))
    }

    fn set_renewed(&self, at: Option<Instant>) {
        self.renewed_at.send_replace(at);
    }

    /// Forgets the record, so that it is read again.
    fn forget_lease(&mut self) {
        self.lease = None;
        self.lease_watch = None;
    }

    async fn read_or_create(&mut self) -> Result<(), LeaseError> {
        if self.read().await? {
            Ok(())
        } else {
            self.create().await
        }
    }

    /// Reads the Lease. Returns false if it does not exist.
    async fn read(&mut self) -> Result<bool, LeaseError> {
        let request = self.api.get_opt(&self.candidate.lease);
        let lease = with_timeout(self.candidate.timing.fence_after, request).await?;
        let exists = lease.is_some();
        if let Some(lease) = lease {
            self.record_read(lease);
        }
        Ok(exists)
    }

    /// Records a Lease that was read. Its age is measured from now on if it has changed.
    fn record_read(&mut self, lease: Lease) {
        let unchanged = self
            .lease
            .as_ref()
            .is_some_and(|observed| observed.lease.resource_version() == lease.resource_version());
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
        self.lease = Some(ObservedLease {
            lease,
            since: Instant::now(),
        });
    }

    async fn create(&mut self) -> Result<(), LeaseError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.candidate.lease.clone()),
                annotations: Some(BTreeMap::from([self.duration_annotation()])),
                ..ObjectMeta::default()
            },
            spec: Some(self.lease_spec(LeaseWrite::Acquire, &LeaseSpec::default())),
        };
        let sent_at = Instant::now();
        self.metrics.record_api_write("Lease", "create");
        let written = with_timeout(
            self.candidate.timing.fence_after,
            self.api.create(&post_params(), &lease),
        )
        .await;
        self.record_write(written, Some(sent_at))
    }

    async fn write(&mut self, change: LeaseWrite) -> Result<(), LeaseError> {
        let Some(known) = &self.lease else {
            return Ok(());
        };
        let mut lease = known.lease.clone();
        lease.spec = Some(self.lease_spec(change, &known.lease.spec.clone().unwrap_or_default()));
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.extend([self.duration_annotation()]);
        let sent_at = Instant::now();
        self.metrics.record_api_write("Lease", "update");
        let params = post_params();
        let request = self.api.replace(&self.candidate.lease, &params, &lease);
        // A later response to a renewal is of no use: the holder has stopped by then.
        let written = with_timeout(self.candidate.timing.fence_after, request).await;
        self.record_write(
            written,
            (!matches!(change, LeaseWrite::Release)).then_some(sent_at),
        )
    }

    /// Records the result of a write. A conflict only means that the Lease must be read again.
    fn record_write(
        &mut self,
        written: Result<Lease, LeaseError>,
        renewed_at: Option<Instant>,
    ) -> Result<(), LeaseError> {
        match written {
            Ok(lease) => {
                self.set_renewed(renewed_at);
                // A holder does not watch, and pending events are older than this write.
                self.lease_watch = None;
                self.lease = Some(ObservedLease {
                    lease,
                    since: Instant::now(),
                });
                Ok(())
            }
            Err(error) => {
                // The stored record is unknown: a write that timed out may have succeeded.
                self.forget_lease();
                if matches!(error.code(), Some(404 | 409)) {
                    Ok(())
                } else {
                    Err(error)
                }
            }
        }
    }

    fn duration_annotation(&self) -> (String, String) {
        let millis = self.candidate.timing.lease.as_millis();
        let value = format!("{millis} {}", self.candidate.identity);
        (DURATION_ANNOTATION.to_owned(), value)
    }

    fn lease_spec(&self, change: LeaseWrite, before: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mut spec = LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: Some(whole_seconds(self.candidate.timing.lease)),
            renew_time: Some(now.clone()),
            ..before.clone()
        };
        match change {
            LeaseWrite::Renew => {}
            LeaseWrite::Acquire => {
                spec.acquire_time = Some(now);
                spec.lease_transitions = Some(
                    before
                        .lease_transitions
                        .map_or(0, |count| count.saturating_add(1)),
                );
            }
            LeaseWrite::Release => spec.holder_identity = Some(String::new()),
        }
        spec
    }

    /// Releases the Lease if this process holds it.
    async fn stand_down(&mut self, announcer: &Announcer) {
        let led = announcer.is_leading();
        self.set_renewed(None);
        announcer.announce();
        if !led {
            return;
        }
        match self.release().await {
            Ok(()) => tracing::info!(lease = %self.candidate.lease, "released the Lease"),
            Err(error) => {
                tracing::warn!(%error, "failed to release the Lease; it will expire");
            }
        }
    }

    /// Writes the release. It is retried once, because a concurrent renewal at shutdown may have
    /// changed the record.
    async fn release(&mut self) -> Result<(), LeaseError> {
        for _ in 0..2 {
            if self.lease.is_none() {
                self.read().await?;
            }
            if !matches!(self.next_action(), Some(ElectionAction::Renew)) {
                break;
            }
            self.write(LeaseWrite::Release).await?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum LeaseWrite {
    Renew,
    Acquire,
    Release,
}

/// The lease duration of the holder. A version without the annotation keeps that of the holder
/// before it, so its identity is compared.
fn declared_lease(lease: &Lease) -> Option<Duration> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.as_deref()?;
    let annotations = lease.metadata.annotations.as_ref();
    let exact = annotations
        .and_then(|annotations| annotations.get(DURATION_ANNOTATION)?.split_once(' '))
        .filter(|(_, identity)| *identity == holder)
        .and_then(|(millis, _)| millis.parse().ok())
        .map(Duration::from_millis);
    exact.or_else(|| {
        let seconds = u64::try_from(spec.lease_duration_seconds?).ok()?;
        Some(Duration::from_secs(seconds))
    })
}

/// The duration in seconds, rounded up.
fn whole_seconds(duration: Duration) -> i32 {
    let seconds = duration.as_millis().div_ceil(1_000);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn post_params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

async fn with_timeout<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, LeaseError> {
    match timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(LeaseError::Timeout(limit)),
    }
}
