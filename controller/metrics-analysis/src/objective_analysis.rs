//! The analysis of one objective of a release: its queries, its evidence and its errors.

mod availability;
mod plan;
mod poll;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serin_analysis::bake::BakeEvidence;
use serin_analysis::objective::{PodWarmUp, RoundContext};
use serin_analysis::{
    Arm, Objective, ObjectiveConfig, ObjectiveState, PodId, RoundReport, SampleBatch,
};
use serin_crds::analysis::ObjectiveSpec;

use crate::baseline::BaselinePods;
use crate::checkpoint::ObjectiveCheckpoint;
use crate::counter_selectors::{AnalysisError, CounterSelectors};
use crate::endpoints::ObjectiveEndpoints;
use crate::latency_guard::{ObjectiveLatencyGuard, PriorEvidence};
use crate::prometheus::{Answer, Labels};
use crate::sample_reader::{EMPTY_ANSWER, ObjectiveAnswers, SampleReader, source_key};
use crate::scrape_interval::ScrapeInterval;
use crate::server_side_aggregation::ServerSideAggregation;
use crate::service_slo::ServiceSlo;
use crate::settings::{Settings, millis, timing};
use crate::target_deduplicator::TargetDeduplicator;
use availability::native_edges;
use plan::evidence_fingerprint;

pub(crate) use availability::ReadFailure;
pub use plan::ObjectivePlan;
pub use poll::ObjectivePoll;

/// The analysis of one objective.
#[derive(Debug)]
pub struct ObjectiveAnalysis {
    /// The objective as written in the spec.
    pub spec: ObjectiveSpec,
    /// Selectors of the series.
    pub counters: CounterSelectors,
    /// Statistical test of the objective.
    pub objective: Objective,
    /// State of the test.
    pub state: ObjectiveState,
    /// Error budget and burn rate of the service, across all versions.
    pub service: ServiceSlo,
    pub(crate) bake: Option<BakeEvidence>,
    pub(crate) usual_rate: Option<f64>,
    fingerprint: String,
    pub(crate) read_failure: Option<ReadFailure>,
    /// Whether the metrics have been read since the analysis began or was continued.
    pub(crate) is_read: bool,
    /// Bucket bounds of the native histogram, as of the last answer.
    native_edges: Vec<f64>,
    /// Whether the dispersion of errors still has to be estimated.
    pub(crate) needs_dispersion: bool,
    /// Set if Prometheus aggregates the series because they are too many to be read individually.
    aggregation: Option<ServerSideAggregation>,
    pub(crate) guard: Option<ObjectiveLatencyGuard>,
    /// Selects one of several scrapes of the same process.
    targets: TargetDeduplicator,
    /// Why series cannot be assigned to a side, as of the last answer.
    ambiguity: Option<String>,
    scrapes: ScrapeInterval,
    /// Whether the spec sets the scrape interval.
    is_configured: bool,
    /// Names of the pods in the last answer, by their identity in the evidence.
    pub(crate) pod_names: BTreeMap<u64, String>,
    endpoints: Option<ObjectiveEndpoints>,
    /// The stable pods that the canary is compared with.
    pub(crate) baseline: BaselinePods,
}

/// An objective that is added later than this after the start of a release is counted from now on,
/// in milliseconds.
const MID_RELEASE_MS: i64 = 120_000;

fn objective_config(
    settings: &Settings,
    plan: &ObjectivePlan,
    usual_rate: Option<f64>,
    verified: bool,
) -> ObjectiveConfig {
    ObjectiveConfig {
        sources_are_pods: plan.counters.distinguishes_pods(),
        ..settings.objective(&plan.spec, usual_rate, verified)
    }
}

/// Objectives that already have evidence estimate the dispersion from their own samples.
fn can_estimate_dispersion(state: &ObjectiveState) -> bool {
    state.evidence.ticks == 0 && state.evidence.phi().is_none()
}

