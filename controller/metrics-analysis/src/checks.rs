//! Checks: the results so far, and their consequences for the release. Does not perform queries
//! itself.

mod check;
mod probe;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use serin_core::hold::Hold;
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_crds::analysis::CheckPhase;
use serin_crds::status::CheckStatus;

use crate::counter_selectors::AnalysisError;
use crate::prometheus::{Answer, QueryError};
use crate::request::{AnalysisRequest, ReleasePhase};

pub use check::{Check, CheckResult, CheckState};
use probe::JobOwner;
pub use probe::{JobRun, Probe, ProbeOutcome};
pub use source::{CheckSource, HeaderSource, HttpRequest, JobTemplate};

/// The checks that the position of the release waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwaitedChecks {
    /// Their names.
    pub names: BTreeSet<String>,
    /// When the position was reached, in milliseconds since the epoch.
    pub since_ms: i64,
}

/// State of the release on which the schedule of checks depends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckContext {
    pub phase: ReleasePhase,
    /// Start of this phase, in milliseconds since the epoch.
    pub phase_since_ms: i64,
    /// Time of the last weight change, in milliseconds since the epoch.
    pub weight_changed_at_ms: i64,
    pub has_traffic: bool,
    /// Time of the first canary traffic in this attempt, in milliseconds since the epoch.
    pub traffic_since_ms: i64,
    /// End of the warm-up of the canary's first pods, in milliseconds since the epoch.
    pub warm_up_ends_ms: i64,
    /// Whether most of the canary's pods are currently in their warm-up.
    pub pods_are_young: bool,
    pub grace_ms: i64,
    pub now_ms: i64,
    pub awaited: AwaitedChecks,
}

impl CheckContext {
    /// Since when the position waits for a check. `None` if it does not.
    fn awaited_since_ms(&self, name: &str) -> Option<i64> {
        let is_awaited = self.awaited.names.contains(name);
        is_awaited.then_some(self.awaited.since_ms)
    }
}

/// All checks of a release.
#[derive(Debug)]
pub struct Checks {
    all: Vec<Check>,
    owner: JobOwner,
}

impl Checks {
    /// Creates the checks of a spec and continues from the `stored` states.
    ///
    /// # Errors
    /// The invalid field.
    pub(crate) fn new(
        request: &AnalysisRequest,
        mut stored: BTreeMap<String, CheckState>,
    ) -> Result<Self, AnalysisError> {
        let built_in = built_in_args(request);
        let checks = request
            .analysis
            .checks
            .iter()
            .map(|spec| Check::new(spec, &built_in, stored.remove(&spec.name)));
        Ok(Self {
            all: checks.collect::<Result<Vec<_>, _>>()?,
            owner: JobOwner::new(request),
        })
    }

    /// All checks, in the order of the spec.
    pub fn all(&self) -> &[Check] {
        &self.all
    }

    /// The states to persist, by name.
    pub(crate) fn states(&self) -> BTreeMap<String, CheckState> {
        self.all
            .iter()
            .map(|check| (check.name.clone(), check.state.clone()))
            .collect()
    }

    /// Records the result of a query that was sent at `queried_at_ms`.
    pub(crate) fn observe(
        &mut self,
        index: usize,
        found: &Result<Vec<Answer>, QueryError>,
        asked_ms: i64,
        at: &CheckContext,
    ) {
        if let Some(check) = self.all.get_mut(index).filter(|check| check.is_active(at)) {
            check.observe(found, asked_ms, at);
        }
    }

    /// Records what came of a request or a Job that was begun at `began_ms`. What is not due any more
    /// is ignored.
    pub(crate) fn observe_probe(
        &mut self,
        index: usize,
        probe: &Probe,
        outcome: &ProbeOutcome,
        began_ms: i64,
        at: &CheckContext,
    ) {
        if self.probe(index, at).as_ref() != Some(probe) {
            return;
        }
        if let Some(check) = self.all.get_mut(index) {
            check.observe_probe(outcome, began_ms, at);
        }
    }

    /// What a check requests or runs in this context. `None` for queries, and if nothing is due.
    pub(crate) fn probe(&self, index: usize, at: &CheckContext) -> Option<Probe> {
        self.all.get(index)?.probe(&self.owner, at)
    }

    /// Whether the check is queried in this context.
    pub(crate) fn is_active(&self, index: usize, at: &CheckContext) -> bool {
        self.all.get(index).is_some_and(|check| check.is_active(at))
    }

