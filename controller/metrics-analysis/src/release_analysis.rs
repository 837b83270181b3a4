//! The analysis of one release, without IO: consumes query results and updates the evidence.

mod dispersion;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serin_analysis::PodId;
use serin_analysis::bake::BakeEvidence;
use serin_analysis::claim::RoutedUnit;
use serin_analysis::objective::{PodWarmUp, RoundContext};
use serin_core::hold::Hold;
use serin_core::units::{Revision, Weight};

use crate::checkpoint::{Checkpoint, RollbackDecision, previous_ended_second};
use crate::checks::{AwaitedChecks, CheckContext, Checks, Probe, ProbeOutcome};
use crate::counter_selectors::AnalysisError;
use crate::objective_analysis::{ObjectiveAnalysis, ObjectivePlan, ObjectivePoll, ReadFailure};
use crate::prometheus::{Answer, QueryError, Server, newest_ms};
use crate::request::{AnalysisRequest, ReleasePhase};
use crate::sample_reader::ObjectiveAnswers;
use crate::service_slo::ServiceSlo;
use crate::settings::{Settings, millis};

/// Time for which an unavailable server is tolerated before it is reported: two scrapes, within
/// these bounds in milliseconds. During this time the existing data is as fresh as it would be
/// anyway.
const GRACE_BOUNDS_MS: (i64, i64) = (2_000, 30_000);

/// The analysis of one release.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about the release"
)]
pub struct ReleaseAnalysis {
    /// Settings of all objectives.
    pub settings: Settings,
    /// Objectives, in the order of the spec.
    pub objectives: Vec<ObjectiveAnalysis>,
    /// Checks, in the order of the spec.
    pub checks: Checks,
    pub(crate) revision: Revision,
    pub(crate) weight: Weight,
    pub(crate) weight_changed_at_ms: i64,
    pub(crate) began_ms: i64,
    /// Time at which canary traffic was first observed, in milliseconds since the epoch.
    traffic_since_ms: i64,
    pub(crate) fresh_since_ms: Option<i64>,
    pub(crate) rollback_decision: Option<RollbackDecision>,
    /// Whether explicit steps set the pace, so that any weight can be the last one before
    /// promotion.
    pub(crate) by_steps: bool,
    /// Whether all of the traffic moves at once, so that the two sides are never compared.
    pub(crate) is_blue_green: bool,
    /// Phase of the release and its start in milliseconds since the epoch.
    pub(crate) phase: (ReleasePhase, i64),
    /// Phase of the last request. The evidence may have advanced the phase since then.
    requested_phase: ReleasePhase,
    /// Weight at which the evidence must be sufficient before the release continues.
    pub(crate) proven_at: Option<Weight>,
    /// Part of stable's requests that the canary is compared with at that weight, from 0 to 1.
    pub(crate) compared_stable: f64,
    /// Whether the freeze was lifted manually.
    pub(crate) freeze_lifted: bool,
    warm_up_ends_ms: i64,
    /// Creation times of pods. Canary pods of an earlier attempt are excluded, because their
    /// earlier requests do not belong to this attempt.
    pods_created_at: BTreeMap<String, Timestamp>,
    /// Node of each pod whose node is known, by the name of the pod.
    pub(crate) pod_nodes: BTreeMap<String, String>,
    /// Creation times of all canary pods, including those of earlier attempts, in milliseconds
    /// since the epoch.
    canary_created_ms: Vec<i64>,
    previous_ended_at: Option<Timestamp>,
    /// The checks that the position waits for.
    awaited_checks: AwaitedChecks,
    /// Whether the canary has had no traffic yet: only checks that a position waits for run.
    awaits_traffic: bool,
    /// Whether the service was burning its budget too fast when the release began, and has done so
    /// ever since. `None` until that could be read.
    pub(crate) burned_before: Option<bool>,
    /// The last reported hold because of missing or unusable metrics, also of an earlier process.
    pub(crate) missing_data: Option<Hold>,
}

/// The settings of a request, with `server` as the Prometheus to query.
///
/// # Errors
/// The invalid field.
pub fn settings_for(request: &AnalysisRequest, server: Server) -> Result<Settings, AnalysisError> {
    Settings::new(&request.analysis, request.pace.as_ref(), server)
}

