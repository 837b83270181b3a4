//! Resolves the names of servers, with bounds: a name whose servers never answer must not delay the
//! lookup of other names, and a Rollout must not reach refused addresses by a name.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::address::RefusedAddresses;
use super::lock;

/// Maximum number of concurrent lookups. Each occupies a thread until the system gives up, which
/// can take half a minute.
const CONCURRENT_LOOKUPS: usize = 32;
/// Maximum time that a connection waits for a lookup.
const DEADLINE: Duration = Duration::from_millis(1_500);
/// How long addresses are used.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// How long addresses are used if the next lookup does not end in time.
const USABLE_FOR: Duration = Duration::from_secs(60);
/// How long a name without addresses is not looked up again.
const FAILURE_FOR: Duration = Duration::from_secs(5);
/// How long a name is not looked up again if its lookup did not end in time.
const SLOW_FOR: Duration = Duration::from_secs(60);
/// Maximum number of names that are remembered.
const MOST_NAMES: usize = 1_024;

/// Why a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    /// The name has no addresses.
    #[error("the name {0:?} cannot be resolved")]
    NotFound(String),
    /// The lookup did not end in time.
    #[error("the lookup of the name {0:?} takes too long")]
    Slow(String),
    /// An address of the name is refused.
    #[error(
        "the name {name:?} leads to {reason}, which Rollouts must not query unless an option of the \
         controller permits it: --prometheus-allowed-address, --registry-allowed-address or \
         --check-allowed-address"
    )]
    Refused {
        /// The name.
        name: String,
        /// What its address is.
        reason: &'static str,
    },
}

/// Looks up the addresses of a name, without bounds.
type Lookup = Arc<dyn Fn(String) -> LookupFuture + Send + Sync>;
type LookupFuture = std::pin::Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// The result of a lookup. `None` while it is running.
type Outcome = Option<Result<Arc<[IpAddr]>, LookupError>>;

/// What is known about a name.
#[derive(Debug)]
struct Entry {
    /// The last addresses and the time of their lookup.
    addresses: Option<(Arc<[IpAddr]>, Instant)>,
    /// The last failure, and until when it is not looked up again.
    failure: Option<(LookupError, Instant)>,
    /// The lookup that is running.
    running: Option<watch::Receiver<Outcome>>,
    used_at: Instant,
}

/// A bounded cache of lookups. Cheap to clone.
#[derive(Clone)]
pub(super) struct NameCache {
    lookup: Lookup,
    permits: Arc<Semaphore>,
    names: Arc<Mutex<HashMap<String, Entry>>>,
}

impl fmt::Debug for NameCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameCache").finish_non_exhaustive()
    }
}

