//! Kubernetes Events about Rollouts, as shown by `kubectl describe`.

use std::collections::VecDeque;
use std::sync::Arc;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serin_core::effect::{Level, Reason};
use tokio::time::{Duration, Instant, timeout};

use crate::cluster_cache::RolloutObject;
use crate::telemetry::Metrics;

/// `reportingController` of the Events.
const REPORTER: &str = "serin";
/// Maximum time to write one Event.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum length of `note` in the Events API, in bytes.
const NOTE_LIMIT: usize = 1024;
/// Maximum length of `action` in the Events API, in bytes.
const ACTION_LIMIT: usize = 128;
/// Minimum time between two identical Events, unless the state of the Rollout has changed.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// Maximum number of remembered Events per Rollout.
const DEDUP_LIMIT: usize = 16;

/// Recently published Events of one Rollout, used to suppress duplicates.
#[derive(Debug, Default)]
pub struct EventDedup(VecDeque<(String, Instant)>);

impl EventDedup {
    /// Returns whether an Event with this fingerprint was not published recently, and records it.
    fn should_publish(&mut self, fingerprint: &str) -> bool {
        self.0.retain(|(_, at)| at.elapsed() < REPEAT_AFTER);
        if self.0.iter().any(|(dedup, _)| dedup == fingerprint) {
            return false;
        }
        if self.0.len() >= DEDUP_LIMIT {
            self.0.pop_front();
        }
        self.0.push_back((fingerprint.to_owned(), Instant::now()));
        true
    }
}

/// Publishes Events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    metrics: Arc<Metrics>,
}

impl Events {
    /// Creates a publisher that reports as `instance`.
    pub fn new(client: Client, instance: String, metrics: Arc<Metrics>) -> Self {
        let reporter = Reporter {
            controller: REPORTER.to_owned(),
            instance: Some(instance),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            metrics,
        }
    }

    /// Publishes the reasons of one decision as a single Event, because each Event is a write.
    ///
    /// `position` (for example the revision and step) distinguishes Events that the API would
    /// otherwise aggregate. `moved` is true if the state of the Rollout has changed; the Event is
    /// then published even if it is a duplicate.
    ///
    /// Failures are only logged. A failed Event never holds a release.
    pub async fn publish(
        &self,
        rollout: &RolloutObject,
        reasons: &[Reason],
        position: &str,
        moved: bool,
        dedup: &mut EventDedup,
    ) {
        let Some((event, fingerprint)) = compose(reasons, position) else {
            return;
        };
        if !dedup.should_publish(&fingerprint) && !moved {
            return;
        }
        self.metrics.record_api_write("Event", "create");
        match timeout(
            TIMEOUT,
            self.recorder.publish(&event, &rollout.object_ref(&())),
        )
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, reason = %event.reason, "failed to write Event");
            }
            Err(_) => {
                tracing::warn!(reason = %event.reason, "timed out writing Event");
            }
        }
    }
}

fn compose(reasons: &[Reason], position: &str) -> Option<(Event, String)> {
    let mut published: Vec<&Reason> = reasons
        .iter()
        .filter(|reason| reason.level > Level::Detail)
        .collect();
    let first = *published.iter().max_by_key(|reason| reason.level)?;
    // The most severe reason becomes the reason of the Event. The other messages are appended.
    published.sort_by_key(|reason| *reason != first);
    let notes: Vec<&str> = published
        .iter()
        .map(|reason| reason.message.as_str())
        .collect();
    let note = truncate_bytes(notes.join("; "), NOTE_LIMIT);
    let event = Event {
        type_: if first.level == Level::Warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: first.code.to_owned(),
        note: Some(note.clone()),
        action: truncate_bytes(position.to_owned(), ACTION_LIMIT),
        secondary: None,
    };
    Some((event, format!("{}/{position}/{note}", first.code)))
}

fn truncate_bytes(mut text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: &'static str, level: Level) -> Reason {
        Reason {
            code,
            message: format!("{code} occurred"),
            level,
        }
    }

    #[test]
    fn a_decision_becomes_one_event_with_its_most_severe_reason() {
        let reasons = [
            reason("Detail", Level::Detail),
            reason("WeightRaised", Level::Normal),
            reason("RolledBack", Level::Warning),
        ];
        let (event, _) = compose(&reasons, "abc step 2").unwrap();
        assert_eq!(event.reason, "RolledBack");
        assert_eq!(event.type_, EventType::Warning);
        assert_eq!(
            event.note.as_deref(),
            Some("RolledBack occurred; WeightRaised occurred")
        );
        assert!(compose(&reasons[..1], "abc").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn duplicates_are_suppressed_for_a_while() {
        let mut dedup = EventDedup::default();
        assert!(dedup.should_publish("drift"));
        assert!(!dedup.should_publish("drift"));
        assert!(dedup.should_publish("something else"));
        tokio::time::advance(REPEAT_AFTER).await;
        assert!(dedup.should_publish("drift"));
    }

    #[test]
    fn a_long_note_is_truncated_at_a_character_boundary() {
        assert_eq!(truncate_bytes("ääää".into(), 3), "ä");
    }
}