impl ReleaseAnalysis {
    /// Begins an analysis. Continues the evidence of the checkpoint if its parameters are
    /// unchanged.
    ///
    /// # Errors
    /// The invalid objective or check.
    pub fn begin(
        settings: Settings,
        plans: Vec<ObjectivePlan>,
        request: &AnalysisRequest,
        checkpoint: Option<Checkpoint>,
        now_ms: i64,
    ) -> Result<Self, AnalysisError> {
        let checkpoint =
            checkpoint.unwrap_or_else(|| initial_checkpoint(&settings, request, now_ms));
        let began_ms = checkpoint.began_ms;
        let mut stored = checkpoint.objectives;
        let mut objectives = Vec::with_capacity(plans.len());
        for plan in plans {
            let stored = stored.remove(&plan.spec.name);
            objectives.push(ObjectiveAnalysis::begin(
                &settings, plan, stored, began_ms, now_ms,
            )?);
        }
        let checks = Checks::new(request, checkpoint.checks)?;
        let phase = checkpoint.phase.unwrap_or((request.phase, now_ms));
        let mut release = Self {
            settings,
            checks,
            phase,
            requested_phase: phase.0,
            revision: request.revision.clone(),
            objectives,
            weight: Weight::from_thousandths(checkpoint.weight_thousandths),
            weight_changed_at_ms: checkpoint.weight_changed_at_ms,
            began_ms,
            traffic_since_ms: checkpoint.traffic_since_ms.unwrap_or(began_ms),
            fresh_since_ms: checkpoint.fresh_since_ms,
            rollback_decision: checkpoint.decided,
            by_steps: request.pace.is_none(),
            is_blue_green: request.is_blue_green,
            proven_at: request.evidence_required_at,
            compared_stable: request.compared_stable,
            freeze_lifted: request.freeze_lifted,
            warm_up_ends_ms: checkpoint.warm_up_ends_ms,
            pods_created_at: BTreeMap::new(),
            pod_nodes: BTreeMap::new(),
            canary_created_ms: Vec::new(),
            previous_ended_at: request.previous_ended_at,
            awaited_checks: AwaitedChecks::default(),
            awaits_traffic: checkpoint.awaits_traffic,
            burned_before: checkpoint.burned_before,
            missing_data: checkpoint.missing_data,
        };
        release.apply_request(request, now_ms);
        release.record_initial_burn();
        Ok(release)
    }

    /// Applies the current request of a reconcile.
    pub fn apply_request(&mut self, request: &AnalysisRequest, now_ms: i64) {
        if self.weight != request.weight {
            self.weight = request.weight;
            self.weight_changed_at_ms = now_ms;
        }
        if self.awaits_traffic && !self.weight.is_zero() {
            self.awaits_traffic = false;
            self.traffic_since_ms = now_ms;
        }
        if self.requested_phase != request.phase {
            self.requested_phase = request.phase;
            self.enter_phase(request.phase, now_ms);
        }
        self.awaited_checks.clone_from(&request.awaited_checks);
        self.proven_at = request.evidence_required_at;
        self.compared_stable = request.compared_stable;
        self.freeze_lifted = request.freeze_lifted;
        self.settings.analysis.routed_unit = if request.is_blue_green {
            RoutedUnit::AllTraffic
        } else {
            request.routed_unit
        };
        self.pod_nodes.clone_from(&request.pod_nodes);
        for objective_analysis in &mut self.objectives {
            objective_analysis
                .counters
                .record_pod_sides(&request.pod_sides);
            objective_analysis
                .baseline
                .set_since(request.baseline_since);
        }
        self.canary_created_ms = request.canary_creation_times_ms().collect();
        let is_of_attempt = |pod: &str, created_at: &Timestamp| {
            let is_earlier = |ended_at: Timestamp| created_at.as_second() < ended_at.as_second();
            !(request.is_canary_pod(pod) && request.previous_ended_at.is_some_and(is_earlier))
        };
        let of_attempt = request
            .pods_created_at
            .iter()
            .filter(|(pod, created_at)| is_of_attempt(pod, created_at));
        self.pods_created_at = of_attempt
            .map(|(pod, created_at)| (pod.clone(), *created_at))
            .collect();
    }

