//! Checks: the results so far, and their consequences for the release. Does not perform queries
//! itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_crds::analysis::{CheckPhase, CheckSpec};
use serin_crds::check::{Condition, render_query};
use serin_crds::literals::parse_duration;
use serin_crds::status::CheckStatus;

use crate::counter_selectors::AnalysisError;
use crate::fingerprint::fingerprint;
use crate::prometheus::{Answer, QueryError};
use crate::request::{AnalysisRequest, ReleasePhase};
use crate::settings::millis;

const INTERVAL: Duration = Duration::from_secs(60);

/// Result of one evaluation of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckResult {
    /// The condition holds.
    Succeeded,
    /// The condition does not hold.
    Failed,
    /// The query returned no series. Never counts as success.
    Empty,
    /// A value was not a number. Never counts as success.
    NotANumber,
    /// The condition cannot be evaluated on the returned values. Never counts as success.
    Unreadable,
}

impl CheckResult {
    /// Why the result holds the release. `None` if the check succeeded or failed.
    const fn hold_code(self) -> Option<HoldCode> {
        match self {
            Self::Succeeded | Self::Failed => None,
            Self::Empty => Some(HoldCode::CheckEmpty),
            Self::NotANumber => Some(HoldCode::CheckNotANumber),
            Self::Unreadable => Some(HoldCode::CheckUnreadable),
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Empty | Self::NotANumber | Self::Unreadable => "Inconclusive",
        }
    }
}

/// State of a check, as stored in the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckState {
    /// Identifies the query, the condition and the phase.
    pub fingerprint: String,
    /// Number of failures.
    pub failures: u32,
    /// Time of the last evaluation, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// Result of the last evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<CheckResult>,
    /// The values of the last evaluation, for display.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub found: String,
}

/// A check that is being evaluated.
#[derive(Debug)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// PromQL query.
    pub query: String,
    /// Time between two evaluations.
    pub interval: Duration,
    initial_delay: Duration,
    phase: CheckPhase,
    is_decisive: bool,
    failure_limit: u32,
    condition: Condition,
    condition_text: String,
    state: CheckState,
    query_failure: Option<(i64, QueryError)>,
}

