//! The controller as one object: the watches, the queue of reconciles, and who may act.

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

use crate::clock::Clock;
use crate::effects::command;
use crate::election::Leadership;
use crate::events::Events;
use crate::judge::Judge;
use crate::memory::Memories;
use crate::reconcile::{Context, reconcile};
use crate::telemetry::Metrics;
use crate::world::{Key, RolloutObject, Trigger, Watches, World};

/// How many triggers may wait to be taken into the queue; the queue itself holds each Rollout at
/// most once.
const TRIGGERS: usize = 256;

/// What a controller is made of.
pub struct Parts {
    /// The API server.
    pub client: Client,
    /// The only namespace to look at; none: all of them.
    pub namespace: Option<String>,
    /// How many Rollouts are reconciled at once.
    pub concurrency: u16,
    /// The time.
    pub clock: Clock,
    /// Whether this process may act.
    pub leadership: Leadership,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What judges releases.
    pub judge: Arc<dyn Judge>,
    /// The Rollouts whose judgement has changed.
    pub judged: BoxStream<'static, Key>,
    /// What this process calls itself in Events.
    pub instance: String,
}

/// A controller that has not begun yet.
pub struct Controller {
    context: Arc<Context>,
    rollouts: reflector::store::Writer<RolloutObject>,
    namespace: Option<String>,
    concurrency: u16,
    judged: BoxStream<'static, Key>,
    ready: watch::Sender<bool>,
}

/// A part of the controller has ended that must not.
#[derive(Debug, thiserror::Error)]
#[error("a part of the controller has ended by itself: {0}")]
pub struct PartEnded(String);

impl Controller {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let (world, rollouts) = World::new();
        let events = Events::new(
            parts.client.clone(),
            parts.instance,
            Arc::clone(&parts.metrics),
        );
        let context = Context {
            client: parts.client,
            world,
            clock: parts.clock,
            leadership: parts.leadership,
            metrics: parts.metrics,
            events,
            judge: parts.judge,
            memories: Memories::default(),
        };
        Self {
            context: Arc::new(context),
            rollouts,
            namespace: parts.namespace,
            concurrency: parts.concurrency,
            judged: parts.judged,
            ready: watch::Sender::new(false),
        }
    }

    /// Whether everything has been listed once.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Runs until `stop` ends; reconciles under way then have `grace` to end.
    ///
    /// # Errors
    /// Where a part has ended by itself: the process is of no use any more.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
        grace: Duration,
    ) -> Result<(), PartEnded> {
        let (triggers, queue) = mpsc::channel(TRIGGERS);
        let mut tasks = JoinSet::new();
        let context = self.context;
        let watches = Watches {
            client: context.client.clone(),
            namespace: self.namespace,
            world: Arc::clone(&context.world),
            triggers: triggers.clone(),
        };
        let forgetting = Arc::clone(&context);
        watches.spawn(&mut tasks, self.rollouts, move |key, uid| {
            forgetting.forget(key, uid)
        });
        tasks.spawn(take_turns(
            Arc::clone(&context),
            triggers.clone(),
            self.ready,
        ));
        tasks.spawn(pass_on(self.judged, triggers));
        tasks.spawn(sweep(Arc::clone(&context)));

        let (stopping, stopped) = watch::channel(false);
        let queue = queue
            .take_until(is_set(stopped.clone()))
            .map(Ok::<_, std::convert::Infallible>);
        let settings = ApplierConfig::default().concurrency(self.concurrency);
        let store = context.world.rollouts.clone();
        let shared = Arc::clone(&context);
        let reconciles = applier(
            |rollout, context| reconcile(rollout, context).boxed(),
            |_, error: &std::convert::Infallible, _| match *error {},
            shared,
            store,
            queue,
            settings,
        );
        // Rollouts that are gone when their turn comes are no trouble.
        let mut reconciles = Box::pin(reconciles.for_each(|_| future::ready(())));
        tokio::select! {
            () = &mut reconciles => return Err(PartEnded("the queue".to_owned())),
            ended = tasks.join_next() => {
                let why = ended.and_then(Result::err).map_or_else(|| "a watch".to_owned(), |error| error.to_string());
                return Err(PartEnded(why));
            }
            () = stop => {}
        }
        tracing::info!(grace = ?grace, "stopping: reconciles under way end");
        stopping.send_replace(true);
        if context.world.awaited().is_empty() && timeout(grace, reconciles).await.is_err() {
            tracing::warn!(
                "some reconciles did not end in time; the next leader goes on from the status"
            );
        }
        tasks.shutdown().await;
        Ok(())
    }
}

async fn is_set(mut flag: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = flag.wait_for(|set| *set).await;
}

/// Looks at every Rollout once when everything has been listed and whenever this process begins to
/// lead.
async fn take_turns(
    context: Arc<Context>,
    mut triggers: mpsc::Sender<Trigger>,
    ready: watch::Sender<bool>,
) {
    context.world.synced().await;
    ready.send_replace(true);
    tracing::info!(
        rollouts = context.world.rollouts.len(),
        "everything has been listed"
    );
    let mut changes = context.leadership.changes();
    loop {
        let leads = *changes.borrow_and_update();
        context.metrics.set_leader(leads);
        if leads {
            for rollout in context.world.rollouts.state() {
                let _ = triggers.send(rollout.key().as_rollout()).await;
            }
        } else {
            context.stand_by();
        }
        if changes.changed().await.is_err() {
            // There is no election (any more): what is so now stays so.
            future::pending::<()>().await;
        }
    }
}

async fn pass_on(mut judged: BoxStream<'static, Key>, mut triggers: mpsc::Sender<Trigger>) {
    while let Some(rollout) = judged.next().await {
        let _ = triggers.send(rollout.as_rollout()).await;
    }
    // The judges are gone: nothing more will come from there.
    future::pending::<()>().await;
}

async fn sweep(context: Arc<Context>) {
    context.world.synced().await;
    let mut ticks = interval(command::SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        context.metrics.set_rollouts(context.world.rollouts.len());
        context
            .metrics
            .set_quarantined(context.memories.set_aside());
        if context.leadership.is_leader() {
            let (client, world) = (&context.client, &context.world);
            command::sweep(
                client,
                world,
                &context.leadership,
                &context.metrics,
                context.clock.now(),
            )
            .await;
        }
    }
}
