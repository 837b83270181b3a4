//! From the statistical core's verdict to what the planner, the status and people read.

use jiff::Timestamp;
use serin_analysis::explain;
use serin_analysis::guard::Burning;
use serin_analysis::judge::{
    Context, Forward, FreezeReason, HoldReason, JudgeConfig, ObjectiveEvidence, RollBackCause,
    Verdict, View, judge,
};
use serin_analysis::latency::GuardEvidence;
use serin_core::observed::{AnalysisReport, SatisfiedRequirements};
use serin_core::plan::Requirements as PlanQuestions;
use serin_core::units::Weight;
use serin_crds::status::{BudgetStatus, CountsStatus, EvidenceStatus, LatencyGuardStatus};

use crate::budget;
use crate::checkpoint::Decided;
use crate::checks::weigh;
use crate::guarded::Guarded;
use crate::judged::Judged;
use crate::release::Release;
use crate::request::{Look, Phase};
use crate::selector::Trouble;

/// The cause of a hold: the traffic at hand is more than is left to spend.
const BUDGET_LEFT: &str = "BudgetLeft";
/// The cause of a hold: the canary is slower than stable somewhere in the distribution.
const LATENCY_GUARD: &str = "LatencyGuard";
/// The causes of holds that no data is missing for.
pub const NO_DATA_IS_MISSING: [&str; 2] = [BUDGET_LEFT, LATENCY_GUARD];

/// The largest e-value that is written down: JSON has no infinity, and beyond this nobody reads the
/// digits.
const HIGHEST_E: f64 = 1e15;

/// What a look says at heart: whoever waits is told when this changes, not at every count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The judgement, one CamelCase word.
    pub judgement: &'static str,
    /// Its cause, one CamelCase word; empty where it has none.
    pub cause: String,
    /// Whether it asks for another weight.
    steps: bool,
    proven: Option<SatisfiedRequirements>,
    /// By objective: the state of the budget, and whether it can be judged with the traffic at
    /// hand.
    budgets: Vec<(String, String, bool)>,
    has_samples_at_weight: bool,
    /// What is out of the ordinary in how each objective is read.
    readings: Vec<Option<String>>,
}

impl Kind {
    /// What a look says at heart.
    pub fn of(look: &Look) -> Self {
        let (judgement, cause, steps, proven) = match &look.judgement {
            AnalysisReport::NotConfigured => ("NotConfigured", "", false, None),
            AnalysisReport::Hold {
                cause, lower_to, ..
            } => ("Hold", cause.as_str(), lower_to.is_some(), None),
            AnalysisReport::Frozen { cause, .. } => ("Frozen", cause.as_str(), false, None),
            AnalysisReport::Undecided {
                next_weight,
                satisfied: proven,
                ..
            } => ("Undecided", "", next_weight.is_some(), Some(proven)),
            AnalysisReport::Sound {
                satisfied: proven, ..
            } => ("Sound", "", false, Some(proven)),
            AnalysisReport::RollBack { cause, .. } => ("RollBack", cause.as_str(), false, None),
        };
        let budget = |of: &BudgetStatus| {
            (
                of.objective.clone(),
                of.state.clone(),
                of.infeasible.is_some(),
            )
        };
        let budgets = look.budgets.iter().map(budget).collect();
        Self {
            judgement,
            cause: cause.to_owned(),
            steps,
            proven: proven.cloned(),
            budgets,
            has_samples_at_weight: look.has_samples_at_weight,
            readings: look
                .evidence
                .iter()
                .map(|evidence| evidence.note.clone())
                .collect(),
        }
    }
}

/// Nothing can be judged, and why.
pub fn held(trouble: Trouble) -> AnalysisReport {
    AnalysisReport::Hold {
        cause: trouble.cause.to_owned(),
        message: trouble.message,
        lower_to: None,
    }
}

