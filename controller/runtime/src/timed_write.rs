//! Writes with a timeout: no write of this process may be carried out after the first write of the
//! next owner of its Rollout.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::cluster_cache::Key;
use crate::ownership::Ownership;

/// Why a write was given up. It may have been carried out nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAbandoned {
    /// There was no response in time. It can be retried.
    Timeout,
    /// Another process may own the Rollout soon.
    OwnershipEnds,
}

/// Waits for a write for `rollout`, for at most `limit`, and only as long as no other process can own
/// the Rollout. A renewed Lease extends the time, so that a slow API server delays a write but does
/// not prevent it.
///
/// # Errors
/// The write was given up: its future is dropped, which cancels the request.
pub async fn timed_write<T>(
    ownership: &dyn Ownership,
    rollout: &Key,
    limit: Duration,
    write: impl Future<Output = T>,
) -> Result<T, WriteAbandoned> {
    let abandoned = async {
        let timeout = Instant::now() + limit;
        let mut changes = ownership.changes();
        loop {
            let deadline = ownership.write_deadline(rollout).unwrap_or(timeout);
            let now = Instant::now();
            if timeout <= now {
                return WriteAbandoned::Timeout;
            }
            if deadline <= now {
                return WriteAbandoned::OwnershipEnds;
            }
            tokio::select! {
                () = sleep_until(deadline.min(timeout)) => {}
                Ok(()) = changes.changed() => {}
            }
        }
    };
    let write = pin!(write);
    // The deadline comes first: a process that was suspended must not continue a write that began
    // before.
    tokio::select! {
        biased;
        reason = abandoned => Err(reason),
        answer = write => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::{Mutex, PoisonError};

    use tokio::sync::watch;
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Another process may own all Rollouts after a deadline that a test moves.
    #[derive(Debug)]
    struct UntilDeadline {
        deadline: Mutex<Instant>,
        changes: watch::Sender<bool>,
    }

    impl UntilDeadline {
        fn after(wait: Duration) -> Self {
            Self {
                deadline: Mutex::new(Instant::now() + wait),
                changes: watch::Sender::new(true),
            }
        }

        fn move_to(&self, deadline: Instant) {
            *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        }
    }

    impl Ownership for UntilDeadline {
        fn owns(&self, rollout: &Key) -> bool {
            self.write_deadline(rollout)
                .is_some_and(|deadline| Instant::now() < deadline)
        }

        fn write_deadline(&self, _: &Key) -> Option<Instant> {
            Some(*self.deadline.lock().unwrap_or_else(PoisonError::into_inner))
        }

        fn changes(&self) -> watch::Receiver<bool> {
            self.changes.subscribe()
        }
    }

    fn web() -> Key {
        Key::new("shop", "web")
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_ends_before_another_process_can_own_the_rollout() {
        let (began, ownership) = (Instant::now(), UntilDeadline::after(2 * SECOND));
        let written = timed_write(&ownership, &web(), 5 * SECOND, pending::<()>()).await;
        assert_eq!(written, Err(WriteAbandoned::OwnershipEnds));
        assert_eq!(began.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_write_is_waited_for_while_the_ownership_is_renewed() {
        let (began, ownership) = (Instant::now(), UntilDeadline::after(2 * SECOND));
        let renew = async {
            for _ in 0..8 {
                sleep(SECOND).await;
                ownership.move_to(Instant::now() + 2 * SECOND);
            }
        };
        let web = web();
        let slow = timed_write(&ownership, &web, 5 * SECOND, sleep(4 * SECOND));
        let (written, ()) = tokio::join!(slow, renew);
        assert_eq!(written, Ok(()));
        let never = timed_write(&ownership, &web, SECOND, pending::<()>());
        assert_eq!(never.await, Err(WriteAbandoned::Timeout));
        assert_eq!(began.elapsed().as_secs(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_ends_at_once_if_the_ownership_is_lost_early() {
        let (began, ownership) = (Instant::now(), UntilDeadline::after(60 * SECOND));
        let lose = async {
            sleep(SECOND).await;
            ownership.move_to(Instant::now());
            ownership.changes.send_replace(false);
        };
        let web = web();
        let write = timed_write(&ownership, &web, 5 * SECOND, pending::<()>());
        let (written, ()) = tokio::join!(write, lose);
        assert_eq!(written, Err(WriteAbandoned::OwnershipEnds));
        assert_eq!(began.elapsed().as_secs(), 1);
    }
}
