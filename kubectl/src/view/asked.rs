//! What is asked beside the evidence: the service's error budget, and the checks.

use serin_crds::status::{BudgetStatus, CheckStatus};

use crate::look::Look;
use crate::page::{Page, Paint};
use crate::paint;

/// Writes how the error budget stands for each objective, and when that was found.
pub fn budgets(page: &mut Page, budgets: &[BudgetStatus], look: &Look) {
    if budgets.is_empty() {
        return;
    }
    page.heading("Error budget");
    for budget in budgets {
        let paint: Paint = match budget.state.as_str() {
            "Healthy" => paint::good,
            "Spent" => paint::bad,
            _ => paint::warn,
        };
        let ago = budget
            .at
            .map(|at| format!(" ({} ago)", look.ago(at)))
            .unwrap_or_default();
        page.line(&format!(
            "  {}  {}{ago}",
            paint::strong(&budget.objective),
            paint(&budget.state)
        ));
        if let Some(message) = &budget.message {
            page.wrapped(("    ", "    ", 4), message, paint::plain);
        }
    }
}

/// Writes what each check has found.
pub fn checks(page: &mut Page, checks: &[CheckStatus], look: &Look) {
    if checks.is_empty() {
        return;
    }
    page.heading("Checks");
    for check in checks {
        let paint: Paint = match check.result.as_str() {
            "Succeeded" => paint::good,
            "Failed" => paint::bad,
            "Pending" => paint::dim,
            _ => paint::warn,
        };
        let ago = check
            .at
            .map(|at| format!(" ({} ago)", look.ago(at)))
            .unwrap_or_default();
        page.line(&format!(
            "  {}  {}{ago}",
            paint::strong(&check.name),
            paint(&check.result)
        ));
        let failures = (check.failures > 0).then(|| {
            format!(
                "Failures: {}, and {} are tolerated.",
                check.failures, check.failure_limit
            )
        });
        let dry_run = check
            .dry_run
            .then(|| "A dry run: it decides nothing.".to_owned());
        let sentences: Vec<String> = check
            .message
            .clone()
            .into_iter()
            .chain(failures)
            .chain(dry_run)
            .collect();
        page.wrapped(("    ", "    ", 4), &sentences.join(" "), paint::plain);
    }
}
