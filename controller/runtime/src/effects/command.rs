//! RolloutCommands: writes their outcome to their status and deletes them after their time to live.

use std::time::Duration;

use jiff::SignedDuration;
use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use serin_core::command::{CommandOutcome, CommandResult};
use serin_crds::{RolloutCommand, api_status};

use super::{EffectError, EffectExecutor, patch_params};
use crate::cluster_cache::{CachedCommand, CachedObject, ClusterCache, Key};
use crate::election::Leadership;
use crate::telemetry::Metrics;

/// Time after which a finished command is deleted.
pub const TIME_TO_LIVE: SignedDuration = SignedDuration::from_hours(1);
/// Time after which a command for a missing Rollout is refused.
const ORPHAN_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// Maximum number of commands that one sweep finishes or deletes.
const SWEEP_LIMIT: usize = 100;
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
        finish(self.client, self.cache, &cached, outcome, self.now).await
    }
}

/// Writes the outcome of a command.
///
/// # Errors
/// The request fails. A deleted command is not an error.
pub async fn finish(
    client: &Client,
    cache: &ClusterCache,
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
        "metadata": {"uid": command.identity.uid},
        "status": {"outcome": result, "message": outcome.message, "at": now},
    });
    let api: Api<RolloutCommand> = Api::namespaced(client.clone(), namespace);
    match api
        .patch_status(name, &patch_params(), &Patch::Merge(patch))
        .await
    {
        Ok(command) => {
            cache.commands.put(CachedCommand::from(command));
            Ok(())
        }
        Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => Ok(()),
        Err(error) => Err(EffectError::api(format!("RolloutCommand {name}"))(error)),
    }
}

/// Deletes expired commands and refuses commands for missing Rollouts.
pub async fn sweep(
    client: &Client,
    cache: &ClusterCache,
    leadership: &Leadership,
    metrics: &Metrics,
    now: Timestamp,
) {
    let due = cache
        .commands
        .all()
        .into_iter()
        .filter_map(|command| Some((due_action(&command, cache, now)?, command)));
    for (what, command) in due.take(SWEEP_LIMIT) {
        if !leadership.is_leader() {
            return;
        }
        let identity = command.identity();
        let api: Api<RolloutCommand> = Api::namespaced(client.clone(), &identity.key.namespace);
        let name = &identity.key.name;
        let swept = match what {
            Due::Delete => {
                metrics.record_api_write("RolloutCommand", "delete");
                let uid = Preconditions {
                    uid: Some(identity.uid.clone()),
                    resource_version: None,
                };
                let deleted = api
                    .delete(name, &DeleteParams::default().preconditions(uid))
                    .await;
                deleted
                    .map(drop)
                    .map_err(EffectError::api(format!("RolloutCommand {name}")))
            }
            Due::Refuse => {
                metrics.record_api_write("RolloutCommand", "patch");
                let outcome = CommandOutcome::refused(format!(
                    "Rollout {} does not exist in this namespace",
                    command.rollout
                ));
                finish(client, cache, &command, &outcome, now).await
            }
        };
        if let Err(error) = swept {
            tracing::warn!(command = %identity.key, %error, "failed to sweep command");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Delete,
    Refuse,
}

fn due_action(command: &CachedCommand, cache: &ClusterCache, now: Timestamp) -> Option<Due> {
    let age = |since: Timestamp| now.duration_since(since);
    match command.finished_at {
        Some(at) => (age(at) >= TIME_TO_LIVE).then_some(Due::Delete),
        None => {
            let rollout = Key::new(&command.identity.key.namespace, &command.rollout);
            (age(command.created_at) >= ORPHAN_AFTER && !cache.has_rollout(&rollout))
                .then_some(Due::Refuse)
        }
    }
}
