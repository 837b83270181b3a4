//! Reads the data slice by slice and simulates the polls of the controller.

use serin_core::observed::ReportKind;
use std::collections::BTreeMap;

use serin_core::units::Weight;

use super::pod_creation_times::{POD_CREATED, PodCreationTimes};
use super::release_replay::ReleaseReplay;
use super::sample_buffer::SampleBuffer;
use super::weight_source::{WeightEstimator, WeightSource};
use super::{
    LOOK_BACK_MS, MAX_GAP_SCRAPES, ObjectiveRecord, ReplayEnd, ReplayError, ReplayRequest,
    ReplayedRelease, ReportChange,
};
use crate::backfill;
use crate::counter_selectors::AnalysisError;
use crate::objective_analysis::ObjectivePlan;
use crate::prometheus::{Answer, Poller, Server};
use crate::release_analysis::{ReleaseAnalysis, settings_for};
use crate::request::AnalysisRequest;
use crate::sample_reader::{ObjectiveAnswers, SampleReader};
use crate::scrape_interval::ScrapeInterval;
use crate::service_slo::{self, ServiceSlo, SloQueries};
use crate::settings::{millis, slo_window};

/// Minimum time between queries about the service, as in the controller, and maximum number of
/// these queries per replay.
const GUARD_MS: i64 = 15_000;
const BUDGET_MS: i64 = 60_000;
const MAX_GUARD_QUERIES: i64 = 240;
const MAX_BUDGET_QUERIES: i64 = 60;

pub(super) struct Replayer<'a> {
    poller: &'a Poller,
    parameters: &'a ReplayRequest,
    server: Server,
    configured_ms: i64,
    /// Longest scrape interval of all objectives, as learned from the data.
    interval_ms: i64,
    scrapes: Vec<ScrapeInterval>,
    poll_ms: i64,
    quiet_ms: i64,
    plans: Vec<ObjectivePlan>,
    queries: Vec<SloQueries>,
    buffers: Vec<SampleBuffer>,
    pod_creation_times: PodCreationTimes,
    clock_ms: i64,
    /// Time of the last request to the canary in completed releases, in milliseconds since the
    /// epoch.
    canary_at_ms: Option<i64>,
    current: Option<ReleaseReplay>,
    done: Vec<ReplayedRelease>,
}

impl<'a> Replayer<'a> {
    pub(super) fn new(
        poller: &'a Poller,
        parameters: &'a ReplayRequest,
    ) -> Result<Self, ReplayError> {
        let settings = settings_for(&parameters.request, parameters.server.clone())?;
        let plans = ObjectivePlan::from_request(&parameters.request)?;
        let slo_queries =
            |plan: &ObjectivePlan| Ok(SloQueries::new(&plan.counters, slo_window(&plan.spec)?));
        let queries = plans
            .iter()
            .map(slo_queries)
            .collect::<Result<Vec<_>, AnalysisError>>()?;
        let interval_ms = settings.scrape_interval_ms();
        Ok(Self {
            poller,
            parameters,
            server: settings.server.clone(),
            configured_ms: interval_ms,
            interval_ms,
            scrapes: vec![ScrapeInterval::new(interval_ms, None); plans.len()],
            quiet_ms: parameters
                .quiet_ms
                .max(interval_ms.saturating_mul(MAX_GAP_SCRAPES)),
            poll_ms: millis(settings.poll_period()).max(1),
            buffers: vec![SampleBuffer::default(); plans.len()],
            pod_creation_times: PodCreationTimes::new(&parameters.request),
            plans,
            queries,
            clock_ms: parameters.from_ms,
            canary_at_ms: None,
            current: None,
            done: Vec::new(),
        })
    }

