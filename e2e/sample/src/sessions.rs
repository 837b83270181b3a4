//! Sessions: all requests with the same header `x-session`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::http::HeaderMap;
use tokio::time::Instant;

/// A session without requests for this long has ended.
const IDLE: Duration = Duration::from_secs(2);

/// Maximum number of sessions at a time. Further ones are not counted.
const MAX_SESSIONS: usize = 10_000;

/// The sessions that have not ended.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Debug)]
struct Session {
    last_seen: Instant,
    has_failed: bool,
}

/// Numbers of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedSessions {
    /// All sessions.
    pub all: u64,
    /// Sessions with at least one failed request.
    pub with_error: u64,
}

impl Sessions {
    /// Records the outcome of a request.
    pub fn record(&self, headers: &HeaderMap, ok: bool) {
        let name = headers.get("x-session").map(|name| name.to_str());
        let Some(Ok(name)) = name else { return };
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(session) = sessions.get_mut(name) {
            session.last_seen = now;
            session.has_failed |= !ok;
        } else if sessions.len() < MAX_SESSIONS {
            let session = Session {
                last_seen: now,
                has_failed: !ok,
            };
            sessions.insert(name.to_owned(), session);
        }
    }

    /// Removes the sessions that have ended and counts them. A session is counted at its end, when
    /// it is known whether a request of it has failed.
    pub fn take_ended(&self) -> EndedSessions {
        let mut ended = EndedSessions::default();
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| {
            let is_active = session.last_seen.elapsed() < IDLE;
            if !is_active {
                ended.all += 1;
                ended.with_error += u64::from(session.has_failed);
            }
            is_active
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use tokio::time::advance;

    use super::*;

    fn of_session(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("x-session"),
            HeaderValue::from_static(name),
        )])
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_counted_once_at_its_end() {
        let sessions = Sessions::default();
        sessions.record(&HeaderMap::new(), false);
        for ok in [true, false, false] {
            sessions.record(&of_session("a"), ok);
        }
        sessions.record(&of_session("b"), true);
        assert_eq!(sessions.take_ended(), EndedSessions::default());
        advance(IDLE).await;
        sessions.record(&of_session("c"), false);
        let ended = EndedSessions {
            all: 2,
            with_error: 1,
        };
        assert_eq!(sessions.take_ended(), ended);
        assert_eq!(sessions.take_ended(), EndedSessions::default());
    }
}
