//! The Events that wait to be written. Pure.

use std::collections::{HashSet, VecDeque};

use k8s_openapi::api::events::v1::Event;

/// Maximum number of waiting Events. Each takes about 1 KiB.
const MAX_WAITING: usize = 4_096;
/// Number of waiting Events for which memory is kept.
const KEPT_CAPACITY: usize = 16;

/// Which Events are dropped last if too many wait, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Importance {
    /// A Normal Event.
    Normal,
    /// A Warning Event.
    Warning,
    /// A Warning Event about an abort.
    Abort,
}

/// A waiting Event.
#[derive(Debug)]
pub struct QueuedEvent {
    /// The UID of its Rollout.
    pub rollout: String,
    /// Whether it is dropped before others.
    pub importance: Importance,
    /// The Event.
    pub event: Event,
}

/// Waiting Events, oldest first, and the Rollouts whose Event is being written.
#[derive(Debug, Default)]
pub struct EventQueue {
    waiting: VecDeque<QueuedEvent>,
    writing: HashSet<String>,
}

impl EventQueue {
    /// Adds an Event. If too many wait, the oldest one of the least importance is removed and
    /// returned.
    pub fn push(&mut self, event: QueuedEvent) -> Option<QueuedEvent> {
        self.waiting.push_back(event);
        if self.waiting.len() <= MAX_WAITING {
            return None;
        }
        let waiting = self.waiting.iter().enumerate();
        // The first of several minimums is the oldest.
        let (index, _) = waiting.min_by_key(|(_, event)| event.importance)?;
        self.waiting.remove(index)
    }

    /// Removes the oldest Event whose Rollout has no Event that is being written. The Rollout is
    /// busy until [`EventQueue::finish`].
    pub fn take(&mut self) -> Option<QueuedEvent> {
        let mut waiting = self.waiting.iter();
        let index = waiting.position(|event| !self.writing.contains(&event.rollout))?;
        let event = self.waiting.remove(index)?;
        self.writing.insert(event.rollout.clone());
        Some(event)
    }

    /// Records that the Event of a Rollout was written.
    pub fn finish(&mut self, rollout: &str) {
        self.writing.remove(rollout);
        if self.is_idle() {
            // After an update of all Rollouts, there is memory for thousands of Events.
            self.waiting.shrink_to(KEPT_CAPACITY);
        }
    }

    /// Whether no Event waits or is being written.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(rollout: &str, reason: &str, importance: Importance) -> QueuedEvent {
        QueuedEvent {
            rollout: rollout.to_owned(),
            importance,
            event: Event {
                reason: Some(reason.to_owned()),
                ..Event::default()
            },
        }
    }

    fn reason(event: Option<QueuedEvent>) -> Option<String> {
        event?.event.reason
    }

    #[test]
    fn the_events_of_one_rollout_keep_their_order() {
        let mut queue = EventQueue::default();
        for (rollout, reason) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
            assert!(
                queue
                    .push(event(rollout, reason, Importance::Normal))
                    .is_none()
            );
        }
        assert_eq!(reason(queue.take()).as_deref(), Some("a1"));
        assert_eq!(
            reason(queue.take()).as_deref(),
            Some("b1"),
            "another Rollout does not wait"
        );
        assert!(queue.take().is_none(), "a2 waits for a1");
        queue.finish("a");
        assert_eq!(reason(queue.take()).as_deref(), Some("a2"));
        queue.finish("a");
        assert!(!queue.is_idle());
        queue.finish("b");
        assert!(queue.is_idle());
    }

    #[test]
    fn the_memory_for_many_events_is_released_after_the_last_one() {
        let mut queue = EventQueue::default();
        for number in 0..1_000 {
            let rollout = number.to_string();
            assert!(
                queue
                    .push(event(&rollout, "x", Importance::Normal))
                    .is_none()
            );
        }
        while let Some(taken) = queue.take() {
            queue.finish(&taken.rollout);
        }
        let kept = queue.waiting.capacity();
        assert!(kept < 100, "{kept}");
    }

    #[test]
    fn a_full_queue_drops_the_oldest_normal_event_first_and_aborts_last() {
        let mut queue = EventQueue::default();
        assert!(queue.push(event("x", "x", Importance::Abort)).is_none());
        assert!(queue.push(event("w", "w", Importance::Warning)).is_none());
        for number in 2..MAX_WAITING {
            let name = format!("n{number}");
            assert!(
                queue
                    .push(event(&name, &name, Importance::Normal))
                    .is_none()
            );
        }
        // Only Normal Events are dropped while there are some, the oldest first.
        for number in 2..MAX_WAITING {
            let dropped = queue.push(event("abort", "abort", Importance::Abort));
            assert_eq!(reason(dropped), Some(format!("n{number}")));
        }
        // An Event that is less important than all others is dropped itself.
        let normal = queue.push(event("late", "late", Importance::Normal));
        assert_eq!(reason(normal).as_deref(), Some("late"));
        let warning = queue.push(event("abort", "abort", Importance::Abort));
        assert_eq!(reason(warning).as_deref(), Some("w"));
        let abort = queue.push(event("abort", "abort", Importance::Abort));
        assert_eq!(reason(abort).as_deref(), Some("x"));
        assert_eq!(queue.waiting.len(), MAX_WAITING);
    }
}
