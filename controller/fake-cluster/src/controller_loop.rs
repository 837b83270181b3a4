//! The task that runs the controllers of the cluster.

use std::sync::Weak;

use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use crate::state::SharedState;

/// Runs the controllers after every change and whenever one of them has scheduled work. Ends when
/// the cluster is dropped.
pub(crate) async fn run(cluster: Weak<SharedState>, mut changed: Receiver<u64>) {
    loop {
        let Some(shared) = cluster.upgrade() else {
            return;
        };
        changed.borrow_and_update();
        let next = reconcile_once(&shared);
        drop(shared);
        let wake = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = changed.changed() => if changed.is_err() { return },
            () = wake => {}
        }
    }
}

fn reconcile_once(shared: &SharedState) -> Option<Instant> {
    let wall = shared.now();
    let mut state = shared.lock();
    let state = &mut *state;
    let before = state.store.version();
    let next = state
        .controllers
        .reconcile_until_stable(&mut state.store, &state.tuning, wall);
    let version = state.store.version();
    if version != before {
        // Not `notify`, which takes the lock that is held here.
        shared.changed.send_replace(version);
    }
    next
}