impl NameCache {
    /// A cache of the system's lookups.
    pub(super) fn system() -> Self {
        Self::new(Arc::new(|name: String| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        }))
    }

    fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            permits: Arc::new(Semaphore::new(CONCURRENT_LOOKUPS)),
            names: Arc::default(),
        }
    }

    /// The addresses of a name.
    ///
    /// # Errors
    /// The name has no addresses, or its lookup takes too long.
    async fn addresses(&self, name: &str) -> Result<Arc<[IpAddr]>, LookupError> {
        let mut running = match self.known_or_running(name) {
            Ok(known) => return known,
            Err(running) => running,
        };
        // The sender is dropped only after a result.
        let ended = timeout(DEADLINE, running.wait_for(Option::is_some)).await;
        let outcome = ended
            .ok()
            .and_then(Result::ok)
            .and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| self.record_slow(name))
    }

    /// What is known, or the lookup that is running now.
    fn known_or_running(
        &self,
        name: &str,
    ) -> Result<Result<Arc<[IpAddr]>, LookupError>, watch::Receiver<Outcome>> {
        let now = Instant::now();
        let mut names = lock(&self.names);
        if !has_room(&mut names, name) {
            return Ok(Err(LookupError::Slow(name.to_owned())));
        }
        let entry = names.entry(name.to_owned()).or_insert_with(|| Entry {
            addresses: None,
            failure: None,
            running: None,
            used_at: now,
        });
        entry.used_at = now;
        if let Some((addresses, at)) = &entry.addresses
            && now < *at + FRESH_FOR
        {
            return Ok(Ok(addresses.clone()));
        }
        if let Some((error, until)) = &entry.failure
            && now < *until
        {
            return Ok(entry.usable(now).ok_or_else(|| error.clone()));
        }
        let running = entry
            .running
            .get_or_insert_with(|| self.start(name.to_owned()));
        Err(running.clone())
    }

    /// Starts a lookup. It keeps its permit until the system gives up.
    fn start(&self, name: String) -> watch::Receiver<Outcome> {
        let (sender, receiver) = watch::channel(None);
        let cache = self.clone();
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = cache.permits.acquire().await;
            let found = (cache.lookup)(name.clone()).await;
            let found = found.ok().filter(|found| !found.is_empty());
            let outcome = found
                .map(Arc::from)
                .ok_or_else(|| LookupError::NotFound(name.clone()));
            cache.record(&name, &outcome);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    fn record(&self, name: &str, outcome: &Result<Arc<[IpAddr]>, LookupError>) {
        let now = Instant::now();
        if let Some(entry) = lock(&self.names).get_mut(name) {
            entry.running = None;
            match outcome {
                Ok(addresses) => {
                    entry.addresses = Some((addresses.clone(), now));
                    entry.failure = None;
                }
                // The name does not exist any more, so its addresses may belong to somebody else.
                Err(error) => {
                    entry.addresses = None;
                    entry.failure = Some((error.clone(), now + FAILURE_FOR));
                }
            }
        }
    }

    /// Records that the lookup of a name does not end in time. Its last addresses stay usable.
    fn record_slow(&self, name: &str) -> Result<Arc<[IpAddr]>, LookupError> {
        let error = LookupError::Slow(name.to_owned());
        let now = Instant::now();
        let mut names = lock(&self.names);
        let entry = names.get_mut(name).ok_or_else(|| error.clone())?;
        entry.failure = Some((error.clone(), now + SLOW_FOR));
        entry.usable(now).ok_or(error)
    }
}

impl Entry {
    fn usable(&self, now: Instant) -> Option<Arc<[IpAddr]>> {
        let (addresses, at) = self.addresses.as_ref()?;
        (now < *at + USABLE_FOR).then(|| addresses.clone())
    }
}

/// Whether the name can be remembered. If there are too many names, the one that was used least
/// recently is forgotten, unless its lookup is running.
fn has_room(names: &mut HashMap<String, Entry>, name: &str) -> bool {
    if names.len() >= MOST_NAMES && !names.contains_key(name) {
        let idle = names.iter().filter(|(_, entry)| entry.running.is_none());
        let oldest = idle.min_by_key(|(_, entry)| entry.used_at);
        let oldest = oldest.map(|(name, _)| name.clone());
        return oldest.is_some_and(|oldest| names.remove(&oldest).is_some());
    }
    true
}

/// Resolves names for connections.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    pub cache: NameCache,
    /// Addresses that are refused. `None` if every address is allowed.
    pub refused: Option<Arc<RefusedAddresses>>,
}