fn timestamp(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Release {
    /// What the evidence says now.
    pub fn look(&mut self, now_ms: i64) -> Look {
        let config = self.judge_config();
        self.note_end_of_earlier_burning(now_ms);
        let told = self.judge(&config, now_ms);
        self.note_freshness(&told, now_ms);
        let mut judgement = self.judgement(&told, now_ms);
        // At the pace of evidence its sufficing is what comes before promotion.
        let suffices = matches!(judgement, AnalysisReport::Sound { .. }) && !self.by_steps;
        if suffices && self.phase.0 == Phase::Release && self.checks.ask_before_promotion() {
            self.enter(Phase::BeforePromotion, now_ms);
        }
        let position = self.position(now_ms);
        judgement = weigh(judgement, &self.checks, &position);
        if let AnalysisReport::RollBack { cause, message } = &judgement {
            self.decided.get_or_insert_with(|| Decided {
                cause: cause.clone(),
                message: message.clone(),
            });
        }
        // Evidence that has once sufficed stands: the bound is on ever passing the threshold.
        if let Some(Decided { cause, message }) = self.decided.clone() {
            judgement = AnalysisReport::RollBack { cause, message };
        }
        let evidence = told
            .objectives
            .iter()
            .zip(&self.objectives)
            .map(|(of, judged)| {
                let mut status = evidence_status(of, &config, self.requests_per_second());
                status.note = judged.told_of_reading();
                status
            });
        let evidence = evidence.collect();
        let summary = (!told.objectives.is_empty()).then(|| summary(&told, &config));
        let budgets = self.objectives.iter().filter_map(|judged| {
            budget::told(
                &judged.spec,
                &judged.service,
                &self.settings,
                self.proven_at,
                timestamp(now_ms),
            )
        });
        Look {
            judgement,
            evidence,
            budgets: budgets.collect(),
            checks: self.checks.told(&position),
            has_samples_at_weight: self.has_samples_at_weight(),
            checkpoint: self.checkpoint().into_status(&self.revision),
            summary,
        }
    }

    /// Where steps set the pace, the weight at hand is as good as the last one: whether it is time
    /// to promote is the steps' to say.
    fn judge_config(&self) -> JudgeConfig {
        let mut config = self.settings.judge;
        let promoting = matches!(self.phase.0, Phase::Promoting | Phase::AfterPromotion);
        if promoting {
            // From here there is no way down but all of it.
            config.step_down_after_seconds = f64::INFINITY;
        }
        if (self.by_steps || promoting) && !self.weight.is_zero() {
            config.steps.max_weight = self.weight.as_percent() / 100.0;
            // How far a step goes is written; what is asked is only whether anything is left to
            // spend. Off the traffic nothing more is learnt, so that it goes there no sooner than a
            // suspect release would be rolled back.
            config.steps.kappa = f64::INFINITY;
            config.steps.reserve = 0.0;
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
                guard: judged.guard.as_ref().map(Guarded::view),
            })
            .collect();
        let guard = self.burning();
        #[expect(
            clippy::cast_precision_loss,
            reason = "the length of a release is far below 2^53 milliseconds"
        )]
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
        if self.burned_before != Some(true) {
            return judge(config, &views, &context);
        }
        // What burns since before the release freezes it, and does not lower the evidence that a
        // rollback needs.
        let own = judge(
            config,
            &views,
            &Context {
                guard: None,
                ..context
            },
        );
        if matches!(own.verdict, Verdict::RollBack(_)) {
            return own;
        }
        judge(
            &JudgeConfig {
                breach_from: 1.0 / config.alpha,
                ..*config
            },
            &views,
            &context,
        )
    }

    /// From here on the burning is this release's: the service has been seen without it, or the
    /// window that says that it still goes on holds nothing from before.
    fn note_end_of_earlier_burning(&mut self, now_ms: i64) {
        let elapsed_ms = now_ms.saturating_sub(self.began_ms);
        let is_earlier = |burning: &Burning| {
            elapsed_ms < i64::from(burning.pair.short_seconds).saturating_mul(1_000)
        };
        if self.burned_before == Some(true)
            && self
                .burning()
                .as_ref()
                .is_none_or(|burning| !is_earlier(burning))
        {
            self.burned_before = Some(false);
        }
    }

    /// Whether every objective has samples of the canary at the weight in effect. At 60 s between
    /// scrapes, a step of 10 s would otherwise end on samples of the weight before.
    fn has_samples_at_weight(&self) -> bool {
        let since_ms = self.weight_changed_at_ms;
        self.objectives.iter().all(|judged| {
            judged
                .state
                .canary_requests_at_ms
                .is_some_and(|at_ms| at_ms >= since_ms)
        })
    }

    /// The first objective's pair of windows that burns too fast, if one does.
    pub(crate) fn burning(&self) -> Option<Burning> {
        let of = |judged: &Judged| {
            judged
                .service
                .burning(judged.objective.config().evidence.budget_fraction)
        };
        self.objectives.iter().find_map(of)
    }

    fn requests_per_second(&self) -> f64 {
        self.objectives
            .iter()
            .map(|judged| judged.service.requests_per_second)
            .fold(0.0, f64::max)
    }

    fn note_freshness(&mut self, told: &serin_analysis::Judgement, now_ms: i64) {
        let is_fresh = told
            .objectives
            .iter()
            .all(|of| of.fresh && of.hold.is_none());
        self.fresh_since_ms = is_fresh.then(|| self.fresh_since_ms.unwrap_or(now_ms));
    }

    fn judgement(&self, told: &serin_analysis::Judgement, now_ms: i64) -> AnalysisReport {
        let message = told.because.join(" ");
        let fresh_since_ms = self.fresh_since_ms.filter(|_| self.has_samples_at_weight());
        let fresh_since = timestamp(fresh_since_ms.unwrap_or(now_ms));
        let proven = || self.proven(told);
        if self.phase.0 == Phase::AfterPromotion
            && let Some(breach) = self.breach_in_watch(told)
        {
            return breach;
        }
        match told.verdict {
            Verdict::RollBack(cause) => AnalysisReport::RollBack {
                cause: roll_back_cause(cause).to_owned(),
                message,
            },
            _ if self.weight.is_zero() && self.is_spent(told) => {
                let spent: Vec<_> = told
                    .objectives
                    .iter()
                    .filter_map(explain::budget_sentence)
                    .collect();
                let message = format!(
                    "{} The canary gets no more traffic until a person decides.",
                    spent.join(" ")
                );
                self.hold(HoldReason::BudgetLeft, message, Some(Weight::ZERO), now_ms)
            }
            _ if self.weight.is_zero() => {
                let message =
                    "No traffic is routed to the canary, so there is nothing to judge.".to_owned();
                AnalysisReport::Undecided {
                    message,
                    fresh_since,
                    next_weight: None,
                    satisfied: proven(),
                }
            }
            // Nothing but checks is asked, and they are weighed apart.
            _ if self.objectives.is_empty() => {
                let message = "No objective is to be judged, only checks.".to_owned();
                AnalysisReport::Sound {
                    message,
                    fresh_since,
                    satisfied: proven(),
                }
            }
            Verdict::Hold(reason) => self.hold(reason, message, None, now_ms),
            Verdict::StepDown { next, reason } => {
                self.hold(reason, message, lowered(next, reason), now_ms)
            }
            Verdict::Freeze(reason) => AnalysisReport::Frozen {
                cause: freeze_cause(reason).to_owned(),
                message,
            },
            Verdict::Forward(Forward::Promote) | Verdict::GoOnCure(Forward::Promote) => {
                AnalysisReport::Sound {
                    message,
                    fresh_since,
                    satisfied: proven(),
                }
            }
            Verdict::Forward(Forward::Step { next })
            | Verdict::GoOnCure(Forward::Step { next }) => AnalysisReport::Undecided {
                message,
                fresh_since,
                next_weight: Some(weight(next)),
                satisfied: proven(),
            },
            Verdict::Forward(Forward::Continue)
            | Verdict::GoOnCure(Forward::Continue)
            | Verdict::Inconclusive => AnalysisReport::Undecided {
                message,
                fresh_since,
                next_weight: None,
                satisfied: proven(),
            },
        }
    }
}

