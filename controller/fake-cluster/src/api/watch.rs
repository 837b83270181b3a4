//! Watches.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep, sleep_until};

use super::error::ApiError;
use super::handler::{in_served_version, metadata_only};
use super::kinds::ServedKind;
use super::request::{ApiRequest, ResourcePath};
use super::selector::Selector;
use super::store::{Change, ObjectStore};
use crate::state::SharedState;

/// Interval of bookmarks on an idle watch. Real servers send about one per minute.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Duration of a watch without `timeoutSeconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// The scope of a watch.
struct WatchFilter {
    kind: ServedKind,
    resource: String,
    namespace: Option<String>,
    selector: Selector,
    metadata_only: bool,
    bookmarks: bool,
}

/// An open watch.
struct WatchStream {
    shared: Arc<SharedState>,
    filter: WatchFilter,
    changed: Receiver<u64>,
    /// The last version that was sent.
    sent_version: u64,
    /// The connection number at the start. The watch ends when the cluster breaks watches.
    connection: u64,
    ends_at: Instant,
    bookmark_at: Instant,
    /// Events to send first, and whether the watch ends after them.
    initial: Option<(String, bool)>,
    ended: bool,
}

/// The stream of events that answers a watch request.
pub(crate) fn stream(
    shared: Arc<SharedState>,
    request: &ApiRequest,
    resource_path: &ResourcePath,
) -> Result<impl Stream<Item = io::Result<Frame<Bytes>>> + Send + use<>, ApiError> {
    let changed = shared.changed.subscribe();
    let state = shared.lock();
    let filter = WatchFilter {
        kind: state.store.kind_at(resource_path)?.clone(),
        resource: resource_path.resource(),
        namespace: resource_path.namespace.clone(),
        selector: Selector::parse(
            request.query("labelSelector"),
            request.query("fieldSelector"),
        )?,
        metadata_only: request.wants_metadata_only(),
        bookmarks: request.query("allowWatchBookmarks") == "true",
    };
    let (sent_version, initial) = filter.start(&state.store, request)?;
    let connection = state.connection;
    drop(state);
    let timeout = request
        .query("timeoutSeconds")
        .parse()
        .map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let now = Instant::now();
    let watch = WatchStream {
        shared,
        filter,
        changed,
        sent_version,
        connection,
        ends_at: now + timeout,
        bookmark_at: now + BOOKMARK_INTERVAL,
        initial,
        ended: false,
    };
    Ok(futures::stream::unfold(watch, |mut watch| async move {
        let next = watch.next().await?;
        Some((next.map(|lines| Frame::data(Bytes::from(lines))), watch))
    }))
}

impl WatchFilter {
    /// The version after which changes are sent, and the events to send first.
    fn start(
        &self,
        store: &ObjectStore,
        request: &ApiRequest,
    ) -> Result<(u64, Option<(String, bool)>), ApiError> {
        let requested = request.query("resourceVersion");
        let initial = request.query("sendInitialEvents") == "true";
        if initial || requested.is_empty() || requested == "0" {
            let objects = store.list(&self.resource, self.namespace.as_deref());
            let matching = objects.filter(|(_, object)| self.selector.matches(object));
            let mut lines: String = matching
                .map(|(_, object)| self.event_line("ADDED", object))
                .collect();
            if initial {
                lines.push_str(&self.bookmark(store.version(), true));
            }
            return Ok((store.version(), Some((lines, false))));
        }
        let from: u64 = requested.parse().map_err(|_| {
            ApiError::internal(format!(
                "resourceVersion: Invalid value: {requested:?}: strconv.ParseUint: parsing \
                 {requested:?}: invalid syntax"
            ))
        })?;
        if from < store.oldest_version() {
            let expired = ApiError::expired(from, store.oldest_version());
            return Ok((from, Some((event("ERROR", &expired.to_status()), true))));
        }
        Ok((from, None))
    }

    fn event_line(&self, kind: &str, object: &Value) -> String {
        if self.metadata_only {
            event(kind, &metadata_only(object))
        } else {
            event(kind, &in_served_version(&self.kind, object))
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

    /// The event that a change causes on a watch with this filter.
    fn event_for(&self, change: &Change) -> Option<String> {
        let in_scope = change.key.resource == self.resource
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == change.key.namespace);
        if !in_scope {
            return None;
        }
        let matched_before = change
            .before
            .as_ref()
            .is_some_and(|before| self.selector.matches(before));
        let matches_now = !change.deleted && self.selector.matches(&change.object);
        match (matched_before, matches_now) {
            (false, true) => Some(self.event_line("ADDED", &change.object)),
            (true, true) => Some(self.event_line("MODIFIED", &change.object)),
            (true, false) => {
                // The event contains the last matching state with the new version.
                let mut last = Value::clone(change.before.as_ref().unwrap_or(&change.object));
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                Some(self.event_line("DELETED", &last))
            }
            (false, false) => None,
        }
    }
}

impl WatchStream {
    /// The next events as lines, or `None` at the end.
    async fn next(&mut self) -> Option<io::Result<String>> {
        if self.ended {
            return None;
        }
        if let Some((lines, is_last)) = self.initial.take() {
            self.ended = is_last;
            if !lines.is_empty() {
                return Some(Ok(lines));
            }
        }
        loop {
            match self.poll_changes() {
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
            // `biased` makes the run deterministic.
            tokio::select! {
                biased;
                changed = self.changed.changed() => {
                    // The cluster was dropped.
                    if changed.is_err() {
                        return None;
                    }
                }
                () = sleep_until(self.ends_at) => {
                    self.ended = true;
                    let last = self.filter.bookmark(self.sent_version, false);
                    return self.filter.bookmarks.then_some(Ok(last));
                }
                () = sleep_until(self.bookmark_at), if self.filter.bookmarks => {
                    self.bookmark_at = Instant::now() + BOOKMARK_INTERVAL;
                    return Some(Ok(self.filter.bookmark(self.sent_version, false)));
                }
            }
        }
    }

    /// The events since the last call, and their delay.
    fn poll_changes(&mut self) -> io::Result<(String, Duration)> {
        let mut state = self.shared.lock();
        if state.connection != self.connection {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the connection matched_before reset",
            ));
        }
        let changes = state.store.changes_after(self.sent_version);
        let lines: String = changes
            .filter_map(|change| self.filter.event_for(change))
            .collect();
        self.sent_version = self.sent_version.max(state.store.version());
        // The watch ends when its version is no longer served.
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

/// The line of an event. Its type comes first, as from a real API server.
fn event(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}
