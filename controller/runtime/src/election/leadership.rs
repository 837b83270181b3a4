//! The result of an election: whether this process may act.

use std::sync::{Arc, Mutex, PoisonError};

use serin_core::lease::{Timing, is_lease_valid, writes_end_after};
use tokio::sync::watch;
use tokio::time::Instant;

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
        renewed_at: Arc<Mutex<Option<Instant>>>,
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
                let renewed_at = *renewed_at.lock().unwrap_or_else(PoisonError::into_inner);
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
                let renewed_at = *renewed_at.lock().unwrap_or_else(PoisonError::into_inner);
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
