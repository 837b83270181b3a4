//! Guardrails: a revision that does not meet them gets no pod, and no traffic beyond what it has.
//!
//! What is known before the first pod keeps a release from starting. What is known only from its
//! pods, or is found later, keeps its share from rising and its steps from completing. Traffic is
//! still lowered at any time.

use crate::context::{Context, Transition};
use crate::guardrail::{Finding, GuardrailReport};
use crate::hold::{Blocks, Hold, HoldCode};
use crate::state::{ReleaseResult, Stage, State};
use crate::units::Revision;
use crate::{spec_change, workload};

/// Holds of the guardrails, one for each code. Empty if nothing is being released.
pub(crate) fn holds(cx: &Context<'_>, state: &State) -> Vec<Hold> {
    let waits_to_start = state.current_revision != cx.observed.target_revision;
    let mut codes: Vec<HoldCode> = Vec::new();
    for finding in concerning(cx, state) {
        let applies = !waits_to_start || finding.code.blocks() == Blocks::Start;
        if applies && !codes.contains(&finding.code) {
            codes.push(finding.code);
        }
    }
    codes.into_iter().map(|code| hold(cx, code)).collect()
}

/// Whether the guardrails forbid to raise the canary's share.
pub(crate) fn forbid_traffic(cx: &Context<'_>, state: &State) -> bool {
    concerning(cx, state).next().is_some()
}

/// Why the guardrails forbid to start the release of `target`. `None` if they do not.
pub(crate) fn before_start(cx: &Context<'_>, state: &State, target: &Revision) -> Option<Hold> {
    let mut findings = cx.observed.guardrails.holding();
    let first = findings.find(|finding| finding.code.blocks() == Blocks::Start)?;
    (!is_exempt(cx, state, target)).then(|| hold(cx, first.code))
}

/// Why the revision of the spec has not started, if a guardrail is the cause.
pub(crate) fn start_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    let target = cx.observed.target_revision.as_ref()?;
    let waits_to_start = state.current_revision.as_ref() != Some(target);
    before_start(cx, state, target).filter(|_| waits_to_start && is_concerned(cx, state))
}

/// The findings that hold what is being released.
fn concerning<'a>(cx: &Context<'a>, state: &State) -> impl Iterator<Item = &'a Finding> {
    let report = is_concerned(cx, state).then_some(&cx.observed.guardrails);
    report.into_iter().flat_map(GuardrailReport::holding)
}

/// Adds an Event about what is reported and does not hold the release that starts.
pub(crate) fn report_warnings(cx: &Context<'_>, transition: &mut Transition) {
    let mut reported = cx.observed.guardrails.reported();
    let Some(first) = reported.next() else {
        return;
    };
    let message = with_count(first, reported.count());
    transition.warning("GuardrailWarning", message);
}

/// One hold for all findings with a code. It names the first one and counts the others.
fn hold(cx: &Context<'_>, code: HoldCode) -> Hold {
    let findings = cx.observed.guardrails.holding();
    let mut findings = findings.filter(|finding| finding.code == code);
    let message = match findings.next() {
        Some(first) => with_count(first, findings.count()),
        None => code.meaning().to_owned(),
    };
    Hold::new(code, message)
}

fn with_count(first: &Finding, others: usize) -> String {
    match others {
        0 => first.to_string(),
        1 => format!("{first} (and 1 more problem)"),
        _ => format!("{first} (and {others} more problems)"),
    }
}

/// Whether something is being released, or waits to be, that the findings are about.
fn is_concerned(cx: &Context<'_>, state: &State) -> bool {
    let Some(target) = cx.observed.target_revision.as_ref() else {
        return false;
    };
    if cx.observed.spec_problem.is_some() || !workload::is_settled(cx, state) {
        return false;
    }
    let waits_to_start = state.current_revision.as_ref() != Some(target);
    let is_first = state.stage == Stage::FirstDeploy;
    (waits_to_start || is_first || state.is_releasing()) && !is_exempt(cx, state, target)
}

/// Whether the guardrails do not apply to a revision: it is the stable one, or a return to one that
/// was promoted and is inside the rollback window. A way back that works must stay open.
fn is_exempt(cx: &Context<'_>, state: &State, target: &Revision) -> bool {
    let stable = state.stable_revision.as_ref();
    if stable == Some(target) {
        return true;
    }
    let was_promoted = spec_change::last_result(state, target) == Some(ReleaseResult::Promoted);
    was_promoted && spec_change::is_in_rollback_window(cx, target, stable)
}
