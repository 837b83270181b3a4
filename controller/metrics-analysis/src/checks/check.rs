//! One check: when it is queried, and what its results mean.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_core::text::{Message, excerpt};
use serin_crds::analysis::{CheckPhase, CheckSpec};
use serin_crds::literals::parse_duration;
use serin_crds::status::{CheckOutcome, CheckStatus};

use super::CheckContext;
use super::probe::ProbeOutcome;
use super::source::{CheckCondition, CheckSource, condition_text};
use crate::counter_selectors::AnalysisError;
use crate::fingerprint::fingerprint;
use crate::prometheus::{Answer, MOST_VALUES, QueryError};
use crate::request::ReleasePhase;
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
    /// The endpoint did not respond. Never counts as success.
    Unavailable,
}

impl CheckResult {
    /// Why the result holds the release. `None` if the check succeeded or failed.
    const fn hold_code(self) -> Option<HoldCode> {
        match self {
            Self::Succeeded | Self::Failed => None,
            Self::Empty => Some(HoldCode::CheckEmpty),
            Self::NotANumber => Some(HoldCode::CheckNotANumber),
            Self::Unreadable => Some(HoldCode::CheckUnreadable),
            Self::Unavailable => Some(HoldCode::CheckUnavailable),
        }
    }

    const fn outcome(self) -> CheckOutcome {
        match self {
            Self::Succeeded => CheckOutcome::Succeeded,
            Self::Failed => CheckOutcome::Failed,
            Self::Empty | Self::NotANumber | Self::Unreadable | Self::Unavailable => {
                CheckOutcome::Inconclusive
            }
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
    /// What it queries, requests or runs.
    pub source: CheckSource,
    /// Time between two evaluations.
    pub interval: Duration,
    initial_delay: Duration,
    pub(super) phase: CheckPhase,
    pub(super) is_decisive: bool,
    pub(super) failure_limit: u32,
    condition: CheckCondition,
    pub(super) condition_text: String,
    pub(super) state: CheckState,
    query_failure: Option<(i64, QueryError)>,
    /// Whether an endpoint that does not respond is a failure.
    fails_if_unreachable: bool,
    /// What its Job does now, for operators.
    running: Option<String>,
}

impl Check {
    pub(super) fn new(
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
        let (source, condition) =
            CheckSource::new(spec, &args).map_err(|(field, why)| invalid(field, why))?;
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
        let identity = source.identity();
        let fingerprint = fingerprint(&format!("{identity}|{}|{:?}", spec.condition, spec.phase));
        let http = spec.http.as_ref();
        let state = stored.filter(|stored| stored.fingerprint == fingerprint);
        Ok(Self {
            name: spec.name.clone(),
            source,
            interval,
            initial_delay,
            phase: spec.phase.unwrap_or_default(),
            is_decisive: spec.dry_run != Some(true),
            failure_limit: u32::try_from(spec.failure_limit.unwrap_or(0)).unwrap_or(0),
            condition,
            condition_text: condition_text(spec).to_owned(),
            state: state.unwrap_or(CheckState {
                fingerprint,
                ..CheckState::default()
            }),
            query_failure: None,
            fails_if_unreachable: http.is_some_and(|http| http.fail_if_unreachable == Some(true)),
            running: None,
        })
    }

    /// Whether the check is queried now: it is due and has started.
    pub(super) fn is_active(&self, at: &CheckContext) -> bool {
        self.is_due(at) && self.has_started(at)
    }

    pub(super) fn has_started(&self, at: &CheckContext) -> bool {
        at.now_ms >= self.starts_at_ms(at)
    }

    /// Time of the first query: `initialDelay` after the check first became due in this attempt,
    /// but not before the end of the warm-up of the canary's first pods, unless a position waits for
    /// the check.
    pub(super) fn starts_at_ms(&self, at: &CheckContext) -> i64 {
        let due_ms = match self.phase {
            CheckPhase::Step | CheckPhase::BeforeTraffic => {
                let since_ms = at.awaited_since_ms(&self.name).unwrap_or(i64::MAX);
                return since_ms.saturating_add(millis(self.initial_delay));
            }
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
    pub(super) fn pending_start(&self, at: &CheckContext) -> Option<String> {
        if !self.is_due(at) || self.has_started(at) {
            return None;
        }
        let begins_ms = self.starts_at_ms(at);
        // Rounded up, so that the check has started at the displayed time.
        let begins_at =
            Timestamp::from_second(begins_ms.saturating_add(999).div_euclid(1_000)).ok()?;
        let has_warm_up = !matches!(self.phase, CheckPhase::Step | CheckPhase::BeforeTraffic);
        let field = if begins_ms > at.warm_up_ends_ms || !has_warm_up {
            "initialDelay"
        } else {
            "warmUp"
        };
        Some(format!("at {begins_at} ({field})"))
    }

    /// Whether the check belongs to this phase and the canary has traffic, which a preview does not
    /// need, or whether a position waits for it.
    pub(super) fn is_due(&self, at: &CheckContext) -> bool {
        let is_time = match self.phase {
            CheckPhase::Step | CheckPhase::BeforeTraffic => {
                return at.awaited_since_ms(&self.name).is_some();
            }
            CheckPhase::Release => at.phase != ReleasePhase::Bake,
            CheckPhase::BeforePromotion => matches!(
                at.phase,
                ReleasePhase::BeforePromotion | ReleasePhase::Preview
            ),
            CheckPhase::Bake => at.phase == ReleasePhase::Bake,
        };
        is_time && (at.has_traffic || at.phase == ReleasePhase::Preview)
    }

    pub(super) fn observe(
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
        let values = last_values(answers);
        let (result, why) = self.evaluate(&values);
        let found = why.unwrap_or_else(|| format_values(&values));
        self.record(result, found, asked_ms, at);
    }

    /// Records what came of a request or a Job that was begun at `began_ms`.
    pub(super) fn observe_probe(
        &mut self,
        outcome: &ProbeOutcome,
        began_ms: i64,
        at: &CheckContext,
    ) {
        if began_ms < self.starts_at_ms(at) {
            return;
        }
        self.running = None;
        self.query_failure = None;
        let (result, found) = match outcome {
            ProbeOutcome::Refused(AnalysisError { code, message }) => {
                let (code, message) = (*code, message.clone());
                let error = QueryError::CredentialsUnavailable { code, message };
                self.query_failure = Some((began_ms, error));
                return;
            }
            ProbeOutcome::JobRunning(message) => {
                self.running = Some(message.clone());
                return;
            }
            ProbeOutcome::JobSucceeded(message) => (CheckResult::Succeeded, message.clone()),
            ProbeOutcome::JobFailed(message) => (CheckResult::Failed, message.clone()),
            ProbeOutcome::Unreachable(why) if self.fails_if_unreachable => {
                (CheckResult::Failed, format!("no response ({why})"))
            }
            ProbeOutcome::Unreachable(why) => {
                (CheckResult::Unavailable, format!("no response ({why})"))
            }
            ProbeOutcome::Response { status, body } => self.evaluate_response(*status, body),
        };
        self.record(result, found, began_ms, at);
    }

    /// Evaluates the condition on a response. A body that is not JSON is a text.
    fn evaluate_response(&self, status: u16, body: &str) -> (CheckResult, String) {
        let CheckCondition::Response(condition) = &self.condition else {
            return (
                CheckResult::Unreadable,
                "a response that nothing asked for".to_owned(),
            );
        };
        let json = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
        match condition.evaluate(status, &json) {
            Ok(true) => (CheckResult::Succeeded, format!("status {status}")),
            Ok(false) => (CheckResult::Failed, describe_response(status, body)),
            Err(why) => {
                let found = describe_response(status, body);
                (CheckResult::Unreadable, format!("{found} ({why})"))
            }
        }
    }

    /// Records a result. The failure of a Job, or at a position that waits for the check, counts
    /// however young the pods are.
    fn record(&mut self, result: CheckResult, found: String, at_ms: i64, at: &CheckContext) {
        let is_of_traffic = !matches!(self.phase, CheckPhase::Step | CheckPhase::BeforeTraffic)
            && !matches!(self.source, CheckSource::Job(_));
        let is_excused = result == CheckResult::Failed && at.pods_are_young && is_of_traffic;
        let counts = result == CheckResult::Failed && !is_excused;
        self.state.failures = self.state.failures.saturating_add(u32::from(counts));
        self.state.at_ms = Some(at_ms);
        self.state.result = Some(result);
        self.state.found = found;
        if is_excused {
            self.state
                .found
                .push_str(" (no failure: most canary pods are younger than warmUp)");
        }
    }

    fn evaluate(&self, values: &[f64]) -> (CheckResult, Option<String>) {
        let CheckCondition::Values(condition) = &self.condition else {
            return (CheckResult::Unreadable, None);
        };
        if values.is_empty() {
            return (CheckResult::Empty, Some("nothing".to_owned()));
        }
        if values.iter().any(|value| value.is_nan()) {
            return (CheckResult::NotANumber, None);
        }
        match condition.evaluate(values) {
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
    pub(super) fn has_succeeded(&self, at: &CheckContext) -> bool {
        let since_ms = match self.phase {
            CheckPhase::Step | CheckPhase::BeforeTraffic => {
                at.awaited_since_ms(&self.name).unwrap_or(i64::MAX)
            }
            CheckPhase::Release => at.weight_changed_at_ms,
            CheckPhase::BeforePromotion | CheckPhase::Bake => {
                at.weight_changed_at_ms.max(at.phase_since_ms)
            }
        };
        let is_of_here = self.state.at_ms.is_some_and(|at_ms| at_ms >= since_ms);
        self.is_active(at) && is_of_here && self.state.result == Some(CheckResult::Succeeded)
    }

    pub(super) fn blocking_error(&self, at: &CheckContext) -> Option<AnalysisError> {
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

    pub(super) fn status(&self, at: &CheckContext) -> CheckStatus {
        let CheckState {
            failures,
            at_ms,
            result,
            found,
            ..
        } = &self.state;
        let found = result.map(|_| match &self.source {
            CheckSource::Job(_) => found.clone(),
            _ => format!("Found {found}; it must be {}.", self.condition_text),
        });
        let analysis_error = self
            .query_failure
            .as_ref()
            .map(|(_, error)| match &self.source {
                CheckSource::Query(_) => format!("Cannot be queried. {error}."),
                CheckSource::Http(_) | CheckSource::Job(_) => error.to_string(),
            });
        let start = self
            .pending_start(at)
            .map(|start| format!("Starts {start}."));
        let waits = || match self.phase {
            CheckPhase::Release => "Not queried yet.",
            CheckPhase::Step => "Queried while a step waits for it.",
            CheckPhase::BeforeTraffic => "Queried before the first traffic.",
            CheckPhase::BeforePromotion => "Queried before promotion.",
            CheckPhase::Bake => "Queried after promotion.",
        };
        let signed = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        CheckStatus {
            name: self.name.clone(),
            result: result.map_or(CheckOutcome::Pending, CheckResult::outcome),
            failures: signed(*failures),
            failure_limit: signed(self.failure_limit),
            dry_run: !self.is_decisive,
            at: at_ms.and_then(|at_ms| Timestamp::from_millisecond(at_ms).ok()),
            message: analysis_error
                .or_else(|| self.running.clone())
                .filter(|_| self.is_active(at))
                .or(start)
                .or(found)
                .or_else(|| Some(waits().to_owned()))
                .map(Message::from),
        }
    }
}

/// The status and the start of the body, for display.
fn describe_response(status: u16, body: &str) -> String {
    if body.is_empty() {
        return format!("status {status} without a body");
    }
    format!("status {status} with {:?}", excerpt(body))
}

/// The last value of each series, up to one more than a condition evaluates.
fn last_values(answers: &[Answer]) -> Vec<f64> {
    let series = answers.iter().flatten();
    let samples = series.filter_map(|series| series.samples.last());
    samples.map(|(_, value)| *value).take(MOST_VALUES).collect()
}

/// Formats the first few values for display.
pub(super) fn format_values(values: &[f64]) -> String {
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
