//! Placebo releases of a Rollout without a release: would the rule have rolled back stable's own pods
//! in the last day?
//!
//! As at the start of a release, the day is read in steps of some minutes, which costs three queries
//! for each objective and day. If the answers are too large, a part of the day is read. A server gets
//! the queries of one objective at a time, besides all other queries. The status keeps the result, so
//! that no restart and no release repeats them before the day is over.

use std::time::Duration;

use jiff::Timestamp;
use serin_analysis::Arm;
use serin_analysis::evidence::Bets;
use serin_analysis::placebo::{HOUR_MS, PlaceboRule, PlaceboSummary, placebo};
use serin_crds::analysis::ObjectiveSpec;
use serin_crds::status::PlaceboStatus;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::backfill::Slice;
use crate::coarse_history::CoarseHistory;
use crate::fingerprint::fingerprint;
use crate::objective_analysis::ObjectivePlan;
use crate::prometheus::{Poller, QueryError};
use crate::request::AnalysisRequest;
use crate::service_slo::ServiceSlo;
use crate::settings::Settings;

/// Length of the history that is read, in milliseconds. Its first hour has no placebo release.
const SPAN_MS: i64 = 24 * HOUR_MS;
/// Period of the placebo releases.
const PERIOD: Duration = Duration::from_secs(86_400);
/// Delay after a day could not be read. It doubles with each failure, up to the period.
const AFTER_FAILURE: Duration = Duration::from_secs(3_600);

/// Placebo releases, and the end of their day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatedPlacebo {
    /// End of the day.
    pub at: Timestamp,
    /// The placebo releases. Without hours if the data is not sufficient.
    pub summary: PlaceboSummary,
}

impl DatedPlacebo {
    /// The placebo releases in a status. `None` if they are those of other settings.
    pub fn from_status(
        status: &PlaceboStatus,
        spec: &ObjectiveSpec,
        settings: &Settings,
    ) -> Option<Self> {
        let at = status.at?;
        if status.settings.as_str() != settings_fingerprint(spec, settings) {
            return None;
        }
        let number = |count: i32| u32::try_from(count).unwrap_or(0);
        Some(Self {
            at,
            summary: PlaceboSummary {
                hours: number(status.hours),
                hours_with_rollback: number(status.hours_with_rollback),
                refutes_bound: status.refutes_bound,
            },
        })
    }

    /// The placebo releases for the status.
    pub(crate) fn to_status(self, spec: &ObjectiveSpec, settings: &Settings) -> PlaceboStatus {
        let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        PlaceboStatus {
            at: Some(self.at),
            hours: number(self.summary.hours),
            hours_with_rollback: number(self.summary.hours_with_rollback),
            refutes_bound: self.summary.refutes_bound,
            settings: settings_fingerprint(spec, settings).into(),
        }
    }

    /// Time until the next day is read, at most a day.
    fn due_in(self, now: Timestamp) -> Duration {
        let age = now.duration_since(self.at);
        // A time in the future is the result of a clock that was set back.
        let age = Duration::try_from(age).unwrap_or_default();
        PERIOD.saturating_sub(age)
    }
}

/// Identifies what placebo releases depend on, except the metrics.
fn settings_fingerprint(spec: &ObjectiveSpec, settings: &Settings) -> String {
    let parameters = serde_json::json!([
        spec,
        settings.analysis.alpha,
        settings.max_duration.as_secs(),
        settings.warm_up.as_secs(),
        settings.scrape_interval_ms(),
    ]);
    fingerprint(&parameters.to_string())
}

/// The objective of a request without a release, if its counters distinguish pods: all pods of the
/// Rollout are stable's.
fn idle_plan(request: &AnalysisRequest, index: usize) -> Option<ObjectivePlan> {
    if request.is_blue_green {
        // The two sides are never compared.
        return None;
    }
    let is_one_revision = request.stable_replica_set.as_ref() == Some(&request.canary_replica_set);
    let stable_pods = request.pod_sides.iter().filter_map(|(pod, side)| {
        let is_stable = is_one_revision || *side == Arm::Stable;
        is_stable.then(|| (pod.clone(), Arm::Stable))
    });
    let request = AnalysisRequest {
        pod_sides: stable_pods.collect(),
        canary_replica_set: String::new(),
        ..request.clone()
    };
    // The objectives themselves report what is wrong with the spec.
    let plans = ObjectivePlan::from_request(&request).ok()?;
    let plan = plans.into_iter().nth(index)?;
    plan.counters.distinguishes_pods().then_some(plan)
}

