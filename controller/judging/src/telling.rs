//! From the statistical core's verdict to what the planner, the status and people read.

use jiff::Timestamp;
use serin_analysis::explain;
use serin_analysis::judge::{
    Context, Forward, FreezeReason, HoldReason, JudgeConfig, ObjectiveEvidence, RollBackCause, Verdict, View, judge,
};
use serin_core::observed::Judgement;
use serin_core::units::Weight;
use serin_crds::status::{CountsStatus, EvidenceStatus};

use crate::checkpoint::Decided;
use crate::release::Release;
use crate::request::Look;
use crate::selector::Trouble;

/// The largest e-value that is written down: JSON has no infinity, and beyond this nobody reads the digits.
const HIGHEST_E: f64 = 1e15;

/// What a look says at heart: whoever waits is told when this changes, not at every count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The judgement, one CamelCase word.
    pub judgement: &'static str,
    /// Its cause, one CamelCase word; empty where it has none.
    pub cause: String,
    steps: bool,
}

impl Kind {
    /// What a judgement says at heart.
    pub fn of(judgement: &Judgement) -> Self {
        let (judgement, cause, steps) = match judgement {
            Judgement::NotConfigured => ("NotConfigured", "", false),
            Judgement::Hold { cause, .. } => ("Hold", cause.as_str(), false),
            Judgement::Frozen { cause, .. } => ("Frozen", cause.as_str(), false),
            Judgement::Undecided { next_weight, .. } => ("Undecided", "", next_weight.is_some()),
            Judgement::Sound { .. } => ("Sound", "", false),
            Judgement::RollBack { cause, .. } => ("RollBack", cause.as_str(), false),
        };
        Self { judgement, cause: cause.to_owned(), steps }
    }
}

/// Nothing can be judged, and why.
pub fn held(trouble: Trouble) -> Judgement {
    Judgement::Hold { cause: trouble.cause.to_owned(), message: trouble.message }
}

fn timestamp(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Release {
    /// What the evidence says now.
    pub fn look(&mut self, now_ms: i64) -> Look {
        let config = self.judge_config();
        let told = self.judge(&config, now_ms);
        self.note_freshness(&told, now_ms);
        let mut judgement = self.judgement(&told, now_ms);
        if let Judgement::RollBack { cause, message } = &judgement {
            self.decided.get_or_insert_with(|| Decided { cause: cause.clone(), message: message.clone() });
        }
        // Evidence that has once sufficed stands: the bound is on ever passing the threshold.
        if let Some(Decided { cause, message }) = self.decided.clone() {
            judgement = Judgement::RollBack { cause, message };
        }
        let evidence =
            told.objectives.iter().map(|of| evidence_status(of, &config, self.requests_per_second())).collect();
        let summary = Some(summary(&told, &config));
        Look { judgement, evidence, checkpoint: self.checkpoint().into_status(&self.revision), summary }
    }

    /// Where steps set the pace, the weight at hand is as good as the last one: whether it is time to promote is the steps' to say.
    fn judge_config(&self) -> JudgeConfig {
        let mut config = self.settings.judge;
        if self.by_steps && !self.weight.is_zero() {
            config.steps.max_weight = self.weight.as_percent() / 100.0;
            // How far a step goes is written; what is asked is only whether anything is left to spend.
            config.steps.kappa = f64::INFINITY;
        }
        config
    }

    fn judge(&self, config: &JudgeConfig, now_ms: i64) -> serin_analysis::Judgement {
        let grace_ms = self.grace_ms();
        let views: Vec<View<'_>> = self
            .objectives
            .iter()
            .map(|judged| View {
                objective: &judged.objective,
                state: &judged.state,
                allotment: judged.allotment(&self.settings),
                availability: judged.availability(grace_ms, now_ms),
            })
            .collect();
        let guard = self
            .objectives
            .iter()
            .find_map(|judged| judged.service.burning(judged.objective.config().evidence.budget_fraction));
        #[expect(clippy::cast_precision_loss, reason = "the length of a release is far below 2^53 milliseconds")]
        let elapsed_seconds = now_ms.saturating_sub(self.began_ms) as f64 / 1_000.0;
        let context = Context {
            now_ms,
            weight: self.weight.as_percent() / 100.0,
            weight_changed_at_ms: self.weight_changed_at_ms,
            elapsed_seconds,
            requests_per_second: self.requests_per_second(),
            guard,
            freeze_lifted: self.freeze_lifted,
        };
        judge(config, &views, &context)
    }

    fn requests_per_second(&self) -> f64 {
        self.objectives.iter().map(|judged| judged.service.requests_per_second).fold(0.0, f64::max)
    }

    fn note_freshness(&mut self, told: &serin_analysis::Judgement, now_ms: i64) {
        let is_fresh = told.objectives.iter().all(|of| of.fresh && of.hold.is_none());
        self.fresh_since_ms = is_fresh.then(|| self.fresh_since_ms.unwrap_or(now_ms));
    }

    fn judgement(&self, told: &serin_analysis::Judgement, now_ms: i64) -> Judgement {
        let message = told.because.join(" ");
        let fresh_since = timestamp(self.fresh_since_ms.unwrap_or(now_ms));
        match told.verdict {
            Verdict::RollBack(cause) => Judgement::RollBack { cause: roll_back_cause(cause).to_owned(), message },
            _ if self.weight.is_zero() => {
                let message = "No traffic is routed to the canary, so there is nothing to judge.".to_owned();
                Judgement::Undecided { message, fresh_since, next_weight: None }
            }
            // What the provider itself says is wrong says more than that something is.
            Verdict::Hold(HoldReason::Unreachable | HoldReason::PartialData)
            | Verdict::StepDown { reason: HoldReason::Unreachable | HoldReason::PartialData, .. } => {
                self.trouble(now_ms).map_or(Judgement::Hold { cause: "Unreachable".to_owned(), message }, held)
            }
            // The planner lowers no weight but to roll back, so that is not what is said.
            Verdict::StepDown { reason: HoldReason::BudgetLeft, .. } => {
                let weight = explain::percent(self.weight.as_percent() / 100.0);
                let message = format!(
                    "The worst case at {weight} no longer fits what is left of the allotment. Holding at {weight}."
                );
                Judgement::Hold { cause: hold_cause(HoldReason::BudgetLeft).to_owned(), message }
            }
            Verdict::Hold(reason) | Verdict::StepDown { reason, .. } => {
                Judgement::Hold { cause: hold_cause(reason).to_owned(), message }
            }
            Verdict::Freeze(reason) => Judgement::Frozen { cause: freeze_cause(reason).to_owned(), message },
            Verdict::Forward(Forward::Promote) | Verdict::GoOnCure(Forward::Promote) => {
                Judgement::Sound { message, fresh_since }
            }
            Verdict::Forward(Forward::Step { next }) | Verdict::GoOnCure(Forward::Step { next }) => {
                Judgement::Undecided { message, fresh_since, next_weight: Some(weight(next)) }
            }
            Verdict::Forward(Forward::Continue) | Verdict::GoOnCure(Forward::Continue) | Verdict::Inconclusive => {
                Judgement::Undecided { message, fresh_since, next_weight: None }
            }
        }
    }
}

/// A fraction as a weight: rounded down, since more than the budget bears is never asked for.
fn weight(fraction: f64) -> Weight {
    let thousandths = (fraction.clamp(0.0, 1.0) * 100_000.0).floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100,000, as just clamped")]
    Weight::from_thousandths(thousandths as u32)
}

const fn roll_back_cause(cause: RollBackCause) -> &'static str {
    match cause {
        RollBackCause::Evidence => "Evidence",
        RollBackCause::Budget => "ErrorBudget",
        RollBackCause::ServiceGuard => "ServiceBurning",
    }
}

