//! Lists that the Rollouts of a namespace share.
//!
//! What a guardrail looks at may change right before a release, so that no list counts that began
//! before the revision was seen. The cost stays bounded although many Rollouts are released at once:
//! a list is read by one of them at a time, those that wait for it share the next one, and it begins
//! at most once per [`LIST_INTERVAL`].

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use serin_guardrails::facts::{Fact, Source};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

/// Time for which a list is shared, from its begin.
const SHARED_FOR: Duration = Duration::from_secs(5);
/// Minimum time between the begins of two lists of the same objects. Revisions that are seen
/// meanwhile share the next list.
const LIST_INTERVAL: Duration = Duration::from_millis(250);
/// Time for which a kind that the cluster does not serve is not looked up again.
const NOT_SERVED_FOR: Duration = Duration::from_secs(30);
/// Maximum number of lists that are kept while nobody reads them.
const MAX_LISTS: usize = 512;
/// Maximum number of requests at the same time.
const MAX_REQUESTS: usize = 8;

/// The objects of a list.
pub type SharedFact = Fact<Arc<Vec<Value>>>;

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListKey {
    /// The source.
    pub source: Source,
    /// The namespace. Empty for all of them.
    pub namespace: String,
    /// The label selector.
    pub selector: String,
}

/// The lists.
pub struct SharedLists {
    lists: Mutex<HashMap<ListKey, Arc<SharedList>>>,
    /// The sources whose kind the cluster did not serve, and since when.
    not_served: Mutex<HashMap<Source, Instant>>,
    requests: Semaphore,
}

/// The newest list of a key. Whoever reads the next one holds the lock.
type SharedList = tokio::sync::Mutex<Option<Listed>>;

struct Listed {
    begun_at: Instant,
    fact: SharedFact,
}

impl Default for SharedLists {
    fn default() -> Self {
        Self {
            lists: Mutex::default(),
            not_served: Mutex::default(),
            requests: Semaphore::new(MAX_REQUESTS),
        }
    }
}

impl SharedLists {
    /// The newest list that began at `seen_at` or later and is recent, or else the result of `list`.
    ///
    /// A kind that is not served is not listed again for some time, whenever the revision was seen:
    /// there are no objects of it.
    pub async fn read(
        &self,
        key: ListKey,
        seen_at: Instant,
        list: impl Future<Output = SharedFact>,
    ) -> SharedFact {
        let source = key.source;
        let shared = self.shared_list(key);
        let mut newest = shared.lock().await;
        if self.is_not_served(source) {
            return Fact::NotServed;
        }
        if let Some(listed) = &*newest {
            if listed.is_recent() && listed.begun_at >= seen_at {
                return listed.fact.clone();
            }
            sleep_until(listed.begun_at + LIST_INTERVAL).await;
        }
        let Ok(_permit) = self.requests.acquire().await else {
            return Fact::Failed("the controller is stopping".to_owned());
        };
        let begun_at = Instant::now();
        let fact = list.await;
        if fact == Fact::NotServed {
            self.not_served().insert(source, Instant::now());
        }
        *newest = Some(Listed {
            begun_at,
            fact: fact.clone(),
        });
        drop(newest);
        drop(shared);
        remove_old(&mut self.lists());
        fact
    }

    /// The list of a key, which is empty if nobody has read it.
    fn shared_list(&self, key: ListKey) -> Arc<SharedList> {
        Arc::clone(self.lists().entry(key).or_default())
    }

