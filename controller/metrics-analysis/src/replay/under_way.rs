//! A release of the past as it goes on.

use serin_analysis::Counts;
use serin_core::observed::AnalysisReport;
use serin_crds::status::EvidenceStatus;

use super::weights::Observer;
use super::{Course, Ending, GAP_SCRAPES, Moment, Outcome, Replayed, Round};
use crate::judged::Judged;
use crate::release::Release;
use crate::request::{JudgeRequest, Look};
use crate::service::Service;
use crate::telling::Kind;

/// A release under way.
pub(super) struct UnderWay {
    pub(super) release: Release,
    pub(super) request: JudgeRequest,
    pub(super) observer: Observer,
    pub(super) kind: Option<Kind>,
    pub(super) replayed: Replayed,
    pub(super) services: Vec<Service>,
    pub(super) guard_at_ms: i64,
    pub(super) budget_at_ms: i64,
    pub(super) longest_ms: i64,
    /// When either side was last seen to get a request.
    pub(super) canary_at_ms: i64,
    pub(super) stable_at_ms: i64,
}

impl Course {
    pub(super) fn of(judged: &Judged) -> Self {
        let margin = judged.objective.config().evidence.delta1;
        Self {
            name: judged.spec.name.clone(),
            margin,
            rounds: Vec::new(),
        }
    }
}

impl UnderWay {
    /// Where an objective stands: what was counted, and until when.
    pub(super) fn before(&self, index: usize) -> (Counts, i64) {
        let judged = self.release.objectives.get(index);
        judged.map_or_else(Default::default, |judged| {
            (judged.state.evidence.totals, judged.state.round_at_ms)
        })
    }

    /// Notes which sides have had requests since, and what share that makes.
    pub(super) fn note_traffic(&mut self, index: usize, (before, _): (Counts, i64)) {
        let (now, at_ms) = self.before(index);
        let counts = difference(&now, &before);
        if counts.canary_requests > 0.0 {
            self.canary_at_ms = self.canary_at_ms.max(at_ms);
        }
        if counts.stable_requests > 0.0 {
            self.stable_at_ms = self.stable_at_ms.max(at_ms);
        }
        if index == 0
            && counts.requests() > 0.0
            && let Some(weight) = self.observer.observe(at_ms, &counts)
        {
            self.request.weight = weight;
        }
    }

    pub(super) fn note_rounds(&mut self, look: &Look, interval_ms: i64) {
        let judged = self
            .release
            .objectives
            .iter()
            .zip(&mut self.replayed.objectives)
            .zip(&look.evidence);
        for ((judged, Course { rounds, .. }), evidence) in judged {
            let at_ms = judged.state.round_at_ms;
            let last = rounds.last();
            let started_ms = last.map_or(
                self.replayed.began_ms.saturating_sub(interval_ms),
                |round| round.at_ms,
            );
            if at_ms <= started_ms {
                continue;
            }
            let before = last.map_or_else(Counts::default, |round| totals(&round.evidence));
            let counts = difference(&totals(evidence), &before);
            if at_ms.saturating_sub(started_ms) > GAP_SCRAPES.saturating_mul(interval_ms) {
                self.replayed
                    .gaps
                    .push((evidence.objective.clone(), started_ms, at_ms));
            }
            rounds.push(Round {
                at_ms,
                started_ms,
                counts,
                evidence: evidence.clone(),
            });
        }
    }

    pub(super) fn note_moment(&mut self, look: Look, now_ms: i64) {
        if self.replayed.decision.is_some() {
            return;
        }
        let kind = Kind::of(&look);
        let has_changed = self.kind.as_ref() != Some(&kind);
        let outcome = match &look.judgement {
            AnalysisReport::RollBack { .. } => Some(Outcome::RolledBack),
            AnalysisReport::Sound { .. } => Some(Outcome::Proven),
            _ if now_ms.saturating_sub(self.replayed.began_ms) >= self.longest_ms => {
                Some(Outcome::Inconclusive)
            }
            _ => None,
        };
        let moment = Moment {
            at_ms: now_ms,
            weight: self.request.weight,
            judgement: look.judgement,
            evidence: look.evidence,
        };
        if let Some(outcome) = outcome {
            self.replayed.decision = Some((outcome, moment.clone()));
        }
        if has_changed || outcome.is_some() {
            self.replayed.moments.push(moment);
        }
        self.kind = Some(kind);
    }

    pub(super) fn ending(&self, now_ms: i64, quiet_ms: i64) -> Option<Ending> {
        let is_over = |at_ms: i64| now_ms.saturating_sub(at_ms) >= quiet_ms;
        match (is_over(self.canary_at_ms), is_over(self.stable_at_ms)) {
            // Without either there is no data at all, which a release outlives.
            (true, true) | (false, false) => None,
            (true, false) => Some(Ending::CanaryStopped),
            (false, true) => Some(Ending::StableStopped),
        }
    }
}

fn totals(evidence: &EvidenceStatus) -> Counts {
    let EvidenceStatus { canary, stable, .. } = evidence;
    Counts::new(
        canary.requests,
        canary.errors,
        stable.requests,
        stable.errors,
    )
}

fn difference(now: &Counts, before: &Counts) -> Counts {
    Counts::new(
        now.canary_requests - before.canary_requests,
        now.canary_errors - before.canary_errors,
        now.stable_requests - before.stable_requests,
        now.stable_errors - before.stable_errors,
    )
}
