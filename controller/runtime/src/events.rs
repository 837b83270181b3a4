//! Kubernetes Events about Rollouts, as shown by `kubectl describe`.

use std::collections::VecDeque;
use std::sync::Arc;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serin_core::effect::{Level, Reason};
use serin_core::text::{Message, Text};
use tokio::time::{Duration, Instant, timeout};

use crate::cluster_cache::RolloutObject;
use crate::telemetry::Metrics;
use crate::token_bucket::TokenBucket;

/// `reportingController` of the Events.
const REPORTER: &str = "serin";
/// Maximum time to write one Event.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum length of `action` in the Events API, in bytes.
const ACTION_BYTES: usize = 128;
/// Minimum time between two identical Events, unless its position has changed.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// Maximum number of remembered Events per Rollout.
const DEDUP_LIMIT: usize = 16;

/// Interval of Events without a change of position, once the burst is used up.
const EVENT_INTERVAL: Duration = Duration::from_secs(30);

/// Recently published Events of one Rollout, used to suppress duplicates and floods.
#[derive(Debug, Default)]
pub struct EventDedup {
    recent: VecDeque<(String, Instant)>,
    budget: TokenBucket,
}

impl EventDedup {
    /// Returns whether an Event with this fingerprint was not published recently, and records it.
    fn should_publish(&mut self, fingerprint: &str) -> bool {
        self.recent.retain(|(_, at)| at.elapsed() < REPEAT_AFTER);
        if self.recent.iter().any(|(dedup, _)| dedup == fingerprint) {
            return false;
        }
        if self.recent.len() >= DEDUP_LIMIT {
            self.recent.pop_front();
        }
        self.recent
            .push_back((fingerprint.to_owned(), Instant::now()));
        true
    }

    /// Returns whether there is room for an Event without a change of position.
    fn take_from_budget(&mut self) -> bool {
        self.budget.take(EVENT_INTERVAL).is_ok()
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
    /// otherwise aggregate. `moved` is true if the position of the Rollout has changed; the Event is
    /// then published even if it is a duplicate or if there were many Events before.
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
        let is_new = dedup.should_publish(&fingerprint);
        let is_published = moved || (is_new && dedup.take_from_budget());
        if !is_published {
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
    let note = Message::from(notes.join("; "));
    let event = Event {
        type_: if first.level == Level::Warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: first.code.to_owned(),
        note: Some(note.to_string()),
        action: Text::<ACTION_BYTES>::from(position).into(),
        secondary: None,
    };
    Some((event, format!("{}/{position}/{note}", first.code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: &'static str, level: Level) -> Reason {
        Reason {
            code,
            message: format!("{code} occurred").into(),
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

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_different_events_is_limited() {
        let mut dedup = EventDedup::default();
        let published = |dedup: &mut EventDedup, number: u32| {
            dedup.should_publish(&format!("error {number}")) && dedup.take_from_budget()
        };
        let burst = (0..100).filter(|number| published(&mut dedup, *number));
        assert_eq!(burst.count(), 10);
        tokio::time::advance(EVENT_INTERVAL).await;
        assert!(published(&mut dedup, 100));
        assert!(!published(&mut dedup, 101));
    }

    #[test]
    fn a_note_and_an_action_fit_into_an_event() {
        let reasons = [
            Reason {
                message: "ä\u{1b}".repeat(600).into(),
                ..reason("RolledBack", Level::Warning)
            },
            reason("WeightRaised", Level::Normal),
        ];
        let (event, _) = compose(&reasons, &"abc".repeat(100)).unwrap();
        let note = event.note.unwrap();
        assert!(note.len() <= 1_024 && note.ends_with("...") && !note.contains('\u{1b}'));
        assert!(event.action.len() <= 128);
    }
}
