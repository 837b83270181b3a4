//! The status conditions. The transition time of a condition changes only with its status.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serin_core::guardrail::Finding;
use serin_core::observed::{AnalysisReport, Programmed};
use serin_core::state::{Phase, Stage};
use serin_core::text::Message;
use serin_crds::status::EvidenceStatus;

use super::StatusInputs;

/// The conditions that depend on observations. All others depend on decisions only.
pub(super) const OBSERVED_CONDITIONS: [&str; 7] = [
    "Available",
    "RouteReady",
    "MetricsReady",
    "Frozen",
    "Feasible",
    "RoutedPerRequest",
    "GuardrailsPassed",
];

/// The reason of the conditions of a quarantined Rollout.
const QUARANTINED: &str = "Quarantined";

struct DesiredCondition {
    type_: &'static str,
    status: &'static str,
    reason: String,
    message: Message,
}

impl DesiredCondition {
    fn new(
        type_: &'static str,
        holds: bool,
        reason: impl Into<String>,
        message: impl Into<Message>,
    ) -> Self {
        let status = if holds { "True" } else { "False" };
        Self {
            type_,
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }

    fn unknown(
        type_: &'static str,
        reason: impl Into<String>,
        message: impl Into<Message>,
    ) -> Self {
        Self {
            type_,
            status: "Unknown",
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// All conditions. Conditions in `before` with the same status keep their transition time.
pub fn conditions(inputs: &StatusInputs<'_>, before: &[Condition]) -> Vec<Condition> {
    let mut desired = vec![
        available(inputs),
        progressing(inputs),
        paused(inputs),
        completed(inputs),
        healthy(inputs),
    ];
    desired.extend(route_ready(inputs));
    desired.extend(metrics_ready(inputs));
    desired.extend(frozen(inputs));
    desired.extend(feasible(inputs));
    desired.extend(routed_per_request(inputs));
    desired.extend(guardrails_passed(inputs, before));
    desired.push(invalid_spec(inputs.observed.spec_problem.as_deref()));
    desired.extend([ready(inputs), reconciling(inputs), stalled(inputs)]);
    with_transition_times(desired, before, inputs.observed.generation, inputs.now)
}

/// The conditions of a Rollout with an invalid spec and no active plan.
pub fn invalid_spec_conditions(
    problem: &str,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let desired = vec![
        invalid_spec(Some(problem)),
        DesiredCondition::new("Ready", false, "InvalidSpec", problem),
        DesiredCondition::new(
            "Reconciling",
            false,
            "InvalidSpec",
            "not reconciling until the spec is valid",
        ),
        DesiredCondition::new("Stalled", true, "InvalidSpec", problem),
    ];
    let untouched = untouched(&desired, before);
    with_transition_times(desired, before, generation, now)
        .into_iter()
        .chain(untouched)
        .collect()
}

/// The conditions of a Rollout whose status another version of the controller wrote.
pub fn incompatible_conditions(
    problem: &str,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    stalled_conditions("IncompatibleStatus", problem, before, generation, now)
}

/// The conditions of a quarantined Rollout.
pub fn quarantine_conditions(
    problem: &str,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    stalled_conditions(QUARANTINED, problem, before, generation, now)
}

/// Keeps the conditions that report the quarantine, if there are any.
pub fn keep_quarantine(next: &mut [Condition], before: &[Condition]) {
    for kept in before.iter().filter(|kept| kept.reason == QUARANTINED) {
        if let Some(condition) = next.iter_mut().find(|next| next.type_ == kept.type_) {
            condition.clone_from(kept);
        }
    }
}

fn stalled_conditions(
    reason: &'static str,
    problem: &str,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let desired = vec![
        DesiredCondition::new("Ready", false, reason, problem),
        DesiredCondition::new("Stalled", true, reason, problem),
    ];
    let untouched = untouched(&desired, before);
    with_transition_times(desired, before, generation, now)
        .into_iter()
        .chain(untouched)
        .collect()
}

fn untouched(desired: &[DesiredCondition], before: &[Condition]) -> Vec<Condition> {
    let is_untouched =
        |condition: &&Condition| desired.iter().all(|new| new.type_ != condition.type_);
    before.iter().filter(is_untouched).cloned().collect()
}

fn with_transition_times(
    desired: Vec<DesiredCondition>,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |new: DesiredCondition| {
        let earlier = before.iter().find(|earlier| earlier.type_ == new.type_);
        let since = earlier
            .filter(|earlier| earlier.status == new.status)
            .map(|earlier| earlier.last_transition_time.0);
        Condition {
            last_transition_time: Time(since.unwrap_or_else(|| whole_second(now))),
            message: new.message.into(),
            observed_generation: Some(generation),
            reason: new.reason,
            status: new.status.to_owned(),
            type_: new.type_.to_owned(),
        }
    };
    desired.into_iter().map(condition).collect()
}

/// Kubernetes stores condition times in whole seconds. A fraction would be lost and look like a
/// change.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn available(inputs: &StatusInputs<'_>) -> DesiredCondition {
    let desired = inputs.plan.replicas;
    let missing = inputs.plan.canary().max_unavailable.rounded_down(desired);
    let enough = inputs.counts.available >= desired.saturating_sub(missing);
    let reason = if enough {
        "MinimumReplicasAvailable"
    } else {
        "MinimumReplicasUnavailable"
    };
    DesiredCondition::new(
        "Available",
        enough,
        reason,
        format!(
            "{} of {desired} pods are available",
            inputs.counts.available
        ),
    )
}

fn is_releasing(inputs: &StatusInputs<'_>) -> bool {
    matches!(
        inputs.state.stage,
        Stage::FirstDeploy | Stage::Progressing | Stage::Promoting
    )
}

fn progressing(inputs: &StatusInputs<'_>) -> DesiredCondition {
    let message = &inputs.state.message;
    match (inputs.state.stage, &inputs.state.abort) {
        (Stage::Aborted, Some(abort)) => {
            DesiredCondition::new("Progressing", false, abort.cause.as_str(), &abort.message)
        }
        (Stage::Aborted, None) => DesiredCondition::new("Progressing", false, "Aborted", message),
        (Stage::Stable, _) => DesiredCondition::new("Progressing", false, "Completed", message),
        _ if inputs.state.pause.is_some() => {
            DesiredCondition::new("Progressing", false, "Paused", message)
        }
        (stage, _) => DesiredCondition::new("Progressing", true, format!("{stage:?}"), message),
    }
}

fn paused(inputs: &StatusInputs<'_>) -> DesiredCondition {
    match &inputs.state.pause {
        Some(pause) => DesiredCondition::new(
            "Paused",
            true,
            format!("{:?}", pause.reason),
            &inputs.state.message,
        ),
        None if inputs.plan.paused && inputs.state.phase == Phase::Paused => {
            DesiredCondition::new("Paused", true, "Spec", &inputs.state.message)
        }
        None => DesiredCondition::new("Paused", false, "NotPaused", ""),
    }
}

fn completed(inputs: &StatusInputs<'_>) -> DesiredCondition {
    let complete = inputs.state.stage == Stage::Stable;
    DesiredCondition::new(
        "Completed",
        complete,
        if complete { "Stable" } else { "NotStable" },
        "",
    )
}

fn healthy(inputs: &StatusInputs<'_>) -> DesiredCondition {
    DesiredCondition::new(
        "Healthy",
        inputs.state.phase == Phase::Healthy,
        format!("{:?}", inputs.state.phase),
        &inputs.state.message,
    )
}

fn route_ready(inputs: &StatusInputs<'_>) -> Option<DesiredCondition> {
    inputs.plan.routing()?;
    let unreadable = inputs
        .observed
        .routes
        .iter()
        .find_map(|route| route.canary_weight.as_ref().err());
    if let Some(problem) = unreadable {
        return Some(DesiredCondition::new(
            "RouteReady",
            false,
            "RouteUnusable",
            problem,
        ));
    }
    let pending = inputs
        .observed
        .routes
        .iter()
        .find_map(|route| match &route.programmed {
            Programmed::Pending(message) => Some(message),
            _ => None,
        });
    if let Some(message) = pending {
        return Some(DesiredCondition::new(
            "RouteReady",
            false,
            "NotProgrammed",
            message,
        ));
    }
    let unreported = inputs
        .observed
        .routes
        .iter()
        .any(|route| route.programmed == Programmed::Unreported);
    Some(if unreported {
        DesiredCondition::unknown(
            "RouteReady",
            "Unverified",
            "the router does not report the observed generation",
        )
    } else {
        DesiredCondition::new("RouteReady", true, "Programmed", "")
    })
}

fn metrics_ready(inputs: &StatusInputs<'_>) -> Option<DesiredCondition> {
    inputs.plan.canary().analysis.as_ref()?;
    if !matches!(inputs.state.stage, Stage::Progressing | Stage::Promoting) {
        return Some(DesiredCondition::unknown(
            "MetricsReady",
            "NothingToAnalyze",
            "",
        ));
    }
    let Some(report) = &inputs.observed.analysis else {
        return Some(DesiredCondition::unknown(
            "MetricsReady",
            "NothingToAnalyze",
            "",
        ));
    };
    Some(match report.missing_data() {
        Some(hold) => {
            DesiredCondition::new("MetricsReady", false, hold.code.as_str(), &hold.message)
        }
        None => DesiredCondition::new(
            "MetricsReady",
            true,
            "Fresh",
            measurement_notes(&inputs.evidence),
        ),
    })
}

/// Notes about how the counters are measured, for example that the samples arrive at another
/// interval than configured.
fn measurement_notes(evidence: &[EvidenceStatus]) -> String {
    let distinct: BTreeSet<&str> = evidence
        .iter()
        .filter_map(|objective| objective.note.as_deref())
        .collect();
    distinct.into_iter().collect::<Vec<_>>().join(" ")
}

/// Whether the release is frozen by the error budget, and whether the freeze was overridden.
fn frozen(inputs: &StatusInputs<'_>) -> Option<DesiredCondition> {
    inputs.plan.canary().analysis.as_ref()?;
    let releasing = matches!(inputs.state.stage, Stage::Progressing | Stage::Promoting);
    let lifted = inputs.state.freeze_override.as_ref().filter(|_| releasing);
    let report = inputs.observed.analysis.as_ref().filter(|_| releasing);
    let freeze = report.and_then(AnalysisReport::freeze);
    Some(match (freeze, lifted) {
        (_, Some(lifted)) => DesiredCondition::new("Frozen", false, "Overridden", &lifted.reason),
        (Some(freeze), None) => {
            DesiredCondition::new("Frozen", true, freeze.code.as_str(), &freeze.message)
        }
        (None, None) => DesiredCondition::new("Frozen", false, "NotFrozen", ""),
    })
}

/// Whether the observed traffic is sufficient to analyze a release in time, and the rule would not have
/// rolled back stable's own pods. `None` before traffic was observed.
fn feasible(inputs: &StatusInputs<'_>) -> Option<DesiredCondition> {
    if inputs.budgets.is_empty() {
        return None;
    }
    let messages: Vec<&str> = inputs
        .budgets
        .iter()
        .filter_map(|budget| budget.infeasible.as_deref())
        .collect();
    Some(if messages.is_empty() {
        DesiredCondition::new("Feasible", true, "Feasible", "")
    } else {
        DesiredCondition::new("Feasible", false, "NotFeasible", messages.join(" "))
    })
}

/// Why clients or connections, not requests, are assigned to a side. `None` if requests are, or
/// without an analysis.
fn routed_per_request(inputs: &StatusInputs<'_>) -> Option<DesiredCondition> {
    inputs.plan.canary().analysis.as_ref()?;
    let unit = &inputs.observed.assignment_unit;
    let reason = unit.reason()?;
    Some(DesiredCondition::new(
        "RoutedPerRequest",
        false,
        reason,
        unit.to_string(),
    ))
}

/// Whether the revision of the spec meets the guardrails. `None` if no guardrail is on.
fn guardrails_passed(inputs: &StatusInputs<'_>, before: &[Condition]) -> Option<DesiredCondition> {
    const TYPE: &str = "GuardrailsPassed";
    let report = &inputs.observed.guardrails;
    report.revision.as_ref()?;
    if !report.is_current {
        // A revision that did not pass was not released, so that only a pass is still true.
        let mut earlier = before.iter().filter(|earlier| earlier.status == "True");
        let earlier = earlier.find(|earlier| earlier.type_ == TYPE)?;
        let (reason, message) = (earlier.reason.clone(), earlier.message.clone());
        return Some(DesiredCondition::new(TYPE, true, reason, message));
    }
    let listed = |findings: &mut dyn Iterator<Item = &Finding>| {
        let lines: Vec<String> = findings
            .map(|finding| format!("{}: {finding}", finding.guardrail_name()))
            .collect();
        lines.join("; ")
    };
    let message = listed(&mut report.holding().chain(report.reported()));
    Some(match report.holding().next() {
        Some(first) if first.code.is_waiting_guardrail() => {
            DesiredCondition::unknown(TYPE, first.code.as_str(), message)
        }
        Some(first) => DesiredCondition::new(TYPE, false, first.code.as_str(), message),
        None if report.findings.is_empty() => DesiredCondition::new(TYPE, true, "Passed", ""),
        None => DesiredCondition::new(TYPE, true, "Warnings", message),
    })
}

fn invalid_spec(problem: Option<&str>) -> DesiredCondition {
    match problem {
        Some(problem) => DesiredCondition::new("InvalidSpec", true, "InvalidSpec", problem),
        None => DesiredCondition::new("InvalidSpec", false, "Valid", ""),
    }
}

fn ready(inputs: &StatusInputs<'_>) -> DesiredCondition {
    let ready = inputs.state.phase == Phase::Healthy && inputs.state.stage == Stage::Stable;
    DesiredCondition::new(
        "Ready",
        ready,
        format!("{:?}", inputs.state.phase),
        &inputs.state.message,
    )
}

fn reconciling(inputs: &StatusInputs<'_>) -> DesiredCondition {
    match &inputs.failing_effects {
        Some(failing_effects) => {
            DesiredCondition::new("Reconciling", true, "EffectFailing", failing_effects)
        }
        None if is_releasing(inputs) => DesiredCondition::new(
            "Reconciling",
            true,
            format!("{:?}", inputs.state.stage),
            &inputs.state.message,
        ),
        None => DesiredCondition::new(
            "Reconciling",
            false,
            format!("{:?}", inputs.state.stage),
            "",
        ),
    }
}

fn stalled(inputs: &StatusInputs<'_>) -> DesiredCondition {
    if let Some(problem) = &inputs.observed.spec_problem {
        return DesiredCondition::new("Stalled", true, "InvalidSpec", problem);
    }
    match (&inputs.state.abort, inputs.state.phase) {
        (Some(abort), Phase::Degraded) => {
            DesiredCondition::new("Stalled", true, abort.cause.as_str(), &abort.message)
        }
        (None, Phase::Degraded) => {
            DesiredCondition::new("Stalled", true, "Degraded", &inputs.state.message)
        }
        _ => DesiredCondition::new("Stalled", false, "NotStalled", ""),
    }
}
