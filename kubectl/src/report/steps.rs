//! Steps of the active plan.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::Serialize;
use serin_core::gate::GateCondition;
use serin_core::managed_route::ManagedAction;
use serin_core::plan::{CanaryScale, Plan, Step};
use serin_core::state::State;

use crate::display::human_duration;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Its number, from 1.
    pub number: usize,
    /// What it does, in the terms of the spec.
    pub text: String,
    /// Whether it is done, current or ahead.
    pub state: StepState,
    /// Start time of the current step.
    pub since: Option<Timestamp>,
}

/// State of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StepState {
    /// Complete.
    Done,
    /// In progress.
    Current,
    /// Not started.
    Ahead,
}

/// The steps of the active plan. Empty if no release goes through them now.
pub fn steps(plan: &Plan, state: &State) -> Vec<StepReport> {
    let Some(position) = state.step else {
        return Vec::new();
    };
    let at = position.index;
    let state_of = |index: usize| match index.cmp(&at) {
        Ordering::Less => StepState::Done,
        Ordering::Equal => StepState::Current,
        Ordering::Greater => StepState::Ahead,
    };
    let numbered = plan.steps().iter().enumerate();
    numbered
        .map(|(index, step)| StepReport {
            number: index + 1,
            text: text(step),
            state: state_of(index),
            since: (index == at).then_some(position.started_at),
        })
        .collect()
}

fn text(step: &Step) -> String {
    match step {
        Step::SetWeight(weight) => format!("setWeight {weight}"),
        Step::Pause(None) => "pause until promoted".to_owned(),
        Step::Pause(Some(wait)) => format!("pause {}", human_duration(*wait)),
        Step::SetCanaryScale(CanaryScale::MatchTrafficWeight) => {
            "setCanaryScale to match traffic".to_owned()
        }
        Step::SetCanaryScale(CanaryScale::Replicas(1)) => "setCanaryScale 1 pod".to_owned(),
        Step::SetCanaryScale(CanaryScale::Replicas(pods)) => format!("setCanaryScale {pods} pods"),
        Step::SetCanaryScale(CanaryScale::Weight(share)) => {
            format!("setCanaryScale {share} of replicas")
        }
        Step::SetManagedRoute(route) => {
            let (step, name) = (route.action.step_name(), &route.name);
            match route.action {
                _ if route.is_removal() => format!("{step} {name} (remove)"),
                ManagedAction::ToCanary => format!("{step} {name}"),
                ManagedAction::Mirror { percent } => format!("{step} {name} {percent}%"),
            }
        }
        Step::Analysis(None) => "analysis until the evidence suffices".to_owned(),
        Step::Analysis(Some(wait)) => format!("analysis {}", human_duration(*wait)),
        Step::Gate(gate) => match &gate.waits_for {
            GateCondition::Approval => "gate until approved".to_owned(),
            GateCondition::Object(object) => format!("gate until {object} meets its condition"),
        },
        Step::Require(questions) => {
            let names: Vec<&str> = questions
                .objectives
                .iter()
                .chain(&questions.checks)
                .map(String::as_str)
                .collect();
            format!(
                "analysis until {} pass{}",
                names.join(", "),
                if names.len() == 1 { "es" } else { "" }
            )
        }
    }
}
