//! Reports the error budget of the service, and whether its traffic is sufficient to analyze a
//! release.

use jiff::Timestamp;
use serin_analysis::budget::BudgetState;
use serin_analysis::explain::{duration, share, thousands};
use serin_analysis::feasibility::FeasibilityInput;
use serin_core::text::Message;
use serin_core::units::Weight;
use serin_crds::analysis::ObjectiveSpec;
use serin_crds::status::{BudgetLevel, BudgetStatus};

use crate::idle_placebo::DatedPlacebo;
use crate::service_slo::ServiceSlo;
use crate::settings::Settings;

/// Assumed error rate of a service without history, as a fraction of its error budget.
const USUAL_PART_OF_BUDGET: f64 = 0.5;

/// What is known of the next or current release, as far as its feasibility depends on it.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseOutlook {
    /// Weight at which the evidence must suffice. `None` if no step waits for it.
    pub proven_at: Option<Weight>,
    /// Part of stable's requests that the canary is compared with, from 0 to 1.
    pub compared_stable: f64,
    /// Placebo releases of the day before. `None` before they are known.
    pub placebo: Option<DatedPlacebo>,
}

/// The error budget of one objective, for the status. `None` until the budget has been read.
pub fn budget_status(
    spec: &ObjectiveSpec,
    service: &ServiceSlo,
    settings: &Settings,
    outlook: &ReleaseOutlook,
    now: Timestamp,
) -> Option<BudgetStatus> {
    let budget = service.budget(1.0 - spec.objective / 100.0)?;
    let allotment = budget.allotment(&settings.allotment_share);
    let state = budget.state(&settings.allotment_share);
    let period = service
        .window_seconds()
        .map_or_else(String::new, |seconds| format!(" in {}", duration(seconds)));
    let total = thousands(budget.total.round());
    let remains = format!(
        "{} of the error budget remain, {} of {total} errors{period}",
        share(budget.remaining / budget.total),
        thousands(budget.remaining.round()),
    );
    let message = match state {
        BudgetState::Healthy => format!(
            "{remains}. A release may spend {}.",
            thousands(allotment.round())
        ),
        BudgetState::Tight => {
            format!(
                "{remains}. A release may spend {}, less than usual.",
                thousands(allotment.round())
            )
        }
        BudgetState::Spent => format!(
            "The error budget is spent: {} errors occurred, {total} are allowed{period}. \
             Releases are frozen until it recovers.",
            thousands((budget.total - budget.remaining).round()),
        ),
    };
    Some(BudgetStatus {
        objective: spec.name.clone(),
        state: match state {
            BudgetState::Healthy => BudgetLevel::Healthy,
            BudgetState::Tight => BudgetLevel::Tight,
            BudgetState::Spent => BudgetLevel::Spent,
        },
        total: budget.total,
        remaining: budget.remaining,
        allotment,
        at: Some(now),
        message: Some(message.into()),
        infeasible: infeasible(spec, service, settings, outlook, allotment).map(Message::from),
        placebo: outlook
            .placebo
            .map(|placebo| placebo.to_status(spec, settings)),
    })
}

/// Explains why a release cannot be analyzed as promised: too little traffic, or errors that would
/// have rolled back stable's own pods. The text names the objective.
fn infeasible(
    spec: &ObjectiveSpec,
    service: &ServiceSlo,
    settings: &Settings,
    outlook: &ReleaseOutlook,
    allotment: f64,
) -> Option<String> {
    let sentences: Vec<String> = traffic_messages(spec, service, settings, outlook, allotment)
        .into_iter()
        .chain(placebo_message(outlook, settings))
        .collect();
    (!sentences.is_empty()).then(|| format!("Objective {}: {}", spec.name, sentences.join(" ")))
}

/// Explains that placebo releases refute the bound on false rollbacks.
fn placebo_message(outlook: &ReleaseOutlook, settings: &Settings) -> Option<String> {
    let placebo = outlook.placebo?.summary;
    if !placebo.refutes_bound {
        return None;
    }
    let one_in = thousands((1.0 / settings.analysis.alpha).round());
    Some(format!(
        "Your own stable pods would have been rolled back in {} of the {} hours before, more often \
         than a bound of 1 in {one_in} allows. Run kubectl serin placebo to see the pods and hours. \
         Then assign requests instead of clients or connections, replace pods that differ, or set \
         calibration.",
        placebo.hours_with_rollback, placebo.hours
    ))
}

