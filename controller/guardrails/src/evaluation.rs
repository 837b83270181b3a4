//! Evaluates all guardrails and applies the exceptions.

use jiff::{SignedDuration, Timestamp};
use serin_core::guardrail::{Finding, FindingMode, GuardrailKind};
use serin_core::hold::HoldCode;
use serin_crds::guardrails::{
    CUSTOM_PREFIX, GuardrailException, GuardrailMode, GuardrailOptions, Guardrails, parse_expiry,
};

use crate::facts::{Facts, Unknown};
use crate::guardrails;

/// Maximum number of findings of one guardrail. One more says how many were left out.
const MAX_FINDINGS: usize = 16;
/// Time before the end of an exception from which it is reported.
const ENDING_SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What the guardrails found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// The findings, in the order of the guardrails.
    pub findings: Vec<Finding>,
    /// When the result changes although no fact does.
    pub next_change: Option<Timestamp>,
}

/// Evaluates the guardrails.
///
/// `exceptions` are those of the Rollout that may be applied: whether their author had the permission
/// is decided before.
pub fn evaluate(
    guardrails: &Guardrails,
    exceptions: &[GuardrailException],
    facts: &Facts,
    now: Timestamp,
) -> Evaluation {
    let mut evaluation = Evaluation::default();
    for kind in GuardrailKind::ALL {
        if *kind == GuardrailKind::Custom {
            for custom in guardrails.custom.iter().filter(|custom| custom.is_on()) {
                let mut report = Report::new(*kind, Some(&custom.name), custom.mode(), now);
                guardrails::custom(custom, facts, &mut report);
                evaluation.add(report, exceptions, now);
            }
        } else if guardrails.is_on(*kind) {
            let mut report = Report::new(*kind, None, guardrails.mode(*kind), now);
            guardrails::built_in(*kind, guardrails, facts, &mut report);
            evaluation.add(report, exceptions, now);
        }
    }
    evaluation
}

impl Evaluation {
    /// Adds the findings of one guardrail, with the exception from it.
    fn add(&mut self, report: Report, exceptions: &[GuardrailException], now: Timestamp) {
        let next_change = report.next_change;
        let name = report.guardrail_name();
        let exception = exceptions
            .iter()
            .find(|exception| exception.guardrail == name);
        let mut findings = report.into_findings();
        if let Some(exception) = exception
            && !findings.is_empty()
        {
            self.except(&mut findings, exception, now);
        }
        self.findings.extend(findings);
        self.record_change(next_change, now);
    }

    /// Applies an exception to the findings of its guardrail.
    fn except(
        &mut self,
        findings: &mut Vec<Finding>,
        exception: &GuardrailException,
        now: Timestamp,
    ) {
        let Some(template) = findings.first().cloned() else {
            return;
        };
        let note = |code, problem: String, fix: &str| Finding {
            code,
            mode: FindingMode::Warn,
            object: format!("exception from {}", exception.guardrail).into(),
            problem: problem.into(),
            fix: fix.into(),
            expires: None,
            ..template.clone()
        };
        let end = match parse_expiry(&exception.expires) {
            Ok(end) => end,
            Err(error) => {
                findings.push(note(
                    HoldCode::GuardrailInvalid,
                    format!("it is not applied: {error}"),
                    "Correct spec.guardrailExceptions",
                ));
                return;
            }
        };
        if end <= now {
            for finding in findings {
                let problem = &finding.problem;
                finding.problem = format!("{problem} (the exception ended at {end})").into();
            }
            return;
        }
        for finding in findings.iter_mut() {
            finding.expires = Some(end);
        }
        self.record_change(Some(end), now);
        let soon = end.checked_sub(ENDING_SOON).unwrap_or(now);
        if soon > now {
            self.record_change(Some(soon), now);
            return;
        }
        findings.push(note(
            HoldCode::GuardrailExceptionEnding,
            format!("it ends at {end}, and releases are held from then on"),
            "Correct the problem before, or set a later date in spec.guardrailExceptions",
        ));
    }