impl Resolver {
    /// The addresses of a name. If one of them is refused, none is used.
    ///
    /// # Errors
    /// The name has no addresses, its lookup takes too long, or an address is refused.
    async fn addresses(&self, name: &str) -> Result<Arc<[IpAddr]>, LookupError> {
        let refuse = |reason| LookupError::Refused {
            name: name.to_owned(),
            reason,
        };
        let refused = self.refused.as_deref();
        if let Some(reason) = refused.and_then(|refused| refused.name_reason(name)) {
            return Err(refuse(reason));
        }
        let addresses = self.cache.addresses(name).await?;
        let reason = refused.and_then(|refused| {
            let mut reasons = addresses.iter().map(|ip| refused.ip_reason(*ip));
            reasons.find_map(|reason| reason)
        });
        reason.map_or(Ok(addresses), |reason| Err(refuse(reason)))
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.addresses(name.as_str()).await?;
            let addresses: Vec<SocketAddr> =
                found.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::advance;

    use super::*;

    /// Names that begin with `slow` never resolve, and names that begin with `no` do not exist.
    fn cache() -> (NameCache, Arc<AtomicUsize>) {
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = lookups.clone();
        let lookup = move |name: String| -> LookupFuture {
            let count = counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                if name.starts_with("slow") || (name == "late" && count > 0) {
                    std::future::pending::<()>().await;
                }
                if name.starts_with("no") {
                    return Err(io::Error::other("NXDOMAIN"));
                }
                let address = if name == "metadata" {
                    "169.254.169.254"
                } else {
                    "10.0.0.1"
                };
                Ok(vec!["10.0.0.2".parse().unwrap(), address.parse().unwrap()])
            })
        };
        (NameCache::new(Arc::new(lookup)), lookups)
    }

    #[tokio::test(start_paused = true)]
    async fn names_and_failures_are_looked_up_once_in_a_while() {
        let (cache, lookups) = cache();
        for _ in 0..10 {
            assert_eq!(cache.addresses("a").await.unwrap().len(), 2);
            assert!(matches!(
                cache.addresses("no").await,
                Err(LookupError::NotFound(_))
            ));
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 2);
        advance(FRESH_FOR).await;
        cache.addresses("a").await.unwrap();
        assert!(cache.addresses("no").await.is_err());
        assert_eq!(lookups.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_name_occupies_one_lookup_and_does_not_delay_others() {
        let (cache, lookups) = cache();
        let began = Instant::now();
        for _ in 0..10 {
            assert!(matches!(
                cache.addresses("slow").await,
                Err(LookupError::Slow(_))
            ));
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
        assert_eq!(began.elapsed(), DEADLINE, "later connections fail at once");
        assert!(cache.addresses("a").await.is_ok());
        assert_eq!(began.elapsed(), DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_are_bounded_and_a_known_name_survives_their_exhaustion() {
        let (cache, lookups) = cache();
        cache.addresses("late").await.unwrap();
        advance(FRESH_FOR).await;
        let slow: Vec<String> = (0..100).map(|n| format!("slow{n}")).collect();
        let mut waiting = tokio::task::JoinSet::new();
        for name in slow {
            let cache = cache.clone();
            waiting.spawn(async move { cache.addresses(&name).await.is_err() });
        }
        assert!(waiting.join_all().await.iter().all(|failed| *failed));
        assert_eq!(lookups.load(Ordering::SeqCst), 1 + CONCURRENT_LOOKUPS);
        assert!(cache.addresses("late").await.is_ok(), "its last addresses");
        advance(USABLE_FOR).await;
        assert!(cache.addresses("late").await.is_err());
    }

    #[tokio::test]
    async fn the_number_of_remembered_names_is_bounded() {
        let (cache, _) = cache();
        for n in 0..MOST_NAMES + 100 {
            cache.addresses(&format!("a{n}")).await.unwrap();
        }
        assert_eq!(lock(&cache.names).len(), MOST_NAMES);
    }

    #[tokio::test]
    async fn a_name_with_a_refused_address_is_not_connected() {
        let (cache, _) = cache();
        let refused = RefusedAddresses::default().with_api_server("kubernetes.default.svc");
        let mut resolver = Resolver {
            cache,
            refused: Some(Arc::new(refused)),
        };
        for name in ["metadata", "kubernetes.default.svc"] {
            let refused = resolver.addresses(name).await;
            assert!(
                matches!(refused, Err(LookupError::Refused { .. })),
                "{name}"
            );
        }
        assert!(resolver.addresses("prometheus").await.is_ok());
        resolver.refused = None;
        assert!(resolver.addresses("metadata").await.is_ok());
    }
}
