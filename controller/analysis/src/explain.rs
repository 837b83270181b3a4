//! Explanations for operators: counts first, then the comparison, then the guarantee.
//!
//! No sentence may read like "99 % sure that it is bad". The bound applies to the frequency of
//! rolling back good releases.

use crate::budget::used_fraction;
use crate::claim::Claim;
pub use crate::format::{bucket_edge, duration, e_value, percent, rate, share, thousands};
use crate::format::{significant, two_digits};
use crate::latency::{EdgeEvidence, GUARD_WEIGHT, LatencyGuardEvidence};
use crate::verdict::{
    AnalysisConfig, Evaluation, FreezeReason, HoldReason, NextAction, ObjectiveEvidence,
    RollBackCause, RolloutContext, Verdict,
};

/// "The canary failed 24 of 3,000 requests; stable failed 14 of 27,000 (about 1.6 expected)."
pub fn counts_sentence(evidence: &ObjectiveEvidence) -> String {
    let counts = &evidence.counts;
    let expected = counts
        .expected_canary_errors()
        .map_or_else(String::new, |expected| {
            format!(" (about {} expected)", thousands(expected))
        });
    format!(
        "the canary failed {} of {} requests; stable failed {} of {}{expected}.",
        thousands(counts.canary_errors),
        thousands(counts.canary_requests),
        thousands(counts.stable_errors),
        thousands(counts.stable_requests),
    )
}

/// `POST /checkout has 31 of the 40 canary errors.`: the endpoint with at least half of the canary's
/// errors. `None` without one.
pub fn endpoint_sentence(evidence: &ObjectiveEvidence) -> Option<String> {
    let endpoint = evidence.endpoint.as_ref()?;
    let (errors, all) = (
        endpoint.counts.canary_errors,
        evidence
            .counts
            .canary_errors
            .max(endpoint.counts.canary_errors),
    );
    (errors * 2.0 >= all).then(|| {
        format!(
            "{} has {} of the {} canary errors.",
            endpoint.name,
            thousands(errors),
            thousands(all)
        )
    })
}

/// "This rollout has used 37 of its 5,184 allotted errors (0.7 %)."
pub fn budget_sentence(evidence: &ObjectiveEvidence) -> Option<String> {
    let allotment = evidence.allotment?;
    let used = used_fraction(evidence.spent, allotment)?;
    // Small numbers get one decimal, to match the share in percent.
    let spent = if evidence.spent < 10.0 {
        (evidence.spent * 10.0).round() / 10.0
    } else {
        evidence.spent.round()
    };
    Some(format!(
        "This rollout has used {} of its {} allotted errors ({}).",
        thousands(spent),
        thousands(allotment.floor()),
        share(used)
    ))
}

/// "Undecided: worst case still +1.5x budget burn, limit 0.5x. About 38,000 more requests (6 min at
/// 100 rps)."
pub fn undecided_sentence(evidence: &ObjectiveEvidence, requests_per_second: f64) -> String {
    let burn = |excess: f64| significant((excess / evidence.budget_fraction * 10.0).round() / 10.0);
    let worst = if evidence.upper >= 1.0 {
        "no evidence about the worst case yet".to_owned()
    } else {
        format!(
            "worst case still {}{}x budget burn",
            if evidence.upper >= 0.0 { "+" } else { "" },
            burn(evidence.upper)
        )
    };
    let needed = evidence
        .needed_requests
        .filter(|needed| *needed > 0.0)
        .map_or_else(String::new, |needed| {
            let time = if requests_per_second > 0.0 {
                format!(
                    " ({} at {} rps)",
                    duration(needed / requests_per_second),
                    thousands(requests_per_second.round())
                )
            } else {
                String::new()
            };
            format!(
                " About {} more requests{time}.",
                thousands(two_digits(needed))
            )
        });
    format!(
        "Undecided: {worst}, limit {}x.{needed}",
        burn(evidence.margin)
    )
}

