//! Kubernetes Events about Rollouts, as shown by `kubectl describe`.

mod queue;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as K8sEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use serin_core::effect::{Level, Reason};
use serin_core::text::{Message, Text};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, timeout};

use self::queue::{EventQueue, Importance, QueuedEvent};

use crate::cluster_cache::RolloutObject;
use crate::telemetry::Metrics;
use crate::token_bucket::TokenBucket;

/// `reportingController` of the Events.
const REPORTER: &str = "serin";
/// Maximum time to write one Event.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum length of `action` in the Events API, in bytes.
const ACTION_BYTES: usize = 128;
/// Maximum number of Events that are written at the same time. Events are the least urgent writes.
const MAX_WRITES: usize = 4;
/// The reason of the Events about aborts, which `serin-core` reports.
const ABORT_REASON: &str = "RolledBack";
/// Minimum time between two identical Events, unless the position has changed. Each Event is an
/// object of its own, without a series.
const REPEAT_AFTER: Duration = Duration::from_mins(5);
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

/// Publishes Events. A task of its own writes them, so that no reconcile waits for the Events API.
///
/// [`Events::publish`] only adds an Event to a bounded queue, and [`Events::write_queued`] writes
/// what is in it. kube's `Recorder` is not used: it keeps all Events of six minutes and visits each
/// of them whenever it publishes another one.
#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    /// `reportingInstance` of the Events.
    instance: String,
    metrics: Arc<Metrics>,
    queue: Mutex<EventQueue>,
    /// An Event was added to the queue.
    added: Notify,
    /// An Event was written or given up.
    written: Notify,
}

impl Events {
    /// Creates a publisher that reports as `instance`.
    pub fn new(client: Client, instance: String, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            client,
            instance,
            metrics,
            queue: Mutex::default(),
            added: Notify::new(),
            written: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Publishes the reasons of one decision as a single Event, because each Event is a write.
    ///
    /// `position` (for example the revision and step) distinguishes Events of different steps.
    /// `moved` is true if the position of the Rollout has changed; the Event is then published even
    /// if it is a duplicate or if there were many Events before.
    ///
    /// Failures are only logged. A failed Event never holds a release.
    pub fn publish(
        &self,
        rollout: &RolloutObject,
        reasons: &[Reason],
        position: &str,
        moved: bool,
        dedup: &mut EventDedup,
    ) {
        let Some(composed) = compose(reasons, position) else {
            return;
        };
        let is_new = dedup.should_publish(&composed.fingerprint);
        let is_published = moved || (is_new && dedup.take_from_budget());
        if !is_published {
            return;
        }
        let queued = QueuedEvent {
            rollout: rollout.uid().to_owned(),
            importance: composed.importance,
            event: composed.event_about(&rollout.object_ref(&()), &self.shared.instance),
        };
        let dropped = self.queue().push(queued);
        self.shared.added.notify_one();
        if let Some(dropped) = dropped {
            self.shared.metrics.record_event_dropped();
            let reason = dropped.event.reason.unwrap_or_default();
            tracing::warn!(%reason, "dropped Event: too many wait to be written");
        }
    }

    /// Writes the queued Events. Never returns.
    ///
    /// Several are written at the same time, but those of one Rollout one after the other, so that
    /// they keep their order.
    pub async fn write_queued(self) {
        let mut writes = FuturesUnordered::new();
        loop {
            while writes.len() < MAX_WRITES
                && let Some(next) = self.take_next()
            {
                writes.push(Box::pin(self.write(next)));
            }
            tokio::select! {
                Some(rollout) = writes.next(), if !writes.is_empty() => {
                    self.queue().finish(&rollout);
                    self.shared.written.notify_one();
                }
                () = self.shared.added.notified() => {}
            }
        }
    }

    /// Waits until the queued Events are written, for at most `grace`. [`Events::write_queued`] must
    /// be running.
    pub async fn flush(&self, grace: Duration) {
        let drained = async {
            while !self.queue().is_idle() {
                self.shared.written.notified().await;
            }
        };
        if timeout(grace, drained).await.is_err() {
            tracing::warn!("some Events were not written within the grace period");
        }
    }

    /// Writes one Event. Returns the UID of its Rollout. Ownership does not matter: an Event reports
    /// what this process has already done.
    async fn write(&self, queued: QueuedEvent) -> String {
        let QueuedEvent { rollout, event, .. } = queued;
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<K8sEvent> = Api::namespaced(self.shared.client.clone(), namespace);
        self.shared.metrics.record_api_write("Event", "create");
        let reason = event.reason.as_deref().unwrap_or_default();
        match timeout(TIMEOUT, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, reason, "failed to write Event"),
            Err(_) => tracing::warn!(reason, "timed out writing Event"),
        }
        rollout
    }

