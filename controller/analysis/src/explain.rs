//! What an operator reads: counts first, the comparison second, the guarantee last.
//!
//! Never a sentence that sounds like "99 % sure that it is bad": what is bounded is how often a
//! good release is rolled back.

use crate::latency::{EdgeEvidence, GUARD_SHARE, GuardEvidence};
use crate::verdict::{
    Context, Forward, FreezeReason, HoldReason, JudgeConfig, Judgement, ObjectiveEvidence,
    RollBackCause, Verdict,
};

/// A number with thousands separators; below 100 up to one decimal, where it has one.
pub fn thousands(value: f64) -> String {
    let text = if value.abs() < 100.0 && value.fract().abs() > 1e-9 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    };
    let text = text.strip_suffix(".0").map(str::to_owned).unwrap_or(text);
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |digits| ("-", digits));
    let (whole, fraction) = digits
        .split_once('.')
        .map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut grouped = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(fraction) = fraction {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

/// A fraction in percent, with as many decimals as it needs up to three significant digits.
pub fn percent(fraction: f64) -> String {
    format!("{} %", significant(fraction * 100.0))
}

/// A part of a whole in percent: to a tenth of a percent, and below that with two significant
/// digits, so that little is not told as nothing.
pub fn share(fraction: f64) -> String {
    const LEAST: f64 = 1e-4;
    let percent = fraction * 100.0;
    let size = percent.abs();
    let text = if size == 0.0 || size >= 0.1 {
        significant((percent * 10.0).round() / 10.0)
    } else if size < LEAST {
        return format!("under {LEAST} %");
    } else {
        let decimals = if size < 0.001 {
            5
        } else if size < 0.01 {
            4
        } else {
            3
        };
        format!("{percent:.decimals$}")
            .trim_end_matches('0')
            .to_owned()
    };
    format!("{text} %")
}

/// Up to three significant digits below 100 and all digits above, or five where it is close to 100,
/// as objectives are.
fn significant(value: f64) -> String {
    const NOTHING: f64 = 1e-9;
    let size = value.abs();
    let decimals = if (99.0..100.0).contains(&size) {
        3
    } else if size >= 10.0 {
        1
    } else if !(NOTHING..0.1).contains(&size) {
        2
    } else {
        4
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Requests a second; few of them with the digits that tell them from none.
pub fn rate(requests_per_second: f64) -> String {
    if requests_per_second < 1.0 {
        significant(requests_per_second)
    } else {
        thousands(requests_per_second)
    }
}

/// A duration as people say it: `40 s`, `6 min`, `2.5 h`, `9.2 days`.
pub fn duration(seconds: f64) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 3600.0;
    const DAY: f64 = 86_400.0;
    if seconds < MINUTE {
        format!("{seconds:.0} s")
    } else if seconds < 1.5 * HOUR {
        format!("{:.0} min", seconds / MINUTE)
    } else if seconds < 2.0 * DAY {
        format!("{} h", thousands((seconds / HOUR * 10.0).round() / 10.0))
    } else {
        format!("{} days", thousands((seconds / DAY * 10.0).round() / 10.0))
    }
}

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

/// "This rollout has used 37 of its 5,184 allotted errors (0.7 %)."
pub fn budget_sentence(evidence: &ObjectiveEvidence) -> Option<String> {
    let allotment = evidence.allotment.filter(|allotment| *allotment > 0.0)?;
    // Few are told with a tenth: they are what stands behind a small share.
    let spent = if evidence.spent < 10.0 {
        (evidence.spent * 10.0).round() / 10.0
    } else {
        evidence.spent.round()
    };
    Some(format!(
        "This rollout has used {} of its {} allotted errors ({}).",
        thousands(spent),
        thousands(allotment.floor()),
        share(evidence.spent / allotment)
    ))
}

/// "Undecided: worst case still +1.5x budget burn, limit 0.5x. About 38,000 more requests (6 min at
/// 100 rps)."
pub fn undecided_sentence(evidence: &ObjectiveEvidence, requests_per_second: f64) -> String {
    let burn = |excess: f64| significant((excess / evidence.budget_fraction * 10.0).round() / 10.0);
    let worst = if evidence.upper >= 1.0 {
        "nothing is known yet of the worst case".to_owned()
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

/// `E = 311 (rolls back at 100)`, the bounds and the tolerances: for those who ask.
pub fn details(evidence: &ObjectiveEvidence, alpha: f64) -> String {
    format!(
        "{}: E = {} (rolls back at {}); excess {} (from {} to {}), promotion below {}; k = {}.",
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

/// An e-value for people, from its logarithm; what is beyond a million million is told as a power
/// of ten.
pub fn e_value(ln_e: f64) -> String {
    const HUGE: f64 = 27.6;
    if ln_e > HUGE {
        format!("10^{:.0}", ln_e / std::f64::consts::LN_10)
    } else {
        thousands((ln_e.exp() * 10.0).round() / 10.0)
    }
}

/// Two significant digits: more would claim what an estimate cannot know.
fn two_digits(value: f64) -> f64 {
    if value < 100.0 {
        return value.ceil();
    }
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    (value / unit).round() * unit
}

/// The sentences for a verdict, the most important one first.
pub(crate) fn because(
    judgement: &Judgement,
    config: &JudgeConfig,
    context: &Context,
) -> Vec<String> {
    let mut sentences = match judgement.verdict {
        Verdict::RollBack(cause) => rolled_back(judgement, cause, config, context),
        Verdict::Hold(reason) => {
            let holding = format!("Holding at {}.", percent(context.weight));
            match (reason, slower(judgement)) {
                (HoldReason::Slower, Some((of, guard, edge))) => vec![
                    format!("Slower than stable: {}", slower_sentence(edge)),
                    format!(
                        "A release that is nowhere slower shows evidence like this (E = {}) at most 1 time in {}. {holding}",
                        e_value(guard.ln_e),
                        thousands((1.0 / config.alpha).round()),
                    ),
                    format!("This is the latency guard of {}.", of.name),
                ],
                _ => vec![held(judgement, reason, context, &holding)],
            }
        }
        Verdict::StepDown { next, reason } => {
            vec![held(
                judgement,
                reason,
                context,
                &format!(
                    "Progressing down from {} to {}.",
                    percent(context.weight),
                    percent(next)
                ),
            )]
        }
        Verdict::Freeze(reason) => vec![frozen(judgement, reason, context)],
        Verdict::GoOnCure(forward) => {
            let mut sentences = vec![
                "Stable is demonstrably the worse one: this release is the cure, and goes on."
                    .to_owned(),
            ];
            sentences.extend(went_forward(judgement, forward, config, context));
            sentences
        }
        Verdict::Forward(forward) => went_forward(judgement, forward, config, context),
        Verdict::Inconclusive => {
            let mut sentences = vec![format!(
                "Inconclusive after {}: a person must decide.",
                duration(context.elapsed_seconds)
            )];
            sentences.extend(went_forward(judgement, Forward::Continue, config, context));
            sentences
        }
    };
    for evidence in &judgement.objectives {
        let told = matches!(
            judgement.verdict,
            Verdict::RollBack(RollBackCause::Budget)
                | Verdict::StepDown {
                    reason: HoldReason::BudgetLeft,
                    ..
                }
        );
        if !told {
            sentences.extend(budget_sentence(evidence));
        }
        sentences.extend(evidence.traffic_mismatch.map(|share| {
            format!(
                "The canary gets {} of the requests, not the {} that were set.",
                percent(share),
                percent(context.weight)
            )
        }));
    }
    sentences
}

/// An edge of a histogram as people write it: `300 ms`, `1.2 s`.
pub fn edge(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{} ms", significant((seconds * 1e6).round() / 1e3))
    } else {
        format!("{} s", significant(seconds))
    }
}

/// "240 of 3,000 requests of the canary took longer than 300 ms; of stable's 900 of 27,000 (about
/// 100 expected)."
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
        "{} of {} requests of the canary took longer than {}; of stable's {} of {}{expected}.",
        thousands(counts.canary_errors),
        thousands(counts.canary_requests),
        edge(*seconds),
        thousands(counts.stable_errors),
        thousands(counts.stable_requests),
    )
}

/// The latency guard with the most evidence.
fn slower(judgement: &Judgement) -> Option<(&ObjectiveEvidence, &GuardEvidence, &EdgeEvidence)> {
    let guards = judgement.objectives.iter().filter_map(|of| {
        let guard = of.guard.as_ref()?;
        Some((of, guard, guard.worst.as_ref()?))
    });
    guards.max_by(|(_, one, _), (_, other, _)| one.ln_e.total_cmp(&other.ln_e))
}

/// The objective with the strongest evidence against the canary.
fn worst(judgement: &Judgement) -> Option<&ObjectiveEvidence> {
    judgement
        .objectives
        .iter()
        .max_by(|one, other| one.ln_e.total_cmp(&other.ln_e))
}

/// The objective that is furthest from promotion.
fn slowest(judgement: &Judgement) -> Option<&ObjectiveEvidence> {
    judgement
        .objectives
        .iter()
        .min_by(|one, other| one.ln_m_good.total_cmp(&other.ln_m_good))
}

fn rolled_back(
    judgement: &Judgement,
    cause: RollBackCause,
    config: &JudgeConfig,
    context: &Context,
) -> Vec<String> {
    let Some(evidence) = worst(judgement) else {
        return Vec::new();
    };
    // By then the traffic may have been taken off pods that are gone.
    let at = if context.weight > 0.0 {
        format!(" at {}", percent(context.weight))
    } else {
        String::new()
    };
    // What has the larger part in the mean is what is told.
    let is_more =
        |guard: &GuardEvidence| guard.rolls_back && guard.ln_e + GUARD_SHARE.ln() > evidence.ln_e;
    let by_guard = slower(judgement).filter(|(_, guard, _)| is_more(guard));
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
    let one_in = |threshold: f64| format!("at most 1 time in {}", thousands(threshold.round()));
    match cause {
        RollBackCause::Evidence => {
            sentences.push(format!(
                "Evidence this strong rolls back a good release {}.",
                one_in(1.0 / config.alpha)
            ));
        }
        RollBackCause::Budget => {
            sentences.extend(judgement.objectives.iter().filter_map(budget_sentence));
            sentences.push(format!(
                "The allotment is spent, and a good release shows evidence like this {}.",
                one_in(config.breach_from)
            ));
        }
        RollBackCause::ServiceGuard => {
            sentences.push(format!(
                "The service burns its error budget, and a good release shows evidence like this {}.",
                one_in(config.breach_from)
            ));
        }
    }
    sentences
}

fn held(judgement: &Judgement, reason: HoldReason, context: &Context, what: &str) -> String {
    let of = judgement
        .objectives
        .iter()
        .find(|of| of.hold.is_some_and(|(holds, _)| holds == reason));
    let name = of.map_or("", |of| of.name.as_str());
    let since_ms = of
        .and_then(|of| of.hold)
        .map_or(context.now_ms, |(_, since_ms)| since_ms);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a span of milliseconds is far below 2^53"
    )]
    let lasted = duration(context.now_ms.saturating_sub(since_ms).max(0) as f64 / 1000.0);
    let happened = match reason {
        HoldReason::Unreachable => format!("The metrics of {name} could not be read for {lasted}."),
        HoldReason::PartialData => format!("The metrics of {name} have been partial for {lasted}."),
        HoldReason::NotANumber => format!("The metrics of {name} had a value that is not a count."),
        HoldReason::NoData => format!("{name} has had no data for {lasted}."),
        HoldReason::Stale => format!("The last sample of {name} is {lasted} old."),
        HoldReason::NoTraffic => format!("No requests reached the canary for {lasted}."),
        HoldReason::Slower => {
            format!("The canary is slower than stable by the latency guard of {name}.")
        }
        HoldReason::NothingToCompare => format!(
            "The latency guard of {name} has had no bucket that canary and stable both have for {lasted}: their histograms differ, or are not there."
        ),
        HoldReason::BudgetLeft => {
            let spent = judgement
                .objectives
                .iter()
                .filter_map(budget_sentence)
                .collect::<Vec<_>>()
                .join(" ");
            return format!(
                "{spent} The worst case at this weight no longer fits what is left. {what}"
            );
        }
        HoldReason::UnverifiedSelector => {
            format!(
                "The error selector of {name} has never matched anything of stable: no errors may only mean that it is mistyped."
            )
        }
    };
    format!("{happened} This is not success. {what}")
}

fn frozen(judgement: &Judgement, reason: FreezeReason, context: &Context) -> String {
    match reason {
        FreezeReason::ServiceGuard => {
            let rate = context.guard.map_or_else(String::new, |guard| {
                format!(
                    " ({}x over {})",
                    significant(guard.long_rate),
                    duration(guard.pair.long_seconds.into())
                )
            });
            // What can be said of the canary is what was not found, no more.
            let alike = if judgement.ln_e < 5_f64.ln() {
                "but canary and stable fail alike: not the canary's fault, holding."
            } else {
                "and it is not yet clear whether the canary is to blame: holding."
            };
            format!("The service is burning its error budget{rate}, {alike}")
        }
        FreezeReason::BudgetSpent => {
            "No error budget is left for a rollout: frozen until it recovers or a person lifts it."
                .to_owned()
        }
    }
}

fn went_forward(
    judgement: &Judgement,
    forward: Forward,
    config: &JudgeConfig,
    context: &Context,
) -> Vec<String> {
    let Some(evidence) = slowest(judgement) else {
        return Vec::new();
    };
    match forward {
        Forward::Promote => vec![
            format!(
                "Promoted at {}: {}",
                percent(context.weight),
                counts_sentence(evidence)
            ),
            format!(
                "The canary adds less than {} points of errors. A release that adds as much is promoted at most 1 time in {}.",
                significant(evidence.margin * 100.0),
                thousands((1.0 / config.beta).round()),
            ),
        ],
        Forward::Step { next } => {
            vec![format!(
                "From {} to {}: {}",
                percent(context.weight),
                percent(next),
                counts_sentence(evidence)
            )]
        }
        Forward::Continue => {
            let proven = evidence.needed_requests == Some(0.0);
            vec![if proven {
                format!(
                    "At {}: {} The evidence is enough; the weight is not yet the last one, or has not been held long enough.",
                    percent(context.weight),
                    counts_sentence(evidence)
                )
            } else {
                undecided_sentence(evidence, context.requests_per_second)
            }]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_people_write_them() {
        assert_eq!(thousands(3000.0), "3,000");
        assert_eq!(thousands(27_000.0), "27,000");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(1.5556), "1.6");
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(-1234.0), "-1,234");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(percent(0.1), "10 %");
        assert_eq!(percent(0.999), "99.9 %");
        assert_eq!(percent(0.9995), "99.95 %");
        assert_eq!(percent(0.005), "0.5 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(significant(0.310_363), "0.31");
        let shares = [
            (37.0 / 5184.0, "0.7 %"),
            (0.000_431, "0.043 %"),
            (0.000_999_9, "0.1 %"),
            (0.000_04, "0.004 %"),
        ];
        for (fraction, text) in shares {
            assert_eq!(share(fraction), text);
        }
        assert_eq!(
            [0.0, 1e-9, 1.234, 0.000_001_2].map(share),
            ["0 %", "under 0.0001 %", "123.4 %", "0.00012 %"]
        );
        assert_eq!(
            [0.02, 0.8, 1.0, 120.4, 12_000.0].map(rate),
            ["0.02", "0.8", "1", "120", "12,000"]
        );
        assert_eq!(duration(40.0), "40 s");
        assert_eq!(duration(380.0), "6 min");
        assert_eq!(duration(9000.0), "2.5 h");
        assert_eq!(duration(795_000.0), "9.2 days");
        assert_eq!(e_value(311_f64.ln()), "311");
        assert_eq!(e_value(100.0), "10^43");
        assert_eq!(two_digits(38_412.0), 38_000.0);
    }
}
