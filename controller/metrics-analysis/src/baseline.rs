//! The stable pods that the canary is compared with, if the spec has a baseline: those that started
//! together with the canary's pods.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serin_analysis::{Arm, PodId, explain};

use crate::counter_selectors::CounterSelectors;
use crate::idle_placebo::DatedPlacebo;
use crate::objective_analysis::ObjectiveAnalysis;
use crate::prometheus::{Answer, Labels};
use crate::sample_reader::source_key;

/// Maximum difference between the clocks of the controller and of the API server, in seconds. A pod
/// that started so shortly before the others is as young as they are.
const CLOCK_SKEW_SECONDS: i64 = 10;

/// The baseline pods of one objective.
#[derive(Clone, Debug, Default)]
pub(crate) struct BaselinePods {
    /// When the baseline pods started, in seconds since the epoch. `None` if the canary is compared
    /// with all stable pods.
    since_second: Option<i64>,
    /// The scrape targets of the baseline pods in the latest answer.
    targets: BTreeSet<PodId>,
}

impl BaselinePods {
    /// Sets the time at which the baseline pods started. `None` if there are none.
    pub(crate) fn set_since(&mut self, since: Option<Timestamp>) {
        self.since_second = since.map(Timestamp::as_second);
    }

    /// Finds the baseline pods in the series of all requests. `None` if the canary is compared with
    /// all stable pods.
    ///
    /// A pod is chosen by its age, which does not depend on its errors, and stays chosen after it was
    /// deleted.
    pub(crate) fn find(
        &mut self,
        counters: &CounterSelectors,
        series: &Answer,
        pods_created_at: &BTreeMap<String, Timestamp>,
    ) -> Option<BTreeSet<PodId>> {
        let since_second = self
            .since_second
            .filter(|_| counters.distinguishes_pods())?
            .saturating_sub(CLOCK_SKEW_SECONDS);
        let before = std::mem::take(&mut self.targets);
        let is_young = |pod: &str| {
            let created_at = pods_created_at.get(pod);
            created_at.is_some_and(|created_at| created_at.as_second() >= since_second)
        };
        let target = |labels: &Labels| {
            let pod = counters.pod(labels)?;
            let target = PodId::from_name(&source_key(labels, Some(pod)));
            let is_stable = counters.arm(labels) == Some(Arm::Stable);
            (is_stable && (is_young(pod) || before.contains(&target))).then_some(target)
        };
        self.targets = series
            .iter()
            .filter_map(|series| target(&series.labels))
            .collect();
        Some(self.targets.clone())
    }

    /// An answer without the series of the stable pods that the canary is not compared with. Call it
    /// after [`Self::find`].
    pub(crate) fn compared<'a>(
        &self,
        counters: &CounterSelectors,
        answer: &'a Answer,
    ) -> Cow<'a, Answer> {
        if self.since_second.is_none() || !counters.distinguishes_pods() {
            return Cow::Borrowed(answer);
        }
        let is_compared = |labels: &Labels| {
            counters.arm(labels) != Some(Arm::Stable) || {
                let pod = counters.pod(labels);
                let target = PodId::from_name(&source_key(labels, pod));
                self.targets.contains(&target)
            }
        };
        let compared = answer.iter().filter(|series| is_compared(&series.labels));
        Cow::Owned(compared.cloned().collect())
    }
}

impl ObjectiveAnalysis {
    /// A note for operators about the stable pods that the canary is compared with.
    pub(crate) fn baseline_note(&self) -> Option<String> {
        let baseline = self.state.evidence.baseline()?;
        let [requests, errors] = [baseline.requests, baseline.errors].map(explain::thousands);
        let pods = match baseline.pods {
            1 => "1 stable pod".to_owned(),
            pods => format!("{pods} stable pods"),
        };
        Some(format!(
            "The canary is compared with the {pods} that started with it: {errors} of their \
             {requests} requests failed. All stable pods count for the error budget."
        ))
    }

    /// Placebo releases of the day before the release, or else the latest ones without a release.
    /// `None` if there are none.
    pub(crate) fn placebo(&self) -> Option<DatedPlacebo> {
        let evidence = &self.state.evidence;
        let of_release = evidence.placebo().map(|summary| DatedPlacebo {
            at: Timestamp::from_millisecond(evidence.began_ms).unwrap_or(Timestamp::UNIX_EPOCH),
            summary,
        });
        of_release.or(self.service.placebo())
    }

    /// A note for operators that the evidence by endpoint does not grow.
    pub(crate) fn endpoint_note(&self) -> Option<String> {
        let is_affected = self.aggregation().is_some() && self.spec.endpoint_label.is_some();
        is_affected.then(|| {
            "Evidence by endpoint does not grow while Prometheus adds up the increments, so half of \
             the evidence is missing: remove endpointLabel, or select fewer series."
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests;