/// Details for experts: `E = 311 (rolls back at 100)`, the bounds and the tolerances.
pub fn details(evidence: &ObjectiveEvidence, alpha: f64) -> String {
    let calibration = match evidence.assumption {
        Claim::Calibrated { temper, .. } => {
            format!("; E has the calibrated temper {}", significant(temper))
        }
        _ => String::new(),
    };
    format!(
        "{}: E = {} (rolls back at {}); excess {} (from {} to {}), promotion below {}; k = \
         {}{calibration}.",
        evidence.name,
        e_value(evidence.ln_e),
        thousands((1.0 / alpha).round()),
        evidence
            .excess
            .map_or_else(|| "unknown".to_owned(), percent),
        percent(evidence.lower),
        percent(evidence.upper),
        percent(evidence.margin),
        significant(evidence.k),
    )
}

/// The explanation of a verdict, most important sentence first.
pub(crate) fn reasons(
    evaluation: &Evaluation,
    config: &AnalysisConfig,
    context: &RolloutContext,
) -> Vec<String> {
    let mut sentences = match evaluation.verdict {
        Verdict::RollBack(cause) => rollback_messages(evaluation, cause, config, context),
        Verdict::Hold(reason) => {
            let holding = format!("Holding at {}.", percent(context.weight));
            match (reason, strongest_guard(evaluation)) {
                (HoldReason::Slower, Some((objective, guard, edge))) => vec![
                    format!("Slower than stable: {}", slower_sentence(edge)),
                    format!(
                        "{} {holding}",
                        objective.assumption.sentence(
                            &format!(
                                "A release that is not slower shows evidence this strong (E = {})",
                                e_value(guard.ln_e)
                            ),
                            1.0 / config.alpha,
                        )
                    ),
                    format!("Reported by the latency guard of {}.", objective.name),
                ],
                _ => vec![hold_message(evaluation, reason, context, &holding)],
            }
        }
        Verdict::StepDown { next, reason } => {
            vec![hold_message(
                evaluation,
                reason,
                context,
                &format!(
                    "Lowering the weight from {} to {}.",
                    percent(context.weight),
                    percent(next)
                ),
            )]
        }
        Verdict::Freeze(reason) => vec![freeze_message(evaluation, reason, context)],
        Verdict::ProceedDespiteFreeze(forward) => {
            let mut sentences = vec![
                "Stable is demonstrably worse: this release is the fix and proceeds despite the \
                 freeze."
                    .to_owned(),
            ];
            sentences.extend(progress_messages(evaluation, forward, config, context));
            sentences
        }
        Verdict::Proceed(forward) => progress_messages(evaluation, forward, config, context),
        Verdict::Inconclusive => {
            let mut sentences = vec![format!(
                "Inconclusive after {}: promote or abort manually.",
                duration(context.elapsed_seconds)
            )];
            sentences.extend(progress_messages(
                evaluation,
                NextAction::Continue,
                config,
                context,
            ));
            sentences
        }
    };
    for evidence in &evaluation.objectives {
        let is_mentioned = matches!(
            evaluation.verdict,
            Verdict::RollBack(RollBackCause::Budget)
                | Verdict::StepDown {
                    reason: HoldReason::BudgetLeft,
                    ..
                }
        );
        if !is_mentioned {
            sentences.extend(budget_sentence(evidence));
        }
        sentences.extend(evidence.traffic_mismatch.map(|share| {
            format!(
                "The canary receives {} of the requests, but its weight is {}.",
                percent(share),
                percent(context.weight)
            )
        }));
    }
    sentences
}