    pub(crate) fn enter_phase(&mut self, phase: ReleasePhase, now_ms: i64) {
        self.phase = (phase, now_ms);
        for objective_analysis in &mut self.objectives {
            objective_analysis.bake = (phase == ReleasePhase::Bake)
                .then(|| {
                    let (bets, evidence) = (
                        objective_analysis.objective.bets(),
                        &objective_analysis.state.evidence,
                    );
                    let bake_seconds = self.settings.bake_time.as_secs_f64();
                    if self.is_blue_green {
                        let windows = objective_analysis.service.recorded_windows();
                        return BakeEvidence::start_after_switch(
                            bets,
                            evidence,
                            &windows,
                            now_ms,
                            bake_seconds,
                        );
                    }
                    let usual_rate = objective_analysis
                        .usual_rate
                        .or_else(|| objective_analysis.service.usual_rate());
                    BakeEvidence::start(bets, evidence, usual_rate, now_ms, bake_seconds)
                })
                .flatten();
        }
    }

    /// The state on which the schedule of checks depends.
    pub(crate) fn position(&self, now_ms: i64) -> CheckContext {
        CheckContext {
            phase: self.phase.0,
            phase_since_ms: self.phase.1,
            weight_changed_at_ms: self.weight_changed_at_ms,
            has_traffic: !self.weight.is_zero(),
            traffic_since_ms: self.traffic_since_ms,
            warm_up_ends_ms: self.warm_up_ends_ms,
            pods_are_young: self.pods_are_young(now_ms),
            grace_ms: self.grace_ms(),
            now_ms,
            awaited: self.awaited_checks.clone(),
        }
    }

    /// What a check requests or runs now. `None` for queries, and if nothing is due.
    pub fn probe(&self, check: usize, now_ms: i64) -> Option<Probe> {
        self.checks.probe(check, &self.position(now_ms))
    }

    /// Records what came of a request or a Job of a check that was begun at `began_ms`.
    pub fn observe_probe(
        &mut self,
        check: usize,
        probe: &Probe,
        outcome: &ProbeOutcome,
        began_ms: i64,
        now_ms: i64,
    ) {
        let position = self.position(now_ms);
        self.checks
            .observe_probe(check, probe, outcome, began_ms, &position);
    }

    /// Whether at least half of the canary's pods are in their warm-up, as after a scale-up. The
    /// replacement of one pod among many has no effect.
    fn pods_are_young(&self, now_ms: i64) -> bool {
        let warm_up_ms = millis(self.settings.warm_up);
        let is_young = |created_ms: &&i64| now_ms < created_ms.saturating_add(warm_up_ms);
        let young = self.canary_created_ms.iter().filter(is_young).count();
        young > 0 && young.saturating_mul(2) >= self.canary_created_ms.len()
    }

    /// Start of the next check that waits for its initial delay or the warm-up, in milliseconds
    /// since the epoch.
    pub fn next_check_start_ms(&self, now_ms: i64) -> Option<i64> {
        self.checks.next_start_ms(&self.position(now_ms))
    }

    /// Whether a check is queried now.
    pub fn is_check_active(&self, check: usize, now_ms: i64) -> bool {
        self.checks.is_active(check, &self.position(now_ms))
    }

    /// Records the result of a check whose query was sent at `queried_at_ms`.
    pub fn observe_check(
        &mut self,
        check: usize,
        found: &Result<Vec<Answer>, QueryError>,
        asked_ms: i64,
        now_ms: i64,
    ) {
        let position = self.position(now_ms);
        self.checks.observe(check, found, asked_ms, &position);
    }

    /// Evaluates the samples of an objective's individual series. All samples up to `settled_ms`
    /// are complete, together with those of earlier calls.
    pub fn observe(
        &mut self,
        index: usize,
        samples: ObjectiveAnswers<'_>,
        settled_ms: i64,
        now_ms: i64,
    ) {
        let context = self.round_context();
        let creation_times = (&self.pods_created_at, self.began_ms);
        if let Some(objective_analysis) = self.objectives.get_mut(index) {
            objective_analysis.observe(samples, creation_times, (settled_ms, now_ms), &context);
        }
    }

