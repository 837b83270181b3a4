//! Checks: what each has answered so far, and what that means for the release. Pure: asking is
//! somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_core::observed::AnalysisReport;
use serin_crds::analysis::{CheckPhase, CheckSpec};
use serin_crds::check::{Condition, query};
use serin_crds::status::CheckStatus;
use serin_crds::text::parse_duration;

use crate::fingerprint::fingerprint_of;
use crate::prometheus::{Answer, QueryError};
use crate::request::{JudgeRequest, Phase};
use crate::selector::Trouble;
use crate::settings::millis;

const INTERVAL: Duration = Duration::from_secs(60);

/// How one asking of a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckResult {
    /// The condition holds.
    Succeeded,
    /// It does not.
    Failed,
    /// The query found nothing: never a success.
    Empty,
    /// A value was not a number: never a success.
    NotANumber,
    /// The condition cannot be reckoned on what was found: never a success.
    Unreadable,
}

impl CheckResult {
    /// Why it holds the release, one CamelCase word; nothing where it was decided.
    const fn holds(self) -> Option<&'static str> {
        match self {
            Self::Succeeded | Self::Failed => None,
            Self::Empty => Some("CheckEmpty"),
            Self::NotANumber => Some("CheckNotANumber"),
            Self::Unreadable => Some("CheckUnreadable"),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Empty | Self::NotANumber | Self::Unreadable => "Inconclusive",
        }
    }
}

/// What a check has answered so far: kept in the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckState {
    /// Of what question.
    pub fingerprint: String,
    /// How often it has failed.
    pub failures: u32,
    /// When it was asked last, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// How that came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<CheckResult>,
    /// What was found, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub found: String,
}

/// A check at work.
#[derive(Debug)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What is asked of Prometheus.
    pub query: String,
    /// How often.
    pub interval: Duration,
    initial_delay: Duration,
    during: CheckPhase,
    decides: bool,
    failure_limit: u32,
    condition: Condition,
    condition_text: String,
    state: CheckState,
    failing: Option<(i64, QueryError)>,
}

/// Where the release stands, as far as it matters to checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub phase: Phase,
    /// Since when it has been in this phase, in milliseconds since the epoch.
    pub phase_since_ms: i64,
    /// When the weight last changed.
    pub weight_changed_at_ms: i64,
    pub has_traffic: bool,
    /// When the canary first had traffic in this attempt.
    pub traffic_since_ms: i64,
    /// Until when the pods that the canary began with count as young.
    pub warm_up_ends_ms: i64,
    /// Whether most of the canary's pods are young now.
    pub pods_are_young: bool,
    pub grace_ms: i64,
    pub now_ms: i64,
}

/// All checks of a release.
#[derive(Debug)]
pub struct Checks(Vec<Check>);

impl Checks {
    /// The checks of a spec, which go on where `stored` ends.
    ///
    /// # Errors
    /// The field that cannot be used.
    pub(crate) fn new(
        request: &JudgeRequest,
        mut stored: BTreeMap<String, CheckState>,
    ) -> Result<Self, Trouble> {
        let built_in = built_in_args(request);
        let checks = request
            .analysis
            .checks
            .iter()
            .map(|spec| Check::new(spec, &built_in, stored.remove(&spec.name)));
        checks.collect::<Result<Vec<_>, _>>().map(Self)
    }

    /// All of them, in the spec's order.
    pub fn all(&self) -> &[Check] {
        &self.0
    }

    /// What is to be persisted.
    pub(crate) fn states(&self) -> BTreeMap<String, CheckState> {
        self.0
            .iter()
            .map(|check| (check.name.clone(), check.state.clone()))
            .collect()
    }

    /// Takes in what an asking at `asked_ms` has found.
    pub(crate) fn observe(
        &mut self,
        index: usize,
        found: &Result<Vec<Answer>, QueryError>,
        asked_ms: i64,
        at: &Position,
    ) {
        if let Some(check) = self.0.get_mut(index).filter(|check| check.is_asked(at)) {
            check.observe(found, asked_ms, at);
        }
    }