impl ObjectiveAnalysis {
    pub(crate) fn begin(
        settings: &Settings,
        plan: ObjectivePlan,
        stored: Option<ObjectiveCheckpoint>,
        began_ms: i64,
        now_ms: i64,
    ) -> Result<Self, AnalysisError> {
        let fingerprint = evidence_fingerprint(settings, &plan);
        let mut plan = plan;
        plan.counters.choose_layout(&plan.service.layouts);
        if let Some(stored) = stored.filter(|stored| stored.fingerprint == fingerprint) {
            let config =
                objective_config(settings, &plan, stored.usual_rate, plan.counters.verified);
            match Objective::resume(config, &stored.state) {
                Ok(objective) => return Ok(Self::resume(settings, plan, objective, stored)),
                Err(error) => {
                    tracing::warn!(objective = %plan.spec.name, %error, "discarding the stored evidence");
                }
            }
        }
        let usual_rate = plan.service.usual_rate();
        let verified = plan.counters.verified || plan.service.errors_seen;
        let config = objective_config(settings, &plan, usual_rate, verified);
        // An objective that is added during a release is counted from now on.
        let began_ms = if now_ms.saturating_sub(began_ms) > MID_RELEASE_MS {
            now_ms
        } else {
            began_ms
        };
        let (objective, state) = Objective::begin(config, began_ms).map_err(|error| {
            let name = &plan.spec.name;
            AnalysisError::invalid_spec(format!("spec.analysis.objectives[{name}]: {error}"))
        })?;
        let fresh = ObjectiveCheckpoint {
            fingerprint,
            usual_rate,
            state,
            bake: None,
            is_aggregated: false,
            scrape_interval_ms: None,
            guard: None,
        };
        Ok(Self::from_checkpoint(settings, plan, objective, fresh))
    }

    fn resume(
        settings: &Settings,
        plan: ObjectivePlan,
        objective: Objective,
        stored: ObjectiveCheckpoint,
    ) -> Self {
        let is_aggregated = stored.is_aggregated;
        let mut resumed = Self::from_checkpoint(settings, plan, objective, stored);
        resumed.apply_scrape_interval();
        if is_aggregated {
            resumed.switch_to_server_side_aggregation();
        }
        resumed
    }

    /// Continues from a state, before its scrape interval is applied.
    fn from_checkpoint(
        settings: &Settings,
        plan: ObjectivePlan,
        objective: Objective,
        stored: ObjectiveCheckpoint,
    ) -> Self {
        let ObjectivePlan {
            spec,
            counters,
            service,
        } = plan;
        let ObjectiveCheckpoint {
            fingerprint,
            usual_rate,
            state,
            bake,
            is_aggregated: _,
            scrape_interval_ms,
            guard,
        } = stored;
        let began_ms = state.evidence.began_ms;
        let mut state = state;
        let endpoints = ObjectiveEndpoints::new(&spec, objective.config().counters, &mut state);
        Self {
            guard: ObjectiveLatencyGuard::new(&spec, objective.config(), began_ms, guard),
            needs_dispersion: can_estimate_dispersion(&state),
            bake: bake.filter(|bake| bake.is_compatible(objective.bets())),
            spec,
            counters,
            objective,
            state,
            service,
            usual_rate,
            fingerprint,
            read_failure: None,
            is_read: false,
            native_edges: Vec::new(),
            aggregation: None,
            targets: TargetDeduplicator::default(),
            ambiguity: None,
            scrapes: ScrapeInterval::new(settings.scrape_interval_ms(), scrape_interval_ms),
            is_configured: settings.scrape_interval_is_set,
            pod_names: BTreeMap::new(),
            endpoints,
            baseline: BaselinePods::default(),
        }
    }

    pub(crate) fn checkpoint(&self) -> ObjectiveCheckpoint {
        ObjectiveCheckpoint {
            fingerprint: self.fingerprint.clone(),
            usual_rate: self.usual_rate,
            state: self.state.clone(),
            bake: self.bake.clone(),
            is_aggregated: self.aggregation.is_some(),
            scrape_interval_ms: self.scrapes.stored_ms(),
            guard: self.guard.as_ref().map(|guard| guard.state.clone()),
        }
    }

    /// The server-side aggregation, if it is enabled.
    pub(crate) fn aggregation(&self) -> Option<ServerSideAggregation> {
        self.aggregation
    }

    /// Whether the temper is learned from the differences of stable's pods.
    pub(crate) fn learns_from_pods(&self) -> bool {
        self.needs_dispersion && self.counters.distinguishes_pods()
    }

