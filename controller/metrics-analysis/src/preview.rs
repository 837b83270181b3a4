//! What holds a switch of all of the traffic before it: the state of the service as a whole. The new
//! revision has no requests yet.

use serin_analysis::budget::BudgetState;
use serin_analysis::explain::duration;
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::AnalysisReport;
use serin_crds::analysis::ObjectiveSpec;

use crate::request::{AnalysisRequest, ReleasePhase};
use crate::service_slo::ServiceSlo;
use crate::settings::Settings;

/// The report of a blue/green release before its switch, if the service has no errors to spend.
/// `None` if nothing holds the switch, or if somebody has lifted the freeze.
pub fn report_before_switch<'a>(
    request: &AnalysisRequest,
    settings: &Settings,
    objectives: impl Iterator<Item = (&'a ObjectiveSpec, &'a ServiceSlo)>,
) -> Option<AnalysisReport> {
    let is_before = request.is_blue_green
        && request.weight.is_zero()
        && matches!(request.phase, ReleasePhase::Release | ReleasePhase::Preview);
    if !is_before || request.freeze_lifted {
        return None;
    }
    hold_before_switch(settings, objectives).map(AnalysisReport::held)
}

/// The hold of the first objective whose error budget burns too fast or is spent.
pub(crate) fn hold_before_switch<'a>(
    settings: &Settings,
    mut objectives: impl Iterator<Item = (&'a ObjectiveSpec, &'a ServiceSlo)>,
) -> Option<Hold> {
    objectives.find_map(|(spec, service)| {
        let name = &spec.name;
        let budget_fraction = 1.0 - spec.objective / 100.0;
        if let Some(alert) = service.burning(budget_fraction) {
            let message = format!(
                "{name}: the active revision is burning the error budget ({:.1}x over {}). The \
                 traffic is not switched meanwhile.",
                alert.long_rate,
                duration(alert.pair.long_seconds.into())
            );
            return Some(Hold::new(HoldCode::ServiceBurning, message));
        }
        let budget = service.budget(budget_fraction)?;
        let is_spent = budget.state(&settings.allotment_share) == BudgetState::Spent;
        is_spent.then(|| {
            let message = format!(
                "{name}: no error budget remains for a release. The traffic is not switched until \
                 it recovers or the freeze is overridden."
            );
            Hold::new(HoldCode::BudgetSpent, message)
        })
    })
}
