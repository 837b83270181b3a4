//! RolloutCommands: writes their outcome to their status and deletes them after their time to live.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::SignedDuration;
use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use serin_core::command::{CommandOutcome, CommandResult};
use serin_core::commands::{
    EXPIRES_AFTER, exceeded_pending_limit, expired, is_expired, over_pending_limit,
};
use serin_crds::{RolloutCommand, api_status};

use super::{EffectError, EffectExecutor, TIMEOUT, patch_params};
use crate::cluster_cache::{CachedCommand, ClusterCache, Key, RolloutObject};
use crate::ownership::Ownership;
use crate::telemetry::Metrics;
use crate::timed_write::timed_write;

/// Time after which a finished command is deleted.
pub const TIME_TO_LIVE: SignedDuration = SignedDuration::from_hours(1);
/// Time after which a refused command beyond the limit of pending commands is deleted.
const TIME_TO_LIVE_OVER_LIMIT: SignedDuration = SignedDuration::from_secs(60);
/// Time after its expiry in which only a reconcile decides on a command, so that a sweep does not
/// refuse what is being carried out.
const RECONCILE_MARGIN: SignedDuration = SignedDuration::from_secs(30);
/// Time after which a command for a missing Rollout is refused.
const ORPHAN_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// Maximum number of commands that one sweep refuses or deletes.
const SWEEP_LIMIT: usize = 1_000;
/// Maximum number of concurrent requests of a sweep.
const SWEEP_CONCURRENCY: usize = 8;
/// Interval between two sweeps.
pub const SWEEP_EVERY: Duration = Duration::from_secs(15);

impl EffectExecutor<'_> {
    pub(super) async fn finish_command(
        &self,
        name: &str,
        uid: &str,
        outcome: &CommandOutcome,
    ) -> Result<(), EffectError> {
        let cached = self
            .cache
            .commands
            .get(&self.key(name))
            .filter(|cached| cached.identity.uid == uid);
        // A deleted command needs no outcome.
        let Some(cached) = cached.filter(|cached| cached.finished_at.is_none()) else {
            return Ok(());
        };
        self.authorize_write("RolloutCommand", "patch")?;
        let (client, cache, ownership) = (self.client, self.cache, self.ownership);
        finish(client, cache, ownership, &cached, outcome, self.now).await
    }
}

/// Writes the outcome of a command.
///
/// # Errors
/// The request fails. A deleted command is not an error.
pub async fn finish(
    client: &Client,
    cache: &ClusterCache,
    ownership: &dyn Ownership,
    command: &CachedCommand,
    outcome: &CommandOutcome,
    now: Timestamp,
) -> Result<(), EffectError> {
    let result = match outcome.result {
        CommandResult::Done => "Done",
        CommandResult::Refused => "Refused",
    };
    let Key { namespace, name } = &command.identity.key;
    let patch = json!({
        // Another process may have finished the command already.
        "metadata": {
            "uid": command.identity.uid,
            "resourceVersion": command.identity.resource_version,
        },
        "status": {"outcome": result, "message": outcome.message, "at": now},
    });
    let api: Api<RolloutCommand> = Api::namespaced(client.clone(), namespace);
    let (params, patch) = (patch_params(), Patch::Merge(patch));
    let request = api.patch_status(name, &params, &patch);
    match timed_write(ownership, &command.rollout_key(), TIMEOUT, request).await? {
        Ok(command) => {
            cache.commands.put(CachedCommand::from(command));
            Ok(())
        }
        Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => Ok(()),
        Err(error) => Err(EffectError::api(format!("RolloutCommand {name}"))(error)),
    }
}

