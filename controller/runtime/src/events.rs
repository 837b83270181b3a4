//! Events: what happened, for people who run `kubectl describe`.

use std::collections::VecDeque;
use std::sync::Arc;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serin_core::effect::{Level, Reason};
use tokio::time::{Duration, Instant, timeout};

use crate::telemetry::Metrics;
use crate::world::RolloutObject;

/// The name under which Events are reported.
const REPORTER: &str = "serin";
/// How long one Event may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest note that the API takes, in bytes.
const NOTE_LIMIT: usize = 1024;
/// The longest action that the API takes, in bytes.
const ACTION_LIMIT: usize = 128;
/// The same thing is told again only after so long, unless the position has changed.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// How many things told are remembered per Rollout.
const TOLD_LIMIT: usize = 16;

/// What was told of a Rollout lately.
#[derive(Debug, Default)]
pub struct Told(VecDeque<(String, Instant)>);

impl Told {
    /// Whether this is news, which it then no longer is.
    fn is_news(&mut self, what: &str) -> bool {
        self.0.retain(|(_, at)| at.elapsed() < REPEAT_AFTER);
        if self.0.iter().any(|(told, _)| told == what) {
            return false;
        }
        if self.0.len() >= TOLD_LIMIT {
            self.0.pop_front();
        }
        self.0.push_back((what.to_owned(), Instant::now()));
        true
    }
}

/// Writes Events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    metrics: Arc<Metrics>,
}

impl Events {
    /// Writes to this API server, as `instance`.
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

    /// Tells the reasons of one decision that matter to people, in one Event: each Event is a
    /// write.
    ///
    /// `position` (for example the revision and step) keeps the Events of different moments apart,
    /// which the API would otherwise count as repetitions. `moved` says that the position has
    /// changed with it.
    ///
    /// A failure is logged and nothing more: an Event is never worth holding a release for.
    pub async fn tell(
        &self,
        rollout: &RolloutObject,
        because: &[Reason],
        position: &str,
        moved: bool,
        told: &mut Told,
    ) {
        let Some((event, what)) = compose(because, position) else {
            return;
        };
        if !told.is_news(&what) && !moved {
            return;
        }
        self.metrics.api_write("Event", "create");
        match timeout(
            TIMEOUT,
            self.recorder.publish(&event, &rollout.object_ref(&())),
        )
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, reason = %event.reason, "an Event could not be written")
            }
            Err(_) => {
                tracing::warn!(reason = %event.reason, "an Event could not be written in time")
            }
        }
    }
}

fn compose(because: &[Reason], position: &str) -> Option<(Event, String)> {
    let mut telling: Vec<&Reason> = because
        .iter()
        .filter(|reason| reason.level > Level::Detail)
        .collect();
    let first = *telling.iter().max_by_key(|reason| reason.level)?;
    // The heaviest gives the Event its reason; the others are told beside it.
    telling.sort_by_key(|reason| *reason != first);
    let notes: Vec<&str> = telling
        .iter()
        .map(|reason| reason.message.as_str())
        .collect();
    let note = cut(notes.join("; "), NOTE_LIMIT);
    let event = Event {
        type_: if first.level == Level::Warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: first.code.to_owned(),
        note: Some(note.clone()),
        action: cut(position.to_owned(), ACTION_LIMIT),
        secondary: None,
    };
    Some((event, format!("{}/{position}/{note}", first.code)))
}

fn cut(mut text: String, limit: usize) -> String {
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
            message: format!("{code} happened"),
            level,
        }
    }

    #[test]
    fn one_decision_is_one_event_under_its_heaviest_reason() {
        let because = [
            reason("Detail", Level::Detail),
            reason("WeightRaised", Level::Normal),
            reason("RolledBack", Level::Warning),
        ];
        let (event, _) = compose(&because, "abc step 2").unwrap();
        assert_eq!(event.reason, "RolledBack");
        assert_eq!(event.type_, EventType::Warning);
        assert_eq!(
            event.note.as_deref(),
            Some("RolledBack happened; WeightRaised happened")
        );
        assert!(compose(&because[..1], "abc").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_is_told_again_only_after_a_while() {
        let mut told = Told::default();
        assert!(told.is_news("drift"));
        assert!(!told.is_news("drift"));
        assert!(told.is_news("something else"));
        tokio::time::advance(REPEAT_AFTER).await;
        assert!(told.is_news("drift"));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(cut("ääää".into(), 3), "ä");
    }
}
