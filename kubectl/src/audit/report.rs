//! The result of an audit: one row for each workload, and the share that passes each guardrail.

use jiff::Timestamp;
use serde::Serialize;
use serin_core::guardrail::{Finding, GuardrailKind};
use serin_core::hold::HoldCode;
use serin_crds::guardrails::Guardrails;
use serin_guardrails::evaluate;

use super::inventory::Inventory;
use super::workload::Workload;

/// Result of a guardrail for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Outcome {
    /// The guardrail is off.
    Off,
    /// The workload meets it.
    Pass,
    /// What it depends on is not known.
    Unknown,
    /// The workload does not meet it, and an exception applies.
    Excepted,
    /// The workload does not meet it, and its mode is Warn.
    Warn,
    /// The workload does not meet it: a release would be held.
    Fail,
}

impl Outcome {
    /// The outcome in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Pass => "pass",
            Self::Unknown => "unknown",
            Self::Excepted => "excepted",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Rollout or Deployment.
    pub kind: &'static str,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Outcome of each guardrail, in their order.
    pub outcomes: Vec<RowOutcome>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Why the workload was not audited. Unset if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Outcome of one guardrail for a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowOutcome {
    /// The guardrail.
    pub guardrail: GuardrailKind,
    /// Its outcome.
    pub outcome: Outcome,
}

/// How many workloads pass a guardrail.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The guardrail.
    pub guardrail: GuardrailKind,
    /// Workloads that meet it.
    pub pass: usize,
    /// Workloads that do not, and are only reported.
    pub warn: usize,
    /// Workloads that do not.
    pub fail: usize,
    /// Workloads of which it is not known.
    pub unknown: usize,
    /// Percentage of the workloads that meet it, of those of which it is known. Unset if it is not
    /// known of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
}

/// The result of an audit.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditReport {
    /// Time of the audit.
    pub at: Timestamp,
    /// The share that passes each guardrail that is on somewhere.
    pub shares: Vec<Share>,
    /// The workloads.
    pub workloads: Vec<Row>,
    /// Policies that cannot be read.
    pub problems: Vec<String>,
}

impl AuditReport {
    /// Evaluates the guardrails of all workloads. `recommended` applies to those that no policy has
    /// guardrails for.
    pub fn new(inventory: &Inventory, recommended: &Guardrails, now: Timestamp) -> Self {
        let workloads: Vec<Row> = inventory
            .workloads
            .iter()
            .map(|workload| row(inventory, workload, recommended, now))
            .collect();
        let shares = GuardrailKind::ALL
            .iter()
            .map(|kind| share(*kind, &workloads));
        let problems = inventory.policies.iter().filter_map(|policy| {
            let reason = policy.spec.as_ref().err()?;
            Some(format!(
                "RolloutPolicy {} cannot be read: {reason}",
                policy.name
            ))
        });
        Self {
            at: now,
            shares: shares.filter(|share| share.count() > 0).collect(),
            problems: problems.collect(),
            workloads,
        }
    }

    /// Whether a workload would be held.
    pub fn has_failures(&self) -> bool {
        self.shares.iter().any(|share| share.fail > 0) || !self.problems.is_empty()
    }
}

impl Share {
    fn count(&self) -> usize {
        self.pass + self.warn + self.fail + self.unknown
    }
}

fn row(
    inventory: &Inventory,
    workload: &Workload,
    recommended: &Guardrails,
    now: Timestamp,
) -> Row {
    let problem = workload.template.as_ref().err().map(|name| {
        format!("its Deployment {name} was not found, so that its pod template is not known")
    });
    let guardrails = inventory
        .guardrails_of(workload)
        .unwrap_or_else(|| recommended.clone());
    let findings = if problem.is_some() {
        Vec::new()
    } else {
        let facts = inventory.facts_of(workload);
        evaluate(&guardrails, &workload.exceptions, &facts, now).findings
    };
    let outcomes = GuardrailKind::ALL.iter().map(|kind| RowOutcome {
        guardrail: *kind,
        outcome: match &problem {
            Some(_) if guardrails.is_on(*kind) => Outcome::Unknown,
            _ => outcome_of(*kind, &guardrails, &findings),
        },
    });
    Row {
        kind: workload.kind,
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        outcomes: outcomes.collect(),
        findings,
        problem,
    }
}

fn outcome_of(kind: GuardrailKind, guardrails: &Guardrails, findings: &[Finding]) -> Outcome {
    if !guardrails.is_on(kind) {
        return Outcome::Off;
    }
    let of_kind = findings.iter().filter(|finding| finding.guardrail == kind);
    // The notes about exceptions are no violations of their own.
    let is_note = |finding: &&Finding| finding.code != HoldCode::GuardrailExceptionEnding;
    let outcomes = of_kind.filter(is_note).map(|finding| match finding.code {
        _ if finding.expires.is_some() => Outcome::Excepted,
        HoldCode::GuardrailUnknown | HoldCode::VulnerabilityReportMissing => Outcome::Unknown,
        _ if finding.is_holding() => Outcome::Fail,
        _ => Outcome::Warn,
    });
    outcomes.max().unwrap_or(Outcome::Pass)
}

fn share(kind: GuardrailKind, rows: &[Row]) -> Share {
    let count = |wanted: &[Outcome]| {
        let outcomes = rows.iter().flat_map(|row| &row.outcomes);
        let matching = outcomes
            .filter(|outcome| outcome.guardrail == kind && wanted.contains(&outcome.outcome));
        matching.count()
    };
    let (pass, fail) = (count(&[Outcome::Pass]), count(&[Outcome::Fail]));
    let warn = count(&[Outcome::Warn, Outcome::Excepted]);
    let known = pass + warn + fail;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a number of workloads is far below 2^52"
    )]
    let percent = (known > 0).then(|| 100.0 * pass as f64 / known as f64);
    Share {
        guardrail: kind,
        pass,
        warn,
        fail,
        unknown: count(&[Outcome::Unknown]),
        percent,
    }
}
