//! Limits the concurrent reconciles of namespaces whose reconciles are slow, for example because of
//! an admission webhook, so that slots remain for the other namespaces.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Time after which a reconcile is slow: it waits for the API server or for a webhook.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Time for which a namespace is slow after its last slow reconcile.
const SLOW_FOR: Duration = Duration::from_secs(30);

/// The running reconciles by namespace, and which namespaces are slow. Times are passed in.
#[derive(Debug, Default)]
pub struct NamespaceSlots {
    running: HashMap<String, usize>,
    /// Namespaces with slow reconciles, and until when they are slow.
    slow_until: HashMap<String, Instant>,
}

impl NamespaceSlots {
    /// Records that a reconcile in this namespace has begun.
    pub fn begin(&mut self, namespace: &str) {
        match self.running.get_mut(namespace) {
            Some(count) => *count += 1,
            None => drop(self.running.insert(namespace.to_owned(), 1)),
        }
    }

    /// Records that a reconcile in this namespace has ended, and its duration.
    pub fn end(&mut self, namespace: &str, took: Duration, now: Instant) {
        if let Some(count) = self.running.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(namespace);
            }
        }
        if took >= SLOW_AFTER {
            self.slow_until.retain(|_, until| now < *until);
            self.slow_until.insert(namespace.to_owned(), now + SLOW_FOR);
        }
    }

    /// Whether another reconcile may begin in this namespace: its reconciles are fast, or fewer than
    /// `share` of them are running.
    pub fn has_slot(&self, namespace: &str, share: usize, now: Instant) -> bool {
        let until = self.slow_until.get(namespace);
        let is_slow = until.is_some_and(|until| now < *until);
        !is_slow || self.running.get(namespace).copied().unwrap_or(0) < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_namespaces_with_slow_reconciles_are_limited() {
        let mut slots = NamespaceSlots::default();
        let now = Instant::now();
        slots.begin("shop");
        slots.begin("shop");
        assert!(slots.has_slot("shop", 1, now), "it is not slow");
        slots.end("shop", SLOW_AFTER, now);
        assert!(!slots.has_slot("shop", 1, now));
        assert!(slots.has_slot("shop", 2, now));
        assert!(slots.has_slot("other", 0, now));
        assert!(slots.has_slot("shop", 1, now + SLOW_FOR));
        slots.end("shop", Duration::ZERO, now);
        assert!(slots.has_slot("shop", 1, now), "nothing runs");
        assert!(slots.running.is_empty());
    }
}
