//! Reports of the analysis.

use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::{AnalysisReport, SatisfiedRequirements};
use serin_core::plan::Requirements;
use serin_core::state::AbortCause;
use serin_core::units::Weight;

use super::World;

/// Fresh data without a verdict.
pub fn undecided(world: &World) -> Option<AnalysisReport> {
    Some(AnalysisReport::undecided("undecided", world.now))
}

/// The metrics hold the release.
pub fn hold(code: HoldCode) -> Option<AnalysisReport> {
    let message = format!("hold: {code}");
    Some(AnalysisReport::held(Hold::new(code, message)))
}

/// The metrics demand a lower weight.
pub fn lower(to: Weight) -> Option<AnalysisReport> {
    let hold = Hold::new(HoldCode::NoTraffic, "no requests");
    Some(AnalysisReport::held(hold.lowering_to(Some(to))))
}

/// The error budget freezes the release.
pub fn frozen(message: &str) -> Option<AnalysisReport> {
    let hold = Hold::new(HoldCode::BudgetSpent, message);
    Some(AnalysisReport::held(hold))
}

/// The evidence rolls the release back.
pub fn roll_back(message: &str) -> Option<AnalysisReport> {
    Some(AnalysisReport::breached(AbortCause::Evidence, message))
}

/// Fresh data that suffices to promote, with the requirements satisfied at a weight.
pub fn sound(world: &World, percent: u32, requirements: Requirements) -> Option<AnalysisReport> {
    let mut report = satisfied(world, percent, requirements)?;
    report.ready_to_promote = true;
    Some(report)
}

/// Fresh data without a verdict, with the requirements satisfied at a weight.
pub fn satisfied(
    world: &World,
    percent: u32,
    requirements: Requirements,
) -> Option<AnalysisReport> {
    let mut report = AnalysisReport::undecided("undecided", world.now);
    report.satisfied = SatisfiedRequirements {
        weight: Weight::percent(percent),
        requirements,
    };
    Some(report)
}

pub fn requirements(objectives: &[&str], checks: &[&str]) -> Requirements {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Requirements {
        objectives: owned(objectives),
        checks: owned(checks),
    }
}
