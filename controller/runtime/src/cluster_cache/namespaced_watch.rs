//! One watch of several namespaces, each of which is listed on its own.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;

use futures::Stream;
use futures::stream::{self, BoxStream, SelectAll, StreamExt, TryStreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::watch_backoff::WatchBackoff;

/// An event of a watch of several namespaces.
#[derive(Debug)]
pub(super) enum NamespaceEvent<K> {
    /// An event as of one watch of all namespaces. There is one list, when every namespace has been
    /// listed for the first time.
    Watch(Event<K>),
    /// One namespace was listed again. Objects with other names are gone.
    Relisted {
        namespace: String,
        names: HashSet<String>,
    },
}

/// The objects of one kind in one namespace. `None` if all namespaces are watched together.
pub(super) type NamespacedApi<K> = (Option<String>, Api<K>);

/// Watches one kind. `on_access` is called with a namespace when it is listed, and when its first
/// list is forbidden.
///
/// A namespace whose first list is forbidden does not delay the others: it may have been deleted
/// together with the Role in it.
pub(super) fn watch_each<K>(
    mut apis: Vec<NamespacedApi<K>>,
    config: &watcher::Config,
    on_access: impl Fn(&str, bool) + Send + 'static,
) -> BoxStream<'static, watcher::Result<NamespaceEvent<K>>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watch_one = |api| watcher(api, config.clone()).backoff(WatchBackoff::default());
    if apis.len() == 1
        && let Some((_, api)) = apis.pop()
    {
        return watch_one(api).map_ok(NamespaceEvent::Watch).boxed();
    }
    let (complete, is_complete) = watch::channel(false);
    let namespaces = apis
        .iter()
        .map(|(namespace, _)| namespace.clone().unwrap_or_default());
    let merge = Merge {
        pending: (0..apis.len()).collect(),
        namespaces: namespaces.collect(),
        relists: HashMap::new(),
        complete,
        on_access: Box::new(on_access),
    };
    let streams = apis.into_iter().enumerate().map(|(index, (_, api))| {
        let events = waits_after_listing(watch_one(api).boxed(), is_complete.clone());
        events.map(move |event| (index, event)).boxed()
    });
    merged(stream::select_all(streams), merge)
}

/// Whether the list of this namespace is forbidden.
fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403
    )
}

/// After the first list or refusal, waits until all namespaces have been tried, so that no change
/// comes before the end of the common list.
fn waits_after_listing<K: Send + 'static>(
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    is_complete: watch::Receiver<bool>,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let start = (events, is_complete, false);
    stream::unfold(start, |(mut events, mut is_complete, waits)| async move {
        if waits {
            // Fails only if the merged stream was dropped.
            is_complete.wait_for(|complete| *complete).await.ok()?;
        }
        let event = events.next().await?;
        let was_tried = match &event {
            Ok(event) => matches!(event, Event::InitDone),
            Err(error) => is_forbidden(error),
        };
        Some((event, (events, is_complete, waits || was_tried)))
    })
}

struct Merge {
    namespaces: Vec<String>,
    /// The namespaces that have not been tried yet.
    pending: BTreeSet<usize>,
    /// The names in later lists in progress.
    relists: HashMap<usize, HashSet<String>>,
    complete: watch::Sender<bool>,
    on_access: OnAccess,
}

type OnAccess = Box<dyn Fn(&str, bool) + Send>;
type Tagged<K> = BoxStream<'static, (usize, watcher::Result<Event<K>>)>;
type Merged<K> = watcher::Result<NamespaceEvent<K>>;

fn merged<K>(streams: SelectAll<Tagged<K>>, merge: Merge) -> BoxStream<'static, Merged<K>>
where
    K: Resource + Send + 'static,
{
    let first = VecDeque::from([Ok(NamespaceEvent::Watch(Event::Init))]);
    stream::unfold(
        (streams, merge, first),
        |(mut streams, mut merge, mut ready)| async move {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((event, (streams, merge, ready)));
                }
                let (index, event) = streams.next().await?;
                ready.extend(merge.handle(index, event));
            }
        },
    )
    .boxed()
}

