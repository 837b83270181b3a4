//! Validation of a spec and its conversion into a [`Plan`] with all defaults, or into a list of all
//! invalid fields.

mod analysis;
mod baseline;
mod blue_green;
mod calibration;
mod canary;
mod check_sources;
mod checkpoint_size;
mod checks;
mod gates;
mod managed_routes;
mod object_name;
mod pace;
mod problem;
mod routes;
mod selector;
mod side_metadata;
mod steps;
mod template_size;
mod values;
mod workload;

use std::time::Duration;

use serde_json::Value;
use serin_core::plan::{Exposure, Plan, Routing, Strategy};
use sha2::{Digest, Sha256};

pub use problem::{FieldError, FieldErrors};
pub use template_size::check_template_size;

use crate::rollout::RolloutSpec;
use crate::workload::is_unset;
use problem::Problems;
use values::non_negative;

const RESTART_AT: &str = "spec.restartAt";
const REPLICAS_DEFAULT: i32 = 1;
const REVISION_HISTORY_DEFAULT: i32 = 10;
const PROGRESS_DEADLINE_SECONDS_DEFAULT: i32 = 600;
/// Maximum length of a label value, which the name of a Rollout is used as.
const MAX_NAME_LENGTH: usize = 63;

impl RolloutSpec {
    /// The Services and routes that the spec names, for the Rollout called `name`. `None` if it has
    /// neither a router nor Services, or if these fields are invalid. Cheap: nothing else of the
    /// spec is read.
    pub fn routing(&self, name: &str) -> Option<Routing> {
        let mut problems = Problems::default();
        let exposure = self.exposure(name, &mut problems);
        match problems.into_result(exposure) {
            Ok(
                Exposure::Weighted(routing)
                | Exposure::ReplicaRatioServices(routing)
                | Exposure::Switch(routing),
            ) => Some(routing),
            Ok(Exposure::ReplicaRatio) | Err(_) => None,
        }
    }

    /// Validates the spec and converts it into a plan, for the Rollout called `name`.
    ///
    /// # Errors
    ///
    /// All invalid fields, each with a suggested fix.
    pub fn plan(&self, name: &str) -> Result<Plan, FieldErrors> {
        let mut problems = Problems::default();
        if name.len() > MAX_NAME_LENGTH {
            problems.invalid(
                "metadata.name",
                &name,
                "it does not fit into a label value",
                "use at most 63 characters",
            );
        }
        let replicas = non_negative(
            "spec.replicas",
            self.replicas,
            REPLICAS_DEFAULT,
            &mut problems,
        );
        let deadline_seconds = non_negative(
            "spec.progressDeadlineSeconds",
            self.progress_deadline_seconds,
            PROGRESS_DEADLINE_SECONDS_DEFAULT,
            &mut problems,
        );
        let min_ready_seconds = non_negative(
            "spec.minReadySeconds",
            self.min_ready_seconds,
            0,
            &mut problems,
        );
        if deadline_seconds <= min_ready_seconds {
            let fix = format!("use more than spec.minReadySeconds, which is {min_ready_seconds}");
            problems.invalid(
                "spec.progressDeadlineSeconds",
                &deadline_seconds,
                "no pod can become available in time",
                fix,
            );
        }
        let history = non_negative(
            "spec.revisionHistoryLimit",
            self.revision_history_limit,
            REVISION_HISTORY_DEFAULT,
            &mut problems,
        );
        let window = self.rollback_window.as_ref().map(|window| window.revisions);
        let rollback_window =
            non_negative("spec.rollbackWindow.revisions", window, 0, &mut problems);
        let restart_at = self.restart_at.as_deref();
        let restart_at =
            restart_at.and_then(|text| values::parse_time(RESTART_AT, text, &mut problems));
        workload::check_workload(self, &mut problems);
        side_metadata::check(self, &mut problems);
        // The template of a Deployment is checked once it has been read.
        if !is_unset(&self.template) || (self.workload_ref.is_none() && !self.observes()) {
            template_size::check_size(&self.template, &mut problems);
            selector::check_selector(self, &mut problems);
        }
        if self.observes() {
            workload::check_observed_selector(self, &mut problems);
            workload::check_observed_strategy(self, &mut problems);
        }
        let exposure = self.exposure(name, &mut problems);
        let is_routed = matches!(exposure, Exposure::Weighted(_));
        let strategy = self.planned_strategy(is_routed, &mut problems);
        problems.into_result(Plan {
            replicas,
            progress_deadline: Duration::from_secs(deadline_seconds.into()),
            progress_deadline_abort: self.progress_deadline_abort.unwrap_or(true),
            revision_history_limit: usize::try_from(history).unwrap_or(usize::MAX),
            rollback_window: usize::try_from(rollback_window).unwrap_or(usize::MAX),
            paused: self.paused.unwrap_or(false),
            restart_at,
            workload: self.workload(),
            exposure,
            strategy,
        })
    }

    fn exposure(&self, name: &str, problems: &mut Problems) -> Exposure {
        match &self.strategy.blue_green {
            Some(spec) => blue_green::exposure(spec, name, problems),
            None => canary::exposure(&self.strategy.as_canary(), name, problems),
        }
    }

    fn planned_strategy(&self, is_routed: bool, problems: &mut Problems) -> Strategy {
        let (canary, blue_green) = (&self.strategy.canary, &self.strategy.blue_green);
        let fix = "set one of canary and blueGreen";
        match (canary, blue_green) {
            (None, None) => problems.required("spec.strategy", "there is no strategy", fix),
            (Some(_), Some(both)) => {
                let path = "spec.strategy.blueGreen";
                problems.invalid(path, both, "it excludes canary, which is also set", fix);
            }
            _ => {}
        }
        match blue_green {
            Some(spec) => Strategy::BlueGreen(blue_green::plan(self, spec, is_routed, problems)),
            None => Strategy::Canary(canary::canary(self, is_routed, problems)),
        }
    }
}

/// A short hash of a plan. Equal plans have equal hashes, in every version of the controller.
///
/// The input is the JSON of the plan with sorted keys. A field that is added to [`Plan`] later must
/// be omitted from the JSON while it has its default. Otherwise an upgrade would seem to change
/// every active plan.
pub fn plan_hash(plan: &Plan) -> String {
    let mut json = String::new();
    // Serialization cannot fail: all values in a plan have a JSON form.
    write_canonical(&serde_json::to_value(plan).unwrap_or_default(), &mut json);
    let digest = Sha256::digest(json.as_bytes());
    let short = digest
        .iter()
        .take(5)
        .fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    format!("{short:010x}")
}

/// Writes JSON with sorted keys, whatever key order `serde_json` was compiled with.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_canonical(item, out);
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
                write_canonical(field, out);
                out.push(',');
            }
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
