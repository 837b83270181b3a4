//! Placebo releases from the data of a Prometheus server: the rule on stable's own pods in past
//! hours.
//!
//! The samples are read hour by hour and become rounds as in the controller. Each hour of an
//! objective costs two queries (three with a latency guard), and only the rounds are kept.

use std::collections::BTreeMap;

use serin_analysis::config::Calibration;
use serin_analysis::counters::RoundBuilder;
use serin_analysis::evidence::Bets;
use serin_analysis::placebo::{
    CalibrationTarget, HOUR_MS, MAX_HOURS, Placebo, PlaceboRule, calibrate, calibration_hours,
    placebo,
};
use serin_analysis::{PodId, SampleBatch, Tick};

use crate::backfill;
use crate::counter_selectors::{AnalysisError, CounterSelectors};
use crate::objective_analysis::ObjectivePlan;
use crate::prometheus::{Answer, Poller, QueryError, Server};
use crate::release_analysis::settings_for;
use crate::replay::ReplayError;
use crate::request::AnalysisRequest;
use crate::sample_reader::{ObjectiveAnswers, SampleReader, source_key};
use crate::scrape_interval::ScrapeInterval;
use crate::service_slo::{self, ServiceSlo, SloQueries};
use crate::settings::{Settings, slo_window, timing};
use crate::target_deduplicator::TargetDeduplicator;

/// Minimum length of a slice if an answer is too large, in milliseconds.
const MIN_SLICE_MS: i64 = 60_000;
/// Maximum number of rounds of one objective times its pods. It limits the memory to about 200 MB.
const MAX_POD_ROUNDS: usize = 4_000_000;

/// Parameters of placebo releases.
#[derive(Clone, Debug)]
pub struct PlaceboRequest {
    /// Server to query. Overrides the spec.
    pub server: Server,
    /// The Rollout. Only its objectives, its stable side and its settings are used.
    pub request: AnalysisRequest,
    /// End of the last hour, in milliseconds since the epoch.
    pub to_ms: i64,
    /// Number of hours, at most [`MAX_HOURS`]. The hour before them is read as well, as history.
    pub hours: u32,
    /// Share of the pods that are the canary together, from 0 to 1. At least one pod is.
    pub canary_share: f64,
}

/// The placebo releases of one objective.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectivePlacebo {
    /// Name of the objective.
    pub name: String,
    /// The result, or why there is none.
    pub result: Result<Placebo, String>,
    /// The temper that these hours give. `None` if there are too few.
    pub calibration: Option<Calibration>,
    /// Number of hours that a calibration needs.
    pub calibration_hours: u32,
    /// Names of the pods by their identity.
    pub pods: BTreeMap<u64, String>,
}

/// Runs the placebo releases of all objectives, one after the other.
///
/// # Errors
/// The spec is invalid, or the data cannot be read.
pub async fn placebo_releases(
    poller: &Poller,
    parameters: &PlaceboRequest,
) -> Result<Vec<ObjectivePlacebo>, ReplayError> {
    let settings = settings_for(&parameters.request, parameters.server.clone())?;
    let mut results = Vec::new();
    let plans = ObjectivePlan::from_request(&parameters.request)?;
    // Each objective can roll back the release.
    let count = u32::try_from(plans.len()).unwrap_or(u32::MAX).max(1);
    let level = settings.analysis.alpha / f64::from(count);
    let calibration_hours = calibration_hours(level);
    for plan in plans {
        let name = plan.spec.name.clone();
        let failed = |error| ReplayError::Query {
            name: name.clone(),
            error,
        };
        results.push(if plan.counters.distinguishes_pods() {
            let service = load_service(poller, &settings, &plan, parameters.to_ms).await?;
            let mut reader = PodRounds::new(&settings, plan, service);
            let read = reader.read(poller, parameters).await.map_err(failed)?;
            let found = match read {
                Ok(()) => reader.placebo(&settings, level, parameters.canary_share),
                Err(why) => Err(why),
            };
            let calibration = found
                .as_ref()
                .ok()
                .and_then(|(_, calibration)| *calibration);
            ObjectivePlacebo {
                name,
                result: found.map(|(placebo, _)| placebo),
                calibration,
                calibration_hours,
                pods: reader.pods,
            }
        } else {
            ObjectivePlacebo {
                name,
                result: Err(
                    "its counters do not distinguish pods, so no pod can take the part of the \
                     canary; use indicator: pod, or counters with a pod label"
                        .to_owned(),
                ),
                calibration: None,
                calibration_hours,
                pods: BTreeMap::new(),
            }
        });
    }
    Ok(results)
}

/// The usual error rate of the service and the layout of its series. Unknown if they cannot be read,
/// as in the controller.
async fn load_service(
    poller: &Poller,
    settings: &Settings,
    plan: &ObjectivePlan,
    at_ms: i64,
) -> Result<ServiceSlo, AnalysisError> {
    let queries = SloQueries::new(&plan.counters, slo_window(&plan.spec)?);
    let unknown = ServiceSlo::default();
    let loaded =
        service_slo::load_at(poller, &settings.server, &queries, at_ms, &unknown, false).await;
    Ok(loaded
        .inspect_err(|error| tracing::warn!(%error, "cannot read the usual error rate"))
        .unwrap_or_default())
}

/// The rounds of stable's pods of one objective.
struct PodRounds {
    plan: ObjectivePlan,
    interval: ScrapeInterval,
    builder: RoundBuilder,
    targets: TargetDeduplicator,
    ticks: Vec<Tick>,
    pods: BTreeMap<u64, String>,
}