    /// Whether a check is to be asked at this position.
    pub(crate) fn is_asked(&self, index: usize, at: &Position) -> bool {
        self.0.get(index).is_some_and(|check| check.is_asked(at))
    }

    /// When the next check begins that is held by its initial delay or the warm-up.
    pub(crate) fn next_begins_ms(&self, at: &Position) -> Option<i64> {
        let waiting = self
            .0
            .iter()
            .filter(|check| check.is_due(at) && !check.has_begun(at));
        waiting.map(|check| check.begins_ms(at)).min()
    }

    /// Why the release is to be rolled back: the first check that has failed more often than it
    /// may.
    pub(crate) fn breach(&self) -> Option<String> {
        let check = self
            .0
            .iter()
            .find(|check| check.decides && check.state.failures > check.failure_limit)?;
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
            "Check {name} has failed {failed}, and {tolerated}: it found {found}, which does not meet {condition_text}."
        ))
    }

    /// Why the release holds: a check that has found nothing to decide by, or cannot be asked.
    pub(crate) fn hold(&self, at: &Position) -> Option<Trouble> {
        let mut asked = self
            .0
            .iter()
            .filter(|check| check.decides && check.is_asked(at));
        asked.find_map(|check| check.trouble(at))
    }

    /// The checks that have succeeded at this position.
    pub(crate) fn succeeded(&self, at: &Position) -> BTreeSet<String> {
        let succeeded = self
            .0
            .iter()
            .filter(|check| check.decides && check.has_succeeded(at));
        succeeded.map(|check| check.name.clone()).collect()
    }

    /// The checks that this position still waits for, in words.
    pub(crate) fn pending(&self, at: &Position) -> Option<String> {
        let pending = self
            .0
            .iter()
            .filter(|check| check.decides && check.is_due(at) && !check.has_succeeded(at));
        let name = |check: &Check| match check.waiting_to_begin(at) {
            Some(begins) => format!("{} (begins {begins})", check.name),
            None => check.name.clone(),
        };
        let names: Vec<String> = pending.map(name).collect();
        (!names.is_empty())
            .then(|| format!("Not yet succeeded at this weight: {}.", names.join(", ")))
    }

    /// Whether any check is to be asked before promotion alone.
    pub(crate) fn ask_before_promotion(&self) -> bool {
        self.0
            .iter()
            .any(|check| check.decides && check.during == CheckPhase::BeforePromotion)
    }

    /// For the status.
    pub(crate) fn told(&self, at: &Position) -> Vec<CheckStatus> {
        self.0.iter().map(|check| check.told(at)).collect()
    }
}

