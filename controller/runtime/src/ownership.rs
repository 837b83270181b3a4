//! Which Rollouts this process may act on.
//!
//! Reconciles, sweeps, the analysis and every write ask [`Ownership`] for one Rollout. At present
//! there is one implementation: the Lease, whose holder owns all Rollouts ([`Leadership`]).

use std::fmt;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster_cache::Key;
use crate::election::Leadership;

/// Decides which Rollouts this process may act on. No two processes own the same Rollout at the
/// same time.
pub trait Ownership: fmt::Debug + Send + Sync {
    /// Whether this process may act on the Rollout now. May become false by time alone. Check it
    /// before every write.
    fn owns(&self, rollout: &Key) -> bool;

    /// When a write for the Rollout that is in progress must be given up, because another process
    /// may own the Rollout afterward. May move to a later time. `None` if there is no limit.
    fn write_deadline(&self, rollout: &Key) -> Option<Instant>;

    /// False if this process owns no Rollout. Each update means that [`Ownership::owns`] may have
    /// changed for some Rollouts, so that all are enqueued again.
    fn changes(&self) -> watch::Receiver<bool>;
}

/// The leader owns all Rollouts, and a standby owns none.
impl Ownership for Leadership {
    fn owns(&self, _rollout: &Key) -> bool {
        self.is_leader()
    }

    fn write_deadline(&self, _rollout: &Key) -> Option<Instant> {
        Self::write_deadline(self)
    }

    fn changes(&self) -> watch::Receiver<bool> {
        Self::changes(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_owns_every_rollout_and_a_standby_owns_none() {
        let (leads, leadership) = Leadership::scripted(false);
        let ownership: &dyn Ownership = &leadership;
        let rollouts = [Key::new("shop", "web"), Key::new("pay", "api")];
        for leading in [false, true, false] {
            leads.send_replace(leading);
            assert!(
                rollouts
                    .iter()
                    .all(|rollout| ownership.owns(rollout) == leading)
            );
            assert_eq!(*ownership.changes().borrow(), leading);
        }
    }
}
