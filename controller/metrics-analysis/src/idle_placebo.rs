//! Placebo releases of a Rollout without a release: would the rule have rolled back stable's own pods
//! in the last day?
//!
//! As at the start of a release, the day is read in steps of some minutes, which costs three queries
//! for each objective and day. They wait until no other query without a release is sent to the
//! server.

use std::time::Duration;

use serin_analysis::Arm;
use serin_analysis::evidence::Bets;
use serin_analysis::placebo::{HOUR_MS, PlaceboRule, PlaceboSummary, placebo};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::backfill::Slice;
use crate::coarse_history::CoarseHistory;
use crate::objective_analysis::ObjectivePlan;
use crate::prometheus::{Poller, QueryError};
use crate::request::AnalysisRequest;
use crate::service_slo::ServiceSlo;
use crate::settings::Settings;

/// Length of the history that is read, in milliseconds. Its first hour has no placebo release.
const SPAN_MS: i64 = 24 * HOUR_MS;
/// Period of the placebo releases.
const PERIOD: Duration = Duration::from_secs(86_400);
/// Delay after the server did not answer.
const AFTER_FAILURE: Duration = Duration::from_secs(3_600);

/// The objectives of a request without a release, if their counters distinguish pods: all pods of
/// the Rollout are stable's. In the order of the spec, with `None` for the other objectives.
pub fn plans(request: &AnalysisRequest) -> Vec<Option<ObjectivePlan>> {
    if request.is_blue_green {
        // The two sides are never compared.
        return Vec::new();
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
    let plans = ObjectivePlan::from_request(&request).unwrap_or_default();
    let by_pod = |plan: ObjectivePlan| Some(plan).filter(|plan| plan.counters.distinguishes_pods());
    plans.into_iter().map(by_pod).collect()
}

/// Keeps the placebo releases of a service up to date until its last receiver is gone: once its error
/// rate is known, and then once a day.
pub async fn keep_current(
    poller: Poller,
    settings: Settings,
    mut plan: ObjectivePlan,
    sender: watch::Sender<ServiceSlo>,
) {
    let mut service = sender.subscribe();
    let is_known = |service: &ServiceSlo| service.usual_rate().is_some();
    let known = async {
        let known = service.wait_for(is_known).await;
        known.map(|service| service.clone()).ok()
    };
    let Some(known) = known.await else {
        return;
    };
    plan.counters.choose_layout(&known.layouts);
    drop(service);
    loop {
        let turn = poller.low_priority_permit(&settings.server).await;
        plan.service = sender.borrow().clone();
        let placebo = placebo_of_last_day(&poller, &settings, &plan).await;
        drop(turn);
        let period = match placebo {
            Ok(placebo) => {
                sender.send_if_modified(|service| {
                    let before = std::mem::replace(&mut service.placebo, placebo);
                    before != placebo
                });
                PERIOD
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read stable's errors of the last day");
                AFTER_FAILURE
            }
        };
        if timeout(period, sender.closed()).await.is_ok() {
            return;
        }
    }
}

/// The placebo releases of the last day. `None` without sufficient data.
async fn placebo_of_last_day(
    poller: &Poller,
    settings: &Settings,
    plan: &ObjectivePlan,
) -> Result<Option<PlaceboSummary>, QueryError> {
    let config = settings.objective(&plan.spec, plan.service.usual_rate(), true);
    let Ok(bets) = Bets::new(config.evidence) else {
        return Ok(None);
    };
    let history = CoarseHistory::new(settings.scrape_interval_ms());
    let mut span_ms = SPAN_MS;
    loop {
        let slice = match read(poller, settings, plan, history, span_ms).await {
            Err(QueryError::TooLarge(_)) if span_ms / 2 >= 2 * HOUR_MS => {
                span_ms /= 2;
                continue;
            }
            Err(QueryError::TooLarge(_)) => return Ok(None),
            read => read?,
        };
        let [total, second, scraped] = slice.answers.as_slice() else {
            return Ok(None);
        };
        let sums = history.aggregation();
        let rounds = sums.rounds(&plan.counters, [total, second, scraped]);
        let rule = PlaceboRule {
            bets: &bets,
            alpha: settings.analysis.alpha,
            canary_share: 0.0,
        };
        let placebo = placebo(&rounds.ticks, HOUR_MS, &rule);
        return Ok((placebo.releases() > 0).then(|| placebo.summary()));
    }
}

async fn read(
    poller: &Poller,
    settings: &Settings,
    plan: &ObjectivePlan,
    history: CoarseHistory,
    span_ms: i64,
) -> Result<Slice, QueryError> {
    let mut slice = Slice::default();
    for query in history.queries(&plan.counters, span_ms) {
        slice.push(poller.query_once(&settings.server, &query, None).await?);
    }
    Ok(slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::request;
    use crate::prometheus::Labels;

    fn by_pod() -> AnalysisRequest {
        let objectives = serde_json::json!([
            {"name": "pods", "objective": 99.9, "counters": {"total": "requests_total",
                "errors": "requests_total{code=\"500\"}"}},
            {"name": "gateway", "objective": 99.9, "indicator": "traefik"},
        ]);
        let mut request = request();
        request.analysis.objectives = serde_json::from_value(objectives).unwrap();
        request
    }

    #[test]
    fn without_a_release_all_pods_are_stable() {
        let set = "checkout-bbb".to_owned();
        let request = AnalysisRequest {
            stable_replica_set: Some(set.clone()),
            canary_replica_set: set,
            ..by_pod()
        };
        let labels: Labels = [
            ("__name__", "requests_total"),
            ("pod", "checkout-bbb-xk2v9"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let plans = plans(&request);
        let [Some(pods), None] = plans.as_slice() else {
            panic!("only the first objective distinguishes pods: {plans:?}");
        };
        assert_eq!(pods.counters.arm(&labels), Some(Arm::Stable));
        let both = ObjectivePlan::from_request(&request).unwrap();
        assert_eq!(
            both[0].counters.arm(&labels),
            None,
            "both sides are the same"
        );
    }

    #[test]
    fn a_spec_that_cannot_be_read_has_no_placebo_releases() {
        let mut request = by_pod();
        request.analysis.objectives[0].objective = 100.0;
        assert!(plans(&request).is_empty());
    }
}
