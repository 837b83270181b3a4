//! Converts the evidence to status fields.

use serin_analysis::budget::used_fraction;
use serin_analysis::decision::{AnalysisConfig, ObjectiveEvidence};
use serin_analysis::latency::LatencyGuardEvidence;
use serin_analysis::{Counts, explain};
use serin_crds::analysis::GuardAction;
use serin_crds::status::{CountsStatus, EvidenceStatus, LatencyGuardStatus};

/// Maximum e-value in the status. JSON has no infinity, and larger values are not informative.
const MAX_E_VALUE: f64 = 1e15;

fn e_value(ln_e: f64) -> f64 {
    ln_e.exp().min(MAX_E_VALUE)
}

/// The counts of the canary and of stable.
fn counts_of_sides(counts: &Counts) -> [CountsStatus; 2] {
    [
        (counts.canary_requests, counts.canary_errors),
        (counts.stable_requests, counts.stable_errors),
    ]
    .map(|(requests, errors)| CountsStatus { requests, errors })
}

pub(super) fn evidence_status(
    objective: &ObjectiveEvidence,
    config: &AnalysisConfig,
    requests_per_second: f64,
) -> EvidenceStatus {
    let counts = &objective.counts;
    let [canary, stable] = counts_of_sides(counts);
    let mut message = if objective.hold.is_none() && counts.requests() > 0.0 {
        explain::undecided_sentence(objective, requests_per_second)
    } else {
        capitalized(&explain::counts_sentence(objective))
    };
    if let Some(budget) = explain::budget_sentence(objective) {
        message.push(' ');
        message.push_str(&budget);
    }
    EvidenceStatus {
        objective: objective.name.clone(),
        canary,
        stable,
        excess: objective.excess,
        lower: Some(objective.lower),
        upper: Some(objective.upper),
        e_value: Some(e_value(objective.ln_e)),
        threshold: Some(1.0 / config.alpha),
        assumption: Some(
            objective
                .assumption
                .sentence("Evidence rolls back a good release", 1.0 / config.alpha)
                .into(),
        ),
        assumption_broken: objective.assumption.is_broken(),
        budget_allotment: objective.allotment,
        budget_spent: Some(objective.spent),
        note: None,
        latency_guard: objective
            .guard
            .as_ref()
            .map(|guard| guard_status(guard, config)),
        message: Some(message.into()),
    }
}

fn guard_status(guard: &LatencyGuardEvidence, config: &AnalysisConfig) -> LatencyGuardStatus {
    let counts = guard.worst.map(|worst| worst.counts).unwrap_or_default();
    let [canary, stable] = counts_of_sides(&counts);
    LatencyGuardStatus {
        e_value: Some(e_value(guard.ln_e)),
        threshold: Some(1.0 / config.alpha),
        action: if guard.rolls_back {
            GuardAction::RollBack
        } else {
            GuardAction::Hold
        },
        edges: i32::try_from(guard.edges).unwrap_or(i32::MAX),
        edge: guard
            .worst
            .map(|worst| explain::bucket_edge(worst.seconds).into()),
        canary,
        stable,
        message: guard
            .worst
            .as_ref()
            .map(|worst| capitalized(&explain::slower_sentence(worst)).into()),
    }
}

fn capitalized(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

/// `budget 0.7 % · E 3.1/100`: the highest share of an allotment that any objective has used, and
/// the combined evidence.
pub(super) fn summary(evaluation: &serin_analysis::Evaluation, config: &AnalysisConfig) -> String {
    let used = evaluation
        .objectives
        .iter()
        .filter_map(|objective| used_fraction(objective.spent, objective.allotment?));
    let used = used.fold(None, |most: Option<f64>, part| {
        Some(most.map_or(part, |most| most.max(part)))
    });
    let evidence = format!(
        "E {}/{}",
        explain::e_value(evaluation.ln_e),
        explain::thousands((1.0 / config.alpha).round())
    );
    match used {
        Some(part) => format!("budget {} · {evidence}", explain::share(part)),
        None => evidence,
    }
}