/// State of the release on which the schedule of checks depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// All checks of a release.
#[derive(Debug)]
pub struct Checks(Vec<Check>);

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
        checks.collect::<Result<Vec<_>, _>>().map(Self)
    }

    /// All checks, in the order of the spec.
    pub fn all(&self) -> &[Check] {
        &self.0
    }

    /// The states to persist, by name.
    pub(crate) fn states(&self) -> BTreeMap<String, CheckState> {
        self.0
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
        if let Some(check) = self.0.get_mut(index).filter(|check| check.is_active(at)) {
            check.observe(found, asked_ms, at);
        }
    }

    /// Whether the check is queried in this context.
    pub(crate) fn is_active(&self, index: usize, at: &CheckContext) -> bool {
        self.0.get(index).is_some_and(|check| check.is_active(at))
    }

    /// Earliest start of a check that is still delayed by its initial delay or by the warm-up.
    pub(crate) fn next_start_ms(&self, at: &CheckContext) -> Option<i64> {
        let waiting = self
            .0
            .iter()
            .filter(|check| check.is_due(at) && !check.has_started(at));
        waiting.map(|check| check.starts_at_ms(at)).min()
    }

    /// The reason for a rollback: the first check that has exceeded its failure limit.
    pub(crate) fn breach(&self) -> Option<String> {
        let check = self
            .0
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
        Some(format!(
            "Check {name} has failed {failed}, and {tolerated}: the last result {found} does \
             not meet {condition_text}."
        ))
    }

    /// The reason for a hold: a check without a usable result, or whose query fails.
    pub(crate) fn blocking_error(&self, at: &CheckContext) -> Option<AnalysisError> {
        let mut active = self
            .0
            .iter()
            .filter(|check| check.is_decisive && check.is_active(at));
        active.find_map(|check| check.blocking_error(at))
    }

    /// Names of the checks that have succeeded in this context.
    pub(crate) fn succeeded(&self, at: &CheckContext) -> BTreeSet<String> {
        let succeeded = self
            .0
            .iter()
            .filter(|check| check.is_decisive && check.has_succeeded(at));
        succeeded.map(|check| check.name.clone()).collect()
    }

    /// Lists the checks that have not yet succeeded in this context.
    pub(crate) fn pending(&self, at: &CheckContext) -> Option<String> {
        let pending = self
            .0
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
        self.0
            .iter()
            .any(|check| check.is_decisive && check.phase == CheckPhase::BeforePromotion)
    }

    /// For the status.
    pub(crate) fn statuses(&self, at: &CheckContext) -> Vec<CheckStatus> {
        self.0.iter().map(|check| check.status(at)).collect()
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

impl Check {
    fn new(
        spec: &CheckSpec,
        built_in: &BTreeMap<String, String>,
        stored: Option<CheckState>,
    ) -> Result<Self, AnalysisError> {
        let invalid = |field: &str, why: String| {
            AnalysisError::invalid_spec(format!(
                "spec.analysis.checks[{}].{field}: {why}",
                spec.name
            ))
        };
        let mut args: BTreeMap<&str, &str> = built_in
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        args.extend(
            spec.args
                .iter()
                .map(|arg| (arg.name.as_str(), arg.value.as_str())),
        );
        let query = render_query(&spec.query, &args).map_err(|why| invalid("query", why))?;
        let condition =
            Condition::parse(&spec.condition).map_err(|why| invalid("condition", why))?;
        let interval = spec
            .interval
            .as_deref()
            .map_or(Ok(INTERVAL), parse_duration);
        let interval = interval.map_err(|error| invalid("interval", error.to_string()))?;
        let initial_delay = spec
            .initial_delay
            .as_deref()
            .map_or(Ok(Duration::ZERO), parse_duration);
        let initial_delay =
            initial_delay.map_err(|error| invalid("initialDelay", error.to_string()))?;
        let fingerprint = fingerprint(&format!("{query}|{}|{:?}", spec.condition, spec.phase));
        let state = stored.filter(|stored| stored.fingerprint == fingerprint);
        Ok(Self {
            name: spec.name.clone(),
            query,
            interval,
            initial_delay,
            phase: spec.phase.unwrap_or_default(),
            is_decisive: spec.dry_run != Some(true),
            failure_limit: u32::try_from(spec.failure_limit.unwrap_or(0)).unwrap_or(0),
            condition,
            condition_text: spec.condition.clone(),
            state: state.unwrap_or(CheckState {
                fingerprint,
                ..CheckState::default()
            }),
            query_failure: None,
        })
    }

    /// Whether the check is queried now: it is due and has started.
    fn is_active(&self, at: &CheckContext) -> bool {
        self.is_due(at) && self.has_started(at)
    }

    fn has_started(&self, at: &CheckContext) -> bool {
        at.now_ms >= self.starts_at_ms(at)
    }

    /// Time of the first query: `initialDelay` after the check first became due in this attempt,
    /// but not before the end of the warm-up of the canary's first pods.
    fn starts_at_ms(&self, at: &CheckContext) -> i64 {
        let due_ms = match self.phase {
            CheckPhase::Release => at.traffic_since_ms,
            CheckPhase::BeforePromotion | CheckPhase::Bake => {
                at.phase_since_ms.max(at.traffic_since_ms)
            }
        };
        due_ms
            .saturating_add(millis(self.initial_delay))
            .max(at.warm_up_ends_ms)
    }

    /// Start time and the field that delays it, if the check is due but has not started.
    fn pending_start(&self, at: &CheckContext) -> Option<String> {
        if !self.is_due(at) || self.has_started(at) {
            return None;
        }
        let begins_ms = self.starts_at_ms(at);
        // Rounded up, so that the check has started at the displayed time.
        let begins_at =
            Timestamp::from_second(begins_ms.saturating_add(999).div_euclid(1_000)).ok()?;
        let field = if begins_ms > at.warm_up_ends_ms {
            "initialDelay"
        } else {
            "warmUp"
        };
        Some(format!("at {begins_at} ({field})"))
    }

    /// Whether the check belongs to this phase and the canary has traffic.
    fn is_due(&self, at: &CheckContext) -> bool {
        let is_time = match self.phase {
            CheckPhase::Release => at.phase != ReleasePhase::Bake,
            CheckPhase::BeforePromotion => at.phase == ReleasePhase::BeforePromotion,
            CheckPhase::Bake => at.phase == ReleasePhase::Bake,
        };
        is_time && at.has_traffic
    }

    fn observe(
        &mut self,
        found: &Result<Vec<Answer>, QueryError>,
        asked_ms: i64,
        at: &CheckContext,
    ) {
        // Polls are shared: the query may have been sent before this attempt, or before the check
        // started.
        if asked_ms < self.starts_at_ms(at) {
            return;
        }
        let answers = match found {
            Ok(answers) => answers,
            Err(error) => {
                let since_ms = self
                    .query_failure
                    .as_ref()
                    .map_or(asked_ms, |(since_ms, _)| *since_ms);
                self.query_failure = Some((since_ms, error.clone()));
                return;
            }
        };
        self.query_failure = None;
        // A restarted controller queries immediately. This must not count as a second failure.
        let is_early = |at_ms: i64| asked_ms < at_ms.saturating_add(millis(self.interval) / 2);
        if self.state.at_ms.is_some_and(is_early) {
            return;
        }
        let series = answers.iter().flatten();
        let values: Vec<f64> = series
            .filter_map(|series| series.samples.last())
            .map(|(_, value)| *value)
            .collect();
        let (result, why) = self.evaluate(&values);
        let is_excused = result == CheckResult::Failed && at.pods_are_young;
        let counts = result == CheckResult::Failed && !is_excused;
        self.state.failures = self.state.failures.saturating_add(u32::from(counts));
        self.state.at_ms = Some(asked_ms);
        self.state.result = Some(result);
        self.state.found = why.unwrap_or_else(|| format_values(&values));
        if is_excused {
            self.state
                .found
                .push_str(" (no failure: most canary pods are younger than warmUp)");
        }
    }

    fn evaluate(&self, values: &[f64]) -> (CheckResult, Option<String>) {
        if values.is_empty() {
            return (CheckResult::Empty, Some("nothing".to_owned()));
        }
        if values.iter().any(|value| value.is_nan()) {
            return (CheckResult::NotANumber, None);
        }
        match self.condition.evaluate(values) {
            Ok(true) => (CheckResult::Succeeded, None),
            Ok(false) => (CheckResult::Failed, None),
            Err(why) => (
                CheckResult::Unreadable,
                Some(format!("{} ({why})", format_values(values))),
            ),
        }
    }

    /// Whether the condition held at the last evaluation, and that evaluation is newer than the
    /// last weight change and the start of the phase.
    fn has_succeeded(&self, at: &CheckContext) -> bool {
        let since_ms = match self.phase {
            CheckPhase::Release => at.weight_changed_at_ms,
            CheckPhase::BeforePromotion | CheckPhase::Bake => {
                at.weight_changed_at_ms.max(at.phase_since_ms)
            }
        };
        let is_of_here = self.state.at_ms.is_some_and(|at_ms| at_ms >= since_ms);
        self.is_active(at) && is_of_here && self.state.result == Some(CheckResult::Succeeded)
    }

    fn blocking_error(&self, at: &CheckContext) -> Option<AnalysisError> {
        if let Some((since_ms, error)) = &self.query_failure
            && (!error.is_server_wide() || at.now_ms.saturating_sub(*since_ms) >= at.grace_ms)
        {
            let message = error.describe(&format!("Check {} cannot be queried", self.name));
            return Some(AnalysisError {
                code: error.code(),
                message,
            });
        }
        let code = self.state.result.and_then(CheckResult::hold_code)?;
        let message = format!(
            "Check {} found {}. This is not success.",
            self.name, self.state.found
        );
        Some(AnalysisError { code, message })
    }

    fn status(&self, at: &CheckContext) -> CheckStatus {
        let CheckState {
            failures,
            at_ms,
            result,
            found,
            ..
        } = &self.state;
        let found = result.map(|_| format!("Found {found}; it must be {}.", self.condition_text));
        let analysis_error = self
            .query_failure
            .as_ref()
            .map(|(_, error)| format!("Cannot be queried. {error}."));
        let start = self
            .pending_start(at)
            .map(|start| format!("Starts {start}."));
        let waits = || match self.phase {
            CheckPhase::Release => "Not queried yet.",
            CheckPhase::BeforePromotion => "Queried before promotion.",
            CheckPhase::Bake => "Queried after promotion.",
        };
        let signed = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        CheckStatus {
            name: self.name.clone(),
            result: result.map_or("Pending", CheckResult::label).to_owned(),
            failures: signed(*failures),
            failure_limit: signed(self.failure_limit),
            dry_run: !self.is_decisive,
            at: at_ms.and_then(|at_ms| Timestamp::from_millisecond(at_ms).ok()),
            message: analysis_error
                .filter(|_| self.is_active(at))
                .or(start)
                .or(found)
                .or_else(|| Some(waits().to_owned())),
        }
    }
}

/// Formats the first few values for display.
fn format_values(values: &[f64]) -> String {
    const MOST: usize = 4;
    let mut words: Vec<String> = values
        .iter()
        .take(MOST)
        .copied()
        .map(format_number)
        .collect();
    if values.len() > MOST {
        words.push(format!("and {} more", values.len() - MOST));
    }
    words.join(", ")
}

/// Formats a number with six significant digits, and very large or small ones with an exponent.
fn format_number(value: f64) -> String {
    let scientific = format!("{value:.5e}");
    let Some(value) = scientific
        .parse::<f64>()
        .ok()
        .filter(|value| value.is_finite())
    else {
        return scientific;
    };
    let is_plain = value == 0.0 || (1e-4..1e15).contains(&value.abs());
    if is_plain {
        value.to_string()
    } else {
        format!("{value:e}")
    }
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
        report.message = format!("{} {pending}", report.message);
        report.next_weight = None;
        report.ready_to_promote = false;
    }
    report
}

#[cfg(test)]
mod tests;
