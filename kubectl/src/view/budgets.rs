//! Error budgets and checks, shown next to the evidence.

use serin_crds::status::{BudgetLevel, BudgetStatus, CheckOutcome, CheckStatus};

use crate::display::DisplayContext;
use crate::page::{Page, Style};
use crate::style;

/// Writes the state of the error budget for each objective.
pub fn write_budgets(page: &mut Page, budgets: &[BudgetStatus], display: &DisplayContext) {
    if budgets.is_empty() {
        return;
    }
    page.heading("Error budget");
    for budget in budgets {
        let style: Style = match budget.state {
            BudgetLevel::Healthy => style::success,
            BudgetLevel::Tight => style::warning,
            BudgetLevel::Spent => style::error,
        };
        let ago = budget
            .at
            .map(|at| format!(" ({} ago)", display.elapsed_since(at)))
            .unwrap_or_default();
        page.line(&format!(
            "  {}  {}{ago}",
            style::bold(&budget.objective),
            style(budget.state.as_str())
        ));
        if let Some(message) = &budget.message {
            page.wrapped(("    ", "    ", 4), message, style::plain);
        }
    }
}

/// Writes the result of each check.
pub fn write_checks(page: &mut Page, checks: &[CheckStatus], display: &DisplayContext) {
    if checks.is_empty() {
        return;
    }
    page.heading("Checks");
    for check in checks {
        let style: Style = match check.result {
            CheckOutcome::Pending => style::dimmed,
            CheckOutcome::Succeeded => style::success,
            CheckOutcome::Failed => style::error,
            CheckOutcome::Inconclusive => style::warning,
        };
        let ago = check
            .at
            .map(|at| format!(" ({} ago)", display.elapsed_since(at)))
            .unwrap_or_default();
        page.line(&format!(
            "  {}  {}{ago}",
            style::bold(&check.name),
            style(check.result.as_str())
        ));
        let failures = (check.failures > 0).then(|| {
            format!(
                "Failures: {} (limit {}).",
                check.failures, check.failure_limit
            )
        });
        let dry_run = check
            .dry_run
            .then(|| "Dry run: does not affect the release.".to_owned());
        let sentences: Vec<String> = check
            .message
            .iter()
            .map(ToString::to_string)
            .chain(failures)
            .chain(dry_run)
            .collect();
        page.wrapped(("    ", "    ", 4), &sentences.join(" "), style::plain);
    }
}