    /// The context with the ages of the canary's pods by scrape target, as far as the series show
    /// which pod they are of.
    fn with_pod_ages(
        &self,
        context: &RoundContext,
        series: &Answer,
        pods_created_at: &BTreeMap<String, Timestamp>,
    ) -> RoundContext {
        if !self.counters.distinguishes_pods() {
            return context.clone();
        }
        let warm_up = Duration::try_from_secs_f64(self.objective.config().evidence.warm_up_seconds);
        let warm_up_ms = millis(warm_up.unwrap_or_default());
        let age = |labels: &Labels| {
            let pod = self.counters.pod(labels)?;
            let is_canary = self.counters.arm(labels) == Some(Arm::Canary);
            let created_at = pods_created_at.get(pod).filter(|_| is_canary)?;
            let source = PodId::from_name(&source_key(labels, Some(pod)));
            Some((source, created_at.as_millisecond()))
        };
        let started: BTreeMap<PodId, i64> = series
            .iter()
            .filter_map(|series| age(&series.labels))
            .collect();
        let warm_ups = started.into_iter().map(|(pod, started_ms)| PodWarmUp {
            pod,
            started_ms,
            ends_ms: started_ms.saturating_add(warm_up_ms),
        });
        RoundContext {
            canary_pods: warm_ups.collect(),
            ..context.clone()
        }
    }

    /// The learned scrape interval, or the configured one.
    pub(crate) fn scrape_interval_ms(&self) -> i64 {
        self.scrapes.interval_ms()
    }

    /// Updates the learned scrape interval from an answer before its samples become rounds.
    fn learn_scrape_interval<'a>(
        &mut self,
        scrapes: impl Iterator<Item = (&'a str, i64)>,
        now_ms: i64,
    ) {
        if self.scrapes.observe(scrapes, now_ms) {
            self.apply_scrape_interval();
        }
    }

    fn apply_scrape_interval(&mut self) {
        let timing = timing(
            self.scrapes.interval_ms(),
            self.scrapes.staleness_interval_ms(),
        );
        self.objective.set_timing(timing);
        if let Some(guard) = &mut self.guard {
            guard.set_counters(timing.counters);
        }
        if let Some(endpoints) = &mut self.endpoints {
            endpoints.set_counters(timing.counters);
        }
        if self.aggregation.take().is_some() {
            self.switch_to_server_side_aggregation();
        }
    }

    /// Switches to server-side aggregation. Returns false if it is already enabled, so that the
    /// aggregated answer is too large as well.
    pub(crate) fn switch_to_server_side_aggregation(&mut self) -> bool {
        if self.aggregation.is_some() {
            return false;
        }
        let sums = ServerSideAggregation::new(self.objective.config().counters);
        self.objective.allow_for_delay(sums.delay_ms());
        self.aggregation = Some(sums);
        true
    }

    fn record_read(&mut self) {
        self.read_failure = None;
        self.is_read = true;
    }

    /// Evaluates the samples of individual series.
    pub(crate) fn observe(
        &mut self,
        ObjectiveAnswers {
            total,
            bad_or_good: second,
            buckets,
        }: ObjectiveAnswers<'_>,
        creation_times: (&BTreeMap<String, Timestamp>, i64),
        (settled_ms, now_ms): (i64, i64),
        context: &RoundContext,
    ) {
        self.native_edges = native_edges(second);
        self.record_read();
        // Otherwise only some of the series would have a bucket at the threshold, and only their
        // fast requests would count.
        if self.missing_edge().is_some() {
            return;
        }
        let Some([total, second, buckets]) = self.deduplicated([total, second, buckets]) else {
            return;
        };
        let (total, second, buckets): (&Answer, &Answer, &Answer) = (&total, &second, &buckets);
        let (pods_created_at, began_ms) = creation_times;
        let known = self.targets.without_changed_pods(pods_created_at);
        let pods_created_at: &BTreeMap<String, Timestamp> = &known;
        let creation_times = (pods_created_at, began_ms);
        let context = &self.with_pod_ages(context, total, pods_created_at);
        self.record_pod_names(total);
        let baseline = self.baseline.find(&self.counters, total, pods_created_at);
        self.objective.set_baseline(baseline);
        let reading = SampleReader::new(&self.counters, total, second, pods_created_at, began_ms);
        let samples = reading.samples();
        self.learn_scrape_interval(
            samples.iter().map(|sample| (sample.source, sample.at_ms)),
            now_ms,
        );
        let feed = SampleBatch {
            samples: &samples,
            source_created_ms: &reading.source_created_ms,
            settled_ms,
            now_ms,
        };
        let before = self.prior_evidence();
        if let Some(guard) = &mut self.guard {
            let compared =
                [total, buckets].map(|answer| self.baseline.compared(&self.counters, answer));
            guard.observe(
                &self.counters,
                [&compared[0], &compared[1]],
                creation_times,
                (settled_ms, now_ms),
                (before, context),
            );
        }
        if let Some(endpoints) = &mut self.endpoints {
            let compared =
                [total, second].map(|answer| self.baseline.compared(&self.counters, answer));
            endpoints.observe(
                (&self.objective, &mut self.state),
                &self.counters,
                [&compared[0], &compared[1]],
                &feed,
                context,
            );
        }
        let report = self.objective.observe(&mut self.state, &feed, context);
        self.record_round_report(&report);
    }

