//! The controller: watches, the reconcile queue and leadership.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc;
use futures::stream::BoxStream;
use futures::{FutureExt, SinkExt, StreamExt, future};
use kube::Client;
use kube::runtime::applier;
use kube::runtime::controller::Config as ApplierConfig;
use kube::runtime::reflector;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::analyzer::Analyzer;
use crate::clock::Clock;
use crate::cluster_cache::{ClusterCache, Key, RolloutObject, Trigger, Watches};
use crate::effects::command;
use crate::election::Leadership;
use crate::events::Events;
use crate::local_state::LocalStates;
use crate::reconcile::{Context, reconcile};
use crate::telemetry::Metrics;

/// Capacity of the channel into the reconcile queue. The queue contains each Rollout at most once.
const TRIGGER_BUFFER: usize = 256;

/// Dependencies of the controller.
pub struct ControllerDeps {
    pub client: Client,
    /// The namespace to watch. All namespaces if `None`.
    pub namespace: Option<String>,
    /// Maximum number of concurrent reconciles.
    pub concurrency: u16,
    pub clock: Clock,
    /// Whether this process may act.
    pub leadership: Leadership,
    pub metrics: Arc<Metrics>,
    /// Analyzes the metrics of releases.
    pub analyzer: Arc<dyn Analyzer>,
    /// Rollouts whose analysis has changed.
    pub analysis_triggers: BoxStream<'static, Key>,
    /// Name of this process in Events.
    pub instance: String,
}

/// A controller that has not been started.
pub struct Controller {
    context: Arc<Context>,
    rollouts: reflector::store::Writer<RolloutObject>,
    namespace: Option<String>,
    concurrency: u16,
    analysis_triggers: BoxStream<'static, Key>,
    ready: watch::Sender<bool>,
}

/// A long-running task of the controller exited unexpectedly.
#[derive(Debug, thiserror::Error)]
#[error("a controller task exited unexpectedly: {0}")]
pub struct TaskExited(String);

impl Controller {
    /// Creates the controller and its caches.
    pub fn new(deps: ControllerDeps) -> Self {
        let (cache, rollouts) = ClusterCache::new();
        let events = Events::new(
            deps.client.clone(),
            deps.instance,
            Arc::clone(&deps.metrics),
        );
        let context = Context {
            client: deps.client,
            cache,
            clock: deps.clock,
            leadership: deps.leadership,
            metrics: deps.metrics,
            events,
            analyzer: deps.analyzer,
            local_states: LocalStates::default(),
        };
        Self {
            context: Arc::new(context),
            rollouts,
            namespace: deps.namespace,
            concurrency: deps.concurrency,
            analysis_triggers: deps.analysis_triggers,
            ready: watch::Sender::new(false),
        }
    }

    /// Becomes true when all caches have been listed once.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Runs until `stop` completes. Running reconciles then have `grace` to finish.
    ///
    /// # Errors
    /// A long-running task exited. The process must be restarted.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
        grace: Duration,
    ) -> Result<(), TaskExited> {
        let (triggers, queue) = mpsc::channel(TRIGGER_BUFFER);
        let mut tasks = JoinSet::new();
        let context = self.context;
        let watches = Watches {
            client: context.client.clone(),
            namespace: self.namespace,
            cluster: Arc::clone(&context.cache),
            triggers: triggers.clone(),
        };
        let on_deleted = Arc::clone(&context);
        watches.spawn(&mut tasks, self.rollouts, move |key, uid| {
            on_deleted.forget(key, uid);
        });
        tasks.spawn(enqueue_all_on_election(
            Arc::clone(&context),
            triggers.clone(),
            self.ready,
        ));
        tasks.spawn(forward(self.analysis_triggers, triggers));
        tasks.spawn(sweep_commands(Arc::clone(&context)));

        let (stopping, stopped) = watch::channel(false);
        let queue = queue
            .take_until(wait_until_set(stopped.clone()))
            .map(Ok::<_, std::convert::Infallible>);
        let settings = ApplierConfig::default().concurrency(self.concurrency);
        let store = context.cache.rollouts.clone();
        let shared = Arc::clone(&context);
        let reconciles = applier(
            |rollout, context| reconcile(rollout, context).boxed(),
            |_, error: &std::convert::Infallible, _| match *error {},
            shared,
            store,
            queue,
            settings,
        );
        // A Rollout that was deleted while it was queued is not an error.
        let mut reconciles = Box::pin(reconciles.for_each(|_| future::ready(())));
        tokio::select! {
            () = &mut reconciles => return Err(TaskExited("the queue".to_owned())),
            ended = tasks.join_next() => {
                let cause = ended.and_then(Result::err).map_or_else(|| "a watch".to_owned(), |error| error.to_string());
                return Err(TaskExited(cause));
            }
            () = stop => {}
        }
        tracing::info!(grace = ?grace, "shutting down; waiting for running reconciles");
        stopping.send_replace(true);
        if context.cache.unsynced_kinds().is_empty() && timeout(grace, reconciles).await.is_err() {
            tracing::warn!(
                "some reconciles did not finish within the grace period; the next leader resumes \
                 from the status"
            );
        }
        tasks.shutdown().await;
        Ok(())
    }
}

pub(crate) async fn wait_until_set(mut flag: watch::Receiver<bool>) {
    // An error means that the sender was dropped, which also means stop.
    let _ = flag.wait_for(|set| *set).await;
}

/// Enqueues every Rollout once all caches are synced, and each time this process becomes the
/// leader.
async fn enqueue_all_on_election(
    context: Arc<Context>,
    mut triggers: mpsc::Sender<Trigger>,
    ready: watch::Sender<bool>,
) {
    context.cache.wait_until_synced().await;
    ready.send_replace(true);
    tracing::info!(rollouts = context.cache.rollouts.len(), "caches synced");
    let mut changes = context.leadership.changes();
    loop {
        let leads = *changes.borrow_and_update();
        context.metrics.set_leader(leads);
        if leads {
            for rollout in context.cache.rollouts.state() {
                let _ = triggers.send(rollout.key().as_rollout()).await;
            }
        } else {
            context.on_leadership_lost();
        }
        if changes.changed().await.is_err() {
            // Without an election, leadership never changes again.
            future::pending::<()>().await;
        }
    }
}

async fn forward(
    mut analysis_triggers: BoxStream<'static, Key>,
    mut triggers: mpsc::Sender<Trigger>,
) {
    while let Some(rollout) = analysis_triggers.next().await {
        let _ = triggers.send(rollout.as_rollout()).await;
    }
    // The analysis manager was dropped. No more triggers will arrive.
    future::pending::<()>().await;
}

async fn sweep_commands(context: Arc<Context>) {
    context.cache.wait_until_synced().await;
    let mut ticks = interval(command::SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        context.metrics.set_rollouts(context.cache.rollouts.len());
        context
            .metrics
            .set_quarantined(context.local_states.quarantined_count());
        if context.leadership.is_leader() {
            let (client, cache) = (&context.client, &context.cache);
            command::sweep(
                client,
                cache,
                &context.leadership,
                &context.metrics,
                context.clock.now(),
            )
            .await;
        }
    }
}