    fn record_change(&mut self, at: Option<Timestamp>, now: Timestamp) {
        if let Some(at) = at.filter(|at| *at > now) {
            self.next_change = Some(self.next_change.map_or(at, |next| next.min(at)));
        }
    }
}

/// Collects the findings of one guardrail.
pub(crate) struct Report {
    kind: GuardrailKind,
    name: Option<String>,
    mode: FindingMode,
    findings: Vec<Finding>,
    left_out: usize,
    next_change: Option<Timestamp>,
    /// The time of the evaluation.
    pub now: Timestamp,
}

impl Report {
    fn new(kind: GuardrailKind, name: Option<&str>, mode: GuardrailMode, now: Timestamp) -> Self {
        Self {
            kind,
            name: name.map(ToOwned::to_owned),
            mode: match mode {
                GuardrailMode::Enforce => FindingMode::Enforce,
                GuardrailMode::Off | GuardrailMode::Warn => FindingMode::Warn,
            },
            findings: Vec::new(),
            left_out: 0,
            next_change: None,
            now,
        }
    }

    fn guardrail_name(&self) -> String {
        match &self.name {
            Some(name) => format!("{CUSTOM_PREFIX}{name}"),
            None => self.kind.as_str().to_owned(),
        }
    }

    /// Adds a finding. `problem` and `fix` are sentences without their end.
    pub fn add(
        &mut self,
        code: HoldCode,
        object: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.findings.len() >= MAX_FINDINGS {
            self.left_out += 1;
            return;
        }
        let (object, problem, fix): (String, String, String) =
            (object.into(), problem.into(), fix.into());
        self.findings.push(Finding {
            guardrail: self.kind,
            name: self.name.clone().map(Into::into),
            mode: self.mode,
            code,
            object: object.into(),
            problem: problem.into(),
            fix: fix.into(),
            expires: None,
        });
    }

    /// Adds a finding that is only reported, whatever the mode.
    pub fn warn(
        &mut self,
        code: HoldCode,
        object: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let before = self.findings.len();
        self.add(code, object, problem, fix);
        for finding in &mut self.findings[before..] {
            finding.mode = FindingMode::Warn;
        }
    }

    /// Adds that something is not known. `what` is the plural of the objects.
    pub fn unknown(&mut self, what: &str, why: &Unknown) {
        let fix = match why {
            Unknown::NotAsked => {
                "Check it where the release runs, or give the manifests of these objects".to_owned()
            }
            Unknown::NotServed => format!(
                "Install what provides the {what}, or set {} to Warn or \"Off\" in the RolloutPolicy",
                self.guardrail_name()
            ),
            Unknown::OtherVersion(_) => format!(
                "Serve one of the versions that Serin reads, or set {} to Warn or \"Off\" in the \
                 RolloutPolicy",
                self.guardrail_name()
            ),
            Unknown::Forbidden(_) => format!(
                "Grant the controller get, list and watch for the {what}: see guardrails in the \
                 values of the chart"
            ),
            Unknown::Failed(_) => "Serin reads it again. If it lasts, see its log".to_owned(),
        };
        self.add(HoldCode::GuardrailUnknown, what, why.to_string(), fix);
    }

    /// Notes when the result changes although no fact does.
    pub fn changes_at(&mut self, at: Timestamp) {
        self.next_change = Some(self.next_change.map_or(at, |next| next.min(at)));
    }

    fn into_findings(mut self) -> Vec<Finding> {
        if self.left_out > 0
            && let Some(last) = self.findings.last_mut()
        {
            let (problem, count) = (&last.problem, self.left_out);
            last.problem =
                format!("{problem} (and {count} more problems of this guardrail)").into();
        }
        self.findings
    }
}

#[cfg(test)]
mod tests;
