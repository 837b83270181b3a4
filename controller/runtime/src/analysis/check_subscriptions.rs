//! The checks of one release that are queried, requested or run now.

use std::sync::Arc;

use serin_metrics_analysis::checks::{CheckSource, Probe};
use serin_metrics_analysis::prometheus::{
    AnswerContent, PollResult, PollSpec, PollSubscription, next_answer,
};
use serin_metrics_analysis::release_analysis::ReleaseAnalysis;
use serin_metrics_analysis::settings::millis;
use serin_metrics_analysis::{AnalysisRequest, ReleasePhase};

use super::AnalysisDeps;
use crate::probes::{ProbeOwner, ProbeResult, ProbeSubscription};

/// A check that is queried, requested or run.
pub(super) struct CheckSubscription {
    check: usize,
    answers: CheckAnswers,
}

/// Where the results of a check come from.
enum CheckAnswers {
    Poll(PollSubscription),
    Probe(Box<Probe>, ProbeSubscription),
}

/// A result of a check.
pub(super) enum CheckEvent {
    /// Of the query of this check.
    Query(usize, Arc<PollResult>),
    /// Of this request or Job of this check.
    Probe(usize, Box<Probe>, ProbeResult),
}

impl CheckSubscription {
    /// Whether it is still what the check needs.
    fn is_current(&self, release: &ReleaseAnalysis, now_ms: i64) -> bool {
        match &self.answers {
            CheckAnswers::Poll(_) => release.is_check_active(self.check, now_ms),
            CheckAnswers::Probe(probe, _) => {
                release.probe(self.check, now_ms).as_ref() == Some(probe.as_ref())
            }
        }
    }

    /// Waits for the next result.
    pub(super) async fn next(&mut self) -> CheckEvent {
        match &mut self.answers {
            CheckAnswers::Poll(answers) => {
                CheckEvent::Query(self.check, next_answer(answers).await)
            }
            CheckAnswers::Probe(probe, results) => {
                let result = results.next().await;
                CheckEvent::Probe(self.check, probe.clone(), result)
            }
        }
    }
}

impl CheckEvent {
    /// Records the result in the analysis.
    pub(super) fn record(self, release: &mut ReleaseAnalysis, now_ms: i64) {
        match self {
            Self::Query(check, result) => {
                let sent_ms = now_ms.saturating_sub(millis(result.sent_at.elapsed()));
                release.observe_check(check, &result.answers, sent_ms, now_ms);
            }
            Self::Probe(check, probe, result) => {
                let ProbeResult { began_ms, outcome } = result;
                release.observe_probe(check, &probe, &outcome, began_ms, now_ms);
            }
        }
    }
}

/// Starts what the checks need now, and stops the rest.
pub(super) fn update(
    subscriptions: &mut Vec<CheckSubscription>,
    deps: &AnalysisDeps,
    request: &AnalysisRequest,
    release: &ReleaseAnalysis,
    now_ms: i64,
) {
    subscriptions.retain(|subscription| subscription.is_current(release, now_ms));
    for (check, of) in release.checks.all().iter().enumerate() {
        let mut known = subscriptions.iter();
        if known.any(|subscription| subscription.check == check) {
            continue;
        }
        let answers = match (&of.source, release.probe(check, now_ms)) {
            (CheckSource::Query(query), _) if release.is_check_active(check, now_ms) => {
                CheckAnswers::Poll(deps.poller.subscribe(PollSpec {
                    server: release.settings.server.clone(),
                    queries: vec![query.clone()],
                    content: AnswerContent::Values,
                    period: of.interval,
                }))
            }
            (_, Some(probe)) => {
                let owner = ProbeOwner::new(request);
                let results = deps.probes.start(probe.clone(), of.name.clone(), owner);
                CheckAnswers::Probe(Box::new(probe), results)
            }
            _ => continue,
        };
        subscriptions.push(CheckSubscription { check, answers });
    }
}

/// Whether an objective or a check is a query.
pub(super) fn needs_prometheus(request: &AnalysisRequest) -> bool {
    let analysis = &request.analysis;
    let mut checks = analysis.checks.iter();
    !analysis.objectives.is_empty() || checks.any(|check| !check.query.is_empty())
}

/// Whether checks run although the canary has no traffic.
pub(super) fn has_work_without_traffic(request: &AnalysisRequest) -> bool {
    request.phase == ReleasePhase::Preview || !request.awaited_checks.names.is_empty()
}
