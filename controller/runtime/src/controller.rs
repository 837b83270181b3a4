//! The controller: watches, the reconcile queue and leadership.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use kube::Client;
use kube::runtime::reflector;
use serin_core::state::Stage;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::admission_policy::{self, PolicyStatus};
use crate::analyzer::Analyzer;
use crate::clock::Clock;
use crate::cluster_cache::{ClusterCache, Key, RolloutObject, Watches};
use crate::dispatcher::{Action, Dispatcher};
use crate::effects::command;
use crate::events::Events;
use crate::guardrails::{GuardrailObjects, RegistryLookups};
use crate::image_registry::ImageRegistry;
use crate::local_state::LocalStates;
use crate::memory_need::{self, MemoryCheck};
use crate::ownership::Ownership;
use crate::policy_status::keep_policy_status;
use crate::queue::Lane;
use crate::reconcile::{Context, Safeguards, reconcile};
use crate::state_sizes::StateSizes;
use crate::telemetry::Metrics;
use crate::workload::watch_deployments;

/// Maximum time to write the queued Events at shutdown. The next leader waits for it.
const EVENTS_GRACE: Duration = Duration::from_secs(1);

/// Dependencies of the controller.
pub struct ControllerDeps {
    pub client: Client,
    /// The namespaces to watch. All namespaces if empty.
    pub namespaces: Vec<String>,
    /// Maximum number of concurrent reconciles.
    pub concurrency: u16,
    pub clock: Clock,
    /// Which Rollouts this process may act on.
    pub ownership: Arc<dyn Ownership>,
    pub metrics: Arc<Metrics>,
    /// Analyzes the metrics of releases.
    pub analyzer: Arc<dyn Analyzer>,
    /// Answers the questions of guardrails about images.
    pub registry: Arc<dyn ImageRegistry>,
    /// The queue of reconciles.
    pub dispatcher: Arc<Dispatcher>,
    /// Name of this process in Events.
    pub instance: String,
    /// Name of the admission policy that verifies commands, and of its binding. `None` if the
    /// installation uses none.
    pub admission_policy: Option<String>,
    /// What prevents one Rollout from stopping the others.
    pub safeguards: Safeguards,
}

/// A controller that has not been started.
pub struct Controller {
    context: Arc<Context>,
    rollouts: reflector::store::Writer<RolloutObject>,
    namespaces: Vec<String>,
    concurrency: u16,
    dispatcher: Arc<Dispatcher>,
    admission_policy: Option<String>,
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
        if deps.admission_policy.is_some() {
            cache.command_policy.send_replace(PolicyStatus::Unknown);
        }
        let events = Events::new(
            deps.client.clone(),
            deps.instance,
            Arc::clone(&deps.metrics),
        );
        let context = Context {
            client: deps.client,
            watches_all_namespaces: deps.namespaces.is_empty(),
            cache,
            clock: deps.clock,
            ownership: deps.ownership,
            metrics: deps.metrics,
            events,
            analyzer: deps.analyzer,
            local_states: LocalStates::default(),
            guardrail_objects: GuardrailObjects::default(),
            registries: RegistryLookups::new(deps.registry, Arc::clone(&deps.dispatcher)),
            safeguards: deps.safeguards,
            dispatcher: Arc::clone(&deps.dispatcher),
        };
        Self {
            context: Arc::new(context),
            rollouts,
            namespaces: deps.namespaces,
            concurrency: deps.concurrency,
            dispatcher: deps.dispatcher,
            admission_policy: deps.admission_policy,
            ready: watch::Sender::new(false),
        }
    }

    /// The cached objects.
    pub fn cache(&self) -> Arc<ClusterCache> {
        Arc::clone(&self.context.cache)
    }

    /// Becomes true when all caches have been listed once.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Counts the entries of the process-local state while the controller runs.
    pub fn state_sizes(&self) -> StateSizes {
        StateSizes::new(Arc::clone(&self.context), Arc::clone(&self.dispatcher))
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
        let mut tasks = JoinSet::new();
        let (context, dispatcher) = (self.context, self.dispatcher);
        let watches = Watches {
            client: context.client.clone(),
            namespaces: self.namespaces.clone(),
            cluster: Arc::clone(&context.cache),
            api_groups: Arc::default(),
            dispatcher: Arc::clone(&dispatcher),
            lane: None,
        };
        let mut namespaces: Vec<_> = self.namespaces.into_iter().map(Some).collect();
        if namespaces.is_empty() {
            namespaces.push(None);
        }
        for namespace in namespaces {
            tasks.spawn(watch_deployments(
                context.client.clone(),
                namespace,
                Arc::clone(&context.cache),
                Arc::clone(&dispatcher),
            ));
        }
        let on_deleted = Arc::clone(&context);
        watches.spawn(&mut tasks, self.rollouts, move |uid| {
            on_deleted.forget(uid);
        });
        tasks.spawn(enqueue_all_on_election(
            Arc::clone(&context),
            Arc::clone(&dispatcher),
            self.ready,
        ));
        if let Some(name) = self.admission_policy {
            tasks.spawn(admission_policy::monitor(
                name,
                context.client.clone(),
                Arc::clone(&context.cache),
                Arc::clone(&context.metrics),
                Arc::clone(&dispatcher),
            ));
        }
        tasks.spawn(sweep_commands(
            Arc::clone(&context),
            Arc::clone(&dispatcher),
        ));
        tasks.spawn(keep_policy_status(Arc::clone(&context)));
        tasks.spawn(context.events.clone().write_queued());

        let (stopping, stopped) = watch::channel(false);
        let slots = usize::from(self.concurrency);
        let shared = Arc::clone(&context);
        let reconcile = move |key| reconcile_by_key(key, Arc::clone(&shared));
        let mut reconciles =
            Box::pin(dispatcher.run(slots, reconcile, wait_until_set(stopped.clone())));
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
        context.events.flush(EVENTS_GRACE).await;
        tasks.shutdown().await;
        Ok(())
    }
}

