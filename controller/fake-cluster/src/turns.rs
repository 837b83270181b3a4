//! When the actors of the world have their turn.

use std::sync::Weak;

use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use crate::shared::Shared;

/// Lets the actors act at every change and whenever one of them asks for it, for as long as the
/// world lives.
pub(crate) async fn run(world: Weak<Shared>, mut changed: Receiver<u64>) {
    loop {
        let Some(shared) = world.upgrade() else {
            return;
        };
        changed.borrow_and_update();
        let next = turn(&shared);
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

fn turn(shared: &Shared) -> Option<Instant> {
    let wall = shared.now();
    let mut state = shared.lock();
    let state = &mut *state;
    let before = state.store.version();
    let next = state
        .actors
        .act_until_quiet(&mut state.store, &state.tuning, wall);
    let version = state.store.version();
    if version != before {
        // Not `announce`, which takes the lock that is held here.
        shared.changed.send_replace(version);
    }
    next
}
