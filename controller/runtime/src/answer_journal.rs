//! Records in the journal which large answers of Prometheus servers are being decoded.

use std::any::Any;
use std::time::Duration;

use serin_metrics_analysis::prometheus::{AnswerGuard, AnswerSource};

use crate::clock::Clock;
use crate::journal::{Admission, Journal, SERVER_PREFIX, Subject};

/// Delay while a Rollout is retried after it may have ended the process.
const AFTER_OTHERS: Duration = Duration::from_secs(1);

/// The journal as a guard of answers. If an answer of a server may have ended the process, its large
/// answers are not decoded for the Rollouts of the same namespace, for as long as a Rollout would be
/// quarantined.
#[derive(Clone, Debug)]
pub struct AnswerJournal {
    journal: Journal,
    clock: Clock,
}

impl AnswerJournal {
    /// A guard that records in `journal`.
    pub const fn new(journal: Journal, clock: Clock) -> Self {
        Self { journal, clock }
    }
}

impl AnswerGuard for AnswerJournal {
    fn begin(&self, source: &AnswerSource) -> Result<Box<dyn Any + Send>, Duration> {
        let AnswerSource { namespace, server } = source;
        let subject = Subject {
            namespace: namespace.clone(),
            name: server.clone(),
            uid: format!("{SERVER_PREFIX}{namespace}/{server}"),
            generation: 0,
        };
        match self.journal.begin(&subject, self.clock.now()) {
            Admission::Start(attempt) => Ok(Box::new(attempt)),
            Admission::Wait => Err(AFTER_OTHERS),
            Admission::Quarantined { left, .. } => Err(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn source(namespace: &str) -> AnswerSource {
        AnswerSource {
            namespace: namespace.to_owned(),
            server: "prometheus.example:9090".to_owned(),
        }
    }

    #[test]
    fn invariant_11_a_server_whose_answer_ends_the_process_is_not_decoded_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let journal = Journal::open(directory.path(), Timestamp::now()).unwrap();
            AnswerJournal::new(journal, Clock::wall())
        };
        let guard = open();
        drop(guard.begin(&source("shop")).unwrap());
        let guard = open();
        // The process dies while it decodes an answer.
        std::mem::forget(guard.begin(&source("shop")).unwrap());
        let guard = open();
        let left = guard.begin(&source("shop")).unwrap_err();
        assert!(left <= Duration::from_secs(5), "{left:?}");
        assert!(
            guard.begin(&source("pay")).is_ok(),
            "another namespace is not affected"
        );
    }
}
