//! The picture, kept up to date by watches.

use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_kind};
use kube::{Api, Resource, ResourceExt};

use crate::connect::{Connection, causes};
use crate::picture::{Picture, Seen, belongs_to, rollouts, routes_like};

/// A change of one of the objects.
enum Change {
    Rollout(Observed<DynamicObject>),
    ReplicaSet(Observed<ReplicaSet>),
    Pod(Observed<Pod>),
    Route(usize, Observed<DynamicObject>),
}

type Observed<K> = Result<Event<K>, watcher::Error>;

/// A picture and the watches that keep it up to date.
pub struct Follower {
    picture: Picture,
    gone: bool,
    changes: SelectAll<BoxStream<'static, Change>>,
    rollout: Relist<DynamicObject>,
    replica_sets: Relist<ReplicaSet>,
    pods: Relist<Pod>,
    routes: Vec<Relist<DynamicObject>>,
}

/// A list that is being read anew: it replaces what was known once it is complete, not object by
/// object.
struct Relist<K>(Vec<K>);

impl Follower {
    /// Starts to follow what a first look has found.
    pub fn start(connection: &Connection, first: Picture) -> Self {
        let Connection { client, namespace } = connection;
        let name = first.rollout.name_any();
        let named =
            |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mine = watcher::Config::default().labels(&belongs_to(&name));
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
            let api = routes_like(client.clone(), namespace, &route.object);
            changes.push(follow(api, named(&route.name), move |event| {
                Change::Route(index, event)
            }));
        }
        Self {
            gone: false,
            changes,
            rollout: Relist(Vec::new()),
            replica_sets: Relist(Vec::new()),
            pods: Relist(Vec::new()),
            routes: first.routes.iter().map(|_| Relist(Vec::new())).collect(),
            picture: first,
        }
    }

    /// The picture as it is now.
    pub const fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Whether the Rollout has been deleted.
    pub const fn gone(&self) -> bool {
        self.gone
    }

    /// Waits for a change, takes it in, and with it all that come within `gather`.
    pub async fn changed(&mut self, gather: Duration) {
        for change in super::gathered(&mut self.changes, gather).await {
            self.take(change);
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Rollout(event) => {
                let mut known = Ok(vec![self.picture.rollout.clone()]);
                self.rollout.take(&mut known, event);
                // A watch that broke is taken up again; the last state stays until then.
                if let Ok(objects) = known {
                    self.gone = objects.is_empty();
                    self.picture.rollout = objects
                        .into_iter()
                        .next()
                        .unwrap_or_else(|| self.picture.rollout.clone());
                }
            }
            Change::ReplicaSet(event) => self
                .replica_sets
                .take(&mut self.picture.replica_sets, event),
            Change::Pod(event) => self.pods.take(&mut self.picture.pods, event),
            Change::Route(index, event) => {
                if let (Some(route), Some(relist)) = (
                    self.picture.routes.get_mut(index),
                    self.routes.get_mut(index),
                ) {
                    let mut known = route.object.clone().map(|object| vec![object]);
                    relist.take(&mut known, event);
                    route.object = known.and_then(|objects| {
                        objects
                            .into_iter()
                            .next()
                            .ok_or_else(|| "there is no such route".to_owned())
                    });
                }
            }
        }
    }
}

fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    change: impl Fn(Observed<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch_kind(api, config)
        .default_backoff()
        .map(change)
        .boxed()
}

impl<K: Resource> Relist<K> {
    /// Takes an event into what is known.
    fn take(&mut self, known: &mut Seen<Vec<K>>, event: Observed<K>) {
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
            // What was seen before is worth more than an error, which passes.
            Err(error) => {
                if known.is_err() {
                    *known = Err(causes(&error));
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

    fn names(known: &Seen<Vec<Pod>>) -> Vec<String> {
        known
            .as_ref()
            .unwrap()
            .iter()
            .map(ResourceExt::name_any)
            .collect()
    }

    #[test]
    fn a_list_that_is_read_anew_replaces_what_was_known_only_when_it_is_complete() {
        let mut relist = Relist(Vec::new());
        let mut known = Ok(vec![pod("a"), pod("b")]);
        relist.take(&mut known, Ok(Event::Init));
        relist.take(&mut known, Ok(Event::InitApply(pod("b"))));
        assert_eq!(names(&known), ["a", "b"]);
        relist.take(&mut known, Ok(Event::InitDone));
        assert_eq!(names(&known), ["b"]);
    }

    #[test]
    fn a_change_replaces_its_object_and_a_deletion_removes_it() {
        let mut relist = Relist(Vec::new());
        let mut known = Ok(vec![pod("a"), pod("b")]);
        relist.take(&mut known, Ok(Event::Apply(pod("a"))));
        assert_eq!(names(&known), ["b", "a"]);
        relist.take(&mut known, Ok(Event::Delete(pod("b"))));
        assert_eq!(names(&known), ["a"]);
    }

    #[test]
    fn a_watch_that_breaks_hides_nothing() {
        let mut relist = Relist(Vec::new());
        let mut known = Ok(vec![pod("a")]);
        relist.take(&mut known, Err(watcher::Error::NoResourceVersion));
        assert_eq!(names(&known), ["a"]);
    }
}
