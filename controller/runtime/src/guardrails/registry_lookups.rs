//! Questions to image registries, each in a task of its own, so that no reconcile waits for a
//! registry.
//!
//! A question that is asked again while its answer is recent gets the answer that is known. A
//! registry that does not answer is asked again after 5 s, and then less often, up to every minute.
//! The limits per namespace and per registry keep a slow registry of one team from delaying others.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serin_crds::guardrails::SignatureKey;
use serin_guardrails::PublicKey;
use serin_guardrails::registry::RegistryAnswer;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cluster_cache::Key;
use crate::dispatcher::Dispatcher;
use crate::image_registry::{ImageRegistry, ImageSource, LookupFailure};
use crate::queue::Lane;

/// First and maximum interval between two questions that were not answered as needed.
const RETRY_INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How long the digest of a tag is used. It is then asked for again, as long as it is not recorded.
const DIGEST_FOR: Duration = Duration::from_secs(10);
/// How long a valid signature is used. It can only be deleted.
const SIGNATURE_FOR: Duration = Duration::from_secs(600);
/// How long an answer is kept that nobody asks for.
const UNUSED_FOR: Duration = Duration::from_secs(600);
/// Maximum number of answers that are kept.
const MAX_ANSWERS: usize = 2_048;
/// Maximum number of questions at the same time: in all, for a namespace, and to a registry.
const CONCURRENT: usize = 32;
const CONCURRENT_OF_NAMESPACE: usize = 2;
const CONCURRENT_OF_REGISTRY: usize = 8;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    /// The digest of a tag.
    Digest(String),
    /// Which keys have signed a digest. The number identifies the keys.
    Signatures(String, u64),
}

type QuestionKey = (ImageSource, Question);

/// An answer: the digest, or the names of the keys.
type Answer = Result<Vec<String>, LookupFailure>;

struct Entry {
    /// The last answer. `None` before the first one.
    answer: Option<Answer>,
    /// Number of consecutive answers that are not what was needed.
    failures: u32,
    /// When the registry is queried again. `None` while it is being queried.
    next_at: Option<Instant>,
    used_at: Instant,
    /// The Rollouts that wait for it.
    waiting: HashSet<Key>,
}

/// Asks registries and remembers their answers. Cheap to clone.
#[derive(Clone)]
pub struct RegistryLookups(Arc<Shared>);

struct Shared {
    registry: Arc<dyn ImageRegistry>,
    dispatcher: Arc<Dispatcher>,
    entries: Mutex<HashMap<QuestionKey, Entry>>,
    /// Limits of namespaces (`true`) and of registries.
    limits: Mutex<HashMap<(bool, String), Arc<Semaphore>>>,
    concurrent: Semaphore,
}

/// What is known of a question, and when the registry is queried again.
pub struct Lookup<T> {
    pub answer: RegistryAnswer<T>,
    pub again_in: Option<Duration>,
}

impl RegistryLookups {
    /// Asks `registry`, and requests a reconcile of the Rollouts that wait for an answer.
    pub fn new(registry: Arc<dyn ImageRegistry>, dispatcher: Arc<Dispatcher>) -> Self {
        Self(Arc::new(Shared {
            registry,
            dispatcher,
            entries: Mutex::default(),
            limits: Mutex::default(),
            concurrent: Semaphore::new(CONCURRENT),
        }))
    }

    /// The digest of a tag, for a Rollout.
    pub fn digest(&self, rollout: &Key, source: &ImageSource, tag: &str) -> Lookup<String> {
        let question = Question::Digest(tag.to_owned());
        let lookup = self.ask(rollout, (source.clone(), question), Arc::default());
        let answer = match lookup.answer {
            RegistryAnswer::Known(digests) => match digests.into_iter().next() {
                Some(digest) => RegistryAnswer::Known(digest),
                None => RegistryAnswer::Pending,
            },
            RegistryAnswer::Failed { problem, fix } => RegistryAnswer::Failed { problem, fix },
            RegistryAnswer::Pending | RegistryAnswer::NotAsked => RegistryAnswer::Pending,
        };
        Lookup {
            answer,
            again_in: lookup.again_in,
        }
    }

    /// The names of the keys that have signed an image, for a Rollout.
    pub fn signed_by(
        &self,
        rollout: &Key,
        source: &ImageSource,
        digest: &str,
        keys: &[SignatureKey],
    ) -> Lookup<Vec<String>> {
        let mut hasher = DefaultHasher::new();
        for key in keys {
            (&key.name, &key.public_key).hash(&mut hasher);
        }
        let question = Question::Signatures(digest.to_owned(), hasher.finish());
        // A key that cannot be read is reported by the guardrail itself.
        let keys = keys.iter().filter_map(|key| PublicKey::parse(key).ok());
        self.ask(rollout, (source.clone(), question), keys.collect())
    }

    /// Number of answers that are kept.
    #[cfg(test)]
    fn entry_count(&self) -> usize {
        self.0.entries().len()
    }