/// What is missing to prove a release in time, one sentence each.
fn traffic_messages(
    spec: &ObjectiveSpec,
    service: &ServiceSlo,
    settings: &Settings,
    outlook: &ReleaseOutlook,
    allotment: f64,
) -> Vec<String> {
    let Some(requests_per_second) = service.known_requests_per_second() else {
        return Vec::new();
    };
    let evidence = settings
        .objective(spec, service.usual_rate(), true)
        .evidence;
    let budget_fraction = evidence.budget_fraction;
    let feasibility = |share: f64| FeasibilityInput {
        target: spec.objective / 100.0,
        margin_of_budget: evidence.delta1 / budget_fraction,
        stable_rate: service
            .usual_rate()
            .unwrap_or(USUAL_PART_OF_BUDGET * budget_fraction),
        requests_per_second,
        max_weight: share,
        compared_stable: outlook.compared_stable,
        beta: settings.analysis.beta,
        max_duration_seconds: settings.max_duration.as_secs_f64(),
        // The budget message already reports a spent budget.
        allotment: Some(allotment).filter(|allotment| *allotment > 0.0),
    };
    // With 100 % of the traffic there is no stable side to compare with, however long it takes.
    let tested_share = outlook
        .proven_at
        .filter(|weight| *weight < Weight::FULL)
        .map(|weight| weight.as_percent() / 100.0);
    let too_slow = tested_share.and_then(|share| feasibility(share).slow_message());
    let too_small = feasibility(settings.analysis.steps.max_weight).allotment_message();
    too_slow.into_iter().chain(too_small).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_analysis::placebo::PlaceboSummary;

    use super::*;
    use crate::prometheus::Server;

    fn objective() -> ObjectiveSpec {
        serde_json::from_value(
            json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}),
        )
        .unwrap()
    }

    fn settings() -> Settings {
        let spec = serde_json::from_value(json!({"objectives": []})).unwrap();
        Settings::new(&spec, None, Server::with_url("http://prometheus")).unwrap()
    }

    fn budget_status_at(
        requests_per_second: f64,
        bad: f64,
        proven_at: Option<Weight>,
    ) -> BudgetStatus {
        let service = ServiceSlo::with_month_of_traffic(requests_per_second, bad);
        budget_status(
            &objective(),
            &service,
            &settings(),
            &outlook(proven_at),
            Timestamp::UNIX_EPOCH,
        )
        .unwrap()
    }

    fn outlook(proven_at: Option<Weight>) -> ReleaseOutlook {
        ReleaseOutlook {
            proven_at,
            compared_stable: 1.0,
            placebo: None,
        }
    }

    fn infeasible_with(bad: f64, outlook: &ReleaseOutlook) -> Option<Message> {
        let service = ServiceSlo::with_month_of_traffic(100.0, bad);
        let now = Timestamp::UNIX_EPOCH;
        let status = budget_status(&objective(), &service, &settings(), outlook, now);
        status.unwrap().infeasible
    }

    #[test]
    fn a_comparison_with_few_baseline_pods_needs_more_traffic() {
        let all = outlook(Some(Weight::percent(10)));
        let few = ReleaseOutlook {
            compared_stable: 0.05,
            ..all
        };
        assert_eq!(infeasible_with(129_600.0, &all), None);
        let message = infeasible_with(129_600.0, &few).unwrap();
        assert!(
            message.contains("compared with 5 % of stable's requests")
                && message.contains("more baseline pods"),
            "{message}"
        );
    }

    #[test]
    fn placebo_releases_that_refute_the_bound_are_reported_with_figures_and_a_fix() {
        let with = |hours_with_rollback, refutes_bound| ReleaseOutlook {
            placebo: Some(DatedPlacebo {
                at: Timestamp::UNIX_EPOCH,
                summary: PlaceboSummary {
                    hours: 22,
                    hours_with_rollback,
                    refutes_bound,
                },
            }),
            ..outlook(None)
        };
        assert_eq!(infeasible_with(1_000.0, &with(1, false)), None);
        let message = infeasible_with(1_000.0, &with(7, true)).unwrap();
        assert!(
            message.starts_with(
                "Objective availability: Your own stable pods would have been rolled back in 7 of \
                 the 22 hours before, more often than a bound of 1 in 100 allows."
            ) && message.contains("kubectl serin placebo"),
            "{message}"
        );
    }

    #[test]
    fn a_budget_is_reported_in_counts() {
        let healthy = budget_status_at(100.0, 100_000.0, None);
        assert_eq!(healthy.state, BudgetLevel::Healthy);
        let sentence = "61.4 % of the error budget remain, 159,200 of 259,200 errors in 30 days. A \
            release may spend 5,184.";
        assert_eq!(healthy.message.as_deref(), Some(sentence));
        let tight = budget_status_at(100.0, 259_000.0, None);
        assert_eq!(tight.state, BudgetLevel::Tight);
        let sentence = "0.077 % of the error budget remain, 200 of 259,200 errors in 30 days. A \
            release may spend 40, less than usual.";
        assert_eq!(tight.message.as_deref(), Some(sentence));
        let spent = budget_status_at(100.0, 300_000.0, None);
        assert_eq!((spent.state, spent.allotment), (BudgetLevel::Spent, 0.0));
        assert!(
            spent
                .message
                .unwrap()
                .starts_with("The error budget is spent: 300,000 errors occurred, 259,200")
        );
    }

    #[test]
    fn insufficient_traffic_is_reported_with_alternatives() {
        let at_half = Some(Weight::percent(50));
        assert_eq!(budget_status_at(100.0, 100_000.0, at_half).infeasible, None);
        let slow = budget_status_at(2.0, 2_000.0, at_half).infeasible.unwrap();
        assert!(
            slow.starts_with("Objective availability: At 2 requests/s this objective needs "),
            "{slow}"
        );
        assert!(
            slow.ends_with("; choose 99.5 % or a longer duration."),
            "{slow}"
        );
        assert_eq!(
            budget_status_at(2.0, 2_000.0, None).infeasible,
            None,
            "no step waits for the evidence"
        );
        let few = budget_status_at(0.1, 100.0, None).infeasible.unwrap();
        assert!(
            few.contains("A rollout may spend 5 errors of the budget"),
            "{few}"
        );
    }
}