    /// A function of its own, so that the queue is not locked across an `await`.
    fn take_next(&self) -> Option<QueuedEvent> {
        self.queue().take()
    }

    fn queue(&self) -> MutexGuard<'_, EventQueue> {
        let queue = &self.shared.queue;
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content of an Event.
#[derive(Debug)]
struct ComposedEvent {
    reason: &'static str,
    note: String,
    action: String,
    importance: Importance,
    /// Identifies duplicates.
    fingerprint: String,
}

impl ComposedEvent {
    /// The Event about an object, with the current time.
    fn event_about(self, regarding: &ObjectReference, instance: &str) -> K8sEvent {
        let now = Timestamp::now();
        let name = regarding.name.as_deref().unwrap_or(REPORTER);
        let type_ = match self.importance {
            Importance::Normal => "Normal",
            Importance::Warning | Importance::Abort => "Warning",
        };
        K8sEvent {
            metadata: ObjectMeta {
                namespace: regarding.namespace.clone(),
                // As kube and client-go name their Events.
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            regarding: Some(regarding.clone()),
            reason: Some(self.reason.to_owned()),
            note: Some(self.note),
            action: Some(self.action),
            type_: Some(type_.to_owned()),
            reporting_controller: Some(REPORTER.to_owned()),
            reporting_instance: Some(instance.to_owned()),
            ..K8sEvent::default()
        }
    }
}

fn compose(reasons: &[Reason], position: &str) -> Option<ComposedEvent> {
    let mut published: Vec<&Reason> = reasons
        .iter()
        .filter(|reason| reason.level > Level::Detail)
        .collect();
    let first = *published.iter().max_by_key(|reason| reason.level)?;
    let is_abort = published.iter().any(|reason| reason.code == ABORT_REASON);
    // The most severe reason becomes the reason of the Event. The other messages are appended.
    published.sort_by_key(|reason| *reason != first);
    let notes: Vec<&str> = published
        .iter()
        .map(|reason| reason.message.as_str())
        .collect();
    let note = Message::from(notes.join("; ")).to_string();
    let importance = match first.level {
        Level::Warning if is_abort => Importance::Abort,
        Level::Warning => Importance::Warning,
        Level::Normal | Level::Detail => Importance::Normal,
    };
    Some(ComposedEvent {
        reason: first.code,
        action: Text::<ACTION_BYTES>::from(position).into(),
        importance,
        fingerprint: format!("{}/{position}/{note}", first.code),
        note,
    })
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
        let event = compose(&reasons, "abc step 2").unwrap();
        assert_eq!(event.reason, "RolledBack");
        assert_eq!(event.importance, Importance::Abort);
        assert_eq!(event.note, "RolledBack occurred; WeightRaised occurred");
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
        let event = compose(&reasons, &"abc".repeat(100)).unwrap();
        let note = event.note;
        assert!(note.len() <= 1_024 && note.ends_with("...") && !note.contains('\u{1b}'));
        assert!(event.action.len() <= 128);
    }

    #[test]
    fn an_event_has_the_fields_that_the_api_requires() {
        let regarding = ObjectReference {
            kind: Some("Rollout".into()),
            name: Some("checkout".into()),
            namespace: Some("shop".into()),
            ..ObjectReference::default()
        };
        let composed = compose(&[reason("SteppedDown", Level::Warning)], "abc step 2").unwrap();
        let event = composed.event_about(&regarding, "serin-0");
        let name = event.metadata.name.unwrap();
        assert!(name.starts_with("checkout."), "{name}");
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(event.regarding, Some(regarding));
        assert!(event.event_time.is_some());
        let text = [
            event.type_,
            event.reason,
            event.action,
            event.note,
            event.reporting_controller,
            event.reporting_instance,
        ];
        assert_eq!(
            text.map(Option::unwrap),
            [
                "Warning",
                "SteppedDown",
                "abc step 2",
                "SteppedDown occurred",
                "serin",
                "serin-0",
            ]
        );
    }
}