    fn ask(
        &self,
        rollout: &Key,
        asked: QuestionKey,
        keys: Arc<[PublicKey]>,
    ) -> Lookup<Vec<String>> {
        let now = Instant::now();
        let mut entries = self.0.entries();
        if !entries.contains_key(&asked) && !make_room(&mut entries, now) {
            return Lookup {
                answer: RegistryAnswer::Failed {
                    problem: format!("more than {MAX_ANSWERS} images are being asked about"),
                    fix: "No action is needed: the registry is queried later".to_owned(),
                },
                again_in: Some(RETRY_INTERVAL.1),
            };
        }
        let entry = entries.entry(asked.clone()).or_insert_with(|| Entry {
            answer: None,
            failures: 0,
            next_at: Some(now),
            used_at: now,
            waiting: HashSet::new(),
        });
        entry.used_at = now;
        if entry.next_at.is_some_and(|at| at <= now) {
            entry.next_at = None;
            tokio::spawn(Arc::clone(&self.0).run(asked, keys));
        }
        if entry.next_at.is_none() {
            entry.waiting.insert(rollout.clone());
        }
        Lookup {
            answer: match &entry.answer {
                None => RegistryAnswer::Pending,
                Some(Ok(known)) => RegistryAnswer::Known(known.clone()),
                Some(Err(failure)) => RegistryAnswer::Failed {
                    problem: failure.problem.clone(),
                    fix: failure.fix.clone(),
                },
            },
            // Without a time, the answer requests the reconcile.
            again_in: entry.next_at.map(|at| at.duration_since(now)),
        }
    }
}

/// Forgets what nobody asks for. Whether there is room for another answer.
fn make_room(entries: &mut HashMap<QuestionKey, Entry>, now: Instant) -> bool {
    entries.retain(|_, entry| entry.next_at.is_none() || now < entry.used_at + UNUSED_FOR);
    entries.len() < MAX_ANSWERS
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, HashMap<QuestionKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the registry within the limits, and records the answer.
    async fn run(self: Arc<Self>, asked: QuestionKey, keys: Arc<[PublicKey]>) {
        let (source, question) = &asked;
        let registry = source.name.split('/').next().unwrap_or_default();
        let of_namespace = self.limit((true, source.namespace.clone()));
        let of_registry = self.limit((false, registry.to_owned()));
        // The semaphores are never closed.
        let _of_namespace = of_namespace.acquire().await;
        let _of_registry = of_registry.acquire().await;
        let _of_all = self.concurrent.acquire().await;
        let answer = match question {
            Question::Digest(tag) => {
                let digest = self.registry.digest(source, tag).await;
                digest.map(|digest| vec![digest])
            }
            Question::Signatures(digest, _) => {
                let stored = self.registry.signatures(source, digest).await;
                stored.map(|stored| {
                    let has_signed = |key: &&PublicKey| {
                        let mut stored = stored.iter();
                        stored.any(|one| key.has_signed(&one.signed, &one.signature))
                    };
                    let signers = keys.iter().filter(has_signed);
                    signers.map(|key| key.name().to_owned()).collect()
                })
            }
        };
        for rollout in self.record(&asked, answer) {
            self.dispatcher.enqueue(&rollout, Lane::Ongoing);
        }
    }

    /// Records an answer. Returns the Rollouts that wait for it.
    fn record(&self, asked: &QuestionKey, answer: Answer) -> HashSet<Key> {
        let (source, question) = asked;
        if let Err(failure) = &answer {
            tracing::warn!(
                namespace = source.namespace,
                image = source.name,
                problem = failure.problem,
                "a registry did not answer a question; retrying"
            );
        }
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(asked) else {
            return HashSet::new();
        };
        let is_needed = answer.as_ref().is_ok_and(|known| !known.is_empty());
        let wait = if is_needed {
            entry.failures = 0;
            match question {
                Question::Digest(_) => DIGEST_FOR,
                Question::Signatures(..) => SIGNATURE_FOR,
            }
        } else {
            entry.failures = entry.failures.saturating_add(1);
            let (first, longest) = RETRY_INTERVAL;
            let doubled = 1_u32.checked_shl(entry.failures - 1).unwrap_or(u32::MAX);
            first.saturating_mul(doubled).min(longest)
        };
        entry.next_at = Some(Instant::now() + wait);
        entry.answer = Some(answer);
        std::mem::take(&mut entry.waiting)
    }

    fn limit(&self, of: (bool, String)) -> Arc<Semaphore> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.retain(|_, limit| Arc::strong_count(limit) > 1);
        let (is_namespace, _) = of;
        let limit = if is_namespace {
            CONCURRENT_OF_NAMESPACE
        } else {
            CONCURRENT_OF_REGISTRY
        };
        let limit = limits
            .entry(of)
            .or_insert_with(|| Arc::new(Semaphore::new(limit)));
        Arc::clone(limit)
    }
}

#[cfg(test)]
mod tests;