async fn wait_for_usual_rate(sender: &watch::Sender<ServiceSlo>) {
    let mut service = sender.subscribe();
    // The sender exists, so that the wait does not fail.
    let _ = service
        .wait_for(|service| service.usual_rate().is_some())
        .await;
}

/// The placebo releases of one objective without a release.
#[derive(Debug)]
pub struct IdlePlacebo {
    /// Sends the queries.
    pub poller: Poller,
    /// Settings of the request.
    pub settings: Settings,
    /// The current request. Pods come and go from one day to the next.
    pub request: watch::Receiver<AnalysisRequest>,
    /// Position of the objective in the spec.
    pub index: usize,
}

impl IdlePlacebo {
    /// Keeps the placebo releases of a service up to date until its last receiver is gone: once its
    /// error rate is known, and then once a day. Ends at once if the counters do not distinguish pods.
    pub async fn keep_current(
        self,
        sender: watch::Sender<ServiceSlo>,
        now: impl Fn() -> Timestamp + Send,
    ) {
        let mut after_failure = AFTER_FAILURE;
        while idle_plan(&self.request.borrow(), self.index).is_some() {
            let placebo = sender.borrow().placebo;
            let due_in = placebo.map_or(Duration::ZERO, |placebo| placebo.due_in(now()));
            if !due_in.is_zero() {
                if timeout(due_in, sender.closed()).await.is_ok() {
                    return;
                }
                continue;
            }
            wait_for_usual_rate(&sender).await;
            let turn = self.poller.placebo_permit(&self.settings.server).await;
            let summary = self.read_last_day(&sender).await;
            drop(turn);
            match summary {
                Ok(summary) => {
                    after_failure = AFTER_FAILURE;
                    let at = now();
                    sender.send_modify(|service| {
                        service.placebo = Some(DatedPlacebo { at, summary });
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot read stable's errors of the last day");
                    if timeout(after_failure, sender.closed()).await.is_ok() {
                        return;
                    }
                    after_failure = (after_failure * 2).min(PERIOD);
                }
            }
        }
    }

    /// The placebo releases of the last day. Without hours if the data is not sufficient.
    async fn read_last_day(
        &self,
        sender: &watch::Sender<ServiceSlo>,
    ) -> Result<PlaceboSummary, QueryError> {
        let nothing = PlaceboSummary::default();
        let plan = idle_plan(&self.request.borrow(), self.index);
        let Some(mut plan) = plan else {
            return Ok(nothing);
        };
        plan.service = sender.borrow().clone();
        plan.counters.choose_layout(&plan.service.layouts);
        let usual_rate = plan.service.usual_rate();
        let config = self.settings.objective(&plan.spec, usual_rate, true);
        let Ok(bets) = Bets::new(config.evidence) else {
            return Ok(nothing);
        };
        let history = CoarseHistory::new(self.settings.scrape_interval_ms());
        let Some(slice) = self.read(&plan, history).await? else {
            return Ok(nothing);
        };
        let [total, second, scraped] = slice.answers.as_slice() else {
            return Ok(nothing);
        };
        let sums = history.aggregation();
        let ticks = sums.rounds(&plan.counters, [total, second, scraped]).ticks;
        drop(slice);
        let alpha = self.settings.analysis.alpha;
        // The day of hundreds of pods takes seconds.
        let run = spawn_blocking(move || {
            let rule = PlaceboRule {
                bets: &bets,
                alpha,
                canary_share: 0.0,
            };
            placebo(&ticks, HOUR_MS, &rule).summary()
        });
        Ok(run.await.unwrap_or_default())
    }

    /// Reads the last day, or the part of it whose answers are not too large. `None` if even that of
    /// some hours are.
    async fn read(
        &self,
        plan: &ObjectivePlan,
        history: CoarseHistory,
    ) -> Result<Option<Slice>, QueryError> {
        let mut span_ms = SPAN_MS;
        while span_ms >= 2 * HOUR_MS {
            match self.read_span(plan, history, span_ms).await {
                Err(QueryError::TooLarge(_)) => span_ms /= 2,
                read => return read.map(Some),
            }
        }
        Ok(None)
    }

    async fn read_span(
        &self,
        plan: &ObjectivePlan,
        history: CoarseHistory,
        span_ms: i64,
    ) -> Result<Slice, QueryError> {
        let server = &self.settings.server;
        let mut slice = Slice::default();
        for query in history.queries(&plan.counters, span_ms) {
            slice.push(self.poller.query_once(server, &query, None).await?);
        }
        Ok(slice)
    }
}

#[cfg(test)]
mod tests;