    /// Evaluates the answers to the aggregation queries.
    pub(crate) fn observe_aggregates(
        &mut self,
        answers: &[Answer],
        pods_created_at: &BTreeMap<String, Timestamp>,
        now_ms: i64,
        context: &RoundContext,
    ) {
        self.record_read();
        if self.missing_edge().is_some() {
            return;
        }
        let (Some(sums), [total, second, scraped, buckets @ ..]) = (self.aggregation, answers)
        else {
            return;
        };
        let all_buckets = buckets.first().unwrap_or(EMPTY_ANSWER);
        let Some([total, second, scraped, all_buckets]) =
            self.deduplicated([total, second, scraped, all_buckets])
        else {
            return;
        };
        let (total, second, scraped): (&Answer, &Answer, &Answer) = (&total, &second, &scraped);
        let context = &self.with_pod_ages(context, total, pods_created_at);
        self.record_pod_names(total);
        let baseline = self.baseline.find(&self.counters, total, pods_created_at);
        self.objective.set_baseline(baseline);
        let before = self.prior_evidence();
        if let (Some(guard), [_]) = (&mut self.guard, buckets) {
            let compared =
                [total, &*all_buckets].map(|answer| self.baseline.compared(&self.counters, answer));
            guard.observe_aggregates(
                &self.counters,
                sums,
                [&compared[0], &compared[1]],
                (before, context),
            );
        }
        let rounds = sums.rounds(&self.counters, [total, second, scraped]);
        let report = self
            .objective
            .observe_rounds(&mut self.state, rounds, context);
        self.record_round_report(&report);
        // Done last, because these answers use the grid of the current interval.
        let times = ServerSideAggregation::scrape_times(&self.counters, scraped);
        self.learn_scrape_interval(
            times
                .iter()
                .map(|(target, at_ms)| (target.as_str(), *at_ms)),
            now_ms,
        );
    }

    /// Removes duplicate series of the same process. `None` if some series cannot be assigned to a
    /// side.
    fn deduplicated<'a, const N: usize>(
        &mut self,
        answers: [&'a Answer; N],
    ) -> Option<[Cow<'a, Answer>; N]> {
        let counted = self.targets.deduplicate(&self.counters, answers);
        self.ambiguity = counted.as_ref().err().cloned();
        counted.ok()
    }

    /// Updates the error budget and burn rate of the service.
    pub(crate) fn set_service(&mut self, service: ServiceSlo) {
        // A selector that matched once stays verified.
        self.state.selector_verified |= service.errors_seen;
        self.counters.choose_layout(&service.layouts);
        self.service = service;
    }

    fn prior_evidence(&self) -> PriorEvidence {
        let k = self.state.evidence.k(&self.objective.config().evidence);
        PriorEvidence {
            round_at_ms: self.state.round_at_ms,
            k,
        }
    }

    fn record_round_report(&mut self, report: &RoundReport) {
        if let Some(bake) = &mut self.bake {
            report
                .ticks
                .iter()
                .for_each(|tick| bake.add(&self.objective.config().evidence, tick));
        }
        if report.future_samples > 0 {
            tracing::debug!(objective = %self.spec.name, samples = report.future_samples, "ignoring samples from the future");
        }
    }

    /// The number of errors that this release may spend, if the budget is known.
    pub(crate) fn allotment(&self, settings: &Settings) -> Option<f64> {
        let budget_fraction = self.objective.config().evidence.budget_fraction;
        self.service
            .budget(budget_fraction)
            .map(|budget| budget.allotment(&settings.allotment_share))
    }
}

#[cfg(test)]
mod tests;