/// Reconciles a Rollout. Returns when to repeat it, and in which lane. A Rollout that was deleted
/// while it waited is not an error.
async fn reconcile_by_key(key: Key, context: Arc<Context>) -> (Action, Lane) {
    let Some(rollout) = context.cache.rollouts.get(&key.as_rollout()) else {
        return (Action::AwaitChange, Lane::Background);
    };
    let action = reconcile(rollout, Arc::clone(&context)).await;
    (action, context.cache.lane(&key))
}

pub(crate) async fn wait_until_set(mut flag: watch::Receiver<bool>) {
    // An error means that the sender was dropped, which also means stop.
    let _ = flag.wait_for(|set| *set).await;
}

/// Enqueues every Rollout once all caches are synced, and each time this process becomes the
/// leader.
async fn enqueue_all_on_election(
    context: Arc<Context>,
    dispatcher: Arc<Dispatcher>,
    ready: watch::Sender<bool>,
) {
    context.cache.wait_until_synced().await;
    ready.send_replace(true);
    tracing::info!(rollouts = context.cache.rollouts.len(), "caches synced");
    let mut changes = context.ownership.changes();
    loop {
        let leads = *changes.borrow_and_update();
        context.metrics.set_leader(leads);
        if leads {
            for rollout in context.cache.rollouts.state() {
                let key = rollout.key();
                if context.ownership.owns(&key) {
                    dispatcher.enqueue(&key, lane_after_election(&context.cache, &rollout));
                } else {
                    // Its namespace is no longer selected.
                    context.stop(rollout.uid());
                }
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

/// How urgent the first look of a new leader at a Rollout is. What happened while nobody led must not
/// wait for the check of thousands of Rollouts to which nothing happened.
fn lane_after_election(cache: &ClusterCache, rollout: &RolloutObject) -> Lane {
    let (key, state) = (rollout.key(), &rollout.status.state);
    let commands = cache.commands.for_rollout(&key);
    if commands.iter().any(|command| command.finished_at.is_none()) {
        return Lane::Urgent;
    }
    let is_settled =
        state.stage == Stage::Stable && state.observed_generation == rollout.generation();
    match cache.lane(&key) {
        Lane::Background if is_settled => Lane::Idle,
        lane => lane,
    }
}

async fn sweep_commands(context: Arc<Context>, dispatcher: Arc<Dispatcher>) {
    context.cache.wait_until_synced().await;
    let limit = memory_need::container_limit();
    let mut memory = MemoryCheck::new(limit);
    let mut ticks = interval(command::SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let rollouts = count(context.cache.rollouts.len());
        let pods = count(context.cache.pods.entry_count());
        context.metrics.set_rollouts(context.cache.rollouts.len());
        let needed = memory_need::needed_bytes(rollouts, pods);
        context.metrics.set_memory(needed, limit);
        if let Some(warning) = memory.warning(rollouts, pods) {
            tracing::warn!("{warning}");
        }
        context
            .metrics
            .set_quarantined(context.local_states.quarantined_count());
        for lane in Lane::ALL {
            let waiting = dispatcher.waiting(lane);
            context.metrics.set_queue_waiting(lane, waiting);
        }
        command::sweep(
            &context.client,
            &context.cache,
            context.ownership.as_ref(),
            &context.metrics,
            context.clock.now(),
        )
        .await;
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;
    use crate::cluster_cache::CachedCommand;

    #[test]
    fn a_new_leader_looks_first_at_what_has_happened() {
        let (cache, mut rollouts) = ClusterCache::new();
        let rollout = |name: &str, stage: &str, generation: u32| {
            let object = json!({
                "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": generation},
                "spec": {},
                "status": {"stage": stage, "observedGeneration": 1},
            });
            RolloutObject::from_json(object).unwrap()
        };
        let command = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand",
            "metadata": {"name": "abort", "namespace": "shop"},
            "spec": {"rolloutRef": {"name": "commanded"}, "verb": "abort"},
        });
        let command: serin_crds::RolloutCommand = serde_json::from_value(command).unwrap();
        cache.commands.put(CachedCommand::from(command));
        for (rollout, lane) in [
            (rollout("commanded", "Progressing", 1), Lane::Urgent),
            (rollout("released", "Progressing", 1), Lane::Ongoing),
            (rollout("changed", "Stable", 2), Lane::Background),
            (rollout("settled", "Stable", 1), Lane::Idle),
        ] {
            rollouts.apply_watcher_event(&Event::Apply(rollout.clone()));
            assert_eq!(
                lane_after_election(&cache, &rollout),
                lane,
                "{}",
                rollout.key()
            );
        }
    }
}
