//! Watches: what happened after a version, and then what happens.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep, sleep_until};

use super::failure::Failure;
use super::handler::{metadata_only, shown};
use super::kinds::Kind;
use super::path::{Call, Target};
use super::selector::Selector;
use super::store::{Change, Store};
use crate::shared::Shared;

/// How often an idle watch is told the current version, as real servers do about once a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts where its client does not say.
const LASTS: Duration = Duration::from_secs(300);

/// What a watch asks for.
struct Filter {
    kind: Kind,
    resource: String,
    namespace: Option<String>,
    selector: Selector,
    metadata_only: bool,
    bookmarks: bool,
}

/// A watch under way.
struct Watch {
    shared: Arc<Shared>,
    filter: Filter,
    changed: Receiver<u64>,
    /// Everything up to here has been told.
    told: u64,
    /// The connection that it came in on; a break of the network ends it.
    connection: u64,
    ends_at: Instant,
    bookmark_at: Instant,
    /// What is told before anything else, and whether that is all.
    first: Option<(String, bool)>,
    ended: bool,
}

/// The stream of events that answers a watch request.
pub(crate) fn stream(
    shared: Arc<Shared>,
    call: &Call,
    target: &Target,
) -> Result<impl Stream<Item = io::Result<Frame<Bytes>>> + Send + use<>, Failure> {
    let changed = shared.changed.subscribe();
    let state = shared.lock();
    let filter = Filter {
        kind: state.store.served(target)?.clone(),
        resource: target.resource(),
        namespace: target.namespace.clone(),
        selector: Selector::parse(call.query("labelSelector"), call.query("fieldSelector"))?,
        metadata_only: call.wants_metadata_only(),
        bookmarks: call.query("allowWatchBookmarks") == "true",
    };
    let (told, first) = filter.start(&state.store, call)?;
    let connection = state.connection;
    drop(state);
    let lasts = call
        .query("timeoutSeconds")
        .parse()
        .map_or(LASTS, Duration::from_secs);
    let now = Instant::now();
    let watch = Watch {
        shared,
        filter,
        changed,
        told,
        connection,
        ends_at: now + lasts,
        bookmark_at: now + BOOKMARK_EVERY,
        first,
        ended: false,
    };
    Ok(futures::stream::unfold(watch, |mut watch| async move {
        let next = watch.next().await?;
        Some((next.map(|lines| Frame::data(Bytes::from(lines))), watch))
    }))
}

impl Filter {
    /// From which version on changes are told, and what is told first.
    fn start(&self, store: &Store, call: &Call) -> Result<(u64, Option<(String, bool)>), Failure> {
        let asked = call.query("resourceVersion");
        let initial = call.query("sendInitialEvents") == "true";
        if initial || asked.is_empty() || asked == "0" {
            let objects = store.list(&self.resource, self.namespace.as_deref());
            let matching = objects.filter(|(_, object)| self.selector.matches(object));
            let mut lines: String = matching
                .map(|(_, object)| self.line("ADDED", object))
                .collect();
            if initial {
                lines.push_str(&self.bookmark(store.version(), true));
            }
            return Ok((store.version(), Some((lines, false))));
        }
        let from: u64 = asked.parse().map_err(|_| {
            Failure::internal(format!(
                "resourceVersion: Invalid value: {asked:?}: strconv.ParseUint: parsing {asked:?}: invalid syntax"
            ))
        })?;
        if from < store.oldest() {
            let expired = Failure::expired(from, store.oldest());
            return Ok((from, Some((event("ERROR", &expired.to_status()), true))));
        }
        Ok((from, None))
    }

    fn line(&self, kind: &str, object: &Value) -> String {
        if self.metadata_only {
            event(kind, &metadata_only(object))
        } else {
            event(kind, &shown(&self.kind, object))
        }
    }

    fn bookmark(&self, version: u64, ends_initial_events: bool) -> String {
        let mut object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        });
        if ends_initial_events {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        event("BOOKMARK", &object)
    }

    /// What a change means to who sees only the objects of this filter.
    fn told_of(&self, change: &Change) -> Option<String> {
        let ours = change.key.resource == self.resource
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == change.key.namespace);
        if !ours {
            return None;
        }
        let was = change
            .before
            .as_ref()
            .is_some_and(|before| self.selector.matches(before));
        let is = !change.deleted && self.selector.matches(&change.object);
        match (was, is) {
            (false, true) => Some(self.line("ADDED", &change.object)),
            (true, true) => Some(self.line("MODIFIED", &change.object)),
            (true, false) => {
                // Its watcher knows it as it was; only the version is new.
                let mut last = Value::clone(change.before.as_ref().unwrap_or(&change.object));
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                Some(self.line("DELETED", &last))
            }
            (false, false) => None,
        }
    }
}

impl Watch {
    /// The next lines, or the end.
    async fn next(&mut self) -> Option<io::Result<String>> {
        if self.ended {
            return None;
        }
        if let Some((lines, is_all)) = self.first.take() {
            self.ended = is_all;
            if !lines.is_empty() {
                return Some(Ok(lines));
            }
        }
        loop {
            match self.look() {
                Err(broken) => {
                    self.ended = true;
                    return Some(Err(broken));
                }
                Ok((lines, lag)) if !lines.is_empty() => {
                    sleep(lag).await;
                    return Some(Ok(lines));
                }
                Ok(_) if self.ended => return None,
                Ok(_) => {}
            }
            // The order is fixed, so that a run can be repeated.
            tokio::select! {
                biased;
                changed = self.changed.changed() => {
                    // The world is gone, and its network with it.
                    if changed.is_err() {
                        return None;
                    }
                }
                () = sleep_until(self.ends_at) => {
                    self.ended = true;
                    let last = self.filter.bookmark(self.told, false);
                    return self.filter.bookmarks.then_some(Ok(last));
                }
                () = sleep_until(self.bookmark_at), if self.filter.bookmarks => {
                    self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                    return Some(Ok(self.filter.bookmark(self.told, false)));
                }
            }
        }
    }

    /// What has happened since, and how long it takes to arrive.
    fn look(&mut self) -> io::Result<(String, Duration)> {
        let mut state = self.shared.lock();
        if state.connection != self.connection {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the connection was reset",
            ));
        }
        let changes = state.store.changes_after(self.told);
        let lines: String = changes
            .filter_map(|change| self.filter.told_of(change))
            .collect();
        self.told = self.told.max(state.store.version());
        // A version that is served no longer takes its watches with it.
        let kind = &self.filter.kind;
        self.ended |= state
            .store
            .kind(&kind.group, &kind.version, &kind.plural)
            .is_none();
        let lag = if lines.is_empty() {
            Duration::ZERO
        } else {
            state.watch_lag()
        };
        Ok((lines, lag))
    }
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
