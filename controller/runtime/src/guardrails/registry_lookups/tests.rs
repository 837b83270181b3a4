//! Questions to a scripted registry, in virtual time.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use serin_registry::StoredSignature;
use tokio::sync::watch;
use tokio::time::{advance, timeout};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Answers once it is released, and counts the questions that run.
struct ScriptedRegistry {
    answer: Mutex<Result<String, LookupFailure>>,
    released: watch::Sender<bool>,
    asked: AtomicUsize,
    running: AtomicUsize,
}

impl ScriptedRegistry {
    fn new(answer: Result<String, LookupFailure>) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(answer),
            released: watch::Sender::new(true),
            asked: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
        })
    }
}

impl ImageRegistry for ScriptedRegistry {
    fn digest<'a>(
        &'a self,
        _: &'a ImageSource,
        _: &'a str,
    ) -> BoxFuture<'a, Result<String, LookupFailure>> {
        async {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.running.fetch_add(1, Ordering::SeqCst);
            let _ = self
                .released
                .subscribe()
                .wait_for(|released| *released)
                .await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            self.answer.lock().unwrap().clone()
        }
        .boxed()
    }

    fn signatures<'a>(
        &'a self,
        _: &'a ImageSource,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Vec<StoredSignature>, LookupFailure>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

fn failure() -> LookupFailure {
    LookupFailure {
        problem: "down".to_owned(),
        fix: "start it".to_owned(),
    }
}

fn source(namespace: &str, name: &str) -> ImageSource {
    ImageSource {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pull_secrets: Vec::new(),
    }
}

struct Scene {
    registry: Arc<ScriptedRegistry>,
    dispatcher: Arc<Dispatcher>,
    lookups: RegistryLookups,
}

impl Scene {
    fn new(answer: Result<String, LookupFailure>) -> Self {
        let registry = ScriptedRegistry::new(answer);
        let dispatcher = Arc::new(Dispatcher::default());
        let lookups = RegistryLookups::new(registry.clone(), Arc::clone(&dispatcher));
        Self {
            registry,
            dispatcher,
            lookups,
        }
    }

    fn ask(&self, namespace: &str, image: &str) -> Lookup<String> {
        let rollout = Key::new(namespace, "checkout");
        let source = source(namespace, &format!("reg.example/{image}"));
        self.lookups.digest(&rollout, &source, "v1")
    }

    async fn next_reconcile(&self) -> Key {
        timeout(SECOND, self.dispatcher.next()).await.unwrap().0
    }

    fn asked(&self) -> usize {
        self.registry.asked.load(Ordering::SeqCst)
    }

    fn running(&self) -> usize {
        self.registry.running.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_requests_a_reconcile_and_is_shared_while_it_is_recent() {
    let scene = Scene::new(Ok("sha256:12".to_owned()));
    assert_eq!(scene.ask("shop", "app").answer, RegistryAnswer::Pending);
    assert_eq!(scene.next_reconcile().await, Key::new("shop", "checkout"));
    let known = RegistryAnswer::Known("sha256:12".to_owned());
    for _ in 0..5 {
        assert_eq!(scene.ask("shop", "app").answer, known);
    }
    assert_eq!(scene.asked(), 1);
    // Another namespace may have other credentials.
    assert_eq!(scene.ask("pay", "app").answer, RegistryAnswer::Pending);
    scene.next_reconcile().await;
    advance(DIGEST_FOR).await;
    // What was known is used while the registry is queried again.
    assert_eq!(scene.ask("shop", "app").answer, known);
    scene.next_reconcile().await;
    assert_eq!(scene.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_is_asked_again_less_and_less_often() {
    let scene = Scene::new(Err(failure()));
    scene.ask("shop", "app");
    let mut waits = Vec::new();
    for _ in 0..6 {
        scene.next_reconcile().await;
        let lookup = scene.ask("shop", "app");
        assert!(matches!(lookup.answer, RegistryAnswer::Failed { .. }));
        let wait = lookup.again_in.unwrap();
        waits.push(wait.as_secs());
        advance(wait).await;
        scene.ask("shop", "app");
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    *scene.registry.answer.lock().unwrap() = Ok("sha256:12".to_owned());
    scene.next_reconcile().await;
    advance(60 * SECOND).await;
    scene.ask("shop", "app");
    scene.next_reconcile().await;
    let known = RegistryAnswer::Known("sha256:12".to_owned());
    assert_eq!(scene.ask("shop", "app").answer, known);
}

#[tokio::test(start_paused = true)]
async fn the_questions_of_one_namespace_leave_room_for_others() {
    let scene = Scene::new(Ok("sha256:12".to_owned()));
    scene.registry.released.send_replace(false);
    for number in 0..50 {
        scene.ask("hostile", &format!("app-{number}"));
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(scene.running(), CONCURRENT_OF_NAMESPACE);
    scene.ask("shop", "app");
    tokio::time::sleep(SECOND).await;
    assert_eq!(scene.running(), CONCURRENT_OF_NAMESPACE + 1);
    scene.registry.released.send_replace(true);
    tokio::time::sleep(SECOND).await;
    assert_eq!((scene.running(), scene.asked()), (0, 51));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_answers_is_bounded_and_unused_ones_are_forgotten() {
    let scene = Scene::new(Ok("sha256:12".to_owned()));
    for number in 0..=MAX_ANSWERS {
        scene.ask("shop", &format!("app-{number}"));
    }
    let refused = scene.ask("shop", "one-more").answer;
    assert!(
        matches!(refused, RegistryAnswer::Failed { .. }),
        "{refused:?}"
    );
    assert_eq!(scene.lookups.entry_count(), MAX_ANSWERS);
    tokio::time::sleep(SECOND).await;
    advance(UNUSED_FOR).await;
    assert_eq!(
        scene.ask("shop", "one-more").answer,
        RegistryAnswer::Pending
    );
    assert_eq!(scene.lookups.entry_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_signature_that_is_missing_is_looked_for_again() {
    let scene = Scene::new(Err(failure()));
    let (rollout, source) = (Key::new("shop", "checkout"), source("shop", "reg/app"));
    let ask = || scene.lookups.signed_by(&rollout, &source, "sha256:12", &[]);
    assert_eq!(ask().answer, RegistryAnswer::Pending);
    scene.next_reconcile().await;
    let lookup = ask();
    assert_eq!(lookup.answer, RegistryAnswer::Known(Vec::new()));
    assert_eq!(lookup.again_in, Some(RETRY_INTERVAL.0));
}