    /// The periodic queries of an objective.
    pub fn poll(&self, index: usize) -> Option<ObjectivePoll> {
        self.objectives.get(index).map(ObjectiveAnalysis::poll)
    }

    /// Evaluates the results of a poll whose first query was sent at `sent_ms`. Later samples may be
    /// missing, however late the results are evaluated. Results of outdated queries are ignored.
    pub fn observe_poll(
        &mut self,
        index: usize,
        polled: &ObjectivePoll,
        answers: &[Answer],
        (sent_ms, now_ms): (i64, i64),
    ) {
        if self.poll(index).as_ref() != Some(polled) {
            return;
        }
        if polled.is_aggregated {
            self.observe_aggregates(index, answers, now_ms);
        } else if let Some(samples) = ObjectiveAnswers::from_answers(answers) {
            let settled_ms = self.settled_ms(index, samples.total, sent_ms);
            self.observe(index, samples, settled_ms, now_ms);
        }
    }

    pub(crate) fn is_aggregated(&self, index: usize) -> bool {
        self.objectives
            .get(index)
            .is_some_and(|objective_analysis| objective_analysis.aggregation().is_some())
    }

    /// Evaluates the answers to an objective's aggregation queries.
    pub(crate) fn observe_aggregates(&mut self, index: usize, answers: &[Answer], now_ms: i64) {
        let context = self.round_context();
        if let Some(objective_analysis) = self.objectives.get_mut(index) {
            let created_at = &self.pods_created_at;
            objective_analysis.observe_aggregates(answers, created_at, now_ms, &context);
        }
    }

    fn round_context(&self) -> RoundContext {
        RoundContext {
            warm_up_ends_ms: self.warm_up_ends_ms,
            weight_changed_at_ms: self.weight_changed_at_ms,
            canary_pods: self.canary_warm_ups().collect(),
        }
    }

    /// The warm-ups of the canary's pods, for sources that do not distinguish pods.
    fn canary_warm_ups(&self) -> impl Iterator<Item = PodWarmUp> {
        let warm_up_ms = millis(self.settings.warm_up);
        self.canary_created_ms
            .iter()
            .map(move |created_ms| PodWarmUp {
                pod: PodId::default(),
                started_ms: *created_ms,
                ends_ms: created_ms.saturating_add(warm_up_ms),
            })
    }

    /// Switches an objective to server-side aggregation for the rest of the release, because a
    /// result was too large. Returns false if it is already enabled. Previous counts are kept, and
    /// nothing is counted twice.
    pub fn switch_to_server_side_aggregation(&mut self, index: usize) -> bool {
        self.objectives
            .get_mut(index)
            .is_some_and(ObjectiveAnalysis::switch_to_server_side_aggregation)
    }

    /// Time up to which the samples in an answer are complete, according to the newest sample and
    /// the time at which the query was sent.
    pub fn settled_ms(&self, index: usize, total: &Answer, sent_ms: i64) -> i64 {
        let present_ms = newest_ms(total).map_or(sent_ms, |newest_ms| newest_ms.max(sent_ms));
        self.objectives
            .get(index)
            .map_or(present_ms, |objective_analysis| {
                objective_analysis.objective.settled_ms(present_ms)
            })
    }

    /// Records that the metrics of an objective could not be read. `since_ms` is the time of the
    /// first failed request.
    pub fn record_failure(&mut self, index: usize, error: QueryError, since_ms: i64) {
        if let Some(objective_analysis) = self.objectives.get_mut(index) {
            let since_ms = objective_analysis
                .read_failure
                .as_ref()
                .map_or(since_ms, |failing| failing.since_ms);
            objective_analysis.read_failure = Some(ReadFailure { since_ms, error });
        }
    }