/// "240 of 3,000 canary requests took longer than 300 ms; for stable, 900 of 27,000 did (about 100
/// expected)."
pub fn slower_sentence(EdgeEvidence { seconds, counts }: &EdgeEvidence) -> String {
    let expected = counts
        .expected_canary_errors()
        .map_or_else(String::new, |expected| {
            format!(
                " (about {} expected)",
                thousands((expected * 10.0).round() / 10.0)
            )
        });
    format!(
        "{} of {} canary requests took longer than {}; for stable, {} of {} did{expected}.",
        thousands(counts.canary_errors),
        thousands(counts.canary_requests),
        bucket_edge(*seconds),
        thousands(counts.stable_errors),
        thousands(counts.stable_requests),
    )
}

/// The latency guard with the most evidence.
fn strongest_guard(
    evaluation: &Evaluation,
) -> Option<(&ObjectiveEvidence, &LatencyGuardEvidence, &EdgeEvidence)> {
    let guards = evaluation.objectives.iter().filter_map(|objective| {
        let guard = objective.guard.as_ref()?;
        Some((objective, guard, guard.worst.as_ref()?))
    });
    guards.max_by(|(_, one, _), (_, other, _)| one.ln_e.total_cmp(&other.ln_e))
}

/// The objective with the strongest evidence against the canary.
fn strongest_evidence(evaluation: &Evaluation) -> Option<&ObjectiveEvidence> {
    evaluation
        .objectives
        .iter()
        .max_by(|one, other| one.ln_e.total_cmp(&other.ln_e))
}

/// The objective that is furthest from promotion.
fn furthest_from_promotion(evaluation: &Evaluation) -> Option<&ObjectiveEvidence> {
    evaluation
        .objectives
        .iter()
        .min_by(|one, other| one.ln_m_good.total_cmp(&other.ln_m_good))
}

fn rollback_messages(
    evaluation: &Evaluation,
    cause: RollBackCause,
    config: &AnalysisConfig,
    context: &RolloutContext,
) -> Vec<String> {
    let Some(evidence) = strongest_evidence(evaluation) else {
        return Vec::new();
    };
    // The weight may already be 0 if the canary's pods are gone.
    let at = if context.weight > 0.0 {
        format!(" at {}", percent(context.weight))
    } else {
        String::new()
    };
    // Reports whichever contributes more to the mean.
    let outweighs_objective = |guard: &LatencyGuardEvidence| {
        guard.rolls_back && guard.ln_e + GUARD_WEIGHT.ln() > evidence.ln_e
    };
    let by_guard = strongest_guard(evaluation).filter(|(_, guard, _)| outweighs_objective(guard));
    let counts = by_guard.map_or_else(
        || counts_sentence(evidence),
        |(_, _, edge)| slower_sentence(edge),
    );
    let mut sentences = vec![format!("Rolled back{at}: {counts}")];
    if by_guard.is_none() && evidence.lower > 0.0 {
        sentences.push(format!(
            "The canary adds at least {} points of errors.",
            significant(evidence.lower * 100.0)
        ));
    }
    if by_guard.is_none() {
        sentences.extend(endpoint_sentence(evidence));
    }
    let claim = |what: &str, threshold: f64| evidence.assumption.sentence(what, threshold);
    match cause {
        RollBackCause::Evidence => sentences.push(claim(
            "Evidence this strong rolls back a good release",
            1.0 / config.alpha,
        )),
        RollBackCause::Budget => {
            sentences.extend(evaluation.objectives.iter().filter_map(budget_sentence));
            sentences.push("The allotment is spent.".to_owned());
            sentences.push(claim(
                "A good release shows evidence this strong",
                config.suspect_from_e,
            ));
        }
        RollBackCause::ServiceGuard => {
            sentences.push("The service is burning its error budget too fast.".to_owned());
            sentences.push(claim(
                "A good release shows evidence this strong",
                config.suspect_from_e,
            ));
        }
    }
    sentences
}