/// Deletes commands whose time to live has passed, and refuses the pending commands that no
/// reconcile carries out: those for missing Rollouts, those that have expired, and those beyond the
/// limit of pending commands.
pub async fn sweep(
    client: &Client,
    cache: &ClusterCache,
    ownership: &dyn Ownership,
    metrics: &Metrics,
    now: Timestamp,
) {
    let mut due = due_commands(cache, now);
    due.retain(|(_, command)| ownership.owns(&command.rollout_key()));
    let due = due.into_iter().take(SWEEP_LIMIT);
    let sweep_one = |(due, command): (Due, Arc<CachedCommand>)| async move {
        if !ownership.owns(&command.rollout_key()) {
            return;
        }
        let swept = match due {
            Due::Delete => {
                metrics.record_api_write("RolloutCommand", "delete");
                delete(client, ownership, &command).await
            }
            Due::Refuse(outcome) => {
                metrics.record_api_write("RolloutCommand", "patch");
                finish(client, cache, ownership, &command, &outcome, now).await
            }
        };
        if let Err(error) = swept {
            tracing::warn!(command = %command.identity.key, %error, "failed to sweep command");
        }
    };
    stream::iter(due)
        .for_each_concurrent(SWEEP_CONCURRENCY, sweep_one)
        .await;
}

async fn delete(
    client: &Client,
    ownership: &dyn Ownership,
    command: &CachedCommand,
) -> Result<(), EffectError> {
    let Key { namespace, name } = &command.identity.key;
    let api: Api<RolloutCommand> = Api::namespaced(client.clone(), namespace);
    let unchanged = Preconditions {
        uid: Some(command.identity.uid.clone()),
        resource_version: Some(command.identity.resource_version.clone()),
    };
    let params = DeleteParams::default().preconditions(unchanged);
    let request = api.delete(name, &params);
    match timed_write(ownership, &command.rollout_key(), TIMEOUT, request).await? {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => Ok(()),
        Err(error) => Err(EffectError::api(format!("RolloutCommand {name}"))(error)),
    }
}

/// What a sweep does with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    Delete,
    Refuse(CommandOutcome),
}

fn due_commands(cache: &ClusterCache, now: Timestamp) -> Vec<(Due, Arc<CachedCommand>)> {
    let mut by_rollout: BTreeMap<Key, Vec<Arc<CachedCommand>>> = BTreeMap::new();
    for command in cache.commands.all() {
        by_rollout
            .entry(command.rollout_key())
            .or_default()
            .push(command);
    }
    let mut due = Vec::new();
    for (rollout, mut commands) in by_rollout {
        commands.sort_by(|a, b| by_age(a, b));
        let rollout = cache.rollouts.get(&rollout.as_rollout());
        let submissions = commands
            .iter()
            .map(|cached| (&cached.command, cached.finished_at));
        let over_limit = over_pending_limit(submissions);
        let due_of = |(command, is_over): (Arc<CachedCommand>, bool)| {
            let action = due_action(&command, rollout.as_deref(), is_over, now)?;
            Some((action, command))
        };
        due.extend(commands.into_iter().zip(over_limit).filter_map(due_of));
    }
    due
}

/// The order in which commands are handled: oldest first.
pub fn by_age(a: &CachedCommand, b: &CachedCommand) -> Ordering {
    (a.created_at, &a.identity.key).cmp(&(b.created_at, &b.identity.key))
}

fn due_action(
    command: &CachedCommand,
    rollout: Option<&RolloutObject>,
    is_over_limit: bool,
    now: Timestamp,
) -> Option<Due> {
    if let Some(at) = command.finished_at {
        let time_to_live = if is_over_limit {
            TIME_TO_LIVE_OVER_LIMIT
        } else {
            TIME_TO_LIVE
        };
        return (now.duration_since(at) >= time_to_live).then_some(Due::Delete);
    }
    let age = now.duration_since(command.created_at);
    let Some(rollout) = rollout else {
        let why = format!(
            "Rollout {} does not exist in this namespace",
            command.rollout
        );
        return (age >= ORPHAN_AFTER).then(|| Due::Refuse(CommandOutcome::refused(why)));
    };
    let mut handled = rollout.status.state.commands.iter();
    if handled.any(|handled| handled.uid == command.identity.uid.as_str()) {
        // It was carried out, and its outcome is written by the next reconcile.
        return None;
    }
    if is_over_limit {
        return Some(Due::Refuse(exceeded_pending_limit()));
    }
    let is_left = is_expired(&command.command, now) && age >= EXPIRES_AFTER + RECONCILE_MARGIN;
    is_left.then(|| Due::Refuse(expired()))
}