impl PodRounds {
    fn new(settings: &Settings, mut plan: ObjectivePlan, service: ServiceSlo) -> Self {
        plan.counters.choose_layout(&service.layouts);
        plan.service = service;
        let interval_ms = settings.scrape_interval_ms();
        Self {
            plan,
            interval: ScrapeInterval::new(interval_ms, None),
            builder: RoundBuilder::resume(timing(interval_ms, interval_ms).counters, 0, 0),
            targets: TargetDeduplicator::default(),
            ticks: Vec::new(),
            pods: BTreeMap::new(),
        }
    }

    /// Reads all hours. The inner error is a reason why this objective has no placebo.
    async fn read(
        &mut self,
        poller: &Poller,
        parameters: &PlaceboRequest,
    ) -> Result<Result<(), String>, QueryError> {
        let hours = i64::from(parameters.hours).clamp(1, i64::try_from(MAX_HOURS).unwrap_or(1));
        let mut from_ms = parameters
            .to_ms
            .saturating_sub((hours + 1).saturating_mul(HOUR_MS));
        let interval_ms = self.interval.interval_ms();
        let counters = timing(interval_ms, interval_ms).counters;
        self.builder = RoundBuilder::resume(counters, from_ms, from_ms);
        let mut slice_ms = HOUR_MS;
        let mut pod_rounds = 0;
        while from_ms < parameters.to_ms {
            let end_ms = from_ms.saturating_add(slice_ms).min(parameters.to_ms);
            // An hour without data must not make the next query longer.
            let read_ms = self
                .builder
                .read_from_ms()
                .max(from_ms.saturating_sub(HOUR_MS));
            let counters = &self.plan.counters;
            let read =
                backfill::read_samples(poller, &parameters.server, counters, read_ms, end_ms);
            let slice = match read.await {
                Err(QueryError::TooLarge(_)) if slice_ms > MIN_SLICE_MS => {
                    slice_ms /= 2;
                    continue;
                }
                read => read?,
            };
            let known = self.ticks.len();
            if let Err(why) = self.add(&slice.answers, end_ms) {
                return Ok(Err(why));
            }
            let added = self.ticks.iter().skip(known);
            pod_rounds += added.map(|tick| tick.stable_pods.len()).sum::<usize>();
            if pod_rounds > MAX_POD_ROUNDS {
                return Ok(Err(format!(
                    "stable's pods have more than {MAX_POD_ROUNDS} scrapes in this time; use fewer \
                     --hours"
                )));
            }
            from_ms = end_ms;
        }
        Ok(Ok(()))
    }

    /// Adds the samples up to `end_ms`.
    ///
    /// # Errors
    /// Why series cannot be assigned to a pod.
    fn add(&mut self, answers: &[Answer], end_ms: i64) -> Result<(), String> {
        let Some(ObjectiveAnswers {
            total,
            bad_or_good: second,
            ..
        }) = ObjectiveAnswers::from_answers(answers)
        else {
            return Ok(());
        };
        let counters = &self.plan.counters;
        let [total, second] = self.targets.deduplicate(counters, [total, second])?;
        record_names(&mut self.pods, counters, &total);
        let created = BTreeMap::new();
        let reading = SampleReader::new(counters, &total, &second, &created, i64::MIN);
        let samples = reading.samples();
        let scrapes = samples.iter().map(|sample| (sample.source, sample.at_ms));
        if self.interval.observe(scrapes, end_ms) {
            let interval_ms = self.interval.interval_ms();
            self.builder
                .set_config(timing(interval_ms, interval_ms).counters);
        }
        let batch = SampleBatch {
            samples: &samples,
            source_created_ms: &reading.source_created_ms,
            settled_ms: end_ms,
            now_ms: end_ms,
        };
        self.ticks.extend(self.builder.add_samples(&batch).ticks);
        Ok(())
    }

    /// Runs the placebo releases of all hours, and calibrates the evidence with them at this level.
    fn placebo(
        &self,
        settings: &Settings,
        level: f64,
        canary_share: f64,
    ) -> Result<(Placebo, Option<Calibration>), String> {
        let usual_rate = self.plan.service.usual_rate();
        let config = settings
            .objective(&self.plan.spec, usual_rate, true)
            .evidence;
        let alpha = settings.analysis.alpha;
        let bets = Bets::new(config.clone()).map_err(|error| error.to_string())?;
        if self.ticks.is_empty() {
            return Err(
                "stable's pods have no samples in this time; check the selectors with kubectl serin \
                 explain, or use a time in which this revision was stable"
                    .to_owned(),
            );
        }
        let rule = PlaceboRule {
            bets: &bets,
            alpha,
            canary_share,
        };
        let target = CalibrationTarget {
            config: &config,
            alpha,
            level,
            canary_share,
        };
        let calibration = calibrate(&self.ticks, HOUR_MS, &target);
        Ok((
            placebo(&self.ticks, HOUR_MS, &rule),
            calibration.map_err(|error| error.to_string())?,
        ))
    }
}

fn record_names(pods: &mut BTreeMap<u64, String>, counters: &CounterSelectors, series: &Answer) {
    for series in series {
        if let Some(pod) = counters.pod(&series.labels) {
            let source = PodId::from_name(&source_key(&series.labels, Some(pod)));
            pods.entry(source.or_position(0))
                .or_insert_with(|| pod.to_owned());
        }
    }
}