fn hold_message(
    evaluation: &Evaluation,
    reason: HoldReason,
    context: &RolloutContext,
    what: &str,
) -> String {
    let objective = evaluation
        .objectives
        .iter()
        .find(|objective| objective.hold.is_some_and(|(holds, _)| holds == reason));
    let name = objective.map_or("", |objective| objective.name.as_str());
    let since_ms = objective
        .and_then(|objective| objective.hold)
        .map_or(context.now_ms, |(_, since_ms)| since_ms);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a span of milliseconds is far below 2^53"
    )]
    let lasted = duration(context.now_ms.saturating_sub(since_ms).max(0) as f64 / 1000.0);
    let problem = match reason {
        HoldReason::Unreachable => format!("The metrics of {name} could not be read for {lasted}."),
        HoldReason::PartialData => format!("The metrics of {name} have been partial for {lasted}."),
        HoldReason::NotANumber => {
            format!("The metrics of {name} contain a value that is not a count.")
        }
        HoldReason::NoData => format!("{name} has had no data for {lasted}."),
        HoldReason::Stale => format!("The last sample of {name} is {lasted} old."),
        HoldReason::NoTraffic => format!("No requests reached the canary for {lasted}."),
        HoldReason::Slower => {
            format!("The latency guard of {name} found the canary slower than stable.")
        }
        HoldReason::NothingToCompare => format!(
            "The latency guard of {name} has found no histogram bucket that canary and stable \
             share for {lasted}: the histograms differ or are missing."
        ),
        HoldReason::BudgetLeft => {
            let spent = evaluation
                .objectives
                .iter()
                .filter_map(budget_sentence)
                .collect::<Vec<_>>()
                .join(" ");
            return format!(
                "{spent} The worst case at this weight exceeds the remaining allotment. {what}"
            );
        }
        HoldReason::UnverifiedSelector => {
            format!(
                "The error selector of {name} has never matched a series of stable. It may be \
                 mistyped."
            )
        }
    };
    format!("{problem} This is not success. {what}")
}

fn freeze_message(
    evaluation: &Evaluation,
    reason: FreezeReason,
    context: &RolloutContext,
) -> String {
    match reason {
        FreezeReason::ServiceGuard => {
            let rate = context.guard.map_or_else(String::new, |guard| {
                format!(
                    " ({}x over {})",
                    significant(guard.long_rate),
                    duration(guard.pair.long_seconds.into())
                )
            });
            // Without evidence against the canary, the sentence claims only that.
            let cause = if evaluation.ln_e < 5_f64.ln() {
                "but canary and stable fail at similar rates. The canary is not the cause. Holding."
            } else {
                "and it is not yet clear whether the canary is the cause. Holding."
            };
            format!("The service is burning its error budget{rate}, {cause}")
        }
        FreezeReason::BudgetSpent => {
            "No error budget remains for a rollout: frozen until the budget recovers or the freeze \
             is overridden."
                .to_owned()
        }
    }
}

fn progress_messages(
    evaluation: &Evaluation,
    forward: NextAction,
    config: &AnalysisConfig,
    context: &RolloutContext,
) -> Vec<String> {
    let Some(evidence) = furthest_from_promotion(evaluation) else {
        return Vec::new();
    };
    match forward {
        NextAction::Promote => vec![
            format!(
                "Promoted at {}: {}",
                percent(context.weight),
                counts_sentence(evidence)
            ),
            format!(
                "The canary adds less than {} points of errors. A release that adds as much is \
                 promoted at most 1 time in {}.",
                significant(evidence.margin * 100.0),
                thousands((1.0 / config.beta).round()),
            ),
        ],
        NextAction::Step { next } => {
            vec![format!(
                "From {} to {}: {}",
                percent(context.weight),
                percent(next),
                counts_sentence(evidence)
            )]
        }
        NextAction::Continue => {
            let proven = evidence.needed_requests == Some(0.0);
            vec![if proven {
                format!(
                    "At {}: {} The evidence suffices, but the weight is not yet the last one or \
                     has not been held long enough.",
                    percent(context.weight),
                    counts_sentence(evidence)
                )
            } else {
                undecided_sentence(evidence, context.requests_per_second)
            }]
        }
    }
}