    /// Start (exclusive) of the range that the next answer must cover, in milliseconds since the
    /// epoch.
    pub fn read_from_ms(&self, index: usize) -> i64 {
        self.objectives
            .get(index)
            .map_or(
                self.began_ms,
                |objective_analysis| match objective_analysis.aggregation() {
                    Some(_) => objective_analysis.state.round_at_ms,
                    None => objective_analysis.objective.read_from_ms(),
                },
            )
    }

    /// Updates the error budget and burn rate of an objective's service.
    pub fn set_service(&mut self, index: usize, service: ServiceSlo) {
        if let Some(objective_analysis) = self.objectives.get_mut(index) {
            objective_analysis.set_service(service);
        }
        self.record_initial_burn();
    }

    /// Records once, as soon as it is known, whether the service was burning its budget when the
    /// release began.
    pub(crate) fn record_initial_burn(&mut self) {
        if self.burned_before.is_none()
            && self
                .objectives
                .iter()
                .any(|objective_analysis| objective_analysis.service.knows_burning())
        {
            self.burned_before = Some(self.burning().is_some());
        }
    }

    /// The error of the first objective whose metrics have been unreadable for longer than the
    /// tolerated time.
    pub(crate) fn error(&self, now_ms: i64) -> Option<AnalysisError> {
        self.objectives
            .iter()
            .find_map(|objective_analysis| objective_analysis.error(self.grace_ms(), now_ms))
    }

    pub(crate) fn grace_ms(&self) -> i64 {
        self.scrape_interval_ms()
            .saturating_mul(2)
            .clamp(GRACE_BOUNDS_MS.0, GRACE_BOUNDS_MS.1)
    }

    /// The longest scrape interval of all objectives, or the configured one if there are none.
    pub(crate) fn scrape_interval_ms(&self) -> i64 {
        let slowest_ms = self
            .objectives
            .iter()
            .map(ObjectiveAnalysis::scrape_interval_ms)
            .max();
        slowest_ms.unwrap_or_else(|| self.settings.scrape_interval_ms())
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            began_ms: self.began_ms,
            traffic_since_ms: Some(self.traffic_since_ms),
            warm_up_ends_ms: self.warm_up_ends_ms,
            weight_thousandths: self.weight.thousandths(),
            weight_changed_at_ms: self.weight_changed_at_ms,
            fresh_since_ms: self.fresh_since_ms,
            decided: self.rollback_decision.clone(),
            previous_ended_second: Some(previous_ended_second(self.previous_ended_at)),
            burned_before: self.burned_before,
            awaits_traffic: self.awaits_traffic,
            missing_data: self.missing_data.clone(),
            phase: (self.phase.0 != ReleasePhase::Release).then_some(self.phase),
            checks: self.checks.states(),
            objectives: self
                .objectives
                .iter()
                .map(|objective_analysis| {
                    (
                        objective_analysis.spec.name.clone(),
                        objective_analysis.checkpoint(),
                    )
                })
                .collect(),
        }
    }
}

/// The checkpoint of a release that begins to receive traffic.
fn initial_checkpoint(settings: &Settings, request: &AnalysisRequest, now_ms: i64) -> Checkpoint {
    // Slightly earlier, so that requests before the weight was observed are counted. Rounds without
    // canary requests have no effect.
    let began_ms = now_ms.saturating_sub(millis(settings.scrape_interval));
    // Uses the newest pod, because older ones may belong to an earlier attempt.
    let created_ms = request
        .canary_creation_times_ms()
        .max()
        .unwrap_or(began_ms)
        .min(now_ms);
    Checkpoint {
        began_ms,
        traffic_since_ms: Some(now_ms),
        warm_up_ends_ms: created_ms.saturating_add(millis(settings.warm_up)),
        weight_thousandths: request.weight.thousandths(),
        // The tolerance for missing samples starts now, independent of the last scrape.
        weight_changed_at_ms: now_ms,
        fresh_since_ms: None,
        decided: None,
        previous_ended_second: Some(previous_ended_second(request.previous_ended_at)),
        burned_before: None,
        awaits_traffic: request.weight.is_zero() && request.phase == ReleasePhase::Release,
        missing_data: None,
        phase: None,
        checks: BTreeMap::new(),
        objectives: BTreeMap::new(),
    }
}

#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod tests;