impl Release {
    fn hold(
        &self,
        reason: HoldReason,
        message: String,
        lower_to: Option<Weight>,
        now_ms: i64,
    ) -> AnalysisReport {
        let cause = hold_cause(reason).to_owned();
        match reason {
            // What the provider itself says is wrong says more than that something is.
            HoldReason::Unreachable | HoldReason::PartialData => match self.trouble(now_ms) {
                Some(Trouble { cause, message }) => AnalysisReport::Hold {
                    cause: cause.to_owned(),
                    message,
                    lower_to,
                },
                None => AnalysisReport::Hold {
                    cause,
                    message,
                    lower_to,
                },
            },
            _ => AnalysisReport::Hold {
                cause,
                message,
                lower_to,
            },
        }
    }

    /// What suffices by itself at the weight at hand.
    fn proven(&self, told: &serin_analysis::Judgement) -> SatisfiedRequirements {
        let suffices = |of: &&ObjectiveEvidence| {
            of.fresh && of.hold.is_none() && of.ln_m_good >= -self.settings.judge.beta.ln()
        };
        let objectives = told
            .objectives
            .iter()
            .filter(suffices)
            .map(|of| of.name.clone())
            .collect();
        SatisfiedRequirements {
            weight: self.weight,
            requirements: PlanQuestions {
                objectives,
                ..PlanQuestions::default()
            },
        }
    }