    /// Earliest start of a check that is still delayed by its initial delay or by the warm-up.
    pub(crate) fn next_start_ms(&self, at: &CheckContext) -> Option<i64> {
        let waiting = self
            .all
            .iter()
            .filter(|check| check.is_due(at) && !check.has_started(at));
        waiting.map(|check| check.starts_at_ms(at)).min()
    }

    /// The reason for a rollback: the first check that has exceeded its failure limit.
    pub(crate) fn breach(&self) -> Option<String> {
        let check = self
            .all
            .iter()
            .find(|check| check.is_decisive && check.state.failures > check.failure_limit)?;
        let Check {
            name,
            condition_text,
            failure_limit,
            state,
            ..
        } = check;
        let found = &state.found;
        let failed = if state.failures == 1 {
            "once".to_owned()
        } else {
            format!("{} times", state.failures)
        };
        let tolerated = match failure_limit {
            0 => "no failure is tolerated".to_owned(),
            1 => "1 failure is tolerated".to_owned(),
            limit => format!("{limit} failures are tolerated"),
        };
        if matches!(check.source, CheckSource::Job(_)) {
            return Some(format!(
                "Check {name} has failed {failed}, and {tolerated}. {found}"
            ));
        }
        Some(format!(
            "Check {name} has failed {failed}, and {tolerated}: the last result {found} does \
             not meet {condition_text}."
        ))
    }

    /// The reason for a hold: a check without a usable result, or whose query fails.
    pub(crate) fn blocking_error(&self, at: &CheckContext) -> Option<AnalysisError> {
        let mut active = self
            .all
            .iter()
            .filter(|check| check.is_decisive && check.is_active(at));
        active.find_map(|check| check.blocking_error(at))
    }

    /// Names of the checks that have succeeded in this context.
    pub(crate) fn succeeded(&self, at: &CheckContext) -> BTreeSet<String> {
        let succeeded = self
            .all
            .iter()
            .filter(|check| check.is_decisive && check.has_succeeded(at));
        succeeded.map(|check| check.name.clone()).collect()
    }

    /// Lists the checks that have not yet succeeded in this context.
    pub(crate) fn pending(&self, at: &CheckContext) -> Option<String> {
        let pending = self
            .all
            .iter()
            .filter(|check| check.is_decisive && check.is_due(at) && !check.has_succeeded(at));
        let name = |check: &Check| match check.pending_start(at) {
            Some(start) => format!("{} (starts {start})", check.name),
            None => check.name.clone(),
        };
        let names: Vec<String> = pending.map(name).collect();
        (!names.is_empty())
            .then(|| format!("Not yet succeeded at this weight: {}.", names.join(", ")))
    }

    /// Whether any check belongs to the phase before promotion.
    pub(crate) fn has_before_promotion_checks(&self) -> bool {
        self.all
            .iter()
            .any(|check| check.is_decisive && check.phase == CheckPhase::BeforePromotion)
    }

    /// For the status.
    pub(crate) fn statuses(&self, at: &CheckContext) -> Vec<CheckStatus> {
        self.all.iter().map(|check| check.status(at)).collect()
    }
}

fn built_in_args(request: &AnalysisRequest) -> BTreeMap<String, String> {
    let or_empty = |name: &Option<String>| name.clone().unwrap_or_default();
    [
        ("namespace", request.rollout.namespace.clone()),
        ("rollout", request.rollout.name.clone()),
        ("canaryService", or_empty(&request.canary_service)),
        ("stableService", or_empty(&request.stable_service)),
        ("canaryReplicaSet", request.canary_replica_set.clone()),
        ("stableReplicaSet", or_empty(&request.stable_replica_set)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Combines the report on the objectives with the checks. Checks can cause a rollback, a hold, or a
/// delay. They never turn an undecided release into a sound one.
pub(crate) fn apply_checks(
    mut report: AnalysisReport,
    checks: &Checks,
    at: &CheckContext,
) -> AnalysisReport {
    if report.breach.is_some() {
        return report;
    }
    if let Some(message) = checks.breach() {
        return AnalysisReport::breached(AbortCause::Check, message);
    }
    if !report.holds.is_empty() {
        return report;
    }
    if let Some(error) = checks.blocking_error(at) {
        return AnalysisReport::held(Hold::new(error.code, error.message));
    }
    report.satisfied.requirements.checks = checks.succeeded(at);
    if let Some(pending) = checks.pending(at) {
        report.message = format!("{} {pending}", report.message).into();
        report.next_weight = None;
        report.ready_to_promote = false;
    }
    report
}

#[cfg(test)]
mod probe_tests;
#[cfg(test)]
mod tests;