    pub(super) async fn read(&mut self, from_ms: i64, to_ms: i64) -> Result<(), ReplayError> {
        let mut all_answers = Vec::with_capacity(self.plans.len());
        for ObjectivePlan { spec, counters, .. } in &self.plans {
            let answers =
                backfill::read_samples(self.poller, &self.server, counters, from_ms, to_ms).await;
            let slice = answers.map_err(|error| ReplayError::Query {
                name: spec.name.clone(),
                error,
            })?;
            all_answers.push(slice.answers);
        }
        let read = self
            .pod_creation_times
            .read(self.poller, &self.server, (from_ms, to_ms))
            .await;
        read.map_err(|error| ReplayError::Query {
            name: POD_CREATED.to_owned(),
            error,
        })?;
        self.learn_scrape_interval(&all_answers, to_ms);
        for ((buffer, plan), answers) in self.buffers.iter_mut().zip(&self.plans).zip(all_answers) {
            buffer.forget_before(self.clock_ms.saturating_sub(2 * LOOK_BACK_MS));
            buffer.append(&plan.counters, answers, self.interval_ms);
        }
        Ok(())
    }

    fn learn_scrape_interval(&mut self, read: &[Vec<Answer>], now_ms: i64) {
        for ((scrapes, plan), answers) in self.scrapes.iter_mut().zip(&self.plans).zip(read) {
            let Some(samples) = ObjectiveAnswers::from_answers(answers) else {
                continue;
            };
            let none = BTreeMap::new();
            let reading = SampleReader::new(
                &plan.counters,
                samples.total,
                samples.bad_or_good,
                &none,
                i64::MIN,
            );
            let samples = reading.samples();
            scrapes.observe(
                samples.iter().map(|sample| (sample.source, sample.at_ms)),
                now_ms,
            );
        }
        let slowest_ms = self.scrapes.iter().map(ScrapeInterval::interval_ms).max();
        self.interval_ms = slowest_ms.unwrap_or(self.configured_ms);
        self.quiet_ms = self
            .parameters
            .quiet_ms
            .max(self.interval_ms.saturating_mul(MAX_GAP_SCRAPES));
    }

    /// Replays the data up to `until_ms`.
    pub(super) async fn play(&mut self, until_ms: i64) -> Result<(), ReplayError> {
        loop {
            if self.current.is_none() {
                let Some(first_ms) = self.next_traffic(until_ms) else {
                    self.clock_ms = until_ms;
                    return Ok(());
                };
                self.clock_ms = first_ms;
                self.begin().await?;
            } else if self.clock_ms.saturating_add(self.poll_ms) <= until_ms {
                self.clock_ms += self.poll_ms;
                self.refresh_services().await;
            } else {
                return Ok(());
            }
            self.poll();
        }
    }

    fn next_traffic(&mut self, until_ms: i64) -> Option<i64> {
        if let Some(began_ms) = self.parameters.began_ms.filter(|_| self.done.is_empty()) {
            // An analysis begins one scrape before its first traffic.
            let first_ms = began_ms.saturating_add(self.configured_ms);
            return (first_ms <= until_ms).then_some(first_ms);
        }
        loop {
            let after_ms = self
                .canary_at_ms
                .map_or(self.clock_ms, |at_ms| at_ms.max(self.clock_ms));
            let buffers = self.buffers.iter().zip(&self.plans);
            let first_ms = buffers
                .filter_map(|(buffer, plan)| {
                    buffer.first_canary_request(&plan.counters, after_ms, until_ms)
                })
                .min()?;
            // After a promotion the canary continues to receive requests. This is not a new
            // release.
            let was_quiet = self
                .canary_at_ms
                .is_none_or(|at_ms| first_ms.saturating_sub(at_ms) >= self.quiet_ms);
            self.canary_at_ms = Some(first_ms);
            if was_quiet {
                return Some(first_ms);
            }
        }
    }