impl Merge {
    fn handle<K: Resource>(
        &mut self,
        index: usize,
        event: watcher::Result<Event<K>>,
    ) -> Vec<Merged<K>> {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let mut events = Vec::new();
                if is_forbidden(&error) && self.pending.contains(&index) {
                    events.extend(self.mark_tried(index, false));
                }
                events.insert(0, Err(error));
                return events;
            }
        };
        let is_first = self.pending.contains(&index);
        match event {
            Event::Init if is_first => Vec::new(),
            Event::Init => {
                self.relists.insert(index, HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) if !is_first => {
                let name = object.meta().name.clone().unwrap_or_default();
                self.relists.entry(index).or_default().insert(name);
                vec![Ok(NamespaceEvent::Watch(Event::Apply(object)))]
            }
            Event::InitDone if is_first => self.mark_tried(index, true).into_iter().collect(),
            Event::InitDone => {
                let namespace = self.namespaces[index].clone();
                (self.on_access)(&namespace, true);
                let names = self.relists.remove(&index).unwrap_or_default();
                vec![Ok(NamespaceEvent::Relisted { namespace, names })]
            }
            event => vec![Ok(NamespaceEvent::Watch(event))],
        }
    }

    /// Returns the end of the common list, if this was the last namespace.
    fn mark_tried<K>(&mut self, index: usize, listed: bool) -> Option<Merged<K>> {
        self.pending.remove(&index);
        (self.on_access)(&self.namespaces[index], listed);
        self.pending.is_empty().then(|| {
            self.complete.send_replace(true);
            Ok(NamespaceEvent::Watch(Event::InitDone))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::Status;

    use super::*;

    type Accesses = Arc<Mutex<Vec<(String, bool)>>>;

    fn merge_of(namespaces: [&str; 2]) -> (Merge, Accesses) {
        let accesses = Accesses::default();
        let recorded = Arc::clone(&accesses);
        let merge = Merge {
            pending: BTreeSet::from([0, 1]),
            namespaces: namespaces.map(str::to_owned).into(),
            relists: HashMap::new(),
            complete: watch::channel(false).0,
            on_access: Box::new(move |namespace, listed| {
                recorded
                    .lock()
                    .unwrap()
                    .push((namespace.to_owned(), listed));
            }),
        };
        (merge, accesses)
    }

    fn config_map(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object
    }

    fn forbidden() -> watcher::Result<Event<ConfigMap>> {
        let status = Status::failure("forbidden", "Forbidden").with_code(403);
        Err(watcher::Error::InitialListFailed(kube::Error::Api(
            Box::new(status),
        )))
    }

    /// The events in words.
    fn words(events: Vec<Merged<ConfigMap>>) -> Vec<String> {
        let word = |event| match event {
            Err(_) => "error".to_owned(),
            Ok(NamespaceEvent::Watch(Event::InitDone)) => "listed".to_owned(),
            Ok(NamespaceEvent::Watch(Event::InitApply(_))) => "in list".to_owned(),
            Ok(NamespaceEvent::Watch(Event::Apply(_))) => "applied".to_owned(),
            Ok(NamespaceEvent::Relisted { namespace, names }) => format!("{namespace} {names:?}"),
            Ok(other) => format!("{other:?}"),
        };
        events.into_iter().map(word).collect()
    }

    #[test]
    fn all_namespaces_are_one_list_and_a_later_list_is_of_one_namespace() {
        let (mut merge, _) = merge_of(["shop", "pay"]);
        let mut handle = |index, event| words(merge.handle(index, Ok(event)));
        assert_eq!(handle(0, Event::Init), Vec::<String>::new());
        assert_eq!(handle(0, Event::InitApply(config_map("a"))), ["in list"]);
        assert_eq!(handle(0, Event::InitDone), Vec::<String>::new());
        assert_eq!(handle(1, Event::InitDone), ["listed"]);
        assert_eq!(handle(1, Event::Init), Vec::<String>::new());
        assert_eq!(handle(1, Event::InitApply(config_map("b"))), ["applied"]);
        assert_eq!(handle(0, Event::Apply(config_map("c"))), ["applied"]);
        assert_eq!(handle(1, Event::InitDone), ["pay {\"b\"}"]);
    }

    #[test]
    fn a_forbidden_namespace_does_not_delay_the_others_and_can_be_listed_later() {
        let (mut merge, accesses) = merge_of(["shop", "gone"]);
        assert_eq!(words(merge.handle(1, forbidden())), ["error"]);
        assert_eq!(
            words(merge.handle(0, Ok(Event::<ConfigMap>::InitDone))),
            ["listed"]
        );
        assert_eq!(words(merge.handle(1, forbidden())), ["error"]);
        merge.handle(1, Ok(Event::<ConfigMap>::Init));
        let applied = merge.handle(1, Ok(Event::InitApply(config_map("a"))));
        assert_eq!(words(applied), ["applied"]);
        assert_eq!(
            words(merge.handle(1, Ok(Event::<ConfigMap>::InitDone))),
            ["gone {\"a\"}"]
        );
        let expected = [("gone", false), ("shop", true), ("gone", true)];
        let expected = expected.map(|(namespace, listed)| (namespace.to_owned(), listed));
        assert_eq!(*accesses.lock().unwrap(), expected);
    }
}