    fn is_not_served(&self, source: Source) -> bool {
        let not_served = self.not_served();
        let since = not_served.get(&source);
        since.is_some_and(|since| since.elapsed() < NOT_SERVED_FOR)
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<ListKey, Arc<SharedList>>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_served(&self) -> MutexGuard<'_, HashMap<Source, Instant>> {
        self.not_served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    fn is_recent(&self) -> bool {
        self.begun_at.elapsed() < SHARED_FOR
    }
}

/// Removes the lists that nobody can use any more, and the oldest ones above [`MAX_LISTS`]. Those
/// that somebody reads or waits for are kept.
fn remove_old(lists: &mut HashMap<ListKey, Arc<SharedList>>) {
    let mut idle = Vec::new();
    lists.retain(|key, list| {
        // A clone is only made under the lock of `lists`.
        if Arc::strong_count(list) > 1 {
            return true;
        }
        let begun_at = list.try_lock().ok().and_then(|newest| {
            let recent = newest.as_ref().filter(|newest| newest.is_recent());
            recent.map(|newest| newest.begun_at)
        });
        idle.extend(begun_at.map(|at| (at, key.clone())));
        begun_at.is_some()
    });
    if idle.len() > MAX_LISTS {
        idle.sort_unstable_by_key(|(at, _)| *at);
        for (_, key) in &idle[..idle.len() - MAX_LISTS] {
            lists.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures::future::join_all;
    use serde_json::json;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// How long the API server takes for a list.
    const LATENCY: Duration = Duration::from_millis(20);

    /// An API server with one object, whose version changes.
    #[derive(Default)]
    struct Server {
        lists: SharedLists,
        version: AtomicUsize,
        requests: AtomicUsize,
    }

    impl Server {
        /// The version that a revision finds which was seen at this time.
        async fn read(&self, namespace: &str, seen_at: Instant) -> usize {
            let list = async {
                self.requests.fetch_add(1, SeqCst);
                let version = self.version.load(SeqCst);
                sleep(LATENCY).await;
                Fact::Known(Arc::new(vec![json!(version)]))
            };
            let fact = self.lists.read(key(namespace), seen_at, list).await;
            let version = fact.known().unwrap()[0].as_u64().unwrap();
            usize::try_from(version).unwrap()
        }

        fn requests(&self) -> usize {
            self.requests.load(SeqCst)
        }
    }

    fn key(namespace: &str) -> ListKey {
        ListKey {
            source: Source::NetworkPolicies,
            namespace: namespace.to_owned(),
            selector: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_shared_unless_it_began_before_the_revision_was_seen() {
        let server = Server::default();
        let first = Instant::now();
        assert_eq!(server.read("shop", first).await, 0);
        server.version.store(1, SeqCst);
        assert_eq!(server.read("shop", first).await, 0, "it is shared");
        let second = Instant::now();
        assert_eq!(server.read("shop", second).await, 1);
        assert_eq!(server.read("shop", first).await, 1);
        server.version.store(2, SeqCst);
        tokio::time::advance(SHARED_FOR).await;
        assert_eq!(server.read("shop", second).await, 2, "it is outdated");
        assert_eq!(server.requests(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_that_is_seen_while_a_list_is_read_waits_for_the_next_one() {
        let server = Server::default();
        let seen_at = Instant::now();
        let late = async {
            sleep(LATENCY / 2).await;
            server.version.store(1, SeqCst);
            server.read("shop", Instant::now()).await
        };
        let found = futures::join!(server.read("shop", seen_at), late);
        assert_eq!(found, (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn revisions_that_are_seen_together_share_one_list_of_each_namespace() {
        let server = Server::default();
        let seen_at = Instant::now();
        let namespaces = ["shop", "market"].into_iter().cycle().take(1_000);
        join_all(namespaces.map(|namespace| server.read(namespace, seen_at))).await;
        assert_eq!(server.requests(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn revisions_that_are_seen_one_after_another_share_one_list_per_interval() {
        let server = Server::default();
        let reads = (0..1_000).map(|index| {
            let server = &server;
            async move {
                sleep(index * Duration::from_millis(2)).await;
                server.read("shop", Instant::now()).await
            }
        });
        join_all(reads).await;
        // They are seen within 2 s.
        assert!(server.requests() <= 10, "{}", server.requests());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_leaves_the_list_to_the_next_one() {
        let server = Server::default();
        let seen_at = Instant::now();
        let impatient = timeout(LATENCY / 2, server.read("shop", seen_at));
        let (given_up, found) = futures::join!(impatient, server.read("shop", seen_at));
        assert!(given_up.is_err());
        assert_eq!((found, server.requests()), (0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_is_not_served_is_looked_up_again_after_some_time() {
        let lists = SharedLists::default();
        let requests = AtomicUsize::new(0);
        let read = async |namespace: &str| {
            let list = async {
                requests.fetch_add(1, SeqCst);
                Fact::NotServed
            };
            let fact = lists.read(key(namespace), Instant::now(), list).await;
            assert_eq!(fact, Fact::NotServed);
        };
        for namespace in ["shop", "market", "shop"] {
            read(namespace).await;
            tokio::time::advance(SHARED_FOR).await;
        }
        assert_eq!(requests.load(SeqCst), 1);
        tokio::time::advance(NOT_SERVED_FOR).await;
        read("shop").await;
        assert_eq!(requests.load(SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_lists_that_are_kept_is_bounded() {
        let server = Server::default();
        let seen_at = Instant::now();
        for index in 0..MAX_LISTS + 5 {
            let list = async { Fact::Known(Arc::new(vec![json!(index)])) };
            let key = key(&index.to_string());
            server.lists.read(key, seen_at, list).await;
            assert!(server.lists.lists().len() <= MAX_LISTS);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(!server.lists.lists().contains_key(&key("0")), "the oldest");
        tokio::time::advance(SHARED_FOR).await;
        server.read("last", seen_at).await;
        assert_eq!(server.lists.lists().len(), 1);
    }
}
