//! The only source of wall-clock time, so that tests can control it.

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

/// A source of wall-clock time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The wall clock of the machine.
    pub fn wall() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// A clock that starts at `start` and advances with tokio's clock. It uses virtual time if
    /// tokio's clock is paused.
    pub fn tokio_from(start: Timestamp) -> Self {
        let origin = tokio::time::Instant::now();
        Self(Arc::new(move || {
            SignedDuration::try_from(origin.elapsed())
                .ok()
                .and_then(|gone| start.checked_add(gone).ok())
                .unwrap_or(start)
        }))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
