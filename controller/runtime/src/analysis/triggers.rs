//! A channel for the Rollouts whose analysis has changed.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures::Stream;

use serin_metrics_analysis::RolloutName;

use super::lock;

#[derive(Debug, Default)]
struct Pending {
    names: BTreeSet<RolloutName>,
    waker: Option<Waker>,
    senders: usize,
}

/// The sending side. A Rollout that is already pending is not added again, so the channel is
/// bounded by the number of Rollouts.
#[derive(Debug)]
pub(super) struct Sender {
    pending: Arc<Mutex<Pending>>,
}

/// The receiving side. Each Rollout is returned once for any number of changes since it was last
/// received. Ends when all senders are dropped.
#[derive(Debug)]
pub struct Triggers {
    pending: Arc<Mutex<Pending>>,
}

pub(super) fn channel() -> (Sender, Triggers) {
    let pending = Arc::new(Mutex::new(Pending {
        senders: 1,
        ..Pending::default()
    }));
    (
        Sender {
            pending: pending.clone(),
        },
        Triggers { pending },
    )
}

impl Sender {
    pub(super) fn send(&self, name: &RolloutName) {
        let waker = {
            let mut pending = lock(&self.pending);
            pending.names.insert(name.clone());
            pending.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        lock(&self.pending).senders += 1;
        Self {
            pending: self.pending.clone(),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let waker = {
            let mut pending = lock(&self.pending);
            pending.senders -= 1;
            if pending.senders == 0 {
                pending.waker.take()
            } else {
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Stream for Triggers {
    type Item = RolloutName;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<RolloutName>> {
        let mut pending = lock(&self.pending);
        if let Some(name) = pending.names.pop_first() {
            return Poll::Ready(Some(name));
        }
        if pending.senders == 0 {
            return Poll::Ready(None);
        }
        pending.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn name(name: &str) -> RolloutName {
        RolloutName {
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[tokio::test]
    async fn pending_names_are_deduplicated_and_the_stream_ends_with_its_senders() {
        let (sender, triggers) = channel();
        for _ in 0..1_000 {
            sender.send(&name("checkout"));
        }
        sender.send(&name("cart"));
        let other = sender.clone();
        drop(sender);
        drop(other);
        let all: Vec<_> = triggers.collect().await;
        assert_eq!(all, [name("cart"), name("checkout")]);
    }

    #[tokio::test]
    async fn a_waiting_receiver_is_woken() {
        let (sender, mut triggers) = channel();
        let waiting = tokio::spawn(async move { triggers.next().await });
        tokio::task::yield_now().await;
        sender.send(&name("checkout"));
        assert_eq!(waiting.await.unwrap(), Some(name("checkout")));
    }
}
