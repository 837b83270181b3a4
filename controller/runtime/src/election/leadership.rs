//! The result of an election: whether this process may act.

use std::sync::Arc;

use serin_core::lease::{Timing, is_lease_valid, writes_end_after};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Candidate;
use crate::telemetry::Metrics;

/// Whether this process may act. Cheap to clone and to query.
#[derive(Clone, Debug)]
pub struct Leadership {
    pub(super) mode: LeadershipMode,
    pub(super) changes: watch::Receiver<bool>,
}

#[derive(Clone, Debug)]
pub(super) enum LeadershipMode {
    /// Leader election is disabled; this is the only process. The sender keeps the channel open for
    /// receivers that wait for a change.
    Disabled { _open: Arc<watch::Sender<bool>> },
    #[cfg(test)]
    Scripted,
    Elected {
        renewed_at: watch::Receiver<Option<Instant>>,
        timing: Timing,
    },
}

impl Leadership {
    /// The leadership of a process without leader election.
    pub fn without_election() -> Self {
        let (sender, changes) = watch::channel(true);
        Self {
            mode: LeadershipMode::Disabled {
                _open: Arc::new(sender),
            },
            changes,
        }
    }

    /// A leadership that is controlled by a test.
    #[cfg(test)]
    pub(crate) fn scripted(leads: bool) -> (watch::Sender<bool>, Self) {
        let (sender, changes) = watch::channel(leads);
        (
            sender,
            Self {
                mode: LeadershipMode::Scripted,
                changes,
            },
        )
    }

    /// Whether this process may act now. Becomes false by time alone if renewals fail. Check it
    /// before every write.
    pub fn is_leader(&self) -> bool {
        match &self.mode {
            LeadershipMode::Disabled { .. } => true,
            #[cfg(test)]
            LeadershipMode::Scripted => *self.changes.borrow(),
            LeadershipMode::Elected { renewed_at, timing } => {
                let renewed_at = *renewed_at.borrow();
                renewed_at.is_some_and(|renewed_at| is_lease_valid(renewed_at.elapsed(), timing))
            }
        }
    }

    /// When a write that is in progress must be given up, so that it is not carried out after the
    /// first write of the next leader. Each renewal moves it. `None` without leader election.
    ///
    /// The API server may receive the cancellation late, so every write has a precondition as well.
    pub fn write_deadline(&self) -> Option<Instant> {
        match &self.mode {
            LeadershipMode::Disabled { .. } => None,
            #[cfg(test)]
            LeadershipMode::Scripted => (!*self.changes.borrow()).then(Instant::now),
            LeadershipMode::Elected { renewed_at, timing } => {
                let renewed_at = *renewed_at.borrow();
                let deadline = renewed_at.map(|at| at + writes_end_after(timing));
                Some(deadline.unwrap_or_else(Instant::now))
            }
        }
    }

    /// The leadership over time: true when it is acquired, false when it is lost.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.changes.clone()
    }

    /// Waits until this process leads. Never returns if the election has ended.
    pub async fn wait_until_leading(&self) {
        self.wait_until(true).await;
    }

    /// Waits until this process does not lead.
    pub async fn wait_until_lost(&self) {
        self.wait_until(false).await;
    }

    async fn wait_until(&self, leads: bool) {
        let mut changes = self.changes.clone();
        if changes.wait_for(|now| *now == leads).await.is_err() && leads {
            std::future::pending::<()>().await;
        }
    }
}

/// Notifies the receivers of [`Leadership::changes`] when the leadership begins and when it ends,
/// also while a request for the Lease is in progress.
#[derive(Debug)]
pub(super) struct Announcer {
    renewed_at: watch::Receiver<Option<Instant>>,
    announce: watch::Sender<bool>,
    timing: Timing,
    lease: String,
    identity: String,
    metrics: Arc<Metrics>,
}

impl Announcer {
    pub(super) fn new(
        candidate: &Candidate,
        renewed_at: watch::Receiver<Option<Instant>>,
        metrics: Arc<Metrics>,
    ) -> (Self, watch::Receiver<bool>) {
        let (announce, changes) = watch::channel(false);
        let announcer = Self {
            renewed_at,
            announce,
            timing: candidate.timing,
            lease: candidate.lease.clone(),
            identity: candidate.identity.clone(),
            metrics,
        };
        (announcer, changes)
    }

    pub(super) fn is_leading(&self) -> bool {
        let renewed_at = *self.renewed_at.borrow();
        renewed_at.is_some_and(|at| is_lease_valid(at.elapsed(), &self.timing))
    }

    /// Notifies the receivers if the leadership has changed.
    pub(super) fn announce(&self) {
        let leads = self.is_leading();
        let changed = self
            .announce
            .send_if_modified(|announced| std::mem::replace(announced, leads) != leads);
        if changed {
            self.metrics.set_leader(leads);
            tracing::info!(lease = %self.lease, identity = %self.identity, leads, "leadership changed");
        }
    }

    /// Announces each change. Returns only if the election has ended.
    pub(super) async fn run(&mut self) {
        loop {
            let renewed_at = *self.renewed_at.borrow_and_update();
            self.announce();
            let fenced_at = renewed_at.map(|at| at + self.timing.fence_after);
            let fenced = async {
                match fenced_at.filter(|at| *at > Instant::now()) {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = fenced => {}
                renewed = self.renewed_at.changed() => {
                    if renewed.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