fn built_in_args(request: &JudgeRequest) -> BTreeMap<String, String> {
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
    ) -> Result<Self, Trouble> {
        let invalid = |field: &str, why: String| {
            Trouble::spec(format!(
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
        let query = query(&spec.query, &args).map_err(|why| invalid("query", why))?;
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
        let fingerprint = fingerprint_of(&format!("{query}|{}|{:?}", spec.condition, spec.phase));
        let state = stored.filter(|stored| stored.fingerprint == fingerprint);
        Ok(Self {
            name: spec.name.clone(),
            query,
            interval,
            initial_delay,
            during: spec.phase.unwrap_or_default(),
            decides: spec.dry_run != Some(true),
            failure_limit: u32::try_from(spec.failure_limit.unwrap_or(0)).unwrap_or(0),
            condition,
            condition_text: spec.condition.clone(),
            state: state.unwrap_or(CheckState {
                fingerprint,
                ..CheckState::default()
            }),
            failing: None,
        })
    }

    /// Whether it is queried now: it is due, and has begun.
    fn is_asked(&self, at: &Position) -> bool {
        self.is_due(at) && self.has_begun(at)
    }

    fn has_begun(&self, at: &Position) -> bool {
        at.now_ms >= self.begins_ms(at)
    }

    /// When it is first queried: `initialDelay` after it became due for the first time in this
    /// attempt, and not before the warm-up of the canary's first pods ends.
    fn begins_ms(&self, at: &Position) -> i64 {
        let due_ms = match self.during {
            CheckPhase::Release => at.traffic_since_ms,
            CheckPhase::BeforePromotion | CheckPhase::Bake => {
                at.phase_since_ms.max(at.traffic_since_ms)
            }
        };
        due_ms
            .saturating_add(millis(self.initial_delay))
            .max(at.warm_up_ends_ms)
    }

    /// When and why it begins later, if it is due and has not begun.
    fn waiting_to_begin(&self, at: &Position) -> Option<String> {
        if !self.is_due(at) || self.has_begun(at) {
            return None;
        }
        let begins_ms = self.begins_ms(at);
        // Rounded up, so that it has begun at the time that is shown.
        let begins_at =
            Timestamp::from_second(begins_ms.saturating_add(999).div_euclid(1_000)).ok()?;
        let field = if begins_ms > at.warm_up_ends_ms {
            "initialDelay"
        } else {
            "warmUp"
        };
        Some(format!("at {begins_at}, by {field}"))
    }

    /// Whether it belongs to this phase, and the canary has traffic.
    fn is_due(&self, at: &Position) -> bool {
        let is_time = match self.during {
            CheckPhase::Release => at.phase != Phase::AfterPromotion,
            CheckPhase::BeforePromotion => at.phase == Phase::BeforePromotion,
            CheckPhase::Bake => at.phase == Phase::AfterPromotion,
        };
        is_time && at.has_traffic
    }

    fn observe(&mut self, found: &Result<Vec<Answer>, QueryError>, asked_ms: i64, at: &Position) {
        // Polls are shared: the query may have been sent before this attempt, or before the check
        // began.
        if asked_ms < self.begins_ms(at) {
            return;
        }
        let answers = match found {
            Ok(answers) => answers,
            Err(error) => {
                let since_ms = self
                    .failing
                    .as_ref()
                    .map_or(asked_ms, |(since_ms, _)| *since_ms);
                self.failing = Some((since_ms, error.clone()));
                return;
            }
        };
        self.failing = None;
        // A controller that has restarted asks at once: that is not one more failure of the same
        // moment.
        let is_early = |at_ms: i64| asked_ms < at_ms.saturating_add(millis(self.interval) / 2);
        if self.state.at_ms.is_some_and(is_early) {
            return;
        }
        let series = answers.iter().flatten();
        let values: Vec<f64> = series
            .filter_map(|series| series.samples.last())
            .map(|(_, value)| *value)
            .collect();
        let (result, why) = self.result(&values);
        let is_excused = result == CheckResult::Failed && at.pods_are_young;
        let counts = result == CheckResult::Failed && !is_excused;
        self.state.failures = self.state.failures.saturating_add(u32::from(counts));
        self.state.at_ms = Some(asked_ms);
        self.state.result = Some(result);
        self.state.found = why.unwrap_or_else(|| in_words(&values));
        if is_excused {
            self.state
                .found
                .push_str(" (no failure: most canary pods are younger than warmUp)");
        }
    }

    fn result(&self, values: &[f64]) -> (CheckResult, Option<String>) {
        if values.is_empty() {
            return (CheckResult::Empty, Some("nothing".to_owned()));
        }
        if values.iter().any(|value| value.is_nan()) {
            return (CheckResult::NotANumber, None);
        }
        match self.condition.holds(values) {
            Ok(true) => (CheckResult::Succeeded, None),
            Ok(false) => (CheckResult::Failed, None),
            Err(why) => (
                CheckResult::Unreadable,
                Some(format!("{} ({why})", in_words(values))),
            ),
        }
    }

    /// Whether it was asked since the weight last changed, and since it is asked at all, and its
    /// condition held.
    fn has_succeeded(&self, at: &Position) -> bool {
        let since_ms = match self.during {
            CheckPhase::Release => at.weight_changed_at_ms,
            CheckPhase::BeforePromotion | CheckPhase::Bake => {
                at.weight_changed_at_ms.max(at.phase_since_ms)
            }
        };
        let is_of_here = self.state.at_ms.is_some_and(|at_ms| at_ms >= since_ms);
        self.is_asked(at) && is_of_here && self.state.result == Some(CheckResult::Succeeded)
    }

    fn trouble(&self, at: &Position) -> Option<Trouble> {
        if let Some((since_ms, error)) = &self.failing
            && (!error.concerns_server() || at.now_ms.saturating_sub(*since_ms) >= at.grace_ms)
        {
            let message = error.told(&format!("Check {} cannot be asked", self.name));
            return Some(Trouble {
                cause: error.kind(),
                message,
            });
        }
        let cause = self.state.result.and_then(CheckResult::holds)?;
        let message = format!(
            "Check {} found {}. This is not success.",
            self.name, self.state.found
        );
        Some(Trouble { cause, message })
    }

    fn told(&self, at: &Position) -> CheckStatus {
        let CheckState {
            failures,
            at_ms,
            result,
            found,
            ..
        } = &self.state;
        let found = result.map(|_| format!("Found {found}; it must be {}.", self.condition_text));
        let trouble = self
            .failing
            .as_ref()
            .map(|(_, error)| format!("Cannot be asked. {error}."));
        let begins = self
            .waiting_to_begin(at)
            .map(|begins| format!("Begins {begins}."));
        let waits = || match self.during {
            CheckPhase::Release => "Not yet asked.",
            CheckPhase::BeforePromotion => "It is asked before promotion.",
            CheckPhase::Bake => "It is asked after promotion.",
        };
        let signed = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        CheckStatus {
            name: self.name.clone(),
            result: result.map_or("Pending", CheckResult::word).to_owned(),
            failures: signed(*failures),
            failure_limit: signed(self.failure_limit),
            dry_run: !self.decides,
            at: at_ms.and_then(|at_ms| Timestamp::from_millisecond(at_ms).ok()),
            message: trouble
                .filter(|_| self.is_asked(at))
                .or(begins)
                .or(found)
                .or_else(|| Some(waits().to_owned())),
        }
    }
}

/// The first few values, as people read them.
fn in_words(values: &[f64]) -> String {
    const MOST: usize = 4;
    let mut words: Vec<String> = values.iter().take(MOST).copied().map(rounded).collect();
    if values.len() > MOST {
        words.push(format!("and {} more", values.len() - MOST));
    }
    words.join(", ")
}

/// A number to six digits; very large and very small ones with an exponent.
fn rounded(value: f64) -> String {
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

/// What the checks make of what the objectives say: they can roll back, hold, and keep a sound
/// release from going on; they never make one sound.
pub(crate) fn weigh(judgement: AnalysisReport, checks: &Checks, at: &Position) -> AnalysisReport {
    if matches!(judgement, AnalysisReport::RollBack { .. }) {
        return judgement;
    }
    if let Some(message) = checks.breach() {
        return AnalysisReport::RollBack {
            cause: "Check".to_owned(),
            message,
        };
    }
    let (is_sound, message, fresh_since, next_weight, mut proven) = match judgement {
        AnalysisReport::Undecided {
            message,
            fresh_since,
            next_weight,
            satisfied: proven,
        } => (false, message, fresh_since, next_weight, proven),
        AnalysisReport::Sound {
            message,
            fresh_since,
            satisfied: proven,
        } => (true, message, fresh_since, None, proven),
        other => return other,
    };
    if let Some(Trouble { cause, message }) = checks.hold(at) {
        return AnalysisReport::Hold {
            cause: cause.to_owned(),
            message,
            lower_to: None,
        };
    }
    proven.requirements.checks = checks.succeeded(at);
    match checks.pending(at) {
        None if is_sound => AnalysisReport::Sound {
            message,
            fresh_since,
            satisfied: proven,
        },
        None => AnalysisReport::Undecided {
            message,
            fresh_since,
            next_weight,
            satisfied: proven,
        },
        Some(pending) => AnalysisReport::Undecided {
            message: format!("{message} {pending}"),
            fresh_since,
            next_weight: None,
            satisfied: proven,
        },
    }
}

#[cfg(test)]
mod tests;
