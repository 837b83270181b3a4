//! From a spec, as a user wrote it, to the planner's [`Plan`], with every default filled in, or to
//! every field that is wrong.

mod analysis;
mod canary;
mod checks;
mod pace;
mod problem;
mod selector;
mod steps;
mod values;

use std::time::Duration;

use serde_json::Value;
use serin_core::plan::{Plan, Strategy};
use sha2::{Digest, Sha256};

pub use problem::{FieldError, FieldErrors};

use crate::rollout::RolloutSpec;
use problem::Problems;
use values::count;

const REPLICAS_DEFAULT: i32 = 1;
const REVISION_HISTORY_DEFAULT: i32 = 10;
const PROGRESS_DEADLINE_SECONDS_DEFAULT: i32 = 600;
/// The label that names the Rollout holds no longer name.
const NAME_LIMIT: usize = 63;

impl RolloutSpec {
    /// The validated plan of the Rollout called `name`.
    ///
    /// # Errors
    /// Every field that is wrong, at once, with what to write instead.
    pub fn plan(&self, name: &str) -> Result<Plan, FieldErrors> {
        let mut problems = Problems::default();
        if name.len() > NAME_LIMIT {
            problems.invalid(
                "metadata.name",
                &name,
                "it does not fit into a label",
                "use at most 63 characters",
            );
        }
        let replicas = count(
            "spec.replicas",
            self.replicas,
            REPLICAS_DEFAULT,
            &mut problems,
        );
        let deadline_seconds = count(
            "spec.progressDeadlineSeconds",
            self.progress_deadline_seconds,
            PROGRESS_DEADLINE_SECONDS_DEFAULT,
            &mut problems,
        );
        let min_ready_seconds = count(
            "spec.minReadySeconds",
            self.min_ready_seconds,
            0,
            &mut problems,
        );
        if deadline_seconds <= min_ready_seconds {
            let fix = format!("use more than minReadySeconds, which is {min_ready_seconds}");
            problems.invalid(
                "spec.progressDeadlineSeconds",
                &deadline_seconds,
                "no pod could become available in time",
                fix,
            );
        }
        let history = count(
            "spec.revisionHistoryLimit",
            self.revision_history_limit,
            REVISION_HISTORY_DEFAULT,
            &mut problems,
        );
        let window = self.rollback_window.as_ref().map(|window| window.revisions);
        let rollback_window = count("spec.rollbackWindow.revisions", window, 0, &mut problems);
        selector::check(self, &mut problems);
        let canary = canary::canary(self, name, &mut problems);
        problems.finish(Plan {
            replicas,
            progress_deadline: Duration::from_secs(deadline_seconds.into()),
            revision_history_limit: usize::try_from(history).unwrap_or(usize::MAX),
            rollback_window: usize::try_from(rollback_window).unwrap_or(usize::MAX),
            paused: self.paused.unwrap_or(false),
            strategy: Strategy::Canary(canary),
        })
    }
}

/// A short hash of everything in a plan: equal plans have equal hashes, in every release of the
/// controller.
///
/// It is taken over the plan's JSON with its keys in order. A field that is added to [`Plan`] later
/// must be left out of the JSON while it has its default, or every plan in force would seem to have
/// changed on the day of the upgrade.
pub fn plan_hash(plan: &Plan) -> String {
    let mut json = String::new();
    // A plan is numbers, texts, lists and string-keyed objects, all of which have a JSON form.
    write_in_order(&serde_json::to_value(plan).unwrap_or_default(), &mut json);
    let digest = Sha256::digest(json.as_bytes());
    let short = digest
        .iter()
        .take(5)
        .fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    format!("{short:010x}")
}

/// JSON with the keys of every object in order, whatever order `serde_json` was built to keep.
fn write_in_order(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_in_order(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, field) in fields {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_in_order(field, out);
                out.push(',');
            }
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests;
