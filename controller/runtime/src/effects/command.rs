//! Commands: their outcome stands in their status, and they are deleted after their time to live.

use std::time::Duration;

use jiff::SignedDuration;
use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use serin_core::command::{CommandOutcome, CommandResult};
use serin_crds::{RolloutCommand, api_status};

use super::{EffectError, Hands, patch_params};
use crate::election::Leadership;
use crate::telemetry::Metrics;
use crate::world::{CommandFact, Fact, Key, World};

/// How long a command is kept after its end.
pub const TIME_TO_LIVE: SignedDuration = SignedDuration::from_hours(1);
/// How long a command about a Rollout that does not exist waits for it.
const ORPHAN_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// How many commands one sweep ends or deletes at most.
const SWEEP_LIMIT: usize = 100;
/// How often commands are swept.
pub const SWEEP_EVERY: Duration = Duration::from_secs(15);

impl Hands<'_> {
    pub(super) async fn finish_command(
        &self,
        name: &str,
        uid: &str,
        outcome: &CommandOutcome,
    ) -> Result<(), EffectError> {
        let known = self
            .world
            .commands
            .get(&self.key(name))
            .filter(|known| known.identity.uid == uid);
        // One that is gone has nobody to tell.
        let Some(known) = known.filter(|known| known.finished_at.is_none()) else {
            return Ok(());
        };
        self.may_write("RolloutCommand", "patch")?;
        finish(self.client, self.world, &known, outcome, self.now).await
    }
}

/// Writes a command's outcome.
///
/// # Errors
/// Where the API server refuses it; a command that is gone is none.
pub async fn finish(
    client: &Client,
    world: &World,
    command: &CommandFact,
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
            world.commands.put(CommandFact::from(command));
            Ok(())
        }
        Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => Ok(()),
        Err(error) => Err(EffectError::api(format!("RolloutCommand {name}"))(error)),
    }
}

/// Deletes commands past their time to live, and refuses those about Rollouts that do not exist.
pub async fn sweep(
    client: &Client,
    world: &World,
    leadership: &Leadership,
    metrics: &Metrics,
    now: Timestamp,
) {
    let due = world
        .commands
        .all()
        .into_iter()
        .filter_map(|command| Some((due(&command, world, now)?, command)));
    for (what, command) in due.take(SWEEP_LIMIT) {
        if !leadership.is_leader() {
            return;
        }
        let identity = command.identity();
        let api: Api<RolloutCommand> = Api::namespaced(client.clone(), &identity.key.namespace);
        let name = &identity.key.name;
        let swept = match what {
            Due::Delete => {
                metrics.api_write("RolloutCommand", "delete");
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
                metrics.api_write("RolloutCommand", "patch");
                let outcome = CommandOutcome::refused(format!(
                    "there is no Rollout {} in this namespace",
                    command.rollout
                ));
                finish(client, world, &command, &outcome, now).await
            }
        };
        if let Err(error) = swept {
            tracing::warn!(command = %identity.key, %error, "a command could not be swept");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Delete,
    Refuse,
}

fn due(command: &CommandFact, world: &World, now: Timestamp) -> Option<Due> {
    let age = |since: Timestamp| now.duration_since(since);
    match command.finished_at {
        Some(at) => (age(at) >= TIME_TO_LIVE).then_some(Due::Delete),
        None => {
            let rollout = Key::new(&command.identity.key.namespace, &command.rollout);
            (age(command.created_at) >= ORPHAN_AFTER && !world.has_rollout(&rollout))
                .then_some(Due::Refuse)
        }
    }
}