    async fn begin(&mut self) -> Result<(), ReplayError> {
        let now_ms = self.clock_ms;
        let settings = settings_for(&self.parameters.request, self.server.clone())?;
        let longest_ms = millis(settings.max_duration);
        let mut services = Vec::with_capacity(self.plans.len());
        for queries in &self.queries {
            services.push(
                self.service_at(queries, &ServiceSlo::default(), false)
                    .await,
            );
        }
        let mut plans = self.plans.clone();
        for (plan, service) in plans.iter_mut().zip(&services) {
            plan.service = service.clone();
        }
        let weight = self.first_weight();
        let buffers: Vec<_> = self
            .buffers
            .iter()
            .zip(self.plans.iter().map(|plan| &plan.counters))
            .collect();
        let present = self
            .pod_creation_times
            .present_at(
                self.poller,
                &self.server,
                &buffers,
                (now_ms, self.interval_ms),
            )
            .await;
        let pods_created_at = present.map_err(|error| ReplayError::Query {
            name: POD_CREATED.to_owned(),
            error,
        })?;
        let has_baseline = self.parameters.request.analysis.baseline.is_some();
        let start = (now_ms, self.interval_ms);
        let baseline_since = has_baseline
            .then(|| PodCreationTimes::baseline_start(&buffers, &pods_created_at, start))
            .flatten();
        let request = AnalysisRequest {
            pods_created_at,
            baseline_since,
            weight,
            ..self.parameters.request.clone()
        };
        let mut release = ReleaseAnalysis::begin(settings, plans, &request, None, now_ms)?;
        for index in 0..release.objectives.len() {
            let estimated = backfill::estimate_dispersion(self.poller, &mut release, index).await;
            let objective_name = |release: &ReleaseAnalysis| {
                release
                    .objectives
                    .get(index)
                    .map(|objective_analysis| objective_analysis.spec.name.clone())
            };
            estimated.map_err(|error| ReplayError::Query {
                name: objective_name(&release).unwrap_or_default(),
                error,
            })?;
        }
        let replayed = ReplayedRelease {
            began_ms: now_ms,
            ended_ms: now_ms,
            ending: ReplayEnd::Record,
            changes: Vec::new(),
            decision: None,
            objectives: release
                .objectives
                .iter()
                .map(ObjectiveRecord::new)
                .collect(),
            gaps: Vec::new(),
            lacks_baseline: has_baseline && baseline_since.is_none(),
        };
        self.current = Some(ReleaseReplay {
            release,
            request,
            weight_estimator: WeightEstimator::default(),
            digest: None,
            replayed,
            services,
            guard_at_ms: now_ms,
            budget_at_ms: now_ms,
            longest_ms,
            canary_at_ms: now_ms,
            stable_at_ms: now_ms,
        });
        Ok(())
    }

    fn first_weight(&self) -> Weight {
        match &self.parameters.weights {
            WeightSource::Set(_) => self.weight_set(0).unwrap_or(Weight::ZERO),
            WeightSource::Observed => Weight::percent(1),
        }
    }

    fn weight_set(&self, since_ms: i64) -> Option<Weight> {
        let WeightSource::Set(steps) = &self.parameters.weights else {
            return None;
        };
        steps
            .iter()
            .rev()
            .find(|(from_ms, _)| *from_ms <= since_ms)
            .map(|(_, weight)| *weight)
    }

    /// The error budget and burn rate of the service at that time. If they cannot be read, the
    /// previous values are kept, as in the controller.
    async fn service_at(
        &self,
        queries: &SloQueries,
        before: &ServiceSlo,
        knows_budget: bool,
    ) -> ServiceSlo {
        let loaded = service_slo::load_at(
            self.poller,
            &self.server,
            queries,
            self.clock_ms,
            before,
            knows_budget,
        )
        .await;
        loaded
            .inspect_err(|error| tracing::warn!(%error, "cannot read the error budget and burn rate of the service"))
            .unwrap_or_else(|_| before.clone())
    }

    async fn refresh_services(&mut self) {
        let span_ms = self
            .parameters
            .to_ms
            .saturating_sub(self.parameters.from_ms);
        let Some(under_way) = &self.current else {
            return;
        };
        if self.clock_ms
            < under_way
                .guard_at_ms
                .saturating_add(GUARD_MS.max(span_ms / MAX_GUARD_QUERIES))
        {
            return;
        }
        let budget_due_ms = under_way
            .budget_at_ms
            .saturating_add(BUDGET_MS.max(span_ms / MAX_BUDGET_QUERIES));
        let knows_budget = self.clock_ms < budget_due_ms;
        let mut services = Vec::with_capacity(self.queries.len());
        for (queries, before) in self.queries.iter().zip(&under_way.services) {
            services.push(self.service_at(queries, before, knows_budget).await);
        }
        let now_ms = self.clock_ms;
        let Some(under_way) = &mut self.current else {
            return;
        };
        under_way.guard_at_ms = now_ms;
        if !knows_budget {
            under_way.budget_at_ms = now_ms;
        }
        for (index, service) in services.iter().enumerate() {
            under_way.release.set_service(index, service.clone());
        }
        under_way.services = services;
    }

