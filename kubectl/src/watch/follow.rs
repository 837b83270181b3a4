//! Keeps the objects of a Rollout up to date with watches.

use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_kind};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::{Connection, error_chain};
use crate::display_text::printable_object;
use crate::resources::{ReadResult, RolloutResources, owned_by_selector, rollouts, routes_api};

/// A watch event of one of the objects.
enum Change {
    Rollout(WatchResult<DynamicObject>),
    ReplicaSet(WatchResult<ReplicaSet>),
    Pod(WatchResult<Pod>),
    Route(usize, WatchResult<DynamicObject>),
}

type WatchResult<K> = Result<Event<K>, watcher::Error>;

/// The objects of a Rollout and the watches that keep them up to date.
pub struct RolloutFollower {
    resources: RolloutResources,
    deleted: bool,
    changes: SelectAll<BoxStream<'static, Change>>,
    rollout: Relist<DynamicObject>,
    replica_sets: Relist<ReplicaSet>,
    pods: Relist<Pod>,
    routes: Vec<Relist<DynamicObject>>,
}

/// A list that is being read again. It replaces the known objects when it is complete.
struct Relist<K>(Vec<K>);

impl RolloutFollower {
    /// Starts the watches, beginning with the objects in `first`.
    pub fn start(connection: &Connection, first: RolloutResources) -> Self {
        let Connection { client, namespace } = connection;
        let name = first.rollout.name_any();
        let named =
            |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mine = watcher::Config::default().labels(&owned_by_selector(&name));
        let mut changes = stream::select_all([
            follow(
                rollouts(client.clone(), namespace),
                named(&name),
                Change::Rollout,
            ),
            follow(
                Api::namespaced(client.clone(), namespace),
                mine.clone(),
                Change::ReplicaSet,
            ),
            follow(
                Api::namespaced(client.clone(), namespace),
                mine,
                Change::Pod,
            ),
        ]);
        for (index, route) in first.routes.iter().enumerate() {
            let api = routes_api(client.clone(), namespace, route);
            changes.push(follow(api, named(&route.name), move |event| {
                Change::Route(index, event)
            }));
        }
        Self {
            deleted: false,
            changes,
            rollout: Relist(Vec::new()),
            replica_sets: Relist(Vec::new()),
            pods: Relist(Vec::new()),
            routes: first.routes.iter().map(|_| Relist(Vec::new())).collect(),
            resources: first,
        }
    }

    /// The current objects.
    pub const fn resources(&self) -> &RolloutResources {
        &self.resources
    }

    /// Whether the Rollout has been deleted.
    pub const fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Waits for a change and applies it, with all changes that follow within `gather`.
    pub async fn wait_for_changes(&mut self, gather: Duration) {
        for change in super::next_batch(&mut self.changes, gather).await {
            self.apply_change(change);
        }
    }

    fn apply_change(&mut self, change: Change) {
        match change {
            Change::Rollout(event) => {
                let mut known = Ok(vec![self.resources.rollout.clone()]);
                self.rollout.apply_event(&mut known, event);
                // A broken watch is retried; the last state is kept.
                if let Ok(objects) = known {
                    self.deleted = objects.is_empty();
                    self.resources.rollout = objects
                        .into_iter()
                        .next()
                        .unwrap_or_else(|| self.resources.rollout.clone());
                }
            }
            Change::ReplicaSet(event) => self
                .replica_sets
                .apply_event(&mut self.resources.replica_sets, event),
            Change::Pod(event) => self.pods.apply_event(&mut self.resources.pods, event),
            Change::Route(index, event) => {
                if let (Some(route), Some(relist)) = (
                    self.resources.routes.get_mut(index),
                    self.routes.get_mut(index),
                ) {
                    let mut known = route.object.clone().map(|object| vec![object]);
                    relist.apply_event(&mut known, event);
                    route.object = known.and_then(|objects| {
                        objects
                            .into_iter()
                            .next()
                            .ok_or_else(|| "not found".to_owned())
                    });
                }
            }
        }
    }
}

fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    change: impl Fn(WatchResult<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch_kind(api, config)
        .default_backoff()
        .map(move |event| change(event.and_then(printable_event)))
        .boxed()
}

fn printable_event<K: Serialize + DeserializeOwned>(event: Event<K>) -> WatchResult<K> {
    let printed = match event {
        Event::Init => Ok(Event::Init),
        Event::InitDone => Ok(Event::InitDone),
        Event::InitApply(object) => printable_object(&object).map(Event::InitApply),
        Event::Apply(object) => printable_object(&object).map(Event::Apply),
        Event::Delete(object) => printable_object(&object).map(Event::Delete),
    };
    printed.map_err(|error| watcher::Error::WatchFailed(kube::Error::SerdeError(error)))
}

impl<K: Resource> Relist<K> {
    /// Applies a watch event to the known objects.
    fn apply_event(&mut self, known: &mut ReadResult<Vec<K>>, event: WatchResult<K>) {
        let same = |one: &K, other: &K| one.meta().name == other.meta().name;
        match event {
            Ok(Event::Init) => self.0.clear(),
            Ok(Event::InitApply(object)) => self.0.push(object),
            Ok(Event::InitDone) => *known = Ok(std::mem::take(&mut self.0)),
            Ok(Event::Apply(object)) => match known {
                Ok(objects) => {
                    objects.retain(|other| !same(other, &object));
                    objects.push(object);
                }
                Err(_) => *known = Ok(vec![object]),
            },
            Ok(Event::Delete(object)) => {
                if let Ok(objects) = known {
                    objects.retain(|other| !same(other, &object));
                }
            }
            // The last known objects are more useful than a temporary error.
            Err(error) => {
                if known.is_err() {
                    *known = Err(error_chain(&error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap()
    }

    fn names(known: &ReadResult<Vec<Pod>>) -> Vec<String> {
        known
            .as_ref()
            .unwrap()
            .iter()
            .map(ResourceExt::name_any)
            .collect()
    }

    #[test]
    fn a_relist_replaces_the_objects_when_it_is_complete() {
        let mut relist = Relist(Vec::new());
        let mut known = Ok(vec![pod("a"), pod("b")]);
        relist.apply_event(&mut known, Ok(Event::Init));
        relist.apply_event(&mut known, Ok(Event::InitApply(pod("b"))));
        assert_eq!(names(&known), ["a", "b"]);
        relist.apply_event(&mut known, Ok(Event::InitDone));
        assert_eq!(names(&known), ["b"]);
    }

    #[test]
    fn apply_replaces_an_object_and_delete_removes_it() {
        let mut relist = Relist(Vec::new());
        let mut known = Ok(vec![pod("a"), pod("b")]);
        relist.apply_event(&mut known, Ok(Event::Apply(pod("a"))));
        assert_eq!(names(&known), ["b", "a"]);
        relist.apply_event(&mut known, Ok(Event::Delete(pod("b"))));
        assert_eq!(names(&known), ["a"]);
    }

    #[test]
    fn a_broken_watch_keeps_the_last_state() {
        let mut relist = Relist(Vec::new());
        let mut known = Ok(vec![pod("a")]);
        relist.apply_event(&mut known, Err(watcher::Error::NoResourceVersion));
        assert_eq!(names(&known), ["a"]);
    }
}
