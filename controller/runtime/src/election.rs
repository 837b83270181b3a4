//! Leader election over a `coordination.k8s.io/v1` Lease.
//!
//! The protocol is defined in [`serin_core::lease`]. This module performs the requests. Every write
//! is a compare-and-swap on resourceVersion, so two candidates can never both acquire the Lease.
//! Expiry is measured on the monotonic clock of this process, from the time at which it observed
//! the last change of the record. Clocks of different machines are never compared. A holder that
//! cannot renew stops acting ([`Leadership::is_leader`]) before another candidate may take over,
//! measured from the time at which its last successful renewal was sent.
//!
//! Cost: one write per renewal by the holder, without a preceding read. Standbys only read.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serin_core::lease::{ElectionAction, Record, Timing, is_lease_valid, next_action};
use serin_crds::names::FIELD_MANAGER;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use self::leadership::LeadershipMode;
use crate::telemetry::Metrics;

mod leadership;
#[cfg(test)]
mod tests;

pub use leadership::Leadership;

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
    /// The timing, which must be equal for all candidates.
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
        let renewed_at = Arc::new(Mutex::new(None));
        let (announce, changes) = watch::channel(false);
        let mode = LeadershipMode::Elected {
            renewed_at: renewed_at.clone(),
            timing: candidate.timing,
        };
        let elector = Elector {
            api: Api::namespaced(client, &candidate.namespace),
            candidate,
            metrics,
            renewed_at,
            announce,
            lease: None,
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(elector.run(stopped));
        Self {
            leadership: Leadership { mode, changes },
            stop,
            task,
        }
    }

    /// The leadership of this process.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Leaves the election and releases the Lease, so that a standby takes over at its next poll.
    ///
    /// Call this after all other work has stopped. It takes one renewal interval at most.
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
    renewed_at: Arc<Mutex<Option<Instant>>>,
    announce: watch::Sender<bool>,
    lease: Option<ObservedLease>,
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
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let pause = tokio::select! {
                pause = self.run_round() => pause,
                _ = &mut stopped => break,
            };
            let fence = self.time_until_fenced();
            tokio::select! {
                () = sleep(pause.min(fence)) => {}
                _ = &mut stopped => break,
            }
            self.announce_change();
        }
        self.stand_down().await;
    }

    /// Reads or writes the Lease once. Returns the time until the next round.
    async fn run_round(&mut self) -> Duration {
        let outcome = match self.next_action() {
            Some(ElectionAction::Renew) => self.write(LeaseWrite::Renew).await,
            Some(ElectionAction::Acquire) => self.write(LeaseWrite::Acquire).await,
            Some(ElectionAction::Wait(_)) | None => self.read_or_create().await,
        };
        let failed = outcome.is_err();
        if let Err(error) = outcome {
            tracing::warn!(lease = %self.candidate.lease, %error, "Lease request failed");
        }
        self.announce_change();
        let poll_interval = self.candidate.timing.renew_every / 3;
        match self.next_action() {
            Some(ElectionAction::Renew) if !failed => self.candidate.timing.renew_every,
            Some(ElectionAction::Acquire) if !failed => Duration::ZERO,
            Some(ElectionAction::Wait(wait)) => wait.min(poll_interval),
            _ => poll_interval,
        }
    }

    fn next_action(&self) -> Option<ElectionAction> {
        let observed = self.lease.as_ref()?;
        let record = Record {
            holder: observed
                .lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.clone()),
            unchanged_for: observed.since.elapsed(),
        };
        Some(next_action(
            &self.candidate.identity,
            &record,
            &self.candidate.timing,
        ))
    }

    fn is_leading(&self) -> bool {
        let renewed_at = *self
            .renewed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        renewed_at
            .is_some_and(|renewed_at| is_lease_valid(renewed_at.elapsed(), &self.candidate.timing))
    }

    fn time_until_fenced(&self) -> Duration {
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

    /// Notifies the receivers if the leadership has changed.
    fn announce_change(&self) {
        let leads = self.is_leading();
        let changed = self
            .announce
            .send_if_modified(|announced| std::mem::replace(announced, leads) != leads);
        if changed {
            self.metrics.set_leader(leads);
            tracing::info!(lease = %self.candidate.lease, identity = %self.candidate.identity, leads, "leadership changed");
        }
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
        let lease = with_timeout(self.candidate.timing.renew_every, request).await?;
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
                ..ObjectMeta::default()
            },
            spec: Some(self.lease_spec(LeaseWrite::Acquire, &LeaseSpec::default())),
        };
        let sent_at = Instant::now();
        self.metrics.record_api_write("Lease", "create");
        let written = with_timeout(
            self.candidate.timing.renew_every,
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
        let sent_at = Instant::now();
        self.metrics.record_api_write("Lease", "update");
        let params = post_params();
        let request = self.api.replace(&self.candidate.lease, &params, &lease);
        let written = with_timeout(self.candidate.timing.renew_every, request).await;
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
                self.lease = Some(ObservedLease {
                    lease,
                    since: Instant::now(),
                });
                Ok(())
            }
            Err(error) => {
                // The stored record is unknown: a write that timed out may have succeeded.
                self.lease = None;
                if matches!(error.code(), Some(404 | 409)) {
                    Ok(())
                } else {
                    Err(error)
                }
            }
        }
    }

    fn lease_spec(&self, change: LeaseWrite, before: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let seconds = self.candidate.timing.lease.as_secs_f64().ceil();
        #[expect(clippy::cast_possible_truncation, reason = "the limit is 68 years")]
        let mut spec = LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: Some(seconds as i32),
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
    async fn stand_down(&mut self) {
        let led = self.is_leading();
        self.set_renewed(None);
        self.announce_change();
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
