//! The analysis of a release is fixed when the release begins: an edit of `spec.analysis` counts
//! from the next release.
//!
//! Otherwise whoever may edit a Rollout could weaken the analysis of a release in progress, and a
//! bad revision would be promoted.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Number, Value};

use crate::command::{Command, CommandOutcome};
use crate::context::{Context, Transition};
use crate::plan::{Analysis, Plan};
use crate::state::State;
use crate::text::Message;

/// Largest integer up to which every integer is exact as a float: 2^53.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// `spec.analysis` of a Rollout as a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnalysisDocument(Arc<Value>);

impl From<Value> for AnalysisDocument {
    /// The document in the form that the API server returns, so that a stored document equals its
    /// original: `20.0` is returned as `20`.
    fn from(mut document: Value) -> Self {
        normalize_numbers(&mut document);
        Self(Arc::new(document))
    }
}

impl Serialize for AnalysisDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AnalysisDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

impl AnalysisDocument {
    /// The JSON object.
    pub fn as_value(&self) -> &Value {
        &self.0
    }
}

fn normalize_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|_| number.is_f64());
            let whole =
                float.filter(|float| float.fract() == 0.0 && float.abs() <= MAX_EXACT_INTEGER);
            if let Some(whole) = whole {
                // Exact: checked above.
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the range is checked above"
                )]
                let whole = whole as i64;
                *number = Number::from(whole);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(normalize_numbers),
        Value::Object(fields) => fields.values_mut().for_each(normalize_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Analysis of the current release. It stays the same until the release ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReleaseAnalysis {
    /// `spec.analysis` as it was when the release began.
    #[cfg_attr(
        feature = "schemars",
        schemars(schema_with = "crate::schema::any_object")
    )]
    pub spec: AnalysisDocument,
    /// The durations and checks of `spec`, with all defaults.
    #[cfg_attr(
        feature = "schemars",
        schemars(schema_with = "crate::schema::any_object")
    )]
    pub plan: Analysis,
    /// Number of container restarts that aborts the release.
    pub pod_restart_limit: u32,
    /// Whether `spec.analysis` or `podRestartLimit` was edited during the release, in the Rollout or
    /// in a policy. The edit counts from the next release. Defaults to false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub edited: bool,
}

impl ReleaseAnalysis {
    fn is_that_of(&self, plan: &Plan, spec: Option<&AnalysisDocument>) -> bool {
        let canary = plan.canary();
        Some(&self.spec) == spec
            && Some(&self.plan) == canary.analysis.as_ref()
            && self.pod_restart_limit == canary.pod_restart_limit
    }
}

/// The plan that a release follows: that of the spec, with the analysis of the release.
pub fn effective_plan<'a>(plan: &'a Plan, state: &State) -> Cow<'a, Plan> {
    let of_release = state.release_analysis.as_ref();
    let Some(fixed) = of_release.filter(|_| state.is_releasing()) else {
        return Cow::Borrowed(plan);
    };
    let canary = plan.canary();
    if canary.analysis.as_ref() == Some(&fixed.plan)
        && canary.pod_restart_limit == fixed.pod_restart_limit
    {
        return Cow::Borrowed(plan);
    }
    let mut plan = plan.clone();
    let canary = plan.canary_mut();
    canary.analysis = Some(fixed.plan.clone());
    canary.pod_restart_limit = fixed.pod_restart_limit;
    Cow::Owned(plan)
}

/// Records the analysis of a release that has none yet, and whether the spec's has been edited
/// since. A release whose analysis was not recorded, because it began without one or under an older
/// version, follows the first one that is observed.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition) {
    if !transition.state.is_releasing() {
        transition.state.release_analysis = None;
        return;
    }
    if cx.observed.spec_problem.is_some() {
        return;
    }
    let spec = cx.observed.spec_analysis.as_ref();
    let canary = cx.spec_plan.canary();
    let Some(fixed) = &mut transition.state.release_analysis else {
        let both = spec.zip(canary.analysis.as_ref());
        transition.state.release_analysis = both.map(|(spec, plan)| ReleaseAnalysis {
            spec: spec.clone(),
            plan: plan.clone(),
            pod_restart_limit: canary.pod_restart_limit,
            edited: false,
        });
        return;
    };
    let was_edited = fixed.edited;
    fixed.edited = !fixed.is_that_of(cx.spec_plan, spec);
    if fixed.edited && !was_edited {
        transition.warning(
            "AnalysisEdited",
            "the analysis or podRestartLimit was edited during the release, in the Rollout or in a \
             policy: the edit counts from the next release; use `kubectl serin override \
             --adopt-analysis` to apply it now",
        );
    }
}

/// Applies the edited analysis of the spec to the current release.
pub(crate) fn adopt(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
) -> CommandOutcome {
    let is_written = |reason: &Message| !reason.trim().is_empty();
    let Some(reason) = command.reason.clone().filter(is_written) else {
        return CommandOutcome::refused("an override needs a reason: it changes what is measured");
    };
    let state = &transition.state;
    let Some(revision) = state
        .current_revision
        .clone()
        .filter(|_| state.is_releasing())
    else {
        return CommandOutcome::refused("no release is under way");
    };
    if let Some(problem) = &cx.observed.spec_problem {
        return CommandOutcome::refused(format!("the spec cannot be used: {problem}"));
    }
    let spec = cx.observed.spec_analysis.as_ref();
    let fixed = state.release_analysis.as_ref();
    if fixed.is_none_or(|fixed| fixed.is_that_of(cx.spec_plan, spec)) {
        return CommandOutcome::done("the release already follows the analysis of the spec");
    }
    let by = command.requester();
    let who = by.map_or_else(|| format!("command {}", command.name), |by| by.to_string());
    transition.warning(
        "AnalysisAdopted",
        format!("{who} applied the edited analysis to revision {revision}: {reason}"),
    );
    // The analysis of the spec is recorded in the same decision.
    transition.state.release_analysis = None;
    CommandOutcome::done(format!(
        "revision {revision} is analyzed by the edited analysis from now on"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_equals_what_the_api_server_returns_for_it() {
        let written =
            AnalysisDocument::from(json!({"objectives": [{"objective": 99.0}, {"a": 0.5}]}));
        let returned =
            AnalysisDocument::from(json!({"objectives": [{"objective": 99}, {"a": 0.5}]}));
        assert_eq!(written, returned);
        let read: AnalysisDocument =
            serde_json::from_str(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(read, written);
    }
}