    /// Whether nothing is left of what this release may spend, so that traffic which was taken from
    /// it must not come back.
    fn is_spent(&self, told: &serin_analysis::Judgement) -> bool {
        let steps = self.settings.judge.steps;
        // Led by steps it is taken off once all is spent, led by evidence a little sooner.
        let left = |allotment: f64, spent: f64| {
            if self.by_steps {
                allotment - spent
            } else {
                steps.budget_left(allotment, spent)
            }
        };
        told.objectives.iter().any(|of| {
            of.allotment
                .is_some_and(|allotment| allotment > 0.0 && left(allotment, of.spent) <= 0.0)
        })
    }
}

/// Less than this, as a fraction of the traffic, is no step down from no data: it would only hide
/// that there is none.
const LEAST_STEP_DOWN: f64 = 0.001;

/// The weight to go down to.
fn lowered(next: f64, reason: HoldReason) -> Option<Weight> {
    (reason == HoldReason::BudgetLeft || next >= LEAST_STEP_DOWN).then(|| weight(next))
}

/// A fraction as a weight: rounded down, since more than the budget bears is never asked for.
fn weight(fraction: f64) -> Weight {
    let thousandths = (fraction.clamp(0.0, 1.0) * 100_000.0).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 100,000, as just clamped"
    )]
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
        HoldReason::BudgetLeft => BUDGET_LEFT,
        HoldReason::Stale => "Stale",
        HoldReason::NoTraffic => "NoTraffic",
        HoldReason::UnverifiedSelector => "UnverifiedSelector",
        HoldReason::Slower => LATENCY_GUARD,
        HoldReason::NothingToCompare => "NoCommonBuckets",
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

fn evidence_status(
    of: &ObjectiveEvidence,
    config: &JudgeConfig,
    requests_per_second: f64,
) -> EvidenceStatus {
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
        canary: CountsStatus {
            requests: counts.canary_requests,
            errors: counts.canary_errors,
        },
        stable: CountsStatus {
            requests: counts.stable_requests,
            errors: counts.stable_errors,
        },
        excess: of.excess,
        lower: Some(of.lower),
        upper: Some(of.upper),
        e_value: Some(e_value(of.ln_e)),
        threshold: Some(1.0 / config.alpha),
        budget_allotment: of.allotment,
        budget_spent: Some(of.spent),
        note: None,
        latency_guard: of.guard.as_ref().map(|guard| guard_status(guard, config)),
        message: Some(message),
    }
}

fn guard_status(guard: &GuardEvidence, config: &JudgeConfig) -> LatencyGuardStatus {
    let counts = guard.worst.map(|worst| worst.counts).unwrap_or_default();
    LatencyGuardStatus {
        e_value: Some(e_value(guard.ln_e)),
        threshold: Some(1.0 / config.alpha),
        action: if guard.rolls_back { "RollBack" } else { "Hold" }.to_owned(),
        edges: i32::try_from(guard.edges).unwrap_or(i32::MAX),
        edge: guard.worst.map(|worst| explain::edge(worst.seconds)),
        canary: CountsStatus {
            requests: counts.canary_requests,
            errors: counts.canary_errors,
        },
        stable: CountsStatus {
            requests: counts.stable_requests,
            errors: counts.stable_errors,
        },
        message: guard
            .worst
            .as_ref()
            .map(|worst| capitalised(&explain::slower_sentence(worst))),
    }
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

/// `budget 0.7 % · E 3.1/100`, of the objective that has used most of its allotment and of all
/// evidence together.
fn summary(told: &serin_analysis::Judgement, config: &JudgeConfig) -> String {
    let used = told.objectives.iter().filter_map(|of| {
        of.allotment
            .filter(|allotment| *allotment > 0.0)
            .map(|allotment| of.spent / allotment)
    });
    let used = used.fold(None, |most: Option<f64>, part| {
        Some(most.map_or(part, |most| most.max(part)))
    });
    let evidence = format!(
        "E {}/{}",
        explain::e_value(told.ln_e),
        explain::thousands((1.0 / config.alpha).round())
    );
    match used {
        Some(part) => format!("budget {} · {evidence}", explain::share(part)),
        None => evidence,
    }
}