const fn hold_cause(reason: HoldReason) -> &'static str {
    match reason {
        HoldReason::Unreachable => "Unreachable",
        HoldReason::PartialData => "Partial",
        HoldReason::NotANumber => "NotANumber",
        HoldReason::NoData => "NoData",
        HoldReason::BudgetLeft => "BudgetLeft",
        HoldReason::Stale => "Stale",
        HoldReason::NoTraffic => "NoTraffic",
        HoldReason::UnverifiedSelector => "UnverifiedSelector",
    }
}

const fn freeze_cause(reason: FreezeReason) -> &'static str {
    match reason {
        FreezeReason::ServiceGuard => "ServiceBurning",
        FreezeReason::BudgetSpent => "BudgetSpent",
    }
}

fn e_value(ln_e: f64) -> f64 {
    ln_e.exp().min(HIGHEST_E)
}

fn evidence_status(of: &ObjectiveEvidence, config: &JudgeConfig, requests_per_second: f64) -> EvidenceStatus {
    let counts = &of.counts;
    let mut message = if of.hold.is_none() && counts.requests() > 0.0 {
        explain::undecided_sentence(of, requests_per_second)
    } else {
        capitalised(&explain::counts_sentence(of))
    };
    if let Some(budget) = explain::budget_sentence(of) {
        message.push(' ');
        message.push_str(&budget);
    }
    EvidenceStatus {
        objective: of.name.clone(),
        canary: CountsStatus { requests: counts.canary_requests, errors: counts.canary_errors },
        stable: CountsStatus { requests: counts.stable_requests, errors: counts.stable_errors },
        excess: of.excess,
        lower: Some(of.lower),
        upper: Some(of.upper),
        e_value: Some(e_value(of.ln_e)),
        threshold: Some(1.0 / config.alpha),
        budget_allotment: of.allotment,
        budget_spent: Some(of.spent),
        message: Some(message),
    }
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// `budget 0.7 % · E 3.1/100`, of the objective that has used most of its allotment and of all evidence together.
fn summary(told: &serin_analysis::Judgement, config: &JudgeConfig) -> String {
    let used = told
        .objectives
        .iter()
        .filter_map(|of| of.allotment.filter(|allotment| *allotment > 0.0).map(|allotment| of.spent / allotment));
    let used = used.fold(None, |most: Option<f64>, part| Some(most.map_or(part, |most| most.max(part))));
    let evidence = format!("E {}/{}", explain::e_value(told.ln_e), explain::thousands((1.0 / config.alpha).round()));
    match used {
        Some(part) => format!("budget {} · {evidence}", explain::percent((part * 1_000.0).round() / 1_000.0)),
        None => evidence,
    }
}