    /// One poll: evaluates the samples that were visible and records the report.
    fn poll(&mut self) {
        let (now_ms, created_at) = (
            self.clock_ms,
            self.pod_creation_times.all(&self.buffers, self.interval_ms),
        );
        let weight_set = self
            .current
            .as_ref()
            .map(|under_way| now_ms.saturating_sub(under_way.replayed.began_ms));
        let weight_set = weight_set.and_then(|since_ms| self.weight_set(since_ms));
        let Some(under_way) = &mut self.current else {
            return;
        };
        under_way.request.pods_created_at = created_at;
        for (index, buffer) in self.buffers.iter().enumerate() {
            let answers = buffer.slice(under_way.release.read_from_ms(index), now_ms);
            let Some(samples) = ObjectiveAnswers::from_answers(&answers) else {
                continue;
            };
            let settled_ms = under_way.release.settled_ms(index, samples.total, now_ms);
            let before = under_way.position(index);
            under_way
                .release
                .observe(index, samples, settled_ms, now_ms);
            under_way.record_traffic(index, before);
        }
        if let Some(weight) = weight_set {
            under_way.request.weight = weight;
        }
        let is_new_weight = under_way.release.weight != under_way.request.weight;
        under_way.release.apply_request(&under_way.request, now_ms);
        if is_new_weight && weight_set.is_none() {
            // The latest round shows the weight. The poll that reads it may be later, and the rounds
            // in between have this weight.
            under_way.release.weight_changed_at_ms = under_way.position(0).1;
        }
        let snapshot = under_way.release.snapshot(now_ms);
        under_way.record_rounds(&snapshot, self.interval_ms);
        under_way.record_change(snapshot, now_ms);
        if let Some(ending) = under_way.ending(now_ms, self.quiet_ms) {
            self.end(ending);
        }
    }

    fn end(&mut self, ending: ReplayEnd) {
        let Some(ReleaseReplay {
            mut replayed,
            canary_at_ms,
            stable_at_ms,
            ..
        }) = self.current.take()
        else {
            return;
        };
        self.canary_at_ms = Some(if ending == ReplayEnd::StableStopped {
            self.clock_ms
        } else {
            canary_at_ms
        });
        replayed.ending = ending;
        replayed.ended_ms = match ending {
            ReplayEnd::Record => self.clock_ms,
            ReplayEnd::CanaryStopped => canary_at_ms,
            ReplayEnd::StableStopped => stable_at_ms,
        };
        for ObjectiveRecord { name, rounds, .. } in &replayed.objectives {
            let last_ms = rounds.last().map_or(replayed.began_ms, |round| round.at_ms);
            if replayed.ended_ms.saturating_sub(last_ms)
                > MAX_GAP_SCRAPES.saturating_mul(self.interval_ms)
            {
                replayed
                    .gaps
                    .push((name.clone(), last_ms, replayed.ended_ms));
            }
        }
        // Missing data after the end is expected.
        let ended_ms = replayed.ended_ms;
        let is_news = |moment: &ReportChange| {
            !(moment.at_ms > ended_ms && moment.report.kind() == ReportKind::Hold)
        };
        replayed.changes.retain(is_news);
        replayed.gaps.retain(|(_, from_ms, _)| *from_ms < ended_ms);
        for ObjectiveRecord { rounds, .. } in &mut replayed.objectives {
            rounds.retain(|round| round.at_ms <= ended_ms);
        }
        self.done.push(replayed);
    }

    pub(super) fn finish(mut self) -> Vec<ReplayedRelease> {
        self.end(ReplayEnd::Record);
        self.done
    }
}
