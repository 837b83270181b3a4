//! The steps of the plan in force, with the one at hand.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::Serialize;
use serin_core::plan::{CanaryScale, Plan, Step};
use serin_crds::status::RolloutStatus;

use crate::look::duration;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Its number, from 1.
    pub number: usize,
    /// What it does, as the spec writes it.
    pub text: String,
    /// Whether it is behind, at hand or ahead.
    pub state: StepState,
    /// Since when it has been at hand.
    pub since: Option<Timestamp>,
}

/// Whether a step is behind, at hand or ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StepState {
    /// It is complete.
    Done,
    /// It is at hand.
    Current,
    /// It comes later.
    Ahead,
}

/// The steps of the plan in force, with the one at hand; none where no release goes through them
/// now.
pub fn steps(plan: &Plan, status: &RolloutStatus) -> Vec<StepReport> {
    let Some(position) = &status.step else {
        return Vec::new();
    };
    let at = usize::try_from(position.index).unwrap_or(0);
    let state = |index: usize| match index.cmp(&at) {
        Ordering::Less => StepState::Done,
        Ordering::Equal => StepState::Current,
        Ordering::Greater => StepState::Ahead,
    };
    let numbered = plan.steps().iter().enumerate();
    numbered
        .map(|(index, step)| StepReport {
            number: index + 1,
            text: text(step),
            state: state(index),
            since: (index == at).then_some(position.started_at),
        })
        .collect()
}

fn text(step: &Step) -> String {
    match step {
        Step::SetWeight(weight) => format!("setWeight {weight}"),
        Step::Pause(None) => "pause until promoted".to_owned(),
        Step::Pause(Some(wait)) => format!("pause {}", duration(*wait)),
        Step::SetCanaryScale(CanaryScale::MatchTrafficWeight) => {
            "setCanaryScale as the traffic".to_owned()
        }
        Step::SetCanaryScale(CanaryScale::Replicas(1)) => "setCanaryScale 1 pod".to_owned(),
        Step::SetCanaryScale(CanaryScale::Replicas(pods)) => format!("setCanaryScale {pods} pods"),
        Step::SetCanaryScale(CanaryScale::Weight(share)) => {
            format!("setCanaryScale {share} of replicas")
        }
        Step::Analysis(None) => "analysis until the evidence suffices".to_owned(),
        Step::Analysis(Some(wait)) => format!("analysis {}", duration(*wait)),
        Step::Require(questions) => {
            let names: Vec<&str> = questions
                .objectives
                .iter()
                .chain(&questions.checks)
                .map(String::as_str)
                .collect();
            format!(
                "analysis until {} suffice{}",
                names.join(", "),
                if names.len() == 1 { "s" } else { "" }
            )
        }
    }
}
